r"""Rewards paid token by token, and what length does to a penalty.

A *token reward* is an array ``(..., S, M, W + 1)``; what a response earns is the sum along its
path, its end included (a forced end earns nothing). A *potential* is a number for each open
prefix, 0 once a response has ended.

What lives here: the soft values of token rewards, shaping, log-ratios, length normalization.
What does not: rewards of whole responses (``_tree``).
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from .. import _validate as check
from ._tree import (
    SoftValues,
    _ends,
    _shape,
    _token_logs,
    _words,
    path_sums,
)

__all__ = ["total_reward", "shaped_reward", "token_soft_values", "token_log_ratio",
           "length_normalized_policy"]


def _token_reward(values, name: str = "token_reward") -> np.ndarray:
    return check.finite(values, name, ("prompt", "node", "token"))


def total_reward(token_reward) -> np.ndarray:
    r"""What each response earns: :math:`r(y) = \sum_tg(s_t, a_t)`.

    Parameters
    ----------
    token_reward : array_like, shape (..., S, M, W + 1)

    Returns
    -------
    ndarray, shape (..., S, K)

    Raises
    ------
    ValueError
        If the shape is not that of a tree.
    """
    token_reward = _token_reward(token_reward)
    total = path_sums(token_reward)
    total[..., : token_reward.shape[-2]] += token_reward[..., -1]
    return total


def shaped_reward(token_reward, potential) -> np.ndarray:
    r"""The shaped reward :math:`g(s,a) + \Phi(s') - \Phi(s)`.

    Parameters
    ----------
    token_reward : array_like, shape (..., S, M, W + 1)
    potential : array_like, shape (..., S, M)
        One number per open prefix; 0 where a response has ended.

    Returns
    -------
    ndarray, shape (..., S, M, W + 1)

    Raises
    ------
    ValueError
        If shapes do not match.

    Notes
    -----
    Result ``token-log-ratio``.
    """
    token_reward = _token_reward(token_reward)
    potential = check.finite(potential, "potential", ("prompt", "node"))
    check.same_trailing("potential", potential, "token_reward", token_reward[..., 0], 2)
    W, H, K = _shape(token_reward, "token_reward")
    M = K - W**H
    after = np.zeros((*potential.shape[:-1], K))
    after[..., :M] = potential
    step = np.zeros((*potential.shape, W + 1))
    step[..., :W] = _words(after, W, 0, M)
    return token_reward + step - potential[..., None]


def token_soft_values(token_reward, beta, log_tokens) -> SoftValues:
    r"""The soft Bellman recursion with rewards at every token.

    :math:`Q(s,a) = g(s,a) + V(s')`, :math:`V(s) = \beta\log\sum_a\pi_0(a|s)e^{Q(s,a)/\beta}`,
    and V = 0 once a response has ended.

    Parameters
    ----------
    token_reward : array_like, shape (..., S, M, W + 1)
    beta : array_like, shape (...)
    log_tokens : array_like, shape (..., S, M, W + 1)
        Log of the reference's token policy, full support.

    Returns
    -------
    SoftValues
        ``V`` is 0 at prefixes of H words.

    Raises
    ------
    ValueError
        If a hypothesis above is violated.

    Notes
    -----
    Result ``token-log-ratio``.
    """
    token_reward, log_tokens = _token_reward(token_reward), _token_logs(log_tokens, "log_tokens")
    beta = check.positive(beta, "beta")
    check.same_trailing("token_reward", token_reward, "log_tokens", log_tokens, 3)
    lead = check.broadcast("token_reward", token_reward.shape[:-3],
                           "log_tokens", log_tokens.shape[:-3])
    lead = check.broadcast("token_reward and log_tokens", lead, "beta", beta.shape)
    W, H, K = _shape(log_tokens, "log_tokens")
    b = beta[..., None, None]
    V = np.zeros((*lead, log_tokens.shape[-3], K))
    Q = np.array(np.broadcast_to(token_reward, (*lead, *log_tokens.shape[-3:])))
    tilted = np.empty_like(Q)
    for start, stop in _ends(H, W):
        Q[..., start:stop, :W] += _words(V, W, start, stop)
        level = Q[..., start:stop, :]
        top = level.max(axis=-1, keepdims=True)
        logits = log_tokens[..., start:stop, :] + (level - top) / b[..., None]
        total = logsumexp(logits, axis=-1, keepdims=True)
        tilted[..., start:stop, :] = logits - total
        V[..., start:stop] = top[..., 0] + b * total[..., 0]
    return SoftValues(V, Q, tilted)


def token_log_ratio(log_p, log_q, beta) -> np.ndarray:
    r"""The token rewards :math:`\beta\log\pi(a|s)/\pi_0(a|s)` that a policy implies.

    Parameters
    ----------
    log_p, log_q : array_like, shape (..., S, M, W + 1)
        Log token policies with full support.
    beta : array_like, shape (...)
        KL coefficients.

    Returns
    -------
    ndarray, shape (..., S, M, W + 1)
        Equal to ``Q - V`` of every reward whose Gibbs policy is ``p``.

    Raises
    ------
    ValueError
        If an argument is not a token policy, or shapes do not match.

    Notes
    -----
    Result ``token-log-ratio``.
    """
    log_p, log_q = _token_logs(log_p, "log_p"), _token_logs(log_q, "log_q")
    check.same_trailing("log_p", log_p, "log_q", log_q, 3)
    beta = check.positive(beta, "beta")
    lead = check.broadcast("log_p", log_p.shape[:-3], "log_q", log_q.shape[:-3])
    check.broadcast("log_p and log_q", lead, "beta", beta.shape)
    return beta[..., None, None, None] * (log_p - log_q)


def length_normalized_policy(reward, beta, pi0, length, offset: float = 0.0) -> np.ndarray:
    r"""The policy :math:`\pi_0(y)\,e^{|y|(r(y) - c)/\beta - s}`, with c such that it sums to one.

    With offset ``s = 0`` it is what length-normalized DPO finds from complete data; with ``s = 1``
    it maximizes the reward minus beta times the mean of ``log(pi/pi0) / |y|``.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    beta : array_like, shape (...)
        KL coefficients.
    pi0 : array_like, shape (..., S, K)
        Reference with full support.
    length : array_like, shape (K,)
        Positive lengths.
    offset : float
        ``s >= 0``.

    Returns
    -------
    ndarray, shape (..., S, K)

    Raises
    ------
    ValueError
        If a hypothesis above is violated.

    Notes
    -----
    Result ``length-normalization``.
    """
    reward, pi0 = check.rewards(reward), check.reference(pi0)
    beta, length = check.positive(beta, "beta"), check.positive(length, "length")
    offset = check.number(check.nonnegative(offset, "offset"), "offset")
    check.same_trailing("reward", reward, "pi0", pi0, 2)
    if length.shape != reward.shape[-1:]:
        raise ValueError(f"length must have shape {reward.shape[-1:]}: got {length.shape}")
    lead = check.broadcast("reward", reward.shape[:-2], "pi0", pi0.shape[:-2])
    check.broadcast("reward and pi0", lead, "beta", beta.shape)
    score = reward / beta[..., None, None] * length - offset
    base = np.log(pi0) + score

    def excess(c):
        return logsumexp(base - length * c[..., None], axis=-1)

    # The sum falls strictly in c: convex and decreasing, so Newton from the left is monotone.
    c = np.min((base - np.log(pi0)) / length, axis=-1)
    for _ in range(200):
        law = base - length * c[..., None]
        value = logsumexp(law, axis=-1)
        slope = (np.exp(law - value[..., None]) * length).sum(axis=-1)
        step = value / slope
        c = c + step
        if (np.abs(step) <= 1e-15 * (1 + np.abs(c))).all():
            break
    law = base - length * c[..., None]
    return np.exp(law - excess(c)[..., None])
