r"""Self-play mirror descent and its step sizes.

What lives here: the iteration, Nash-MD beside it, the step size that is proved safe, and the step
size at which the Nash policy stops being stable.
What does not: Newton's method for the Nash policy (``_nash``).
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from .. import _validate as check
from ._nash import game_inputs, nash_policy
from ._preferences import interaction, rotation

__all__ = ["self_play", "nash_md", "safe_step", "stability_threshold"]


def _start(P, beta, pi0, eta, steps, start):
    """Validated inputs on common leading axes, with eta and the first log-policy."""
    P, A, beta, pi0 = game_inputs(P, beta, pi0)
    eta, steps = check.positive(eta, "eta"), check.count(steps, "steps")
    start = pi0 if start is None else check.policy(start, "start", full_support=True)
    check.same_trailing("start", start, "pi0", pi0, 2)
    lead = check.broadcast("P and pi0", np.broadcast_shapes(A.shape[:-3], pi0.shape[:-2]),
                           "beta", beta.shape)
    lead = check.broadcast("the game", lead, "eta", eta.shape)
    lead = check.broadcast("the game", lead, "start", start.shape[:-2])
    first = np.broadcast_to(np.log(start), (*lead, *pi0.shape[-2:]))
    return A, beta[..., None, None], np.log(pi0), eta[..., None, None], steps, first


def _path(first, steps, update):
    path = np.empty((steps + 1, *first.shape))
    path[0] = first
    for t in range(steps):
        logits = update(path[t])
        path[t + 1] = logits - logsumexp(logits, axis=-1, keepdims=True)
    return path


def self_play(P, beta, pi0, eta, steps, start=None):
    r"""Self-play mirror descent.

    .. math::
        \pi_{t+1} = \arg\max_\pi\; P(\pi\succ\pi_t) - \beta\,\mathrm{KL}(\pi\|\pi_0)
        - \tfrac1\eta\,\mathrm{KL}(\pi\|\pi_t)
        \propto \big(\pi_t\,\pi_0^{\eta\beta}\,e^{\eta P(\cdot\succ\pi_t)}\big)^{1/(1+\eta\beta)}

    Parameters
    ----------
    P : array_like, shape (..., S, K, K)
        Preference matrix or payoff.
    beta, eta : array_like, shape (...)
        KL coefficients and step sizes, both positive.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    steps : int
        Number of steps.
    start : array_like, shape (..., S, K), optional
        First policy, of full support; the reference by default.

    Returns
    -------
    ndarray, shape (steps + 1, ..., S, K)
        Log-policies, the start first.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``nash-self-play``.
    """
    A, beta, log_pi0, eta, steps, first = _start(P, beta, pi0, eta, steps, start)

    def update(log_policy):
        rates = np.einsum("...ab,...b->...a", A, np.exp(log_policy))
        return (log_policy + eta * beta * log_pi0 + eta * rates) / (1 + eta * beta)

    return _path(first, steps, update)


def nash_md(P, beta, pi0, eta, steps, start=None):
    r"""Nash-MD: a step from, and against, the geometric mixture of policy and reference.

    .. math::
        \pi_{t+1} \propto \mu_t\, e^{\eta P(\cdot\succ\mu_t)}, \qquad
        \mu_t \propto \pi_t^{1-\eta\beta}\,\pi_0^{\eta\beta}

    Parameters
    ----------
    P : array_like, shape (..., S, K, K)
        Preference matrix or payoff.
    beta, eta : array_like, shape (...)
        KL coefficients and step sizes, both positive, with ``eta beta <= 1``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    steps : int
        Number of steps.
    start : array_like, shape (..., S, K), optional
        First policy, of full support; the reference by default.

    Returns
    -------
    ndarray, shape (steps + 1, ..., S, K)
        Log-policies, the start first.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.
    """
    A, beta, log_pi0, eta, steps, first = _start(P, beta, pi0, eta, steps, start)
    if (eta * beta > 1).any():
        raise ValueError(f"eta beta must be at most 1: got {(eta * beta).max():.6g}")

    def update(log_policy):
        mixture = (1 - eta * beta) * log_policy + eta * beta * log_pi0
        mixture = mixture - logsumexp(mixture, axis=-1, keepdims=True)
        return mixture + eta * np.einsum("...ab,...b->...a", A, np.exp(mixture))

    return _path(first, steps, update)


def safe_step(P, beta):
    r"""The largest step with a proved rate, :math:`\eta = \beta/\kappa^2`.

    Parameters
    ----------
    P : array_like, shape (..., S, K, K)
        Preference matrix or payoff.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.

    Returns
    -------
    ndarray, shape (..., S)
        At least ``4 beta`` for preferences; ``inf`` where the interaction is 0.

    Raises
    ------
    ValueError
        If ``P`` is not constant-sum or ``beta`` is not positive.

    Notes
    -----
    Result ``nash-self-play``.
    """
    kappa, beta = interaction(P), check.positive(beta, "beta")
    check.broadcast("P", kappa.shape[:-1], "beta", beta.shape)
    with np.errstate(divide="ignore"):
        return beta[..., None] / kappa**2


def stability_threshold(P, beta, pi0):
    r"""The step size at which the Nash policy stops being stable.

    .. math:: \eta^\circ = \frac{2\beta}{\omega^2 - \beta^2}\quad(\omega > \beta), \qquad
        \eta^\circ = \infty \quad (\omega \le \beta)

    Parameters
    ----------
    P : array_like, shape (..., S, K, K)
        Preference matrix or payoff.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.

    Returns
    -------
    ndarray, shape (..., S)
        Self-play converges locally below it and not above.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``self-play-threshold``.
    """
    P, _, beta, pi0 = game_inputs(P, beta, pi0)
    omega, beta = rotation(P, nash_policy(P, beta, pi0)), beta[..., None]
    excess = omega**2 - beta**2
    turning = omega > beta * (1 + 1e-14)
    return np.where(turning, 2 * beta / np.where(turning, excess, 1.0), np.inf)
