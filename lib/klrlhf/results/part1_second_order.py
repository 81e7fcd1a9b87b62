r"""Checks of chapter "Value decomposition and the second-order identity" (items 1.4 and 1.5).

What lives here: the value decomposition for exact and inexact policies, the size of the term that the
naive version forgets, and the second-order identity with its bounds.
Divergences are computed from log-policies throughout: probabilities of Gibbs policies underflow.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from klrlhf.numerics import sharp_hoeffding
from klrlhf.policies import (
    expectation,
    gibbs_policy,
    greedy_policy,
    kl_divergence_from_logs,
    log_gibbs_policy,
    log_partition,
    variance,
)
from klrlhf.results.instances import random_instances, random_policies, two_point_instances
from klrlhf.results.registry import result
from klrlhf.values import optimal_value, plug_in_suboptimality, suboptimality, value

# -- small helpers ---------------------------------------------------------------------------------


def _mean(per_context, d0):
    """The mean over prompts; prompts of probability 0 do not count, even with infinite values."""
    return np.where(d0 > 0, d0 * np.where(d0 > 0, per_context, 0.0), 0.0).sum(axis=-1)


def _log(policy):
    with np.errstate(divide="ignore"):
        return np.log(policy)


def _penalty(policy, log_other, inst):
    """beta E_x KL(policy || other)."""
    return inst.beta * _mean(kl_divergence_from_logs(_log(policy), log_other), inst.d0)


def _range(f):
    return np.ptp(f, axis=-1)


def _instances(rng, size, turn):
    """Generic and extreme instances; every third batch is the two-point family."""
    return two_point_instances(rng, size) if turn % 3 == 1 else random_instances(rng, size)


def _near(rng, inst):
    """Inexact policies: Gibbs policies of r_hat plus an error, from far below to above beta."""
    shape = inst.reward.shape
    size = 10.0 ** rng.uniform(-5, 1, (shape[0], 1, 1)) * inst.beta[:, None, None]
    # Tilting against D is the direction in which the forgotten term is largest.
    against = inst.reward_hat - inst.reward
    against = against / np.maximum(_range(against).max(axis=-1), 1e-300)[:, None, None]
    noise = np.where(rng.random((shape[0], 1, 1)) < 0.5, rng.standard_normal(shape), against)
    return gibbs_policy(inst.reward_hat + size * noise, inst.beta, inst.pi0)


def _size(inst, *policies):
    """The size of the numbers that are added up: the scale of rounding errors."""
    total = np.zeros(len(inst.beta))
    for policy in policies:
        total += _penalty(policy, _log(inst.pi0), inst)
    largest = np.abs(inst.reward).max(axis=-1) + np.abs(inst.reward_hat).max(axis=-1)
    return total + _mean(largest, inst.d0)


# -- 1.4 -------------------------------------------------------------------------------------------


@result("value-decomposition", part="I", item="1.4", kind="identity", title="Value decomposition",
        source="xiong2024iterative; proof in this book", depends=("gibbs-variational",))
def value_decomposition(check):
    """The loss against a comparator is its underrating, your overrating, and a KL credit."""
    for turn, (rng, size) in enumerate(check.batches(21_000, size=1_000)):
        inst = _instances(rng, size, turn)
        d0, pi0, error = inst.d0, inst.pi0, inst.reward - inst.reward_hat
        plug_in = gibbs_policy(inst.reward_hat, inst.beta, pi0)
        log_plug_in = log_gibbs_policy(inst.reward_hat, inst.beta, pi0)

        def j(policy, reward):
            return value(policy, reward, inst.beta, pi0, d0)

        comparators = (random_policies(rng, size, *pi0.shape[1:]), pi0,
                       greedy_policy(inst.reward, pi0),
                       gibbs_policy(inst.reward, inst.beta, pi0))
        for policy in comparators:
            scale = _size(inst, policy, plug_in) + _penalty(policy, log_plug_in, inst)
            underrated = _mean(expectation(policy, error), d0)
            overrated = -_mean(expectation(plug_in, error), d0)
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
                 [check.rng.normal(size=12) * s for s in (0.1, 1.0, 5.0)], tol=0.0)


def _decomposition_error(z) -> float:
    """Relative error of the decomposition on one three-action instance, in units of 1e-11."""
    pi0 = np.exp(z[:3] - logsumexp(z[:3]))[None, :]
    pi0 = np.maximum(pi0, 1e-80) / np.maximum(pi0, 1e-80).sum()
    policy = np.exp(z[3:6] - logsumexp(z[3:6]))[None, :]
    reward, reward_hat, d0 = z[None, 6:9], z[None, 9:12], np.ones(1)
    plug_in = gibbs_policy(reward_hat, 1.0, pi0)
    divergence = kl_divergence_from_logs(_log(policy), log_gibbs_policy(reward_hat, 1.0, pi0))[0]
    rhs = ((policy - plug_in) * (reward - reward_hat)).sum() - divergence
    lhs = value(policy, reward, 1.0, pi0, d0) - value(plug_in, reward, 1.0, pi0, d0)
    return abs(lhs - rhs) / (np.abs(z[6:]).max() + divergence + np.abs(np.log(pi0)).max()) / 1e-11


@result("jeffreys-identity", part="I", item="1.4", kind="identity", title="Both divergences at once",
        source="this book", depends=("gibbs-variational", "value-decomposition"))
def jeffreys_identity(check):
    """The sum of the two divergences between plug-in and optimum is a difference of mean errors."""
    for turn, (rng, size) in enumerate(check.batches(21_000, size=1_000)):
        inst = _instances(rng, size, turn)
        error = inst.reward - inst.reward_hat
        best = gibbs_policy(inst.reward, inst.beta, inst.pi0)
        plug_in = gibbs_policy(inst.reward_hat, inst.beta, inst.pi0)
        log_best = log_gibbs_policy(inst.reward, inst.beta, inst.pi0)
        log_plug_in = log_gibbs_policy(inst.reward_hat, inst.beta, inst.pi0)
        forward = inst.beta * _mean(kl_divergence_from_logs(log_plug_in, log_best), inst.d0)
        backward = inst.beta * _mean(kl_divergence_from_logs(log_best, log_plug_in), inst.d0)
        gap = (optimal_value(inst.reward, inst.beta, inst.pi0, inst.d0)
               - value(plug_in, inst.reward, inst.beta, inst.pi0, inst.d0))
        difference = _mean(expectation(best, error) - expectation(plug_in, error), inst.d0)
        scale = _size(inst, best, plug_in)
        check.identity("step 1: the gap is a divergence", gap, forward, scale=scale)
        check.identity("step 2: insert", gap, difference - backward, scale=scale)
        check.identity("claim", forward + backward, difference, scale=scale)


@result("value-decomposition-inexact", part="I", item="1.4", kind="identity",
        title="Value decomposition, inexact policy", source="this book",
        depends=("gibbs-variational", "value-decomposition"))
def value_decomposition_inexact(check):
    """For an inexact policy the overrating is under the policy played, and eps is added."""
    for turn, (rng, size) in enumerate(check.batches(21_000, size=1_000)):
        inst = _instances(rng, size, turn)
        d0, pi0, error = inst.d0, inst.pi0, inst.reward - inst.reward_hat
        plug_in = gibbs_policy(inst.reward_hat, inst.beta, pi0)
        log_plug_in = log_gibbs_policy(inst.reward_hat, inst.beta, pi0)
        far = random_policies(rng, size, *pi0.shape[1:])

        def j(policy, reward):
            return value(policy, reward, inst.beta, pi0, d0)

        for played in (_near(rng, inst), far, greedy_policy(inst.reward_hat, pi0)):
            for policy in (gibbs_policy(inst.reward, inst.beta, pi0), far, pi0):
                scale = (_size(inst, policy, plug_in, played) + _penalty(policy, log_plug_in, inst)
                         + _penalty(played, log_plug_in, inst))
                eps = _penalty(played, log_plug_in, inst)
                underrated = _mean(expectation(policy, error), d0)
                overrated = -_mean(expectation(played, error), d0)
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
                naive = underrated - _mean(expectation(plug_in, error), d0) + credit + eps
                missing = _mean(expectation(plug_in, error) - expectation(played, error), d0)
                check.identity("what the naive version forgets", truth - naive, missing, scale=scale)
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
        source="Pinsker's inequality; proof in this book", depends=("gibbs-variational",))
def missing_term(check):
    """Two means of a function differ by at most its range times the root of half the divergence."""
    for turn, (rng, size) in enumerate(check.batches(30_000, size=1_000)):
        inst = _instances(rng, size, turn)
        f = (inst.reward - inst.reward_hat) / inst.beta[:, None, None]
        log_q = log_gibbs_policy(inst.reward_hat, inst.beta, inst.pi0)
        q = np.exp(log_q)
        # Either P is any policy, or P is Q with a tilt along f (where the bound is tight) or off it.
        shape = (f - f.min(axis=-1, keepdims=True)) / np.maximum(_range(f), 1e-12)[..., None]
        shape = np.where(rng.random((size, 1, 1)) < 0.5, shape, shape * rng.standard_normal(f.shape))
        sign = rng.choice([-1, 1], (size, 1, 1))
        tilted = log_q + sign * 10.0 ** rng.uniform(-4, 1, (size, 1, 1)) * shape
        any_policy = _log(random_policies(rng, size, *f.shape[1:]))
        log_p = np.where(rng.random((size, 1, 1)) < 0.3, any_policy, tilted)
        log_p = log_p - logsumexp(log_p, axis=-1, keepdims=True)
        k, c, scale = kl_divergence_from_logs(log_p, log_q), _range(f), np.abs(f).max(axis=-1)
        centred = f - (q * f).sum(axis=-1, keepdims=True)
        difference = (np.exp(log_p) * centred).sum(axis=-1)
        best = np.where(c > 0, np.sqrt(8 * k) / np.where(c > 0, c, 1.0), 1.0)
        for lam in (best, -best, 0.1 * best, 3 * best):
            moment = logsumexp(log_q + lam[..., None] * centred, axis=-1)
            check.inequality("step 1: variational principle", lam * difference - k, moment,
                             scale=np.abs(lam) * scale + k)
            check.inequality("step 2: Hoeffding's lemma", moment, lam**2 * c**2 / 8,
                             scale=np.abs(lam) * scale)
            check.inequality("step 3: any scale", np.where(lam > 0, difference, 0.0),
                             k / np.maximum(np.abs(lam), 1e-300) + np.abs(lam) * c**2 / 8,
                             scale=scale)
        check.inequality("step 4: both signs", np.abs(difference), c * np.sqrt(k / 2), scale=scale)
        left = np.abs(_mean(difference, inst.d0))
        middle = _mean(c * np.sqrt(k / 2), inst.d0)
        right = np.sqrt(_mean(c**2, inst.d0) * _mean(k, inst.d0) / 2)
        top = np.where(inst.d0 > 0, scale, 0.0).max(axis=-1)
        check.inequality("step 5: mean over prompts", left, middle, scale=top)
        check.inequality("step 5: Cauchy-Schwarz", middle, right, scale=top)
        check.inequality("claim", left, right, scale=top)
    check.search("claim", _missing_ratio, [check.rng.normal(size=9) for _ in range(12)])


def _three_action(z):
    """A three-action law Q and a function f of range at least 1e-6, from nine numbers."""
    log_q = np.maximum(z[:3] - logsumexp(z[:3]), -300.0)
    f = z[3:6] - z[3:6].min()
    return log_q - logsumexp(log_q), f / max(f.max(), 1e-6)


def _missing_ratio(z) -> float:
    log_q, f = _three_action(z)
    log_p = log_q + z[6:9]
    log_p = log_p - logsumexp(log_p)
    k = float(kl_divergence_from_logs(log_p, log_q))
    # Closer than this the difference of means is rounding.
    if k < 1e-10:
        return 0.0
    return abs(float((np.exp(log_p) - np.exp(log_q)) @ f)) / (f.max() * np.sqrt(k / 2))


@result("inexact-gap", part="I", item="1.4", kind="inequality",
        title="An early stop costs at most a square of sums", source="this book",
        depends=("value-decomposition", "value-decomposition-inexact", "missing-term",
                 "second-order-gap"))
def inexact_gap(check):
    """The gap of an inexact policy is at most the square of a sum of two roots."""
    for turn, (rng, size) in enumerate(check.batches(21_000, size=1_000)):
        inst = _instances(rng, size, turn)
        d0, error = inst.d0, inst.reward - inst.reward_hat
        plug_in = gibbs_policy(inst.reward_hat, inst.beta, inst.pi0)
        log_plug_in = log_gibbs_policy(inst.reward_hat, inst.beta, inst.pi0)
        log_best = log_gibbs_policy(inst.reward, inst.beta, inst.pi0)
        spans = _range(error)
        bound = _mean(spans**2, d0) / (8 * inst.beta)
        exact = plug_in_suboptimality(inst.reward_hat, inst.reward, inst.beta, inst.pi0, d0)
        for played in (_near(rng, inst), random_policies(rng, size, *inst.pi0.shape[1:])):
            eps = _penalty(played, log_plug_in, inst)
            gap = _penalty(played, log_best, inst)
            missing = _mean(expectation(plug_in, error) - expectation(played, error), d0)
            scale = _mean(np.abs(error).max(axis=-1), d0) + eps
            check.identity("step 1: three parts", gap, exact + eps + missing, scale=gap + scale)
            check.inequality("step 2: the first part", exact, bound)
            check.inequality("step 2: the last part", missing, 2 * np.sqrt(bound * eps),
                             scale=scale)
            check.inequality("claim: square of sums", gap, (np.sqrt(bound) + np.sqrt(eps)) ** 2,
                             scale=scale)
            check.inequality("step 4: drop the credit", gap, _mean(spans, d0) + eps, scale=scale)
            check.inequality("claim", gap, np.minimum((np.sqrt(bound) + np.sqrt(eps)) ** 2,
                                                      _mean(spans, d0) + eps), scale=scale)
    check.search("claim", _inexact_ratio, [check.rng.normal(size=10) for _ in range(12)])


def _inexact_ratio(z) -> float:
    """Gap over bound with beta = 1 and r_hat = 0; z[9] is the logarithm of the range of D."""
    log_q, f = _three_action(z)
    error = f * np.exp(np.clip(z[9], -6.0, 6.0))
    log_p = log_q + z[6:9]
    log_p = log_p - logsumexp(log_p)
    log_best = log_q + error
    log_best = log_best - logsumexp(log_best)
    eps = float(kl_divergence_from_logs(log_p, log_q))
    square = (error.max() / np.sqrt(8) + np.sqrt(eps)) ** 2
    return float(kl_divergence_from_logs(log_p, log_best)) / min(square, error.max() + eps)


# -- 1.5 -------------------------------------------------------------------------------------------

PANELS, NODES = 24, 20
# The integrand's nearest complex pole is at distance pi beta / range, so with this many panels the
# Gauss-Legendre error is below 1e-15 relative as long as range / beta <= WIDEST.
WIDEST = 150.0


def _path_integral(inst, error) -> np.ndarray:
    """(1/beta) int_0^1 (1-t) E_x Var_{pi_(t)}(D) dt by composite Gauss-Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    t = ((nodes + 1) / 2 + np.arange(PANELS)[:, None]).ravel() / PANELS
    weights = np.tile(weights / 2, PANELS) / PANELS
    slope = error / inst.beta[:, None, None]
    slope = slope - slope.min(axis=-1, keepdims=True)
    start = log_gibbs_policy(inst.reward_hat, inst.beta, inst.pi0)
    total = np.zeros(len(inst.beta))
    for where, weight in zip(t, weights):
        logits = start + where * slope
        policy = np.exp(logits - logits.max(axis=-1, keepdims=True))
        policy /= policy.sum(axis=-1, keepdims=True)
        centred = slope - (policy * slope).sum(axis=-1, keepdims=True)
        spread = (policy * centred**2).sum(axis=-1)
        total += weight * (1 - where) * _mean(spread, inst.d0)
    return inst.beta * total


def _complex_log_partition(inst, error, t) -> np.ndarray:
    """A(t) for complex t: its imaginary part at a tiny imaginary step is an exact derivative."""
    reward = inst.reward_hat + t * error
    exponent = np.log(inst.pi0) + reward / inst.beta[:, None, None]
    top = exponent.real.max(axis=-1, keepdims=True)
    per_context = top[..., 0] + np.log(np.exp(exponent - top).sum(axis=-1))
    return inst.beta * (inst.d0 * per_context).sum(axis=-1)


def _complex_mean(inst, error, t) -> np.ndarray:
    """A'(t) for complex t."""
    exponent = np.log(inst.pi0) + (inst.reward_hat + t * error) / inst.beta[:, None, None]
    weight = np.exp(exponent - exponent.real.max(axis=-1, keepdims=True))
    centred = error - error[..., :1]
    ratio = (weight * centred).sum(axis=-1) / weight.sum(axis=-1)
    return (inst.d0 * ratio).sum(axis=-1)


@result("second-order-gap", part="I", item="1.5", kind="identity", title="Second-order identity",
        source="this book; cf. zhao2024sharp",
        depends=("gibbs-variational", "hoeffding-kl"))
def second_order_gap(check):
    """The gap is an integral of variances along the path, at most beta h(range/beta)."""
    for turn, (rng, size) in enumerate(check.batches(21_000, size=1_000)):
        inst = _instances(rng, size, turn)
        d0, pi0, beta = inst.d0, inst.pi0, inst.beta
        error = inst.reward - inst.reward_hat
        plug_in = gibbs_policy(inst.reward_hat, beta, pi0)
        log_plug_in = log_gibbs_policy(inst.reward_hat, beta, pi0)
        log_best = log_gibbs_policy(inst.reward, beta, pi0)
        gap = plug_in_suboptimality(inst.reward_hat, inst.reward, beta, pi0, d0)
        scale = _size(inst, plug_in, np.exp(log_best))
        start = _mean(log_partition(inst.reward_hat, beta, pi0), d0) * beta
        end = _mean(log_partition(inst.reward, beta, pi0), d0) * beta
        tangent = _mean(expectation(plug_in, error), d0)

        check.identity("step 1: end points", end,
                       value(np.exp(log_best), inst.reward, beta, pi0, d0), scale=scale)
        check.identity("step 1: end points", start,
                       value(plug_in, inst.reward_hat, beta, pi0, d0), scale=scale)
        _derivative_steps(check, rng, inst, error)
        check.identity("step 4: the plug-in policy is the tangent",
                       value(plug_in, inst.reward, beta, pi0, d0), start + tangent, scale=scale)
        check.identity("step 5: remainder of the tangent", end - start - tangent, gap, scale=scale)
        check.identity("claim: the gap is a divergence", gap,
                       beta * _mean(kl_divergence_from_logs(log_plug_in, log_best), d0),
                       scale=gap + 1e-3 * scale)
        spans = _range(error) / beta[:, None]
        near = spans.max(axis=-1) <= WIDEST
        integral = _path_integral(inst, error)
        check.identity("claim: the gap is the integral", gap[near], integral[near],
                       scale=np.maximum(gap[near], 1e-14 * scale[near]), tol=1e-9)

        log_ratio = log_plug_in - log_best
        check.identity("step 6: span of the log-ratio", _range(log_ratio), spans,
                       scale=1.0 + np.abs(log_ratio).max(axis=-1) + np.abs(log_best).max(axis=-1))
        divergence = gap_per_context(inst)
        check.inequality("step 7: sharp Hoeffding", divergence, sharp_hoeffding(spans))
        check.inequality("step 8: below the square", sharp_hoeffding(spans), spans**2 / 8)
        check.inequality("step 8: below the line", sharp_hoeffding(spans), spans)
        sharp = beta * _mean(sharp_hoeffding(spans), d0)
        corner = beta * _mean(np.minimum(spans**2 / 8, spans), d0)
        square, line = beta * _mean(spans**2, d0) / 8, beta * _mean(spans, d0)
        check.inequality("claim: h-bound", gap, sharp)
        check.inequality("step 8: minimum inside", sharp, corner)
        check.inequality("step 8: minimum outside", corner, np.minimum(square, line))
        check.inequality("claim: quadratic or linear", gap, np.minimum(square, line))

        shift = rng.standard_normal(spans.shape)[..., None] * beta[:, None, None]
        shifted = plug_in_suboptimality(inst.reward_hat + shift, inst.reward, beta, pi0, d0)
        check.identity("step 9: prompt-only shifts", shifted, gap,
                       scale=np.sqrt(gap * beta) + 1e-3 * beta)
        ignored = plug_in_suboptimality(np.zeros_like(inst.reward), inst.reward, beta, pi0, d0)
        told = ignored > 1e-9 * beta
        check.not_vacuous("the bound is below the loss of ignoring r_hat", sharp[told],
                          ignored[told])
    check.search("claim: h-bound", lambda z: _second_order_ratio(z, sharp_hoeffding),
                 [check.rng.normal(size=7) for _ in range(12)])
    check.search("claim: quadratic or linear",
                 lambda z: _second_order_ratio(z, lambda t: np.minimum(t**2 / 8, t)),
                 [np.append(check.rng.normal(size=6), s) for s in (-6, -4, -2, 0, 6, 12, 16, 20)])


def gap_per_context(inst) -> np.ndarray:
    """KL(pi_hat || pi*) at each context, shape (N, S), accurate however small."""
    S = inst.d0.shape[-1]
    # One unit vector of prompts per context turns the averaged gap into the gap at that context.
    gaps = [plug_in_suboptimality(inst.reward_hat, inst.reward, inst.beta, inst.pi0, np.eye(S)[x])
            for x in range(S)]
    return np.stack(gaps, axis=-1) / inst.beta[:, None]


def _derivative_steps(check, rng, inst, error) -> None:
    """Steps 2 and 3: complex-step derivatives of A and A' at a random point of the path."""
    t = rng.random(len(inst.beta))[:, None, None]
    step = 1e-30
    here = gibbs_policy(inst.reward_hat + t * error, inst.beta, inst.pi0)
    slope = _complex_log_partition(inst, error, t + 1j * step).imag / step
    scale = _mean(np.abs(error).max(axis=-1), inst.d0)
    check.identity("step 2: first derivative", slope, _mean(expectation(here, error), inst.d0),
                   scale=scale, tol=1e-10)
    bend = _complex_mean(inst, error, t + 1j * step).imag / step
    check.identity("step 3: second derivative", bend,
                   _mean(variance(here, error), inst.d0) / inst.beta,
                   scale=_mean(_range(error) ** 2, inst.d0) / inst.beta, tol=1e-10)


def _second_order_ratio(z, bound) -> float:
    """Divergence over bound(range) with beta = 1; z[6] is the logarithm of the range."""
    log_q, f = _three_action(z)
    error = f * np.exp(np.clip(z[6], -8.0, 25.0))
    pi0 = np.exp(log_q)[None, :]
    gap = plug_in_suboptimality(np.zeros((1, 3)), error[None, :], 1.0, pi0 / pi0.sum(), np.ones(1))
    return float(gap) / float(bound(error.max()))


@result("second-order-sharp", part="I", item="1.5", kind="identity",
        title="The second-order bound is attained", source="this book",
        depends=("hoeffding-kl", "second-order-gap"))
def second_order_sharp(check):
    """Two actions attain the h-bound at every range, so 1/8 and 1 are the best constants."""
    for rng, size in check.batches(20_000, size=1_000):
        t, beta = 10.0 ** rng.uniform(-2, 2.8, size), 10.0 ** rng.uniform(-2, 2, size)
        q = -1 / np.expm1(-t) - 1 / t
        plug_in = np.stack([q, 1 - q], axis=-1)[:, None, :]
        error = np.stack([-beta * t, 0 * t], axis=-1)[:, None, :]
        gap = plug_in_suboptimality(np.zeros_like(error), error, beta, plug_in, np.ones(1))
        g = np.log1p(q * np.expm1(-t)) + q * t
        check.identity("step 1: one parameter", gap / beta, g, scale=t)
        check.identity("step 2: derivative at the maximum", t * (1 + q * np.expm1(-t)),
                       -np.expm1(-t), scale=t)
        check.holds("step 2: the maximizer lies in (1/2, 1)", (q > 0.5) & (q < 1))
        other = rng.random(size)
        check.inequality("step 2: no other weight is worse",
                         np.log1p(other * np.expm1(-t)) + other * t, sharp_hoeffding(t), scale=t)
        closed = np.log(-np.expm1(-t) / t) - t / np.expm1(-t) - 1
        check.identity("step 3: value at the maximum", closed, sharp_hoeffding(t), scale=1 + t)
        # The two-point law itself is computed to 1e-12 relative, however small the range.
        check.identity("claim", gap, beta * sharp_hoeffding(t), scale=beta * np.minimum(t**2, t),
                       tol=1e-10)
    for t in (0.3, 3.0, 30.0):
        best = minimize_scalar(lambda q, t=t: -(np.log1p(q * np.expm1(-t)) + q * t),
                               bounds=(0, 1), method="bounded", options={"xatol": 1e-12})
        check.identity("step 2: an optimiser finds the same weight", best.x,
                       -1 / np.expm1(-t) - 1 / t, tol=1e-5)
    check.at_least("step 4: h(t) / (t^2/8) at t = 1e-4", float(sharp_hoeffding(1e-4)) / 1e-8 * 8,
                   1 - 1e-8)
    check.at_least("step 4: h(t) / t at t = 1e6", float(sharp_hoeffding(1e6)) / 1e6, 1 - 1e-4)
