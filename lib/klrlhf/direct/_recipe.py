r"""The released recipe of iterative DPO, step by step as its authors' scripts run it.

Each iteration draws several answers per prompt from the current policy, scores them with a proxy
reward, keeps the best and the worst as a pair whose outcome is certain, and fits DPO. Every
departure from the theorem is an argument.

What lives here: the recipe and its history.
What does not: the loop that the theorem is about (``_iterative``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import _validate as check
from ..bandit import Bandit
from ..estimation import fit_mle
from ..policies import kl_divergence_from_logs, log_gibbs_policy
from ..preferences import Comparisons, _bandit, _replicate_shape
from ..values import _average

__all__ = ["RecipeHistory", "released_recipe", "best_and_worst"]

SHARES = 10_000.0
LABELS, REFERENCES, MEMORIES = ("proxy", "people"), ("fixed", "previous"), ("last", "all")


@dataclass(frozen=True, eq=False)
class RecipeHistory:
    """What ``released_recipe`` did; the first axis is the policy before each iteration and after.

    Attributes
    ----------
    theta : ndarray, shape (T + 1, ..., d)
        Parameter fitted in each iteration, relative to its reference; 0 at the start.
    log_policy : ndarray, shape (T + 1, ..., S, K)
        Log-policies.
    gap, reward, kl : ndarray, shape (T + 1, ...)
        True gap, expected true reward, divergence from the original reference.
    data : Comparisons
        The comparisons of the last fit, before smoothing.
    """

    theta: np.ndarray
    log_policy: np.ndarray
    gap: np.ndarray
    reward: np.ndarray
    kl: np.ndarray
    data: Comparisons


def best_and_worst(policy, score, d0, draws: int, batch: int, rng):
    """Counts of ordered pairs (best, worst) of ``draws`` answers, for ``batch`` prompts.

    Parameters
    ----------
    policy, score : array_like, shape (..., S, K)
        Policies to draw from, and scores that judge.
    d0 : array_like, shape (S,)
        Prompt distribution.
    draws, batch : int
        Answers per prompt, at least 2, and prompts.
    rng : numpy.random.Generator or int
        Source of randomness.

    Returns
    -------
    ndarray, shape (..., S, K, K)
        How often the best was a and the worst a'; equal scores are dropped.

    Raises
    ------
    ValueError
        If an argument leaves its range.
    """
    rng, policy = check.generator(rng), check.policy(policy)
    score, d0 = check.rewards(score, "score"), check.prompts(d0)
    draws, batch = check.size(draws, "draws", least=2), check.size(batch, "batch")
    check.same_trailing("policy", policy, "score", score, 2)
    if d0.shape[-1] != policy.shape[-2]:
        raise ValueError(f"d0 must have one entry per context: {d0.shape[-1]} entries, "
                         f"{policy.shape[-2]} contexts")
    lead, (S, K) = policy.shape[:-2], policy.shape[-2:]
    policy = policy.reshape(-1, S, K)
    score = np.broadcast_to(score, (*lead, S, K)).reshape(-1, S, K)
    R = len(policy)
    row = np.arange(R)[:, None]
    x = np.minimum(np.searchsorted(np.cumsum(d0), rng.random((R, batch))), S - 1)
    ladder = np.cumsum(policy, axis=-1)[row, x]
    actions = (rng.random((R, batch, draws, 1)) * ladder[:, :, None, -1:]
               > ladder[:, :, None, :]).sum(axis=-1)
    actions = np.minimum(actions, K - 1)
    scores = score[row[..., None], x[..., None], actions]
    best, worst = (np.take_along_axis(actions, pick(axis=-1)[..., None], axis=-1)[..., 0]
                   for pick in (scores.argmax, scores.argmin))
    told = scores.max(axis=-1) > scores.min(axis=-1)
    counts = np.zeros((R, S, K, K))
    np.add.at(counts, (np.broadcast_to(row, x.shape)[told], x[told], best[told], worst[told]), 1.0)
    return counts.reshape(*lead, S, K, K)


def released_recipe(bandit: Bandit, iterations: int, batch: int, rng, *, draws: int = 8,
                    proxy=None, labels: str = "proxy", reference: str = "fixed",
                    memory: str = "last", smoothing: float = 0.0,
                    replicates=None) -> RecipeHistory:
    r"""The released recipe in the Gibbs class, each departure from the theorem switchable.

    Parameters
    ----------
    bandit : Bandit
        The instance.
    iterations, batch : int
        Iterations, and prompts in each, at least 1.
    rng : numpy.random.Generator or int
        Source of randomness.
    draws : int
        Answers per prompt, at least 2.
    proxy : array_like, shape (S, K), optional
        Scores that choose the pair; default the true reward.
    labels : {"proxy", "people"}
        The better score wins for certain, or a Bradley-Terry comparison by the true reward.
    reference : {"fixed", "previous"}
        Reference of the loss: always ``pi0``, or the policy of the iteration before.
    memory : {"last", "all"}
        Fit the pairs of this iteration, or all pairs so far (fixed reference only).
    smoothing : float
        Label smoothing in [0, 1/2): the fit counts each label as wrong with this weight.
    replicates : int or tuple of int, optional
        Leading axes of independent runs.

    Returns
    -------
    RecipeHistory

    Raises
    ------
    ValueError
        If an argument leaves its range, or all pairs are to be fitted to a moving reference.

    Notes
    -----
    Results ``dpo-moving-reference`` and ``hard-labels``.
    """
    rng, _ = check.generator(rng), _bandit(bandit)
    iterations = check.size(iterations, "iterations")
    for name, value, allowed in (("labels", labels, LABELS), ("memory", memory, MEMORIES),
                                 ("reference", reference, REFERENCES)):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}: got {value!r}")
    if memory == "all" and reference == "previous":
        raise ValueError("memory must be 'last' where the reference moves: old margins are "
                         "relative to old references")
    smoothing = check.number(check.nonnegative(smoothing, "smoothing"), "smoothing")
    if smoothing >= 0.5:
        raise ValueError(f"smoothing must be below 1/2: got {smoothing}")
    score = bandit.reward if proxy is None else check.rewards(proxy, "proxy")
    data = Comparisons.empty(bandit, _replicate_shape(replicates) or ())
    lead, (x, a, b) = data.counts.shape[:-1], data.pairs.T
    theta, start = np.zeros((*lead, bandit.d)), np.log(bandit.pi0)
    log_policy = np.broadcast_to(start, (*lead, bandit.S, bandit.K))
    thetas, policies = [theta], [log_policy]
    u = data.z @ bandit.theta
    for _ in range(iterations):
        policy = np.exp(log_policy)
        kept = best_and_worst(policy / policy.sum(-1, keepdims=True), score, bandit.d0, draws,
                              batch, rng)
        wins, losses = kept[..., x, a, b], kept[..., x, b, a]
        if labels == "people":
            n = wins + losses
            wins = rng.binomial(n.astype(np.int64), 1 / (1 + np.exp(-u))).astype(float)
            losses = n - wins
        new = Comparisons(data.pairs, data.z, wins + losses, wins)
        data = new if memory == "last" else data + new
        theta = fit_mle(_smoothed(data, smoothing), bandit.B).theta
        base = start if reference == "fixed" else log_policy
        log_policy = _tilt(base, bandit.reward_of(theta) / bandit.beta)
        thetas.append(theta)
        policies.append(log_policy)
    log_policies = np.stack(policies)
    best = log_gibbs_policy(bandit.reward, bandit.beta, bandit.pi0)
    policy = np.exp(log_policies)
    kl, own = (_average(kl_divergence_from_logs(log_policies, q), bandit.d0)
               for q in (start, best))
    return RecipeHistory(np.stack(thetas), log_policies, bandit.beta * own,
                         _average((policy * bandit.reward).sum(axis=-1), bandit.d0), kl, data)


def _smoothed(data: Comparisons, smoothing: float) -> Comparisons:
    """Soft wins, as whole wins of ``SHARES`` copies of each comparison: the same minimizer."""
    if smoothing == 0.0:
        return data
    soft = (1 - smoothing) * data.wins + smoothing * data.losses
    return Comparisons(data.pairs, data.z, SHARES * data.counts, np.round(SHARES * soft))


def _tilt(log_base, exponent):
    logits = log_base + exponent
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))

