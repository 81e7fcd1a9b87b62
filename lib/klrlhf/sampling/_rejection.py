r"""Rejection sampling of the Gibbs policy, with a known or an assumed maximum.

Everything is written with the weights :math:`w(a) = e^{(r(x,a) - \max_a r)/\beta} \in (0, 1]`,
whose mean under the reference is the acceptance probability.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from .. import _validate as check
from ..policies import _tilt_inputs

__all__ = [
    "RejectionSample",
    "total_variation",
    "span_total_variation",
    "log_acceptance_probability",
    "acceptance_probability",
    "rejection_sample",
]

MOST_DRAWS = 10**9
BLOCK = 2**20


class RejectionSample(NamedTuple):
    """Accepted actions and the number of draws that each of them took, both (S, size)."""

    actions: np.ndarray
    draws: np.ndarray


def total_variation(p, q):
    r"""Total variation :math:`\tfrac12\sum_a |p(a|x) - q(a|x)|` per context.

    Parameters
    ----------
    p, q : array_like, shape (..., S, K)
        Policies.

    Returns
    -------
    ndarray, shape (..., S)
        Distances in [0, 1].

    Raises
    ------
    ValueError
        If an argument is not a policy, or shapes do not match.
    """
    p, q = check.policy(p, "p"), check.policy(q, "q")
    check.same_trailing("p", p, "q", q, 2)
    return 0.5 * np.abs(p - q).sum(axis=-1)


def span_total_variation(span):
    r"""The largest total variation of two laws whose log-ratio has this span, tanh(span / 4).

    Parameters
    ----------
    span : array_like, shape (...)
        Numbers >= 0.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If ``span`` is negative or not finite.

    Notes
    -----
    Result ``total-variation-span``.
    """
    return np.tanh(check.nonnegative(span, "span") / 4)


def log_acceptance_probability(reward, beta, pi0, maximum=None):
    r"""The logarithm of the acceptance probability of rejection sampling, per context.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    maximum : array_like, shape (..., S), optional
        What the sampler takes for the largest reward; by default the largest reward. Rewards
        above it are accepted with probability one.

    Returns
    -------
    ndarray, shape (..., S)
        :math:`\log E_{\pi_0}\min(1, e^{(r - M)/\beta})`, at most 0.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Results ``rejection-gibbs`` and ``rejection-clipped``.
    """
    top, exponent, log_pi0, beta = _tilt_inputs(reward, beta, pi0)
    if maximum is not None:
        maximum = _maximum(maximum, top)
        exponent = np.minimum(exponent - ((maximum - top) / beta[..., None])[..., None], 0.0)
    # Weights of pi0 that sum to 1 + 1e-16 must not make an acceptance above one.
    return np.minimum(logsumexp(log_pi0 + exponent, axis=-1), 0.0)


def acceptance_probability(reward, beta, pi0, maximum=None):
    r"""The acceptance probability :math:`p(x) = E_{\pi_0} e^{(r - \max r)/\beta}`, per context.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    maximum : array_like, shape (..., S), optional
        What the sampler takes for the largest reward; by default the largest reward.

    Returns
    -------
    ndarray, shape (..., S)
        Numbers in (0, 1]; ``1 / p`` draws are needed on average.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``rejection-gibbs``.
    """
    return np.exp(log_acceptance_probability(reward, beta, pi0, maximum))


def _maximum(maximum, top: np.ndarray) -> np.ndarray:
    maximum = check.finite(maximum, "maximum")
    check.broadcast("maximum", maximum.shape, "reward's maxima", top.shape)
    return maximum


def _one_instance(reward, beta, pi0):
    """One instance without replicates: rewards (S, K), a number, reference (S, K)."""
    _tilt_inputs(reward, beta, pi0)
    reward, pi0 = check.rewards(reward), check.reference(pi0)
    if reward.ndim != 2 or pi0.ndim != 2:
        raise ValueError(
            f"a sampler needs one instance, shape (S, K): got {reward.shape} and {pi0.shape}")
    return reward, check.number(check.positive(beta, "beta"), "beta"), pi0


def _draw(cumulative: np.ndarray, rng, shape) -> np.ndarray:
    """Indices from one cumulative law."""
    place = np.searchsorted(cumulative, rng.random(shape) * cumulative[-1], side="right")
    return np.minimum(place, cumulative.size - 1)


def rejection_sample(reward, beta, pi0, rng, size, maximum=None):
    r"""Draw from the reference until a draw is accepted, ``size`` times per context.

    A draw ``a`` is accepted with probability :math:`\min(1, e^{(r(x,a) - M)/\beta})`.

    Parameters
    ----------
    reward : array_like, shape (S, K)
        Finite rewards.
    beta : float
        KL coefficient, ``beta > 0``.
    pi0 : array_like, shape (S, K)
        Reference policy with full support.
    rng : numpy.random.Generator or int
        Source of randomness.
    size : int
        Accepted actions per context.
    maximum : array_like, shape (S,), optional
        What the sampler takes for the largest reward; by default the largest reward.

    Returns
    -------
    RejectionSample
        ``actions`` and ``draws``, both of shape (S, size).

    Raises
    ------
    ValueError
        If a hypothesis above is violated, or more than 1e9 draws are expected.

    Notes
    -----
    Results ``rejection-gibbs`` and ``rejection-clipped``.
    """
    reward, beta, pi0 = _one_instance(reward, beta, pi0)
    rng, size = check.generator(rng), check.size(size, "size")
    top = reward.max(axis=-1)
    limit = top if maximum is None else _maximum(maximum, top)
    if limit.shape not in ((), top.shape):
        raise ValueError(f"maximum must have shape {top.shape}: got {limit.shape}")
    limit = np.broadcast_to(limit, top.shape)
    accept = acceptance_probability(reward, beta, pi0, limit)
    # No division: with a maximum that is far too large the acceptance underflows to zero.
    if np.any(accept * MOST_DRAWS < size):
        raise ValueError(
            f"about {size} / {accept.min():.1e} draws are needed: at most 1e9 allowed")
    actions = np.zeros((len(pi0), size), dtype=int)
    draws = np.zeros((len(pi0), size), dtype=int)
    for x, (law, chance) in enumerate(zip(pi0, accept, strict=True)):
        weight = np.exp(np.minimum((reward[x] - limit[x]) / beta, 0.0))
        cumulative, pending = np.cumsum(law), np.arange(size)
        while pending.size:
            block = int(np.clip(2 / chance, 1, max(BLOCK // pending.size, 1)))
            drawn = _draw(cumulative, rng, (pending.size, block))
            kept = rng.random(drawn.shape) < weight[drawn]
            first, done = kept.argmax(axis=1), kept.any(axis=1)
            actions[x, pending[done]] = drawn[done, first[done]]
            draws[x, pending] += np.where(done, first + 1, block)
            pending = pending[~done]
    return RejectionSample(actions, draws)


def _acceptance(p, name: str = "p") -> np.ndarray:
    p = check.as_float(p, name)
    # NaN compares false. Below 1e-300 the number of draws is no floating-point number.
    if not ((p >= 1e-300) & (p <= 1)).all():
        raise ValueError(f"{name} must lie in (0, 1], at least 1e-300: got {p}")
    return p


def _whole(n, least: int, name: str = "n") -> np.ndarray:
    n = check.positive(n, name)
    if (n < least).any():
        raise ValueError(f"{name} must be at least {least}: got {n.min()}")
    if (n != np.floor(n)).any():
        raise ValueError(f"{name} must hold whole numbers: got {n}")
    return n
