"""From one source to the student version, the solution and a course directory of nbgrader.

A source is a MyST notebook. Cells carry one key: ``given`` (locked), ``answer: q1`` (the student's,
with the solution between BEGIN SOLUTION and END SOLUTION), ``check: q1`` (visible checks; the
points of q1 hang on it), ``written: q6`` (graded by hand).
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import jupytext
import nbformat

from . import questions

REGION = re.compile(r"^([ \t]*)#+ BEGIN SOLUTION.*?#+ END SOLUTION[ \t]*\n?", re.M | re.S)
STUB = "# your answer here\nraise NotImplementedError"
WRITTEN_STUB = "*Your answer here.*"
KEYS = ("given", "answer", "check", "written")
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def _marked(cell, assignment: questions.Assignment) -> None:
    """Replace our key by nbgrader's metadata."""
    found = [k for k in KEYS if k in cell.metadata]
    if not found:
        return
    if len(found) > 1:
        raise ValueError(f"{assignment.name}: a cell has the keys {found}; give one")
    key, name = found[0], str(cell.metadata[found[0]])
    mark = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False}
    if key == "given":
        mark.update(grade_id=f"given-{name}", locked=True)
    elif key == "answer":
        mark.update(grade_id=name, solution=True)
    elif key == "check":
        mark.update(grade_id=f"{name}-test", grade=True, locked=True,
                    points=assignment.questions[name].points)
    else:
        mark.update(grade_id=name, grade=True, solution=True, points=assignment.written[name])
    cell.metadata = {"nbgrader": mark}
    if key == "given" or key == "check":
        cell.metadata.update(editable=False, deletable=False)
    else:
        cell.metadata["deletable"] = False


def source_notebook(assignment: questions.Assignment):
    """The notebook with solutions and nbgrader's metadata.

    Raises
    ------
    ValueError
        If questions of the notebook and of the hidden side differ.
    """
    text = (assignment.folder / "source.md").read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="md:myst")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        _marked(cell, assignment)
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    ids = [c.metadata["nbgrader"]["grade_id"] for c in notebook.cells if "nbgrader" in c.metadata]
    wanted = [x for q in assignment.questions for x in (q, f"{q}-test")] + list(assignment.written)
    missing = sorted(set(wanted) - set(ids))
    if missing or len(ids) != len(set(ids)):
        raise ValueError(f"{assignment.name}: cells missing {missing}, or doubled ids in {ids}")
    return notebook


def student_notebook(assignment: questions.Assignment):
    """The notebook without solutions (nbgrader makes the same one in ``generate_assignment``)."""
    notebook = source_notebook(assignment)
    for cell in notebook.cells:
        if not cell.metadata.get("nbgrader", {}).get("solution"):
            continue
        if cell.cell_type == "markdown":
            cell.source = WRITTEN_STUB
        else:
            cell.source = REGION.sub(
                lambda m: "\n".join(m[1] + line for line in STUB.splitlines()) + "\n",
                cell.source).rstrip("\n")
    return notebook


def companions(assignment: questions.Assignment) -> list[Path]:
    """The public files that go with a notebook."""
    return [questions.ASSIGNMENTS / "checks.py", assignment.folder / f"{assignment.name}.py"]


def write_student_version(assignment: questions.Assignment, folder: Path) -> Path:
    """Write notebook and companions into ``folder``; returns the notebook's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{assignment.name}.ipynb"
    nbformat.write(student_notebook(assignment), path)
    for file in companions(assignment):
        shutil.copy(file, folder)
    return path


CONFIG = '''"""Written by `python -m grading course`; edit freely."""
import sys

sys.path.insert(0, {tools!r})
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "klrlhf"
c.CourseDirectory.root = {root!r}
# Answers run inside a wall (grading.sandbox), not in a notebook together with their tests.
c.Autograde.sanitize_preprocessors = [
    "grading.preprocess.Rebuild",
    "nbgrader.preprocessors.OverwriteCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Autograde.autograde_preprocessors = [
    "grading.preprocess.IsolatedGrade",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Rebuild.release = {release!r}
c.ClearSolutions.code_stub = {{"python": {stub!r}}}
c.ClearSolutions.text_stub = {written!r}
c.Exchange.root = {exchange!r}
'''


def make_course(root: Path) -> Path:
    """A course directory: settings and the source of every assignment."""
    root = Path(root).resolve()
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o700)
    for name in questions.names():
        assignment = questions.load(name)
        folder = root / "source" / name
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(source_notebook(assignment), folder / f"{name}.ipynb")
        for file in companions(assignment):
            shutil.copy(file, folder)
    (root / "exchange").mkdir(exist_ok=True)
    (root / "nbgrader_config.py").write_text(CONFIG.format(
        tools=str(questions.REPOSITORY / "tools"), root=str(root), release=str(root / "release"),
        stub=STUB, written=WRITTEN_STUB, exchange=str(root / "exchange")))
    return root
