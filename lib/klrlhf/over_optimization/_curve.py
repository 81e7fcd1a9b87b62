r"""Gold and proxy reward, divergence and covariance along the path of a proxy.

What lives here: the curves in the inverse temperature and in the budget, and where they turn.
What does not: best-of-n and functional forms (``_forms``), what data guarantee (``_guarantee``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from .. import _validate as check
from ..policies import greedy_policy
from ..values import _average, _path_moments, _prompts_for, kl_frontier, kl_max

__all__ = [
    "OverOptimization",
    "over_optimization_curve",
    "gold_derivative",
    "gold_at_budget",
    "covariance_sign_changes",
]


class OverOptimization(NamedTuple):
    """Moments along the path of the proxy, each of shape (..., M)."""

    inverse_temperature: np.ndarray
    gold: np.ndarray
    proxy: np.ndarray
    kl: np.ndarray
    covariance: np.ndarray
    variance: np.ndarray


def _instance(reward, reward_hat, pi0, d0):
    """Checked gold and proxy rewards of one shape, reference and prompts."""
    reward, reward_hat = check.rewards(reward), check.rewards(reward_hat, "reward_hat")
    pi0 = check.reference(pi0)
    check.same_trailing("reward", reward, "reward_hat", reward_hat, 2)
    check.same_trailing("reward", reward, "pi0", pi0, 2)
    d0 = _prompts_for(d0, reward)
    lead = check.broadcast("reward", reward.shape[:-2], "reward_hat", reward_hat.shape[:-2])
    lead = check.broadcast("reward and reward_hat", lead, "pi0", pi0.shape[:-2])
    check.broadcast("the rewards", lead, "d0", d0.shape[:-1])
    return *np.broadcast_arrays(reward, reward_hat, pi0), d0


def _tilted(lam, reward_hat, pi0):
    """Log-policies (..., M, S, K) at inverse temperatures (..., M)."""
    drop = reward_hat - reward_hat.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore"):
        exponent = np.where(drop[..., None, :, :] == 0, 0.0,
                            lam[..., None, None] * drop[..., None, :, :])
    logits = np.log(pi0)[..., None, :, :] + exponent
    return logits - logsumexp(logits, axis=-1, keepdims=True)


def _centred(policy, f):
    """``f - E f`` per context, measured from the likeliest action so that small spreads survive."""
    f = np.broadcast_to(f, policy.shape)
    f = f - np.take_along_axis(f, policy.argmax(axis=-1)[..., None], axis=-1)
    return f - (policy * f).sum(axis=-1, keepdims=True)


def over_optimization_curve(inverse_temperatures, reward, reward_hat, pi0,
                            d0) -> OverOptimization:
    r"""Gold and proxy reward, divergence and covariance along the path of the proxy.

    .. math:: \frac{d}{d\lambda}E_{\pi_\lambda}r^* = E_x\mathrm{Cov}_{\pi_\lambda}(r^*,\hat r)

    Parameters
    ----------
    inverse_temperatures : array_like, shape (M,) or (..., M)
        Values of :math:`\lambda = 1/\beta \ge 0`.
    reward, reward_hat, pi0 : array_like, shape (..., S, K)
        Gold rewards, proxy rewards (finite), reference policies with full support.
    d0 : array_like, shape (..., S)
        Prompt distributions.

    Returns
    -------
    OverOptimization
        Arrays ``inverse_temperature``, ``gold`` and ``proxy`` (expected rewards), ``kl``,
        ``covariance`` (the derivative of ``gold``) and ``variance`` (the derivative of ``proxy``).

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``over-optimization``.
    """
    lam = np.atleast_1d(check.nonnegative(inverse_temperatures, "inverse_temperatures"))
    reward, reward_hat, pi0, d0 = _instance(reward, reward_hat, pi0, d0)
    check.broadcast("the rewards", reward.shape[:-2], "inverse_temperatures", lam.shape[:-1])
    policy = np.exp(_tilted(lam, reward_hat, pi0))
    weights = d0[..., None, :]
    s, r = (_centred(policy, f[..., None, :, :]) for f in (reward_hat, reward))
    proxy, kl, variance = _path_moments(lam, reward_hat, pi0, d0)
    gold = _average((policy * reward[..., None, :, :]).sum(axis=-1), weights)
    covariance = _average((policy * r * s).sum(axis=-1), weights)
    return OverOptimization(np.broadcast_to(lam, gold.shape), gold, proxy, kl, covariance, variance)


def gold_derivative(inverse_temperatures, reward, reward_hat, pi0, d0):
    r"""The covariance :math:`E_x\mathrm{Cov}_{\pi_\lambda}(r^*,\hat r)`, the slope of gold reward.

    Parameters
    ----------
    inverse_temperatures : array_like, shape (M,) or (..., M)
        Values of :math:`\lambda = 1/\beta \ge 0`.
    reward, reward_hat, pi0 : array_like, shape (..., S, K)
        Gold rewards, proxy rewards (finite), reference policies with full support.
    d0 : array_like, shape (..., S)
        Prompt distributions.

    Returns
    -------
    ndarray, shape (..., M)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``over-optimization``.
    """
    return over_optimization_curve(inverse_temperatures, reward, reward_hat, pi0, d0).covariance


def gold_at_budget(kl, reward, reward_hat, pi0, d0) -> OverOptimization:
    r"""Gold and proxy reward of the policy that maximizes the proxy at each KL budget.

    Parameters
    ----------
    kl : array_like, shape (M,)
        KL budgets, nonnegative.
    reward, reward_hat, pi0 : array_like, shape (..., S, K)
        Gold rewards, proxy rewards (finite), reference policies with full support.
    d0 : array_like, shape (..., S)
        Prompt distributions.

    Returns
    -------
    OverOptimization
        As ``over_optimization_curve``; at budgets from the proxy's ``kl_max`` on, the limit of the
        path, with ``kl`` equal to ``kl_max``, ``inverse_temperature`` infinite and covariance and
        variance 0.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Results ``over-optimization`` and ``kl-frontier``.
    """
    reward, reward_hat, pi0, d0 = _instance(reward, reward_hat, pi0, d0)
    frontier = kl_frontier(kl, reward_hat, pi0, d0)
    end = frontier.beta == 0
    with np.errstate(divide="ignore"):
        lam = np.where(end, np.inf, 1.0 / frontier.beta)
    found = over_optimization_curve(np.where(end, 0.0, lam), reward, reward_hat, pi0, d0)
    last = _average((greedy_policy(reward_hat, pi0) * reward).sum(axis=-1), d0)[..., None]
    return OverOptimization(lam, np.where(end, last, found.gold), frontier.reward,
                            np.where(end, kl_max(reward_hat, pi0, d0)[..., None], found.kl),
                            np.where(end, 0.0, found.covariance),
                            np.where(end, 0.0, found.variance))


def covariance_sign_changes(reward, reward_hat, pi0, d0, points: int = 2000) -> np.ndarray:
    r"""Inverse temperatures at which the gold reward turns: sign changes of the covariance.

    Found between neighbours of a logarithmic grid and polished by bisection; two changes between
    the same neighbours are missed. A covariance within rounding of 0 has no sign.

    Parameters
    ----------
    reward, reward_hat, pi0 : array_like, shape (S, K)
        One instance: gold rewards, proxy rewards, reference policy with full support.
    d0 : array_like, shape (S,)
        Prompt distribution.
    points : int
        Points of the grid, at least 2.

    Returns
    -------
    ndarray, shape (number of changes,)
        In increasing order; empty when gold reward never turns.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``over-optimization``.
    """
    reward, reward_hat, pi0, d0 = _instance(reward, reward_hat, pi0, d0)
    if reward.ndim != 2 or d0.ndim != 1:
        raise ValueError(f"reward must be one instance of shape (S, K): got {reward.shape}")
    lam = _lambda_grid(reward_hat, pi0, d0, check.size(points, "points", least=2))
    if lam is None:
        return np.zeros(0)

    floor = 1e-290 * np.ptp(reward, axis=-1).max() * np.ptp(reward_hat, axis=-1).max()

    def slope(at):
        # Rounding noise and underflow at the end of the path are no changes of sign.
        policy = np.exp(_tilted(at, reward_hat, pi0))
        terms = (d0[:, None] * policy * _centred(policy, reward) * _centred(policy, reward_hat))
        value = terms.sum(axis=(-2, -1))
        noise = 1e-13 * np.abs(terms).sum(axis=(-2, -1)) + floor
        return np.where(np.abs(value) > noise, value, 0.0)

    value = slope(lam)
    kept = value != 0
    lam, value = lam[kept], value[kept]
    left = np.flatnonzero(np.sign(value[1:]) != np.sign(value[:-1]))
    low, high, sign = lam[left], lam[left + 1], np.sign(value[left])
    for _ in range(60):
        middle = 0.5 * (low + high)
        before = np.sign(slope(middle)) == sign if middle.size else middle.astype(bool)
        low, high = np.where(before, middle, low), np.where(before, high, middle)
    return 0.5 * (low + high)


def _lambda_grid(reward_hat, pi0, d0, points):
    """From far below the proxy's inverse range to where the path has ended; None if it is flat."""
    used = reward_hat[d0 > 0]
    span = np.ptp(used, axis=-1).max()
    if span == 0:
        return None
    steps = np.diff(np.sort(used, axis=-1), axis=-1)
    gap = steps[steps > 1e-12 * span].min()
    # A rare favourite takes over only when lambda times the gap exceeds its surprise.
    late = 40 - np.log(pi0[d0 > 0].min())
    return np.concatenate([[0.0], np.geomspace(1e-4 / span, max(late / gap, 50 / span), points)])
