"""Assignment 2: your instance and the visible checks. Reading this file is allowed."""

from __future__ import annotations

import numpy as np
from checks import draw, near, numbers, passed


def instance(student: str) -> dict:
    """A student's own instance: 6 distinct feature differences in 2 dimensions, and a log."""
    rng = draw(student, "assignment2")
    z = np.round(rng.uniform(-1, 1, (6, 2)), 3)
    counts = rng.integers(20, 200, 6).astype(float)
    theta = np.round(rng.uniform(-1, 1, 2), 3)
    wins = rng.binomial(counts.astype(int), 1 / (1 + np.exp(-z @ theta))).astype(float)
    return {"z": z, "counts": counts, "wins": wins, "theta": theta,
            "design": np.round(rng.dirichlet(np.full(6, 8.0)), 4) * 0.94 + 0.01,
            "B": 2.0, "L": float(np.linalg.norm(z, axis=1).max()),
            "reg": 1.0, "delta": float(np.round(rng.uniform(0.01, 0.1), 3))}


Z = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
COUNTS, WINS = np.array([10.0, 8.0, 5.0]), np.array([7.0, 3.0, 4.0])


def check_loss_gradient(loss_gradient):
    """Value at zero, slope along a line, large margins."""
    loss, gradient = loss_gradient(np.zeros(2), Z, COUNTS, WINS)
    near(loss, COUNTS.sum() * np.log(2), "the loss at theta = 0, where every vote is a coin flip,")
    numbers(gradient, (2,), "the gradient")
    theta, step = np.array([0.4, -0.7]), 1e-5
    for j in range(2):
        e = step * np.eye(2)[j]
        slope = (loss_gradient(theta + e, Z, COUNTS, WINS)[0]
                 - loss_gradient(theta - e, Z, COUNTS, WINS)[0]) / (2 * step)
        assert abs(loss_gradient(theta, Z, COUNTS, WINS)[1][j] - slope) < 1e-4, (
            f"your gradient is not the slope of your loss in direction {j}")
    numbers(loss_gradient(1e3 * theta, Z, COUNTS, WINS)[0], (), "the loss at margins near 1000")
    passed("q1")


def check_fit(fit):
    """In the ball, and not worse than its neighbours."""
    theta = numbers(fit(Z, COUNTS, WINS, 2.0), (2,), "the estimate")
    assert np.linalg.norm(theta) <= 2.0 + 1e-6, "the estimate must lie in the ball"
    small = numbers(fit(Z, COUNTS, WINS, 0.1), (2,), "the estimate")
    near(np.linalg.norm(small), 0.1, "in a small ball, the norm of the estimate", rtol=1e-4)
    numbers(fit(Z, COUNTS, COUNTS, 3.0), (2,), "the estimate when all votes agree")
    passed("q2")


def check_asymptotic_sd(asymptotic_sd):
    """Positive, and the right power of n."""
    design, u = np.full(3, 1 / 3), np.array([1.0, 1.0])
    value = numbers(asymptotic_sd(np.array([0.5, 0.2]), Z, design, u, 100), (), "the deviation")
    assert value > 0, "a standard deviation is positive"
    near(asymptotic_sd(np.array([0.5, 0.2]), Z, design, u, 400), value / 2,
         "with four times as many comparisons, the deviation")
    near(asymptotic_sd(np.array([0.5, 0.2]), Z, design, 3 * u, 100), 3 * value,
         "for a direction three times as long, the deviation")
    passed("q3")


def check_answer(answer):
    """Keys and signs."""
    assert set(answer) == {"score_bound", "radius"}, "answer needs 'score_bound' and 'radius'"
    values = numbers(list(answer.values()), (2,), "the two answers")
    assert (values > 0).all(), "both numbers are positive"
    passed("q4")


def check_misses(misses):
    """A count and its limits."""
    count, low, high = numbers(misses(100, 200, np.random.default_rng(1)), (3,))
    assert count == round(count) and 0 <= count <= 200, "misses are counted: a whole number"
    assert low <= count / 200 <= high, "the observed rate must lie between the limits"
    assert low >= 0 and high <= 1, "limits of a probability lie in [0, 1]"
    passed("q5")
