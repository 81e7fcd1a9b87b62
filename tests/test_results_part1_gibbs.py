"""Closed forms behind Part I's first two chapters, and proof that their checks can fail."""

import numpy as np
import pytest

from klrlhf.numerics import sharp_hoeffding
from klrlhf.policies import chi2_divergence, gibbs_policy, kl_divergence
from klrlhf.results import part1_budget, part1_gibbs, part1_temperature
from klrlhf.results.registry import all_results
from klrlhf.values import (
    kl_frontier,
    kl_max,
    optimal_value,
    suboptimality,
    temperature_path,
    value,
)

COIN = np.array([[1.0, 0.0]]), np.full((1, 2), 0.5), np.ones(1)


def test_two_answers_have_a_logistic_path():
    lam = np.array([0.0, 0.3, 2.0, 7.0])
    path = temperature_path(lam, *COIN)
    sigma = 1 / (1 + np.exp(-lam))
    np.testing.assert_allclose(path.reward, sigma, rtol=1e-13)
    np.testing.assert_allclose(path.variance, sigma * (1 - sigma), rtol=1e-13)
    np.testing.assert_allclose(path.kl, lam * sigma - np.logaddexp(0, lam) + np.log(2), atol=1e-14)


def test_two_answers_frontier_is_the_inverse_binary_entropy():
    p = np.array([0.55, 0.8, 0.99])
    k = p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p))
    frontier = kl_frontier(k, *COIN)
    np.testing.assert_allclose(frontier.reward, p, rtol=1e-10)
    np.testing.assert_allclose(frontier.beta, 1 / np.log(p / (1 - p)), rtol=1e-8)
    assert kl_max(*COIN) == pytest.approx(np.log(2), rel=1e-14)


@pytest.mark.parametrize("t", [0.1, 1.0, 4.0, 20.0])
def test_worst_references_attain_the_budgets(t):
    reward = np.array([[t, 0.0]])
    best = part1_budget.extremal_reference(t)
    pi0 = np.array([[best, 1 - best]])
    optimal = gibbs_policy(reward, 1.0, pi0)
    assert optimal[0, 0] == pytest.approx(part1_budget.mass(t), rel=1e-9)
    assert kl_divergence(optimal, pi0)[0] == pytest.approx(sharp_hoeffding(t), rel=1e-9)
    pi0 = np.array([[1.0, np.exp(t)]]) / (1 + np.exp(t))
    optimal = gibbs_policy(reward, 1.0, pi0)
    assert chi2_divergence(optimal, pi0)[0] == pytest.approx(np.sinh(t / 2) ** 2, rel=1e-9)


def test_gap_of_a_deterministic_policy_is_a_surprise():
    reward, pi0, d0 = np.array([[0.3, 0.1, -2.0]]), np.array([[0.2, 0.5, 0.3]]), np.ones(1)
    optimal = gibbs_policy(reward, 0.7, pi0)
    for a in range(3):
        pure = np.eye(3)[[a]]
        gap = optimal_value(reward, 0.7, pi0, d0) - value(pure, reward, 0.7, pi0, d0)
        assert gap == pytest.approx(-0.7 * np.log(optimal[0, a]), rel=1e-12)
        assert suboptimality(pure, reward, 0.7, pi0, d0) == pytest.approx(gap, rel=1e-12)


def shrink(function, factor):
    return lambda *args: factor * function(*args)


MUTANTS = [
    ("hoeffding-kl", part1_budget, "sharp_hoeffding", 0.9999),
    ("kl-budget", part1_budget, "sharp_hoeffding", 0.9999),
    ("kl-budget-ratio", part1_budget, "log_partition", 0.999),
    ("kl-budget-chi-squared", part1_budget, "chi2_divergence", 1.001),
    ("kl-budget-ratio", part1_budget, "gibbs_policy", 0.999),
    ("gibbs-variational", part1_gibbs, "optimal_value", 1 + 1e-9),
    ("gibbs-variational", part1_gibbs, "suboptimality", 1 + 1e-6),
    ("gibbs-variational", part1_gibbs, "value", 1 + 1e-6),
    ("gibbs-stability", part1_gibbs, "suboptimality", 0.999),
    ("objective-strictly-concave", part1_gibbs, "kl_divergence", 1 + 1e-6),
    ("gibbs-improvement", part1_gibbs, "suboptimality", 1 + 1e-6),
    ("optimal-value-convexity", part1_gibbs, "optimal_value", 1 + 1e-6),
]


@pytest.mark.parametrize("id, module, name, factor", MUTANTS,
                         ids=[f"{m[0]}-{m[2]}" for m in MUTANTS])
def test_a_wrong_constant_is_caught(monkeypatch, id, module, name, factor):
    monkeypatch.setattr(module, name, shrink(getattr(module, name), factor))
    assert not all_results()[id].run(fast=True)["passed"]


def test_a_wrong_tilt_is_caught(monkeypatch):
    right = part1_gibbs.log_gibbs_policy
    monkeypatch.setattr(part1_gibbs, "log_gibbs_policy", lambda r, b, p: right(r, 1.0001 * b, p))
    assert not all_results()["gibbs-shift-invariance"].run(fast=True)["passed"]


@pytest.mark.parametrize("id, field, factor", [
    ("temperature-path", "kl", 1.0001), ("temperature-path", "variance", 1.0001),
    ("frontier-square-root", "kl", 0.5),
])
def test_a_wrong_path_is_caught(monkeypatch, id, field, factor):
    right = part1_temperature.temperature_path

    def wrong(*args):
        path = right(*args)
        return path._replace(**{field: factor * getattr(path, field)})

    monkeypatch.setattr(part1_temperature, "temperature_path", wrong)
    assert not all_results()[id].run(fast=True)["passed"]


@pytest.mark.parametrize("factor", [1.001, 0.999])
def test_a_frontier_with_wrong_slopes_is_caught(monkeypatch, factor):
    right = part1_temperature.kl_frontier

    def steep(*args):
        frontier = right(*args)
        return frontier._replace(beta=factor * frontier.beta)

    monkeypatch.setattr(part1_temperature, "kl_frontier", steep)
    record = all_results()["kl-frontier"].run(fast=True)
    failed = {step["name"] for step in record["steps"] if not step["passed"]}
    assert {"step 6: F' is beta", "step 6: F'' is -1/(lambda^3 v)",
            "step 3: the maximizer is unique"} <= failed


def test_a_low_frontier_is_caught(monkeypatch):
    right = part1_temperature.kl_frontier

    def low(kl, reward, pi0, d0):
        frontier = right(0.999 * np.asarray(kl), reward, pi0, d0)
        return frontier._replace(kl=np.broadcast_to(kl, frontier.reward.shape))

    monkeypatch.setattr(part1_temperature, "kl_frontier", low)
    assert not all_results()["kl-frontier"].run(fast=True)["passed"]
