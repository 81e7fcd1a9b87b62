"""Plain values as JSON, in both directions: numbers, strings, lists, dicts, arrays.

The receiving side builds numbers and arrays only, so that an answer cannot smuggle an object in
(one whose ``==`` is always true, say). Inputs may also be the library's instances and data.
"""

from __future__ import annotations

import base64

import numpy as np

MOST_ENTRIES = 2_000_000
PLAIN = (bool, int, float, str)


def encode(value):
    """A JSON form of a plain value; raises TypeError for anything else.

    Types are compared exactly: a subclass may lie about what it is.
    """
    kind = type(value)
    if value is None or kind in PLAIN:
        if kind is str and len(value) > 10_000:
            raise TypeError("a string is too long")
        return value
    if isinstance(value, np.generic):
        return encode(value.item())
    if kind is np.ndarray:
        if value.dtype.kind not in "biuf":
            raise TypeError(f"an array of {value.dtype} is not an array of numbers")
        if value.size > MOST_ENTRIES:
            raise TypeError(f"an array of {value.size} numbers is too large")
        dtype = {"b": "?", "i": "<i8", "u": "<i8", "f": "<f8"}[value.dtype.kind]
        data = np.ascontiguousarray(value.astype(dtype))
        return {"array": [dtype, list(value.shape), base64.b64encode(data.tobytes()).decode()]}
    if kind in (list, tuple) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return {"list": [encode(v) for v in value]}
    if kind is dict:
        return {"dict": {str(k): encode(v) for k, v in value.items()}}
    if kind is np.random.Generator:
        raise TypeError("pass a seed, as Seed(number)")
    if kind is Seed:
        return {"seed": value.number}
    if kind.__name__ == "Bandit" and kind.__module__ == "klrlhf.bandit":
        fields = {n: getattr(value, n) for n in ("d0", "pi0", "phi", "theta", "beta", "B")}
        return {"bandit": encode(fields)}
    if kind.__name__ == "Comparisons" and kind.__module__ == "klrlhf.preferences":
        fields = [value.pairs, value.z, value.counts, value.wins]
        return {"comparisons": encode(fields)}
    raise TypeError(f"a {kind.__name__} is not a number, a string, an array, a list or a dict")


def decode(value, trusted: bool = False):
    """The value behind its JSON form; generators and library objects only if ``trusted``."""
    if value is None or type(value) in PLAIN:
        return value
    if type(value) is not dict or len(value) != 1:
        raise ValueError("malformed value")
    (kind, inner), = value.items()
    if kind == "array":
        dtype, shape, data = inner
        if dtype not in ("?", "<i8", "<f8"):
            raise ValueError("malformed array")
        return np.frombuffer(base64.b64decode(data), dtype=dtype).reshape(shape).copy()
    if kind == "list":
        return [decode(v, trusted) for v in inner]
    if kind == "dict":
        return {str(k): decode(v, trusted) for k, v in inner.items()}
    if trusted and kind == "seed":
        return np.random.default_rng(inner)
    if trusted and kind == "bandit":
        from klrlhf import Bandit

        return Bandit(**decode(inner))
    if trusted and kind == "comparisons":
        from klrlhf import Comparisons

        return Comparisons(*decode(inner))
    raise ValueError("malformed value")


class Seed:
    """Stands for ``numpy.random.default_rng(number)`` among the inputs of a question."""

    def __init__(self, number: int):
        self.number = int(number)

    def __call__(self):
        return np.random.default_rng(self.number)
