"""Assignment 5: your instance and the visible checks. Reading this file is allowed."""

from __future__ import annotations

import numpy as np
from checks import draw, near, nonnegative, numbers, passed, policy


def instance(student: str) -> dict:
    """A student's own instance: one prompt, 8 answers."""
    rng = draw(student, "assignment5")
    return {"reward": np.round(rng.uniform(0, 1, 8), 3), "pi0": rng.dirichlet(np.full(8, 4.0)) * 0.9 + 0.0125,
            "beta": float(np.round(rng.uniform(0.12, 0.25), 3))}


def check_dpo(dpo):
    """The loss at the reference, and the gradient against a difference."""
    pi0 = np.array([0.5, 0.3, 0.2])
    pairs, counts, wins = np.array([[0, 1], [1, 2]]), np.array([6.0, 4.0]), np.array([4.0, 1.0])
    loss, gradient = dpo(np.log(pi0) + 0.7, pi0, pairs, counts, wins, 0.5)
    near(loss, 10 * np.log(2), "the loss of the reference, whose margins are all zero,")
    numbers(gradient, (3,), "the gradient")
    logits, step = np.array([0.3, -0.2, 0.9]), 1e-5
    for j in range(3):
        e = step * np.eye(3)[j]
        slope = (dpo(logits + e, pi0, pairs, counts, wins, 0.5)[0]
                 - dpo(logits - e, pi0, pairs, counts, wins, 0.5)[0]) / (2 * step)
        assert abs(dpo(logits, pi0, pairs, counts, wins, 0.5)[1][j] - slope) < 1e-4, (
            f"your gradient is not the slope of your loss in logit {j}")
    passed("q1")


def check_chain(chain):
    """A policy; the reference if all pairs are tied."""
    pi0 = np.array([0.2, 0.5, 0.3])
    policy(chain(0.5, pi0, np.array([3.0, 4.0]), np.array([5.0, 1.0])), (3,))
    tied = chain(0.5, pi0, np.array([3.0, 4.0]), np.array([3.0, 4.0]))
    assert np.allclose(tied, pi0), "if every pair is tied, nothing should move away from the reference"
    passed("q2")


def check_best_of_n(best_of_n):
    """A policy; the reference at n = 1 and at equal rewards."""
    reward, pi0 = np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.4, 0.3, 0.2, 0.1])
    policy(best_of_n(reward, pi0, 4), (4,))
    assert np.allclose(best_of_n(reward, pi0, 1), pi0), "the best of one draw is the draw"
    assert np.allclose(best_of_n(0 * reward, pi0, 5), pi0), (
        "if all rewards are equal, the choice says nothing about the answer")
    passed("q3")


def check_kl(kl):
    """Nonnegative, zero at n = 1, and no more than the rarest best answer allows."""
    reward, pi0 = np.array([0.0, 1.0, 2.0]), np.array([0.5, 0.3, 0.2])
    nonnegative(numbers(kl(reward, pi0, 3), (), "the divergence"), "the divergence")
    near(kl(reward, pi0, 1), 0.0, "the divergence of the best of one", atol=1e-12)
    near(kl(reward, pi0, 10**6), np.log(5), "the divergence when n is huge and the best answer has mass 1/5",
         rtol=1e-4)
    passed("q4")


def check_rejection(rejection):
    """Answers and their cost."""
    out = rejection(np.array([0.0, 1.0]), 0.5, np.array([0.9, 0.1]), 500, np.random.default_rng(1))
    answers, draws = numbers(out[0], (500,), "the answers"), numbers(out[1], (), "the number of draws")
    assert set(np.unique(answers)) <= {0.0, 1.0}, "answers are named by their index"
    assert draws >= 500, "every accepted answer costs at least one draw"
    passed("q5")
