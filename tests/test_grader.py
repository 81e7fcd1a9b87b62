"""Whole submissions through nbgrader's own commands: full marks, none, the right ones lost, no fraud.

One course directory holds all students, so that every malicious submission is graded beside honest
ones. The grading environment is .venv-grade, or the one named by KLRLHF_GRADE_PYTHON; without one
the fixture makes it, as `make grade-check` does.
"""

import importlib
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

from grading import questions, sandbox

from assignments import evil, handin

pytestmark = pytest.mark.slow
NAMES = questions.names()
WRONG = {n: importlib.import_module(f"assignments.wrong{n[-1]}").WRONG for n in NAMES}


def wrong_submissions(name: str) -> list[dict[str, tuple[str, str]]]:
    """Submission k makes the k-th mistake of every question that has one."""
    by_question: dict[str, list] = {}
    for question, code, words in WRONG[name]:
        by_question.setdefault(question, []).append((code, words))
    most = max(len(v) for v in by_question.values())
    return [{q: v[k] for q, v in by_question.items() if k < len(v)} for k in range(most)]


@pytest.fixture(scope="session")
def python():
    """Python of the grading environment."""
    given = os.environ.get("KLRLHF_GRADE_PYTHON")
    path = Path(given) if given else ROOT / ".venv-grade" / "bin" / "python"
    if not path.exists():
        venv.create(path.parents[1], with_pip=True)
        subprocess.run([path, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r",
                        ROOT / "requirements-grade.txt", "-e", ROOT], check=True, timeout=1200)
    return path


@pytest.fixture(scope="session")
def graded(python, tmp_path_factory):
    """A course in which everybody has handed in everything, released, graded and fed back."""
    root = tmp_path_factory.mktemp("course")
    subprocess.run([python, "-m", "grading", "course", root], check=True, timeout=600,
                   env={**os.environ, "PYTHONPATH": f"{ROOT / 'tools'}:{ROOT / 'lib'}"})
    logs = {}
    for name in NAMES:
        handin.nbgrader(python, root, "generate_assignment", name)
        assignment = questions.load(name)
        right = handin.reference(assignment)
        handin.hand_in(root, assignment, "reference", handin.notebook_with(assignment, right))
        handin.hand_in(root, assignment, "empty", handin.notebook_with(assignment, {}))
        for k, mistakes in enumerate(wrong_submissions(name)):
            answers = {**right, **{q: code for q, (code, _) in mistakes.items()}}
            handin.hand_in(root, assignment, f"wrong-{k}", handin.notebook_with(assignment, answers))
        if name == "assignment1":
            places = [str(ROOT), str(root)]
            for who, answers in evil.attacks(places).items():
                handin.hand_in(root, assignment, who,
                               handin.notebook_with(assignment, {**right, **answers}))
            handin.hand_in(root, assignment, "evil-tampers",
                           evil.tampered(handin.notebook_with(assignment, {"q5": right["q5"]})))
            own = handin.notebook_with(assignment, right)
            own.cells.append(new_code_cell("raise SystemExit('a cell of my own, with a figure')"))
            handin.hand_in(root, assignment, "adds-cells", own)
            handin.hand_in(root, assignment, "evil-garbage", "{this is not a notebook")
        done = handin.nbgrader(python, root, "autograde", name, check=False)
        logs[name] = done.stdout + done.stderr
    for name in NAMES:
        handin.nbgrader(python, root, "generate_feedback", name)
    handin.nbgrader(python, root, "export")
    return root, handin.marks(root), logs


def questions_of(marks: dict) -> dict:
    """The autograded questions among the cells of one submission."""
    return {c.removesuffix("-test"): s for c, s in marks.items() if c.endswith("-test")}


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_gets_full_marks(graded, name):
    _, marks, logs = graded
    full = {q.name: q.points for q in questions.load(name).questions.values()}
    assert questions_of(marks["reference", name]) == full, logs[name][-3000:]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_submission_gets_none(graded, name):
    _, marks, _ = graded
    assert set(questions_of(marks["empty", name]).values()) == {0.0}
    assert sum(s or 0 for s in marks["empty", name].values()) == 0
    # Unchanged written parts are zero without a reader; those of the reference wait for one.
    for part in questions.load(name).written:
        assert marks["empty", name][part] == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_mistakes_lose_exactly_their_questions(graded, name):
    root, marks, _ = graded
    full = {q.name: q.points for q in questions.load(name).questions.values()}
    for k, mistakes in enumerate(wrong_submissions(name)):
        assert questions_of(marks[f"wrong-{k}", name]) == {
            q: 0.0 if q in mistakes else p for q, p in full.items()}
        page = (root / "feedback" / f"wrong-{k}" / name / f"{name}.html").read_text()
        for question, (_, words) in mistakes.items():
            assert words in page, (question, words)


def test_malicious_answers_gain_nothing_and_harm_nobody(graded):
    _, marks, logs = graded
    full = {q.name: q.points for q in questions.load("assignment1").questions.values()}
    for who, answers in evil.attacks([]).items():
        expected = {q: 0.0 if q in answers else p for q, p in full.items()}
        assert questions_of(marks[who, "assignment1"]) == expected, (who, logs["assignment1"][-3000:])
    assert (ROOT / "book" / "teach" / "assignments").is_dir()


def test_tampering_with_cells_changes_nothing(graded):
    root, marks, _ = graded
    # Only q5 was answered; tests were deleted, rewritten, unlocked, doubled, and points raised.
    assert questions_of(marks["evil-tampers", "assignment1"]) == {
        "q1": 0.0, "q2": 0.0, "q3": 0.0, "q4": 0.0, "q5": 4.0}


def test_cells_of_their_own_are_shown_and_not_run(graded):
    root, marks, _ = graded
    full = {q.name: q.points for q in questions.load("assignment1").questions.values()}
    assert questions_of(marks["adds-cells", "assignment1"]) == full
    page = (root / "feedback" / "adds-cells" / "assignment1" / "assignment1.html").read_text()
    assert "a cell of my own, with a figure" in page


def test_an_unreadable_notebook_is_reported_and_others_are_graded(graded):
    _, marks, logs = graded
    assert "evil-garbage" in logs["assignment1"]
    assert not any(s for s in marks.get(("evil-garbage", "assignment1"), {}).values())


def test_hidden_files_cannot_be_read(graded):
    if sandbox.level() != "full":
        pytest.skip(f"the wall of this machine is '{sandbox.level()}': files are not hidden")
    root, _, _ = graded
    page = (root / "feedback" / "evil-reads" / "assignment1" / "assignment1.html").read_text()
    assert "0 points: RuntimeError: nothing to steal" in page
    assert "RuntimeError: I have found" not in page


def test_grades_are_exported_with_the_written_parts_open(graded):
    root, _, _ = graded
    rows = [r.split(",") for r in (root / "grades.csv").read_text().splitlines()]
    head = rows[0]
    for row in rows[1:]:
        record = dict(zip(head, row, strict=True))
        assignment = questions.load(record["assignment"])
        assert float(record["max_score"]) == assignment.points
        if record["student_id"] == "reference":
            written = sum(assignment.written.values())
            assert float(record["raw_score"]) == assignment.points - written
