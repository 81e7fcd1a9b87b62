"""Judging experiments: estimates with confidence limits, called many times at hidden seeds.

One interval says little; many show whether limits keep their level and are as narrow as they can be.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from .compare import Wrong, as_numbers, pieces


def intervals(outputs) -> np.ndarray:
    """Outputs (estimate, low, high) as an array (calls, 3), or Wrong."""
    rows = []
    for output in outputs:
        parts = pieces(output)
        if len(parts) != 3:
            raise Wrong("return three numbers: estimate, lower limit, upper limit")
        row = [as_numbers(p, n) for p, n in zip(parts, ("the estimate", "the lower limit",
                                                        "the upper limit"), strict=True)]
        if any(r.shape != () or not np.isfinite(r) for r in row):
            raise Wrong("estimate and limits must be finite single numbers")
        rows.append([float(r) for r in row])
    table = np.array(rows)
    if (table[:, 1] > table[:, 0] + 1e-12).any() or (table[:, 0] > table[:, 2] + 1e-12).any():
        raise Wrong("the estimate must lie between its limits")
    return table


def judge_intervals(outputs, truth: float, spread: float, level: float = 0.95,
                    what: str = "the mean") -> None:
    """Fail if estimates are off, or limits too wide, too narrow, or not of the level.

    Parameters
    ----------
    outputs : list
        (estimate, low, high) of independent calls.
    truth : float
        What is estimated, from a computation that is much more precise.
    spread : float
        Standard error of one estimate that an efficient experiment of that size has.
    """
    table = intervals(outputs)
    calls = len(table)
    if len(np.unique(table[:, 0])) < calls / 2:
        raise Wrong("different generators must give different estimates: draw from rng")
    error = table[:, 0].mean() - truth
    if abs(error) > 6 * max(spread, table[:, 0].std()) / np.sqrt(calls):
        side = "too large" if error > 0 else "too small"
        raise Wrong(f"over {calls} repetitions your estimates of {what} are {side} on average: "
                    "they estimate something else")
    z = stats.norm.ppf(0.5 + level / 2)
    width = np.median(table[:, 2] - table[:, 1]) / (2 * z * spread)
    if width > 1.3:
        raise Wrong("your limits are much wider than this experiment allows: is it the spread of "
                    "single runs instead of that of their mean, or runs that are compared although "
                    "they could be paired?")
    if width < 0.75:
        raise Wrong("your limits are much narrower than this experiment allows")
    hits = int(((table[:, 1] <= truth) & (truth <= table[:, 2])).sum())
    if hits < stats.binom.ppf(1e-6, calls, level - 0.03):
        raise Wrong(f"your {level:.0%} limits miss the truth far too often "
                    f"({calls - hits} of {calls} times)")
