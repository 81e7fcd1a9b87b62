r"""The clipped surrogate of proximal policy optimization, in exact expectation.

.. math:: L(\pi) = \sum_a\pi_k(a)\,\min\big\{\rho_aA_a,\ \mathrm{clip}(\rho_a,1-\epsilon,1+\epsilon)
          A_a\big\},\qquad \rho = \pi/\pi_k

with the advantage A of the reward that contains the penalty, ``r - beta log(pi_k / pi0)``.
What lives here: the surrogate, its maximizer nearest to the old policy, and gradient epochs on it.
What does not: mirror descent (``_descent``).
"""

from __future__ import annotations

import numpy as np

from .. import _validate as check

__all__ = ["clipped_surrogate", "clipped_update", "clipped_gradient_steps"]


def _normalized(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of finite logits; in loops of thousands of steps, logsumexp is slow."""
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def _inputs(log_policy, reward, beta, pi0, clip_epsilon):
    log_policy, reward = check.log_policy(log_policy), check.rewards(reward)
    pi0, beta = check.reference(pi0), check.positive(beta, "beta")
    clip = check.number(check.probability_level(clip_epsilon, "clip_epsilon"), "clip_epsilon")
    for name, array in (("reward", reward), ("pi0", pi0)):
        check.same_trailing("log_policy", log_policy, name, array, 2)
    log_pi0, beta = np.log(pi0), beta[..., None, None]
    g = reward - beta * (log_policy - log_pi0)
    # Mean differences, not the difference to the mean: the sign of the advantage of an action that
    # has nearly all the mass is decided by the others. Differences that are rounding count as 0.
    apart = g[..., :, None] - g[..., None, :]
    size = np.abs(reward) + beta * (np.abs(log_policy) + np.abs(log_pi0))
    apart = np.where(np.abs(apart) <= 1e-14 * size.max(axis=-1)[..., None, None], 0.0, apart)
    policy = np.exp(log_policy)
    terms = policy[..., None, :] * apart
    advantage = terms.sum(axis=-1)
    advantage = np.where(np.abs(advantage) <= 1e-14 * np.abs(terms).sum(axis=-1), 0.0, advantage)
    return *np.broadcast_arrays(policy, advantage), clip, apart


def clipped_surrogate(policy, log_policy, reward, beta, pi0, clip_epsilon):
    r"""The clipped surrogate :math:`L(\pi)` of each context, at the old policy ``log_policy``.

    Parameters
    ----------
    policy : array_like, shape (..., S, K)
        New policies; zeros are allowed.
    log_policy : array_like, shape (..., S, K)
        Log-probabilities of the old policy, finite.
    reward, beta, pi0
        The instance, as in ``gibbs_policy``.
    clip_epsilon : float
        Clip range in (0, 1).

    Returns
    -------
    ndarray, shape (..., S)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``clipped-leaves-region``.
    """
    old, advantage, clip, _ = _inputs(log_policy, reward, beta, pi0, clip_epsilon)
    policy = check.policy(policy)
    check.same_trailing("policy", policy, "log_policy", old, 2)
    kept = np.clip(policy, (1 - clip) * old, (1 + clip) * old)
    return np.minimum(policy * advantage, kept * advantage).sum(axis=-1)


def clipped_update(log_policy, reward, beta, pi0, clip_epsilon):
    r"""The maximizer of the clipped surrogate that is nearest to the old policy in KL.

    Every law with ratio at least :math:`1+\epsilon` on the actions of positive advantage and at most
    :math:`1-\epsilon` on those of negative advantage is a maximizer, if there is one.
    The nearest has ratio :math:`\max(\tau,1+\epsilon)`, :math:`\min(\tau,1-\epsilon)` and
    :math:`\tau` on the others.
    If there is none, the best actions are filled up to :math:`1+\epsilon` in order of advantage,
    and actions of equal advantage by the same ratio.

    Parameters
    ----------
    log_policy : array_like, shape (..., S, K)
        Log-probabilities of the old policy, finite.
    reward, beta, pi0
        The instance, as in ``gibbs_policy``.
    clip_epsilon : float
        Clip range in (0, 1).

    Returns
    -------
    ndarray, shape (..., S, K)
        New policies (probabilities: they may be 0).

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Results ``clipped-leaves-region`` and ``clipped-never-settles``.
    """
    old, advantage, clip, apart = _inputs(log_policy, reward, beta, pi0, clip_epsilon)
    up = np.where(advantage > 0, old, 0.0).sum(axis=-1, keepdims=True)
    down = np.where(advantage < 0, old, 0.0).sum(axis=-1, keepdims=True)
    flat = np.maximum(1 - up - down, 0.0)
    flat = np.where((advantage == 0).any(axis=-1, keepdims=True), flat, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = np.where(flat > 0, 1 - clip * (up - down) / flat, np.nan)
        low = (1 - (1 + clip) * up) / (flat + down)
        high = (1 - (1 - clip) * down) / (flat + up)
    inside = (middle >= 1 - clip) & (middle <= 1 + clip)
    tau = np.where(inside, middle, np.where(up > down, low, high))
    ratio = np.where(advantage > 0, np.maximum(tau, 1 + clip),
                     np.where(advantage < 0, np.minimum(tau, 1 - clip), tau))
    new = np.where((advantage == 0).all(axis=-1, keepdims=True), old, ratio * old)
    full = (1 + clip) * up > 1
    if full.any():
        room = np.where(advantage > 0, (1 + clip) * old, 0.0)[..., None, :]
        better = np.where(apart < 0, room, 0.0).sum(axis=-1)
        level = np.where(apart == 0, room, 0.0).sum(axis=-1)  # itself and its equals
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(level > 0, np.clip((1 - better) / level, 0.0, 1.0), 0.0)
        new = np.where(full, share * room[..., 0, :], new)
    new = np.maximum(new, 0.0)
    return new / new.sum(axis=-1, keepdims=True)


def clipped_gradient_steps(log_policy, reward, beta, pi0, clip_epsilon, eta, epochs: int):
    r"""Gradient epochs on the clipped surrogate in softmax logits, from the old policy.

    With one epoch every ratio is 1 and the clip is idle: the step is vanilla policy gradient.

    Parameters
    ----------
    log_policy : array_like, shape (..., S, K)
        Log-probabilities of the old policy, finite.
    reward, beta, pi0
        The instance, as in ``gibbs_policy``.
    clip_epsilon : float
        Clip range in (0, 1).
    eta : float
        Step size in the logits of each prompt, positive.
    epochs : int
        Number of gradient steps before the advantages are computed anew.

    Returns
    -------
    ndarray, shape (..., S, K)
        Log-probabilities of the new policy.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``clipped-first-epoch``.
    """
    old, advantage, clip, _ = _inputs(log_policy, reward, beta, pi0, clip_epsilon)
    eta = check.number(check.positive(eta, "eta"), "eta")
    now = np.broadcast_to(check.rewards(log_policy), old.shape)
    for _ in range(check.size(epochs, "epochs", 0)):
        policy = np.exp(now)
        idle = np.where(advantage > 0, policy > (1 + clip) * old, policy < (1 - clip) * old)
        slope = np.where(idle, 0.0, advantage)
        gradient = policy * (slope - (policy * slope).sum(axis=-1, keepdims=True))
        now = _normalized(now + eta * gradient)
    return now
