r"""Rejection sampling when the largest reward is estimated: from fresh or from the same draws.

With the weights :math:`w(a) = e^{(r(x,a) - \max_a r)/\beta}`, an estimated maximum clips the
reward; what it costs is how much one more draw would raise the largest weight.
"""

from __future__ import annotations

import numpy as np
from scipy.special import lambertw, logsumexp

from .. import _validate as check
from ..policies import _tilt_inputs, gibbs_policy
from ._rejection import _acceptance, _maximum, _whole

__all__ = [
    "estimated_maximum_law",
    "fresh_maximum_law",
    "fresh_maximum_error",
    "fresh_maximum_bound",
    "reused_maximum_law",
    "reused_maximum_bound",
]


def estimated_maximum_law(reward, beta, pi0, maximum):
    r"""What rejection sampling samples when it takes ``maximum`` for the largest reward.

    It is the Gibbs policy of the clipped reward :math:`\min(r, M)`: exact if ``maximum`` is at
    least the largest reward.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    maximum : array_like, shape (..., S)
        The assumed largest reward.

    Returns
    -------
    ndarray, shape (..., S, K)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``rejection-clipped``.
    """
    reward = check.rewards(reward)
    maximum = _maximum(maximum, reward.max(axis=-1))
    return gibbs_policy(np.minimum(reward, maximum[..., None]), beta, pi0)


def _levels(reward, beta, pi0):
    """Weights, reference and, for each action, the mass strictly below and up to its level."""
    _, exponent, log_pi0, _ = _tilt_inputs(reward, beta, pi0)
    exponent, log_pi0 = np.broadcast_arrays(exponent, log_pi0)
    pi0 = np.exp(log_pi0)
    # Compared by exponent: equal rewards have equal exponents, and only they do.
    pairs = exponent[..., None, :], exponent[..., :, None]
    below = np.where(pairs[0] < pairs[1], pi0[..., None, :], 0.0).sum(axis=-1)
    tied = np.where(pairs[0] == pairs[1], pi0[..., None, :], 0.0).sum(axis=-1)
    return exponent, pi0, np.minimum(below, 1.0), np.minimum(below + tied, 1.0), tied


def _maximum_law(pi0, below, upto, tied, n):
    """P(the best of n draws sits on the level of action a), shared among tied actions."""
    return pi0 / tied * (upto**n - below**n)


def _number_of_draws(n, least=1) -> int:
    n = check.count(n)
    if n < least:
        raise ValueError(f"n must be at least {least}: got {n}")
    return n


def fresh_maximum_law(reward, beta, pi0, n):
    r"""The law of an accepted draw when the maximum is that of ``n`` fresh draws, averaged.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    n : int
        Draws used for the maximum only, ``n >= 1``.

    Returns
    -------
    ndarray, shape (..., S, K)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``rejection-estimated-maximum``.
    """
    n = _number_of_draws(n)
    exponent, pi0, below, upto, tied = _levels(reward, beta, pi0)
    chance = _maximum_law(pi0, below, upto, tied, n)
    logits = np.minimum(exponent[..., None, :] - exponent[..., :, None], 0.0)
    logits = logits + np.log(pi0)[..., None, :]
    laws = np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))
    policy = (chance[..., None] * laws).sum(axis=-2)
    return policy / policy.sum(axis=-1, keepdims=True)


def fresh_maximum_error(reward, beta, pi0, n):
    r"""Expected total variation, and expected clipped mass, with the maximum of ``n`` fresh draws.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    n : int
        Draws used for the maximum only, ``n >= 1``.

    Returns
    -------
    total_variation, clipped, missed : ndarray, shape (..., S)
        :math:`E\,\mathrm{TV}`, :math:`E\,E_{\pi^*}(1 - e^{(\hat r_{\max} - r)/\beta})_+` and
        :math:`E\,P_{\pi^*}(r > \hat r_{\max})`, in increasing order.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``rejection-estimated-maximum``.
    """
    n = _number_of_draws(n)
    exponent, pi0, below, upto, tied = _levels(reward, beta, pi0)
    chance = _maximum_law(pi0, below, upto, tied, n)
    log_pi0 = np.log(pi0)
    logits = log_pi0 + exponent
    star = np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))
    over = np.minimum(exponent[..., :, None] - exponent[..., None, :], 0.0)  # of level, of action
    clipped = np.minimum(exponent[..., None, :], exponent[..., :, None]) + log_pi0[..., None, :]
    laws = np.exp(clipped - logsumexp(clipped, axis=-1, keepdims=True))
    distance = np.maximum(star[..., None, :] - laws, 0.0).sum(axis=-1)
    mass = (star[..., None, :] * -np.expm1(over)).sum(axis=-1)
    missed = (star[..., None, :] * (over < 0)).sum(axis=-1)
    return tuple((chance * part).sum(axis=-1) for part in (distance, mass, missed))


def fresh_maximum_bound(p, n):
    r"""Sharp bound of the expected total variation with the maximum of ``n`` fresh draws.

    .. math:: (1-p)^n \text{ if } np \le 1, \qquad
        \frac{1-p}{np}\Big(1-\frac1n\Big)^{n-1} \text{ if } np \ge 1;
        \text{ both are at most } \frac1{(n+1)p}\Big(\frac n{n+1}\Big)^n .

    Parameters
    ----------
    p : array_like, shape (...)
        Acceptance probabilities in (0, 1].
    n : array_like, shape (...)
        Numbers of draws, whole and at least 1.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a hypothesis above is violated.

    Notes
    -----
    Result ``rejection-estimated-maximum``.
    """
    p, n = _acceptance(p), _whole(n, 1)
    with np.errstate(divide="ignore"):
        few = np.exp(n * np.log1p(-p))
    fraction = np.exp((n - 1) * np.log1p(-1 / np.maximum(n, 1.5)))
    many = (1 - p) / (n * p) * np.where(n > 1, fraction, 1.0)
    return np.where(n * p <= 1, few, many)


def reused_maximum_law(reward, beta, pi0, n):
    r"""The law of a kept draw when ``n`` draws are accepted against their own maximum.

    All ``n`` draws are tested once, draw i kept with probability
    :math:`e^{(r_i - \max_j r_j)/\beta}`; the law is that of the kept draws of many runs pooled.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    n : int
        Number of draws, ``n >= 1``.

    Returns
    -------
    policy : ndarray, shape (..., S, K)
        :math:`\nu(a) \propto \pi^*(a)\,E[1/\max(w(a), W)]`, W the largest weight of the others.
    acceptance : ndarray, shape (..., S)
        Expected share of kept draws.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``rejection-reused-draws``.
    """
    n = _number_of_draws(n)
    exponent, pi0, below, upto, tied = _levels(reward, beta, pi0)
    if n == 1:
        return pi0 / pi0.sum(axis=-1, keepdims=True), np.ones(pi0.shape[:-1])
    chance = _maximum_law(pi0, below, upto, tied, n - 1)
    # w(a) E[1 / max(w(a), W)] = E min(1, w(a) / W), which cannot overflow.
    kept = np.exp(np.minimum(exponent[..., :, None] - exponent[..., None, :], 0.0))
    rate = pi0 * (chance[..., None, :] * kept).sum(axis=-1)
    acceptance = rate.sum(axis=-1)
    return rate / acceptance[..., None], acceptance


def reused_maximum_bound(p, n, span):
    r"""Bound of the total variation of ``reused_maximum_law`` from the Gibbs policy.

    .. math:: \frac{W_0\big((e^t - 1)/e\big)}{(n-1)\,p}, \qquad t = R_x/\beta,

    with :math:`W_0` the Lambert function, :math:`W_0(u) e^{W_0(u)} = u`; at most
    :math:`t / ((n-1)p)`.

    Parameters
    ----------
    p : array_like, shape (...)
        Acceptance probabilities in (0, 1].
    n : array_like, shape (...)
        Numbers of draws, whole and at least 2.
    span : array_like, shape (...)
        Reward range over beta, :math:`R_x/\beta \ge 0`.

    Returns
    -------
    ndarray, shape (...)
        ``inf`` where the bound overflows.

    Raises
    ------
    ValueError
        If a hypothesis above is violated.

    Notes
    -----
    Result ``rejection-reused-draws``. For fixed ``span`` the bound is attained as n grows.
    """
    p, n = _acceptance(p), _whole(n, 2)
    span = check.nonnegative(span, "span")
    y = np.real(lambertw(np.expm1(np.minimum(span, 600.0)) / np.e))
    # Where e^t would overflow, y + log y = t - 1 by Newton steps.
    big = np.maximum(span, 600.0)
    large = big - 1 - np.log(big)
    for _ in range(4):
        large = large - (large + np.log(large) - big + 1) / (1 + 1 / large)
    with np.errstate(over="ignore"):
        return np.where(span > 600, large, y) / ((n - 1) * p)
