"""From outputs to a verdict: properties first, then the values, with messages that help.

A message names the property that is violated, or a known confusion, or how many hidden instances
fail and of which kind. It never prints an expected value, nor an error from which one follows.
"""

from __future__ import annotations

import numpy as np


class Wrong(Exception):
    """An answer is wrong; the text is for the student."""


def as_numbers(value, name: str = "the result") -> np.ndarray:
    """The value as an array of floats, or Wrong."""
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise Wrong(f"{name} must be a number or an array of numbers") from None
    return array


def pieces(value) -> list:
    """A tuple's parts, or the only part."""
    return list(value) if isinstance(value, (tuple, list)) else [value]


def agree(value, expected, rtol: float, atol: float) -> bool:
    """Whether shapes and values agree (all parts of a tuple)."""
    if isinstance(value, Exception) or isinstance(expected, Exception):
        return type(value).__name__ == type(expected).__name__
    mine, right = pieces(value), pieces(expected)
    if len(mine) != len(right):
        return False
    for a, b in zip(mine, right, strict=True):
        try:
            a, b = np.asarray(a, float), np.asarray(b, float)
        except (TypeError, ValueError):
            return False
        if a.shape != b.shape or not np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=False):
            return False
    return True


def same_form(value, expected, names) -> None:
    """Number of parts, shapes, finiteness."""
    mine, right = pieces(value), pieces(expected)
    if len(mine) != len(right):
        raise Wrong(f"return {len(right)} values ({', '.join(names)}): got {len(mine)}")
    for a, b, name in zip(mine, right, names, strict=False):
        a, b = as_numbers(a, name), np.asarray(b, float)
        if a.shape != b.shape:
            raise Wrong(f"{name} must have shape {b.shape} here: got {a.shape}")
        if not np.isfinite(a).all() and np.isfinite(b).all():
            raise Wrong(f"{name} has entries that are not finite")


def in_words(count: int, of: int) -> str:
    """How many hidden instances."""
    return f"all {of} hidden instances" if count == of else f"{count} of {of} hidden instances"
