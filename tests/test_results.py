"""The fast subset of every checked result, one test per id, and the schema of its record."""

import json
import math

import pytest

from klrlhf.results import registry

RESULTS = registry.all_results()
KEYS = {
    "id": str, "part": str, "item": str, "kind": str, "title": str, "source": str,
    "depends": list, "summary": str, "instances": int, "worst_violation": (float, type(None)),
    "tightest_ratio": (float, type(None)), "failure_upper": (float, type(None)),
    "delta": (float, type(None)), "steps": list, "passed": bool, "seconds": float, "seed": int,
    "mode": str, "digest": str,
}
STEP_KEYS = {"name": str, "kind": str, "count": int, "worst_violation": float,
             "tightest_ratio": (float, type(None)), "passed": bool}
# Section VIII of the theory, parts 0, I and II.
PROMISED = """hoeffding-kl gibbs-variational temperature-path kl-frontier kl-budget
value-decomposition value-decomposition-inexact second-order-gap bt-likelihood mle-existence
win-count-sufficiency confidence-ellipsoid radius-fixed-design radius-adaptive-design
mle-asymptotics""".split()


def numbers(value):
    """Every float in a nested record."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [x for part in value for x in numbers(part)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("id", RESULTS)
def test_result(id):
    record = RESULTS[id].run(fast=True)
    failed = [step for step in record["steps"] if not step["passed"]]
    assert record["passed"], failed
    assert set(record) == set(KEYS)
    for key, kind in KEYS.items():
        assert isinstance(record[key], kind), key
    assert json.loads(json.dumps(record)) == record
    assert all(math.isfinite(x) for x in numbers(record))
    assert record["id"] == id
    assert record["mode"] == "fast"
    assert record["instances"] > 0
    assert record["kind"] in registry.KINDS
    assert record["part"] in registry.PARTS
    assert record["summary"].strip()
    assert (record["failure_upper"] is None) == (record["delta"] is None)
    names = [step["name"] for step in record["steps"]]
    assert len(set(names)) == len(names)
    for step in record["steps"]:
        for key, kind in STEP_KEYS.items():
            assert isinstance(step[key], kind), (step["name"], key)
        # A step that looked at nothing proves nothing.
        assert step["count"] > 0, step["name"]
    # A bound's record says how tight it is; a tail's says how often it failed.
    if record["kind"] == "inequality":
        assert record["tightest_ratio"] is not None
    if record["kind"] == "probability":
        assert 0 <= record["failure_upper"] <= record["delta"] < 1


@pytest.mark.parametrize("id", PROMISED)
def test_promised_results_are_registered(id):
    assert id in RESULTS


def test_dependencies_are_results_and_form_no_cycle():
    depends = {id: set(entry.depends) for id, entry in RESULTS.items()}
    unknown = {id: parents - set(RESULTS) for id, parents in depends.items()}
    assert not {id: parents for id, parents in unknown.items() if parents}
    settled = set()
    while len(settled) < len(depends):
        ready = {id for id, parents in depends.items() if id not in settled and parents <= settled}
        assert ready, set(depends) - settled
        settled |= ready


def test_a_check_gives_the_same_record_twice():
    one, two = (RESULTS["gibbs-shift-invariance"].run(fast=True) for _ in range(2))
    assert one | {"seconds": 0} == two | {"seconds": 0}
