"""Handing in: notebooks with given answers, and nbgrader's own commands on a course directory."""

from __future__ import annotations

import copy
import os
import sqlite3
import subprocess
from pathlib import Path

import nbformat
from grading import course, questions


def reference(assignment) -> dict[str, str]:
    """Question -> the solution's cell."""
    return {c.metadata["nbgrader"]["grade_id"]: c.source
            for c in course.source_notebook(assignment).cells
            if c.metadata.get("nbgrader", {}).get("solution") and c.cell_type == "code"}


def notebook_with(assignment, answers: dict[str, str]):
    """The student version with these answers in it; others stay as released."""
    notebook = copy.deepcopy(course.student_notebook(assignment))
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        if name in answers:
            cell.source = answers[name]
    return notebook


def hand_in(root: Path, assignment, student: str, notebook) -> None:
    """Put a notebook where nbgrader collects it."""
    folder = root / "submitted" / student / assignment.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{assignment.name}.ipynb"
    if isinstance(notebook, str):
        path.write_text(notebook)
    else:
        nbformat.write(notebook, path)


def nbgrader(python: Path, root: Path, *command: str, check: bool = True):
    """Run one of nbgrader's commands in the course directory, as a lecturer does."""
    repository = questions.REPOSITORY
    home = root / "home"
    home.mkdir(exist_ok=True)
    environment = {
        **os.environ, "HOME": str(home), "PATH": f"{python.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(repository / "lib"), "JUPYTER_NO_CONFIG": "1",
    }
    done = subprocess.run([str(python), "-m", "nbgrader", *command], cwd=root, env=environment,
                          capture_output=True, text=True, timeout=1800)
    if check and done.returncode:
        raise AssertionError(f"nbgrader {' '.join(command)}:\n{done.stdout}\n{done.stderr}"[-6000:])
    return done


MARKS = """
select student.id, assignment.name, base_cell.name, grade.auto_score, grade.manual_score,
       grade.needs_manual_grade, grade_cells.max_score
from grade join submitted_notebook on grade.notebook_id = submitted_notebook.id
join submitted_assignment on submitted_notebook.assignment_id = submitted_assignment.id
join student on submitted_assignment.student_id = student.id
join assignment on submitted_assignment.assignment_id = assignment.id
join base_cell on grade.cell_id = base_cell.id
join grade_cells on grade_cells.id = base_cell.id
"""


def marks(root: Path) -> dict[tuple[str, str], dict[str, float | None]]:
    """What the gradebook says: (student, assignment) -> cell -> automatic score."""
    with sqlite3.connect(root / "gradebook.db") as db:
        table: dict = {}
        for student, assignment, cell, score, *_ in db.execute(MARKS):
            table.setdefault((student, assignment), {})[cell] = score
    return table
