"""Interleaved timing: contenders take turns, so that a slow moment of the machine hits them all.

Times are CPU times of this process, which runs on one thread: other programs on the machine then
disturb the caches but not the clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def medians(contenders: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each contender over ``repeats`` rounds, after one untimed round.

    Parameters
    ----------
    contenders : mapping of str to callable
        What to run, by name.
    repeats : int
        Timed rounds, at least 1.

    Returns
    -------
    dict of str to float
    """
    for run in contenders.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show_time(seconds: float) -> str:
    """Seconds with a unit and three digits."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
