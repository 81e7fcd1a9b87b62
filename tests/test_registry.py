"""The recorder judges as the book says: each method accepts truth and refuses a small lie."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from klrlhf.results import registry
from klrlhf.results.instances import random_instances, random_policies, two_point_instances
from klrlhf.results.registry import Check, Result, result

pytestmark = pytest.mark.filterwarnings("error")


def owner(function=lambda check: None):
    return Result("some-id", "I", "1.1", "identity", "A title", "this book", (), "Words.", function)


@pytest.fixture
def check():
    return Check(owner())


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", {})


# -- judging -------------------------------------------------------------------------------------


def test_identity_is_judged_against_its_scale(check):
    check.identity("claim", [1.0, 2.0], [1.0, 2.0 + 1e-12], scale=2.0, tol=1e-11)
    assert check.steps["claim"]["passed"]
    assert check.steps["claim"]["worst_violation"] == pytest.approx(5e-13, rel=1e-3)
    check.identity("claim", 1.0, 1.0 + 1e-10)
    assert not check.steps["claim"]["passed"]
    check.identity("claim", 1.0, 1.0)
    assert not check.steps["claim"]["passed"]  # one failure is never forgotten
    assert check.steps["claim"]["count"] == 4


def test_inequality_counts_rounding_as_no_violation_and_keeps_the_tightest_ratio(check):
    check.inequality("claim", [1.0, 0.5], [2.0, 0.5 * (1 - 1e-13)])
    step = check.steps["claim"]
    assert step["passed"]
    assert step["tightest_ratio"] == pytest.approx(1.0, abs=1e-12)
    assert 0 < step["worst_violation"] < 1e-12
    check.inequality("claim", [1.0], [1.0 - 1e-9])
    assert not step["passed"]


def test_inequality_with_an_infinite_bound_holds_and_tells_nothing(check):
    check.inequality("claim", [1.0, 2.0], [np.inf, 4.0])
    assert check.steps["claim"]["passed"]
    assert check.steps["claim"]["tightest_ratio"] == 0.5


def test_inequality_allows_rounding_of_its_scale_only(check):
    check.inequality("small", [1e-9], [0.0], scale=1e3, tol=1e-11)
    assert check.steps["small"]["passed"]
    check.inequality("large", [1e-7], [0.0], scale=1e3, tol=1e-11)
    assert not check.steps["large"]["passed"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_never_pass(check, bad):
    with pytest.raises(ValueError, match="produced NaN"):
        check.identity("claim", [1.0, bad], [1.0, 1.0])
    with pytest.raises(ValueError, match="produced NaN"):
        check.inequality("claim", [1.0, bad], [2.0, 2.0])
    with pytest.raises(ValueError, match="produced NaN"):
        check.limit("claim", bad, 0.1, 1.0)
    if np.isnan(bad):
        with pytest.raises(ValueError, match="produced NaN"):
            check.ratio("claim", [bad])


def test_ratio_and_search(check):
    check.ratio("claim", [0.2, 1.0])
    assert check.steps["claim"]["passed"]
    assert check.steps["claim"]["tightest_ratio"] == 1.0
    # A concave function with maximum 1 - 1e-6, then one that exceeds 1.
    best = check.search("claim", lambda x: 1 - 1e-6 - float(x @ x), [[2.0, 1.0], [-1.0, 0.3]])
    assert best == pytest.approx(1 - 1e-6, abs=1e-9)
    assert check.steps["claim"]["searched"]
    check.search("broken", lambda x: 1.01 - float(x @ x), [[2.0]])
    assert not check.steps["broken"]["passed"]


@pytest.mark.parametrize("failures, trials", [(0, 400), (3, 1000), (17, 1000), (49, 1000)])
def test_failure_rate_is_clopper_pearson(check, failures, trials):
    check.failure_rate("claim", failures, trials, 0.05)
    step = check.steps["claim"]
    upper = binomtest(failures, trials).proportion_ci(0.98, method="exact").high
    assert step["failure_upper"] == pytest.approx(upper, rel=1e-9)
    assert step["passed"] == (upper <= 0.05)


def test_failure_rate_keeps_the_case_closest_to_its_level(check):
    check.failure_rate("claim", 0, 1000, 0.05)
    check.failure_rate("claim", 30, 1000, 0.5)
    check.failure_rate("claim", 10, 1000, 0.05)
    step = check.steps["claim"]
    assert (step["failures"], step["delta"]) == (10, 0.05)
    assert len(step["cases"]) == 3
    check.failure_rate("claim", 5, 5, 0.9)
    assert step["failure_upper"] == 1.0
    assert not step["passed"]


def test_limit_allows_four_standard_errors(check):
    check.limit("claim", [1.039, 2.0], [0.01, 0.1], [1.0, 2.3])
    assert check.steps["claim"]["passed"]
    check.limit("claim", 1.041, 0.01, 1.0)
    assert not check.steps["claim"]["passed"]


def test_slope(check):
    x = np.logspace(1, 5, 9)
    check.slope("claim", x, 3 / x, -1.0, 0.01)
    assert check.steps["claim"]["passed"]
    assert check.steps["claim"]["slope"] == pytest.approx(-1.0, abs=1e-12)
    check.slope("wrong", x, 3 / np.sqrt(x), -1.0, 0.01)
    assert not check.steps["wrong"]["passed"]


def test_facts_floors_and_vacuity(check):
    check.holds("fact", [True, True])
    check.holds("lie", [True, False])
    check.at_least("reached", 0.99, 0.9)
    check.at_least("missed", 0.8, 0.9)
    check.not_vacuous("useful", [3.0, 0.5], [1.0, 1.0])
    check.not_vacuous("useless", [3.0, 1.0], [1.0, 1.0])
    passed = {name: step["passed"] for name, step in check.steps.items()}
    assert passed == {"fact": True, "lie": False, "reached": True, "missed": False,
                      "useful": True, "useless": False}
    assert check.steps["useful"]["value"] == 0.5


def test_batches_draw_what_was_asked_with_a_seed_of_the_id():
    def draws(fast):
        check = Check(owner(), fast=fast)
        sizes = [(size, rng.random()) for rng, size in check.batches(2_500, fast=300, size=1_000)]
        return check.instances, sizes

    full, sizes = draws(False)
    assert (full, [size for size, _ in sizes]) == (2_500, [1_000, 1_000, 500])
    fast, sizes_fast = draws(True)
    assert (fast, [size for size, _ in sizes_fast]) == (300, [300])
    assert draws(False) == (full, sizes)
    assert Check(owner(), fast=True).choose(5, 2) == 2


# -- keeping -------------------------------------------------------------------------------------


def test_record_is_plain_and_complete():
    def function(check):
        for rng, size in check.batches(100, fast=10):
            x = rng.random(size)
            check.identity("claim", x, x)
            check.inequality("step 1", 0.5 * x, x)

    record = owner(function).run(fast=True)
    assert json.loads(json.dumps(record)) == record
    assert record["passed"]
    assert record["instances"] == 10
    assert record["mode"] == "fast"
    assert [step["name"] for step in record["steps"]] == ["claim", "step 1"]
    assert record["tightest_ratio"] is None  # only the claim's ratio counts


def test_one_failed_step_fails_the_result():
    def function(check):
        check.identity("claim", 1.0, 1.0)
        check.inequality("step 1", 2.0, 1.0)

    assert not owner(function).run()["passed"]


def test_a_check_must_record_a_claim():
    with pytest.raises(ValueError, match="no step"):
        owner(lambda check: None).run()
    with pytest.raises(ValueError, match="'claim'"):
        owner(lambda check: check.identity("step 1", 1.0, 1.0)).run()


def test_registration_refuses_what_the_book_could_not_print(clean_registry):
    def register(id="an-id", **changes):
        options = {"part": "I", "item": "1.1", "kind": "identity", "title": "T", "source": "S"}

        @result(id, **(options | changes))
        def function(check):
            """Words."""

    register()
    with pytest.raises(ValueError, match="registered twice"):
        register()
    with pytest.raises(ValueError, match="kind must be"):
        register("other", kind="guess")
    with pytest.raises(ValueError, match="part must be"):
        register("other", part="IX")
    with pytest.raises(ValueError, match="docstring"):
        result("silent", part="I", item="1.1", kind="identity", title="T", source="S")(
            lambda check: None)


def test_unknown_ids_are_named():
    with pytest.raises(ValueError, match="no such result: not-an-id"):
        registry.run(["not-an-id"])


def test_the_digest_is_stable():
    assert registry.source_digest() == registry.source_digest()
    assert len(registry.source_digest()) == 16


# -- instances -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_random_instances_are_instances(seed):
    inst = random_instances(np.random.default_rng(seed), 200)
    assert inst.pi0.shape == inst.reward.shape == inst.reward_hat.shape
    assert inst.d0.shape == inst.pi0.shape[:2]
    assert (inst.pi0 > 0).all()
    assert (inst.beta > 0).all()
    assert np.abs(inst.pi0.sum(axis=-1) - 1).max() < 1e-12
    assert np.abs(inst.d0.sum(axis=-1) - 1).max() < 1e-12
    assert np.isfinite(inst.reward).all()
    assert np.isfinite(inst.reward_hat).all()


def test_instances_visit_the_corners():
    rng = np.random.default_rng(0)
    inst = random_instances(rng, 2_000, S=3, K=4)
    assert (inst.d0 == 0).any()
    assert inst.pi0.min() < 1e-6
    tilt = np.ptp(inst.reward, axis=-1).max(axis=-1) / inst.beta
    assert tilt.min() < 0.05
    assert tilt.max() > 20
    policies = random_policies(rng, 500, 2, 4)
    assert policies.max() > 1 - 1e-9
    two = two_point_instances(rng, 100)
    assert two.pi0.shape == (100, 1, 2)
