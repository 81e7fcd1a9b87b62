r"""Checks of part V, item 5.10: Nash policies against Gibbs policies, and learning the game.

What lives here: when a Nash policy is the Gibbs policy of a reward, what a Bradley-Terry fit loses
on a cycle, and the Nash policy of estimated preferences.
What does not: the game itself (``part5_games``).
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from klrlhf.bandit import Bandit
from klrlhf.estimation import fit_mle
from klrlhf.games import (
    bradley_terry_preferences,
    cyclic_preferences,
    exploitability,
    game_value,
    interaction,
    linear_preferences,
    log_nash_policy,
    log_odds_payoff,
    nash_estimation_bound,
    nash_policy,
    preference_error_bound,
    sample_preferences,
)
from klrlhf.numerics import sharp_hoeffding, sigmoid
from klrlhf.policies import gibbs_policy, kl_divergence, kl_divergence_from_logs, log_gibbs_policy
from klrlhf.preferences import Comparisons, all_pairs, pair_features
from klrlhf.results.instances import random_policies
from klrlhf.results.part5_games import antisymmetric, random_games, transitive
from klrlhf.results.registry import result


@result("nash-is-gibbs", part="V", item="5.10", kind="identity",
        title="When the Nash policy is a Gibbs policy", source="this book",
        depends=("nash-unique", "gibbs-variational"))
def nash_is_gibbs(check):
    """A payoff r(a) - r(b) gives Gibbs(r, beta); no other payoff gives one reward for all pi0."""
    for rng, size in check.batches(10_000, fast=1_000, size=500):
        S, K = int(rng.integers(1, 3)), int(rng.integers(2, 6))
        pi0, beta = random_policies(rng, size, S, K), 10.0 ** rng.uniform(-1.5, 1, size)
        pi0 = np.maximum(pi0, 1e-12)
        pi0 = pi0 / pi0.sum(-1, keepdims=True)
        r = rng.standard_normal((size, S, K)) * 10.0 ** rng.uniform(-1, 0.3, (size, 1, 1))
        gibbs = log_gibbs_policy(r, beta, pi0)
        scale = 1 + np.abs(gibbs)
        payoff = r[..., :, None] - r[..., None, :]
        policy = random_policies(rng, size, S, K)
        mean = (policy * r).sum(-1, keepdims=True)
        check.identity("step 1: the opponent drops out",
                       np.einsum("nsab,nsb->nsa", payoff, policy), r - mean,
                       scale=np.abs(r).max() + 1, tol=1e-12)
        check.identity("claim: additive payoff", log_nash_policy(payoff, beta, pi0), gibbs,
                       scale=scale, tol=1e-9)
        c = 2 * np.ptp(r, axis=-1).max(-1) * rng.uniform(1, 3, size)
        check.identity("claim: linear preferences",
                       log_nash_policy(linear_preferences(r, c), beta, pi0),
                       log_gibbs_policy(r, c * beta, pi0), scale=scale, tol=1e-9)
        P = bradley_terry_preferences(r)
        check.identity("claim: log-odds of Bradley-Terry",
                       log_nash_policy(log_odds_payoff(P), beta, pi0), gibbs, scale=scale, tol=1e-8)
        two = bradley_terry_preferences(r[..., :2])[:, :1]
        gap = r[:, 0, 0] - r[:, 0, 1]
        scaled = beta * gap / (sigmoid(gap) - 0.5)
        pair = pi0[:, :1, :2] / pi0[:, :1, :2].sum(-1, keepdims=True)
        wide = log_gibbs_policy(r[:, :1, :2], scaled, pair)
        check.identity("claim: two actions", log_nash_policy(two, beta, pair), wide,
                       scale=1 + np.abs(wide), tol=1e-8)
        check.inequality("claim: at least 4 beta", 4 * beta, scaled, tol=1e-9)
        # Converse: the best pair of opponents shifts the payoffs of two actions by 4 kappa.
        A = antisymmetric(rng, size, S, K)
        shift = A[..., :, None] - A[..., None, :]
        apart = np.ptp(shift.reshape(*A.shape[:2], K, K * K), axis=-2).max(-1)
        check.identity("step 2: two opponents", apart, 4 * interaction(A), tol=1e-13)
        row = A - A.mean(axis=-2, keepdims=True)
        additive = A - (row.mean(-1)[..., :, None] - row.mean(-1)[..., None, :])
        check.inequality("step 3: no interaction, additive", np.abs(additive).max((-1, -2)),
                         4 * interaction(A), scale=1e-12, tol=1e-10)
        levels = np.sort(rng.uniform(-3, 3, (size, 3)), axis=-1)
        x, y = levels[:, 1] - levels[:, 0], levels[:, 2] - levels[:, 1]
        bend = sigmoid(x) + sigmoid(y) - 0.5 - sigmoid(x + y)
        check.identity("step 4: three levels interact", bend, 4 * interaction(
            bradley_terry_preferences(levels[:, None]))[:, 0], tol=1e-13)
        check.holds("step 4: strictly", bend > 0)


@result("nash-not-gibbs", part="V", item="5.10", kind="identity",
        title="Bradley-Terry preferences whose Nash policy is no Gibbs policy", source="this book",
        depends=("nash-is-gibbs",))
def nash_not_gibbs(check):
    """Strengths 1, 2, 4 and a uniform reference: not Gibbs(r, beta') for any beta, any beta'."""
    r = np.log([[1.0, 2.0, 4.0]])
    P, uniform = bradley_terry_preferences(r), np.full((1, 3), 1 / 3)
    exact = np.array([[1 / 2, 1 / 3, 1 / 5], [2 / 3, 1 / 2, 1 / 3], [4 / 5, 2 / 3, 1 / 2]])
    check.identity("step 1: preferences", P[0], exact, tol=1e-15)
    for rng, size in check.batches(10_000, fast=1_000):
        x = 10.0 ** rng.uniform(-3, 3, size)
        policy = np.stack([np.ones(size), x, x**2], -1) / (1 + x + x**2)[:, None]
        u = policy @ P[0].T
        bend = (u[:, 1] - u[:, 0]) - (u[:, 2] - u[:, 1])
        check.identity("step 2: second difference", bend, (1 - x**2) / (30 * (1 + x + x**2)),
                       tol=1e-14)
        # Three distinct rewards: the Gibbs policies among the Nash policies lie on a plane.
        levels = np.sort(rng.uniform(-3, 3, (size, 3)), -1)
        Q = bradley_terry_preferences(levels[:, None])[:, 0]
        low, high = levels[:, 1] - levels[:, 0], levels[:, 2] - levels[:, 1]
        normal = (Q[:, 1] - Q[:, 0]) * high[:, None] - (Q[:, 2] - Q[:, 1]) * low[:, None]
        check.holds("step 4: the plane is proper", normal[:, 0] > 0)
        check.holds("step 4: both sides", normal[:, 2] < 0)
        g_pi = random_policies(rng, size, 1, 3)[:, 0]
        rates = np.einsum("nab,nb->na", Q, g_pi)
        affine = (rates[:, 1] - rates[:, 0]) * high - (rates[:, 2] - rates[:, 1]) * low
        check.identity("step 4: affine in the reward", affine, (normal * g_pi).sum(-1), tol=1e-13)
    betas = 10.0 ** np.linspace(-2, 2, check.choose(41, 9))
    nash = log_nash_policy(P, betas, np.broadcast_to(uniform, (len(betas), 1, 3)))
    rates = np.einsum("ab,nb->na", P[0], np.exp(nash[:, 0]))
    check.identity("step 3: second difference of the Nash policy",
                   nash[:, 0, 0] - 2 * nash[:, 0, 1] + nash[:, 0, 2],
                   (rates[:, 0] - 2 * rates[:, 1] + rates[:, 2]) / betas,
                   scale=1 + 1 / betas, tol=1e-11)
    bends = -(rates[:, 0] - 2 * rates[:, 1] + rates[:, 2])
    check.holds("claim: never affine", bends < 0)

    def distance(k, log_scale):
        target = log_gibbs_policy(r, np.exp(log_scale), uniform)
        return float(kl_divergence_from_logs(nash[k], target)[0])

    for k in np.flatnonzero((betas > 0.02) & (betas < 1)):
        best = minimize_scalar(lambda s, k=k: distance(k, s), bounds=(-3, 4), method="bounded")
        check.at_least("claim: positive distance to every Gibbs policy", best.fun, 1e-9)


@result("nash-cycle", part="V", item="5.10", kind="identity",
        title="What a Bradley-Terry fit loses on a cycle", source="this book",
        depends=("nash-unique", "nash-gap", "bt-likelihood"))
def nash_cycle(check):
    """On a balanced cycle every Bradley-Terry fit is constant; its policy loses beta KL exactly."""
    for rng, size in check.batches(20_000, fast=2_000):
        margin, r = rng.uniform(0, 0.5, (size, 3)), 3 * rng.standard_normal((size, 3))
        flat = rng.random((size, 1)) < 0.1  # the attaining case: equal margins, constant reward
        margin, r = np.where(flat, margin[:, :1], margin), np.where(flat, 0.0, r)
        gaps = r - np.roll(r, -1, axis=-1)
        check.inequality("step 1: gaps around the cycle add up to 0", np.abs(gaps.sum(-1)), 0.0,
                         scale=100.0, tol=1e-15)
        error = np.abs(0.5 + margin - sigmoid(gaps)).max(-1)
        check.inequality("claim: some pair is wrong by its margin", margin.min(-1), error)
        K = int(rng.choice([3, 5, 7]))
        strength, beta = rng.uniform(0.05, 1, size), 10.0 ** rng.uniform(-1.5, 1, size)
        P = cyclic_preferences(K, strength)
        check.identity("step 2: balanced", P.sum(-1), K / 2, tol=1e-13)
        pi0 = np.maximum(random_policies(rng, size, 1, K), 1e-12)
        pi0 = pi0 / pi0.sum(-1, keepdims=True)
        nash = nash_policy(P, beta, pi0)
        loss = game_value(nash, pi0, P, beta, pi0) - 0.5
        kl = beta[:, None] * kl_divergence(pi0, nash)
        check.identity("claim: loss to the Nash policy", loss, kl,
                       scale=1 + beta[:, None], tol=1e-9)
        A = P - 0.5
        exploit = exploitability(pi0, P, beta, pi0)
        gains = np.einsum("nsab,nsb->nsa", A, pi0)
        closed = beta[:, None] * np.log((pi0 * np.exp(gains / beta[:, None, None])).sum(-1))
        check.identity("claim: exploitability", exploit, closed, scale=1e-3 + exploit, tol=1e-9)
        check.inequality("claim: at most the best answer's gain", exploit, gains.max(-1),
                         scale=1e-9)
    # The fit itself, from counts in the proportions of the cycle.
    for K in (3, 5):
        bandit = Bandit.tabular(np.zeros((1, K)), 0.5, B=4.0)
        pairs, P = all_pairs(1, K), cyclic_preferences(K, 0.8)[0]
        z = pair_features(bandit.phi, pairs)
        counts = np.full(len(pairs), 1000)
        wins = np.rint(1000 * P[pairs[:, 1], pairs[:, 2]]).astype(int)
        theta = fit_mle(Comparisons(pairs, z, counts, wins), bandit.B).theta
        check.identity("step 2: the fit is constant", bandit.gibbs(theta), bandit.pi0, tol=1e-8)
    # Nearly everything is lost: almost all rock, and a small beta.
    pi0 = np.array([[1 - 2e-6, 1e-6, 1e-6]])
    lost = float(exploitability(pi0, cyclic_preferences(), 1e-3, pi0)[0])
    check.at_least("claim: up to half the strength", lost, 0.48)


@result("nash-learning", part="V", item="5.10", kind="probability",
        title="The Nash policy of estimated preferences", source="this book",
        depends=("nash-unique", "nash-kl-bound", "nash-gap"))
def nash_learning(check):
    """Exploitability at most min(eps^2 / (6 beta), eps) if no preference errs by more than eps."""
    for rng, size in check.batches(10_000, fast=1_000, size=500):
        g = random_games(rng, size, lo=-1.5, hi=1)
        S, K = g.nash.shape[1:]
        beta = g.beta[:, None]
        E = antisymmetric(rng, size, S, K) * 10.0 ** rng.uniform(-3, 0.3, (size, 1, 1, 1))
        M = g.P + E  # any payoff: the bound does not need probabilities
        log_hat = log_nash_policy(M, g.beta, g.pi0)
        hat = np.exp(log_hat)
        hat = hat / hat.sum(-1, keepdims=True)
        wrong = np.einsum("nsab,nsb->nsa", E, hat)
        exploit = exploitability(hat, g.P, g.beta, g.pi0)
        exact = beta * np.log((hat * np.exp(-(wrong + np.ptp(wrong, -1)[..., None]) / beta[
            ..., None])).sum(-1)) + np.ptp(wrong, axis=-1)
        eps = np.abs(E).max((-1, -2))
        scale = 1e-7 * beta + eps
        check.identity("step 1: exploitability is a divergence", exploit, exact, scale=scale,
                       tol=1e-8)
        bound = nash_estimation_bound(eps, beta)
        check.inequality("claim: exploitability", exploit, bound, scale=scale * 1e-3, tol=1e-7)
        check.inequality("claim: simple form", bound, np.minimum(eps**2 / (6 * beta), eps),
                         tol=1e-9)
        towards = kl_divergence(hat, g.nash)
        check.inequality("claim: loss to the Nash policy", beta * towards, exploit,
                         scale=1e-3 * scale, tol=1e-6)
        both = towards + kl_divergence(g.nash, hat)
        cross = np.einsum("nsa,nsab,nsb->ns", hat, E, g.nash)
        check.identity("step 3: both divergences", beta * both, cross,
                       scale=1e-6 * beta + eps, tol=1e-8)
        span = np.ptp(np.einsum("nsab,nsb->nsa", E, g.nash), axis=-1)
        norm = np.abs(hat - g.nash).sum(-1)
        check.inequality("step 4: one policy's errors", cross, norm * span / 2, scale=1e-4 * eps,
                         tol=1e-7)
        check.inequality("step 4: Pinsker twice", norm**2, both, scale=1e-8, tol=1e-6)
        check.inequality("claim: both divergences", both, span**2 / (4 * beta**2), scale=1e-7,
                         tol=1e-6)
    # Attained: long tournaments of errors. The estimate is uniform, the truth differs by eps.
    K, beta, eps = 200, 0.3, 0.3
    u, uniform = transitive(K)[0] * 2 * eps, np.full(K, 1 / K)
    pi0 = gibbs_policy(-(u @ uniform)[None], beta, uniform[None])
    lost = exploitability(uniform[None], np.full((1, K, K), 0.5), beta, pi0)
    check.identity("step 2: estimated Nash", nash_policy(0.5 + u[None], beta, pi0), uniform[None],
                   tol=1e-12)
    check.at_least("claim: attained by long tournaments",
                   float(lost[0] / nash_estimation_bound(eps, beta)), 0.999)
    # Hoeffding and the union over pairs; then the whole chain, averaged over prompts.
    rng, delta, trials = check.rng, 0.1, check.choose(4000, 800)
    for K, n, beta in ((3, 200, 0.1), (5, 1000, 0.3), (3, 50, 1.0)):
        S = 2
        P = 0.5 + antisymmetric(rng, 1, S, K)[0]
        pi0, d0 = random_policies(rng, 1, S, K)[0], np.array([0.3, 0.7])
        pi0 = np.maximum(pi0, 1e-6) / np.maximum(pi0, 1e-6).sum(-1, keepdims=True)
        hat = sample_preferences(P, n, rng, trials)
        check.instances += trials
        eps = preference_error_bound(n, S, K, delta)
        check.identity("step 5: the library's error",
                       S * K * (K - 1) * np.exp(-2 * n * eps**2), delta, tol=1e-12)
        error = np.abs(hat - P).max((-1, -2, -3))
        check.failure_rate("step 5: Hoeffding", (error > eps).sum(), trials, delta)
        policy = nash_policy(hat, beta, pi0)
        exploit = exploitability(policy, P, beta, pi0) @ d0
        check.failure_rate("claim: exploitability", (
            exploit > nash_estimation_bound(eps, beta)).sum(), trials, delta)
        nash = nash_policy(P, beta, pi0)
        reach = np.sqrt(np.log(2 * S * K / delta) / (2 * n) * np.max(
            (nash**2).sum(-1, keepdims=True) - nash**2, axis=-1))
        both = kl_divergence(policy, nash) + kl_divergence(nash, policy)
        check.failure_rate("claim: one policy's coverage", (
            both > (reach / beta) ** 2 * (1 + 1e-9)).any(-1).sum(), trials, delta)
    for beta, strength in ((0.05, 0.6), (0.3, 1.0), (0.5, 0.2)):
        P, pi0 = cyclic_preferences(3, 0.9 * strength), np.array([[0.6, 0.3, 0.1]])
        n, nash = 30_000, nash_policy(P, beta, pi0)[0]
        hat = nash_policy(sample_preferences(P, n, rng, trials), beta, pi0)
        values = n * exploitability(hat, P, beta, pi0)[:, 0]
        spread = P[0] * (1 - P[0]) * (1 - np.eye(3))
        check.limit("step 6: the limit", values.mean(), values.std() / np.sqrt(trials),
                    nash @ spread @ nash**2 / (2 * beta), rtol=0.01)
    check.not_vacuous("claim: exploitability", nash_estimation_bound(0.02, 0.1),
                      0.1 * sharp_hoeffding(10.0))
