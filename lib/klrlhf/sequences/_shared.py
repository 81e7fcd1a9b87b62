r"""Policies whose logits are shared between prefixes, as those of a real network are.

A *context map* sends every open prefix to one of C contexts; the policies of the class are
:math:`\pi_u(a|s)\propto\pi_0(a|s)e^{u(c(s),a)}`. Every policy is in the class of the finest map
(one context per prefix). A coarser class need not contain the Gibbs policy.

What lives here: the class, DPO in it, and the best policy in it.
What does not: DPO in the Gibbs class or with one logit per response (``direct``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from .. import _validate as check
from ..numerics import log_sigmoid, sigmoid
from ..preferences import Comparisons
from ._model import LanguageModel
from ._tree import sequence_log_policy

__all__ = ["TokenDPOFit", "context_map", "shared_tokens", "fit_token_dpo", "best_shared"]


@dataclass(frozen=True, eq=False)
class TokenDPOFit:
    """A fitted policy of a class with shared logits.

    Attributes
    ----------
    logits : ndarray, shape (C, W + 1)
    log_tokens : ndarray, shape (S, M, W + 1)
        Log token policy.
    policy : ndarray, shape (S, K)
        Law of the responses.
    objective : float
        The minimized objective, ridge included.
    gradient : float
        Largest entry of its gradient.
    """

    logits: np.ndarray
    log_tokens: np.ndarray
    policy: np.ndarray
    objective: float
    gradient: float


def context_map(model: LanguageModel, last: int = 1, position: bool = False) -> np.ndarray:
    """The context of each open prefix: its last words, and perhaps its length.

    Parameters
    ----------
    model : LanguageModel
    last : int
        Number of last words that the class sees, those of the prompt included.
    position : bool
        Whether it also sees how many words it has written.

    Returns
    -------
    ndarray of int, shape (S, M)
        Numbers from 0 to C - 1.

    Raises
    ------
    ValueError
        If ``last`` is negative.
    """
    last = check.count(last, "last", largest=10**6)
    seen: dict[tuple, int] = {}
    out = np.empty((model.S, model.M), int)
    for x, prompt in enumerate(model.prompts):
        before = tuple(prompt.lower().split())
        for node in range(model.M):
            prefix = (*before, *model.responses[node])
            key = (prefix[max(len(prefix) - last, 0):],
                   len(model.responses[node]) if position else None)
            out[x, node] = seen.setdefault(key, len(seen))
    return out


def _contexts(model: LanguageModel, contexts) -> np.ndarray:
    array = check.nonnegative(contexts, "contexts")
    if array.shape != (model.S, model.M) or (array != np.floor(array)).any():
        raise ValueError(
            f"contexts must be whole numbers of shape {(model.S, model.M)}: got {array.shape}"
        )
    return array.astype(int)


def shared_tokens(model: LanguageModel, logits, contexts) -> np.ndarray:
    r"""The token policy :math:`\pi_u(a|s)\propto\pi_0(a|s)e^{u(c(s),a)}`, as logarithms.

    Parameters
    ----------
    model : LanguageModel
    logits : array_like, shape (..., C, W + 1)
    contexts : array_like of int, shape (S, M)

    Returns
    -------
    ndarray, shape (..., S, M, W + 1)

    Raises
    ------
    ValueError
        If shapes do not match.
    """
    contexts = _contexts(model, contexts)
    logits = check.finite(logits, "logits", ("context", "token"))
    if logits.shape[-1] != model.W + 1 or logits.shape[-2] <= contexts.max():
        raise ValueError(
            f"logits must have {contexts.max() + 1} contexts and {model.W + 1} tokens: "
            f"got shape {logits.shape}"
        )
    raw = model.log_tokens + logits[..., contexts, :]
    return raw - logsumexp(raw, axis=-1, keepdims=True)


def _pull(model, contexts, log_tokens, weights, C):
    """The gradient in u of sum over responses of weights * log pi_u(response)."""
    W, M = model.W, model.M
    # Mass of weights below each node, from the leaves up.
    below = np.array(weights, dtype=float)
    passing = np.zeros((model.S, M, W + 1))
    for node in range(M - 1, -1, -1):
        children = slice(W * node + 1, W * node + 1 + W)
        passing[:, node, :W] = below[:, children]
        passing[:, node, W] = weights[:, node]
        below[:, node] += below[:, children].sum(axis=-1)
    total = passing.sum(axis=-1, keepdims=True)
    slope = passing - total * np.exp(log_tokens)
    out = np.zeros((C, W + 1))
    np.add.at(out, contexts, slope)
    return out


def _minimize(model, contexts, objective, ridge, start):
    """Minimize objective(log_policy) -> (value, weights of log pi) plus ridge/2 |u|^2."""
    contexts = _contexts(model, contexts)
    C = int(contexts.max()) + 1
    ridge = check.number(check.ridge(ridge, "ridge"), "ridge")
    shape = (C, model.W + 1)
    start = np.zeros(shape) if start is None else check.finite(start, "start")
    if start.shape != shape:
        raise ValueError(f"start must have shape {shape}: got {start.shape}")

    def both(flat):
        u = flat.reshape(shape)
        log_tokens = shared_tokens(model, u, contexts)
        value, weights = objective(sequence_log_policy(log_tokens))
        slope = _pull(model, contexts, log_tokens, weights, C) + ridge * u
        return value + ridge / 2 * (u**2).sum(), slope.ravel()

    found = minimize(both, start.ravel(), jac=True, method="L-BFGS-B",
                     options={"maxiter": 5000, "maxfun": 10000, "ftol": 1e-15, "gtol": 1e-10})
    u = found.x.reshape(shape)
    u = u - u.mean(axis=-1, keepdims=True)
    value, slope = both(u.ravel())
    log_tokens = shared_tokens(model, u, contexts)
    policy = np.exp(sequence_log_policy(log_tokens))
    return TokenDPOFit(u, log_tokens, policy / policy.sum(axis=-1, keepdims=True), float(value),
                       float(np.abs(slope).max()))


def fit_token_dpo(model: LanguageModel, data: Comparisons, beta: float, contexts=None,
                  ridge: float = 1e-6, start=None) -> TokenDPOFit:
    r"""DPO with shared logits: minimize the mean loss of whole responses over a restricted class.

    The loss is :math:`-\log\sigma(\beta\log\frac{\pi_u(y_w)}{\pi_0(y_w)}
    -\beta\log\frac{\pi_u(y_l)}{\pi_0(y_l)})`, averaged over comparisons, plus ridge times half
    the squared norm of the logits. It is not convex in u when contexts are shared: the
    descent may end in a local minimum.

    Parameters
    ----------
    model : LanguageModel
        The reference.
    data : Comparisons
        One replicate: counts and wins of shape (T,). Large rounded expected counts give the limit
        of infinite data.
    beta : float
    contexts : array_like of int, shape (S, M), optional
        Default: the last word (``context_map(model)``).
    ridge : float
        Weight of the ridge, per comparison; keeps the minimum attained.
    start : array_like, shape (C, W + 1), optional
        Where to start; default zero, the reference.

    Returns
    -------
    TokenDPOFit

    Raises
    ------
    ValueError
        If shapes do not match or there is no comparison.
    """
    beta = check.number(check.positive(beta, "beta"), "beta")
    contexts = context_map(model) if contexts is None else contexts
    counts, wins = np.asarray(data.counts, float), np.asarray(data.wins, float)
    if counts.ndim != 1:
        raise ValueError(f"data must be one replicate: counts have shape {counts.shape}")
    used = counts > 0
    if not used.any():
        raise ValueError("data must hold at least one comparison")
    x, first, second = np.asarray(data.pairs)[used].T
    if x.max() >= model.S or max(first.max(), second.max()) >= model.K:
        raise ValueError("data must compare responses of this model: a pair is outside its tree")
    won, lost = wins[used] / counts.sum(), (counts - wins)[used] / counts.sum()
    base = model.log_policy

    def objective(log_policy):
        ratio = beta * (log_policy - base)
        margin = ratio[x, first] - ratio[x, second]
        value = -(won * log_sigmoid(margin) + lost * log_sigmoid(-margin)).sum()
        slope = beta * (lost * sigmoid(margin) - won * sigmoid(-margin))
        weights = np.zeros((model.S, model.K))
        np.add.at(weights, (x, first), slope)
        np.add.at(weights, (x, second), -slope)
        return value, weights

    return _minimize(model, contexts, objective, ridge, start)


def best_shared(model: LanguageModel, reward, beta: float, d0=None, contexts=None,
                ridge: float = 0.0, start=None) -> TokenDPOFit:
    r"""The best policy of the class: the minimizer of :math:`\beta E\,KL(\pi_u\|\pi^*)`.

    By the value decomposition this divergence is the gap, so ``objective`` (with ridge 0) is the
    gap of the policy found. The problem is not convex in u when contexts are shared, and the
    descent may end in a local minimum: the price of the restriction is at most ``objective``.
    Try several values of ``start``.

    Parameters
    ----------
    model : LanguageModel
    reward : array_like, shape (S, K)
    beta : float
    d0 : array_like, shape (S,), optional
        Default uniform.
    contexts, ridge, start
        As in ``fit_token_dpo``.

    Returns
    -------
    TokenDPOFit

    Raises
    ------
    ValueError
        If shapes do not match.
    """
    beta = check.number(check.positive(beta, "beta"), "beta")
    reward = check.rewards(reward)
    base = model.log_policy
    if reward.shape != base.shape:
        raise ValueError(f"reward must have shape {base.shape}: got {reward.shape}")
    d0 = np.full(model.S, 1 / model.S) if d0 is None else check.prompts(d0)
    if d0.shape != (model.S,):
        raise ValueError(f"d0 must have shape {(model.S,)}: got {d0.shape}")
    contexts = context_map(model) if contexts is None else contexts
    star = base + reward / beta
    star = star - logsumexp(star, axis=-1, keepdims=True)

    def objective(log_policy):
        difference = log_policy - star
        mass = d0[:, None] * np.exp(log_policy)
        return beta * (mass * difference).sum(), beta * mass * difference

    return _minimize(model, contexts, objective, ridge, start)
