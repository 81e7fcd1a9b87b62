"""Assignment 4: your instance and the visible checks. Reading this file is allowed."""

from __future__ import annotations

import numpy as np
from checks import draw, near, nonnegative, numbers, passed


def instance(student: str) -> dict:
    """A student's own instance: 3 prompts, 4 answers, 2 features, and a sequence of batches."""
    rng = draw(student, "assignment4")
    angle = rng.uniform(0, 2 * np.pi)
    shape = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    strength = np.round(rng.uniform(0.5, 1.0, 3), 3)
    return {"d0": np.full(3, 1 / 3), "pi0": np.full((3, 4), 0.25),
            "phi": strength[:, None, None] * (shape @ turn.T),
            "theta": turn @ np.array([0.5, np.round(rng.uniform(1.0, 1.5), 3)]), "B": 2.0,
            "beta": float(np.round(rng.uniform(0.2, 0.4), 3)), "reg": 0.1, "coverage": 0.05}


def check_increments(increments):
    """Their sum is the growth of the log-determinant."""
    Z, V0 = np.random.default_rng(0).normal(size=(5, 2)), np.diag([1.0, 2.0])
    out = nonnegative(numbers(increments(V0, Z), (5,), "the increments"), "an increment")
    total = np.log(np.linalg.det(V0 + Z.T @ Z) / np.linalg.det(V0))
    near(out.sum(), total, "the sum of all increments, the growth of the log-determinant,")
    again = np.asarray(increments(V0, Z[:2]))
    assert np.allclose(again, out[:2]), "an increment must not depend on later comparisons"
    passed("q1")


def check_potential_constant(potential_constant):
    """An upper bound on two sequences, and growing."""
    for cap in (0.5, 1.0, 3.0):
        C = float(numbers(potential_constant(cap), (), "the constant"))
        w = np.geomspace(1e-6, 1e6, 200)
        assert (np.minimum(cap, w) <= C * np.log1p(w) * (1 + 1e-9)).all(), (
            f"at cap {cap} there is a sequence that breaks the inequality with your constant")
    passed("q2")


def check_choose(choose):
    """An index and its uncertainty."""
    rng = np.random.default_rng(3)
    phi, V, d0 = rng.normal(size=(2, 3, 2)), np.eye(2), np.array([0.3, 0.7])
    main = rng.dirichlet(np.ones(3), 2)
    candidates = np.stack([main, *rng.dirichlet(np.ones(3), (4, 2))])
    index, gamma = choose(candidates, main, V, 5.0, phi, 0.1, d0)
    assert index == int(index) and 0 <= index < 5, "the index must name a candidate"
    nonnegative(gamma, "the uncertainty")
    index, gamma = choose(candidates[:1], main, V, 5.0, phi, 0.1, d0)
    near(gamma, 0.0, "the uncertainty of the main policy itself", atol=1e-12)
    passed("q3")


def check_regret(regret):
    """Nonnegative, zero for the best policy, linear in the batch."""
    reward, pi0 = np.array([[0.0, 1.0], [1.0, 0.0]]), np.full((2, 2), 0.5)
    d0, beta = np.array([0.5, 0.5]), 0.5
    best = pi0 * np.exp(reward / beta)
    best /= best.sum(axis=1, keepdims=True)
    near(regret(np.stack([[best, best]] * 3), 10, reward, beta, pi0, d0), np.zeros(3),
         "the regret of always playing the best policy", atol=1e-9)
    out = nonnegative(numbers(regret(np.stack([[pi0, best]] * 3), 10, reward, beta, pi0, d0), (3,)),
                      "regret")
    assert np.allclose(np.diff(out), out[0]), "equal rounds must add equal amounts"
    passed("q4")


def check_advantage(advantage):
    """Three numbers in order."""
    mean, low, high = numbers(advantage(4, 25, 30, np.random.default_rng(1)), (3,))
    assert low < mean < high, "the estimate must lie between its limits"
    passed("q5")
