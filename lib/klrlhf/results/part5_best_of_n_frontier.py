"""Checks for item 5.5: best-of-n against the frontier, against Gibbs policies, and by a proxy."""

from __future__ import annotations

import numpy as np

from klrlhf.policies import (
    best_of_n_policy,
    chi2_divergence,
    gibbs_policy,
    greedy_policy,
    kl_divergence,
    variance,
)
from klrlhf.results.instances import random_instances, random_policies
from klrlhf.results.part5_best_of_n import DRAWS, cells, fine_cells, random_rules
from klrlhf.results.registry import result
from klrlhf.sampling import (
    acceptance_probability,
    best_of_n_bounds,
    best_of_n_frontier_gap,
    best_of_n_kl,
    best_of_n_proxy_loss,
    best_of_n_worst_frontier_gap,
    largest_probability,
    selection_policy,
    win_rate,
    win_rate_frontier,
    win_rate_frontier_bound,
)
from klrlhf.values import kl_frontier, kl_max


def mean(policy, f):
    """Expected value in the one context."""
    return (policy * f).sum(axis=-1)[..., 0]


@result("win-rate-frontier", part="V", item="5.5", kind="inequality",
        title="Win rate and divergence", source="this book; cf. gui2024bonbon",
        depends=("kl-frontier", "best-of-n-win-rate"))
def win_rate_frontier_check(check):
    """Win rate at most F_U(KL); best-of-n with fine cells is within 1/(2 n^3) of it."""
    for rng, size in check.batches(24_000, fast=2_400, size=800):
        inst = random_instances(rng, size, S=1)
        lower, mass, upper, _ = cells(inst.reward, inst.pi0)
        middle = lower + mass / 2
        tilted = gibbs_policy(middle, 10.0 ** rng.uniform(-3, 1, size), inst.pi0)
        policy = np.where(rng.random((size, 1, 1)) < 0.5, tilted,
                          random_policies(rng, size, 1, inst.pi0.shape[-1]))
        rate = win_rate(policy, inst.reward, inst.pi0).rate[:, 0]
        check.identity("Step 1: the win rate is the mean of the middle", rate,
                       mean(policy, middle), tol=1e-13)
        kl = np.minimum(kl_divergence(policy, inst.pi0)[:, 0], 700.0)
        top = win_rate_frontier(kl)
        check.inequality("claim: win rate", rate, top, scale=1.0, tol=1e-13)
        check.inequality("claim: closed bounds", rate, win_rate_frontier_bound(kl), scale=1.0,
                         tol=1e-13)
        k = 10.0 ** rng.uniform(-8, 2, size)
        few = np.minimum(k, 12.0)
        check.inequality("Step 2: misses at least e^(-1-k)", np.exp(-1 - few),
                         1 - win_rate_frontier(few), tol=1e-7)
        check.inequality("Step 3: gains at most sqrt(k/6)", win_rate_frontier(k) - 0.5,
                         np.sqrt(k / 6), scale=1e-8, tol=1e-7)
    for k in (15.0, 20.0):
        check.at_least("attained: misses e^(-1-k) for many nats", float(
            (1 - win_rate_frontier_bound(k)) / (1 - win_rate_frontier(k))), 0.9999)
    for k in (1e-10, 1e-6):
        check.at_least("attained: gains sqrt(k/6) for few nats", float(
            (win_rate_frontier(k) - 0.5) / (win_rate_frontier_bound(k) - 0.5)), 0.9999)
    n = np.unique(np.geomspace(1, 1000, 60).round())
    bound = best_of_n_bounds(n)
    lost = win_rate_frontier(bound.kl) - bound.win_rate
    check.inequality("Step 4: best-of-n below the frontier", -lost, 0.0, scale=1.0, tol=1e-13)
    x = 1 / n
    check.inequality("Step 4: e^(-1/n)/n against 1/(n+1)", x / (1 + x) - x * np.exp(-x), x**3 / 2,
                     tol=1e-9)
    check.inequality("claim: best-of-n within 1/(2 n^3)", lost, 0.5 / n**3, scale=1e-5, tol=1e-9)
    check.at_least("attained: 1/(2 n^3) at n = 300", float(
        (win_rate_frontier(best_of_n_bounds(300).kl) - 300 / 301) * 2 * 300**3), 0.99)
    pi0, reward = fine_cells()
    lower, mass, _, _ = cells(reward, pi0)
    for beta in (0.005, 0.05, 0.5, 50.0):
        policy = gibbs_policy(lower + mass / 2, beta, pi0)
        kl = kl_divergence(policy, pi0)[0]
        check.at_least("attained: win rate, fine cells", float(
            win_rate(policy, reward, pi0).rate[0] / win_rate_frontier(kl)), 0.9999)


def threshold_instance(n: int, count: int = 150):
    """Nearly the worst instance: one unit of reward on a small mass, near-ties elsewhere."""
    worst, mass = best_of_n_worst_frontier_gap(n)
    # Cells short on the scale of log F, and of log(1 - F) on both sides of the threshold.
    far = np.geomspace(mass, 0.5, count)
    near = mass * np.concatenate([[0.0], np.geomspace(1e-3, 1.0, count)])
    low = np.geomspace(1e-6, 0.5, count)
    ends = np.unique(np.concatenate([1 - near, 1 - far, low, [0.0]]))
    pi0 = np.diff(ends)[None]
    reward = (ends[:-1] >= 1 - mass * (1 + 1e-9)).astype(float)
    reward = reward + 1e-9 * np.arange(reward.size) / reward.size
    return worst, pi0 / pi0.sum(), reward[None]


@result("best-of-n-frontier", part="V", item="5.5", kind="inequality",
        title="Best-of-n and the frontier", source="this book",
        depends=("kl-frontier", "best-of-n-kl"))
def best_of_n_frontier(check):
    """At equal KL, best-of-n gives up at most omega_n of the reward range, and no less at worst."""
    for rng, size in check.batches(10_000, fast=1_000, size=1_000):
        n = int(rng.choice(DRAWS))
        inst = random_instances(rng, size, S=1)
        pi0, reward, d0 = inst.pi0, inst.reward, np.ones((size, 1))
        span = (reward.max(axis=-1) - reward.min(axis=-1))[:, 0]
        law, kl = best_of_n_policy(reward, pi0, n), best_of_n_kl(reward, pi0, n)[:, 0]
        gap = best_of_n_frontier_gap(reward, pi0, d0, n)
        front = kl_frontier(kl[:, None], reward, pi0, d0)
        beta = front.beta[:, 0]
        inner = (kl > 1e-9) & (kl < 0.999 * kl_max(reward, pi0, d0)) & (beta > 3e-3 * span)
        if inner.any():
            gibbs = gibbs_policy(reward[inner], beta[inner], pi0[inner])
            check.identity("Step 1: distance to the tangent", gap[inner],
                           beta[inner] * kl_divergence(law[inner], gibbs)[:, 0],
                           scale=(span + beta * (1 + kl))[inner], tol=1e-9)
        size_of = np.abs(reward).max(axis=(1, 2))
        check.inequality("claim: at most omega_n of the range", gap,
                         best_of_n_worst_frontier_gap(n)[0] * span, scale=size_of, tol=1e-9)
        policy = random_policies(rng, size, 1, pi0.shape[-1])
        top = reward >= np.quantile(reward, rng.random(), axis=-1, keepdims=True)
        mass = np.minimum((pi0 * top).sum(axis=-1)[:, 0], 1.0)
        check.inequality("Step 2: an event within a budget", mean(policy, top),
                         largest_probability(kl_divergence(policy, pi0)[:, 0], mass), scale=1.0,
                         tol=1e-9)
        budget = np.maximum(kl, 1e-9)
        best = largest_probability(budget, mass)
        left, rest = np.maximum(1 - best, 1e-300), np.maximum(1 - mass, 1e-300)
        spent = best * np.log(best / mass) + left * np.log(left / rest)
        check.identity("Step 2: the event spends the whole budget", spent, np.minimum(
            budget, -np.log(mass)), scale=1 - np.log(mass), tol=1e-10)
        check.inequality("Step 3: an event under best-of-n", -np.expm1(n * np.log1p(-np.minimum(
            mass, 1 - 1e-16))), mean(law, top), scale=1.0, tol=1e-9)
        some = slice(0, size // 5)
        two = (reward > np.median(reward, axis=-1, keepdims=True)).astype(float)
        check.inequality("claim: nothing for two reward values", best_of_n_frontier_gap(
            two[some], pi0[some], d0[some], n), 0.0, scale=1.0, tol=1e-7)
    for n in (2, 10, 1000):
        worst, pi0, reward = threshold_instance(n)
        gap = best_of_n_frontier_gap(reward, pi0, [1.0], n)
        check.inequality("claim: at most omega_n of the range", gap, worst, tol=1e-9)
        check.at_least("attained: the worst instance", float(gap / worst), 0.995)
    for n in (10, 10**3, 10**6, 10**9, 10**12):
        log = np.log(n)
        check.inequality("claim: omega_n tends to 1", (log - 1) / (log + np.log(log)) - 1 / log,
                         best_of_n_worst_frontier_gap(n)[0], scale=1.0, tol=1e-9)

    worst = best_of_n_worst_frontier_gap(4)[0]

    def ratio(x):
        pi0 = np.exp(x[:5] - np.logaddexp.reduce(x[:5]))[None]
        reward = np.concatenate([[0.0], np.cumsum(np.exp(np.clip(x[5:], -30, 3)))])[None]
        gap = best_of_n_frontier_gap(reward, pi0, [1.0], 4)
        return gap / (np.ptp(reward) * worst)

    check.search("claim: search over five answers", ratio, check.rng.normal(size=(2, 9)),
                 maxiter=200)


@result("best-of-n-competitor", part="V", item="5.5", kind="inequality",
        title="Best-of-n against any policy", source="this book",
        depends=("best-of-n-rules", "best-of-n-kl"))
def best_of_n_competitor(check):
    """If pi <= pi0/p, best-of-n keeps the share 1 - (1-p)^(n-1) of the reward that pi gains."""
    for rng, size in check.batches(24_000, fast=2_400, size=800):
        n = int(rng.choice(DRAWS))
        inst = random_instances(rng, size, S=1)
        pi0, reward = inst.pi0, inst.reward
        policy = np.where(rng.random((size, 1, 1)) < 0.5, gibbs_policy(reward, inst.beta, pi0),
                          random_policies(rng, size, 1, pi0.shape[-1]))
        p = np.minimum(1 / (policy / pi0).max(axis=-1)[:, 0], 1.0)
        start, own = mean(pi0, reward), mean(policy, reward)
        best = mean(best_of_n_policy(reward, pi0, n), reward)
        scale = np.abs(reward).max(axis=(1, 2))
        kept = np.exp((n - 1) * np.log1p(-np.minimum(p, 1 - 1e-16)))
        # (1 - p) times the law of a refused draw.
        refused = pi0 - p[:, None, None] * policy
        check.inequality("Step 1: what is refused is a policy", -refused, 0.0, scale=1.0,
                         tol=1e-13)
        rule = (1 - kept * (1 - p))[:, None, None] * policy + kept[:, None, None] * refused
        check.identity("Step 2: reward of the rule", mean(rule, reward),
                       own - kept * (own - start), scale=scale, tol=1e-11)
        check.inequality("Step 3: no rule beats best-of-n", mean(rule, reward), best, scale=scale,
                         tol=1e-11)
        check.inequality("claim: reward given up", own - best, kept * (own - start), scale=scale,
                         tol=1e-11)
        check.inequality("claim: rejection needs e^KL draws",
                         kl_divergence(policy, pi0)[:, 0], -np.log(p), scale=1.0, tol=1e-12)
        check.inequality("claim: best-of-n needs e^(KL + 1 - 1/n) draws",
                         np.exp(best_of_n_kl(reward, pi0, n)[:, 0] + (n - 1) / n), n, tol=1e-12)
        gibbs = gibbs_policy(reward, inst.beta, pi0)
        accept = acceptance_probability(reward, inst.beta, pi0)[:, 0]
        check.identity("Step 4: p of a Gibbs policy", (gibbs / pi0).max(axis=-1)[:, 0] * accept,
                       1.0, tol=1e-10)
        best_only = greedy_policy(reward, pi0)
        eps = np.where(best_only > 0, pi0, 0.0).sum(axis=-1)[:, 0]
        two = (best_only > 0).astype(float)
        check.identity("attained: two reward values",
                       1 - mean(best_of_n_policy(two, pi0, n), two),
                       np.exp((n - 1) * np.log1p(-np.minimum(eps, 1 - 1e-16))) * (1 - eps),
                       tol=1e-9)


@result("best-of-n-proxy", part="V", item="5.5", kind="inequality",
        title="Best-of-n by a proxy reward", source="this book; cf. huang2025best",
        depends=("best-of-n-competitor", "best-of-n-kl"))
def best_of_n_proxy(check):
    """Ranking by a proxy adds sqrt(1/p - 1) + (n-1)/sqrt(2n-1) standard deviations of its error."""
    for rng, size in check.batches(24_000, fast=2_400, size=800):
        n = int(rng.choice(DRAWS))
        inst = random_instances(rng, size, S=1)
        pi0, reward, proxy = inst.pi0, inst.reward, inst.reward_hat
        policy = np.where(rng.random((size, 1, 1)) < 0.5, gibbs_policy(reward, inst.beta, pi0),
                          random_policies(rng, size, 1, pi0.shape[-1]))
        p = np.minimum(1 / (policy / pi0).max(axis=-1)[:, 0], 1.0)
        law = best_of_n_policy(proxy, pi0, n)
        error = reward - proxy
        sd = np.sqrt(variance(pi0, error)[:, 0])
        scale = np.abs(reward).max(axis=(1, 2)) + np.abs(proxy).max(axis=(1, 2))
        loss = mean(policy, reward) - mean(law, reward)
        parts = (mean(policy, proxy) - mean(law, proxy), mean(policy, error) - mean(pi0, error),
                 mean(pi0, error) - mean(law, error))
        check.identity("Step 1: three parts", loss, sum(parts), scale=scale, tol=1e-12)
        kept = np.exp((n - 1) * np.log1p(-np.minimum(p, 1 - 1e-16)))
        gain = mean(policy, proxy) - mean(pi0, proxy)
        check.inequality("Step 2: the proxy part", parts[0], kept * gain, scale=scale, tol=1e-11)
        check.inequality("Step 3: chi-squared of the policy", chi2_divergence(policy, pi0)[:, 0],
                         1 / p - 1, scale=1 / p, tol=1e-11)
        check.inequality("Step 3: error under the policy", parts[1],
                         np.sqrt(1 / p - 1) * sd, scale=scale, tol=1e-7)
        check.inequality("Step 4: error under best-of-n", parts[2],
                         (n - 1) / np.sqrt(2 * n - 1) * sd, scale=scale, tol=1e-11)
        bound = kept * gain + (np.sqrt(1 / p - 1) + (n - 1) / np.sqrt(2 * n - 1)) * sd
        check.inequality("claim", loss, bound, scale=scale, tol=1e-7)
        check.inequality("claim: for every policy with this p", loss,
                         best_of_n_proxy_loss(proxy, reward, pi0, n, p[:, None])[:, 0],
                         scale=scale, tol=1e-7)
        K, few = 3, 2
        small, rule, target = random_rules(rng, 200, K, few)
        law = selection_policy(rule, small)[:, None]
        sd = np.sqrt(variance(small[:, None], target[:, None])[:, 0])
        check.inequality("Step 4: any rule", mean(law, target[:, None]) - mean(
            small[:, None], target[:, None]), (few - 1) / np.sqrt(2 * few - 1) * sd,
            scale=1e-6, tol=1e-9)
    # Equality needs an error that falls like the density of best-of-n rises.
    pi0, proxy = fine_cells()
    lower, mass, upper, _ = cells(proxy, pi0)
    for n in (2, 10, 100):
        law = best_of_n_policy(proxy, pi0, n)
        reward = -(law / pi0) * 1e-6
        loss = mean(pi0, reward) - mean(law, reward)
        check.at_least("attained: error under best-of-n", float(
            loss / ((n - 1) / np.sqrt(2 * n - 1) * np.sqrt(variance(pi0, reward)[0]))), 0.999)
        # The competitor pi0 itself (p = 1) leaves the last term alone.
        check.at_least("attained: the bound at p = 1", float(
            loss / best_of_n_proxy_loss(proxy * 1e-30, reward, pi0, n, [1.0])[0]), 0.999)
    for eps in (0.01, 0.3, 0.9):
        two = np.array([[1 - eps, eps]])
        good, one = np.array([[0.0, 1.0]]), np.array([1.0 - eps])
        for n in (1, 3, 30):
            # No error: the first term alone, at the policy that always answers well.
            check.identity("attained: no error", best_of_n_proxy_loss(good, good, two, n, [eps]),
                           1 - mean(best_of_n_policy(good, two, n), good), tol=1e-12)
        # One draw: both errors are one indicator, and best-of-1 is the reference.
        check.identity("attained: one draw", best_of_n_proxy_loss(good, 2 * good, two, 1, [eps]),
                       2 * one, tol=1e-12)
    two = np.array([[0.9, 0.1]])
    bound = best_of_n_proxy_loss([[0.0, 1.0]], [[0.0, 1.0]], two, 20, [0.1])
    check.not_vacuous("not vacuous", bound, 0.9)
