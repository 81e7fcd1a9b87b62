r"""Item 5.3: rejection sampling is a Gibbs oracle, and what an estimated maximum does to it."""

from __future__ import annotations

import numpy as np
from scipy.special import lambertw

from klrlhf.numerics import sharp_hoeffding
from klrlhf.policies import gibbs_policy, kl_divergence
from klrlhf.results.instances import random_instances, random_policies, two_point_instances
from klrlhf.results.registry import result
from klrlhf.sampling import (
    acceptance_probability,
    estimated_maximum_law,
    fresh_maximum_bound,
    fresh_maximum_error,
    fresh_maximum_law,
    log_acceptance_probability,
    rejection_sample,
    reused_maximum_bound,
    reused_maximum_law,
    span_total_variation,
    total_variation,
)


def weights(inst):
    """w = e^{(r - max r) / beta}, shape (N, S, K)."""
    top = inst.reward.max(-1, keepdims=True)
    return np.exp((inst.reward - top) / inst.beta[:, None, None])


def spread(inst):
    """Reward range over beta per prompt."""
    return np.ptp(inst.reward, axis=-1) / inst.beta[:, None]


def both(rng, size):
    """Generic instances, or two-point ones every other time."""
    return random_instances(rng, size) if rng.random() < 0.6 else two_point_instances(rng, size)


@result("total-variation-span", part="V", item="5.3", kind="inequality",
        title="Total variation from the span of the log-ratio", source="this book")
def total_variation_span(check):
    """If log dP/dQ has span s, then TV(P, Q) <= tanh(s/4), attained by two points."""
    for rng, size in check.batches(20_000, fast=2_000):
        K = int(rng.integers(2, 7))
        q = random_policies(rng, size, 1, K)[:, 0]
        s = 10.0 ** rng.uniform(-3, 1.5, size)
        f = rng.random((size, K))
        f = np.where((rng.random(size) < 0.5)[:, None], (f > 0.5).astype(float), f)
        logits = np.log(q) + s[:, None] * f
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        s = s * np.ptp(f, axis=-1)
        ratio = p / q
        low, high = ratio.min(-1), ratio.max(-1)
        tv = np.maximum(1 - ratio, 0)
        tv = (q * tv).sum(-1)
        gap = np.where(high > low, high - low, 1.0)
        chord = np.where(high > low, (1 - low) * (high - 1) / gap, 0.0)
        check.inequality("step 1: chord", tv, chord, scale=1e-3, tol=1e-9)
        check.inequality("step 2: best end points", chord, np.tanh(s / 4), scale=1e-3, tol=1e-9)
        check.inequality("claim", tv, span_total_variation(s), scale=1e-3, tol=1e-9)
        low = np.exp(-s / 2)
        high_mass = (1 - low) / np.where(s > 0, np.exp(s / 2) - low, 1.0)
        check.identity("claim: attained", (1 - high_mass) * (1 - low), np.tanh(s / 4), tol=1e-9)


@result("rejection-gibbs", part="V", item="5.3", kind="identity",
        title="Rejection sampling is a Gibbs oracle", source="liu2024statistical; this book",
        depends=("gibbs-variational",))
def rejection_gibbs(check):
    """Accepted draws are exactly Gibbs; 1/p draws each, p in closed form and between bounds."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst = both(rng, size)
        w, star = weights(inst), gibbs_policy(inst.reward, inst.beta, inst.pi0)
        beta, top = inst.beta[:, None], inst.reward.max(-1)
        p = acceptance_probability(inst.reward, inst.beta, inst.pi0)
        above = 10.0 ** rng.uniform(-3, 1, top.shape) * beta
        M = top + above
        chance = inst.pi0 * np.exp((inst.reward - M[..., None]) / beta[..., None])
        check.identity("step 1: one draw", chance.sum(-1), p * np.exp(-above / beta))
        check.identity("claim: accepted law", chance / chance.sum(-1, keepdims=True), star)
        # The chance that draw k is the first accepted and is a, summed over k up to k_max.
        q, k = chance.sum(-1), 7
        first = sum((1 - q) ** j for j in range(k))[..., None] * chance
        check.identity("step 2: geometric", first,
                       (1 - (1 - q) ** k)[..., None] * star, tol=1e-10)
        told = star > 1e-290
        ratio = np.where(told, inst.pi0 / np.where(told, star, 1.0), np.inf).min(-1)
        check.identity("claim: p is the least density ratio", p / ratio, 1.0, tol=1e-9)
        # Any rule that samples pi* is c pi*/pi0: it accepts c, and is a rule only if c <= p.
        c = p * 10.0 ** rng.uniform(-2, 0.5, p.shape)
        rule = c[..., None] * np.where(told, star, 0.0) / inst.pi0
        check.identity("step 3: any other rule", (inst.pi0 * rule).sum(-1) / c, 1.0, tol=1e-9)
        check.identity("step 3: its largest value", rule.max(-1) * p / c, 1.0, tol=1e-9)
        log_p = log_acceptance_probability(inst.reward, inst.beta, inst.pi0)
        mean = (inst.pi0 * inst.reward).sum(-1)
        kl = kl_divergence(star, inst.pi0)
        lost = (top - (star * inst.reward).sum(-1)) / beta
        size_of = 1 + kl + np.abs(top / beta) + np.abs(lost)
        check.identity("claim: divergence plus shortfall", -log_p, kl + lost, scale=size_of,
                       tol=1e-10)
        check.inequality("claim: e^KL draws at least", kl, -log_p, scale=1e-2 * size_of,
                         tol=1e-9)
        jensen = (top - mean) / beta
        check.inequality("step 4: Jensen", -log_p, jensen, scale=1e-2 * size_of, tol=1e-9)
        check.inequality("step 4: range", jensen, spread(inst), scale=1e-2 * size_of, tol=1e-9)
        best = (inst.pi0 * (w == 1)).sum(-1)
        check.inequality("claim: two values", best + (1 - best) * np.exp(-spread(inst)), p,
                         tol=1e-10)
        gap = np.where(w < 1, w, -1.0).max(-1).clip(min=0.0)
        check.inequality("claim: upper", p, best + (1 - best) * gap, tol=1e-10)
        check.inequality("claim: e^{-R/beta}", np.exp(-spread(inst)), p, tol=1e-10)
    # The sampler itself: law and number of draws.
    pi0, reward, beta = np.array([[0.7, 0.25, 0.05]]), np.array([[0.0, 0.4, 1.0]]), 0.3
    size = check.choose(40_000, 4_000)
    out = rejection_sample(reward, beta, pi0, check.rng, size)
    p = acceptance_probability(reward, beta, pi0)[0]
    star = gibbs_policy(reward, beta, pi0)[0]
    share = np.array([(out.actions == a).mean() for a in range(3)])
    check.limit("claim: simulated law", share, np.sqrt(star * (1 - star) / size), star)
    check.limit("claim: simulated draws", out.draws.mean(), np.sqrt((1 - p) / size) / p, 1 / p)
    late = out.draws[0] > 1 / p
    share = np.array([(out.actions[0, late] == a).mean() for a in range(3)])
    check.limit("claim: independent of the draws", share,
                np.sqrt(star * (1 - star) / late.sum()), star)


@result("rejection-clipped", part="V", item="5.3", kind="inequality",
        title="An underestimated maximum clips the reward", source="this book",
        depends=("rejection-gibbs", "hoeffding-kl", "total-variation-span"))
def rejection_clipped(check):
    """With M below max r the law is Gibbs of min(r, M); distance and loss are bounded."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst = both(rng, size)
        beta, top = inst.beta[:, None], inst.reward.max(-1)
        low = inst.reward.min(-1)
        M = top - rng.random(top.shape) * 1.1 * (top - low)
        star = gibbs_policy(inst.reward, inst.beta, inst.pi0)
        rule = np.minimum(1.0, np.exp((inst.reward - M[..., None]) / beta[..., None]))
        accepted = inst.pi0 * rule
        law = estimated_maximum_law(inst.reward, inst.beta, inst.pi0, M)
        check.identity("claim: clipped reward", accepted / accepted.sum(-1, keepdims=True), law)
        tv = total_variation(law, star)
        over = np.maximum(inst.reward - M[..., None], 0) / beta[..., None]
        T = (star * -np.expm1(-over)).sum(-1)
        log_ratio = np.log(np.maximum(1 - T, 1e-300))
        exact = log_acceptance_probability(inst.reward, inst.beta, inst.pi0, M) \
            - log_acceptance_probability(inst.reward, inst.beta, inst.pi0) - (top - M) / beta
        seen = 1 - T > 1e-3
        check.identity("step 1: ratio of partition functions", np.where(seen, log_ratio, 0.0),
                       np.where(seen, exact, 0.0), scale=1 + (top - M) / beta, tol=1e-9)
        check.inequality("step 2: domination", star * np.exp(-over), law, tol=1e-9,
                         scale=1e-12)
        check.inequality("claim: clipped mass", tv, T, scale=1e-3, tol=1e-9)
        check.inequality("claim: missed mass", T, (star * (over > 0)).sum(-1), scale=1e-6,
                         tol=1e-9)
        left = (law * (over > 0)).sum(-1)
        check.inequality("remark: from below", T * (1 - left), tv, scale=1e-3, tol=1e-9)
        width = np.maximum(top - np.maximum(M, low), 0) / beta
        check.inequality("claim: span", tv, span_total_variation(width), scale=1e-3, tol=1e-9)
        kl = kl_divergence(law, star)
        check.inequality("claim: loss by mass", kl, -exact, scale=1e-3, tol=1e-9)
        check.inequality("claim: loss by span", kl, sharp_hoeffding(width), scale=1e-3, tol=1e-8)

    def ratio(x):
        q, s = 10.0 ** np.clip(x[0], -5.0, -0.1), 10.0 ** np.clip(x[1], -2.0, 2.0)
        reward, pi0 = np.array([[0.0, s]]), np.array([[1 - q, q]])
        star = gibbs_policy(reward, 1.0, pi0)
        law = estimated_maximum_law(reward, 1.0, pi0, np.zeros(1))
        T = star[0, 1] * -np.expm1(-s)
        return float(total_variation(law, star)[0] / T)

    check.search("claim: clipped mass", ratio, [(-1.0, 0.0), (-3.0, 1.0), (-0.5, 0.5)])
    check.at_least("claim: clipped mass is nearly attained", ratio((-4.0, 0.0)), 0.999)


def increments(inst, n):
    """E max of n + 1 weights minus E max of n, from the law of the weight: int F^n (1 - F)."""
    w = weights(inst)
    order = np.argsort(w, axis=-1)
    level = np.take_along_axis(w, order, -1)
    F = np.cumsum(np.take_along_axis(inst.pi0, order, -1), -1).clip(max=1.0)
    above = np.cumsum(np.take_along_axis(inst.pi0, order, -1)[..., ::-1], -1)[..., ::-1]
    return (np.diff(level, axis=-1) * F[..., :-1] ** n * above[..., 1:]).sum(-1)


def many_levels(K, gap, p=1.0):
    """K equally likely responses of mass p in all, rewards `gap` apart, and one far below them."""
    reward = np.concatenate([[-80.0 - K * gap], np.arange(K) * gap])[None]
    pi0 = np.concatenate([[1 - p], np.full(K, p / K)])[None]
    return (reward[:, 1:], pi0[:, 1:]) if p == 1 else (reward, pi0)


def usual(n):
    """(1 / (n + 1)) (n / (n + 1))^n, the largest value of x (1 - x)^n."""
    return (n / (n + 1)) ** n / (n + 1)


@result("rejection-estimated-maximum", part="V", item="5.3", kind="inequality",
        title="A maximum estimated from fresh draws", source="this book",
        depends=("rejection-clipped",))
def rejection_estimated_maximum(check):
    """With the maximum of n fresh draws the expected TV obeys a sharp bound, under 1/((n+1)p)."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst = both(rng, size)
        n = int(np.ceil(10.0 ** rng.uniform(0, 3)))
        p = acceptance_probability(inst.reward, inst.beta, inst.pi0)
        tv, T, missed = fresh_maximum_error(inst.reward, inst.beta, inst.pi0, n)
        check.inequality("step 1: clipped mass", tv, T, scale=1e-3, tol=1e-9)
        check.identity("step 2: one more draw", T * p, increments(inst, n), tol=1e-10)
        x = rng.random(size)
        envelope = p[..., 0] * fresh_maximum_bound(p[..., 0], n)
        slope = np.where(n * p[..., 0] <= 1, (1 - p[..., 0]) ** (n - 1) * (
            1 - (n + 1) * p[..., 0]), -(1 - 1 / max(n, 1.5)) ** (n - 1) / n if n > 1 else -1.0)
        check.inequality("step 3: tangent above x(1-x)^n", x * (1 - x) ** n,
                         envelope + slope * (x - p[..., 0]), scale=1e-4, tol=1e-9)
        check.inequality("claim", T, fresh_maximum_bound(p, n), scale=1e-3, tol=1e-9)
        check.inequality("claim: simple form", fresh_maximum_bound(p, n), usual(n) / p,
                         tol=1e-10)
        check.inequality("claim: 1/((n+1)p)", tv, 1 / ((n + 1) * p), scale=1e-3, tol=1e-9)
        check.inequality("claim: missed mass", missed, 1 / ((n + 1) * p), scale=1e-3, tol=1e-9)
        law = fresh_maximum_law(inst.reward, inst.beta, inst.pi0, n)
        star = gibbs_policy(inst.reward, inst.beta, inst.pi0)
        check.inequality("claim: averaged law", total_variation(law, star), tv, scale=1e-3,
                         tol=1e-9)
        # Attained: the best action has mass max(p, 1/n), two weights.
        n = int(rng.integers(2, 200))
        q = 1 / n
        s = 10.0 ** rng.uniform(-6, -0.01, size)
        pi0 = np.broadcast_to([1 - q, q], (size, 1, 2))
        reward = np.stack([np.log(s), np.zeros(size)], -1)[:, None, :]
        p = acceptance_probability(reward, 1.0, pi0)
        _, T, _ = fresh_maximum_error(reward, 1.0, pi0, n)
        check.identity("claim: attained", T / fresh_maximum_bound(p, n), 1.0, tol=1e-9)
    # Total variation itself comes within 1 - 1/n, and the sampler does what the formula says.
    pi0, reward = np.array([[0.99, 0.01]]), np.array([[0.0, 60.0]])
    tv = fresh_maximum_error(reward, 1.0, pi0, 100)[0][0]
    check.at_least("claim: total variation nearly attains it",
                   tv / fresh_maximum_bound(acceptance_probability(reward, 1.0, pi0), 100)[0],
                   0.98)
    # Many responses, all about as good: a further draw is the only best one in n + 1.
    reward, pi0 = many_levels(400, 1e-8, 0.2)
    missed = fresh_maximum_error(reward, 1.0, pi0, 30)[2][0]
    check.at_least("claim: missed mass is nearly attained", missed * 31 * acceptance_probability(
        reward, 1.0, pi0)[0], 0.95)
    pi0, reward, n = np.array([[0.6, 0.3, 0.1]]), np.array([[0.0, 1.0, 3.0]]), 5
    runs = check.choose(40_000, 4_000)
    seen = np.searchsorted(np.cumsum(pi0[0]), check.rng.random((runs, n))).max(1)
    tall = np.repeat(reward, runs, 0)
    out = rejection_sample(tall, 1.0, np.repeat(pi0, runs, 0), check.rng, 1,
                           maximum=reward[0][seen])
    law = fresh_maximum_law(reward, 1.0, pi0, n)[0]
    share = np.array([(out.actions == a).mean() for a in range(3)])
    check.limit("claim: simulated", share, np.sqrt(law * (1 - law) / runs), law)


@result("rejection-reused-draws", part="V", item="5.3", kind="inequality",
        title="A maximum from the same draws", source="this book",
        depends=("rejection-gibbs",))
def rejection_reused_draws(check):
    """Testing n draws against their own maximum: the kept law is pi* times a known factor."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst = both(rng, size)
        n = int(np.ceil(10.0 ** rng.uniform(0.31, 3)))
        p = acceptance_probability(inst.reward, inst.beta, inst.pi0)
        star = gibbs_policy(inst.reward, inst.beta, inst.pi0)
        nu, A = reused_maximum_law(inst.reward, inst.beta, inst.pi0, n)
        w = weights(inst)
        # g(t) = E[1 / max(t, W)], computed another way: from the distribution function of W.
        order = np.argsort(w, axis=-1)
        level = np.take_along_axis(w, order, -1)
        F = np.cumsum(np.take_along_axis(inst.pi0, order, -1), -1).clip(max=1.0)
        H = F ** (n - 1)
        jump = np.diff(np.concatenate([np.zeros_like(H[..., :1]), H], -1), axis=-1)
        jump[..., -1] += 1 - H[..., -1]
        g = (jump[..., None, :] / np.maximum(level[..., None, :], np.maximum(
            w[..., :, None], 1e-300))).sum(-1)
        usable = (spread(inst) < 300)[..., None]
        by_factor = star * g * (p / A)[..., None]
        check.identity("claim: the law", np.where(usable, by_factor, nu), nu, tol=1e-8)
        check.inequality("step 1: share kept", np.maximum(p, 1 / n), A, tol=1e-9)
        tv = total_variation(nu, star)
        check.inequality("claim: from the share", tv, 1 - p / A, scale=1.0, tol=1e-10)
        t = spread(inst)
        check.inequality("claim", tv, reused_maximum_bound(p, n, t), scale=1e-3, tol=1e-9)
        check.inequality("claim: simple form", reused_maximum_bound(p, n, t), t / ((n - 1) * p),
                         tol=1e-9)
        # Step 2: total variation by any constant above the factor.
        c = np.where(usable[..., 0], g.max(-1), 1.0)
        excess = np.where(usable[..., 0], (star * (1 - g / c[..., None]).clip(min=0)).sum(-1), 1.0)
        check.inequality("step 2: compare with the largest factor", tv, excess, scale=1e-3,
                         tol=1e-8)
        # Step 3: the integral form of that excess.
        part = np.cumsum(np.where(usable, jump / np.maximum(level, 1e-300), 0.0), -1)
        above = np.cumsum(np.take_along_axis(inst.pi0, order, -1)[..., ::-1], -1)[..., ::-1]
        tail = np.diff(level, axis=-1) * above[..., 1:] * part[..., :-1]
        integral = tail.sum(-1) / (p * np.where(usable[..., 0], part[..., -1], 1.0))
        check.identity("step 3: integral", np.where(usable[..., 0], integral, 0.0),
                       np.where(usable[..., 0], excess, 0.0), tol=1e-7)
        y, s = 10.0 ** rng.uniform(-3, 2.5, size), 10.0 ** rng.uniform(-8, -1e-3, size)
        H1 = np.exp(-y)
        # Step 4: at most H(u) / (H(u) + s (1 - H(u))) of E[1/W] comes from maxima below u.
        low, all_of_it = level[..., :1], part[..., -1:]
        here = np.broadcast_to(usable, H[..., :-1].shape)
        most = H[..., :-1] / np.maximum(H[..., :-1] + low * (1 - H[..., :-1]), 1e-300)
        check.inequality("step 4: share of the low maxima", np.where(
            here, part[..., :-1] / np.where(here, all_of_it, 1.0), 0.0), most, scale=1e-3,
            tol=1e-9)
        check.inequality("step 5: n - 1 draws", 1 - H1 ** (1 / n), y / n, tol=1e-10)
        check.inequality("step 6: the largest value", (1 - s) * y / (1 + s * np.expm1(
            np.minimum(y, 600))), np.real(lambertw((1 / s - 1) / np.e)), tol=1e-9)

    def ratio(x, n=10**6):
        s, y = np.exp(-np.exp(min(x[0], 4.0))), np.exp(min(x[1], 5.0))
        q = min(y / (n - 1), 0.5)
        reward, pi0 = np.array([[np.log(s), 0.0]]), np.array([[1 - q, q]])
        nu, _ = reused_maximum_law(reward, 1.0, pi0, n)
        tv = total_variation(nu, gibbs_policy(reward, 1.0, pi0))
        return float((tv / reused_maximum_bound(acceptance_probability(
            reward, 1.0, pi0), n, -np.log(s)))[0])

    # The Lambert function itself, also where e^t overflows: v + log v = t - 1 + log(1 - e^-t).
    t = 10.0 ** np.linspace(-2, 5, 200)
    v = reused_maximum_bound(1.0, 2, t)
    check.identity("claim: the Lambert function", v + np.log(v), t - 1 + np.log(-np.expm1(-t)),
                   scale=1 + t, tol=1e-12)
    reward, pi0 = many_levels(300, 50.0)
    check.at_least("step 1: share 1/n nearly attained",
                   0.25 / reused_maximum_law(reward, 1.0, pi0, 4)[1][0], 0.97)
    best = check.search("claim", ratio, [(1.0, 1.0), (2.0, 1.5), (0.0, 0.0)])
    check.at_least("claim: attained as n grows", best, 0.999)
    pi0, reward, beta, n = np.array([[0.7, 0.25, 0.05]]), np.array([[0.0, 0.4, 1.0]]), 0.25, 6
    runs = check.choose(40_000, 4_000)
    drawn = np.searchsorted(np.cumsum(pi0[0]), check.rng.random((runs, n)))
    score = reward[0][drawn] / beta
    kept = check.rng.random(drawn.shape) < np.exp(score - score.max(1, keepdims=True))
    nu, A = reused_maximum_law(reward, beta, pi0, n)
    check.limit("claim: simulated share", kept.mean(), kept.mean(1).std() / np.sqrt(runs), A[0])
    counts = np.array([(kept & (drawn == a)).sum() for a in range(3)]) / kept.sum()
    check.limit("claim: simulated law", counts,
                2 * np.sqrt(nu[0] * (1 - nu[0]) / kept.sum()), nu[0])
