r"""Multi-step rejection sampling: a path of temperatures from the reference to the Gibbs policy.

A path is an array of inverse temperatures :math:`0 = \lambda_0 < \dots < \lambda_N = 1/\beta`.
Level i proposes from the policy at :math:`\lambda_{i-1}` and accepts with probability
:math:`e^{(\lambda_i - \lambda_{i-1})(r - \max r)}`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from .. import _validate as check
from ._rejection import MOST_DRAWS, _acceptance, _draw, _one_instance

__all__ = [
    "MultistepSample",
    "level_acceptances",
    "multistep_path",
    "sampled_path",
    "multistep_cost",
    "optimal_levels",
    "multistep_rejection_sample",
    "amplified_error",
]


MOST_HALVINGS = 500  # from 1e50 down to 1e-50 and on to the last digit


class MultistepSample(NamedTuple):
    """Actions (S, size), draws per level (N, S), and the proposal of each level (N + 1, S, K)."""

    actions: np.ndarray
    draws: np.ndarray
    policies: np.ndarray


def _log_acceptance(below, log_pi0, inverse):
    """log E_pi0 e^{lambda (r - max r)} for lambda (..., S), below = r - max r (..., S, K)."""
    return np.minimum(logsumexp(log_pi0 + inverse[..., None] * below, axis=-1), 0.0)


def _below(reward, pi0):
    reward, pi0 = check.rewards(reward), check.reference(pi0)
    check.same_trailing("reward", reward, "pi0", pi0, 2)
    return reward - reward.max(axis=-1, keepdims=True), np.log(pi0)


def _path(path) -> np.ndarray:
    path = check.nonnegative(path, "path")
    if path.ndim < 1 or path.shape[-1] < 2:
        raise ValueError(f"path must have at least two inverse temperatures: got {path.shape}")
    if (path[..., 0] != 0).any():
        raise ValueError(f"path must start at inverse temperature 0: got {path[..., 0]}")
    if (np.diff(path, axis=-1) < 0).any():
        raise ValueError("path must not decrease")
    return path


def level_acceptances(reward, pi0, path):
    r"""Acceptance probability of every level of a path, per context.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    path : array_like, shape (N + 1,) or (..., S, N + 1)
        Inverse temperatures, from 0 upwards; one common path, or one per context.

    Returns
    -------
    ndarray, shape (..., S, N)
        :math:`p_i(x) = E_{\pi_{\lambda_{i-1}}} e^{(\lambda_i - \lambda_{i-1})(r - \max r)}`; their
        product is the acceptance probability of a single step.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``multistep-product``.
    """
    below, log_pi0 = _below(reward, pi0)
    path = np.moveaxis(_path(path), -1, 0)
    if path.ndim == 1:
        path = path[:, None]
    logs = np.stack([_log_acceptance(below, log_pi0, inverse) for inverse in path], axis=-1)
    return np.exp(np.minimum(np.diff(logs, axis=-1), 0.0))


def multistep_path(reward, beta, pi0, N, d0=None):
    r"""The path on which all ``N`` levels accept equally often.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    N : int
        Number of levels, at least 1.
    d0 : array_like, shape (..., S), optional
        With prompt probabilities: one common path, on which the prompts' mean log-acceptances
        are equal. Without: one path per context.

    Returns
    -------
    ndarray, shape (..., S, N + 1), or (..., N + 1) with ``d0``
        Inverse temperatures. Where the reward does not depend on the action they are evenly
        spaced.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``multistep-cost``: the equal-acceptance path is the cheapest with ``N`` levels.
    """
    below, log_pi0 = _below(reward, pi0)
    beta, N = check.positive(beta, "beta"), check.size(N, "N", 1, 10_000)
    check.broadcast("reward", below.shape[:-2], "beta", beta.shape)
    end = np.broadcast_to(1 / beta[..., None], np.broadcast_shapes(
        below.shape[:-1], log_pi0.shape[:-1], (*beta.shape, 1)))
    weights = None if d0 is None else check.prompts(d0)

    def level(inverse):
        log = _log_acceptance(below, log_pi0, inverse)
        return log if weights is None else (weights * log).sum(axis=-1, keepdims=True)

    total, shape = level(end), end.shape if weights is None else (*end.shape[:-1], 1)
    path = [np.zeros(shape)]
    for i in range(1, N):
        # log P falls and is convex, so bisection is safe. It halves until no number lies between:
        # with huge rewards the root can be many orders of magnitude below 1 / beta.
        low, high = path[-1], np.broadcast_to(end[..., :1] if weights is not None else end, shape)
        for _ in range(MOST_HALVINGS):
            middle = (low + high) / 2
            if ((middle <= low) | (middle >= high)).all():
                break
            spread = np.broadcast_to(middle, end.shape)
            late = level(spread) > total * i / N
            low, high = np.where(late, middle, low), np.where(late, high, middle)
        even = np.broadcast_to(end[..., :shape[-1]], shape) * i / N
        path.append(np.where(total < 0, (low + high) / 2, even))
    path.append(np.broadcast_to(end[..., :shape[-1]], shape))
    path = np.stack(path, axis=-1)
    return path if weights is None else path[..., 0, :]


def sampled_path(reward, beta, pi0, rng, draws, target=1 / np.e, most=1000):
    r"""A path built from samples: raise lambda until the mean weight of the draws hits a target.

    At each level ``draws`` actions of the current policy are scored, and the next lambda is the
    largest one up to :math:`1/\beta` at which their mean of
    :math:`e^{(\lambda - \lambda_{i-1})(r - \max r)}` is at least ``target``. The largest reward
    is known; the policies of the levels are exact.

    Parameters
    ----------
    reward : array_like, shape (K,)
        Finite rewards of one context.
    beta : float
        KL coefficient, ``beta > 0``.
    pi0 : array_like, shape (K,)
        Reference law with full support.
    rng : numpy.random.Generator or int
        Source of randomness.
    draws : int
        Draws per level.
    target : float
        Acceptance aimed at, in (0, 1).
    most : int
        Most levels allowed.

    Returns
    -------
    ndarray, shape (N + 1,)
        Inverse temperatures.

    Raises
    ------
    ValueError
        If a hypothesis is violated, or the path needs more than ``most`` levels.

    Notes
    -----
    Result ``multistep-sampled-path``.
    """
    below, log_pi0 = _below(np.asarray(reward)[None], np.asarray(pi0)[None])
    below, log_pi0 = below[0], log_pi0[0]
    end = 1 / check.number(check.positive(beta, "beta"), "beta")
    rng, draws = check.generator(rng), check.size(draws, "draws")
    target = check.number(check.probability_level(target, "target"), "target")
    most = check.size(most, "most")
    path = [0.0]
    while path[-1] < end:
        if len(path) > most:
            raise ValueError(f"the path needs more than {most} levels")
        logits = log_pi0 + path[-1] * below
        law = np.exp(logits - logits.max())
        score = below[_draw(np.cumsum(law), rng, draws)]
        values, counts = np.unique(score, return_counts=True)

        def mean(step, values=values, counts=counts):
            return (counts * np.exp(step * values)).sum() / draws

        low, high = 0.0, end - path[-1]
        if mean(high) >= target:
            path.append(end)
            break
        for _ in range(MOST_HALVINGS):
            middle = (low + high) / 2
            if not low < middle < high:
                break
            low, high = (middle, high) if mean(middle) >= target else (low, middle)
        path.append(path[-1] + low)
    return np.array(path)


def multistep_cost(p, N):
    r"""Draws per accepted action over all levels of the best path, :math:`N p^{-1/N}`.

    Parameters
    ----------
    p : array_like, shape (...)
        Acceptance probabilities of a single step, in (0, 1].
    N : array_like, shape (...)
        Numbers of levels, at least 1.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a hypothesis above is violated.

    Notes
    -----
    Result ``multistep-cost``.
    """
    p, N = _acceptance(p), check.positive(N, "N")
    if (N < 1).any() or (N != np.floor(N)).any():
        raise ValueError(f"N must hold whole numbers from 1 on: got {N}")
    return N * np.exp(-np.log(p) / N)


def optimal_levels(p):
    r"""The cheapest number of levels: the least N with :math:`N(N+1)\log(1+1/N) \ge \log(1/p)`.

    Parameters
    ----------
    p : array_like, shape (...)
        Acceptance probabilities of a single step, in (0, 1].

    Returns
    -------
    ndarray of int, shape (...)

    Raises
    ------
    ValueError
        If ``p`` leaves (0, 1].

    Notes
    -----
    Result ``multistep-cost``.
    """
    need = -np.log(_acceptance(p))
    # The left side lies between N + 1/3 and N + 1/2: the answer is near need - 1/2.
    N = np.maximum(np.ceil(need - 0.5), 1.0)
    for _ in range(3):
        enough = N * (N + 1) * np.log1p(1 / N) >= need
        N = np.where(enough, N, N + 1)
    fewer = np.maximum(N - 1, 1)
    less = (fewer < N) & (fewer * (fewer + 1) * np.log1p(1 / fewer) >= need)
    return np.where(less, fewer, N).astype(int)[()]


def multistep_rejection_sample(reward, pi0, path, rng, size, fit=None):
    r"""Walk along a path: propose from the last fitted policy, accept, fit the next one.

    Parameters
    ----------
    reward : array_like, shape (S, K)
        Finite rewards.
    pi0 : array_like, shape (S, K)
        Reference policy with full support.
    path : array_like, shape (N + 1,) or (S, N + 1)
        Inverse temperatures from 0 on.
    rng : numpy.random.Generator or int
        Source of randomness.
    size : int
        Accepted actions per context and level.
    fit : callable, optional
        ``fit(actions, level)`` maps accepted actions (S, size) and the inverse temperatures (S,)
        to a policy (S, K), the proposal of the next level. By default the exact policy of the
        level, as if fitting were perfect.

    Returns
    -------
    MultistepSample
        ``actions`` of the last level, ``draws`` spent per level and context, and ``policies``.

    Raises
    ------
    ValueError
        If a hypothesis above is violated, or more than 1e9 draws are expected.

    Notes
    -----
    Results ``multistep-product`` and ``multistep-errors``.
    """
    reward, _, pi0 = _one_instance(reward, 1.0, pi0)
    rng, size = check.generator(rng), check.size(size, "size")
    path = np.broadcast_to(_path(path), (len(pi0), np.shape(path)[-1]))
    below, log_pi0 = _below(reward, pi0)
    policies, draws, actions = [pi0], [], None
    for i in range(1, path.shape[1]):
        weight = np.exp((path[:, i] - path[:, i - 1])[:, None] * below)
        accept = (policies[-1] * weight).sum(axis=-1)
        if not np.all(accept * MOST_DRAWS > size):
            raise ValueError(f"level {i} accepts too rarely: {accept.min():.1e}")
        actions, spent = _accepted(policies[-1], weight, accept, rng, size)
        draws.append(spent)
        if fit is None:
            logits = log_pi0 + path[:, i, None] * below
            policy = np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))
        else:
            policy = check.policy(fit(actions, path[:, i]), "the fitted policy")
            if policy.shape != pi0.shape:
                raise ValueError(f"the fitted policy must have shape {pi0.shape}: "
                                 f"got {policy.shape}")
        policies.append(policy)
    return MultistepSample(actions, np.array(draws), np.array(policies))


def _accepted(policy, weight, accept, rng, size):
    """``size`` accepted actions per context, and the number of draws they took."""
    # The draws between acceptances are geometric, and independent of what is accepted.
    kept = policy * weight
    actions = np.stack([_draw(np.cumsum(law), rng, size) for law in kept])
    return actions, rng.geometric(np.minimum(accept, 1.0)[:, None], (len(policy), size)).sum(axis=1)


def amplified_error(errors, acceptances):
    r"""The bound of the final total variation from the fit errors of the levels.

    .. math:: \sum_{i=1}^N \varepsilon_i \prod_{j>i} \frac1{p_j}

    Parameters
    ----------
    errors : array_like, shape (..., N)
        Total variation of each fitted policy from the law of the actions it was fitted to.
    acceptances : array_like, shape (..., N)
        Acceptance probability of each level, in (0, 1].

    Returns
    -------
    ndarray, shape (...)
        ``inf`` where the bound overflows.

    Raises
    ------
    ValueError
        If a hypothesis above is violated.

    Notes
    -----
    Result ``multistep-errors``. The bound is attained.
    """
    errors, p = check.nonnegative(errors, "errors"), _acceptance(acceptances, "acceptances")
    check.same_trailing("errors", errors, "acceptances", p, 1)
    later = np.cumsum(np.log(p)[..., ::-1], axis=-1)[..., ::-1] - np.log(p)
    with np.errstate(over="ignore"):
        growth = np.exp(-np.where(errors > 0, later, 0.0))  # no error stays none: not 0 * inf
        return (errors * growth).sum(axis=-1)
