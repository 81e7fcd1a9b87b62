r"""The tree of all prefixes, and the token problem on it.

A vocabulary of W words and a horizon H give ``K = 1 + W + ... + W^H`` prefixes. Each prefix is a
node and, with the end token behind it, a response: nodes and responses have the same index. Nodes
are numbered level by level: the root is 0, word w after node i leads to node ``W i + 1 + w``. The
first ``M = 1 + W + ... + W^(H-1)`` nodes are *open*: a word or the end may follow. The others have
H words, and their end is forced.
A *token policy* is an array ``(..., S, M, W + 1)``: at each open node, W words and then the end.

What lives here: token policies and response policies, soft values, the chain rule.
What does not: rewards paid token by token (``_rewards``), models fitted to a text (``_model``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from .. import _validate as check
from ..numerics import _bregman_kl_terms

__all__ = [
    "SoftValues",
    "tree_sizes",
    "parents",
    "depths",
    "tokens_spent",
    "log_reach",
    "sequence_log_policy",
    "sequence_policy",
    "token_log_policy",
    "soft_values",
    "token_gibbs",
    "token_kl",
    "path_sums",
]

MOST_NODES = 10**6


def tree_sizes(W: int, H: int) -> tuple[int, int]:
    """Numbers of responses K and of open nodes M of the tree of W words and horizon H.

    Parameters
    ----------
    W, H : int
        Words and largest number of words in a response, at least 1.

    Returns
    -------
    tuple of int
        ``(K, M)``.

    Raises
    ------
    ValueError
        If a number is below 1 or the tree has more than a million nodes.
    """
    W, H = check.size(W, "W"), check.size(H, "H")
    M = 0
    for level in range(H + 1):
        K = M + W**level
        if K > MOST_NODES:
            raise ValueError(f"the tree must have at most {MOST_NODES} nodes: W = {W}, H = {H}")
        if level < H:
            M = K
    return K, M


def parents(W: int, H: int) -> np.ndarray:
    """The node before each node, shape (K,); the root has -1."""
    K, _ = tree_sizes(W, H)
    return np.where(np.arange(K) > 0, (np.arange(K) - 1) // W, -1)


def depths(W: int, H: int) -> np.ndarray:
    """Number of words of each prefix, shape (K,)."""
    W, H = check.size(W, "W"), check.size(H, "H")
    return np.repeat(np.arange(H + 1), _levels(W, H))


def tokens_spent(W: int, H: int) -> np.ndarray:
    """Number of free choices behind each response, shape (K,): its words and, if free, its end."""
    depth = depths(W, H)
    return depth + (depth < check.size(H, "H"))


def _levels(W: int, H: int) -> np.ndarray:
    tree_sizes(W, H)
    return np.array([W**level for level in range(H + 1)])


def _shape(log_tokens: np.ndarray, name: str) -> tuple[int, int, int]:
    """W, H and K of an array with open nodes and tokens as its last axes."""
    M, W = log_tokens.shape[-2], log_tokens.shape[-1] - 1
    H, nodes = 0, 0
    while W >= 1 and nodes < M:
        nodes += W**H
        H += 1
    if W < 1 or nodes != M:
        raise ValueError(
            f"{name} must have 1 + W + ... + W^(H-1) open nodes and W + 1 tokens: "
            f"got shape {log_tokens.shape}"
        )
    return W, H, M + W**H


def _token_logs(log_tokens, name: str, *, full: bool = True) -> np.ndarray:
    """Validated log token policies ``(..., S, M, W + 1)``."""
    array = check.as_float(log_tokens, name)
    if array.ndim < 3 or 0 in array.shape:
        raise ValueError(f"{name} must have axes (prompt, open node, token): got {array.shape}")
    _shape(array, name)
    if np.isnan(array).any() or (array > check.POLICY_TOLERANCE).any():
        raise ValueError(f"{name} must hold logarithms of probabilities: no NaN, none above 0")
    if full and np.isinf(array).any():
        at = tuple(int(i) for i in np.argwhere(np.isinf(array))[0][-3:])
        raise ValueError(
            f"{name} must have full support: prompt {at[0]}, node {at[1]}, token {at[2]} has 0"
        )
    total = logsumexp(array, axis=-1)
    if (np.abs(total) > check.POLICY_TOLERANCE).any():
        at = tuple(int(i) for i in np.argwhere(np.abs(total) > check.POLICY_TOLERANCE)[0][-2:])
        raise ValueError(f"{name} must be normalized: prompt {at[0]}, node {at[1]} is not")
    return array


def _words(values: np.ndarray, W: int, start: int, stop: int) -> np.ndarray:
    """Values of the children of nodes start..stop, with a last axis of W words."""
    children = values[..., W * start + 1: W * stop + 1]
    return children.reshape(*children.shape[:-1], stop - start, W)


def _ends(H: int, W: int):
    """The open levels as ranges of nodes, last level first."""
    stops = np.concatenate([[0], np.cumsum([W**level for level in range(H)])])
    return list(zip(stops[:-1], stops[1:], strict=True))[::-1]


def path_sums(values) -> np.ndarray:
    r"""Sums of per-token values along the path to each node, end tokens excluded.

    Parameters
    ----------
    values : array_like, shape (..., M, W + 1)
        A number for every token at every open node; the column of the end is not read.

    Returns
    -------
    ndarray, shape (..., K)

    Raises
    ------
    ValueError
        If the shape is not that of a tree, or a value is NaN.
    """
    values = check.as_float(values, "values")
    if values.ndim < 2:
        raise ValueError(f"values must have axes (open node, token): got shape {values.shape}")
    if np.isnan(values).any():
        raise ValueError("values must not be NaN")
    W, H, K = _shape(values, "values")
    sums = np.zeros((*values.shape[:-2], K))
    for start, stop in reversed(_ends(H, W)):
        below = sums[..., start:stop, None] + values[..., start:stop, :W]
        sums[..., W * start + 1: W * stop + 1] = below.reshape(*below.shape[:-2], -1)
    return sums


def log_reach(log_tokens) -> np.ndarray:
    r"""Log-probability that a token policy passes through each prefix.

    Parameters
    ----------
    log_tokens : array_like, shape (..., S, M, W + 1)
        Log token policies; ``-inf`` stands for 0.

    Returns
    -------
    ndarray, shape (..., S, K)

    Raises
    ------
    ValueError
        If the array is not a token policy.
    """
    return path_sums(_token_logs(log_tokens, "log_tokens", full=False))


def sequence_log_policy(log_tokens) -> np.ndarray:
    r"""Log-probabilities of whole responses, :math:`\sum_t\log\pi(a_t|s_t)`.

    Parameters
    ----------
    log_tokens : array_like, shape (..., S, M, W + 1)
        Log token policies; ``-inf`` stands for 0.

    Returns
    -------
    ndarray, shape (..., S, K)
        The law of the response: sums to one because responses end after at most H words.

    Raises
    ------
    ValueError
        If the array is not a token policy.
    """
    log_tokens = _token_logs(log_tokens, "log_tokens", full=False)
    whole = path_sums(log_tokens)
    whole[..., : log_tokens.shape[-2]] += log_tokens[..., -1]
    return whole


def sequence_policy(log_tokens) -> np.ndarray:
    """Probabilities of whole responses, an ordinary policy ``(..., S, K)``.

    Parameters
    ----------
    log_tokens : array_like, shape (..., S, M, W + 1)
        Log token policies.

    Returns
    -------
    ndarray, shape (..., S, K)

    Raises
    ------
    ValueError
        If the array is not a token policy.
    """
    policy = np.exp(sequence_log_policy(log_tokens))
    return policy / policy.sum(axis=-1, keepdims=True)


def token_log_policy(log_policy, W: int) -> np.ndarray:
    r"""The token policy of a law of responses: its conditional probabilities.

    The inverse of ``sequence_log_policy``: every law of responses with full support is
    autoregressive, and in one way only.

    Parameters
    ----------
    log_policy : array_like, shape (..., S, K)
        Log-probabilities of responses, all finite.
    W : int
        Number of words.

    Returns
    -------
    ndarray, shape (..., S, M, W + 1)

    Raises
    ------
    ValueError
        If K is not the number of nodes of a tree of W words, or the law has not full support.
    """
    log_policy = check.finite(log_policy, "log_policy", ("context", "response"))
    if (np.abs(logsumexp(log_policy, axis=-1)) > check.POLICY_TOLERANCE).any():
        raise ValueError("log_policy must be normalized in each context")
    return _conditionals(log_policy, W)


def _horizon(K: int, W: int) -> int:
    W, H = check.size(W, "W"), 1
    while tree_sizes(W, H)[0] < K:
        H += 1
    if tree_sizes(W, H)[0] != K:
        raise ValueError(f"K must be 1 + W + ... + W^H for some H >= 1: got K = {K}, W = {W}")
    return H


def _conditionals(log_mass: np.ndarray, W: int) -> np.ndarray:
    H = _horizon(log_mass.shape[-1], W)
    below = np.array(log_mass)
    for start, stop in _ends(H, W):
        both = np.concatenate(
            [_words(below, W, start, stop), log_mass[..., start:stop, None]], axis=-1)
        below[..., start:stop] = logsumexp(both, axis=-1)
    M = tree_sizes(W, H)[1]
    both = np.concatenate([_words(below, W, 0, M), log_mass[..., :M, None]], axis=-1)
    return both - logsumexp(both, axis=-1, keepdims=True)


@dataclass(frozen=True, eq=False)
class SoftValues:
    r"""Soft values of the token problem.

    Attributes
    ----------
    V : ndarray, shape (..., S, K)
        Soft value of each prefix; at a prefix of H words the reward of its response.
    Q : ndarray, shape (..., S, M, W + 1)
        Value of each token at each open prefix: that of the prefix it leads to, or the reward.
    log_tokens : ndarray, shape (..., S, M, W + 1)
        The soft-optimal token policy :math:`\log\pi_0 + (Q - V)/\beta`.
    """

    V: np.ndarray
    Q: np.ndarray
    log_tokens: np.ndarray


def soft_values(reward, beta, log_tokens) -> SoftValues:
    r"""The soft Bellman recursion :math:`V(s) = \beta\log\sum_a\pi_0(a|s)e^{Q(s,a)/\beta}`.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Reward of each response.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    log_tokens : array_like, shape (..., S, M, W + 1)
        Log of the reference's token policy, full support.

    Returns
    -------
    SoftValues

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``soft-bellman``.
    """
    reward, log_tokens = check.rewards(reward), _token_logs(log_tokens, "log_tokens")
    beta = check.positive(beta, "beta")
    W, H, K = _shape(log_tokens, "log_tokens")
    if reward.shape[-1] != K or reward.shape[-2] != log_tokens.shape[-3]:
        raise ValueError(
            f"reward must have one entry per prompt and response: got {reward.shape}, the tree "
            f"has {log_tokens.shape[-3]} prompts and {K} responses"
        )
    lead = check.broadcast("reward", reward.shape[:-2], "log_tokens", log_tokens.shape[:-3])
    lead = check.broadcast("reward and log_tokens", lead, "beta", beta.shape)
    V = np.array(np.broadcast_to(reward, (*lead, *reward.shape[-2:])))
    b = beta[..., None, None]
    M = log_tokens.shape[-2]
    Q = np.empty((*lead, log_tokens.shape[-3], M, W + 1))
    tilted = np.empty_like(Q)
    for start, stop in _ends(H, W):
        Q[..., start:stop, :W] = _words(V, W, start, stop)
        Q[..., start:stop, W] = V[..., start:stop]
        level = Q[..., start:stop, :]
        # Subtract before dividing, as the Gibbs policy does.
        top = level.max(axis=-1, keepdims=True)
        logits = log_tokens[..., start:stop, :] + (level - top) / b[..., None]
        total = logsumexp(logits, axis=-1, keepdims=True)
        tilted[..., start:stop, :] = logits - total
        V[..., start:stop] = top[..., 0] + b * total[..., 0]
    return SoftValues(V, Q, tilted)


def token_gibbs(reward, beta, log_tokens) -> np.ndarray:
    r"""The soft-optimal token policy, whose law of responses is the Gibbs policy.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
    beta : array_like, shape (...)
    log_tokens : array_like, shape (..., S, M, W + 1)
        As in ``soft_values``.

    Returns
    -------
    ndarray, shape (..., S, M, W + 1)
        Log token policy.

    Raises
    ------
    ValueError
        If a hypothesis is violated.

    Notes
    -----
    Result ``soft-bellman``.
    """
    return soft_values(reward, beta, log_tokens).log_tokens


def token_kl(log_p, log_q) -> np.ndarray:
    r"""Divergence of two token policies at each open prefix, and weighted it adds up.

    Parameters
    ----------
    log_p, log_q : array_like, shape (..., S, M, W + 1)
        Log token policies, ``log_q`` with full support.

    Returns
    -------
    ndarray, shape (..., S, M)
        ``KL(p(.|s) || q(.|s))``; its sum with weights ``exp(log_reach(log_p))`` is the divergence
        of the laws of responses.

    Raises
    ------
    ValueError
        If an argument is not a token policy or shapes do not match.

    Notes
    -----
    Result ``kl-chain-rule``.
    """
    log_p = _token_logs(log_p, "log_p", full=False)
    log_q = _token_logs(log_q, "log_q")
    check.same_trailing("log_p", log_p, "log_q", log_q, 3)
    return _bregman_kl_terms(log_p, log_q).sum(axis=-1)
