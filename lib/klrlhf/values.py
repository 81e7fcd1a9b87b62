r"""What a policy is worth: the KL-regularized objective, its optimum, its gap, its frontier.

.. math:: J(\pi) = E_{x\sim d_0}\big[E_{a\sim\pi}r(x,a)
          - \beta\,\mathrm{KL}(\pi(\cdot|x)\|\pi_0(\cdot|x))\big]

What lives here: exact values by enumeration over a finite instance, on plain arrays.
What does not: the instance as an object (``bandit``) and anything estimated from data.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from . import _validate as check
from .numerics import _bregman_kl_terms, _expm1_minus
from .policies import _log, log_gibbs_policy

__all__ = [
    "expected_reward",
    "expected_kl",
    "value",
    "optimal_value",
    "suboptimality",
    "plug_in_suboptimality",
    "kl_max",
    "TemperaturePath",
    "temperature_path",
    "KLFrontier",
    "kl_frontier",
]


def _average(per_context: np.ndarray, d0: np.ndarray) -> np.ndarray:
    """Mean over contexts; contexts of probability 0 do not count, even at infinity."""
    check.broadcast("the policies", per_context.shape[:-1], "d0", d0.shape[:-1])
    with np.errstate(invalid="ignore"):
        return np.where(d0 > 0, d0 * per_context, 0.0).sum(axis=-1)


def _prompts_for(d0, policy: np.ndarray) -> np.ndarray:
    d0 = check.prompts(d0)
    if d0.shape[-1] != policy.shape[-2]:
        raise ValueError(
            f"d0 must have one entry per context: {d0.shape[-1]} entries, "
            f"{policy.shape[-2]} contexts"
        )
    return d0


def expected_reward(policy, reward, d0):
    r"""The expected reward :math:`E_{x\sim d_0}E_{a\sim\pi}r(x,a)`.

    Parameters
    ----------
    policy, reward : array_like, shape (..., S, K)
        Policies and finite rewards.
    d0 : array_like, shape (..., S)
        Prompt distributions.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.
    """
    policy, reward = check.policy(policy), check.rewards(reward)
    check.same_trailing("policy", policy, "reward", reward, 2)
    return _average((policy * reward).sum(axis=-1), _prompts_for(d0, policy))


def expected_kl(policy, pi0, d0):
    r"""The expected divergence :math:`E_{x\sim d_0}\mathrm{KL}(\pi(\cdot|x)\|\pi_0(\cdot|x))`.

    Parameters
    ----------
    policy : array_like, shape (..., S, K)
        Policies; zeros are allowed.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    d0 : array_like, shape (..., S)
        Prompt distributions.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.
    """
    policy, pi0 = check.policy(policy), check.reference(pi0)
    check.same_trailing("policy", policy, "pi0", pi0, 2)
    return _average(
        _bregman_kl_terms(_log(policy), np.log(pi0)).sum(axis=-1), _prompts_for(d0, policy)
    )


def value(policy, reward, beta, pi0, d0):
    r"""The objective :math:`J(\pi) = E_{d_0}[E_\pi r - \beta\,\mathrm{KL}(\pi\|\pi_0)]`.

    Parameters
    ----------
    policy, reward, pi0 : array_like, shape (..., S, K)
        Policies, finite rewards, reference policies with full support.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    d0 : array_like, shape (..., S)
        Prompt distributions.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Do not subtract two values to get a gap: ``suboptimality`` keeps the digits that this loses.
    """
    beta = check.positive(beta, "beta")
    earned, paid = expected_reward(policy, reward, d0), expected_kl(policy, pi0, d0)
    check.broadcast("beta", beta.shape, "the instances",
                    check.broadcast("reward", earned.shape, "pi0", paid.shape))
    return earned - beta * paid


def optimal_value(reward, beta, pi0, d0):
    r"""The optimal value :math:`\max_\pi J(\pi) = \beta\,E_{d_0}\log E_{\pi_0}e^{r/\beta}`.

    Parameters
    ----------
    reward, pi0 : array_like, shape (..., S, K)
        Finite rewards and reference policies with full support.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    d0 : array_like, shape (..., S)
        Prompt distributions.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``gibbs-variational``.
    """
    reward, beta = check.rewards(reward), check.positive(beta, "beta")
    d0 = _prompts_for(d0, reward)
    # beta log E e^{r/beta} = m + beta log E e^{(r-m)/beta}, with m = E_pi0 r: at large beta the
    # tilt is a small correction to the mean, which log Z times beta would drown in rounding.
    pi0 = check.reference(pi0)
    check.same_trailing("reward", reward, "pi0", pi0, 2)
    mean = (pi0 * reward).sum(axis=-1)
    centred = reward - mean[..., None]
    lead = check.broadcast("reward", reward.shape[:-2], "pi0", pi0.shape[:-2])
    check.broadcast("reward and pi0", lead, "beta", beta.shape)
    exponent = centred / beta[..., None, None]
    z = logsumexp(np.log(pi0) + exponent, axis=-1)
    small = np.abs(exponent).max(axis=-1) < 0.5
    excess = (pi0 * _expm1_minus(np.where(small[..., None], exponent, 0.0))).sum(axis=-1)
    z = np.where(small, np.log1p(excess), z)
    return _average(mean + beta[..., None] * z, d0)


def suboptimality(policy, reward, beta, pi0, d0):
    r"""The gap :math:`J(\pi^*) - J(\pi) = \beta\,E_{d_0}\mathrm{KL}(\pi\|\pi^*)` of any policy.

    Computed from the identity on the right, a sum of nonnegative terms: the difference of values
    would lose every digit near the optimum.

    Parameters
    ----------
    policy, reward, pi0 : array_like, shape (..., S, K)
        Policies, finite rewards, reference policies with full support.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    d0 : array_like, shape (..., S)
        Prompt distributions.

    Returns
    -------
    ndarray, shape (...)
        Nonnegative gaps.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``gibbs-variational``.
    For the Gibbs policy of an estimated reward use ``plug_in_suboptimality``, which does not pass
    through probabilities and stays accurate for gaps down to the underflow threshold.
    """
    policy, beta = check.policy(policy), check.positive(beta, "beta")
    d0 = _prompts_for(d0, policy)
    log_optimal = log_gibbs_policy(reward, beta, pi0)
    check.same_trailing("policy", policy, "reward", log_optimal, 2)
    return beta * _average(_bregman_kl_terms(_log(policy), log_optimal).sum(axis=-1), d0)


def plug_in_suboptimality(reward_hat, reward, beta, pi0, d0):
    r"""The gap of the Gibbs policy of an estimated reward, from :math:`D = r - \hat r` alone.

    With :math:`v = -D/\beta` centred under :math:`\pi^*` and :math:`A = E_{\pi^*}(e^v - 1 - v)`,
    the log-ratio is :math:`u = \log(\hat\pi/\pi^*) = v - \log(1+A)` and the gap is
    :math:`\beta E_{\hat\pi}(u + e^{-u} - 1)`, a sum of nonnegative terms of second order.

    Parameters
    ----------
    reward_hat, reward, pi0 : array_like, shape (..., S, K)
        Estimated and true rewards (finite) and reference policies with full support.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    d0 : array_like, shape (..., S)
        Prompt distributions.

    Returns
    -------
    ndarray, shape (...)
        Nonnegative gaps, with relative accuracy 1e-12 in :math:`D` however small they are.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Results ``gibbs-variational`` and ``second-order-gap``.
    """
    reward_hat, reward = check.rewards(reward_hat, "reward_hat"), check.rewards(reward)
    check.same_trailing("reward_hat", reward_hat, "reward", reward, 2)
    return _gap_from_difference(reward_hat - reward, reward_hat, reward, beta, pi0, d0)


def _gap_from_difference(difference, reward_hat, reward, beta, pi0, d0):
    """The gap of ``Gibbs(reward_hat)``; ``difference`` may be far below rounding of ``reward``."""
    beta = check.positive(beta, "beta")
    log_optimal = log_gibbs_policy(reward, beta, pi0)
    d0 = _prompts_for(d0, log_optimal)
    optimal = np.exp(log_optimal)
    check.broadcast("reward_hat and reward", difference.shape[:-2], "beta", beta.shape)
    difference, optimal, log_optimal = np.broadcast_arrays(difference, optimal, log_optimal)
    beta_column = beta[..., None, None]

    def measured_from(action):
        return (difference - np.take_along_axis(difference, action, axis=-1)) / beta_column

    # Subtract the value at the likeliest action first: it is then centred without cancellation.
    v = measured_from(optimal.argmax(axis=-1)[..., None])
    v = v - (optimal * v).sum(axis=-1, keepdims=True) / optimal.sum(axis=-1, keepdims=True)
    small = np.abs(v).max(axis=-1, keepdims=True) < 1.0
    excess = (optimal * _expm1_minus(np.where(small, v, 0.0))).sum(axis=-1, keepdims=True)
    u = v - np.log1p(excess)
    if small.all():
        return beta * _average(_bregman_from_ratio(u, log_optimal).sum(axis=-1), d0)
    # Large differences are measured from the action that the estimate likes best instead: the
    # log-ratios of the actions that matter then lose nothing to the size of v.
    anchor = (log_optimal + v).argmax(axis=-1)[..., None]
    far = measured_from(anchor)
    tame = ((far.max(axis=-1, keepdims=True) < 500.0)
            & (np.take_along_axis(log_optimal, anchor, axis=-1) > -500.0))
    far = np.where(tame, far, 0.0)
    tilt = (optimal * np.expm1(far)).sum(axis=-1, keepdims=True)
    log_mean = np.where(tilt > -0.5, np.log1p(np.maximum(tilt, -0.5)),
                        logsumexp(log_optimal + far, axis=-1, keepdims=True))
    terms = _bregman_from_ratio(np.where(small, u, far - log_mean), log_optimal)
    if not (small | tame).all():
        # The two policies live on different actions: their own logarithms say it all.
        apart = _bregman_kl_terms(log_gibbs_policy(reward_hat, beta, pi0), log_optimal)
        terms = np.where(small | tame, terms, apart)
    return beta * _average(terms.sum(axis=-1), d0)


def _bregman_from_ratio(u: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Terms ``p u - p + q`` with ``p = q e^u``, nonnegative, accurate for small ``u``."""
    near = np.abs(u) < 1.0
    p = np.exp(log_q + u)
    close = p * _expm1_minus(-np.where(near, u, 0.0))
    far = p * np.where(near | (p == 0), 0.0, u) - p + np.exp(log_q)
    return np.where(near, close, far)


def kl_max(reward, pi0, d0):
    r"""The divergence at which the frontier becomes flat, :math:`-E_{d_0}\log\pi_0(\arg\max r)`.

    Parameters
    ----------
    reward, pi0 : array_like, shape (..., S, K)
        Finite rewards and reference policies with full support.
    d0 : array_like, shape (..., S)
        Prompt distributions.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``kl-frontier``.
    """
    reward, pi0 = check.rewards(reward), check.reference(pi0)
    check.same_trailing("reward", reward, "pi0", pi0, 2)
    best = reward == reward.max(axis=-1, keepdims=True)
    mass = np.where(best, pi0, 0.0).sum(axis=-1)
    rest = np.where(best, 0.0, pi0).sum(axis=-1)
    # Where nearly all mass is best, log(mass) = log1p(-rest) keeps the digits.
    log_mass = np.where(rest < 0.5, np.log1p(-np.minimum(rest, 0.5)), np.log(mass))
    return -_average(log_mass, _prompts_for(d0, reward))


class TemperaturePath(NamedTuple):
    """Expected reward, KL and reward variance along the path, each of shape (..., M)."""

    inverse_temperature: np.ndarray
    reward: np.ndarray
    kl: np.ndarray
    variance: np.ndarray


def temperature_path(inverse_temperatures, reward, pi0, d0) -> TemperaturePath:
    r"""Expected reward, KL and variance of :math:`\pi_\lambda\propto\pi_0 e^{\lambda r}`.

    Parameters
    ----------
    inverse_temperatures : array_like, shape (M,) or (..., M)
        Values of :math:`\lambda = 1/\beta \ge 0`; 0 gives ``pi0`` itself.
    reward, pi0 : array_like, shape (..., S, K)
        Finite rewards and reference policies with full support.
    d0 : array_like, shape (..., S)
        Prompt distributions.

    Returns
    -------
    TemperaturePath
        Named arrays ``inverse_temperature``, ``reward``, ``kl``, ``variance`` of shape (..., M).

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``temperature-path``: d reward / d lambda = variance, d kl / d lambda = lambda variance.
    """
    lam = np.atleast_1d(check.nonnegative(inverse_temperatures, "inverse_temperatures"))
    reward, pi0 = check.rewards(reward), check.reference(pi0)
    check.same_trailing("reward", reward, "pi0", pi0, 2)
    d0 = _prompts_for(d0, reward)
    lead = check.broadcast("reward", reward.shape[:-2], "pi0", pi0.shape[:-2])
    lead = check.broadcast("reward and pi0", lead, "d0", d0.shape[:-1])
    check.broadcast("the instances", lead, "inverse_temperatures", lam.shape[:-1])
    mean, kl, var = _path_moments(lam, reward, pi0, d0)
    return TemperaturePath(np.broadcast_to(lam, mean.shape), mean, kl, var)


def _path_moments(lam, reward, pi0, d0):
    """Mean reward, KL and variance at inverse temperatures ``(..., M)``, in log space."""
    reward, pi0 = np.broadcast_arrays(reward, pi0)
    # Centring at the best action keeps lambda (r - max r) <= 0: no overflow at any lambda.
    top = reward.max(axis=-1, keepdims=True)
    drop, log_pi0 = (reward - top)[..., None, :, :], np.log(pi0)[..., None, :, :]
    with np.errstate(over="ignore"):
        exponent = np.where(drop == 0.0, 0.0, lam[..., None, None] * drop)
    # Small tilts are measured from the likeliest action and centred, as in _gap_from_difference,
    # so that KL keeps its digits down to lambda = 0.
    small = exponent.min(axis=-1, keepdims=True) > -0.5
    u = exponent - logsumexp(log_pi0 + exponent, axis=-1, keepdims=True)
    if small.any():
        anchor = pi0.argmax(axis=-1)[..., None]
        step = (reward - np.take_along_axis(reward, anchor, axis=-1))[..., None, :, :]
        v = np.where(small, lam[..., None, None], 0.0) * step
        weight = pi0[..., None, :, :]
        v = v - (weight * v).sum(axis=-1, keepdims=True)
        excess = (weight * _expm1_minus(v)).sum(axis=-1, keepdims=True)
        u = np.where(small, v - np.log1p(excess), u)
    policy = np.exp(log_pi0 + u)
    mean_drop = (policy * drop).sum(axis=-1, keepdims=True)
    variance = (policy * (drop - mean_drop) ** 2).sum(axis=-1)
    kl = _bregman_from_ratio(u, log_pi0).sum(axis=-1)
    weights = d0[..., None, :]
    mean = _average(mean_drop[..., 0] + top[..., None, :, 0], weights)
    return mean, _average(kl, weights), _average(variance, weights)


class KLFrontier(NamedTuple):
    """Best expected reward at each KL budget, and the beta (tangent slope) that attains it."""

    kl: np.ndarray
    reward: np.ndarray
    beta: np.ndarray


def kl_frontier(kl, reward, pi0, d0) -> KLFrontier:
    r"""The frontier :math:`F(k) = \max\{E r : E\,\mathrm{KL}(\pi\|\pi_0)\le k\}`.

    The maximizer is the Gibbs policy whose divergence is ``k``; its beta is the slope of ``F``.
    Solved by safeguarded Newton steps on the logarithm of the inverse temperature, in which KL
    increases.

    Parameters
    ----------
    kl : array_like, shape (M,) or (..., M)
        KL budgets, nonnegative.
    reward, pi0 : array_like, shape (..., S, K)
        Finite rewards and reference policies with full support.
    d0 : array_like, shape (..., S)
        Prompt distributions.

    Returns
    -------
    KLFrontier
        Named arrays ``kl``, ``reward``, ``beta`` of shape (..., M); ``beta`` is ``inf`` at
        ``kl = 0`` and 0 from ``kl_max`` on, where the frontier is flat.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``kl-frontier``.
    """
    budget = np.atleast_1d(check.nonnegative(kl, "kl"))
    reward, pi0 = check.rewards(reward), check.reference(pi0)
    check.same_trailing("reward", reward, "pi0", pi0, 2)
    d0 = _prompts_for(d0, reward)
    ceiling = kl_max(reward, pi0, d0)[..., None]
    shape = check.broadcast("kl", budget.shape, "the instances", ceiling.shape)
    budget = np.broadcast_to(budget, shape)
    span = np.maximum((reward.max(axis=-1) - reward.min(axis=-1)).max(axis=-1), 1e-300)[..., None]
    # KL(lambda) <= (lambda span)^2 / 8, so the root is above sqrt(8 k) / span; below, bisect.
    low = np.log(np.maximum(np.sqrt(8 * budget), 1e-290)) - np.log(span) - 1e-6
    high = low + 1.0
    inside = (budget > 0) & (budget < ceiling)
    for _ in range(60):
        reached = _path_moments(np.exp(np.minimum(high, 690.0)), reward, pi0, d0)[1]
        short = inside & (reached < budget)
        if not short.any() or (high[short] > 690.0).all():
            break
        high = np.where(short, high + np.maximum(1.0, high - low), high)
    # Newton for log KL as a function of log lambda (slope lambda^2 v / KL), kept in the bracket.
    point = low
    for _ in range(80):
        lam = np.exp(np.minimum(point, 690.0))
        _, reached, variance = _path_moments(lam, reward, pi0, d0)
        below = reached < budget
        low, high = np.where(below, point, low), np.where(below, high, point)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = (np.log(budget) - np.log(reached)) * reached / (lam**2 * variance)
            good = (point + step > low) & (point + step < high)
        settled = np.abs(np.where(good, step, high - low)) <= 4e-16 * np.maximum(np.abs(point), 1)
        if (settled | ~inside).all():
            break
        point = np.where(good, point + np.where(good, step, 0.0), 0.5 * (low + high))
    lam = np.exp(np.minimum(point, 690.0))
    inner = _path_moments(lam, reward, pi0, d0)[0]
    start = _average((pi0 * reward).sum(axis=-1), d0)[..., None]
    best = _average(reward.max(axis=-1), d0)[..., None]
    # A policy cannot earn less than pi0 or more than the best action: clip rounding.
    attained = np.where(budget <= 0, start, np.where(budget >= ceiling, best, inner))
    # At budget 0 lambda itself may underflow; its slope is infinite there anyway.
    slope = np.where(budget <= 0, np.inf, 1.0 / np.maximum(lam, 1e-305))
    slope = np.where(budget >= ceiling, 0.0, slope)
    return KLFrontier(budget, attained, slope)
