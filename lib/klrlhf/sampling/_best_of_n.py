r"""Best-of-n: draw n answers from the reference, keep one of highest reward.

Everything is exact. Sort the answers by reward and let the answers of one reward value share a
*cell* ``[G, F]`` of the unit interval, of length their mass under ``pi0``. The best of n draws is
the cell that holds the largest of n uniform numbers, whose density is :math:`n u^{n-1}`.

What lives here: the divergence and the win rate, their bounds and estimates.
What does not: the law itself (``policies.best_of_n_policy``), and other rules and policies to
compare with (``_best_of_n_frontier``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import bernoulli, gammaln

from .. import _validate as check
from ..numerics import expm1_minus
from ..policies import best_of_n_policy

__all__ = [
    "BestOfNBounds",
    "WinRate",
    "best_of_n_bounds",
    "best_of_n_cell_gap",
    "best_of_n_kl",
    "best_of_n_kl_estimate",
    "best_of_n_kl_from_top",
    "best_of_n_kl_gap",
    "best_of_n_win_rate",
    "win_rate",
]


def _draws(n) -> np.ndarray:
    """An array of whole numbers of draws, at least 1."""
    array = check.finite(n, "n")
    check._refuse("n", "a whole number", array, array != np.floor(array))
    check._refuse("n", "at least 1", array, array < 1)
    return array


def _one_number_of_draws(n) -> int:
    whole = check.count(n)
    if whole < 1:
        raise ValueError(f"n must be at least 1: got {n}")
    return whole


def _cells(reward, pi0):
    """Per action: mass below, mass at, and mass above its reward value, and ``pi0`` itself."""
    reward, pi0 = check.rewards(reward), check.reference(pi0)
    check.same_trailing("reward", reward, "pi0", pi0, 2)
    reward, pi0 = np.broadcast_arrays(reward, pi0)
    mine, other = reward[..., :, None], reward[..., None, :]
    mass = pi0[..., None, :]
    below = np.where(other < mine, mass, 0.0).sum(axis=-1)
    tied = np.where(other == mine, mass, 0.0).sum(axis=-1)
    above = np.where(other > mine, mass, 0.0).sum(axis=-1)
    return below, tied, above, pi0


class BestOfNBounds(NamedTuple):
    """What n draws allow at most: KL and chi-squared to ``pi0``, win rate, and density ratio."""

    kl: np.ndarray
    chi2: np.ndarray
    win_rate: np.ndarray
    ratio: np.ndarray


def best_of_n_bounds(n) -> BestOfNBounds:
    r"""Bounds for every rule, random or adversarial, that returns one of ``n`` draws of ``pi0``.

    .. math:: \mathrm{KL} \le \log n - \tfrac{n-1}{n}, \quad
       \chi^2 \le \tfrac{(n-1)^2}{2n-1}, \quad
       P(>) + \tfrac12 P(=) \le \tfrac{n}{n+1}, \quad \pi(a)/\pi_0(a) \le n .

    Parameters
    ----------
    n : array_like of whole numbers, shape (...)
        Numbers of draws, ``n >= 1``.

    Returns
    -------
    BestOfNBounds
        Named arrays of shape (...).

    Raises
    ------
    ValueError
        If an ``n`` is below 1 or not whole.

    Notes
    -----
    Results ``best-of-n-kl`` and ``best-of-n-win-rate``.
    """
    n = _draws(n)
    return BestOfNBounds(np.log(n) - (n - 1) / n, (n - 1) ** 2 / (2 * n - 1), n / (n + 1), n)


# Coefficients of log(sinh x / x) = sum_k c_k x^(2k), for small cells.
_ORDERS = np.arange(1, 17)
_SERIES = (bernoulli(32)[2::2] * np.exp(2 * _ORDERS * np.log(2) - gammaln(2 * _ORDERS + 1))
           / (2 * _ORDERS))


def _cell_gap(n: float, length: np.ndarray) -> np.ndarray:
    """The gap of a cell with ``log(F / G) = length`` in [0, inf]; see `best_of_n_cell_gap`."""
    if n == 1:
        return np.zeros_like(length)
    small = n * length < 1.6
    # Far cells: the closed form. Every exponential decays, and at length = inf all vanish.
    far = np.where(small, 1.0, length)
    with np.errstate(invalid="ignore"):
        decay = np.where(np.isinf(far), 0.0, far * np.exp(-n * far))
    closed = (np.log(n) + np.log(-np.expm1(-far)) - np.log(-np.expm1(-n * far))
              - (n - 1) / n + (n - 1) * decay / -np.expm1(-n * far))
    # Near cells: the Bregman divergence of log(sinh x / x) between length / 2 and n length / 2,
    # power by power; each is a square times a positive polynomial, so nothing cancels.
    low = np.where(small, length, 0.0) / 2
    high = n * low
    series = np.zeros_like(length)
    for k, c in zip(_ORDERS, _SERIES, strict=True):
        inner = sum((i + 1) * high**i * low ** (2 * k - 2 - i) for i in range(2 * k - 1))
        series += c * inner
    return np.where(small, (high - low) ** 2 * series, closed)


def best_of_n_cell_gap(n: int, ratio):
    r"""What one cell hides from the divergence: :math:`\iota_n(z)`, with :math:`z = G/F`.

    The divergence from uniform of the density proportional to :math:`u^{n-1}` on ``[ratio, 1]``:

    .. math:: \iota_n(z) = \log\frac{n(1-z)}{1-z^n} - \frac{n-1}{n}
              - \frac{(n-1)\,z^n\log z}{1-z^n} .

    Parameters
    ----------
    n : int
        Number of draws, ``n >= 1``.
    ratio : array_like, shape (...)
        Ratios in [0, 1] of the lower to the upper end of the cell.

    Returns
    -------
    ndarray, shape (...)
        From ``log n - (n-1)/n`` at ``ratio = 0`` down to 0 at ``ratio = 1``.

    Raises
    ------
    ValueError
        If ``n`` is below 1 or a ``ratio`` leaves [0, 1].

    Notes
    -----
    Result ``best-of-n-kl-gap``.
    """
    n = _one_number_of_draws(n)
    ratio = check.nonnegative(ratio, "ratio")
    check._refuse("ratio", "at most 1", ratio, ratio > 1)
    with np.errstate(divide="ignore"):
        return _cell_gap(n, -np.log(ratio))[()]


def _lengths(below, tied, above):
    """``log(F / G)`` per action, accurate for cells that are small or far down."""
    with np.errstate(divide="ignore"):
        return np.log1p(tied / np.where(below > 0, below, 1.0)) + np.where(below > 0, 0.0, np.inf)


def best_of_n_kl_gap(reward, pi0, n: int):
    r"""How far the divergence of best-of-n stays below :math:`\log n - \frac{n-1}{n}`.

    The exact correction :math:`\sum_j q_j\,\iota_n(G_j/F_j)` over the reward values, with
    :math:`q_j = F_j^n - G_j^n` their probabilities under best-of-n.

    Parameters
    ----------
    reward, pi0 : array_like, shape (..., S, K)
        Finite rewards and reference policies with full support.
    n : int
        Number of draws, ``n >= 1``.

    Returns
    -------
    ndarray, shape (..., S)
        Nonnegative, accurate however small.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``best-of-n-kl-gap``: at most :math:`\frac{n(n-1)}{2}\sum_j\pi_0(r=r_j)^2`.
    """
    n = _one_number_of_draws(n)
    below, tied, above, _ = _cells(reward, pi0)
    law = best_of_n_policy(reward, pi0, n)
    return (law * _cell_gap(n, _lengths(below, tied, above))).sum(axis=-1)


def best_of_n_kl(reward, pi0, n: int):
    r"""The divergence :math:`\mathrm{KL}(\pi_n\|\pi_0)` of best-of-n per context.

    Parameters
    ----------
    reward, pi0 : array_like, shape (..., S, K)
        Finite rewards, ties allowed, and reference policies with full support.
    n : int
        Number of draws, ``n >= 1``.

    Returns
    -------
    ndarray, shape (..., S)
        At most ``best_of_n_bounds(n).kl``, and at most :math:`-\log\pi_0(\arg\max r)`.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Results ``best-of-n-kl`` and ``best-of-n-kl-gap``.
    """
    n = _one_number_of_draws(n)
    below, tied, above, pi0 = _cells(reward, pi0)
    law = best_of_n_policy(reward, pi0, n)
    # The log-ratio of a cell, log((F^n - G^n) / (F - G)), from whichever end is exact.
    log_upper = np.where(above < 0.5, np.log1p(-np.minimum(above, 0.5)), np.log(below + tied))
    share = np.minimum(tied / (below + tied), 1.0)
    with np.errstate(divide="ignore"):
        log_ratio = (n - 1) * log_upper + np.log(-np.expm1(n * np.log1p(-share))) - np.log(share)
    # Terms p u - p + q are nonnegative and sum to the divergence: no cancellation near n = 1.
    p, u = law, np.maximum(log_ratio, -1e4)
    near = np.abs(u) < 0.5
    return np.where(near, p * expm1_minus(np.where(near, -u, 0.0)), p * u - p + pi0).sum(axis=-1)


def best_of_n_kl_from_top(n: int, mass):
    r"""A bound of the divergence from the reference's mass of the best reward value alone.

    .. math:: (1-\varepsilon)^n\Big(\log n - \frac{n-1}{n} + (n-1)\log(1-\varepsilon)\Big)
              + \big(1-(1-\varepsilon)^n\big)\log\frac{1-(1-\varepsilon)^n}{\varepsilon}

    Parameters
    ----------
    n : int
        Number of draws, ``n >= 1``.
    mass : array_like, shape (...)
        :math:`\varepsilon=\pi_0(\arg\max r)` in (0, 1].

    Returns
    -------
    ndarray, shape (...)
        Between the divergence and ``min(log n - (n-1)/n, -log mass)``.

    Raises
    ------
    ValueError
        If ``n`` is below 1 or a mass leaves (0, 1].

    Notes
    -----
    Result ``best-of-n-kl-gap``.
    """
    n = _one_number_of_draws(n)
    mass = check.positive(mass, "mass")
    check._refuse("mass", "at most 1", mass, mass > 1)
    with np.errstate(divide="ignore"):
        miss = n * np.log1p(-mass)
    hit = -np.expm1(miss)
    stay = np.where(mass == 1, 0.0, np.exp(miss) * (
        np.log(n) - (n - 1) / n + (n - 1) * np.log1p(-np.where(mass == 1, 0.0, mass))))
    return (stay + hit * (np.log(hit) - np.log(mass)))[()]


def best_of_n_kl_estimate(n: int, mass):
    r"""An estimate of the divergence from ``pi0(a)`` at an answer ``a`` that best-of-n returned.

    .. math:: \log n - \tfrac{n-1}{n} - \iota_n(1-\pi_0(a)),

    whose mean over answers of best-of-n lies between the divergence and the mean of the published
    estimate, which is ``best_of_n_kl_from_top(n, mass)`` at the same masses.

    Parameters
    ----------
    n : int
        Number of draws, ``n >= 1``.
    mass : array_like, shape (...)
        Probabilities under the reference of returned answers, in (0, 1].

    Returns
    -------
    ndarray, shape (...)
        Between 0 and ``log n - (n-1)/n``.

    Raises
    ------
    ValueError
        If ``n`` is below 1 or a mass leaves (0, 1].

    Notes
    -----
    Result ``best-of-n-kl-estimate``.
    """
    n = _one_number_of_draws(n)
    mass = check.positive(mass, "mass")
    check._refuse("mass", "at most 1", mass, mass > 1)
    with np.errstate(divide="ignore"):
        inside = _cell_gap(n, -np.log1p(-mass))
    return (best_of_n_bounds(n).kl - inside)[()]


class WinRate(NamedTuple):
    """One draw of a policy against one of ``pi0``: P(>), P(=), P(>) + P(=)/2 and P(>=)."""

    win: np.ndarray
    tie: np.ndarray
    rate: np.ndarray
    at_least: np.ndarray


def win_rate(policy, reward, pi0) -> WinRate:
    r"""How often a draw of ``policy`` has a higher reward than an independent draw of ``pi0``.

    Parameters
    ----------
    policy, reward, pi0 : array_like, shape (..., S, K)
        Policies, finite rewards (only their order counts), reference policies with full support.

    Returns
    -------
    WinRate
        Named arrays ``win``, ``tie``, ``rate`` (ties count half) and ``at_least``, (..., S).

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Results ``best-of-n-win-rate`` and ``win-rate-frontier``.
    """
    policy = check.policy(policy)
    below, tied, _, pi0 = _cells(reward, pi0)
    check.same_trailing("policy", policy, "pi0", pi0, 2)
    win, tie = (policy * below).sum(axis=-1), (policy * tied).sum(axis=-1)
    return WinRate(win, tie, win + tie / 2, win + tie)


def best_of_n_win_rate(reward, pi0, n: int) -> WinRate:
    r"""The win rate of best-of-n against one draw of the reference, exact with ties.

    Parameters
    ----------
    reward, pi0 : array_like, shape (..., S, K)
        Finite rewards, ties allowed, and reference policies with full support.
    n : int
        Number of draws, ``n >= 1``.

    Returns
    -------
    WinRate
        ``rate <= n / (n + 1) <= at_least`` in every context.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``best-of-n-win-rate``.
    """
    return win_rate(best_of_n_policy(reward, pi0, n), reward, pi0)
