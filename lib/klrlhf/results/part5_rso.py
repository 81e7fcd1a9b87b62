r"""Item 5.3: statistical rejection sampling as published, for finitely many candidates."""

from __future__ import annotations

from itertools import permutations
from math import factorial

import numpy as np
from scipy.stats import binom

from klrlhf.policies import gibbs_policy
from klrlhf.results.instances import random_instances, two_point_instances
from klrlhf.results.registry import result
from klrlhf.sampling import (
    acceptance_probability,
    rso_bound,
    rso_policy,
    rso_sample,
    total_variation,
)


def counted_once(pi0, w):
    """The program's law for one response, equal draws counted once, when all have been drawn.

    The responses stand in the order in which they were drawn first, and the first that passes is
    returned; sums over all orders.
    """
    policy = np.zeros(len(w))
    for places in permutations(range(len(w))):
        chance, left, none = 1.0, 1.0, 1.0
        for a in places[:-1]:  # the last place is certain
            chance, left = chance * pi0[a] / left, left - pi0[a]
        for a in places:
            policy[a] += chance * none * w[a]
            none *= 1 - w[a]
    return policy


def first_law(pi0, w, n):
    """The law of the first response returned, weights `w` increasing to 1 and different.

    Sums over the largest weight M among the n draws, and over the place of the response.
    """
    up = np.cumsum(pi0)
    up[-1] = 1.0
    policy, i = np.zeros(len(w)), np.arange(1, n + 1)
    for j, top in enumerate(w):
        rejected = (pi0[:j] * (1 - w[:j] / top)).sum() ** (i - 1)
        below = up[j - 1] if j else 0.0
        after = up[j] ** (n - i)
        policy[j] += pi0[j] * (rejected * after).sum()
        policy[:j] += pi0[:j] * w[:j] / top * (rejected * (after - below ** (n - i))).sum()
    return policy


def accepted_turn(w, c):
    """P(draw i is the l-th accepted), weights `w`, tests c w, random order; shape (i, l).

    Step 2's integral: its integrand is a polynomial, so Gauss-Legendre is exact.
    """
    n = len(w)
    nodes, sizes = np.polynomial.legendre.leggauss(n)
    y, size = (nodes + 1) * c / 2, sizes * c / 2
    turns = np.zeros((n, n))
    for i in range(n):
        count = np.zeros((n, n))  # node, number of accepted others
        count[:, 0] = 1.0
        for j in range(n):
            if j != i:
                moved = count * (y * w[j])[:, None]
                count = count - moved
                count[:, 1:] += moved[:, :-1]
        turns[i] = w[i] * (size[:, None] * count).sum(0)
    return turns


def by_orders(w, c):
    """The same by going through all orders and all outcomes of the tests."""
    n = len(w)
    turns = np.zeros((n, n))
    for order in permutations(range(n)):
        count = np.zeros(n + 1)  # law of the number accepted so far
        count[0] = 1.0
        for i in order:
            turns[i] += count[:n] * c * w[i] / factorial(n)
            count[1:], count[0] = count[1:] * (1 - c * w[i]) + count[:-1] * c * w[i], \
                count[0] * (1 - c * w[i])
    return turns


@result("rejection-published", part="V", item="5.3", kind="inequality",
        title="The published sampler at finite n", source="this book; program: liu2024statistical",
        depends=("rejection-gibbs",))
def rejection_published(check):
    """m of n draws, tested against their own maximum: TV <= E(m - Bin(n, p))_+ / m, sharp."""
    rng = check.rng
    for _ in range(check.choose(300, 60)):
        w = 10.0 ** rng.uniform(-3, 0, int(rng.integers(2, 6)))
        c = 1 / w.max()
        turns = accepted_turn(w, c)
        check.identity("step 2: the l-th accepted", turns, by_orders(w, c), tol=1e-11)
        check.inequality("step 2: larger c", accepted_turn(w, 1.0), turns, scale=1e-3, tol=1e-10)
        check.identity("step 3: equality for the best", accepted_turn(w * c, 1.0)[w == w.max()],
                       turns[w == w.max()])
    for rng, size in check.batches(10_000, fast=2_000):
        inst = (random_instances(rng, size, 1) if rng.random() < 0.6
                else two_point_instances(rng, size))
        n = int(np.ceil(10.0 ** rng.uniform(0, 2.5)))
        p = acceptance_probability(inst.reward, inst.beta, inst.pi0)[:, 0]
        star = gibbs_policy(inst.reward, inst.beta, inst.pi0)[:, 0]
        w = np.exp((inst.reward[:, 0] - inst.reward[:, 0].max(-1, keepdims=True))
                   / inst.beta[:, None])
        law, best = np.zeros_like(star), (star * (w == 1)).sum(-1)
        for x in range(size):
            value, level = np.unique(np.maximum(w[x], 1e-290), return_inverse=True)
            mass = np.bincount(level, inst.pi0[x, 0])
            law[x] = (first_law(mass, value, n) / mass)[level] * inst.pi0[x, 0]
        seen = -np.expm1(n * np.log1p(-np.minimum(p, 1 - 1e-16)))
        check.inequality("claim: every response", star * seen[:, None], law, scale=1e-3, tol=1e-9)
        check.identity("claim: equality for the best", (law * (w == 1)).sum(-1), best * seen,
                       tol=1e-10)
        tv = 0.5 * np.abs(law - star).sum(-1)
        bound = np.array([rso_bound(value, n) for value in np.minimum(p, 1.0)])
        check.identity("claim: (1 - p)^n", bound, 1 - seen, tol=1e-10)
        check.inequality("claim", tv, bound, scale=1e-3, tol=1e-9)
        check.inequality("claim: from below", best * bound, tv, scale=1e-3, tol=1e-9)
        # The average over the m: two ways to write it.
        m, q = int(rng.integers(1, n + 1)), float(rng.random() ** 2) + 1e-9
        few = np.arange(n + 1)
        shortfall = (binom.pmf(few, n, q) * np.maximum(m - few, 0)).sum() / m
        check.identity("step 4: total variation", rso_bound(q, n, m), shortfall, tol=1e-9)
    rng, runs = check.rng, check.choose(20_000, 2_000)
    pi0, reward = np.array([[0.5, 0.3, 0.15, 0.05]]), np.array([[0.0, 0.7, 1.5, 3.0]])
    p = float(acceptance_probability(reward, 1.0, pi0)[0])
    star = gibbs_policy(reward, 1.0, pi0)
    for n, m in ((12, 1), (24, 3), (64, 8), (8, 8)):
        policy, error = rso_policy(reward, 1.0, pi0, rng, n, m, runs)
        tv, bound = float(total_variation(policy, star)[0]), rso_bound(p, n, m)
        check.inequality("claim, simulated", max(tv - 2 * error.sum(), 0.0), bound)
        check.limit("claim: best, simulated", policy[0, 3], error[0, 3], star[0, 3] * (1 - bound))
        check.not_vacuous("claim", bound, 1.0)
    taken = rso_sample(reward, 1.0, pi0, rng, 24, 3, runs)[0]
    for turn in range(3):
        chance = star[0] * binom.sf(turn, 24, p)
        share = np.array([(taken[:, turn] == a).mean() for a in range(4)])
        room = 4 * np.sqrt(share * (1 - share) / runs)
        check.inequality("claim: the l-th, simulated", np.maximum(chance - room, 0.0), share)
    # Two values, the worse one hopeless: the bound is what happens.
    pair = np.array([[-40.0, 0.0]]), np.array([[0.9, 0.1]])
    for n, m in ((12, 1), (30, 4), (30, 30)):
        law, error = rso_policy(pair[0], 1.0, pair[1], rng, n, m, runs)
        check.limit("claim: attained, simulated", law[0, 0], error[0, 0] + 1e-12,
                    rso_bound(0.1, n, m))
    check.at_least("step 5: sharp", first_law(np.array([0.9, 0.1]), np.array([1e-9, 1.0]), 30)[0]
                   / rso_bound(0.1, 30), 1 - 1e-6)
    # Equal draws counted once: neither reference is the target.
    pi0, reward = np.array([[0.55, 0.3, 0.15]]), np.array([[0.0, 0.5, 1.5]])
    law, error = rso_policy(reward, 1.0, pi0, rng, 200, 1, runs, True)
    once = counted_once(pi0[0], np.exp(reward[0] - 1.5))
    check.identity("remark: counted once, a law", once.sum(), 1.0)
    check.limit("remark: counted once", law[0], error[0], once)
    check.at_least("remark: counted once, not Gibbs", min(
        float(total_variation(once[None], gibbs_policy(reward, 1.0, base))[0])
        for base in (pi0, np.full((1, 3), 1 / 3))), 0.01)
    # The limits stated in the paper, and the trivial end m = n.
    pi0, reward, beta, n = np.array([[0.7, 0.25, 0.05]]), np.array([[0.0, 0.4, 1.0]]), 0.25, 6
    runs = check.choose(40_000, 4_000)
    hot = rso_sample(reward, 1e12, pi0, check.rng, n, 3, runs)[0]
    share = np.array([(hot == a).mean() for a in range(3)])
    check.limit("remark: hot limit is the reference", share,
                np.sqrt(pi0[0] * (1 - pi0[0]) / (3 * runs)), pi0[0])
    cold = rso_sample(reward, 1e-12, pi0, check.rng, n, 2, runs)[0]
    check.holds("remark: cold limit is top-k", reward[0][cold[:, 0]] >= reward[0][cold[:, 1]])
    whole = rso_sample(reward, beta, pi0, check.rng, n, n, runs)[0]
    share = np.array([(whole == a).mean() for a in range(3)])
    check.limit("remark: taking all n is the reference", share,
                np.sqrt(pi0[0] * (1 - pi0[0]) / (n * runs)), pi0[0])
