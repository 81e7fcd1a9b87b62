r"""Natural and vanilla policy gradient on the objective J, in softmax logits and exact expectation.

What lives here: the iterates as log-policies, the smoothness constant, the rate and the plateau of
vanilla policy gradient; and the checks that these share with mirror descent.
What does not: mirror descent (``_descent``).
"""

from __future__ import annotations

import numpy as np

from .. import _validate as check
from ..numerics import sharp_hoeffding
from ..policies import log_gibbs_policy
from ..values import _average, _prompts_for
from ._clipped import _normalized

__all__ = [
    "natural_policy_gradient",
    "policy_gradient",
    "policy_gradient_smoothness",
    "policy_gradient_bound",
    "plateau_steps",
]

# Below this probability a Fisher matrix is singular in floating point.
LEAST_MASS = 1e-12


def _problem(reward, beta, pi0, eta):
    """Validated reward, beta, log pi0, eta, and their common shape."""
    reward, pi0 = check.rewards(reward), check.reference(pi0)
    beta, eta = check.positive(beta, "beta"), check.positive(eta, "eta")
    check.same_trailing("reward", reward, "pi0", pi0, 2)
    lead = check.broadcast("reward", reward.shape[:-2], "pi0", pi0.shape[:-2])
    lead = check.broadcast("reward and pi0", lead, "beta", beta.shape)
    lead = check.broadcast("the instances", lead, "eta", eta.shape)
    return reward, beta, np.log(pi0), eta, lead + reward.shape[-2:]


def _start(start, log_pi0: np.ndarray, shape) -> np.ndarray:
    if start is None:
        return np.broadcast_to(log_pi0, shape)
    start = check.reference(start, "start")
    check.same_trailing("start", start, "pi0", log_pi0, 2)
    shape = check.broadcast("start", start.shape[:-2], "the instances", shape[:-2]) + shape[-2:]
    return np.broadcast_to(np.log(start), shape)


def natural_policy_gradient(reward, beta, pi0, eta, steps: int, start=None):
    r"""Natural policy gradient in softmax logits, :math:`u_{k+1} = u_k + \eta F^+\nabla J(u_k)`.

    The Fisher matrix of each prompt, :math:`F = \mathrm{diag}\,\pi-\pi\pi^\top`, is built and
    inverted; nothing of the closed form is used.

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
    Result ``natural-policy-gradient``: equal to the explicit variant of ``mirror_descent``.
    The prompt law cancels, in the gradient and in the Fisher matrix.
    """
    reward, beta, log_pi0, eta, shape = _problem(reward, beta, pi0, eta)
    path = [_normalized(_start(start, log_pi0, shape))]
    for _ in range(check.size(steps, "steps", 0)):
        gradient = _policy_gradient(path[-1], reward, beta, log_pi0)
        policy = np.exp(path[-1])
        if policy.min() < LEAST_MASS:
            raise ValueError("natural_policy_gradient needs probabilities of at least "
                             f"{LEAST_MASS:g} to invert the Fisher matrix: got {policy.min():.3g}")
        fisher = policy[..., None] * np.eye(shape[-1]) - policy[..., None] * policy[..., None, :]
        # The kernel of F is the constants: with 1 1'/K added it is invertible, and the gradient,
        # which sums to zero, has the same solution of least norm.
        natural = np.linalg.solve(fisher + 1 / shape[-1], gradient[..., None])[..., 0]
        path.append(_normalized(path[-1] + eta[..., None, None] * natural))
    return np.stack(path)


def _policy_gradient(log_policy, reward, beta, log_pi0):
    """Gradient of one prompt's objective in the logits: pi times the advantage."""
    policy = np.exp(log_policy)
    g = reward - beta[..., None, None] * (log_policy - log_pi0)
    return policy * (g - (policy * g).sum(axis=-1, keepdims=True))


def policy_gradient(reward, beta, pi0, d0, eta, steps: int, start=None, every: int = 1):
    r"""Vanilla policy gradient in softmax logits, :math:`u_{k+1} = u_k + \eta\nabla J(u_k)`.

    Parameters
    ----------
    reward, beta, pi0, d0
        The instance, as in ``value``.
    eta : array_like, shape (...)
        Step size, positive.
    steps : int
        Number of steps.
    start : array_like, shape (..., S, K), optional
        First policy, with full support; the reference if omitted.
    every : int
        Keep the iterates 0, ``every``, 2 ``every``, ...

    Returns
    -------
    ndarray, shape (steps // every + 1, ..., S, K)
        Normalized log-probabilities.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``policy-gradient-rate``.
    """
    reward, beta, log_pi0, eta, shape = _problem(reward, beta, pi0, eta)
    d0 = _prompts_for(d0, reward)
    check.broadcast("d0", d0.shape[:-1], "the instances", shape[:-2])
    now = _normalized(_start(start, log_pi0, shape))
    path, every = [now], check.size(every, "every")
    scale = eta[..., None, None] * d0[..., None]
    for k in range(1, check.size(steps, "steps", 0) + 1):
        now = _normalized(now + scale * _policy_gradient(now, reward, beta, log_pi0))
        if k % every == 0:
            path.append(now)
    return np.stack(path)


def policy_gradient_smoothness(reward, beta, pi0, d0):
    r"""A number L with :math:`\nabla^2 J\succeq -L\,I` in the softmax logits.

    .. math:: L = \max_x d_0(x)\Big[\tfrac1{3\sqrt3}\,\mathrm{span}_a\big(r+\beta\log\pi_0\big)
              + \tfrac\beta2\,(1+\log K)\Big]

    Parameters
    ----------
    reward, beta, pi0, d0
        The instance, as in ``value``.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``policy-gradient-ascent``.
    """
    reward, beta, log_pi0, _, shape = _problem(reward, beta, pi0, 1.0)
    spans = np.ptp(reward + beta[..., None, None] * log_pi0, axis=-1) / 27**0.5
    return (_prompts_for(d0, reward) * (spans + beta[..., None] / 2 * (1 + np.log(shape[-1])))
            ).max(axis=-1)


def policy_gradient_bound(reward, beta, pi0, d0, eta, k, start=None):
    r"""The gap bound of vanilla policy gradient, :math:`\beta\,E_x h((1-\eta\beta d_0(x)m_x)^k F_x)`.

    Here :math:`F_x` is the span of :math:`\log(\pi_{\mathrm{init}}/\pi^*)` and
    :math:`m_x = \min_a\pi^*(a|x)\,e^{-F_x}`; it needs :math:`\eta\beta\max_xd_0(x)\le1`.

    Parameters
    ----------
    reward, beta, pi0, d0
        The instance, as in ``value``.
    eta : array_like, shape (...)
        Step size, positive.
    k : array_like, shape (...)
        Numbers of steps, at least 0.
    start : array_like, shape (..., S, K), optional
        First policy, with full support; the reference if omitted.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``policy-gradient-rate``.
    """
    reward, beta, log_pi0, eta, shape = _problem(reward, beta, pi0, eta)
    d0, k = _prompts_for(d0, reward), check.nonnegative(k, "k")
    step = (eta * beta)[..., None] * d0
    if (step > 1 + 1e-12).any():
        raise ValueError(f"eta * beta * d0 must be at most 1: got {step.max()}")
    optimal = log_gibbs_policy(reward, beta, pi0)
    span = np.ptp(_start(start, log_pi0, shape) - optimal, axis=-1)
    # A span of 0 stays 0; otherwise the floor is below one half.
    floor = np.where(span > 0, np.exp(optimal.min(axis=-1) - span), 0.0)
    rate = np.log1p(-np.minimum(step, 1.0) * floor)
    return beta * _average(sharp_hoeffding(np.exp(k[..., None] * rate) * span), d0)


def plateau_steps(eta, gap, p) -> float:
    r"""Two actions: fewest steps of vanilla policy gradient from probability ``p`` to one half.

    .. math:: k\ \ge\ \frac{1/p-2}{2\,\eta\,g}, \qquad g = \text{first advantage of the rare action
              over the other, times } d_0(x)

    Parameters
    ----------
    eta : float
        Step size, positive.
    gap : float
        The slope difference :math:`d_0(x)\,[r-\beta\log(\pi_{\mathrm{init}}/\pi_0)]` between the
        rare action and the other one, positive.
    p : float
        First probability of the rare action, in (0, 1/2).

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a hypothesis above is violated.

    Notes
    -----
    Result ``policy-gradient-plateau``.
    """
    eta = check.number(check.positive(eta, "eta"), "eta")
    gap = check.number(check.positive(gap, "gap"), "gap")
    p = check.number(check.probability_level(check.positive(p, "p"), "p"), "p")
    if p >= 0.5:
        raise ValueError(f"p must be below 1/2: got {p}")
    return (1 / p - 2) / (2 * eta * gap)
