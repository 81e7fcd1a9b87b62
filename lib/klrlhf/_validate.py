"""Checks of hypotheses.

Every public function calls these before it computes, so that bad input raises a ``ValueError``
that names the violated hypothesis and the offending entry, and never becomes a NaN.
What lives here: checks of arrays and scalars that several modules share.
What does not: checks that only one class needs (they stay beside that class).
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

POLICY_TOLERANCE = 1e-9
# Rewards, features, parameters, beta ... beyond these sizes are refused: products and squares of
# numbers within them can neither overflow nor vanish.
LARGEST = 1e50
SMALLEST = 1e-50
MOST_COMPARISONS = 10**15


def _where(index: tuple[int, ...], names: tuple[str, ...]) -> str:
    """Name an offending entry: ``replicate (3,), context 2, action 0``."""
    tail = index[len(index) - len(names):] if names else ()
    head = tuple(int(i) for i in index[: len(index) - len(names)])
    words = [f"{name} {int(i)}" for name, i in zip(names, tail, strict=True)]
    if head:
        words.insert(0, f"replicate {head[0] if len(head) == 1 else head}")
    return ", ".join(words) if words else "the value"


def _first(bad: np.ndarray) -> tuple[int, ...]:
    return tuple(np.argwhere(bad)[0])


def as_float(values, name: str) -> np.ndarray:
    """A float array; strings, ragged lists and complex numbers are refused."""
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        raise ValueError(f"{name} must be an array of real numbers: it has masked entries")
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O":
            # Fractions and whole numbers beyond 64 bits become floats; text that reads like a
            # number does not.
            if any(isinstance(entry, (str, bytes)) for entry in array.flat):
                raise TypeError
        elif array.dtype.kind not in "biuf":
            raise TypeError
        with np.errstate(over="ignore"):
            return array.astype(float, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be an array of real numbers") from error


def finite(
    values, name: str, axes: tuple[str, ...] = (), *, largest: float = LARGEST
) -> np.ndarray:
    """A float array without NaN or infinity, and of size at most ``largest``."""
    array = as_float(values, name)
    if array.ndim < len(axes):
        raise ValueError(
            f"{name} must have at least {len(axes)} axes ({', '.join(axes)}): "
            f"got shape {array.shape}"
        )
    for axis, axis_name in zip(array.shape[array.ndim - len(axes):], axes, strict=True):
        if axis == 0:
            raise ValueError(f"{name} must not be empty: it has no {axis_name}")
    # NaN compares false, so one pass finds all three kinds of bad entry.
    bad = ~(np.abs(array) <= min(largest, np.finfo(float).max))
    if bad.any():
        index = _first(bad)
        rule = f"at most {largest:g} in size" if np.isfinite(array[index]) else "finite"
        raise ValueError(f"{name} must be {rule}: {_where(index, axes)} has {array[index]}")
    return array


def _refuse(name: str, rule: str, array: np.ndarray, bad: np.ndarray) -> None:
    """Raise if any entry of an array of numbers (replicates only) is bad."""
    if bad.any():
        index = _first(bad)
        entry = f"{_where(index, ())} has {array[index]}" if array.ndim else f"got {array}"
        raise ValueError(f"{name} must be {rule}: {entry}")


def positive(values, name: str, *, smallest: float = SMALLEST) -> np.ndarray:
    """An array of numbers > 0, neither huge nor vanishing."""
    array = finite(values, name)
    _refuse(name, "positive", array, array <= 0)
    _refuse(name, f"at least {smallest:g}", array, array < smallest)
    return array


def nonnegative(values, name: str, *, largest: float = LARGEST) -> np.ndarray:
    """An array of numbers >= 0."""
    array = finite(values, name, largest=largest)
    _refuse(name, "nonnegative", array, array < 0)
    return array


def ridge(values, name: str = "reg") -> np.ndarray:
    """An array of numbers that are 0 or positive, the latter not vanishing."""
    array = nonnegative(values, name)
    _refuse(name, f"0 or at least {SMALLEST:g}", array, (array > 0) & (array < SMALLEST))
    return array


def number(array: np.ndarray, name: str) -> float:
    """The value of an array that must hold one number."""
    if array.ndim:
        raise ValueError(f"{name} must be a single number: got shape {array.shape}")
    return float(array)


def probability_level(delta, name: str = "delta") -> np.ndarray:
    """A failure probability strictly between 0 and 1."""
    array = finite(delta, name)
    bad = (array <= 0) | (array >= 1)
    if bad.any():
        value = array[_first(bad)] if array.ndim else array
        raise ValueError(f"{name} must lie strictly between 0 and 1: got {value}")
    return array


def count(n, name: str = "n", *, largest: int = MOST_COMPARISONS) -> int:
    """A whole number from 0 to ``largest``."""
    array = finite(n, name, largest=np.inf)
    if array.ndim or array != np.floor(array):
        raise ValueError(f"{name} must be a whole number: got {n}")
    if array < 0:
        raise ValueError(f"{name} must be nonnegative: got {n}")
    if array > largest:
        raise ValueError(f"{name} must be at most {largest:g}: got {n}")
    return int(n)


def size(n, name: str, least: int = 1, most: int = 10**9) -> int:
    """A number of contexts, actions or features."""
    whole = count(n, name, largest=most)
    if whole < least:
        raise ValueError(f"{name} must be at least {least}: got {whole}")
    return whole


def distribution(
    values, name: str, axes: tuple[str, ...], *, full_support: bool = False
) -> np.ndarray:
    """Probabilities along the last axis: nonnegative, summing to one to 1e-9."""
    array = finite(values, name, axes)
    bad = array < 0
    if bad.any():
        index = _first(bad)
        raise ValueError(
            f"{name} must be nonnegative: {_where(index, axes)} has probability {array[index]}"
        )
    if full_support and (array == 0).any():
        index = _first(array == 0)
        raise ValueError(f"{name} must have full support: {_where(index, axes)} has probability 0")
    total = array.sum(axis=-1)
    bad = np.abs(total - 1.0) > POLICY_TOLERANCE
    if np.any(bad):
        index = _first(np.atleast_1d(bad)) if total.ndim else ()
        where = _where(index, axes[:-1]) if total.ndim else "the distribution"
        raise ValueError(f"{name} must sum to one: {where} sums to {float(total[index])!r}")
    return array


def policy(values, name: str = "policy", *, full_support: bool = False) -> np.ndarray:
    """A policy array ``(..., S, K)``."""
    return distribution(values, name, ("context", "action"), full_support=full_support)


def reference(values, name: str = "pi0") -> np.ndarray:
    """A reference policy ``(..., S, K)`` with full support."""
    return policy(values, name, full_support=True)


def prompts(values, name: str = "d0") -> np.ndarray:
    """A prompt distribution ``(..., S)``."""
    return distribution(values, name, ("context",))


def log_policy(values, name: str = "log_policy") -> np.ndarray:
    """Finite normalized log-probabilities (..., S, K): every action keeps some mass."""
    array = finite(values, name, ("context", "action"))
    total = logsumexp(array, axis=-1)
    bad = np.abs(total) > POLICY_TOLERANCE
    if bad.any():
        index = _first(bad)
        raise ValueError(
            f"{name} must be normalized: {_where(index, ('context',))} sums to "
            f"{float(np.exp(total[index]))!r}"
        )
    return array


def rewards(values, name: str = "reward") -> np.ndarray:
    """A finite reward array ``(..., S, K)``."""
    return finite(values, name, ("context", "action"))


def same_trailing(name_a: str, a: np.ndarray, name_b: str, b: np.ndarray, axes: int) -> None:
    """The last ``axes`` axes agree exactly and the leading axes broadcast."""
    if a.shape[a.ndim - axes:] != b.shape[b.ndim - axes:]:
        raise ValueError(
            f"{name_a} and {name_b} must agree in their last {axes} axes: "
            f"shapes {a.shape} and {b.shape}"
        )
    broadcast(name_a, a.shape[: a.ndim - axes], name_b, b.shape[: b.ndim - axes])


def broadcast(name_a: str, a: tuple[int, ...], name_b: str, b: tuple[int, ...]) -> tuple[int, ...]:
    """The leading (replicate) axes broadcast against each other."""
    try:
        return np.broadcast_shapes(a, b)
    except ValueError as error:
        raise ValueError(
            f"the leading axes of {name_a} and {name_b} must broadcast: {a} and {b}"
        ) from error


def generator(rng, name: str = "rng") -> np.random.Generator:
    """An explicit ``numpy.random.Generator``, or an integer seed for one."""
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool) and rng >= 0:
        return np.random.default_rng(int(rng))
    raise ValueError(f"{name} must be a numpy.random.Generator or a seed >= 0: got {rng!r}")
