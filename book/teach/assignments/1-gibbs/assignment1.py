"""Assignment 1: your instance and the visible checks. Reading this file is allowed."""

from __future__ import annotations

import numpy as np
from checks import draw, near, nonnegative, numbers, passed, policy


def instance(student: str) -> dict:
    """A student's own instance: 3 prompts, 4 answers."""
    rng = draw(student, "assignment1")
    S, K = 3, 4
    return {
        "d0": rng.dirichlet(np.full(S, 5.0)),
        "pi0": rng.dirichlet(np.full(K, 2.0), size=S) * 0.8 + 0.2 / K,
        "reward": np.round(rng.uniform(-1, 1, (S, K)), 3),
        "beta": float(np.round(rng.uniform(0.3, 0.8), 3)),
        "budget": float(np.round(rng.uniform(0.05, 0.15), 4)),
    }


def _example():
    reward = np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    pi0 = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    return reward, 0.7, pi0, np.array([0.25, 0.75])


def check_gibbs(gibbs):
    """Shape, probabilities, a constant reward, a shift, large rewards."""
    reward, beta, pi0, _ = _example()
    out = policy(gibbs(reward, beta, pi0), (2, 3))
    assert np.allclose(out[1], pi0[1]), (
        "where all answers have the same reward, the best policy is the reference itself")
    shifted = policy(gibbs(reward + 3.0, beta, pi0), (2, 3))
    assert np.allclose(out, shifted), "adding a constant to the reward must change nothing"
    policy(gibbs(1e4 * reward, beta, pi0), (2, 3), "your policy at rewards near 1e4")
    passed("q1")


def gap_properties(value, *_):
    """A gap is one number, not negative."""
    nonnegative(numbers(value, (), "the gap"), "the gap")


def check_gap(gap):
    """Nonnegative, zero at the optimum, finite for a policy that never plays an answer."""
    reward, beta, pi0, d0 = _example()
    gap_properties(gap(pi0, reward, beta, pi0, d0))
    greedy = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    gap_properties(gap(greedy, reward, beta, pi0, d0))
    flat = gap(pi0, 0 * reward, beta, pi0, d0)
    near(flat, 0.0, "the gap of the reference when all rewards are equal")
    passed("q2")


def check_expansion(expansion):
    """Scaling: c2 is quadratic and c3 cubic in D; constants do not matter."""
    reward, beta, pi0, d0 = _example()
    D = np.array([[0.3, -0.2, 0.1], [0.0, 0.4, -0.4]])
    c2, c3 = expansion(reward, D, beta, pi0, d0)
    numbers([c2, c3], (2,), "c2 and c3")
    assert c2 > 0, "c2 must be positive: the gap cannot be negative for small errors"
    b2, b3 = expansion(reward, 2 * D, beta, pi0, d0)
    assert np.allclose([b2, b3], [4 * c2, 8 * c3]), (
        "twice the error: c2 must grow by 4 and c3 by 8")
    a2, a3 = expansion(reward, D + 1.0, beta, pi0, d0)
    assert np.allclose([a2, a3], [c2, c3]), "a constant error changes no policy, so no coefficient"
    passed("q3")


def check_answer(answer, mine):
    """Keys and ranges of the two numbers."""
    assert set(answer) == {"beta", "reward"}, "answer needs the keys 'beta' and 'reward'"
    numbers(list(answer.values()), (2,), "the two answers")
    assert answer["beta"] > 0, "beta must be positive"
    low, high = mine["d0"] @ mine["reward"].min(axis=1), mine["d0"] @ mine["reward"].max(axis=1)
    assert low <= answer["reward"] <= high, "no policy has such an expected reward"
    passed("q4")


def check_mean_gap(mean_gap):
    """Three numbers in order, and a gap that vanishes with the noise."""
    mean, low, high = numbers(mean_gap(0.3, 500, np.random.default_rng(1)), (3,))
    assert low < mean < high, "the estimate must lie between its limits"
    assert low > 0, "with 500 repetitions the lower limit of a mean gap should be positive"
    small = numbers(mean_gap(1e-3, 500, np.random.default_rng(1)), (3,))
    assert small[0] < 1e-4 * mean, (
        "a noise 300 times smaller must lower the mean gap by far more than 300: is it the gap "
        "to the best policy?")
    passed("q5")
