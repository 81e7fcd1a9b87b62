"""Runs answers in this very process: quick, for tests of the comparison, with code that we wrote."""

from __future__ import annotations

import sys

from grading import questions

sys.path.insert(0, str(questions.REPOSITORY / "tools" / "grading"))
import launcher


def run(tasks: dict) -> dict:
    """Results of tasks without a wall; the library stays importable."""
    return {name: launcher.answer({**task, "blocked": []}) for name, task in tasks.items()}
