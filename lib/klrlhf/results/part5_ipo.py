r"""Checks of part V, item 5.2: IPO as least squares on the comparison graph.

What lives here: the minimizer of the IPO loss with its bound, and what it converges to when the
votes are Bradley-Terry.
What does not: DPO without a ball (``part5_separation``).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logsumexp

from klrlhf.bandit import Bandit
from klrlhf.direct import fit_ipo, ipo_gradient, ipo_limit, ipo_loss, ipo_targets
from klrlhf.numerics import sharp_hoeffding
from klrlhf.policies import kl_divergence_from_logs
from klrlhf.preferences import Comparisons, all_pairs, policy_design, sample_comparisons
from klrlhf.results.part5_separation import random_votes, tabular
from klrlhf.results.registry import result
from klrlhf.values import plug_in_suboptimality, suboptimality


def span(values):
    return values.max(-1) - values.min(-1)


def laplacian(weights, pairs, K):
    """Laplacians (..., K, K) of one context, by incidence vectors."""
    D = np.eye(K)[pairs[:, 1]] - np.eye(K)[pairs[:, 2]]
    return np.einsum("...t,ti,tj->...ij", weights, D, D), D


@result("ipo-bounded", part="V", item="5.2", kind="inequality",
        title="IPO is least squares on the comparison graph",
        source="this book; loss of azar2024general", depends=("hoeffding-kl",))
def ipo_bounded(check):
    """Log-ratios of a component of K actions differ by at most (K - 1)/(2 tau)."""
    for rng, size in check.batches(10_000, fast=1_000, size=500):
        S, K = int(rng.integers(1, 3)), int(rng.integers(2, 6))
        data = tabular(*random_votes(rng, size, S, K), S, K)
        tau = 10.0 ** rng.uniform(-1.5, 1, size)
        pi0 = rng.dirichlet(np.ones(K), S) + 1e-6
        pi0 /= pi0.sum(-1, keepdims=True)
        fit = fit_ipo(data, pi0, tau)
        any_policy = rng.standard_normal((size, S, K)) / tau[:, None, None]
        any_policy -= logsumexp(any_policy, axis=-1, keepdims=True)
        # Step 1: the vote-by-vote loss is a weighted square distance from the targets.
        x, first, second = data.pairs.T
        for log_policy in (any_policy, fit.log_policy):
            ratio = log_policy - np.log(pi0)
            h = ratio[:, x, first] - ratio[:, x, second]
            target, c = ipo_targets(data, tau), 0.5 / tau[:, None]
            square = (data.counts * ((h - target) ** 2 + c**2 - target**2)).sum(-1)
            loss = ipo_loss(log_policy, pi0, data, tau)
            check.identity("step 1: weighted squares", loss, square,
                           scale=1e-9 + (data.counts * (h**2 + c**2)).sum(-1))
        gradient = ipo_gradient(fit.log_policy, pi0, data, tau)
        check.identity("step 2: the normal equations", gradient, 0.0,
                       scale=(1 + data.n[:, None, None]) / tau[:, None, None], tol=1e-10)
        check.inequality("claim: a minimizer", fit.loss, ipo_loss(any_policy, pi0, data, tau),
                         scale=1e-9 + data.n / tau**2, tol=1e-11)
        moved = np.log(pi0) + fit.log_ratio + rng.standard_normal((size, S, K))
        check.inequality("claim: nothing near is better", fit.loss,
                         ipo_loss(moved, pi0, data, tau), scale=1e-9 + data.n / tau**2)
        check.identity("claim: normalized", logsumexp(fit.log_policy, axis=-1), 0.0, tol=1e-10,
                       scale=1 + 1 / tau[:, None])
        width = (K - 1) / (2 * tau)
        connected = fit.unique
        check.inequality("claim: span", span(fit.log_ratio)[connected],
                         np.broadcast_to(width[:, None], connected.shape)[connected], tol=1e-10)
        kl = kl_divergence_from_logs(fit.log_policy, np.log(pi0))
        check.inequality("claim: KL", kl[connected], sharp_hoeffding(
            np.broadcast_to(width[:, None], connected.shape))[connected], tol=1e-9, scale=1e-9)
        x, joined = data.pairs[:, 0], np.zeros((size, S, K, K), bool)
        joined[:, x, first, second] = joined[:, x, second, first] = data.counts > 0
        for k in range(K):
            joined |= joined[..., :, k, None] & joined[..., k, None, :]
        members = (joined | np.eye(K, dtype=bool)).sum(-1)
        check.holds("claim: unique iff connected", connected == (members == K).all(-1))
        parts = (pi0 * sharp_hoeffding((members - 1) / (2 * tau[:, None, None]))).sum(-1)
        check.inequality("claim: KL, one component at a time", kl, parts, tol=1e-9, scale=1e-9)
        # Step 3: potentials as flows, one connected context at a time.
        pairs = all_pairs(1, K)
        weights = rng.dirichlet(np.full(len(pairs), 0.3), size) + 1e-9
        votes = rng.choice([-1.0, 1.0, 0.3], weights.shape)
        matrix, D = laplacian(weights, pairs, K)
        ends = np.zeros((K, 1))
        ends[0], ends[1] = 1.0, -1.0
        inverse = np.linalg.inv(matrix + 1.0 / K)
        flow = weights * (D @ (inverse @ ends))[..., 0]
        drop = np.einsum("nij,tj,nt->ni", inverse, D, weights * votes)
        check.identity("step 3: the drop is an average over the flow", drop[:, 0] - drop[:, 1],
                       (votes * flow).sum(-1), scale=K, tol=1e-6)
        check.inequality("step 3: the flow has length at most K - 1", np.abs(flow).sum(-1),
                         K - 1.0, tol=1e-7)
    # One pair and every tree: the targets themselves.
    rng = check.rng
    for _ in range(check.choose(200, 50)):
        K, tau = int(rng.integers(2, 7)), float(10.0 ** rng.uniform(-1, 1))
        pairs = np.array([[0, int(rng.integers(0, b)), b] for b in range(1, K)])
        N = rng.integers(1, 20, K - 1)
        k = rng.integers(0, N + 1)
        data = Comparisons(pairs, np.zeros((K - 1, 1)), N, k)
        pi0 = rng.dirichlet(np.ones(K), 1) + 1e-9
        pi0 /= pi0.sum()
        ratio = fit_ipo(data, pi0, tau).log_ratio[0]
        check.identity("claim: k wins of N", ratio[pairs[:, 1]] - ratio[pairs[:, 2]],
                       (2 * k / N - 1) / (2 * tau), scale=1 / tau, tol=1e-10)
    # A unanimous chain attains the span, two actions attain the divergence.
    for K in (2, 3, 6):
        data = Comparisons([[0, a, a + 1] for a in range(K - 1)], np.zeros((K - 1, 1)),
                           np.ones(K - 1), np.ones(K - 1))
        ratio = fit_ipo(data, np.full((1, K), 1 / K), 0.4).log_ratio[0]
        check.identity("claim: the chain attains the span", span(ratio), (K - 1) / 0.8)
    one = Comparisons([[0, 0, 1]], [[0.0]], [3], [3])
    t = 1 / 0.8
    q = 1 / (1 - np.exp(-t)) - 1 / t  # weight of the winner in the extremal law
    p0 = q * np.exp(-t) / (q * np.exp(-t) + 1 - q)
    fit = fit_ipo(one, [[p0, 1 - p0]], 0.4)
    check.identity("claim: the divergence is attained", kl_divergence_from_logs(
        fit.log_policy, np.log([[p0, 1 - p0]])), sharp_hoeffding(t), tol=1e-10)

    # Even a compared pair can be moved by K - 1 units, by a long detour of many votes.
    def detour(u, K=4):
        pairs = np.array([[0, a, a + 1] for a in range(K - 1)] + [[0, 0, K - 1]])
        n = np.round(np.concatenate([10.0 ** np.clip(np.abs(u), 0, 6), [1]]))
        data = Comparisons(pairs, np.zeros((K, 1)), n, [*n[:-1], 0])
        ratio = fit_ipo(data, np.full((1, K), 1 / K), 0.5).log_ratio[0]
        return (ratio[0] - ratio[K - 1]) / (K - 1)

    check.search("claim: span, searched", detour, [[0, 0, 0], [1, 2, 3]])


@result("ipo-population", part="V", item="5.2", kind="identity",
        title="What IPO estimates", source="this book; product designs: azar2024general",
        depends=("ipo-bounded", "second-order-gap"))
def ipo_population(check):
    """Its limit is the Gibbs policy of P(a beats mu) at coefficient tau, not of the reward."""
    for rng, size in check.batches(10_000, fast=1_000, size=500):
        S, K = int(rng.integers(1, 3)), int(rng.integers(2, 6))
        reward = rng.standard_normal((size, S, K)) * 10.0 ** rng.uniform(-1, 1, (size, 1, 1))
        tie = rng.random((size, 1, 1)) < 0.2
        reward = np.where(tie, np.round(reward), reward)
        tau = 10.0 ** rng.uniform(-1.5, 1, size)
        pi0, mu = (rng.dirichlet(np.ones(K), (size, S)) + 1e-4 for _ in range(2))
        pi0, mu = (p / p.sum(-1, keepdims=True) for p in (pi0, mu))
        d0 = rng.dirichlet(np.ones(S), size) + 1e-3
        d0 /= d0.sum(-1, keepdims=True)
        limit = ipo_limit(reward, pi0, tau, policy_design(d0, mu, mu))
        difference = reward[..., :, None] - reward[..., None, :]
        beats = (expit(difference) * mu[..., None, :]).sum(-1)  # P(a beats mu)
        claimed = np.log(pi0) + beats / tau[:, None, None]
        claimed -= logsumexp(claimed, axis=-1, keepdims=True)
        check.identity("step 1: votes ask for tanh", 2 * expit(difference) - 1,
                       np.tanh(difference / 2))
        g = (beats - (mu * beats).sum(-1, keepdims=True)) / tau[:, None, None]
        left = mu * (g - (mu * g).sum(-1, keepdims=True))
        right = (mu[..., :, None] * mu[..., None, :] * np.tanh(difference / 2)).sum(-1)
        check.identity("step 2: the normal equations of a product", left,
                       right / (2 * tau[:, None, None]), scale=1 / tau[:, None, None])
        check.identity("claim: Gibbs of the win probability", limit, claimed,
                       scale=1 + 1 / tau[:, None, None] - np.log(pi0).min(), tol=1e-8)
        # At tau = beta / 4 the implicit reward is 4 P(a beats mu).
        bias = reward - 4 * beats
        order = np.argsort(reward, axis=-1)
        rises = np.diff(np.take_along_axis(bias, order, -1), axis=-1)
        check.inequality("step 3: the bias grows with the reward", -rises, 0.0,
                         scale=1 + np.abs(reward).max(), tol=1e-12)
        R = span(reward)
        check.inequality("step 3: range of the bias", span(bias), R - 2 * np.tanh(R / 2),
                         scale=1e-6 * (1 + R), tol=1e-9)
        check.inequality("claim: cubic", R - 2 * np.tanh(R / 2), R**3 / 12,
                         scale=1e-3 * (1 + R))
        beta = 4 * tau
        implicit = beta[:, None, None] * (limit - np.log(pi0))
        gap = plug_in_suboptimality(implicit, reward, beta, pi0, d0)
        bound = (d0 * sharp_hoeffding((R - 2 * np.tanh(R / 2)) / beta[:, None])).sum(-1) * beta
        check.inequality("claim: gap at tau = beta/4", gap, bound, tol=1e-8, scale=1e-9)
        log_ratio = limit - np.log(pi0)
        wins = np.take_along_axis(log_ratio, order, -1)
        check.inequality("claim: product designs keep the order", -np.diff(wins, axis=-1), 0.0,
                         scale=1 / tau[:, None, None], tol=1e-10)
    # Two actions attain the range, and with the extremal law the gap.
    for R in (0.5, 2.0, 6.0):
        for beta in (0.05, 1.0):
            t = (R - 2 * np.tanh(R / 2)) / beta
            q = 1 / (1 - np.exp(-t)) - 1 / t
            # The fitted policy puts q on the worse answer, which the truth tilts away from.
            logits = np.array([np.log1p(-q) - 2 * np.tanh(R / 2) / beta, np.log(q)])
            pi0 = np.exp(logits - logsumexp(logits))[None]
            reward = np.array([[R, 0.0]])
            fitted = ipo_limit(reward, pi0, beta / 4, [1.0])
            check.identity("claim: two actions", np.diff(fitted - np.log(pi0)),
                           [[-2 * np.tanh(R / 2) / beta]], scale=1 + R / beta)
            gap = plug_in_suboptimality(beta * (fitted - np.log(pi0)), reward, beta, pi0, [1.0])
            check.identity("claim: the gap is attained", gap, beta * sharp_hoeffding(t),
                           scale=beta * sharp_hoeffding(t), tol=1e-7)
            check.identity("claim: the gap is a value difference", suboptimality(
                np.exp(fitted), reward, beta, pi0, [1.0]), gap, scale=gap, tol=1e-6)

    # An optimizer looks for a larger loss with three answers and any product design.
    def loss_ratio(u):
        r, mu, p = u[:3][None] * 2, np.exp(u[3:6])[None], np.exp(u[6:9])[None]
        mu, p, beta = mu / mu.sum(), p / p.sum(), float(np.exp(np.clip(u[9], -3, 2)))
        R = float(span(r)[0])
        if R < 1e-3:
            return 0.0
        won = (expit(r[..., :, None] - r[..., None, :]) * mu[..., None, :]).sum(-1)
        bound = beta * sharp_hoeffding((R - 2 * np.tanh(R / 2)) / beta)
        return plug_in_suboptimality(4 * won, r, beta, p, [1.0]) / bound

    check.search("claim: gap at tau = beta/4, searched", loss_ratio,
                 check.rng.standard_normal((3, 10)))
    # A chain of four answers: the order of the ends is reversed.
    reward = np.array([[1.0, -4.0, -2.0, 0.0]])
    design = np.zeros(6)
    design[[0, 3, 5]] = 1 / 3  # pairs (1,2), (2,3), (3,4)
    fitted = ipo_limit(reward, np.full((1, 4), 0.25), 0.5, design)[0]
    check.at_least("claim: a chain reverses the order", fitted[3] - fitted[0], 0.5)
    check.identity("claim: the chain adds its links", fitted[0] - fitted[3],
                   np.tanh(2.5) - 2 * np.tanh(1.0))
    # No beta makes three answers of unequal spacing a Gibbs policy of the reward.
    reward = np.array([[0.0, 1.0, 4.0]])
    third = np.full((1, 3), 1 / 3)
    fitted = ipo_limit(reward, third, 1.0, policy_design([1.0], third, third))[0]
    slopes = np.diff(fitted) / np.diff(reward[0])
    check.at_least("claim: not a Gibbs policy of the reward", slopes[0] / slopes[1], 1.2)
    # Consistency: the fit tends to the limit like n^(-1/2).
    bandit = Bandit.running_example(0.5, "good")
    pairs = all_pairs(bandit.S, bandit.K)
    design = policy_design(bandit.d0, bandit.pi0, bandit.pi0)
    limit = ipo_limit(bandit.reward, bandit.pi0, 0.2, design)
    sizes, errors = np.array([10**4, 10**5, 10**6]), []
    for n in sizes:
        data = sample_comparisons(bandit, int(n), design, check.rng, check.choose(400, 100))
        error = fit_ipo(data, bandit.pi0, 0.2).log_policy - limit
        errors.append(np.sqrt((error**2).mean()))
    assert len(pairs) == design.shape[-1]
    check.slope("claim: the fit converges", sizes, errors, -0.5, 0.03)
