r"""Item 5.4: multi-step rejection sampling, its cost, and how errors travel along the path."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from klrlhf.numerics import sharp_hoeffding
from klrlhf.policies import gibbs_policy, kl_divergence
from klrlhf.results.instances import random_instances, random_policies
from klrlhf.results.registry import result
from klrlhf.sampling import (
    acceptance_probability,
    amplified_error,
    level_acceptances,
    log_acceptance_probability,
    multistep_cost,
    multistep_path,
    multistep_rejection_sample,
    optimal_levels,
    sampled_path,
    span_total_variation,
    total_variation,
)


def random_path(rng, beta, N):
    """Inverse temperatures from 0 to 1 / beta, shape (size, 1, N + 1)."""
    step = rng.exponential(size=(beta.size, N)) ** rng.choice([0.3, 1.0, 3.0])
    path = np.cumsum(step, axis=-1) / step.sum(-1, keepdims=True)
    path = np.concatenate([np.zeros((beta.size, 1)), path], -1) / beta[:, None]
    path[:, -1] = 1 / beta
    return np.minimum(path, path[:, -1:])[:, None, :]


@result("multistep-product", part="V", item="5.4", kind="identity",
        title="Acceptances along a path multiply", source="xiong2024iterative; this book",
        depends=("rejection-gibbs", "temperature-path"))
def multistep_product(check):
    """The levels' acceptances multiply to p; nesting the levels without fitting saves nothing."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst = random_instances(rng, size)
        N = int(rng.integers(1, 9))
        path = np.broadcast_to(random_path(rng, inst.beta, N), (*inst.pi0.shape[:2], N + 1))
        p_i = level_acceptances(inst.reward, inst.pi0, path)
        below = inst.reward - inst.reward.max(-1, keepdims=True)
        logits = np.log(inst.pi0)[..., None] + path[..., None, :] * below[..., None]
        law = np.exp(logits - logsumexp(logits, axis=-2, keepdims=True))
        weight = np.exp(np.diff(path, axis=-1)[..., None, :] * below[..., None])
        direct = (law[..., :-1] * weight).sum(-2)
        check.identity("step 1: one level", p_i, direct, tol=1e-10)
        moved = law[..., :-1] * weight / direct[..., None, :]
        check.identity("step 1: samples the next policy", moved, law[..., 1:], tol=1e-10)
        log_p = log_acceptance_probability(inst.reward, inst.beta, inst.pi0)
        check.identity("claim: product", np.log(p_i).sum(-1), log_p, scale=1 - log_p, tol=1e-10)
        # Nested without fitting: all N tests on one draw of the reference.
        survives = (inst.pi0 * weight.prod(-1)).sum(-1)
        p = np.exp(log_p)
        check.identity("claim: nested survival", survives, p, tol=1e-10)
        draws = np.ones_like(p)
        for i in range(N):
            draws = draws / p_i[..., i]
        check.identity("claim: nested draws", draws * p, 1.0, tol=1e-8)
        ends = rng.random((2, size, 1)) / inst.beta[:, None]
        at = [logsumexp(np.log(inst.pi0) + inverse[..., None] * below, axis=-1)
              for inverse in (*ends, ends.mean(0))]
        check.inequality("step 3: convexity", at[2], (at[0] + at[1]) / 2, scale=1 - log_p,
                         tol=1e-10)
        even = np.linspace(0, 1, N + 1) / inst.beta[:, None, None]
        even = np.broadcast_to(even, path.shape)
        rising = np.log(level_acceptances(inst.reward, inst.pi0, even))
        if N > 1:
            check.inequality("claim: equal steps accept least first", rising[..., :-1],
                             rising[..., 1:], scale=1 - log_p[..., None], tol=1e-10)


@result("multistep-cost", part="V", item="5.4", kind="inequality",
        title="The cost of a path", source="this book", depends=("multistep-product",))
def multistep_costs(check):
    """Sum 1/p_i >= N p^(-1/N), equal at equal acceptances; the best N costs e log(1/p) + [0, 1]."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst = random_instances(rng, size)
        N = int(rng.integers(1, 9))
        p = acceptance_probability(inst.reward, inst.beta, inst.pi0)
        usable = p > 1e-200
        p = np.where(usable, p, 1.0)
        p_i = level_acceptances(inst.reward, inst.pi0, random_path(rng, inst.beta, N))
        total = np.where(usable, (1 / np.maximum(p_i, 1e-300)).sum(-1), N)
        geometric = np.exp(np.log(p) / -N)
        check.inequality("step 1: arithmetic and geometric mean", geometric, total / N, tol=1e-9)
        check.inequality("claim: any path", multistep_cost(p, N), total, tol=1e-9)
        # A common path cannot beat the prompts' own paths on average.
        check.inequality("claim: one path for all prompts", (inst.d0 * multistep_cost(p, N)
                                                             ).sum(-1),
                         (inst.d0 * total).sum(-1), tol=1e-9)
        few = slice(0, 40)
        path = multistep_path(inst.reward[few], inst.beta[few], inst.pi0[few], N)
        best = level_acceptances(inst.reward[few], inst.pi0[few], path)
        check.identity("claim: equal acceptances", np.log(best), np.log(p[few])[..., None] / N
                       if usable[few].all() else np.log(best), scale=1 - np.log(p[few])[..., None],
                       tol=1e-9)
        L = np.where(rng.random(size) < 0.3, rng.integers(1, 40, size) + 0.0,
                     10.0 ** rng.uniform(-3, 2.5, size))
        q = np.exp(-L)
        star = optimal_levels(q)
        costs = np.stack([multistep_cost(q, k) for k in range(1, 400, 1)])
        check.identity("claim: best integer", multistep_cost(q, star) / costs.min(0), 1.0,
                       tol=1e-12)
        k = np.floor(10.0 ** rng.uniform(0, 3, size))
        fewer = multistep_cost(q, k) <= multistep_cost(q, k + 1)
        edge = np.abs(L / (k * (k + 1) * np.log1p(1 / k)) - 1) < 1e-9
        check.holds("step 2: neighbours", edge | (fewer == (
            L <= k * (k + 1) * np.log1p(1 / k))))
        y = L / k
        check.inequality("step 4: lower bound", np.e * y, np.exp(np.minimum(y, 700)), tol=1e-12)
        k = star.astype(float)
        check.inequality("step 3: enough levels", L, k * (k + 1) * np.log1p(1 / k), tol=1e-9)
        one = np.where(k > 1, k - 1, 1.0)
        check.inequality("step 3: one fewer is too few", np.where(
            k > 1, one * (one + 1) * np.log1p(1 / one), 0.0), L, tol=1e-9)
        check.inequality("claim: at least e log(1/p)", np.e * L, multistep_cost(q, star), tol=1e-11)
        check.inequality("claim: at most one more", multistep_cost(q, star), np.e * L + 1,
                         tol=1e-11)
        S = k * (k + 1) * np.log1p(1 / k)
        x = S / k - 1
        check.inequality("step 5: switching points", x, 1 / (2 * k), tol=1e-9)
        check.inequality("step 5: excess there", k * np.exp(S / k) - np.e * S,
                         np.exp(1.5) / (8 * k), scale=S, tol=1e-11)
        above = L >= 1
        check.inequality("remark: from log(1/p) = 1 on", np.where(
            above, multistep_cost(q, star) - np.e * L, 0.0), 4 - 2 * np.e * np.log(2),
            scale=L, tol=1e-11)
        check.inequality("claim: rounded up", multistep_cost(q, np.ceil(L)), np.e * np.ceil(L),
                         tol=1e-11)
    L = np.arange(1.0, 30)
    check.identity("claim: e log(1/p) attained", multistep_cost(np.exp(-L), L), np.e * L,
                   scale=np.e * L)
    check.at_least("claim: at most one more is attained",
                   float(multistep_cost(1 - 1e-9, 1) - np.e * 1e-9), 1 - 1e-8)
    check.at_least("claim: quarter", float(optimal_levels(0.25) == 1)
                   + float(optimal_levels(0.2499) == 2), 2)


def sampled_case(rng, accuracy, delta, reward, beta, pi0, trials):
    """Bounds and observed levels and costs of paths built from samples."""
    L = -float(log_acceptance_probability(reward[None], beta, pi0[None])[0])
    most = 1 + int(L / (1 - np.log1p(accuracy * np.e)))
    draws = int(np.ceil(np.log(2 * most / delta) / (2 * accuracy**2)))
    found = []
    for _ in range(trials):
        path = sampled_path(reward, beta, pi0, rng, draws)
        p_i = level_acceptances(reward[None], pi0[None], path)[0]
        found.append((len(path) - 1, (1 / p_i).sum(), np.abs(p_i[:-1] - np.exp(-1)).max(initial=0),
                      p_i[-1]))
    return most, draws, np.array(found)


@result("multistep-sampled-path", part="V", item="5.4", kind="probability",
        title="A path built from samples", source="this book; massart1990tight",
        depends=("multistep-cost",))
def multistep_sampled_path(check):
    """With enough draws per level the sampled path has about log(1/p) levels that accept 1/e."""
    rng, delta, failures, trials = check.rng, 0.1, 0, 0
    for rng, size in check.batches(10_000, fast=1_000):
        K = int(rng.integers(2, 7))
        law = random_policies(rng, size, 1, K)[:, 0]
        below = -np.sort(rng.exponential(size=(size, K)), -1)[:, ::-1]
        below[:, -1] = 0.0
        counts = rng.multinomial(40, law)
        step = 10.0 ** rng.uniform(-2, 1.5, size)[:, None]
        drift = np.abs(np.cumsum(counts / 40 - law, -1)).max(-1)
        off = np.abs(((counts / 40 - law) * np.exp(step * below)).sum(-1))
        check.inequality("step 1: the mean follows the distribution", off, drift, scale=1e-3,
                         tol=1e-9)
    rng, accuracy = check.rng, 0.05
    runs = check.choose(150, 30)
    for spread in (4.0, 12.0):
        reward = rng.standard_normal(200)
        pi0 = rng.dirichlet(np.ones(200))
        most, draws, found = sampled_case(rng, accuracy, delta, reward * spread, 1.0, pi0, runs)
        bad = ((found[:, 0] > most) | (found[:, 2] > accuracy)
               | (found[:, 1] > np.e * most / (1 - np.e * accuracy)))
        failures, trials = failures + bad.sum(), trials + runs
        check.instances += runs
        good = ~bad
        check.inequality("step 2: levels", found[good, 0], most)
        check.inequality("step 3: cost", found[good, 1], np.e * most / (1 - np.e * accuracy))
    check.failure_rate("claim", failures, trials, delta)


@result("multistep-errors", part="V", item="5.4", kind="inequality",
        title="How fit errors travel along the path", source="this book",
        depends=("multistep-product", "total-variation-span", "hoeffding-kl"))
def multistep_errors(check):
    """Total variation can grow by 1/p_j per level, and does; spans of log-ratios only add."""
    for rng, size in check.batches(20_000, fast=2_000):
        K, N = int(rng.integers(2, 6)), int(rng.integers(1, 6))
        inst = random_instances(rng, size, 1, K)
        below = (inst.reward - inst.reward.max(-1, keepdims=True))[:, 0]
        path = random_path(rng, inst.beta, N)
        p_i = level_acceptances(inst.reward, inst.pi0, path)[:, 0]
        step = np.diff(path[:, 0], axis=-1)
        exact = fitted = np.log(inst.pi0[:, 0])
        eps, spans, usable = [], [], np.ones(size, bool)
        scale = 10.0 ** rng.uniform(-3, 1, (size, 1))
        for i in range(N):
            log_w = step[:, i, None] * below
            before = 0.5 * np.abs(np.exp(fitted) - np.exp(exact)).sum(-1)
            accept = np.exp(logsumexp(fitted + log_w, axis=-1))
            exact = exact + log_w - logsumexp(exact + log_w, axis=-1, keepdims=True)
            aimed = fitted + log_w - logsumexp(fitted + log_w, axis=-1, keepdims=True)
            ideal = 0.5 * np.abs(np.exp(aimed) - np.exp(exact)).sum(-1)
            usable &= p_i[:, i] > 1e-9
            check.inequality("step 1: one level", np.where(usable, ideal, 0.0), np.where(
                usable, before / np.maximum(accept, np.maximum(p_i[:, i], 1e-12)), 1.0),
                scale=1e-3, tol=1e-6)
            noise = scale * rng.standard_normal((size, K)) * (rng.random((size, K)) < 0.5)
            fitted = aimed + noise
            fitted = fitted - logsumexp(fitted, axis=-1, keepdims=True)
            eps.append(0.5 * np.abs(np.exp(fitted) - np.exp(aimed)).sum(-1))
            spans.append(np.ptp(noise, axis=-1))
        eps, span = np.stack(eps, -1), np.ptp(fitted - exact, axis=-1)
        tv = 0.5 * np.abs(np.exp(fitted) - np.exp(exact)).sum(-1)
        bound = np.where(usable, amplified_error(eps, np.maximum(p_i, 1e-12)), 1.0)
        check.inequality("claim: total variation", np.where(usable, tv, 0.0), bound, scale=1e-3,
                         tol=1e-6)
        total = np.sum(spans, axis=0)
        size_of = 1 + total + np.abs(fitted).max(-1)
        check.inequality("step 2: spans add", span, total, scale=1e-3 * size_of, tol=1e-9)
        check.inequality("claim: total variation by spans", tv, span_total_variation(total),
                         scale=1e-3 * size_of, tol=1e-9)
        q, star = np.exp(fitted)[:, None], np.exp(exact)[:, None]
        q, star = q / q.sum(-1, keepdims=True), star / star.sum(-1, keepdims=True)
        check.inequality("claim: loss by spans", kl_divergence(q, star)[:, 0],
                         sharp_hoeffding(total), scale=1e-3 * size_of, tol=1e-9)
        check.identity("step 3: end of the path", star, gibbs_policy(
            inst.reward, inst.beta, inst.pi0), tol=1e-8)
        # Attained: a fit that forgets the best action at level i.
        x, N = 10.0 ** rng.uniform(-4, -0.5, size), int(rng.integers(1, 6))
        i = int(rng.integers(0, N))
        R = 10.0 ** rng.uniform(-0.5, 1.3, size)
        reward = np.stack([np.zeros(size), R], -1)[:, None]
        pi0 = np.stack([1 - x, x], -1)[:, None]
        path = random_path(rng, np.ones(size), N)
        p_i = level_acceptances(reward, pi0, path)[:, 0]
        there = gibbs_policy(reward * path[:, :, i + 1][..., None], 1.0, pi0)[:, 0, 1]
        eps = np.zeros((size, N))
        eps[:, i] = there  # the fit puts everything on the other action, and stays there
        final = gibbs_policy(reward, 1.0, pi0)[:, 0, 1]
        check.identity("claim: attained", amplified_error(eps, p_i) / final, 1.0, tol=1e-8)
    # The whole loop with a fit that forgets, and with exact fits.
    reward, pi0 = np.array([[0.0, 0.3, 8.0]]), np.array([[0.6, 0.39, 0.01]])
    path = multistep_path(reward, 1.0, pi0, 4)
    size = check.choose(20_000, 2_000)

    def forget(actions, inverse):
        counts = np.array([[(actions == a).mean() for a in (0, 1)]])
        return np.concatenate([counts / counts.sum(), [[0.0]]], -1)

    star = gibbs_policy(reward, 1.0, pi0)
    lost = multistep_rejection_sample(reward, pi0, path, check.rng, size, forget)
    first = gibbs_policy(reward * path[0, 1], 1.0, pi0)
    p_i = level_acceptances(reward, pi0, path)
    check.identity("claim: forgetting costs the best action's mass", total_variation(
        lost.policies[-1][:, :2] * 0 + [[1.0, 0.0]], [[1.0, 0.0]]) + star[:, 2],
        amplified_error([[first[0, 2], 0, 0, 0]], p_i), tol=1e-9)
    kept = multistep_rejection_sample(reward, pi0, path, check.rng, size)
    share = np.array([(kept.actions == a).mean() for a in range(3)])
    check.limit("claim: exact fits sample the Gibbs policy", share,
                np.sqrt(star[0] * (1 - star[0]) / size), star[0])
    check.limit("claim: draws", kept.draws[:, 0] / size,
                np.sqrt((1 - p_i[0]) / size) / p_i[0], 1 / p_i[0])
