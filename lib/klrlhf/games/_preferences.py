r"""Preference matrices and payoffs.

A *preference matrix* is an array ``P`` of shape ``(..., S, K, K)`` with ``P[..., x, a, b]`` the
probability that ``a`` beats ``b`` at prompt ``x``, so ``P + P' = 1``.
A *payoff* is any matrix ``M`` with ``M + M'`` constant within each prompt: preference matrices, and
their log-odds.

What lives here: making and checking such matrices, and two numbers read off them.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from .. import _validate as check

__all__ = [
    "preference_matrix",
    "bradley_terry_preferences",
    "linear_preferences",
    "cyclic_preferences",
    "log_odds_payoff",
    "win_rates",
    "interaction",
    "rotation",
]

AXES = ("context", "action", "opponent")
TOLERANCE = 1e-9


def payoff_matrix(M, name: str = "P") -> tuple[np.ndarray, np.ndarray]:
    """A checked payoff and its antisymmetric part ``A = (M - M') / 2``."""
    M = check.finite(M, name, AXES)
    if M.shape[-1] != M.shape[-2]:
        raise ValueError(f"{name} must be square in its last two axes: got shape {M.shape}")
    total = M + np.swapaxes(M, -1, -2)
    scale = 1.0 + np.abs(M).max(axis=(-1, -2), keepdims=True)
    bad = np.abs(total - total[..., :1, :1]) > TOLERANCE * scale
    if bad.any():
        index = tuple(np.argwhere(bad)[0])
        where = check._where(index, AXES)
        raise ValueError(
            f"{name} must be constant-sum, {name}(a, b) + {name}(b, a) the same for all pairs: "
            f"{where} has sum {total[index]:.12g} where {total[index[:-2]][0, 0]:.12g} is wanted"
        )
    return M, (M - np.swapaxes(M, -1, -2)) / 2


def preference_matrix(P):
    r"""A checked preference matrix.

    Parameters
    ----------
    P : array_like, shape (..., S, K, K)
        Probabilities that the row beats the column, with ``P + P' = 1``.

    Returns
    -------
    ndarray, shape (..., S, K, K)
        ``P``, exactly symmetric about 1/2.

    Raises
    ------
    ValueError
        If an entry leaves [0, 1] or ``P(a, b) + P(b, a)`` is not 1.
    """
    P = check.finite(P, "P", AXES)
    bad = (P < 0) | (P > 1)
    if bad.any():
        index = tuple(np.argwhere(bad)[0])
        raise ValueError(f"P must lie in [0, 1]: {check._where(index, AXES)} has {P[index]}")
    P, A = payoff_matrix(P)
    half = np.einsum("...aa->...a", P)
    if np.any(np.abs(half - 0.5) > TOLERANCE):
        raise ValueError("P must satisfy P(a, b) + P(b, a) = 1: an action against itself has "
                         f"{float(half.flat[np.argmax(np.abs(half - 0.5))])!r}, not 1/2")
    return 0.5 + A


def bradley_terry_preferences(reward):
    r"""Bradley-Terry preferences :math:`P(a \succ b) = \sigma(r(a) - r(b))`.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.

    Returns
    -------
    ndarray, shape (..., S, K, K)

    Raises
    ------
    ValueError
        If a reward is not finite.
    """
    reward = check.rewards(reward)
    return expit(reward[..., :, None] - reward[..., None, :])


def linear_preferences(reward, c=1.0):
    r"""Linear preferences :math:`P(a \succ b) = \tfrac12 + (r(a) - r(b))/c`.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    c : array_like, shape (...)
        Scale, at least twice the range of the rewards.

    Returns
    -------
    ndarray, shape (..., S, K, K)

    Raises
    ------
    ValueError
        If a probability would leave [0, 1].

    Notes
    -----
    Result ``nash-is-gibbs``.
    """
    reward, c = check.rewards(reward), check.positive(c, "c")
    check.broadcast("reward", reward.shape[:-2], "c", c.shape)
    gap = (reward[..., :, None] - reward[..., None, :]) / c[..., None, None, None]
    if (np.abs(gap) > 0.5 + TOLERANCE).any():
        raise ValueError("c must be at least twice the range of the rewards: "
                         f"a gap is {np.abs(gap).max():.6g} times c, more than 1/2")
    return 0.5 + np.clip(gap, -0.5, 0.5)


def cyclic_preferences(K: int = 3, strength=1.0):
    r"""A Condorcet cycle of odd length: each action beats the :math:`(K-1)/2` before it.

    For ``K = 3`` this is rock, paper, scissors: paper beats rock, scissors beat paper, rock beats
    scissors, each with probability ``(1 + strength) / 2``.

    Parameters
    ----------
    K : int
        Odd number of actions, at least 3.
    strength : array_like, shape (...)
        In [0, 1]; 0 is a coin flip, 1 is certain.

    Returns
    -------
    ndarray, shape (..., 1, K, K)
        One prompt.

    Raises
    ------
    ValueError
        If ``K`` is even or below 3, or a strength leaves [0, 1].
    """
    K = check.size(K, "K", least=3)
    if K % 2 == 0:
        raise ValueError(f"K must be odd: got {K}")
    strength = check.nonnegative(strength, "strength")
    if (strength > 1).any():
        raise ValueError(f"strength must lie in [0, 1]: got {strength.max()}")
    ahead = (np.arange(K)[:, None] - np.arange(K)) % K
    sign = np.where(ahead == 0, 0.0, np.where(ahead <= K // 2, 1.0, -1.0))
    return 0.5 + 0.5 * strength[..., None, None, None] * sign


def log_odds_payoff(P):
    r"""The log-odds payoff :math:`\log\frac{P(a \succ b)}{P(b \succ a)}`.

    Parameters
    ----------
    P : array_like, shape (..., S, K, K)
        Preference matrix with entries strictly between 0 and 1.

    Returns
    -------
    ndarray, shape (..., S, K, K)
        An antisymmetric payoff; ``r(a) - r(b)`` for Bradley-Terry preferences.

    Raises
    ------
    ValueError
        If ``P`` is not a preference matrix or an entry is 0 or 1.

    Notes
    -----
    Result ``nash-is-gibbs``.
    """
    P = preference_matrix(P)
    bad = (P <= 0) | (P >= 1)
    if bad.any():
        index = tuple(np.argwhere(bad)[0])
        raise ValueError("P must lie strictly between 0 and 1 to have log-odds: "
                         f"{check._where(index, AXES)} has {P[index]}")
    odds = logit(P)
    return (odds - np.swapaxes(odds, -1, -2)) / 2


def win_rates(P, policy):
    r"""The payoff of each action against a policy, :math:`P(a \succ \pi)`.

    Parameters
    ----------
    P : array_like, shape (..., S, K, K)
        Preference matrix or payoff.
    policy : array_like, shape (..., S, K)
        Policies of the opponent.

    Returns
    -------
    ndarray, shape (..., S, K)

    Raises
    ------
    ValueError
        If ``P`` is not constant-sum, ``policy`` is not a policy, or shapes do not match.
    """
    (P, _), policy = payoff_matrix(P), check.policy(policy)
    same_game(P, policy, "policy")
    return np.einsum("...ab,...b->...a", P, policy)


def same_game(P: np.ndarray, policy: np.ndarray, name: str) -> None:
    """Contexts and actions agree and the leading axes broadcast."""
    if P.shape[-3:-1] != policy.shape[-2:]:
        raise ValueError(f"P and {name} must agree in contexts and actions: "
                         f"shapes {P.shape} and {policy.shape}")
    check.broadcast("P", P.shape[:-3], name, policy.shape[:-2])


def interaction(P):
    r"""The interaction :math:`\kappa = \tfrac14\max|M(a,c) - M(a,d) - M(b,c) + M(b,d)|`.

    It is the norm of the payoff as a bilinear form on differences of policies:
    :math:`|\langle M v, w\rangle| \le \kappa\|v\|_1\|w\|_1` when ``v`` and ``w`` sum to zero. It is
    0 exactly if :math:`M(a,b) = r(a) - r(b) + \text{const}`, and at most 1/2 for preferences.

    Parameters
    ----------
    P : array_like, shape (..., S, K, K)
        Preference matrix or payoff.

    Returns
    -------
    ndarray, shape (..., S)

    Raises
    ------
    ValueError
        If ``P`` is not constant-sum.

    Notes
    -----
    Result ``nash-self-play``.
    """
    _, A = payoff_matrix(P)
    best = np.zeros(A.shape[:-2])
    for a in range(A.shape[-1]):
        for b in range(a):
            row = A[..., a, :] - A[..., b, :]
            best = np.maximum(best, row.max(axis=-1) - row.min(axis=-1))
    return best / 4


def rotation(P, policy):
    r"""The rotation :math:`\omega`: largest singular value of :math:`D^{1/2} A D^{1/2}`.

    Here :math:`A` is the antisymmetric part of the payoff and
    :math:`D = \mathrm{diag}(\pi) - \pi\pi^\top`. Near a policy with full support the game turns
    differences of policies with this speed, at most :math:`\tfrac2\pi\max|A|`.

    Parameters
    ----------
    P : array_like, shape (..., S, K, K)
        Preference matrix or payoff.
    policy : array_like, shape (..., S, K)
        Policies, usually the Nash policy.

    Returns
    -------
    ndarray, shape (..., S)

    Raises
    ------
    ValueError
        If ``P`` is not constant-sum, ``policy`` is not a policy, or shapes do not match.

    Notes
    -----
    Result ``self-play-threshold``.
    """
    (P, A), policy = payoff_matrix(P), check.policy(policy)
    same_game(P, policy, "policy")
    # With q = sqrt(pi) and B = diag(q), D = B (I - q q') B; the form is (I - qq') BAB (I - qq').
    q = np.sqrt(policy)
    form = q[..., :, None] * A * q[..., None, :]
    image = np.einsum("...ab,...b->...a", form, q)
    form = form - image[..., :, None] * q[..., None, :] + q[..., :, None] * image[..., None, :]
    return np.linalg.norm(form, ord=2, axis=(-2, -1))
