"""What a question is: hidden inputs, a reference, properties, known mistakes, and its verdict.

Inputs go through the wall (``sandbox``); the reference and the comparison stay on this side.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import codec, sandbox
from .compare import Wrong, agree, in_words, same_form
from .seeds import hidden_rng

REPOSITORY = Path(__file__).resolve().parents[2]
ASSIGNMENTS = REPOSITORY / "book" / "teach" / "assignments"
SETUP = "import numpy as np\nfrom scipy import optimize, special, stats\n"
LIBRARY = SETUP + "import klrlhf\n"
LONGEST_ANSWER = 100_000


@dataclass(frozen=True)
class Case:
    """Inputs of one call; ``kind`` says in words what is special about them."""

    args: tuple | None
    kind: str = ""


@dataclass(frozen=True)
class Question:
    """One autograded question.

    Attributes
    ----------
    name : str
        ``q1`` ...; the notebook's answer cell is ``q1``, its test cell ``q1-test``.
    points : int
    function : str
        What the cell must define: a function, or with ``Case(None)`` a value.
    cases : callable
        ``(mine, rng) -> list of Case``; ``mine`` is the student's own instance.
    reference : callable, optional
        Expected output of a case's arguments, computed outside of the wall.
    judge : callable, optional
        ``(outputs, cases, mine) -> None``, raises ``Wrong``; replaces the comparison.
    properties : tuple of callables
        ``(output, *args)`` raise AssertionError with a message for the student.
    mistakes : tuple of (callable, str)
        Wrong references, and what to say to who made that mistake.
    names : tuple of str
        Names of the parts of the output.
    library : bool
        Whether the library may be imported.
    """

    name: str
    points: int
    function: str
    cases: Callable
    reference: Callable | None = None
    judge: Callable | None = None
    properties: tuple = ()
    mistakes: tuple = ()
    names: tuple = ("the result",)
    library: bool = False
    seconds: float = 10.0
    rtol: float = 1e-6
    atol: float = 1e-9


@dataclass(frozen=True)
class Verdict:
    """Points of one question and the words that go with them."""

    points: float
    message: str


@dataclass(frozen=True)
class Assignment:
    """An assignment: its public module, its questions, and its manually graded parts."""

    name: str
    title: str
    folder: Path
    public: object
    about: dict = field(default_factory=dict)
    questions: dict = field(default_factory=dict)
    written: dict = field(default_factory=dict)

    @property
    def points(self) -> int:
        """All points, autograded and written."""
        return sum(q.points for q in self.questions.values()) + sum(self.written.values())


def _module(path: Path, name: str):
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def names() -> list[str]:
    """Names of all assignments, in order: assignment1, assignment2 ..."""
    folders = [p.parent.name for p in ASSIGNMENTS.glob("*/grade.py")]
    return [f"assignment{f.split('-')[0]}" for f in sorted(folders)]


def load(name: str) -> Assignment:
    """The assignment of this name, with its hidden side.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = [p.parent for p in ASSIGNMENTS.glob("*/grade.py")
             if f"assignment{p.parent.name.split('-')[0]}" == name]
    if not found:
        raise ValueError(f"there is no assignment {name!r}: choose from {names()}")
    folder = found[0]
    _module(ASSIGNMENTS / "checks.py", "checks")
    public = _module(folder / f"{name}.py", name)
    hidden = _module(folder / "grade.py", f"{name}_hidden")
    return Assignment(name, hidden.TITLE, folder, public, dict(hidden.ABOUT), {q.name: q for q in hidden.QUESTIONS},
                      dict(hidden.WRITTEN))


def _task(question: Question, code: str, cases: list[Case], student: str, mine: dict) -> dict:
    calls = [{"name": question.function,
              "args": None if c.args is None else [codec.encode(a) for a in c.args]} for c in cases]
    setup = (LIBRARY if question.library else SETUP)
    return {"code": code, "setup": setup, "calls": calls, "seconds": question.seconds,
            "memory": 2 * 2**30, "blocked": [] if question.library else ["klrlhf"],
            "names": {"STUDENT": student, "mine": codec.encode(mine)}}


def grade(assignment: Assignment, student: str, answers: dict[str, str],
          runner: Callable = sandbox.run) -> dict[str, Verdict]:
    """Verdicts of all autograded questions.

    Parameters
    ----------
    assignment : Assignment
    student : str
        Under this id the answers came in; the instance is drawn from it, whatever the notebook says.
    answers : dict
        Question name -> source of the answer cell.
    runner : callable
        ``sandbox.run``, or a stand-in.

    Returns
    -------
    dict
        Question name -> Verdict.
    """
    mine = assignment.public.instance(student)
    tasks, drawn = {}, {}
    for name, question in assignment.questions.items():
        drawn[name] = question.cases(mine, hidden_rng(assignment.name, name, student))
        code = answers.get(name, "")
        if len(code) <= LONGEST_ANSWER:
            tasks[name] = _task(question, code, drawn[name], student, mine)
    results = runner(tasks)
    return {name: _verdict(question, drawn[name], results.get(name, {"error": "TooLong"}), mine)
            for name, question in assignment.questions.items()}


STOPPED = {
    "Timeout": "your code ran longer than {seconds:g} seconds: look for a loop that does not end, "
               "or for work that arrays can do",
    "Died": "your code ended the process that ran it (too much memory, or an exit)",
    "TooLarge": "your code returned far more data than asked for",
    "TooLong": "your cell is too long",
    "NotImplementedError": "not answered yet",
    "NameError": "{message}. Each question is graded alone: with the imports of the first cells and "
                 "its own answer cell, nothing else",
}


def _stopped(question: Question, result: dict) -> str:
    message = str(result.get("message", ""))[:400]
    text = STOPPED.get(str(result["error"]), "{error}: {message}")
    return text.format(seconds=question.seconds, error=result["error"], message=message)


def _verdict(question: Question, cases: list[Case], result: dict, mine: dict) -> Verdict:
    try:
        if "error" in result:
            raise Wrong(_stopped(question, result))
        raw = result["outputs"]
        if len(raw) != len(cases):
            raise Wrong("your code did not answer all calls")
        outputs = [_output(question, r) for r in raw]
        if question.judge is not None:
            for output in outputs:
                if isinstance(output, Exception):
                    raise Wrong(_raised(question, output))
            question.judge(outputs, cases, mine)
        else:
            _compare(question, outputs, cases)
    except Wrong as wrong:
        return Verdict(0.0, str(wrong))
    except Exception as error:  # a malformed result must not stop the grading of others
        return Verdict(0.0, f"your result could not be read ({type(error).__name__})")
    return Verdict(float(question.points), "correct")


class Raised(Exception):
    """An exception of the student's code, by name."""


def _output(question: Question, raw: dict):
    if "error" in raw:
        kind = type(str(raw["error"]), (Raised,), {})
        return kind(str(raw.get("message", ""))[:400])
    return codec.decode(raw["value"])


def _raised(question: Question, error: Exception) -> str:
    return _stopped(question, {"error": type(error).__name__, "message": str(error)})


def _expected(reference: Callable, case: Case):
    if case.args is None:
        return reference()
    try:
        return reference(*[a() if isinstance(a, codec.Seed) else a for a in case.args])
    except ValueError as error:
        return error


def _compare(question: Question, outputs: list, cases: list[Case]) -> None:
    expected = [_expected(question.reference, c) for c in cases]
    good = [agree(o, e, question.rtol, question.atol)
            for o, e in zip(outputs, expected, strict=True)]
    if all(good):
        return
    for wrong, hint in question.mistakes:
        with np.errstate(all="ignore"):
            mistaken = [_expected(wrong, c) for c in cases]
        if all(agree(o, m, 1e-6, 1e-9) for o, m in zip(outputs, mistaken, strict=True)):
            raise Wrong(hint)
    for output, right, case in zip(outputs, expected, cases, strict=True):
        where = f" ({case.kind})" if case.kind else ""
        if isinstance(right, Exception):
            if not isinstance(output, Exception):
                raise Wrong(f"this input should be refused with a ValueError{where}")
            continue
        if isinstance(output, Exception):
            raise Wrong(_raised(question, output) + where)
        try:
            same_form(output, right, question.names)
            for check in question.properties:
                check(output, *(case.args or ()))
        except (Wrong, AssertionError) as problem:
            raise Wrong(f"{problem}{where}") from None
    bad = [c.kind for c, ok in zip(cases, good, strict=True) if not ok]
    kinds = sorted({k for k in bad if k})
    among = f", among them: {'; '.join(kinds)}" if kinds else ""
    raise Wrong(f"the value is wrong on {in_words(len(bad), len(cases))}{among}")
