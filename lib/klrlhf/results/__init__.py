"""Checked results: one object per numbered statement of the book.

What lives here: the registry (``registry``), random and extreme instances (``instances``), and the
checks in files that mirror the book's parts (``part1_*``, ``part2_*``).
``run`` executes them; ``python -m klrlhf.results`` prints the table and writes the records.
"""

from .registry import REGISTRY, Check, Result, all_results, result, run, source_digest

__all__ = ["REGISTRY", "Check", "Result", "all_results", "result", "run", "source_digest"]
