r"""Checks of the second-order identity and of its sharpness (item 1.5).

What lives here: the gap of a plug-in policy as an integral of variances, its bounds, and the
two-point instances that attain them. Helpers are shared with ``part1_decomposition`` (item 1.4).
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from klrlhf.numerics import sharp_hoeffding
from klrlhf.policies import (
    expectation,
    gibbs_policy,
    kl_divergence_from_logs,
    log_gibbs_policy,
    log_partition,
    variance,
)
from klrlhf.results.part1_decomposition import (
    mixed_instances,
    prompt_mean,
    range_of,
    size_of,
    three_action,
)
from klrlhf.results.registry import result
from klrlhf.values import plug_in_suboptimality, value

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
    for where, weight in zip(t, weights, strict=True):
        logits = start + where * slope
        policy = np.exp(logits - logits.max(axis=-1, keepdims=True))
        policy /= policy.sum(axis=-1, keepdims=True)
        centred = slope - (policy * slope).sum(axis=-1, keepdims=True)
        spread = (policy * centred**2).sum(axis=-1)
        total += weight * (1 - where) * prompt_mean(spread, inst.d0)
    return inst.beta * total


def _complex_log_partition(inst, error, t) -> np.ndarray:
    """Psi(t) for complex t: its imaginary part at a tiny imaginary step is an exact derivative."""
    reward = inst.reward_hat + t * error
    exponent = np.log(inst.pi0) + reward / inst.beta[:, None, None]
    top = exponent.real.max(axis=-1, keepdims=True)
    per_context = top[..., 0] + np.log(np.exp(exponent - top).sum(axis=-1))
    return inst.beta * (inst.d0 * per_context).sum(axis=-1)


def _complex_mean(inst, error, t) -> np.ndarray:
    """Psi'(t) for complex t."""
    exponent = np.log(inst.pi0) + (inst.reward_hat + t * error) / inst.beta[:, None, None]
    weight = np.exp(exponent - exponent.real.max(axis=-1, keepdims=True))
    centred = error - error[..., :1]
    ratio = (weight * centred).sum(axis=-1) / weight.sum(axis=-1)
    return (inst.d0 * ratio).sum(axis=-1)


@result("second-order-gap", part="I", item="1.5", kind="identity", title="Second-order identity",
        source="this book; cf. zhao2024sharp",
        depends=("gibbs-variational", "gibbs-shift-invariance", "hoeffding-kl"))
def second_order_gap(check):
    """The gap is an integral of variances along the path, at most beta h(range/beta)."""
    for turn, (rng, size) in enumerate(check.batches(21_000, size=1_000)):
        inst = mixed_instances(rng, size, turn)
        d0, pi0, beta = inst.d0, inst.pi0, inst.beta
        error = inst.reward - inst.reward_hat
        plug_in = gibbs_policy(inst.reward_hat, beta, pi0)
        log_plug_in = log_gibbs_policy(inst.reward_hat, beta, pi0)
        log_best = log_gibbs_policy(inst.reward, beta, pi0)
        gap = plug_in_suboptimality(inst.reward_hat, inst.reward, beta, pi0, d0)
        scale = size_of(inst, plug_in, np.exp(log_best))
        start = prompt_mean(log_partition(inst.reward_hat, beta, pi0), d0) * beta
        end = prompt_mean(log_partition(inst.reward, beta, pi0), d0) * beta
        tangent = prompt_mean(expectation(plug_in, error), d0)

        check.identity("step 1: end points", end,
                       value(np.exp(log_best), inst.reward, beta, pi0, d0), scale=scale)
        check.identity("step 1: end points", start,
                       value(plug_in, inst.reward_hat, beta, pi0, d0), scale=scale)
        _derivative_steps(check, rng, inst, error)
        check.identity("step 4: the plug-in policy is the tangent",
                       value(plug_in, inst.reward, beta, pi0, d0), start + tangent, scale=scale)
        check.identity("step 5: remainder of the tangent", end - start - tangent, gap, scale=scale)
        loss = (value(np.exp(log_best), inst.reward, beta, pi0, d0)
                - value(plug_in, inst.reward, beta, pi0, d0))
        check.identity("claim: the gap is a difference of values", loss, gap, scale=scale)
        check.identity("claim: the gap is a divergence", gap,
                       beta * prompt_mean(kl_divergence_from_logs(log_plug_in, log_best), d0),
                       scale=gap + 1e-3 * scale)
        spans = range_of(error) / beta[:, None]
        near = spans.max(axis=-1) <= WIDEST
        integral = _path_integral(inst, error)
        check.identity("claim: the gap is the integral", gap[near], integral[near],
                       scale=np.maximum(gap[near], 1e-14 * scale[near]), tol=1e-9)

        log_ratio = log_plug_in - log_best
        check.identity("step 6: span of the log-ratio", range_of(log_ratio), spans,
                       scale=1.0 + np.abs(log_ratio).max(axis=-1) + np.abs(log_best).max(axis=-1))
        divergence = gap_per_context(inst)
        # Where D is constant up to rounding, its range is rounding too.
        rounding = 1e-9 * (np.abs(error).max(axis=-1) / beta[:, None]) ** 2
        check.inequality("step 7: sharp Hoeffding", divergence, sharp_hoeffding(spans),
                         scale=rounding)
        check.inequality("step 8: below the square", sharp_hoeffding(spans), spans**2 / 8)
        check.inequality("step 8: below the line", sharp_hoeffding(spans), spans)
        sharp = beta * prompt_mean(sharp_hoeffding(spans), d0)
        corner = beta * prompt_mean(np.minimum(spans**2 / 8, spans), d0)
        square, line = beta * prompt_mean(spans**2, d0) / 8, beta * prompt_mean(spans, d0)
        allowed = beta * prompt_mean(rounding, d0)
        check.inequality("claim: h-bound", gap, sharp, scale=allowed)
        check.inequality("step 8: minimum inside", sharp, corner)
        check.inequality("step 8: minimum outside", corner, np.minimum(square, line))
        check.inequality("claim: quadratic or linear", gap, np.minimum(square, line),
                         scale=allowed)

        shift = rng.standard_normal(spans.shape)[..., None] * beta[:, None, None]
        shifted = plug_in_suboptimality(inst.reward_hat + shift, inst.reward, beta, pi0, d0)
        check.identity("step 9: prompt-only shifts", shifted, gap,
                       scale=np.sqrt(gap * beta) + 1e-3 * beta)
        ignored = plug_in_suboptimality(np.zeros_like(inst.reward), inst.reward, beta, pi0, d0)
        told = (ignored > 1e-9 * beta) & (spans.max(axis=-1) > 0.01)
        check.not_vacuous("the bound is below the loss of ignoring r_hat", sharp[told],
                          ignored[told])
    check.search("claim: h-bound", lambda z: _second_order_ratio(z, sharp_hoeffding),
                 [check.rng.normal(size=7) for _ in range(12)])
    check.search("claim: quadratic or linear",
                 lambda z: _second_order_ratio(z, lambda t: np.minimum(t**2 / 8, t)),
                 [np.append(check.rng.normal(size=6), s) for s in (-6, -4, -2, 0, 2, 4, 6, 8)])


def gap_per_context(inst) -> np.ndarray:
    """KL(pi_hat || pi*) at each context, shape (N, S), accurate however small."""
    S = inst.d0.shape[-1]
    # One unit vector of prompts per context turns the averaged gap into the gap at that context.
    gaps = [plug_in_suboptimality(inst.reward_hat, inst.reward, inst.beta, inst.pi0, np.eye(S)[x])
            for x in range(S)]
    return np.stack(gaps, axis=-1) / inst.beta[:, None]


def _derivative_steps(check, rng, inst, error) -> None:
    """Steps 2 and 3: complex-step derivatives of Psi and Psi' at a random point of the path."""
    t = rng.random(len(inst.beta))[:, None, None]
    step = 1e-30
    here = gibbs_policy(inst.reward_hat + t * error, inst.beta, inst.pi0)
    slope = _complex_log_partition(inst, error, t + 1j * step).imag / step
    size = np.abs(error).max(axis=-1)
    check.identity("step 2: first derivative", slope,
                   prompt_mean(expectation(here, error), inst.d0),
                   scale=prompt_mean(size, inst.d0))
    bend = _complex_mean(inst, error, t + 1j * step).imag / step
    check.identity("step 3: second derivative", bend,
                   prompt_mean(variance(here, error), inst.d0) / inst.beta,
                   scale=prompt_mean(size**2, inst.d0) / inst.beta)


def _second_order_ratio(z, bound) -> float:
    """Divergence over bound(range) with beta = 1; z[6] is the logarithm of the range."""
    log_q, f = three_action(z)
    error = f * np.exp(np.clip(z[6], -8.0, 9.0))
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
        check.identity("step 2: maximize", t * (1 + q * np.expm1(-t)),
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
        check.holds("step 2: an optimiser finds the same weight",
                    abs(best.x + 1 / np.expm1(-t) + 1 / t) < 1e-6)
    small, large = float(sharp_hoeffding(1e-4)), float(sharp_hoeffding(1e6))
    check.at_least("step 4: constants, h(t) / (t^2/8) at t = 1e-4", 8 * small / 1e-8, 1 - 1e-8)
    check.at_least("step 4: constants, h(t) / t at t = 1e6", large / 1e6, 1 - 1e-4)
