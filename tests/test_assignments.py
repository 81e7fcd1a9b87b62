"""The assignments as sources: questions, references, typical mistakes, visible checks, seeds.

The real grader on whole submissions is in ``test_grader.py``.
"""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

from grading import codec, compare, course, intervals, questions, seeds

from assignments import handin, local

NAMES = questions.names()
WRONG = {n: importlib.import_module(f"assignments.wrong{n[-1]}").WRONG for n in NAMES}
EACH = [pytest.param(n, q, code, words, id=f"{n}-{q}-{k}")
        for n in NAMES for k, (q, code, words) in enumerate(WRONG[n])]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("student", ["ada", "Zoë"])
def test_the_reference_solution_is_right_for_every_student(name, student):
    assignment = questions.load(name)
    verdicts = questions.grade(assignment, student, handin.reference(assignment), local.run)
    assert {q: v.message for q, v in verdicts.items()} == dict.fromkeys(verdicts, "correct")
    assert sum(v.points for v in verdicts.values()) + sum(assignment.written.values()) == assignment.points


@pytest.mark.parametrize("name", NAMES)
def test_an_unanswered_notebook_gets_nothing_and_is_told_so(name):
    assignment = questions.load(name)
    stubs = {c.metadata["nbgrader"]["grade_id"]: c.source
             for c in course.student_notebook(assignment).cells
             if c.metadata.get("nbgrader", {}).get("solution") and c.cell_type == "code"}
    verdicts = questions.grade(assignment, "ada", stubs, local.run)
    assert all(v.points == 0 and "not answered yet" in v.message for v in verdicts.values())


@pytest.mark.parametrize("name, question, code, words", EACH)
def test_a_typical_mistake_loses_its_question_and_is_named(name, question, code, words):
    assignment = questions.load(name)
    alone = dataclasses.replace(assignment, questions={question: assignment.questions[question]})
    verdict = questions.grade(alone, "ada", {question: code}, local.run)[question]
    assert verdict.points == 0
    assert words in verdict.message, verdict.message


@pytest.mark.parametrize("name", NAMES)
def test_visible_checks_pass_on_the_solution_and_catch_a_stub(name):
    assignment = questions.load(name)
    space = {"STUDENT": "ada"}
    for cell in course.source_notebook(assignment).cells:
        if cell.cell_type == "code" and "STUDENT =" not in cell.source:
            exec(compile(cell.source, name, "exec"), space)
    for cell in course.student_notebook(assignment).cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):
            if cell.cell_type == "code":
                stub = {**space, assignment.questions[
                    cell.metadata["nbgrader"]["grade_id"].removesuffix("-test")].function: _no_answer}
                with pytest.raises((AssertionError, NotImplementedError, TypeError, ValueError)):
                    exec(cell.source, stub)


def _no_answer(*args):
    return None


@pytest.mark.parametrize("name", NAMES)
def test_no_solution_and_no_hidden_name_is_released(name, tmp_path):
    assignment = questions.load(name)
    course.write_student_version(assignment, tmp_path)
    released = "\n".join(p.read_text() for p in tmp_path.iterdir())
    assert "SOLUTION" not in released and "_hidden" not in released
    hidden = (assignment.folder / "grade.py").read_text()
    for cell in course.source_notebook(assignment).cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            for region in course.REGION.finditer(cell.source):
                lines = [x.strip() for x in region[0].splitlines()[1:-1] if len(x.strip()) > 25]
                assert not [x for x in lines if x in released]
    assert not [x for x in hidden.splitlines() if x.startswith("def _") and x in released]


@pytest.mark.parametrize("name", NAMES)
def test_points_in_the_text_are_those_of_the_questions(name):
    assignment = questions.load(name)
    text = (assignment.folder / "source.md").read_text()
    assert f"**{assignment.points} points, about " in text
    for number, question in enumerate(assignment.questions.values(), 1):
        assert f"## Question {number}: " in text
        assert f"({question.points} points" in text.split(f"## Question {number}: ")[1].split("\n")[0]


@pytest.mark.parametrize("name", NAMES)
def test_instances_differ_between_students_and_not_between_runs(name):
    public = questions.load(name).public

    def drawn(student):
        return json.dumps(codec.encode(public.instance(student)), sort_keys=True)

    assert drawn("ada") == drawn("ada")
    assert len({drawn(s) for s in ("ada", "bob", "carl", "ada ".strip() + "1")}) == 4
    with pytest.raises(ValueError, match="STUDENT"):
        public.instance("")


def test_another_course_word_gives_other_instances(monkeypatch):
    public = questions.load(NAMES[0]).public
    before = public.instance("ada")["beta"], public.instance("ada")["reward"].sum()
    monkeypatch.setattr(sys.modules["checks"], "COURSE", "our own word")
    assert (public.instance("ada")["beta"], public.instance("ada")["reward"].sum()) != before


def test_hidden_instances_depend_on_the_secret(monkeypatch):
    monkeypatch.delenv(seeds.SECRET, raising=False)
    plain = seeds.hidden_rng("a", "q", "s").random()
    assert seeds.hidden_rng("a", "q", "s").random() == plain
    monkeypatch.setenv(seeds.SECRET, "ours")
    assert seeds.hidden_rng("a", "q", "s").random() != plain
    assert seeds.stable_seed("ab", "c") != seeds.stable_seed("a", "bc")
    # The number itself: it must be the same on every machine and in every year.
    assert seeds.stable_seed("hidden", "", "a", "q", "s") == 13898796807019961023


def test_only_plain_values_cross_the_wall():
    class Yes(float):
        def __eq__(self, other):
            return True

    for smuggled in (Yes(1.0), np.array([object()]), lambda: 1, {1, 2}, 1 + 2j, np.ma.array([1.0])):
        with pytest.raises(TypeError):
            codec.encode(smuggled)
    value = {"a": [1, 2.5, True, None, "x"], "b": np.arange(6.0).reshape(2, 3), "c": np.float64(2)}
    back = codec.decode(json.loads(json.dumps(codec.encode(value))))
    assert back["a"] == value["a"] and back["c"] == 2.0
    assert np.array_equal(back["b"], value["b"])
    for forged in ({"seed": 1}, {"bandit": {}}, {"array": ["|O", [1], "AAAA"]}, {"a": 1, "b": 2}, [1]):
        with pytest.raises(ValueError):
            codec.decode(forged)


def test_agreement_needs_shape_and_value_and_the_same_kind_of_error():
    assert compare.agree([1.0, np.ones(2)], (1.0, np.ones(2)), 1e-6, 0)
    for other in (1.0, [1.0], [1.0, np.ones(3)], [1.0, np.ones(2) + 1e-3], [1.0, "x"],
                  [np.nan, np.ones(2)], ValueError("no")):
        assert not compare.agree(other, (1.0, np.ones(2)), 1e-6, 0)
    assert compare.agree(ValueError("a"), ValueError("b"), 0, 0)


@pytest.mark.parametrize("half, words", [(1.96, None), (1.0, "narrower"), (4.0, "wider")])
def test_intervals_are_judged_by_many_repetitions(half, words):
    rng = np.random.default_rng(0)
    estimates = rng.normal(2.0, 0.1, 200)
    outputs = [[m, m - half * 0.1, m + half * 0.1] for m in estimates]
    if words is None:
        intervals.judge_intervals(outputs, 2.0, 0.1)
        with pytest.raises(compare.Wrong, match="too large"):
            intervals.judge_intervals(outputs, 1.9, 0.1)
    else:
        with pytest.raises(compare.Wrong, match=words):
            intervals.judge_intervals(outputs, 2.0, 0.1)


def test_an_unknown_assignment_is_refused():
    with pytest.raises(ValueError, match="assignment9"):
        questions.load("assignment9")
