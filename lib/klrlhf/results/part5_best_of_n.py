"""Checks for item 5.5: divergence and win rate of best-of-n, and of any rule that picks a draw."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
from scipy.optimize import nnls

from klrlhf.policies import best_of_n_policy, chi2_divergence, kl_divergence
from klrlhf.results.instances import random_instances, random_policies
from klrlhf.results.registry import result
from klrlhf.sampling import (
    best_of_n_bounds,
    best_of_n_cell_gap,
    best_of_n_kl,
    best_of_n_kl_estimate,
    best_of_n_kl_from_top,
    best_of_n_kl_gap,
    best_of_n_win_rate,
    selection_policy,
    win_rate,
)

DRAWS = (1, 2, 3, 4, 7, 16, 64, 1000, 10**6)
SIZES = ((2, 2), (3, 2), (2, 4), (3, 3), (4, 2), (2, 6), (4, 3))
NODES, WEIGHTS = np.polynomial.legendre.leggauss(60)


def random_rules(rng, size: int, K: int, n: int):
    """References (size, K) and rules: noisy, deterministic, adversarial, best-of-n with ties."""
    pi0 = random_policies(rng, size, 1, K)[:, 0]
    shape = (size, *(K,) * n, n)
    score = rng.standard_normal(shape) * 10.0 ** rng.uniform(-1, 2, (size, *(1,) * (n + 1)))
    # A third ranks the draws by a reward (some of these with ties).
    reward = rng.standard_normal((size, K))
    reward = np.where(rng.random((size, 1)) < 0.3, np.round(reward), reward)
    # A rule that seeks rare answers is the natural adversary of the divergence.
    reward = np.where(rng.random((size, 1)) < 0.3, -np.log(pi0), reward)
    draws = np.stack(np.meshgrid(*[np.arange(K)] * n, indexing="ij"), axis=-1)
    ranked = 1e3 * reward[:, draws]
    kind = rng.integers(0, 3, (size, *(1,) * (n + 1)))
    score = np.where(kind == 0, score, np.where(kind == 1, 1e6 * score, ranked))
    rule = np.exp(score - score.max(axis=-1, keepdims=True))
    return pi0, rule / rule.sum(axis=-1, keepdims=True), reward


def fine_cells(count: int = 4000, low: float = 1e-9):
    """A reference on many answers whose cells are all short on the scale of log F and log(1-F)."""
    half = np.concatenate([[0.0], np.geomspace(low, 0.5, count // 2)])
    ends = np.concatenate([half, 1 - half[::-1][1:]])
    pi0 = np.diff(ends)[None]
    return pi0 / pi0.sum(), np.arange(pi0.size, dtype=float)[None]


def falling_integral(n: int, start, end):
    """The integral of ``w log w`` from `start` to `end`, for ``w(u) = n (1 - u)^(n-1)``."""
    def primitive(y):
        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.where(y > 0, np.log(np.where(y > 0, y, 1.0)), 0.0)
        return y**n * (np.log(n) + (n - 1) * log - (n - 1) / n)

    return primitive(1 - start) - primitive(1 - end)


def uniform_laws(rng, size: int, n: int):
    """Random instances with exact ties, references from flat to nearly deterministic."""
    inst = random_instances(rng, size, S=1)
    return inst.pi0, inst.reward, best_of_n_policy(inst.reward, inst.pi0, n)


def cells(reward, pi0):
    """Per action: lower end G, mass m and upper end F of its cell, and its share of the cell."""
    mine, other = reward[..., :, None], reward[..., None, :]
    below = np.where(other < mine, pi0[..., None, :], 0.0).sum(axis=-1)
    tied = np.where(other == mine, pi0[..., None, :], 0.0).sum(axis=-1)
    return below, tied, np.minimum(below + tied, 1.0), pi0 / tied


@result("best-of-n-kl", part="V", item="5.5", kind="inequality",
        title="KL of any rule that returns one of n draws", source="beirami2024theoretical")
def best_of_n_kl_bound(check):
    """Whatever the rule, the law of the returned draw has KL at most log n - (n-1)/n to pi0."""
    for rng, size in check.batches(24_000, fast=2_800, size=400):
        K, n = SIZES[rng.integers(len(SIZES))]
        pi0, rule, _ = random_rules(rng, size, K, n)
        law = selection_policy(rule, pi0)
        bound = best_of_n_bounds(n)
        for many in range(1, K + 1):
            for event in combinations(range(K), many):
                seen = -np.expm1(n * np.log1p(-np.minimum(pi0[:, event].sum(axis=-1), 1 - 1e-16)))
                check.inequality("Step 1: an event must have been drawn",
                                 law[:, event].sum(axis=-1), seen, scale=1.0, tol=1e-13)
        mixed = 0.999 * law + 0.001 * pi0
        order = np.argsort(-mixed / pi0, axis=-1)
        q, p = (np.take_along_axis(v, order, axis=-1) for v in (mixed, pi0))
        ends = np.minimum(np.cumsum(p, axis=-1), 1.0)
        starts = np.concatenate([np.zeros((size, 1)), ends[:, :-1]], axis=-1)
        slack = 1 - (1 - ends) ** n - np.cumsum(q, axis=-1)
        check.inequality("Step 2: partial sums below those of w", -slack, 0.0, scale=1.0, tol=1e-13)
        ratio = np.log(q / p)
        abel = (slack[:, :-1] * (ratio[:, :-1] - ratio[:, 1:])).sum(axis=-1)
        share = (1 - starts) ** n - (1 - ends) ** n
        inside = (falling_integral(n, starts, ends) - share * ratio).sum(axis=-1)
        kl = kl_divergence(mixed[:, None], pi0[:, None])[:, 0]
        check.identity("Step 3: what the bound wastes", bound.kl - kl, abel + inside,
                       scale=1 + np.abs(ratio).max(axis=-1), tol=1e-12)
        check.inequality("Step 4: both wastes are nonnegative", -np.minimum(abel, inside), 0.0,
                         scale=1 + np.abs(ratio).max(axis=-1), tol=1e-12)
        kl = kl_divergence(law[:, None], pi0[:, None])[:, 0]
        chi2 = chi2_divergence(law[:, None], pi0[:, None])[:, 0]
        check.inequality("claim: KL", kl, bound.kl, scale=1.0, tol=1e-13)
        check.inequality("claim: chi-squared", chi2, bound.chi2, scale=n, tol=1e-13)
        check.inequality("claim: ratio", (law / pi0).max(axis=-1), bound.ratio, tol=1e-11)
    for n in DRAWS[1:6]:
        # With u = y^6 the logarithm at 0 does no harm to the quadrature.
        y = 0.5 * (NODES + 1)
        u, slope = y**6, 6 * y**5
        total = 0.5 * (WEIGHTS * slope * n * u ** (n - 1) * (
            np.log(n) + (n - 1) * np.log(u))).sum()
        check.identity("Step 5: the integral of w log w", total, best_of_n_bounds(n).kl, tol=1e-12)
    for rng, size in check.batches(12_000, fast=1_200, size=600):
        n = int(rng.choice(DRAWS))
        pi0, reward, _ = uniform_laws(rng, size, n)
        check.inequality("claim: best-of-n, ties", best_of_n_kl(reward, pi0, n)[:, 0],
                         best_of_n_bounds(n).kl, scale=1.0, tol=1e-13)
    pi0, reward = fine_cells()
    for n in (2, 5, 100, 10_000):
        bound, law = best_of_n_bounds(n), best_of_n_policy(reward, pi0, n)
        check.at_least("attained: KL with fine cells",
                       float(best_of_n_kl(reward, pi0, n)[0] / bound.kl), 0.9995)
        check.at_least("attained: ratio with fine cells",
                       float((law / pi0).max() / bound.ratio), 0.999)
        check.at_least("attained: chi-squared with fine cells",
                       float(chi2_divergence(law, pi0)[0] / bound.chi2), 0.999)

    def ratio(x):
        pi0 = np.exp(x[:3] - np.logaddexp.reduce(x[:3]))
        first = (1 / (1 + np.exp(-np.clip(x[3:], -50, 50)))).reshape(3, 3)
        law = selection_policy(np.stack([first, 1 - first], axis=-1), pi0)
        return kl_divergence(law[None], pi0[None])[0] / best_of_n_bounds(2).kl

    check.search("claim: search over rules", ratio, check.rng.normal(size=(3, 12)), maxiter=1200)


@result("best-of-n-rules", part="V", item="5.5", kind="inequality",
        title="Rules are mixtures of best-of-n", source="this book")
def best_of_n_rules(check):
    """The laws of all rules are the mixtures of the best-of-n laws of the K! strict orders."""
    for rng, size in check.batches(12_000, fast=1_200, size=400):
        K, n = SIZES[rng.integers(len(SIZES))]
        pi0, rule, reward = random_rules(rng, size, K, n)
        law = selection_policy(rule, pi0)
        best = best_of_n_policy(reward[:, None], pi0[:, None], n)[:, 0]
        draws = np.stack(np.meshgrid(*[np.arange(K)] * n, indexing="ij"), axis=-1)
        weight = np.prod(pi0[:, draws], axis=-1)
        largest = (weight * reward[:, draws].max(axis=-1)).reshape(size, -1).sum(axis=-1)
        scale = 1 + np.abs(reward).max(axis=-1)
        check.inequality("Step 1: no rule beats best-of-n", (law * reward).sum(axis=-1), largest,
                         scale=scale, tol=1e-13)
        check.identity("Step 2: best-of-n earns the largest draw", (best * reward).sum(axis=-1),
                       largest, scale=scale, tol=1e-13)
        orders = [best_of_n_policy(np.array(o, float)[None, None], pi0[:, None], n)[:, 0]
                  for o in permutations(range(K))]
        worst = np.max([kl_divergence(q[:, None], pi0[:, None])[:, 0] for q in orders], axis=0)
        check.inequality("claim: the largest KL is that of an order",
                         kl_divergence(law[:, None], pi0[:, None])[:, 0], worst, scale=1.0,
                         tol=1e-13)
        for i in range(check.choose(12, 4)):
            corners = np.stack([q[i] for q in orders], axis=-1)
            _, rest = nnls(np.vstack([corners, np.ones(len(orders))]), np.append(law[i], 1.0))
            check.identity("claim: a mixture of orders", rest, 0.0, tol=1e-12)


@result("best-of-n-kl-gap", part="V", item="5.5", kind="identity",
        title="The KL of best-of-n exactly", source="this book; cf. beirami2024theoretical",
        depends=("best-of-n-kl",))
def best_of_n_kl_exact(check):
    """log n - (n-1)/n minus the KL of best-of-n is the sum of q_j iota_n(G_j/F_j) over cells."""
    for rng, size in check.batches(24_000, fast=2_400, size=800):
        n = int(rng.choice(DRAWS))
        pi0, reward, law = uniform_laws(rng, size, n)
        lower, mass, upper, share = cells(reward, pi0)
        top = best_of_n_bounds(n).kl
        gap = best_of_n_kl_gap(reward, pi0, n)[:, 0]
        kl = kl_divergence(law, pi0)[:, 0]
        check.identity("claim: exact correction", top - gap, kl, scale=1 + top, tol=2e-12)
        check.identity("claim: KL from cells", best_of_n_kl(reward, pi0, n)[:, 0], kl,
                       scale=1 + kl, tol=1e-11)
        p = law / share
        mean = p / mass
        kappa = best_of_n_cell_gap(n, np.minimum(lower / upper, 1.0))
        check.inequality("Step 3: one cell", p * kappa, mass * (n * upper ** (n - 1) - mean),
                         scale=mass * n, tol=1e-9)
        check.inequality("Step 3: slope of w", mass * (n * upper ** (n - 1) - mean),
                         n * (n - 1) / 2 * mass**2, scale=mass * n, tol=1e-9)
        check.inequality("claim: at most n(n-1)/2 times the squared masses", gap,
                         (n * (n - 1) / 2 * share * mass**2).sum(axis=-1)[:, 0], tol=1e-9)
        with np.errstate(divide="ignore"):
            length = -np.log(np.minimum(lower / upper, 1.0))
        curve = np.minimum(top, (n - 1) ** 2 * np.minimum(length, 1e6) ** 2 / 24)
        check.inequality("claim: at most the mean of (n-1)^2 length^2 / 24", gap,
                         (law * curve).sum(axis=-1)[:, 0], scale=1e-12, tol=1e-9)
        best = reward == reward.max(axis=-1, keepdims=True)
        eps = np.where(best, pi0, 0.0).sum(axis=-1)[:, 0]
        simple = best_of_n_kl_from_top(n, np.minimum(eps, 1.0))
        check.inequality("claim: from the best mass alone", kl, simple, scale=1 + top, tol=1e-12)
        check.inequality("claim: better than both simple bounds", simple,
                         np.minimum(top, -np.log(np.minimum(eps, 1.0))), scale=1 + top, tol=1e-12)
        tau, m = rng.uniform(0.05, 1, size), int(rng.integers(2, 9))
        u = tau[:, None] + (1 - tau[:, None]) * 0.5 * (NODES + 1)
        density = m * u ** (m - 1) / (1 - tau[:, None] ** m)
        inside = 0.5 * (1 - tau) * (WEIGHTS * density * np.log(
            density * (1 - tau[:, None]))).sum(axis=-1)
        check.identity("Step 1: iota is the KL inside a cell", best_of_n_cell_gap(m, tau), inside,
                       tol=1e-11)
        c, x = 1 + (m - 1) * 0.5 * (NODES + 1), -0.5 * np.log(tau[:, None])
        variance = (1 - (c * x / np.sinh(np.minimum(c * x, 300.0))) ** 2) / c**2
        check.identity("Step 2: iota is an integral of variances", best_of_n_cell_gap(m, tau),
                       (m - 1) / 2 * (WEIGHTS * (c - 1) * variance).sum(axis=-1), tol=1e-7)
        check.inequality("Step 2: at most one third of the square", best_of_n_cell_gap(m, tau),
                         (m - 1) ** 2 * np.log(tau) ** 2 / 24, tol=1e-9)
    for n in (2, 10, 1000):
        tau = np.exp(-1e-3 / n)
        check.at_least("attained: the 1/24 for small cells", float(
            best_of_n_cell_gap(n, tau) / ((n - 1) ** 2 * np.log(tau) ** 2 / 24)), 0.99999)
        pi0, reward = fine_cells()
        pi0 = np.concatenate([0.7 * pi0, [[0.3]]], axis=-1)
        reward = np.concatenate([reward, [[1e6]]], axis=-1)
        check.at_least("attained: bound from the best mass", float(
            best_of_n_kl(reward, pi0, n)[0] / best_of_n_kl_from_top(n, 0.3)), 0.999)
    check.at_least("attained: one cell, two draws, twice the best constant",
                   float(best_of_n_cell_gap(2, 0.0)), 2 * 0.0965)


@result("best-of-n-kl-estimate", part="V", item="5.5", kind="inequality",
        title="Estimating the KL of best-of-n", source="this book; cf. beirami2024theoretical",
        depends=("best-of-n-kl-gap",))
def best_of_n_estimates(check):
    """Two estimates from pi0(a) at returned answers have means above the KL, in a fixed order."""
    for rng, size in check.batches(24_000, fast=2_400, size=800):
        n = int(rng.choice(DRAWS))
        pi0, reward, law = uniform_laws(rng, size, n)
        lower, mass, upper, _ = cells(reward, pi0)
        top, own = best_of_n_bounds(n).kl, np.clip(pi0, 1e-40, 1.0)
        sharp, published = best_of_n_kl_estimate(n, own), best_of_n_kl_from_top(n, own)
        check.inequality("Step 1: iota decreases", top - sharp,
                         best_of_n_cell_gap(n, np.minimum(lower / upper, 1.0)), scale=1 + top,
                         tol=2e-10)
        check.identity("Step 2: the published estimate", top - published,
                       -np.expm1(n * np.log1p(-np.minimum(own, 1 - 1e-16))) * (top - sharp),
                       scale=1 + top, tol=1e-10)
        kl, mean = best_of_n_kl(reward, pi0, n)[:, 0], (law * sharp).sum(axis=-1)[:, 0]
        check.inequality("claim: above the KL", kl, mean, scale=1 + top, tol=1e-12)
        check.inequality("claim: below the published estimate", mean,
                         (law * published).sum(axis=-1)[:, 0], scale=1 + top, tol=1e-12)
        check.inequality("claim: below the common formula", published, top, scale=1 + top,
                         tol=1e-12)
    pi0, reward = fine_cells()
    for n in (2, 100):
        law = best_of_n_policy(reward, pi0, n)
        check.at_least("attained: fine cells", float(best_of_n_kl(reward, pi0, n)[0] / (
            law * best_of_n_kl_estimate(n, pi0)).sum()), 0.9995)


@result("best-of-n-win-rate", part="V", item="5.5", kind="inequality",
        title="Win rate of best-of-n", source="beirami2024theoretical; this book",
        depends=("best-of-n-rules",))
def best_of_n_win_rate_bounds(check):
    """P(>) + P(=)/2 <= n/(n+1) <= P(>=) for best-of-n against one draw, with exact correction."""
    for rng, size in check.batches(24_000, fast=2_400, size=800):
        n = int(rng.choice(DRAWS))
        pi0, reward, law = uniform_laws(rng, size, n)
        lower, mass, upper, share = cells(reward, pi0)
        rate = best_of_n_win_rate(reward, pi0, n)
        target = n / (n + 1)
        versus = law[:, 0, :, None] * pi0[:, 0, None, :]
        first, second = reward[:, 0, :, None], reward[:, 0, None, :]
        check.identity("Step 1: the cells give P(>)", (versus * (first > second)).sum(axis=(1, 2)),
                       rate.win[:, 0], tol=1e-13)
        check.identity("Step 1: the cells give P(=)", (versus * (first == second)).sum(axis=(1, 2)),
                       rate.tie[:, 0], tol=1e-13)
        p = upper**n - lower**n
        moment = target * (upper ** (n + 1) - lower ** (n + 1))
        check.inequality("Step 2: middle of the cell below the mean", p * (lower + upper) / 2,
                         moment, scale=1.0, tol=1e-13)
        check.inequality("Step 2: mean below the end of the cell", moment, p * upper, scale=1.0,
                         tol=1e-13)
        lost = target - rate.rate[:, 0]
        each = moment - p * (lower + upper) / 2
        check.identity("Step 3: exact correction", lost, (share * each).sum(axis=-1)[:, 0],
                       tol=2e-9)
        check.inequality("claim: win rate", rate.rate[:, 0], target, scale=1.0, tol=1e-13)
        check.inequality("claim: at least", target, rate.at_least[:, 0], scale=1.0, tol=1e-13)
        check.inequality("claim: correction, cubes", lost, n * (n - 1) / 12 * (
            share * mass**3).sum(axis=-1)[:, 0], scale=1e-2, tol=1e-11)
        check.inequality("claim: correction, law", lost, (n - 1) / (2 * (n + 1)) * (
            law * mass).sum(axis=-1)[:, 0], scale=1e-2, tol=1e-11)
        K, few = SIZES[rng.integers(len(SIZES))]
        small, rule, _ = random_rules(rng, 200, K, few)
        reward = np.round(rng.standard_normal((200, 1, K)), int(rng.integers(0, 3)))
        own = win_rate(selection_policy(rule, small)[:, None], reward, small[:, None]).rate
        best = best_of_n_win_rate(reward, small[:, None], few).rate
        check.inequality("claim: no rule wins more", own, best, scale=1.0, tol=1e-13)
    for rng, size in check.batches(2_000, fast=400, size=400):
        pi0, reward, _ = uniform_laws(rng, size, 2)
        _, mass, _, share = cells(reward, pi0)
        lost = 2 / 3 - best_of_n_win_rate(reward, pi0, 2).rate[:, 0]
        cubes = (share * mass**3).sum(axis=-1)[:, 0]
        check.identity("attained: two draws, cubes", lost, cubes / 6, tol=1e-13)
        check.inequality("claim: correction, cubes", lost, 2 * (2 - 1) / 12 * cubes, scale=1e-2,
                         tol=1e-11)
    pi0, reward = fine_cells()
    for n in (1, 2, 10, 1000):
        rate = best_of_n_win_rate(reward, pi0, n)
        check.at_least("attained: win rate", float(rate.rate[0] * (n + 1) / n), 0.9999)
        check.at_least("attained: at least", float(n / (n + 1) / rate.at_least[0]), 0.98)
        one = best_of_n_win_rate([[0.0, 0.0]], [[0.3, 0.7]], n)
        check.identity("attained: one value", n / (n + 1) - one.rate[0],
                       (n - 1) / (2 * (n + 1)), tol=1e-14)
