r"""Checks of the chapter "The Gibbs policy": variational principle, invariance, stability.

What lives here: one check per statement of section 1.1, each with the steps of its proof.
The left sides are written out from the definitions, so that they do not share code with the library
functions on the right. What does not: the temperature path and budgets (``part1_temperature``).
"""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
from scipy.special import logsumexp, softmax, xlogy

from klrlhf.policies import (
    gibbs_policy,
    greedy_policy,
    kl_divergence,
    kl_divergence_from_logs,
    log_gibbs_policy,
    log_partition,
)
from klrlhf.results.instances import random_instances, random_policies
from klrlhf.results.registry import result
from klrlhf.values import optimal_value, suboptimality, value

FINITE = "finite sets, pi0 with full support, beta > 0"


def average(d0, per_context):
    """Mean over contexts."""
    return (d0 * per_context).sum(axis=-1)


def divergence(p, q):
    """KL by its definition; fine unless the two laws are close."""
    return xlogy(p, np.where(p > 0, p, 1.0) / q).sum(axis=-1)


def objective(policy, reward, beta, pi0, d0):
    """J by its definition, and the size of the terms that it adds up."""
    gain, cost = (policy * reward).sum(axis=-1), beta[:, None] * divergence(policy, pi0)
    size = np.abs(reward).max(axis=(-1, -2)) + average(d0, cost)
    return average(d0, gain - cost), size


def any_policies(rng, inst):
    """Random policies, a tenth of them greedy and a tenth with an action removed."""
    size, S, K = inst.reward.shape
    policy = random_policies(rng, size, S, K)
    policy = np.where(rng.random((size, 1, 1)) < 0.1, greedy_policy(inst.reward, inst.pi0), policy)
    starved = policy * (np.arange(K) != rng.integers(K))
    total = starved.sum(axis=-1, keepdims=True)
    starved = np.where(total > 0, starved / np.where(total > 0, total, 1.0), policy)
    return np.where(rng.random((size, 1, 1)) < 0.1, starved, policy)


def close_policies(rng, policy):
    """Policies at relative distance 1e-1 to 1e-4 of the given ones."""
    size = 10.0 ** rng.uniform(-4, -1, (len(policy), 1, 1))
    moved = policy * np.exp(size * rng.standard_normal(policy.shape))
    return moved / moved.sum(axis=-1, keepdims=True)


@result("gibbs-variational", part="I", item="1.1", kind="identity",
        title="Gibbs variational principle", source="classical; donsker1975asymptotic")
def gibbs_variational(check):
    """J_r(pi) = max J_r - beta E KL(pi || pi_r) for every policy: pi_r is the unique maximizer."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst = random_instances(rng, size)
        d0, pi0, reward, beta = inst.d0, inst.pi0, inst.reward, inst.beta
        policy = any_policies(rng, inst)
        b = beta[:, None]
        log_z = log_partition(reward, beta, pi0)
        log_opt = log_gibbs_policy(reward, beta, pi0)
        span = np.abs(reward).max(axis=(-1, -2))
        check.identity("step 1: the reward as a log-ratio",
                       beta[:, None, None] * (log_opt - np.log(pi0) + log_z[..., None]), reward,
                       scale=(span + beta * np.abs(np.log(pi0)).max(axis=(-1, -2)))[:, None, None])
        with np.errstate(divide="ignore"):
            kl = kl_divergence_from_logs(np.log(policy), log_opt)
        one = (policy * reward).sum(axis=-1) - b * divergence(policy, pi0)
        check.identity("step 2: one context", one, b * log_z - b * kl,
                       scale=span[:, None] + b * (1 + kl + divergence(policy, pi0)))
        missing = np.where(policy == 0, np.exp(log_opt), 0.0).sum(axis=-1)
        check.inequality("step 4: KL is at least the mass it misses", missing, kl, scale=1e-4)
        lhs, terms = objective(policy, reward, beta, pi0, d0)
        scale = terms + beta * (1 + average(d0, kl))
        best = beta * average(d0, logsumexp(reward / b[..., None] + np.log(pi0), axis=-1))
        check.identity("claim: the identity", lhs, best - beta * average(d0, kl), scale=scale)
        few = slice(0, 50)
        check.identity("claim: the optimal value, in 50 digits",
                       optimal_value(reward[few], beta[few], pi0[few], d0[few]),
                       [_precise_optimal_value(*one) for one in
                        zip(reward[few], beta[few], pi0[few], d0[few], strict=True)], scale=scale[few])
        reached = value(policy, reward, beta, pi0, d0)
        check.identity("claim: the gap", best - reached,
                       suboptimality(policy, reward, beta, pi0, d0), scale=scale)
        # Uniqueness: free where d0 = 0, and a loss of at least the Pinsker bound elsewhere.
        free = np.where(d0[..., None] == 0, policy, np.exp(log_opt))
        check.identity("claim: free on prompts that never occur",
                       value(free, reward, beta, pi0, d0), best, scale=scale)
        moved = beta * average(d0, np.abs(policy - np.exp(log_opt)).sum(axis=-1)) ** 2 / 2
        check.holds("claim: strict loss elsewhere", (reached < best) | (moved < 1e-12 * scale))
    _search_maximum(check)


def _precise_optimal_value(reward, beta, pi0, d0) -> float:
    """beta E_x log E_pi0 e^{r/beta} in decimal arithmetic: shares nothing with the library."""
    with localcontext() as context:
        context.prec = 50
        total, price = Decimal(0), Decimal(float(beta))
        for weight, row, reference in zip(d0, reward, pi0, strict=True):
            z = sum(Decimal(float(p)) * (Decimal(float(r)) / price).exp()
                    for p, r in zip(reference, row, strict=True))
            total += Decimal(float(weight)) * z.ln()
        return float(price * total)


def _search_maximum(check):
    """An optimizer that does not know the formula looks for a policy above the optimal value."""
    inst = random_instances(np.random.default_rng(11), 6, S=2, K=3)
    highest = []
    for d0, pi0, reward, _, beta in zip(*inst, strict=True):
        arrays = reward, beta, pi0, d0
        top = optimal_value(*arrays)

        def ratio(x, arrays=arrays, best=top):
            policy = softmax(x.reshape(2, 3), axis=-1)
            return np.exp((value(policy, *arrays) - best) / arrays[1])

        highest.append(check.search("claim: exp((J - max J)/beta) <= 1", ratio,
                                    [np.zeros(6), np.log(pi0).ravel()]))
    check.at_least("claim: the optimizer reaches the maximum", min(highest), 0.999)


@result("objective-strictly-concave", part="I", item="1.1", kind="identity",
        title="Curvature along a segment", source="compensation identity, classical",
        depends=("gibbs-variational",))
def objective_strictly_concave(check):
    """Mixing two policies gains beta times their mean KL to the mixture: J is strictly concave."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst = random_instances(rng, size)
        d0, pi0, reward, beta = inst.d0, inst.pi0, inst.reward, inst.beta
        first, second = any_policies(rng, inst), any_policies(rng, inst)
        s = rng.random(size)
        mix = (1 - s)[:, None, None] * first + s[:, None, None] * second
        to_mix = (1 - s)[:, None] * kl_divergence(first, mix)
        to_mix = to_mix + s[:, None] * kl_divergence(second, mix)
        to_reference = [divergence(p, pi0) for p in (first, second, mix)]
        check.identity("step 1: compensation identity",
                       (1 - s)[:, None] * to_reference[0] + s[:, None] * to_reference[1],
                       to_mix + to_reference[2], scale=1 + to_reference[0] + to_reference[1])
        values = [objective(p, reward, beta, pi0, d0) for p in (first, second, mix)]
        lhs = values[2][0] - (1 - s) * values[0][0] - s * values[1][0]
        bend = beta * average(d0, to_mix)
        check.identity("claim", lhs, bend, scale=sum(v[1] for v in values))
        apart = average(d0, np.abs(first - second).max(axis=-1)) > 1e-6
        check.holds("claim: strict between different policies", (bend > 0) | ~apart)


@result("gibbs-shift-invariance", part="I", item="1.1", kind="identity",
        title="What the policy remembers of the reward", source="classical; rafailov2023direct",
        depends=("gibbs-variational",))
def gibbs_shift_invariance(check):
    """Shifts by a function of the prompt change no policy and no gap, and nothing else is free."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst = random_instances(rng, size)
        d0, pi0, reward, beta = inst.d0, inst.pi0, inst.reward, inst.beta
        b3 = beta[:, None, None]
        shift = 10.0 ** rng.uniform(-2, 2, (size, 1)) * rng.standard_normal(d0.shape)
        shift = beta[:, None] * shift
        policy = any_policies(rng, inst)
        log_opt = log_gibbs_policy(reward, beta, pi0)
        shifted = log_gibbs_policy(reward + shift[..., None], beta, pi0)
        scale = 1 + (np.abs(reward) + np.abs(shift)[..., None]).max(axis=(-1, -2)) / beta
        scale = scale + np.abs(np.log(pi0)).max(axis=(-1, -2))
        check.identity("claim: same policy", shifted, log_opt, scale=scale[:, None, None])
        check.identity("step 1: values move by the mean shift",
                       objective(policy, reward + shift[..., None], beta, pi0, d0)[0],
                       objective(policy, reward, beta, pi0, d0)[0] + average(d0, shift),
                       scale=beta * scale + objective(policy, reward, beta, pi0, d0)[1])
        other = log_gibbs_policy(inst.reward_hat, beta, pi0)
        difference = b3 * (log_opt - other) - (reward - inst.reward_hat)
        check.identity("step 2: policies give back reward differences",
                       difference, difference[..., :1], scale=(beta * scale)[:, None, None]
                       + np.abs(inst.reward_hat).max(axis=(-1, -2), keepdims=True))
        target = random_policies(rng, *reward.shape)
        implied = b3 * (np.log(target) - np.log(pi0))
        check.identity("claim: every full-support policy is Gibbs",
                       log_gibbs_policy(implied + shift[..., None], beta, pi0), np.log(target),
                       scale=(scale + np.abs(implied).max(axis=(-1, -2)) / beta)[:, None, None])


@result("gibbs-improvement", part="I", item="1.1", kind="identity",
        title="The value of optimizing", source="this book; paes2026theoretical",
        depends=("gibbs-variational",))
def gibbs_improvement(check):
    """The profit over the reference is beta KL(pi0 || pi_r); the reward gained is both KLs."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst = random_instances(rng, size)
        d0, pi0, reward, beta = inst.d0, inst.pi0, inst.reward, inst.beta
        log_opt, log_ref = log_gibbs_policy(reward, beta, pi0), np.log(pi0)
        optimal = np.exp(log_opt)
        paid = beta * average(d0, kl_divergence_from_logs(log_opt, log_ref))
        kept = beta * average(d0, kl_divergence_from_logs(log_ref, log_opt))
        start = average(d0, (pi0 * reward).sum(axis=-1))
        scale = np.abs(reward).max(axis=(-1, -2)) + paid + kept + 1e-2 * beta
        top, _ = objective(optimal, reward, beta, pi0, d0)
        loss = optimal_value(reward, beta, pi0, d0) - value(pi0, reward, beta, pi0, d0)
        check.identity("step 1: the gap at the reference", loss, kept, scale=scale)
        check.identity("step 1: the library's gap", loss,
                       suboptimality(pi0, reward, beta, pi0, d0), scale=scale)
        check.identity("claim: profit", top - start, kept, scale=scale)
        gain = average(d0, ((optimal - pi0) * reward).sum(axis=-1))
        check.identity("claim: reward gained", gain, paid + kept, scale=scale)


@result("gibbs-stability", part="I", item="1.1", kind="inequality",
        title="Near-optimal means near", source="Pinsker's inequality, classical",
        depends=("gibbs-variational", "temperature-path"))
def gibbs_stability(check):
    """The mean squared L1 distance to the optimum is at most 2 gap / beta."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst = random_instances(rng, size)
        d0, pi0, reward, beta = inst.d0, inst.pi0, inst.reward, inst.beta
        optimal = gibbs_policy(reward, beta, pi0)
        policy = np.where(rng.random((size, 1, 1)) < 0.5, any_policies(rng, inst),
                          close_policies(rng, optimal))
        # Step 1 is the variational principle tried on +-1; any function and slope will do.
        f = np.where(policy >= optimal, 1.0, -1.0)
        slope = 10.0 ** rng.uniform(-3, 1, size)[:, None]
        log_mean = logsumexp(slope[..., None] * f, b=np.maximum(optimal, 1e-300), axis=-1)
        kl = kl_divergence(policy, optimal)
        check.inequality("step 1: the variational principle for two laws",
                         slope * (policy * f).sum(axis=-1) - log_mean, kl, scale=1 + slope)
        check.inequality("step 2: Hoeffding's lemma",
                         log_mean - slope * (optimal * f).sum(axis=-1), slope**2 / 2,
                         scale=1e-4 + slope)
        distance = np.abs(policy - optimal).sum(axis=-1)
        # Moves below 1e-6 drown in the rounding of the policies themselves.
        visible = distance > 1e-6
        check.inequality("step 3: Pinsker", np.where(visible, distance**2 / 2, 0.0), kl, tol=1e-9)
        square = average(d0, np.where(visible, distance**2, 0.0))
        gap = suboptimality(policy, reward, beta, pi0, d0)
        check.inequality("claim", square, 2 * gap / beta, tol=1e-9)

    def ratio(x):
        optimal = np.array([[0.5 + 0.49 * np.tanh(x[0]), 0.5 - 0.49 * np.tanh(x[0])]])
        policy = optimal + 1e-3 * (1.1 + np.tanh(x[1])) * np.array([[1, -1]])
        return np.abs(policy - optimal).sum() ** 2 / (2 * kl_divergence(policy, optimal)[0])

    best = check.search("claim: search", ratio, [[1.0, 1.0], [-0.5, 0.0], [0.1, -1.0]])
    check.at_least("claim: nearly attained", best, 0.999)


@result("optimal-value-convexity", part="I", item="1.1", kind="identity",
        title="The optimal value is convex in the reward", source="classical",
        depends=("gibbs-variational",))
def optimal_value_convexity(check):
    """The optimal value is convex in the reward; its gradient is d0 pi_r, its excess a KL."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst = random_instances(rng, size)
        d0, pi0, beta = inst.d0, inst.pi0, inst.beta
        r, s = inst.reward, inst.reward_hat
        log_r, log_s = log_gibbs_policy(r, beta, pi0), log_gibbs_policy(s, beta, pi0)
        move = optimal_value(s, beta, pi0, d0) - optimal_value(r, beta, pi0, d0)
        low = average(d0, (np.exp(log_r) * (s - r)).sum(axis=-1))
        high = average(d0, (np.exp(log_s) * (s - r)).sum(axis=-1))
        scale = (np.abs(r) + np.abs(s)).max(axis=(-1, -2)) + beta
        check.identity("claim: excess over the tangent", move - low,
                       beta * average(d0, kl_divergence_from_logs(log_r, log_s)), scale=scale)
        check.inequality("step 2: lower end of the sandwich", low, move, scale=scale)
        check.inequality("step 2: upper end of the sandwich", move, high, scale=scale)
        # A complex step differentiates without cancellation.
        direction = rng.standard_normal(r.shape)
        b = beta[:, None, None]
        exponent = (r - r.max(axis=-1, keepdims=True) + 1e-30j * b * direction) / b
        tilted = np.log((pi0 * np.exp(exponent)).sum(axis=-1)).imag / 1e-30
        check.identity("step 3: the gradient is d0 pi_r", average(d0, tilted),
                       average(d0, (np.exp(log_r) * direction).sum(axis=-1)), scale=10.0)
        check.inequality("step 4: Lipschitz in the largest error", np.abs(move),
                         average(d0, np.abs(s - r).max(axis=-1)), scale=scale)
