"""Run the checks: ``python -m klrlhf.results [--fast] [--output FILE] [ids ...]``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from klrlhf.results.registry import run

HEADER = (f"{'result':32} {'kind':11} {'instances':>10} {'violation':>10} {'tightest':>9} "
          f"{'failure<=':>9} {'delta':>6} {'steps':>5} {'s':>7}  ")


def line(record: dict) -> str:
    """One row of the table."""

    def show(key, form):
        value = record[key]
        return "" if value is None else format(value, form)

    return (f"{record['id']:32} {record['kind']:11} {record['instances']:10d} "
            f"{show('worst_violation', '.1e'):>10} {show('tightest_ratio', '.5f'):>9} "
            f"{show('failure_upper', '.4f'):>9} {show('delta', '.3g'):>6} {len(record['steps']):5d} "
            f"{record['seconds']:7.1f}  {'ok' if record['passed'] else 'FAILED'}")


def main(argv=None) -> int:
    """Entry point; returns 1 when a check failed."""
    parser = argparse.ArgumentParser(prog="klrlhf.results", description=__doc__)
    parser.add_argument("ids", nargs="*", help="result ids (default: all)")
    parser.add_argument("--fast", action="store_true", help="the fast subset of every check")
    parser.add_argument("--output", type=Path, help="write the records as JSON")
    arguments = parser.parse_args(argv)
    print(HEADER, flush=True)
    records = run(arguments.ids or None, fast=arguments.fast,
                  report=lambda record: print(line(record), flush=True))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(records, indent=1) + "\n")
    failed = [record for record in records if not record["passed"]]
    for record in failed:
        for step in record["steps"]:
            if not step["passed"]:
                print(f"FAILED {record['id']}: {step}", file=sys.stderr)
    print(f"{len(records) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
