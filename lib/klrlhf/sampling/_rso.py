r"""Statistical rejection sampling as published (arXiv 2309.06657): its program and its law."""

from __future__ import annotations

import numpy as np
from scipy.stats import binom

from .. import _validate as check
from ._estimated_maximum import _number_of_draws
from ._rejection import _acceptance, _draw, _one_instance

__all__ = ["rso_sample", "rso_policy", "rso_bound"]


def rso_sample(reward, beta, pi0, rng, n, size, runs=1, deduplicate=False):
    r"""Statistical rejection sampling as published: ``size`` of ``n`` draws, their own maximum.

    Passes over the draws not yet taken, in order: a draw is taken with probability
    :math:`e^{(r - M)/\beta}`, M the largest reward among the draws not yet taken when the pass
    began; until ``size`` draws are taken.

    Parameters
    ----------
    reward : array_like, shape (S, K)
        Finite rewards.
    beta : float
        KL coefficient, ``beta > 0``.
    pi0 : array_like, shape (S, K)
        Reference policy with full support.
    rng : numpy.random.Generator or int
        Source of randomness.
    n : int
        Draws from the reference.
    size : int
        How many of them are taken, at most ``n``.
    runs : int
        Independent runs per context.
    deduplicate : bool
        Whether equal draws count once, as in the published program.

    Returns
    -------
    ndarray, shape (S, runs, size)
        Actions in the order in which they were taken; -1 where fewer than ``size`` different
        actions were drawn.

    Raises
    ------
    ValueError
        If a hypothesis above is violated.
    """
    reward, beta, pi0 = _one_instance(reward, beta, pi0)
    rng, n = check.generator(rng), _number_of_draws(n)
    size, runs = check.size(size, "size", 1, n), check.size(runs, "runs")
    S, K = pi0.shape
    taken = np.full((S, runs, size), -1)
    for x in range(S):
        drawn = _draw(np.cumsum(pi0[x]), rng, (runs, n))
        left = np.ones(drawn.shape, dtype=bool)
        if deduplicate:
            seen = np.zeros((runs, K), dtype=bool)
            rows = np.arange(runs)
            for i in range(n):
                left[:, i] = ~seen[rows, drawn[:, i]]
                seen[rows, drawn[:, i]] = True
        score, count = reward[x][drawn] / beta, np.zeros(runs, dtype=int)
        busy = np.arange(runs)
        while busy.size:
            top = np.where(left[busy], score[busy], -np.inf).max(axis=1, keepdims=True)
            chance = np.exp(np.minimum(score[busy] - top, 0.0))
            kept = left[busy] & (rng.random(chance.shape) < chance)
            place = count[busy, None] + np.cumsum(kept, axis=1) - 1
            kept &= place < size
            row, column = np.nonzero(kept)
            taken[x, busy[row], place[row, column]] = drawn[busy[row], column]
            left[busy[row], column] = False
            count[busy] += kept.sum(axis=1)
            busy = busy[(count[busy] < size) & left[busy].any(axis=1)]
    return taken


def rso_policy(reward, beta, pi0, rng, n, size, runs=1000, deduplicate=False):
    r"""The law of a uniformly chosen member of a published-style sample, by simulation.

    Parameters
    ----------
    reward, beta, pi0, rng, n, size, runs, deduplicate
        As for :func:`rso_sample`.

    Returns
    -------
    policy, standard_error : ndarray, shape (S, K)
        Frequencies over runs and members, and their standard errors over runs.

    Raises
    ------
    ValueError
        If a hypothesis of :func:`rso_sample` is violated.
    """
    taken = rso_sample(reward, beta, pi0, rng, n, size, runs, deduplicate)
    K = np.shape(pi0)[-1]
    members = (taken >= 0).sum(axis=-1, keepdims=True)
    shares = np.stack([(taken == a).sum(axis=-1) for a in range(K)], axis=-1) / members
    return shares.mean(axis=1), shares.std(axis=1) / np.sqrt(taken.shape[1])


def rso_bound(p, n, size=1):
    r"""Bound of the total variation between a published-style sample and the Gibbs policy.

    .. math:: \frac1m\,E\big(m - \mathrm{Bin}(n, p)\big)_+, \qquad m = \text{size},

    for the law of a uniformly chosen one of the m; draws that are equal count separately.

    Parameters
    ----------
    p : float
        Acceptance probability, in (0, 1].
    n : int
        Draws from the reference, at least 1.
    size : int
        How many of them are taken, at most ``n`` and at most 1e6.

    Returns
    -------
    float
        At most 1. The total variation is at least this times the probability that the Gibbs
        policy gives to the best actions.

    Raises
    ------
    ValueError
        If a hypothesis above is violated.

    Notes
    -----
    Result ``rejection-published``. For given p, n and size no smaller bound holds.
    """
    p, n = check.number(_acceptance(p), "p"), _number_of_draws(n)
    size = check.size(size, "size", 1, min(n, 10**6))
    # E (m - X)_+ as a sum of tails: no cancellation.
    return float(min(binom.cdf(np.arange(size), n, p).mean(), 1.0))
