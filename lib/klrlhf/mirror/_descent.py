r"""Policy mirror descent: iterates as log-policies, closed form, rate, and number of steps.

What lives here: the implicit and the explicit step, exact or with given errors.
What does not: gradients in the logits (``_policy_gradient``) and the clipped surrogate (``_clipped``).
"""

from __future__ import annotations

import numpy as np

from .. import _validate as check
from ..numerics import _bregman_kl_terms, sharp_hoeffding
from ..policies import log_gibbs_policy
from ..values import _average, _prompts_for
from ._clipped import _normalized
from ._policy_gradient import _problem, _start

__all__ = [
    "mirror_step",
    "mirror_descent",
    "mirror_path",
    "mirror_factor",
    "effective_beta",
    "mirror_bound",
    "mirror_steps",
    "log_suboptimality",
]

VARIANTS = ("implicit", "explicit")


def _variant(name) -> str:
    if name not in VARIANTS:
        raise ValueError(f"variant must be one of {VARIANTS}: got {name!r}")
    return name


def mirror_factor(eta, beta, variant: str = "implicit"):
    r"""The factor of one step on :math:`\log(\pi/\pi^*)`: :math:`1/(1+\eta\beta)`, :math:`1-\eta\beta`.

    Parameters
    ----------
    eta, beta : array_like, shape (...)
        Step size and KL coefficient, positive.
    variant : {"implicit", "explicit"}
        Proximal step on J itself, or on its linearization.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a hypothesis above is violated.

    Notes
    -----
    Results ``mirror-descent-rate`` and ``natural-policy-gradient``.
    """
    eta, beta = check.positive(eta, "eta"), check.positive(beta, "beta")
    check.broadcast("eta", eta.shape, "beta", beta.shape)
    return 1 / (1 + eta * beta) if _variant(variant) == "implicit" else 1 - eta * beta


def mirror_step(log_policy, reward, beta, pi0, eta, variant: str = "implicit"):
    r"""One step of policy mirror descent on J.

    Implicit: the maximizer of :math:`J(\pi) - \frac1\eta E_x\mathrm{KL}(\pi\|\pi_k)`.
    Explicit: the same with J replaced by its linearization at :math:`\pi_k`, whose slope is
    :math:`r - \beta\log(\pi_k/\pi_0)`, the reward with the KL penalty inside.

    Parameters
    ----------
    log_policy : array_like, shape (..., S, K)
        Normalized log-probabilities of the current policy, finite.
    reward, beta, pi0
        The instance, as in ``gibbs_policy``.
    eta : array_like, shape (...)
        Step size, positive.
    variant : {"implicit", "explicit"}

    Returns
    -------
    ndarray, shape (..., S, K)
        Normalized log-probabilities.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``mirror-descent-rate``.
    """
    log_policy = check.log_policy(log_policy)
    reward, beta, log_pi0, eta, _ = _problem(reward, beta, pi0, eta)
    check.same_trailing("log_policy", log_policy, "reward", reward, 2)
    return _step(log_policy, reward, beta, log_pi0, eta, _variant(variant))


def _step(log_policy, reward, beta, log_pi0, eta, variant):
    eta, beta = eta[..., None, None], beta[..., None, None]
    if variant == "implicit":
        return _normalized((log_policy + eta * (reward + beta * log_pi0)) / (1 + eta * beta))
    with np.errstate(over="ignore", invalid="ignore"):
        new = _normalized(log_policy + eta * (reward - beta * (log_policy - log_pi0)))
    if not np.isfinite(new).all():
        raise ValueError("eta * beta must be smaller for the explicit step: the iterates overflow")
    return new


def mirror_descent(reward, beta, pi0, eta, steps: int, start=None, variant="implicit", errors=None):
    r"""The iterates of policy mirror descent, step by step.

    Parameters
    ----------
    reward, beta, pi0
        The instance, as in ``gibbs_policy``.
    eta : array_like, shape (...)
        Step size, positive.
    steps : int
        Number of steps.
    start : array_like, shape (..., S, K), optional
        First policy, with full support; the reference if omitted.
    variant : {"implicit", "explicit"}
    errors : array_like, shape (steps, ..., S, K), optional
        An inexact oracle: what each step adds to the log-policy before normalization.

    Returns
    -------
    ndarray, shape (steps + 1, ..., S, K)
        Normalized log-probabilities of all iterates.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Results ``mirror-descent-rate`` and ``mirror-descent-inexact``.
    """
    reward, beta, log_pi0, eta, shape = _problem(reward, beta, pi0, eta)
    steps = check.size(steps, "steps", 0)
    path = [_normalized(_start(start, log_pi0, shape))]
    if errors is not None:
        errors = check.finite(errors, "errors", ("step", "context", "action"))
        if len(errors) != steps:
            raise ValueError(f"errors must have one entry per step: {len(errors)}, {steps} steps")
        if errors.shape[-2:] != path[0].shape[-2:]:
            raise ValueError(f"errors must agree with reward in their last 2 axes: {errors.shape} "
                             f"and {reward.shape}")
        lead = check.broadcast("errors", errors.shape[1:-2], "the instances", path[0].shape[:-2])
        shape = lead + path[0].shape[-2:]
        path = [np.broadcast_to(path[0], shape)]
    for k in range(steps):
        now = _step(path[-1], reward, beta, log_pi0, eta, _variant(variant))
        path.append(now if errors is None else _normalized(now + errors[k]))
    return np.stack(path)


def mirror_path(reward, beta, pi0, factor, start=None):
    r"""The law :math:`\pi\propto\pi^*\,(\pi_{\mathrm{init}}/\pi^*)^s` with :math:`s` = ``factor``.

    With :math:`s=(1+\eta\beta)^{-k}` this is the iterate k of mirror descent, in closed form.

    Parameters
    ----------
    reward, beta, pi0
        The instance, as in ``gibbs_policy``.
    factor : array_like, shape (...)
        Any real numbers; 0 gives the optimal policy, 1 the start.
    start : array_like, shape (..., S, K), optional
        First policy, with full support; the reference if omitted.

    Returns
    -------
    ndarray, shape (..., S, K)
        Normalized log-probabilities.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Results ``mirror-descent-rate`` and ``mirror-descent-path``.
    """
    optimal = log_gibbs_policy(reward, beta, pi0)
    factor = check.finite(factor, "factor")
    first = _start(start, np.log(check.reference(pi0)), optimal.shape)
    check.broadcast("factor", factor.shape, "the instances", first.shape[:-2])
    return _normalized(optimal + factor[..., None, None] * (first - optimal))


def effective_beta(eta, beta, k):
    r"""The price :math:`\beta_k=\beta/(1-(1+\eta\beta)^{-k})` at which iterate k is optimal.

    Parameters
    ----------
    eta, beta : array_like, shape (...)
        Step size and KL coefficient, positive.
    k : array_like, shape (...)
        Numbers of steps from the reference, at least 0.

    Returns
    -------
    ndarray, shape (...)
        Prices above ``beta``; ``inf`` at ``k = 0``.

    Raises
    ------
    ValueError
        If a hypothesis above is violated.

    Notes
    -----
    Result ``mirror-descent-path``.
    """
    eta, beta = check.positive(eta, "eta"), check.positive(beta, "beta")
    k = check.nonnegative(k, "k")
    with np.errstate(divide="ignore"):
        return beta / -np.expm1(-k * np.log1p(eta * beta))


def mirror_bound(span, beta, d0, factor):
    r"""The bound :math:`\beta\,E_x h(|s|\,\mathrm{span}_x)` on the gap, with :math:`s` = ``factor``.

    Parameters
    ----------
    span : array_like, shape (..., S)
        Spans of :math:`\log(\pi_{\mathrm{init}}/\pi^*)`; from the reference, :math:`R_x/\beta`.
    beta : array_like, shape (...)
        KL coefficient, positive.
    d0 : array_like, shape (..., S)
        Prompt distribution.
    factor : array_like, shape (...)
        The factor of all steps together, such as :math:`(1+\eta\beta)^{-k}`.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a hypothesis above is violated.

    Notes
    -----
    Result ``mirror-descent-rate``.
    """
    span, beta = check.nonnegative(span, "span"), check.positive(beta, "beta")
    d0, factor = check.prompts(d0), check.finite(factor, "factor")
    if not span.ndim or span.shape[-1] != d0.shape[-1]:
        raise ValueError(f"span must have one entry per context: {span.shape} and d0 {d0.shape}")
    lead = check.broadcast("span", span.shape[:-1], "factor", factor.shape)
    check.broadcast("span and factor", lead, "beta", beta.shape)
    return beta * _average(sharp_hoeffding(np.abs(factor)[..., None] * span), d0)


def mirror_steps(gap, eta, beta, span) -> int:
    r"""Steps after which the gap is at most ``gap``: least k with :math:`q^k\,\mathrm{span}\le\sqrt{8\,\mathrm{gap}/\beta}`.

    Parameters
    ----------
    gap : float
        Wanted gap, positive.
    eta, beta : float
        Step size and KL coefficient, positive.
    span : float
        Largest span of :math:`\log(\pi_{\mathrm{init}}/\pi^*)`, at least 0.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If a hypothesis above is violated.

    Notes
    -----
    Result ``mirror-descent-rate``, with :math:`h(t)\le t^2/8`.
    """
    gap, eta = (check.number(check.positive(v, n), n) for v, n in ((gap, "gap"), (eta, "eta")))
    beta = check.number(check.positive(beta, "beta"), "beta")
    span = check.number(check.nonnegative(span, "span"), "span")
    room = np.sqrt(8 * gap / beta)
    return 0 if span <= room else int(np.ceil(np.log(span / room) / np.log1p(eta * beta)))


def log_suboptimality(log_policy, reward, beta, pi0, d0):
    r"""The gap :math:`\beta\,E_x\mathrm{KL}(\pi\|\pi^*)` from log-probabilities.

    Parameters
    ----------
    log_policy : array_like, shape (..., S, K)
        Normalized log-probabilities; ``-inf`` stands for 0.
    reward, beta, pi0, d0
        The instance, as in ``value``.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.
    """
    optimal, d0 = log_gibbs_policy(reward, beta, pi0), check.prompts(d0)
    log_policy = check.as_float(log_policy, "log_policy")
    if np.isnan(log_policy).any() or (log_policy > check.POLICY_TOLERANCE).any():
        raise ValueError("log_policy must hold logarithms of probabilities: no NaN, none above 0")
    off = np.abs(np.exp(log_policy).sum(axis=-1) - 1) if log_policy.ndim else np.ones(1)
    if (off > 1e-8).any():
        raise ValueError(f"log_policy must be normalized: a law is off by {off.max():.3g}")
    check.same_trailing("log_policy", log_policy, "reward", optimal, 2)
    terms = _bregman_kl_terms(log_policy, optimal).sum(axis=-1)
    return check.positive(beta, "beta") * _average(terms, _prompts_for(d0, optimal))
