"""Packs the frames of a grid of control values for a static page.

A template holds what never changes. Every leaf that changes becomes a column, stored once per
combination of the controls it really depends on. Coordinates become whole numbers of a step (a
4000th of the axis, below what a screen shows), and curves their differences: small numbers that
compress well.
"""

from __future__ import annotations

import itertools
import json
import math
import re

import numpy as np

STEPS = 4000
CLOUD_STEPS = 800  # enough for a point of a cloud of more than this many
CLOUD_SIZE = 20
NUMBER = re.compile("−?[0-9][0-9.,\u2009]*(?:·10)?[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]*")
HOLE = "\u0001"


def pack_frames(design) -> dict:
    """Compute the frame of every grid point of `design` and pack them.

    Raises
    ------
    ValueError
        If two frames differ in their structure (number or kinds of marks).
    """
    axes = [c for c in design.controls if len(c.grid()) > 1]
    grids = [c.grid() for c in axes]
    shape = tuple(len(g) for g in grids)
    fixed = {c.name: c.grid()[0] for c in design.controls if len(c.grid()) == 1}
    names = [c.name for c in axes]
    frames = [design.frame(seed=0, **fixed, **dict(zip(names, point, strict=True))).as_json()
              for point in itertools.product(*grids)]
    columns: list = []
    template = {
        "marks": [[_join([f["marks"][p][m] for f in frames], columns, shape, panel)
                   for m in range(_same(len(f["marks"][p]) for f in frames))]
                  for p, panel in enumerate(design.panels)],
        "say": [_join([f["say"][k] for f in frames], columns, shape, None, "say")
                for k in range(_same(len(f["say"]) for f in frames))],
        "numbers": _join([f["numbers"] for f in frames], columns, shape, None, "numbers"),
    }
    return {"axes": names, "template": template, "columns": columns}


def _same(values):
    seen = set(values)
    if len(seen) != 1:
        raise ValueError(f"frames of one explorer differ in structure: {sorted(map(str, seen))}")
    return seen.pop()


def _join(nodes: list, columns: list, shape: tuple, panel, key: str = "", kind: str = ""):
    """The template node that stands for `nodes` (one per frame)."""
    first = nodes[0]
    if all(n is first for n in nodes):
        return first
    if isinstance(first, dict):
        keys = _same(tuple(n) for n in nodes)
        kind = first.get("kind", kind)
        return {k: _join([n[k] for n in nodes], columns, shape, panel, k, kind) for k in keys}
    if isinstance(first, list) and first and isinstance(first[0], (list, dict)):
        size = _same(len(n) for n in nodes)
        return [_join([n[i] for n in nodes], columns, shape, panel, key) for i in range(size)]
    # Frames share what they cache: the same object needs no second look.
    known = {id(n): n for n in nodes}
    written = {k: json.dumps(n) for k, n in known.items()}
    ids: dict = {}
    which = np.array([ids.setdefault(written[id(n)], len(ids)) for n in nodes]).reshape(shape)
    if len(ids) == 1:
        return first
    on = [a for a in range(len(shape))
          if (which != which.take([0], axis=a)).any()]
    corner = which[tuple(slice(None) if a in on else 0 for a in range(len(shape)))]
    values = [json.loads(s) for s in ids]
    rows = [values[k] for k in corner.ravel()]
    column = _column(rows, panel, key, kind)
    # Distinct rows once: with enough data, for instance, the ball no longer changes a cloud.
    distinct: dict = {}
    index = [distinct.setdefault(json.dumps(row), len(distinct)) for row in column["rows"]]
    if len(distinct) < 0.8 * len(index):
        column["rows"] = [json.loads(row) for row in distinct]
        column["index"] = index
    columns.append({"on": on, **column})
    return {"$": len(columns) - 1}


def _column(rows: list, panel, key: str, kind: str = "") -> dict:
    if isinstance(rows[0], str):
        texts: dict = {}
        split = [[texts.setdefault(NUMBER.sub(HOLE, row), len(texts)), *NUMBER.findall(row)]
                 for row in rows]
        return {"as": "text", "texts": list(texts), "rows": split}
    axis = None
    if panel is not None:
        axis = panel["x"] if key in ("x", "x0", "x1") else None
        axis = panel["y"] if key in ("y", "y0", "y1", "lo", "hi") else axis
    if axis is None or any(isinstance(v, str) for row in rows if isinstance(row, list)
                           for v in row):
        return {"as": "plain", "rows": rows}
    log = axis["scale"] == "log"
    lo, hi = (math.log10(v) for v in axis["domain"]) if log else axis["domain"]
    sizes = [len(row) for row in rows if isinstance(row, list)]
    steps = CLOUD_STEPS if kind == "points" and max(sizes, default=0) > CLOUD_SIZE else STEPS
    step = (hi - lo) / steps

    def whole(value):
        if value is None or (log and value <= 0):
            return None
        position = (math.log10(value) if log else value) - lo
        # far outside the axis a place no longer matters, but a near one gives a line its slope
        return int(np.clip(round(position / step), -100 * steps, 100 * steps))

    def coded(row):
        if not isinstance(row, list):
            return whole(row)
        out, last = [], 0
        for value in row:
            k = whole(value)
            out.append(None if k is None else k - last)
            last = last if k is None else k
        return out

    return {"as": "number", "log": log, "from": float(f"{lo:.10g}"), "step": float(f"{step:.8g}"),
            "rows": [coded(row) for row in rows]}
