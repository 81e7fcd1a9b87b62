"""What varies: a stable seed from a student's id, the assignment and a key of the course.

Not Python's ``hash``, which changes from run to run.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np

SECRET = "KLRLHF_GRADING_SECRET"


def stable_seed(*words: object) -> int:
    """A 64-bit number that depends on the words, and on their borders, alone."""
    text = "\x1f".join(str(w) for w in words)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def hidden_rng(assignment: str, question: str, student: str) -> np.random.Generator:
    """The generator of hidden test instances.

    It depends on the environment's KLRLHF_GRADING_SECRET: without one, whoever reads this
    repository can draw the hidden instances too (though that does not give marks by itself).
    """
    secret = os.environ.get(SECRET, "")
    return np.random.default_rng(stable_seed("hidden", secret, assignment, question, student))
