"""What an explorer is made of: controls, panels with fixed axes, and frames of marks.

A *design* is everything a page needs to know before anything is computed. A *frame* is what the
design's Python function returns for one setting of the controls: marks in data coordinates, a
sentence, and a few numbers. The browser only draws frames; it computes nothing of the theory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

import numpy as np

ROLES = ("empirical", "bound", "predicted", "pess1", "pess2", "online", "reference", "optimum")


@dataclass(frozen=True)
class Control:
    """One control: a slider (``range``), a set of options (``choice``) or a counter (``count``).

    Parameters
    ----------
    kind : {"range", "choice", "count"}
    name : str
        Name of the argument of the frame function, and of the widget's trait.
    label, symbol : str
        Words and letter shown beside the control; ``<i>``, ``<sub>`` and ``<sup>`` are allowed.
    value : float, int or str
        Start value, to which *reset* returns.
    lo, hi : float
        Ends of a slider or counter.
    count : int
        Number of values of a slider for which a static page holds a computed frame.
    finer : int
        A live slider has this many steps between two of those values.
    scale : {"linear", "log"}
    options : tuple of (value, label)
        Of a choice.
    group : str, optional
        Controls of one group are shown together under this heading.
    """

    kind: str
    name: str
    label: str
    value: Any
    symbol: str = ""
    lo: float = 0.0
    hi: float = 1.0
    count: int = 21
    finer: int = 10
    scale: str = "linear"
    unit: str = ""
    digits: int = 3
    integer: bool = False
    options: tuple = ()
    group: str = ""

    def grid(self) -> list:
        """Values for which a static page holds a frame."""
        if self.kind == "choice":
            return [value for value, _ in self.options]
        if self.kind == "count":
            return list(range(int(self.lo), int(self.hi) + 1))
        steps = np.arange(self.count) / (self.count - 1)
        if self.scale == "log":
            values = self.lo * (self.hi / self.lo) ** steps
        else:
            values = self.lo + (self.hi - self.lo) * steps
        if self.integer:
            return [int(v) for v in np.floor(values + 0.5)]
        return [float(f"{v:.12g}") for v in values]

    def as_json(self) -> dict:
        """The control as the browser reads it."""
        out = {"kind": self.kind, "name": self.name, "label": self.label, "symbol": self.symbol,
               "value": self.value}
        if self.group:
            out["group"] = self.group
        if self.kind == "choice":
            out["options"] = [{"value": v, "label": text} for v, text in self.options]
            return out
        out.update(lo=self.lo, hi=self.hi, digits=self.digits, unit=self.unit,
                   integer=self.integer or self.kind == "count")
        if self.kind == "range":
            out.update(count=self.count, finer=self.finer, scale=self.scale, grid=self.grid())
        return out


def slider(name, label, value, lo, hi, *, symbol="", count=21, scale="linear", finer=10, unit="",
           digits=3, integer=False, group="") -> Control:
    """A slider from `lo` to `hi`; see :class:`Control`."""
    return Control("range", name, label, value, symbol=symbol, lo=lo, hi=hi, count=count,
                   finer=finer, scale=scale, unit=unit, digits=digits, integer=integer, group=group)


def choice(name, label, value, options: Mapping, *, symbol="") -> Control:
    """One of a few options, given as ``{value: label}``."""
    return Control("choice", name, label, value, symbol=symbol, options=tuple(options.items()))


def counter(name, label, value, lo, hi, *, group="") -> Control:
    """A whole number with buttons that add and remove one."""
    return Control("count", name, label, value, lo=lo, hi=hi, integer=True, group=group)


def axis(label, lo, hi, *, scale="linear", ticks=None, hidden=False, bare=False) -> dict:
    """An axis from `lo` to `hi`; ``ticks`` are values or (value, label) pairs.

    ``hidden`` leaves out line and ticks, ``bare`` only the grid lines.
    """
    out = {"label": label, "domain": [float(lo), float(hi)], "scale": scale}
    if ticks is not None:
        out["ticks"] = [[float(t[0]), t[1]] if isinstance(t, (tuple, list)) else float(t)
                        for t in ticks]
    if hidden:
        out["hidden"] = True
    if bare:
        out["bare"] = True
    return out


def panel(x: dict, y: dict, desc: str, *, aspect=0.62, equal=False, grow=1.0, **extra) -> dict:
    """A plot with axes `x` and `y`; `desc` says in words what it shows.

    `aspect` is height over width of the plot, `equal` makes one unit as long on both axes, and
    `grow` is the panel's share of the width.
    """
    return {"x": x, "y": y, "desc": desc, "aspect": aspect, "equal": equal, "grow": grow, **extra}


def key(kind: str, role: str, text: str, style: str = "") -> dict:
    """An entry of the legend."""
    return {"kind": kind, "role": role, "text": text, "style": style}


@dataclass(frozen=True)
class Frame:
    """What an explorer shows for one setting of its controls.

    Parameters
    ----------
    marks : list of list of dict
        The marks of each panel, from back to front; see :mod:`klrlhf.explore.marks`.
    parts : list of str
        Sentences with numbers: what the figure shows now. Sentences that depend on different
        controls are best kept apart (a static page stores each once).
    numbers : list of (name, value[, role])
        A few values to print large.
    values : dict
        The control values the frame belongs to, and anything a test wants to look at.
    """

    marks: list
    parts: list
    numbers: list = field(default_factory=list)
    values: dict = field(default_factory=dict)

    @property
    def say(self) -> str:
        """The sentences as one text."""
        return " ".join(self.parts)

    def as_json(self) -> dict:
        """The frame as the browser reads it (`values` stays in Python)."""
        return {"marks": self.marks, "say": list(self.parts),
                "numbers": [list(entry) for entry in self.numbers]}


@dataclass(frozen=True)
class Design:
    """Everything about an explorer but its frames.

    Parameters
    ----------
    id : str
        Short name; the root element carries it as ``data-explorer``.
    label : str
        What the explorer is, in a few words.
    controls : tuple of Control
    panels : tuple of dict
        Made by :func:`panel`.
    frame : callable
        ``frame(seed=..., **controls) -> Frame``: the one source of truth.
    legend : tuple of dict
        Made by :func:`key`.
    api : tuple of str
        Full names of the library functions behind the figure.
    layout : {"row", "stack"}
        Panels side by side where there is room, or one under the other.
    resample : bool
        Whether `seed` changes the frame (Monte Carlo).
    twin : str
        Name of a function in the browser bundle that equals `frame`, for explorers whose grid
        would be too large; empty otherwise.
    state : object
        Anything picklable that `frame` depends on beside its arguments (part of the cache key).
    """

    id: str
    label: str
    controls: tuple
    panels: tuple
    frame: Callable[..., Frame]
    legend: tuple = ()
    api: tuple = ()
    layout: str = "row"
    resample: bool = False
    twin: str = ""
    state: Any = None

    def as_json(self) -> dict:
        """The design as the browser reads it."""
        return {"id": self.id, "label": self.label,
                "controls": [c.as_json() for c in self.controls], "panels": list(self.panels),
                "legend": list(self.legend), "api": list(self.api), "layout": self.layout,
                "resample": self.resample, "twin": self.twin}

    def starts(self) -> dict:
        """Start value of every control."""
        return {c.name: c.value for c in self.controls}


SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _rounded(size: float, digits: int) -> Decimal:
    """`digits` significant digits, ties away from zero: as ``toPrecision`` in the browser."""
    return Context(prec=digits, rounding=ROUND_HALF_UP).create_decimal_from_float(size)


def number(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits, as the browser prints it."""
    if value is None or not np.isfinite(value):
        return "–" if value is None or np.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0:
        return "0"
    size = abs(float(value))
    if size >= 1e6 or size < 1e-3:
        power = math.floor(math.log10(size) + 1e-9)
        head = float(_rounded(size / 10.0**power, digits))
        text = "10" + str(power).translate(SUPERSCRIPT)
        if head != 1:
            text = f"{head:g}·{text}"
    elif size >= 1e4:
        text = f"{_rounded(size, digits):,.0f}".replace(",", "\u2009")
    else:
        text = f"{float(_rounded(size, digits)):.12g}"
    return ("−" if value < 0 else "") + text


def percent(share: float, digits: int = 2) -> str:
    """A share as a percentage; nothing short of 1 is called 100 %."""
    if 0.9995 <= share < 1:
        return "> 99.9\u202f%"
    if share >= 0.995:
        digits = 3
    return f"{number(100 * share, digits)}\u202f%"
