"""Assignment 6: your instance and the visible checks. Reading this file is allowed."""

from __future__ import annotations

import numpy as np
from checks import draw, near, nonnegative, numbers, passed, policy


def instance(student: str) -> dict:
    """A student's own instance: 2 prompts, 6 answers, a gold and a proxy reward."""
    rng = draw(student, "assignment6")
    gold = np.round(rng.uniform(-1, 1, (2, 6)), 3)
    proxy = gold + np.round(rng.normal(0, 0.3, (2, 6)), 3)
    # One poor answer in each prompt looks best to the proxy: over-optimization must show.
    for x in range(2):
        proxy[x, gold[x].argsort()[1]] = proxy[x].max() + 0.4
    return {"d0": np.array([0.4, 0.6]), "pi0": rng.dirichlet(np.full(6, 5.0), 2) * 0.9 + 0.1 / 6,
            "gold": gold, "proxy": proxy, "lam": float(np.round(rng.uniform(2, 4), 3))}


def check_gold_slope(gold_slope):
    """The slope of the gold reward against a difference."""
    rng = np.random.default_rng(2)
    gold, proxy, pi0 = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), rng.dirichlet(np.ones(3), 2)
    d0 = np.array([0.3, 0.7])
    near(gold_slope(1.0, proxy, gold + 5.0, pi0, d0), gold_slope(1.0, proxy, gold, pi0, d0),
         "the slope after a constant is added to the gold reward")
    near(gold_slope(1.0, 0 * proxy + 3.0, gold, pi0, d0), 0.0,
         "the slope along a proxy that does not distinguish answers", atol=1e-12)
    passed("q1")


def check_soft(soft):
    """A law over first tokens; the reference for a constant reward."""
    tokens = [np.array([0.3, 0.7]), np.array([[0.5, 0.5], [0.1, 0.9]])]
    value, first = soft(np.full((2, 2), 2.0), 0.5, tokens)
    near(value, 2.0, "the soft value when every response earns 2")
    assert np.allclose(policy(first, (2,)), tokens[0]), "equal rewards must not move the first token"
    value, first = soft(np.array([[0.0, 1.0], [2.0, 0.0]]), 0.5, tokens)
    numbers(value, (), "the soft value")
    policy(first, (2,))
    passed("q2")


def check_exploitability(exploitability):
    """Nonnegative, and zero in a game of indifference."""
    pi0, P = np.array([0.2, 0.3, 0.5]), np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]])
    nonnegative(numbers(exploitability(pi0, P, 0.5, pi0), (), "the exploitability"), "exploitability")
    near(exploitability(pi0, np.full((3, 3), 0.5), 0.5, pi0), 0.0,
         "the exploitability of the reference when nobody prefers anything", atol=1e-12)
    passed("q3")


def check_answer(answer, mine):
    """Keys and ranges."""
    assert set(answer) == {"lam", "gold"}, "answer needs the keys 'lam' and 'gold'"
    numbers(list(answer.values()), (2,), "the two answers")
    assert 0 <= answer["lam"] <= 50, "the inverse temperature must lie between 0 and 50"
    low, high = mine["d0"] @ mine["gold"].min(axis=1), mine["d0"] @ mine["gold"].max(axis=1)
    assert low <= answer["gold"] <= high, "no policy has such a gold reward"
    passed("q4")


def check_gain(gain):
    """Three numbers in order, and less noise for a better proxy."""
    mean, low, high = numbers(gain(0.5, 400, np.random.default_rng(1)), (3,))
    assert low < mean < high, "the estimate must lie between its limits"
    exact = numbers(gain(1e-6, 50, np.random.default_rng(1)), (3,))
    assert exact[0] > 0, "with a perfect proxy, optimizing it must raise the gold reward"
    passed("q5")
