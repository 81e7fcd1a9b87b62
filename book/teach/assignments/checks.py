"""Visible checks that all assignments share: they name a violated property, never an answer."""

from __future__ import annotations

import hashlib

import numpy as np

# A lecturer may change this word: every student then gets another instance than on the site.
COURSE = "public"


def draw(student: str, assignment: str) -> np.random.Generator:
    """The generator behind a student's own instance: the same on every machine."""
    if not isinstance(student, str) or not student.strip():
        raise ValueError("STUDENT must be the id under which you hand in, as a string")
    text = "\x1f".join((COURSE, assignment, student.strip()))
    return np.random.default_rng(
        int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def numbers(value, shape=None, name="the result") -> np.ndarray:
    """Check that a value is finite numbers, of a shape."""
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise AssertionError(f"{name} must be a number or an array of numbers: "
                             f"got {type(value).__name__}") from None
    if shape is not None:
        assert array.shape == tuple(shape), f"{name} must have shape {tuple(shape)}: got {array.shape}"
    assert np.isfinite(array).all(), f"{name} has entries that are not finite"
    return array


def policy(value, shape=None, name="your policy") -> np.ndarray:
    """Check that rows are probabilities."""
    array = numbers(value, shape, name)
    assert (array >= 0).all(), f"{name} has a negative probability: {array.min():.3g}"
    total = np.atleast_1d(array.sum(axis=-1))
    worst = int(np.abs(total - 1).argmax())
    assert abs(total.flat[worst] - 1) < 1e-8, (
        f"{name} does not sum to one in context {worst}: the sum is {total.flat[worst]:.4g}")
    return array


def nonnegative(value, name="the result", slack=1e-12) -> np.ndarray:
    """Check that nothing is negative."""
    array = numbers(value, name=name)
    assert (array >= -slack).all(), f"{name} cannot be negative: got {array.min():.3g}"
    return array


def near(value, expected, name, rtol=1e-6, atol=1e-9) -> None:
    """Compare with a value that the question itself gives."""
    assert np.allclose(value, expected, rtol=rtol, atol=atol), (
        f"{name} should be {expected}: got {value}")


def passed(question: str) -> None:
    """What a visible check says at its end."""
    print(f"{question}: the visible checks pass. The marks come from others, on other instances.")
