r"""Checks of the value decomposition (item 1.4).

What lives here: the value decomposition for exact and inexact policies, the size of the term that
the naive version forgets, and the price of an early stop. Item 1.5 is in ``part1_second_order``.
Divergences are computed from log-policies throughout: probabilities of Gibbs policies underflow.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from klrlhf.policies import (
    expectation,
    gibbs_policy,
    greedy_policy,
    kl_divergence_from_logs,
    log_gibbs_policy,
)
from klrlhf.results.instances import random_instances, random_policies, two_point_instances
from klrlhf.results.registry import result
from klrlhf.values import optimal_value, plug_in_suboptimality, suboptimality, value

# -- small helpers ---------------------------------------------------------------------------------


def prompt_mean(per_context, d0):
    """The mean over prompts; prompts of probability 0 do not count, even with infinite values."""
    return np.where(d0 > 0, d0 * np.where(d0 > 0, per_context, 0.0), 0.0).sum(axis=-1)


def log_of(policy):
    with np.errstate(divide="ignore"):
        return np.log(policy)


def _penalty(policy, log_other, inst):
    """beta E_x KL(policy || other)."""
    return inst.beta * prompt_mean(kl_divergence_from_logs(log_of(policy), log_other), inst.d0)


def range_of(f):
    return np.ptp(f, axis=-1)


def mixed_instances(rng, size, turn):
    """Generic and extreme instances; every third batch is the two-point family."""
    return two_point_instances(rng, size) if turn % 3 == 1 else random_instances(rng, size)


def _near(rng, inst):
    """Inexact policies: Gibbs policies of r_hat plus an error, from far below to above beta."""
    shape = inst.reward.shape
    size = 10.0 ** rng.uniform(-5, 1, (shape[0], 1, 1)) * inst.beta[:, None, None]
    # Tilting against D is the direction in which the forgotten term is largest.
    against = inst.reward_hat - inst.reward
    against = against - against.min(axis=-1, keepdims=True)
    top = against.max(axis=(-1, -2), keepdims=True)
    against = against / np.where(top > 0, top, 1.0)
    noise = np.where(rng.random((shape[0], 1, 1)) < 0.5, rng.standard_normal(shape), against)
    return gibbs_policy(inst.reward_hat + size * noise, inst.beta, inst.pi0)


def size_of(inst, *policies):
    """The size of the numbers that are added up: the scale of rounding errors."""
    # beta itself: the logarithm of a sum near one is good to 1e-16 absolutely, not relatively.
    total = 1.0 * inst.beta
    for policy in policies:
        total = total + _penalty(policy, log_of(inst.pi0), inst)
    largest = np.abs(inst.reward).max(axis=-1) + np.abs(inst.reward_hat).max(axis=-1)
    return total + prompt_mean(largest, inst.d0)


# -- checks ----------------------------------------------------------------------------------------


@result("value-decomposition", part="I", item="1.4", kind="identity", title="Value decomposition",
        source="standard; proof in this book", depends=("gibbs-variational",))
def value_decomposition(check):
    """The loss against a comparator is its underrating, your overrating, and a KL credit."""
    for turn, (rng, size) in enumerate(check.batches(21_000, size=1_000)):
        inst = mixed_instances(rng, size, turn)
        d0, pi0, error = inst.d0, inst.pi0, inst.reward - inst.reward_hat
        plug_in = gibbs_policy(inst.reward_hat, inst.beta, pi0)
        log_plug_in = log_gibbs_policy(inst.reward_hat, inst.beta, pi0)

        def j(policy, reward, beta=inst.beta, pi0=pi0, d0=d0):
            return value(policy, reward, beta, pi0, d0)

        comparators = (random_policies(rng, size, *pi0.shape[1:]), pi0,
                       greedy_policy(inst.reward, pi0),
                       gibbs_policy(inst.reward, inst.beta, pi0))
        for policy in comparators:
            scale = size_of(inst, policy, plug_in) + _penalty(policy, log_plug_in, inst)
            underrated = prompt_mean(expectation(policy, error), d0)
            overrated = -prompt_mean(expectation(plug_in, error), d0)
            credit = -_penalty(policy, log_plug_in, inst)
            check.identity("step 1: change the reward under pi", j(policy, inst.reward),
                           j(policy, inst.reward_hat) + underrated, scale=scale)
            check.identity("step 2: change the reward under pi_hat", j(plug_in, inst.reward),
                           j(plug_in, inst.reward_hat) - overrated, scale=scale)
            check.identity("step 3: pi_hat is optimal for r_hat",
                           j(policy, inst.reward_hat) - j(plug_in, inst.reward_hat), credit,
                           scale=scale)
            check.identity("claim", j(policy, inst.reward) - j(plug_in, inst.reward),
                           underrated + overrated + credit, scale=scale)
    check.search("optimiser against the identity", _decomposition_error,
                 [check.rng.normal(size=12) * s for s in (0.1, 1.0, 5.0)], tol=0.0,
                 maxiter=150)


def _decomposition_error(z) -> float:
    """Relative error of the decomposition on one three-action instance, in units of 1e-11."""
    pi0 = np.exp(z[:3] - logsumexp(z[:3]))[None, :]
    pi0 = np.maximum(pi0, 1e-80) / np.maximum(pi0, 1e-80).sum()
    policy = np.exp(z[3:6] - logsumexp(z[3:6]))[None, :]
    reward, reward_hat, d0 = z[None, 6:9], z[None, 9:12], np.ones(1)
    plug_in = gibbs_policy(reward_hat, 1.0, pi0)
    divergence = kl_divergence_from_logs(log_of(policy), log_gibbs_policy(reward_hat, 1.0, pi0))[0]
    rhs = ((policy - plug_in) * (reward - reward_hat)).sum() - divergence
    lhs = value(policy, reward, 1.0, pi0, d0) - value(plug_in, reward, 1.0, pi0, d0)
    return abs(lhs - rhs) / (np.abs(z[6:]).max() + divergence + np.abs(np.log(pi0)).max()) / 1e-11


@result("jeffreys-identity", part="I", item="1.4", kind="identity",
        title="Both divergences at once", source="this book",
        depends=("gibbs-variational", "value-decomposition"))
def jeffreys_identity(check):
    """The sum of the two divergences between plug-in and optimum is a difference of mean errors."""
    for turn, (rng, size) in enumerate(check.batches(21_000, size=1_000)):
        inst = mixed_instances(rng, size, turn)
        error = inst.reward - inst.reward_hat
        best = gibbs_policy(inst.reward, inst.beta, inst.pi0)
        plug_in = gibbs_policy(inst.reward_hat, inst.beta, inst.pi0)
        log_best = log_gibbs_policy(inst.reward, inst.beta, inst.pi0)
        log_plug_in = log_gibbs_policy(inst.reward_hat, inst.beta, inst.pi0)
        forward = inst.beta * prompt_mean(kl_divergence_from_logs(log_plug_in, log_best), inst.d0)
        backward = inst.beta * prompt_mean(kl_divergence_from_logs(log_best, log_plug_in), inst.d0)
        gap = (optimal_value(inst.reward, inst.beta, inst.pi0, inst.d0)
               - value(plug_in, inst.reward, inst.beta, inst.pi0, inst.d0))
        difference = prompt_mean(expectation(best, error) - expectation(plug_in, error), inst.d0)
        scale = size_of(inst, best, plug_in)
        check.identity("step 1: the gap is a divergence", gap, forward, scale=scale)
        check.identity("step 2: insert", gap, difference - backward, scale=scale)
        check.identity("claim", forward + backward, difference, scale=scale)


@result("value-decomposition-inexact", part="I", item="1.4", kind="identity",
        title="Value decomposition, inexact policy", source="this book",
        depends=("gibbs-variational", "value-decomposition"))
def value_decomposition_inexact(check):
    """For an inexact policy the overrating is under the policy played, and eps is added."""
    for turn, (rng, size) in enumerate(check.batches(21_000, size=1_000)):
        inst = mixed_instances(rng, size, turn)
        d0, pi0, error = inst.d0, inst.pi0, inst.reward - inst.reward_hat
        plug_in = gibbs_policy(inst.reward_hat, inst.beta, pi0)
        log_plug_in = log_gibbs_policy(inst.reward_hat, inst.beta, pi0)
        far = random_policies(rng, size, *pi0.shape[1:])

        def j(policy, reward, beta=inst.beta, pi0=pi0, d0=d0):
            return value(policy, reward, beta, pi0, d0)

        for played in (_near(rng, inst), far, greedy_policy(inst.reward_hat, pi0)):
            for policy in (gibbs_policy(inst.reward, inst.beta, pi0), far, pi0):
                eps = _penalty(played, log_plug_in, inst)
                scale = (size_of(inst, policy, plug_in, played) + eps
                         + _penalty(policy, log_plug_in, inst))
                underrated = prompt_mean(expectation(policy, error), d0)
                overrated = -prompt_mean(expectation(played, error), d0)
                credit = -_penalty(policy, log_plug_in, inst)
                check.identity("step 1: change the reward under pi", j(policy, inst.reward),
                               j(policy, inst.reward_hat) + underrated, scale=scale)
                check.identity("step 2: change the reward under pi_tilde", j(played, inst.reward),
                               j(played, inst.reward_hat) - overrated, scale=scale)
                check.identity("step 3: eps is the loss in the learned objective", eps,
                               j(plug_in, inst.reward_hat) - j(played, inst.reward_hat),
                               scale=scale)
                truth = j(policy, inst.reward) - j(played, inst.reward)
                check.identity("claim", truth, underrated + overrated + credit + eps, scale=scale)
                naive = underrated - prompt_mean(expectation(plug_in, error), d0) + credit + eps
                missing = prompt_mean(expectation(plug_in, error) - expectation(played, error), d0)
                check.identity("what the naive version forgets", truth - naive, missing,
                               scale=scale)
    # The hand example: the naive version is too small by a factor near 1 / (2u).
    u = np.geomspace(1e-6, 0.4, 200)
    played = np.stack([0.5 - u, 0.5 + u], axis=-1)[:, None, :]
    uniform = np.full((1, 2), 0.5)
    eps = suboptimality(played, np.zeros((1, 2)), 1.0, uniform, np.ones(1))
    truth = (value(uniform, [[1.0, 0.0]], 1.0, uniform, np.ones(1))
             - value(played, [[1.0, 0.0]], 1.0, uniform, np.ones(1)))
    check.identity("the example: the loss is u + eps", truth, u + eps)
    check.at_least("the naive version is false: largest loss / eps", (truth / eps).max(), 1e5)


@result("missing-term", part="I", item="1.4", kind="inequality", title="Size of the missing term",
        source="Pinsker's inequality; proof in this book", depends=("frontier-square-root",))
def missing_term(check):
    """Two means of a function differ by at most its range times the root of half the divergence."""
    for turn, (rng, size) in enumerate(check.batches(30_000, size=1_000)):
        inst = mixed_instances(rng, size, turn)
        f = (inst.reward - inst.reward_hat) / inst.beta[:, None, None]
        log_q = log_gibbs_policy(inst.reward_hat, inst.beta, inst.pi0)
        q = np.exp(log_q)
        # P is any policy, or Q with a tilt along f (where the bound is tight) or off it.
        shape = (f - f.min(axis=-1, keepdims=True)) / np.maximum(range_of(f), 1e-12)[..., None]
        off = shape * rng.standard_normal(f.shape)
        shape = np.where(rng.random((size, 1, 1)) < 0.5, shape, off)
        sign = rng.choice([-1, 1], (size, 1, 1))
        tilted = log_q + sign * 10.0 ** rng.uniform(-4, 1, (size, 1, 1)) * shape
        any_policy = log_of(random_policies(rng, size, *f.shape[1:]))
        log_p = np.where(rng.random((size, 1, 1)) < 0.3, any_policy, tilted)
        log_p = log_p - logsumexp(log_p, axis=-1, keepdims=True)
        k, c, scale = kl_divergence_from_logs(log_p, log_q), range_of(f), np.abs(f).max(axis=-1)
        centred = f - (q * f).sum(axis=-1, keepdims=True)
        difference = (np.exp(log_p) * centred).sum(axis=-1)
        # What step 1 rests on, at the best scale lam and around it: the variational principle and
        # Hoeffding's lemma. A log of a sum near one is good to 1e-16 absolutely, hence the 1.
        best = np.where(c > 0, np.sqrt(8 * k) / np.where(c > 0, c, 1.0), 1.0)
        for lam in (best, -best, 0.1 * best, 3 * best):
            moment = logsumexp(log_q + lam[..., None] * centred, axis=-1)
            rounding = 1 + np.abs(lam) * scale + k
            check.inequality("step 1: variational principle", lam * difference - k, moment,
                             scale=rounding)
            check.inequality("step 1: Hoeffding's lemma", moment, lam**2 * c**2 / 8, scale=rounding)
        check.inequality("step 1: square-root law at one prompt", difference, c * np.sqrt(k / 2),
                         scale=scale)
        check.inequality("step 2: both signs", np.abs(difference), c * np.sqrt(k / 2), scale=scale)
        left = np.abs(prompt_mean(difference, inst.d0))
        middle = prompt_mean(c * np.sqrt(k / 2), inst.d0)
        right = np.sqrt(prompt_mean(c**2, inst.d0) * prompt_mean(k, inst.d0) / 2)
        top = np.where(inst.d0 > 0, scale, 0.0).max(axis=-1)
        check.inequality("step 3: average over prompts", left, middle, scale=top)
        check.inequality("step 3: Cauchy-Schwarz", middle, right, scale=top)
        check.inequality("claim", left, right, scale=top)
    best = check.search("claim", _missing_ratio, [check.rng.normal(size=9) for _ in range(12)])
    check.at_least("claim: nearly attained", best, 0.999)


def three_action(z):
    """A three-action law Q and a function f of range at least 1e-6, from nine numbers."""
    log_q = np.maximum(z[:3] - logsumexp(z[:3]), -300.0)
    f = z[3:6] - z[3:6].min()
    return log_q - logsumexp(log_q), f / max(f.max(), 1e-6)


def _missing_ratio(z) -> float:
    log_q, f = three_action(z)
    log_p = log_q + z[6:9]
    log_p = log_p - logsumexp(log_p)
    k = float(kl_divergence_from_logs(log_p, log_q))
    # Closer than this the difference of means is rounding.
    if k < 1e-10:
        return 0.0
    return abs(float((np.exp(log_p) - np.exp(log_q)) @ f)) / (f.max() * np.sqrt(k / 2))


@result("inexact-gap", part="I", item="1.4", kind="inequality",
        title="An early stop costs at most the square of a sum", source="this book",
        depends=("value-decomposition", "value-decomposition-inexact", "missing-term",
                 "second-order-gap"))
def inexact_gap(check):
    """The gap of an inexact policy is at most the square of a sum of two roots."""
    for turn, (rng, size) in enumerate(check.batches(21_000, size=1_000)):
        inst = mixed_instances(rng, size, turn)
        d0, error = inst.d0, inst.reward - inst.reward_hat
        plug_in = gibbs_policy(inst.reward_hat, inst.beta, inst.pi0)
        log_plug_in = log_gibbs_policy(inst.reward_hat, inst.beta, inst.pi0)
        log_best = log_gibbs_policy(inst.reward, inst.beta, inst.pi0)
        spans = range_of(error)
        bound = prompt_mean(spans**2, d0) / (8 * inst.beta)
        rounding = 1e-9 * prompt_mean(np.abs(error).max(axis=-1) ** 2, d0) / inst.beta
        exact = plug_in_suboptimality(inst.reward_hat, inst.reward, inst.beta, inst.pi0, d0)
        for played in (_near(rng, inst), random_policies(rng, size, *inst.pi0.shape[1:])):
            eps = _penalty(played, log_plug_in, inst)
            gap = _penalty(played, log_best, inst)
            missing = prompt_mean(expectation(plug_in, error) - expectation(played, error), d0)
            scale = prompt_mean(np.abs(error).max(axis=-1), d0) + eps
            check.identity("step 1: three parts", gap, exact + eps + missing, scale=gap + scale)
            check.inequality("step 2: bound the first part", exact, bound, scale=rounding)
            check.inequality("step 2: bound the last part", missing, 2 * np.sqrt(bound * eps),
                             scale=scale)
            square = (np.sqrt(bound) + np.sqrt(eps)) ** 2
            check.inequality("step 3: complete the square", gap, square, scale=scale)
            check.inequality("step 4: linear form", gap, prompt_mean(spans, d0) + eps, scale=scale)
            check.inequality("claim", gap, np.minimum(square, prompt_mean(spans, d0) + eps),
                             scale=scale)
    best = check.search("claim", _inexact_ratio, [check.rng.normal(size=10) for _ in range(12)])
    check.at_least("claim: nearly attained", best, 0.999)


def _inexact_ratio(z) -> float:
    """Gap over bound with beta = 1 and r_hat = 0; z[9] is the logarithm of the range of D."""
    log_q, f = three_action(z)
    error = f * np.exp(np.clip(z[9], -6.0, 6.0))
    log_p = log_q + z[6:9]
    log_p = log_p - logsumexp(log_p)
    log_best = log_q + error
    log_best = log_best - logsumexp(log_best)
    eps = float(kl_divergence_from_logs(log_p, log_q))
    square = (error.max() / np.sqrt(8) + np.sqrt(eps)) ** 2
    return float(kl_divergence_from_logs(log_p, log_best)) / min(square, error.max() + eps)
