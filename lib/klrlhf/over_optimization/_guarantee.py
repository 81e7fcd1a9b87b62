r"""What a confidence ellipsoid promises about the gold reward of a proxy's path.

On the event :math:`\|\hat\theta-\theta^*\|_V\le\rho` every number here is on the safe side.

What lives here: the price of a proxy's error, the least gain and slope over the ellipsoid, and two
stopping temperatures.
What does not: the ellipsoid (``confidence``) and pessimistic policies (``offline``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import _validate as check
from ..bandit import Bandit
from ..confidence import inverse_norm
from ..offline import reference_mean
from ..offline._steps import estimate, mean_square_width, widths_where_used
from ..values import _average
from ._curve import _centred, _tilted

__all__ = [
    "proxy_error_bound",
    "GuaranteedCurve",
    "guaranteed_curve",
    "guaranteed_stopping",
    "guaranteed_stopping_bound",
]

FURTHEST = 300.0  # lambda times the proxy's range, where the stopping rule ends its search
ROUNDS = 400


def proxy_error_bound(kl, ranges, d0):
    r"""Gold reward lost to the proxy with k nats: at most :math:`\sqrt{k\,E_x\mathrm{range}^2/2}`.

    Parameters
    ----------
    kl : array_like, shape (...)
        KL budgets, nonnegative.
    ranges : array_like, shape (..., S)
        Ranges over the answers of each prompt of the error :math:`D = r^*-\hat r`, or bounds of
        them; on the event of a confidence ellipsoid :math:`\rho w_x`.
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
    Result ``proxy-error-frontier``.
    """
    kl, ranges = check.nonnegative(kl, "kl"), check.nonnegative(ranges, "ranges")
    d0 = check.prompts(d0)
    if ranges.ndim < 1 or ranges.shape[-1] != d0.shape[-1]:
        raise ValueError(f"ranges must have one entry per context: got shape {ranges.shape}")
    return np.sqrt(0.5 * kl * _average(ranges**2, d0))


class GuaranteedCurve(NamedTuple):
    """What an ellipsoid promises along the path, each of shape (..., M)."""

    inverse_temperature: np.ndarray
    gain: np.ndarray
    slope: np.ndarray
    ratio: np.ndarray


def guaranteed_curve(inverse_temperatures, bandit: Bandit, theta_hat, V, rho) -> GuaranteedCurve:
    r"""The least gain and the least slope of gold reward over an ellipsoid of truths.

    For every :math:`\theta` with :math:`\|\theta-\hat\theta\|_V\le\rho`, gold reward has gained at
    least ``gain`` over the reference and grows in :math:`\lambda` at least at the rate ``slope``;
    both are attained by some such :math:`\theta`.

    Parameters
    ----------
    inverse_temperatures : array_like, shape (M,) or (..., M)
        Values of :math:`\lambda \ge 0`; the replicate axes are those of ``theta_hat``.
    bandit : Bandit
        Its ``theta`` and ``beta`` are not used.
    theta_hat : array_like, shape (..., d)
        Estimates; the proxy is :math:`\langle\hat\theta,\phi\rangle`.
    V : array_like, shape (..., d, d)
        Design matrices.
    rho : array_like, shape (...)
        Radii, nonnegative.

    Returns
    -------
    GuaranteedCurve
        ``gain`` is proxy gain minus :math:`\rho\|E\phi(\pi_\lambda)-E\phi(\pi_0)\|_{V^{-1}}`;
        ``slope`` is :math:`v-\rho\|\Sigma_\lambda\hat\theta\|_{V^{-1}}`, with
        :math:`\Sigma_\lambda = E_x\mathrm{Cov}_{\pi_\lambda}(\phi)`; ``ratio`` is the subtracted
        term of ``slope`` over ``v`` (gold is sure to rise where it is below 1).

    Raises
    ------
    ValueError
        If ``V`` is singular in a direction that is needed, or an argument leaves its range.

    Notes
    -----
    Result ``gold-stopping``.
    """
    theta_hat, V, rho, lead = estimate(bandit, theta_hat, V, rho)
    lam = np.atleast_1d(check.nonnegative(inverse_temperatures, "inverse_temperatures"))
    check.broadcast("the estimates", lead, "inverse_temperatures", lam.shape[:-1])
    rho = np.broadcast_to(rho, lead)
    policy, v, drag = _least_slope(lam, bandit, theta_hat, V, rho)
    moved = (np.einsum("...sk,skd->...d", bandit.d0[:, None] * policy, bandit.phi)
             - reference_mean(bandit))
    V, rho = V[..., None, :, :], rho[..., None]
    gain = (moved * theta_hat[..., None, :]).sum(axis=-1) - rho * inverse_norm(moved, V)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(v > 0, drag / v, np.inf)
    return GuaranteedCurve(np.broadcast_to(lam, v.shape), gain, v - drag, ratio)


def _least_slope(lam, bandit: Bandit, theta_hat, V, rho):
    """Policies (..., M, S, K), proxy variance and its largest loss to the ellipsoid, (..., M)."""
    proxy = np.broadcast_to(bandit.reward_of(theta_hat), (*rho.shape, bandit.S, bandit.K))
    policy = np.exp(_tilted(lam, proxy, bandit.pi0))
    s = _centred(policy, proxy[..., None, :, :])
    weight = bandit.d0[:, None] * policy
    v = (weight * s * s).sum(axis=(-2, -1))
    # Cov(phi, proxy) needs only the proxy centred; phi from the likeliest action keeps digits.
    best = policy.argmax(axis=-1)[..., None, None]
    phi = np.broadcast_to(bandit.phi, (*policy.shape, bandit.d))
    near = phi - np.take_along_axis(phi, best, axis=-2)
    pulled = np.einsum("...sk,...sk,...skd->...d", weight, s, near)
    return policy, v, rho[..., None] * inverse_norm(pulled, V[..., None, :, :])


def guaranteed_stopping(bandit: Bandit, theta_hat, V, rho, points: int = 400) -> np.ndarray:
    r"""An inverse temperature up to which gold reward is sure to rise, on the ellipsoid's event.

    Never beyond the first :math:`\lambda` with
    :math:`\rho\|\Sigma_\lambda\hat\theta\|_{V^{-1}}\ge v(\lambda)`: every step between two grid
    points is proved by the bound of item 4 of the result, and refined where the proof needs it.

    Parameters
    ----------
    bandit : Bandit
        Its ``theta`` and ``beta`` are not used.
    theta_hat : array_like, shape (..., d)
        Estimates.
    V : array_like, shape (..., d, d)
        Design matrices.
    rho : array_like, shape (...)
        Radii, nonnegative.
    points : int
        Points of the first grid, at least 2; more points change the time, not the answer.

    Returns
    -------
    ndarray, shape (...)
        0 where nothing is sure, ``inf`` where ``rho`` is 0 and the proxy is not flat. The path is
        followed to :math:`\lambda` = 300 over the proxy's largest range and no further.

    Raises
    ------
    ValueError
        If ``V`` is singular in a direction that is needed, or an argument leaves its range.

    Notes
    -----
    Result ``gold-stopping``. Up to rounding, the interval is proved, not sampled.
    """
    theta_hat, V, rho, lead = estimate(bandit, theta_hat, V, rho)
    points = check.size(points, "points", least=2)
    closed = np.broadcast_to(guaranteed_stopping_bound(bandit, theta_hat, V, rho), lead)
    d = bandit.d
    flat = (np.broadcast_to(theta_hat, (*lead, d)).reshape(-1, d),
            np.broadcast_to(V, (*lead, d, d)).reshape(-1, d, d),
            np.broadcast_to(rho, lead).reshape(-1))
    reward = bandit.reward_of(flat[0])
    span = np.ptp(reward[..., bandit.d0 > 0, :], axis=-1).max(axis=-1)
    scale = 1 / np.where(span > 0, span, 1.0)
    widest = span + flat[2] * widths_where_used(bandit, flat[1]).max(axis=-1)
    end = FURTHEST * scale
    low, window, going = np.zeros(span.size), end.copy(), span > 0
    grid = np.concatenate([[0.0], np.geomspace(1e-3, FURTHEST, points)]) / FURTHEST
    for _ in range(ROUNDS):
        i = np.flatnonzero(going)
        if not i.size:
            break
        lam = np.minimum(low[i, None] + window[i, None] * grid, end[i, None])
        proved = _proved(lam, bandit, [f[i] for f in flat], span[i], widest[i])
        held = np.logical_and.accumulate(proved, axis=-1).sum(axis=-1)
        rows, last = np.arange(i.size), grid.size - 1
        low[i] = lam[rows, held]
        # A step that is not proved is cut; steps that are proved may grow.
        step = lam[rows, np.minimum(held + 1, last)] - low[i]
        window[i] = np.where(held == last, 4 * window[i], step)
        going[i] = (low[i] < end[i]) & (window[i] > 1e-12 * np.maximum(low[i], 1e-6 * scale[i]))
        grid = np.linspace(0, 1, 33)
    return np.maximum(low.reshape(lead), closed)


def _proved(lam, bandit: Bandit, ellipsoid, span, widest) -> np.ndarray:
    """Whether the least slope is positive all the way between neighbours: shape (..., M - 1).

    Between two points each truth's slope stays above its chord minus a second-order term.
    """
    _, v, drag = _least_slope(lam, bandit, *ellipsoid)
    step = np.diff(lam) * span[..., None]
    with np.errstate(over="ignore", invalid="ignore"):
        bend = step**2 / 8 * np.exp(step / 2) * (widest / span)[..., None]
        bend = bend * np.sqrt(v[..., :-1]) * np.sqrt(v[..., 1:])
    least = v * (1 - 1e-12) - drag
    return np.minimum(least[..., :-1], least[..., 1:]) > bend


def guaranteed_stopping_bound(bandit: Bandit, theta_hat, V, rho) -> np.ndarray:
    r"""A stopping inverse temperature in closed form, below ``guaranteed_stopping``.

    .. math:: \lambda = \frac1{\hat R}\log\frac{4\,v(0)}{\rho^2\,E_xw_x^2}

    (0 if negative), with :math:`v(0)` the proxy's variance under the reference, :math:`\hat R` its
    largest range and :math:`w_x` the widths of the ellipsoid.

    Parameters
    ----------
    bandit : Bandit
        Its ``theta`` and ``beta`` are not used.
    theta_hat : array_like, shape (..., d)
        Estimates.
    V : array_like, shape (..., d, d)
        Design matrices.
    rho : array_like, shape (...)
        Radii, nonnegative.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If ``V`` is singular in a direction that is needed, or an argument leaves its range.

    Notes
    -----
    Result ``gold-stopping``.
    """
    theta_hat, V, rho, lead = estimate(bandit, theta_hat, V, rho)
    reward = np.broadcast_to(bandit.reward_of(theta_hat), (*lead, bandit.S, bandit.K))
    span = np.ptp(reward[..., bandit.d0 > 0, :], axis=-1).max(axis=-1)
    scaled = reward / np.where(span > 0, span, 1.0)[..., None, None]
    spread = _average((bandit.pi0 * _centred(np.broadcast_to(bandit.pi0, reward.shape),
                                             scaled) ** 2).sum(axis=-1), bandit.d0)
    error = rho * np.sqrt(mean_square_width(bandit, V))
    with np.errstate(divide="ignore", invalid="ignore"):
        lam = 2 * (np.log(2 * np.sqrt(spread) * span) - np.log(error)) / span
    return np.where((span > 0) & (spread > 0), np.maximum(lam, 0.0), 0.0)
