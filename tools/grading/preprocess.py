"""The steps of nbgrader's autograde that replace the execution of a student's notebook.

``Rebuild`` takes from a submission the sources of the answer cells, and cells that the student added,
so that tests that were deleted, doubled, unlocked or rewritten do not matter. ``IsolatedGrade`` runs the answers
inside the wall and writes verdicts as the outputs of the test cells, where nbgrader's own
``SaveAutoGrades`` finds them.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from nbgrader import utils
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Unicode

from . import questions

KEPT_OUTPUTS = ("image/png", "text/plain")
LARGEST_OUTPUT = 3_000_000


def _grade_id(cell) -> str | None:
    found = cell.get("metadata", {}).get("nbgrader", {})
    return found.get("grade_id") if isinstance(found, dict) else None


def _figures(cell) -> list:
    """Pictures and text that the student's own run left: for readers, never for marks."""
    kept = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        data = {k: data[k] for k in KEPT_OUTPUTS
                if isinstance(data.get(k), str) and len(data[k]) < LARGEST_OUTPUT}
        if output.get("output_type") in ("display_data", "execute_result") and data:
            kept.append(new_output("display_data", data=data))
    return kept[:10]


def _own_cells(nb, fresh) -> dict[str, list]:
    """Cells that the student added, by the marked cell before them: for readers, never run."""
    released = {c.source.strip() for c in fresh.cells}
    own, before = {}, ""
    for cell in nb.cells:
        name, source = _grade_id(cell), cell.get("source", "")
        if isinstance(name, str):
            before = name
        elif isinstance(source, str) and source.strip() and source.strip() not in released:
            text = source[:50_000]
            if cell.get("cell_type") == "code":
                kept = new_code_cell(text, outputs=_figures(cell))
            else:
                kept = new_markdown_cell(text)
            own.setdefault(before, []).append(kept)
    return own


class Rebuild(NbGraderPreprocessor):
    """The released notebook with the student's answers, and other cells of theirs, in it."""

    release = Unicode("", help="Directory of the released assignments.").tag(config=True)

    def preprocess(self, nb, resources):
        about = resources["nbgrader"]
        path = Path(self.release, about["assignment"], f"{about['notebook']}.ipynb")
        fresh = nbformat.read(path, as_version=4)
        given = {}
        for cell in nb.cells:
            name = _grade_id(cell)
            if isinstance(name, str) and name not in given:
                given[name] = cell
        for cell in fresh.cells:
            name = _grade_id(cell)
            if name in given and utils.is_solution(cell):
                source = given[name].get("source", "")
                cell.source = source if isinstance(source, str) else ""
                if cell.cell_type == "code":
                    cell.outputs = _figures(given[name])
        own = _own_cells(nb, fresh)
        cells = own.pop("", [])
        for cell in fresh.cells:
            cells += [cell, *own.pop(_grade_id(cell), [])]
        fresh.cells = cells + [c for left in own.values() for c in left]
        return fresh, resources


class IsolatedGrade(NbGraderPreprocessor):
    """Verdicts of ``questions.grade`` as outputs of the test cells."""

    def preprocess(self, nb, resources):
        about = resources["nbgrader"]
        assignment = questions.load(about["assignment"])
        answers = {_grade_id(c): c.source for c in nb.cells
                   if utils.is_solution(c) and c.cell_type == "code"}
        verdicts = questions.grade(assignment, about["student"], answers)
        for cell in nb.cells:
            name = _grade_id(cell) or ""
            if not name.endswith("-test") or not utils.is_grade(cell):
                continue
            verdict = verdicts[name.removesuffix("-test")]
            if verdict.points:
                text = f"{verdict.message}: {verdict.points:g} points\n"
                cell.outputs = [new_output("stream", name="stdout", text=text)]
            else:
                cell.outputs = [new_output("error", ename="Graded", evalue=verdict.message,
                                           traceback=[f"0 points: {verdict.message}"])]
            self.log.info("%s %s: %s", about["student"], name, verdict.message)
        return nb, resources
