r"""The beginning and the shape of a gold curve, best-of-n by a proxy, and published forms.

What lives here: coefficients at the reference, the regression of gold on proxy, the exact curve of
best-of-n by a proxy, and least-squares fits of two functional forms.
What does not: the curve of the Gibbs path (``_curve``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import _validate as check
from ..policies import best_of_n_policy
from ..values import _average
from ._curve import _centred, _instance

__all__ = [
    "GoldStart",
    "gold_start",
    "gold_by_proxy",
    "ProxyBestOfN",
    "best_of_n_curve",
    "FormFit",
    "fit_form",
]


class GoldStart(NamedTuple):
    """Coefficients of gold reward at the reference, in lambda and in d = sqrt(KL)."""

    covariance: np.ndarray
    third: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray


def gold_start(reward, reward_hat, pi0, d0) -> GoldStart:
    r"""The gold curve near the reference: :math:`G - G_0 = \zeta d - \omega d^2 + O(d^3)`.

    With :math:`d = \sqrt{\mathrm{KL}}`, ``C`` the covariance, ``v`` the proxy's variance, ``M`` the
    mean of :math:`E(r^*-\bar r^*)(\hat r-\bar{\hat r})^2` and ``T`` that of the proxy's third
    central moment, all at the reference, :math:`\zeta = C\sqrt{2/v}` and
    :math:`\omega = 2CT/(3v^2) - M/v`.

    Parameters
    ----------
    reward, reward_hat, pi0 : array_like, shape (..., S, K)
        Gold rewards, proxy rewards (not flat), reference policies with full support.
    d0 : array_like, shape (..., S)
        Prompt distributions.

    Returns
    -------
    GoldStart
        ``covariance`` (C) and ``third`` (M), the first two derivatives in :math:`\lambda`;
        ``slope`` (zeta) and ``curvature`` (omega). Each of shape (...).

    Raises
    ------
    ValueError
        If the proxy is flat, or a hypothesis above is violated.

    Notes
    -----
    Result ``gold-curve-start``.
    """
    reward, reward_hat, pi0, d0 = _instance(reward, reward_hat, pi0, d0)
    s, r = _centred(pi0, reward_hat), _centred(pi0, reward)
    # zeta and omega do not depend on the proxy's scale: divide it out before squaring.
    unit = np.where(d0[..., None] > 0, np.abs(s), 0.0).max(axis=(-2, -1))
    s = s / np.where(unit > 0, unit, 1.0)[..., None, None]
    v, C, M, T = (_average((pi0 * f).sum(axis=-1), d0) for f in (s * s, r * s, r * s * s, s**3))
    if (v <= 0).any():
        raise ValueError("reward_hat must not be flat: some prompt needs two answers that differ")
    return GoldStart(C * unit, M * unit**2, C * np.sqrt(2 / v), 2 * C * T / (3 * v**2) - M / v)


def gold_by_proxy(reward, reward_hat, pi0):
    r"""The regression of gold on proxy, :math:`m(x,a) = E_{\pi_0}[r^*\mid x,\ \hat r=\hat r(x,a)]`.

    Parameters
    ----------
    reward, reward_hat, pi0 : array_like, shape (..., S, K)
        Gold rewards, proxy rewards (finite), reference policies with full support.

    Returns
    -------
    ndarray, shape (..., S, K)
        Equal on answers of equal proxy.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``gold-curve-shape``: the gold curve of one prompt turns no more often than ``m`` does.
    """
    S = max(np.shape(reward)[-2], 1) if np.ndim(reward) > 1 else 1
    reward, reward_hat, pi0, _ = _instance(reward, reward_hat, pi0, np.full(S, 1 / S))
    tied = reward_hat[..., :, None] == reward_hat[..., None, :]
    weight = np.where(tied, pi0[..., None, :], 0.0)
    return (weight * reward[..., None, :]).sum(axis=-1) / weight.sum(axis=-1)


class ProxyBestOfN(NamedTuple):
    """Best-of-n by the proxy, each of shape (..., M)."""

    n: np.ndarray
    gold: np.ndarray
    proxy: np.ndarray
    kl: np.ndarray


def best_of_n_curve(ns, reward, reward_hat, pi0, d0) -> ProxyBestOfN:
    r"""Gold and proxy reward and divergence of best-of-n by the proxy, from the exact law.

    Parameters
    ----------
    ns : array_like of int, shape (M,)
        Numbers of draws per prompt, at least 1.
    reward, reward_hat, pi0 : array_like, shape (..., S, K)
        Gold rewards, proxy rewards (finite), reference policies with full support.
    d0 : array_like, shape (..., S)
        Prompt distributions.

    Returns
    -------
    ProxyBestOfN

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Results ``gold-curve-shape`` and ``best-of-n-kl``.
    """
    ns = np.atleast_1d(check.finite(ns, "ns"))
    if ns.ndim != 1 or not ns.size:
        raise ValueError(f"ns must be a nonempty list of numbers of draws: got shape {ns.shape}")
    reward, reward_hat, pi0, d0 = _instance(reward, reward_hat, pi0, d0)
    gold, proxy, kl = [], [], []
    for n in ns:
        policy = best_of_n_policy(reward_hat, pi0, n)
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(policy > 0, policy * np.log(policy / pi0), 0.0) - policy + pi0
        gold.append(_average((policy * reward).sum(axis=-1), d0))
        proxy.append(_average((policy * reward_hat).sum(axis=-1), d0))
        kl.append(_average(np.maximum(terms.sum(axis=-1), 0.0), d0))
    return ProxyBestOfN(ns, *(np.stack(f, axis=-1) for f in (gold, proxy, kl)))


class FormFit(NamedTuple):
    """Coefficients of a functional form, its fitted values and its largest error."""

    zeta: np.ndarray
    omega: np.ndarray
    fitted: np.ndarray
    error: np.ndarray


def fit_form(d, gain, form: str) -> FormFit:
    r"""Least-squares fit of :math:`d(\zeta-\omega d)` or :math:`d(\zeta-\omega\log d)`.

    Parameters
    ----------
    d : array_like, shape (M,)
        Distances :math:`\sqrt{\mathrm{KL}} > 0`, at least two different ones.
    gain : array_like, shape (..., M)
        Gold reward minus that of the reference.
    form : {"linear", "log"}
        "linear" for the first (published for best-of-n), "log" for the second (published for
        reinforcement learning).

    Returns
    -------
    FormFit
        ``zeta``, ``omega`` and ``error`` (largest absolute error) of shape (...), ``fitted`` of
        shape (..., M).

    Raises
    ------
    ValueError
        If ``form`` is unknown, ``d`` is not positive or holds fewer than two values.

    Notes
    -----
    Result ``gold-curve-start`` says which form can match the beginning of a gold curve.
    """
    d, gain = check.positive(d, "d"), check.finite(gain, "gain")
    if not isinstance(form, str) or form not in ("linear", "log"):
        raise ValueError(f"form must be 'linear' or 'log': got {form!r}")
    if d.ndim != 1 or np.unique(d).size < 2:
        raise ValueError("d must be a list with at least two different distances")
    if gain.ndim < 1 or gain.shape[-1] != d.size:
        raise ValueError(f"gain must have one entry per distance: got shape {gain.shape}")
    design = np.stack([d, -d * (d if form == "linear" else np.log(d))], axis=-1)
    size = np.linalg.norm(design, axis=0)  # columns of one size: no distance is too small
    coef = gain @ (np.linalg.pinv(design / size) / size[:, None]).T
    fitted = coef @ design.T
    return FormFit(coef[..., 0], coef[..., 1], fitted, np.abs(fitted - gain).max(axis=-1))
