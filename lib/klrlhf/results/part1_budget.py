r"""Checks of the chapter "Temperature, frontier, budget", second half: worst cases over instances.

What lives here: the sharp Hoeffding inequality in KL form and item 1.3 (divergence, density ratio,
chi-squared of the optimal policy), each with the instance that attains it.
What does not: the path and the frontier of one instance (``part1_temperature``).
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from klrlhf.numerics import sharp_hoeffding
from klrlhf.policies import (
    chi2_divergence,
    gibbs_policy,
    kl_divergence_from_logs,
    log_gibbs_policy,
    log_partition,
)
from klrlhf.results.instances import random_instances, random_policies, two_point_instances
from klrlhf.results.part1_gibbs import average
from klrlhf.results.registry import result
from klrlhf.values import kl_max, optimal_value, temperature_path


def mass(t):
    """q(t) = 1/(1 - e^-t) - 1/t: the mass of P on the higher of the two extremal points."""
    return 1 / -np.expm1(-t) - 1 / t


def extremal_reference(t):
    """pi0(best) at which KL(pi* || pi0) = h(t)."""
    decay = np.exp(-t)
    return decay * (t - 1 + decay) / (1 - decay) ** 2


def tilted_pair(rng, size):
    """Log-laws (P, Q) whose log-ratio has span t, from 1e-3 to 60; a third on two points."""
    K = int(rng.integers(2, 7))
    t = 10.0 ** rng.uniform(-3, np.log10(60), size)
    g = rng.random((size, K))
    ends = rng.random((size, 1)) < 0.33
    g = np.where(ends, (g < 0.5).astype(float), g)
    g = g - g.min(axis=-1, keepdims=True)
    top = g.max(axis=-1, keepdims=True)
    g = np.where(top > 0, g / np.where(top > 0, top, 1), np.arange(K) / (K - 1)) * t[:, None]
    log_p = np.log(random_policies(rng, size, 1, K)[:, 0])
    # Half of the laws put about the extremal mass on the upper end.
    upper = g == g.max(axis=-1, keepdims=True)
    share = np.log(np.where(upper, mass(t)[:, None], 1 - mass(t)[:, None]))
    group = np.where(upper, logsumexp(np.where(upper, log_p, -np.inf), axis=-1, keepdims=True),
                     logsumexp(np.where(upper, -np.inf, log_p), axis=-1, keepdims=True))
    log_p = np.where(rng.random((size, 1)) < 0.5, log_p - group + share, log_p)
    log_p = log_p - logsumexp(log_p, axis=-1, keepdims=True)
    log_q = log_p - g
    return t, g, log_p, log_q - logsumexp(log_q, axis=-1, keepdims=True)


@result("hoeffding-kl", part="0", item="0", kind="inequality",
        title="Sharp Hoeffding inequality in KL form",
        source="hoeffding1963probability sharpened; cf. dong2020optimal, harrison2026exact",
        depends=("temperature-path",))
def hoeffding_kl(check):
    """If log dP/dQ has span at most t then KL(P || Q) <= h(t), attained by one two-point law."""
    for rng, size in check.batches(30_000, fast=2_000):
        t, g, log_p, log_q = tilted_pair(rng, size)
        p, kl = np.exp(log_p), kl_divergence_from_logs(log_p, log_q)
        decay, alpha = np.exp(-g), -np.expm1(-t)
        mean = (p * g).sum(axis=-1)
        check.identity("step 1: the divergence as a function of one law",
                       mean + logsumexp(log_p - g, axis=-1), kl, scale=1e-4 + t)
        check.inequality("step 2: the chord", decay, 1 - g / t[:, None] * alpha[:, None], scale=1.0)
        m = mean / t
        # 1 - alpha m = (1 - m) + m e^-t, without cancellation when both are near 1.
        rest = (p * (t[:, None] - g)).sum(axis=-1) / t
        log_rest = np.where(t < 1, np.log1p(-np.where(t < 1, alpha * m, 0.0)),
                            np.log(rest + m * np.exp(-t)))
        psi = mean + log_rest
        check.inequality("step 2: KL below psi(m)", kl, psi, scale=t)
        h = sharp_hoeffding(t)
        check.inequality("step 3: psi below its maximum", psi, h, scale=t)
        check.holds("step 3: the best mass lies in (0, 1)", (mass(t) > 0) & (mass(t) < 1))
        u = t / alpha
        check.identity("step 4: h = u - 1 - log u", u - 1 - np.log(u), h, scale=1e-3 + t)
        check.inequality("claim", kl, h, scale=1e-9 * t)
        check.inequality("claim: the other direction", kl_divergence_from_logs(log_q, log_p), h,
                         scale=1e-9 * t)
        check.inequality("step 6: increasing", h, sharp_hoeffding(t * (1 + rng.random(size))))
        check.inequality("step 7: at most t^2/8", h, t**2 / 8)
        check.inequality("step 7: at most t", h, t)
    t = np.logspace(-6, 2.5, 200)
    log_p = np.log(np.stack([mass(t), mass(-t)], axis=-1))
    log_q = log_p - np.stack([t, 0 * t], axis=-1)
    log_q = log_q - logsumexp(log_q, axis=-1, keepdims=True)
    seen = (t > 1e-2) & (t < 300)
    # mass(-t) = 1 - mass(t) loses digits at both ends: q(t) is a difference of large numbers.
    attained = kl_divergence_from_logs(log_p[seen], log_q[seen]) / sharp_hoeffding(t[seen])
    check.identity("claim: attained", attained, 1.0, tol=1e-9)
    check.identity("step 8: h is t^2/8 near 0", sharp_hoeffding(1e-3) / 1.25e-7, 1.0, tol=1e-6)
    big = np.array([50.0, 500.0, 5e6])
    check.identity("step 8: h is t - 1 - log t far out", sharp_hoeffding(big),
                   big - 1 - np.log(big), scale=big)

    def ratio(x):
        span = np.exp(np.clip(x[0], -3, 4))
        f = span / (1 + np.exp(-np.append(x[1:4], [40.0, -40.0])))
        log_p = np.append(x[4:8], 0.0)
        log_p = log_p - logsumexp(log_p)
        log_q = log_p - f - logsumexp(log_p - f)
        return kl_divergence_from_logs(log_p, log_q) / sharp_hoeffding(np.ptp(f))

    starts = np.random.default_rng(3).standard_normal((6, 8))
    check.search("claim: search", ratio, starts, maxiter=1200)


def budget_instances(rng, size):
    """Random and two-point instances in turn."""
    return two_point_instances(rng, size) if rng.random() < 0.4 else random_instances(rng, size)


@result("kl-budget", part="I", item="1.3", kind="inequality", title="What a KL budget buys",
        source="this book", depends=("gibbs-variational", "gibbs-improvement", "hoeffding-kl"))
def kl_budget(check):
    """The optimal policy is within E h(R_x / beta) nats of the reference, and this is attained."""
    for rng, size in check.batches(30_000, fast=2_000):
        inst = budget_instances(rng, size)
        d0, pi0, reward, beta = inst.d0, inst.pi0, inst.reward, inst.beta
        log_opt, log_ref = log_gibbs_policy(reward, beta, pi0), np.log(pi0)
        t = np.ptp(reward, axis=-1) / beta[:, None]
        check.identity("step 1: the span of the log-ratio", np.ptp(log_opt - log_ref, axis=-1), t,
                       scale=1 + t + np.abs(log_ref).max(axis=-1))
        there = kl_divergence_from_logs(log_opt, log_ref)
        back = kl_divergence_from_logs(log_ref, log_opt)
        h = sharp_hoeffding(t)
        # A log-probability near -200 carries 3e-14 of rounding, which shows where t is tiny.
        noise = 1e-4 * t * np.abs(log_ref).max(axis=-1) + 1e-15
        check.inequality("step 2: one prompt", there, h, scale=noise)
        check.inequality("step 2: one prompt, other direction", back, h, scale=noise)
        bound, noise = average(d0, h), average(d0, noise)
        check.inequality("claim", average(d0, there), bound, scale=noise)
        profit = optimal_value(reward, beta, pi0, d0) - average(d0, (pi0 * reward).sum(axis=-1))
        size_of_values = np.abs(reward).max(axis=(-1, -2))
        check.inequality("step 3: profit at most beta h", profit, beta * bound,
                         scale=size_of_values + beta * noise)
        check.inequality("claim: quadratic form", bound, average(d0, t**2) / 8)
        check.inequality("claim: linear form", bound, average(d0, t))
        path = temperature_path(1 / beta[:, None], reward, pi0, d0)
        ceiling = kl_max(reward, pi0, d0)
        check.inequality("remark: never above KL_max", path.kl[:, 0], ceiling, scale=1.0)
    t = np.logspace(-2, 1.5, 60)
    best = extremal_reference(t)
    pi0 = np.stack([best, 1 - best], axis=-1)[:, None, :]
    opt = log_gibbs_policy(np.stack([t, 0 * t], axis=-1)[:, None, :], np.ones(60), pi0)
    check.identity("claim: attained", kl_divergence_from_logs(opt, np.log(pi0))[:, 0]
                   / sharp_hoeffding(t), 1.0, tol=1e-9)
    check.identity("step 4: the worst reference is q untilted", np.exp(opt[:, 0, 0]), mass(t),
                   tol=1e-9)
    check.not_vacuous("bound below KL_max somewhere", sharp_hoeffding(t), -np.log(best))

    def ratio(x):
        reward = np.append(x[:3], 0.0)[None] * 3
        pi0 = np.exp(np.append(x[3:6], 0.0))[None]
        pi0 /= pi0.sum()
        span = np.ptp(reward)
        if span < 0.1:
            return 0.0
        kl = kl_divergence_from_logs(log_gibbs_policy(reward, 1.0, pi0), np.log(pi0))[0]
        return kl / sharp_hoeffding(span)

    starts = np.random.default_rng(4).standard_normal((6, 6))
    check.search("claim: search", ratio, starts, maxiter=1200)


@result("kl-budget-ratio", part="I", item="1.3", kind="inequality", title="Density ratio",
        source="Jensen's inequality, classical", depends=("gibbs-variational",))
def kl_budget_ratio(check):
    """pi*/pi0 is at most exp((max r - E_pi0 r)/beta), itself at most e^{R/beta}."""
    for rng, size in check.batches(30_000, fast=2_000):
        inst = budget_instances(rng, size)
        pi0, reward, beta = inst.pi0, inst.reward, inst.beta[:, None]
        noise = 1e-3 + np.abs(np.log(pi0)).max(axis=-1) + np.abs(reward).max(axis=-1) / beta
        mean = (pi0 * reward).sum(axis=-1)
        check.inequality("step 1: Jensen", mean / beta, log_partition(reward, inst.beta, pi0),
                         scale=noise)
        log_ratio = (log_gibbs_policy(reward, inst.beta, pi0) - np.log(pi0)).max(axis=-1)
        middle, t = (reward.max(axis=-1) - mean) / beta, np.ptp(reward, axis=-1) / beta
        check.inequality("claim: Jensen's bound", log_ratio, middle, scale=noise)
        check.inequality("claim: the range", middle, t, scale=noise)
    t, rare = np.array([0.1, 1.0, 10.0]), 1e-12
    reward, pi0 = np.stack([t, 0 * t], axis=-1)[:, None, :], np.array([[rare, 1 - rare]])
    ratio = gibbs_policy(reward, np.ones(3), pi0)[:, 0, 0] / rare
    check.at_least("step 3: e^{R/beta} is approached", float((ratio / np.exp(t)).min()), 1 - 1e-6)
    check.holds("claim: strictly below", ratio < np.exp(t))


@result("kl-budget-chi-squared", part="I", item="1.3", kind="inequality", title="Chi-squared",
        source="kantorovich1948functional for a density ratio", depends=("kl-budget",))
def kl_budget_chi_squared(check):
    """chi^2(pi* || pi0) <= sinh^2(R_x / (2 beta)), with equality when pi* is a fair coin."""
    for rng, size in check.batches(30_000, fast=2_000):
        inst = budget_instances(rng, size)
        pi0, reward, beta = inst.pi0, inst.reward, inst.beta
        optimal = gibbs_policy(reward, beta, pi0)
        t = np.ptp(reward, axis=-1) / beta[:, None]
        ratio = np.exp(log_gibbs_policy(reward, beta, pi0) - np.log(pi0))
        low, high = ratio.min(axis=-1), ratio.max(axis=-1)
        check.identity("step 1: the range of the ratio", np.log(high / low), t,
                       scale=1 + t + np.abs(np.log(pi0)).max(axis=-1))
        second = (pi0 * ratio**2).sum(axis=-1)
        check.inequality("step 2: second moment", second, low + high - low * high, tol=1e-9,
                         scale=low * high + high)
        check.inequality("step 3: the worst lower end", low + high - low * high,
                         np.cosh(np.minimum(t, 1400) / 2) ** 2, tol=1e-9)
        chi2 = chi2_divergence(optimal, pi0)
        # chi^2 goes through probabilities: below t = 1e-2 their rounding would be seen.
        check.inequality("claim", np.where(t > 1e-2, chi2, 0),
                         np.sinh(np.minimum(t, 1400) / 2) ** 2, tol=1e-9)
    t = np.logspace(-2, 2, 60)
    best = 1 / (1 + np.exp(t))
    pi0 = np.stack([best, 1 - best], axis=-1)[:, None, :]
    optimal = gibbs_policy(np.stack([t, 0 * t], axis=-1)[:, None, :], np.ones(60), pi0)
    check.identity("step 4: the optimum is a fair coin", optimal, 0.5, tol=1e-12)
    share = chi2_divergence(optimal, pi0)[:, 0] / np.sinh(t / 2) ** 2
    check.identity("claim: attained", share, 1.0, tol=1e-9)

    def ratio(x):
        reward = np.append(x[:3], 0.0)[None] * 3
        pi0 = np.exp(np.append(x[3:6], 0.0))[None]
        pi0 /= pi0.sum()
        span = np.ptp(reward)
        if not 0.1 < span < 100:
            return 0.0
        return chi2_divergence(gibbs_policy(reward, 1.0, pi0), pi0)[0] / np.sinh(span / 2) ** 2

    starts = np.random.default_rng(6).standard_normal((6, 6))
    check.search("claim: search", ratio, starts, maxiter=1200)
