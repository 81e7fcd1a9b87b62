r"""IPO: a square loss on log-ratio differences, which is least squares on the comparison graph.

With :math:`h = \log\frac{\pi(a_1)}{\pi_0(a_1)} - \log\frac{\pi(a_2)}{\pi_0(a_2)}`, every comparison
asks for :math:`h = 1/(2\tau)` if :math:`a_1` won and for :math:`-1/(2\tau)` if it lost. Votes on one
pair average to the target :math:`(2k/N - 1)/(2\tau)`, and the pairs are reconciled by a weighted
graph Laplacian.

What lives here: the loss, its gradient, the fit, and the limit of the fit under Bradley-Terry.
What does not: DPO (``_losses``, ``_fits``) and what becomes of separated comparisons
(``_separation``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from .. import _validate as check
from ..preferences import Comparisons, _design, all_pairs

__all__ = ["IPOFit", "fit_ipo", "ipo_gradient", "ipo_limit", "ipo_loss", "ipo_targets"]


def _comparisons(data, S: int, K: int) -> Comparisons:
    if not isinstance(data, Comparisons):
        raise ValueError(f"data must be Comparisons: got {type(data).__name__}")
    for column, size, name in ((0, S, "context"), (2, K, "action")):
        bad = data.pairs[:, column] >= size
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"data must compare {name}s of pi0: row {row} is {data.pairs[row].tolist()}"
            )
    return data


def _tau(tau) -> np.ndarray:
    return check.positive(tau, "tau")


def _differences(log_policy, pi0, data) -> np.ndarray:
    """``h`` per pair, shape (..., T); the normalization of the policy cancels."""
    log_policy = check.finite(log_policy, "log_policy", ("context", "action"))
    pi0 = check.reference(pi0)
    check.same_trailing("log_policy", log_policy, "pi0", pi0, 2)
    data = _comparisons(data, *pi0.shape[-2:])
    x, first, second = data.pairs.T
    ratio = log_policy - np.log(pi0)
    h = ratio[..., x, first] - ratio[..., x, second]
    check.broadcast("the policies", h.shape[:-1], "the comparisons", data.counts.shape[:-1])
    return h


def ipo_loss(log_policy, pi0, data: Comparisons, tau) -> np.ndarray:
    r"""The IPO loss, summed over comparisons.

    .. math:: \sum_t \Big[w_t\big(h_t - \tfrac1{2\tau}\big)^2
              + (n_t - w_t)\big(h_t + \tfrac1{2\tau}\big)^2\Big]

    Parameters
    ----------
    log_policy : array_like, shape (..., S, K)
        Log-policies; constants per context cancel.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    data : Comparisons
        Win counts, shape (..., T).
    tau : array_like, shape (...)
        IPO's coefficient, positive.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``ipo-bounded``. Published implementations average it over comparisons.
    """
    h, c = _differences(log_policy, pi0, data), 0.5 / _tau(tau)[..., None]
    return (data.wins * (h - c) ** 2 + data.losses * (h + c) ** 2).sum(axis=-1)


def ipo_gradient(log_policy, pi0, data: Comparisons, tau) -> np.ndarray:
    r"""The gradient of the IPO loss with respect to the logits of the policy.

    Parameters
    ----------
    log_policy : array_like, shape (..., S, K)
        Log-policies, or logits: constants per context cancel.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    data : Comparisons
        Win counts, shape (..., T).
    tau : array_like, shape (...)
        IPO's coefficient, positive.

    Returns
    -------
    ndarray, shape (..., S, K)
        It sums to zero over each connected component of the comparison graph.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``ipo-bounded``.
    """
    h, c = _differences(log_policy, pi0, data), 0.5 / _tau(tau)[..., None]
    push = 2 * (data.wins * (h - c) + data.losses * (h + c))
    return _scatter(push, data.pairs, *np.shape(pi0)[-2:])


def _scatter(flow: np.ndarray, pairs: np.ndarray, S: int, K: int) -> np.ndarray:
    """Add ``flow[..., t]`` at the first action of pair t and take it away at the second."""
    out = np.zeros((S * K, *flow.shape[:-1]))
    flow = np.moveaxis(flow, -1, 0)
    np.add.at(out, pairs[:, 0] * K + pairs[:, 1], flow)
    np.subtract.at(out, pairs[:, 0] * K + pairs[:, 2], flow)
    return np.moveaxis(out, 0, -1).reshape(*flow.shape[1:], S, K)


def ipo_targets(data: Comparisons, tau) -> np.ndarray:
    r"""What the votes on each pair ask for: :math:`(2w_t/n_t - 1)/(2\tau)`, 0 without votes.

    Parameters
    ----------
    data : Comparisons
        Win counts, shape (..., T).
    tau : array_like, shape (...)
        IPO's coefficient, positive.

    Returns
    -------
    ndarray, shape (..., T)

    Raises
    ------
    ValueError
        If ``data`` are not comparisons or ``tau`` is not positive.
    """
    if not isinstance(data, Comparisons):
        raise ValueError(f"data must be Comparisons: got {type(data).__name__}")
    net = (data.wins - data.losses) / np.maximum(data.counts, 1)
    return net * 0.5 / _tau(tau)[..., None]


def _reaches(arrows: np.ndarray) -> np.ndarray:
    """Reflexive and transitive closure of boolean matrices (..., K, K)."""
    K = arrows.shape[-1]
    reach = (arrows | np.eye(K, dtype=bool)).astype(np.float32)
    for _ in range(max(int(np.ceil(np.log2(max(K - 1, 1)))), 0)):
        reach = (reach @ reach > 0).astype(np.float32)
    return reach > 0


def _matrix(values: np.ndarray, pairs: np.ndarray, S: int, K: int) -> np.ndarray:
    """``values[..., t]`` in row a1 and column a2 of the matrix of context x."""
    out = np.zeros((*values.shape[:-1], S, K, K))
    out[..., pairs[:, 0], pairs[:, 1], pairs[:, 2]] = values
    return out


def _graph_least_squares(pairs, weights, targets, pi0):
    """Log-ratios (..., S, K) that minimize sum weights (difference - target)^2, and uniqueness.

    Actions are eliminated one by one: what the edges at an action ask for becomes edges between
    its neighbours, as in the star-mesh transform of resistors. Weights are only added and
    multiplied and targets only averaged, so counts of very different size do no harm.
    Where the graph falls apart, every component keeps its reference mass.
    """
    S, K = pi0.shape[-2:]
    W, B = _matrix(weights, pairs, S, K), _matrix(targets, pairs, S, K)
    W, B = W + np.swapaxes(W, -1, -2), B - np.swapaxes(B, -1, -2)
    joined = _reaches(W > 0)
    shares, asked = [], []
    for k in range(K - 1, 0, -1):
        w, b = W[..., k, :k], B[..., k, :k]  # b[j]: the wanted g_k - g_j
        total = w.sum(axis=-1, keepdims=True)
        share = w / np.where(total > 0, total, 1.0)
        shares.append(share)
        asked.append(b)
        added = share[..., :, None] * w[..., None, :] * (1 - np.eye(k))
        wanted = b[..., None, :] - b[..., :, None]  # of g_i - g_j
        old, W = W[..., :k, :k], W[..., :k, :k] + added
        part = added / np.where(W > 0, W, 1.0)
        B = np.where(old > 0, (1 - part) * B[..., :k, :k], 0.0) + part * wanted
    g = np.zeros((*np.broadcast_shapes(B.shape[:-2], pi0.shape[:-1]), K))
    for k, share, b in zip(range(1, K), shares[::-1], asked[::-1], strict=True):
        g[..., k] = (share * (g[..., :k] + b)).sum(axis=-1)
    # log of the mean of e^g over a component, under the reference: its mass must not change.
    log_pi0 = np.log(pi0)
    share = np.where(joined, log_pi0[..., None, :], -np.inf)
    mass = logsumexp(share, axis=-1)
    g = g - (logsumexp(share + g[..., None, :], axis=-1) - mass)
    return g, joined.all(axis=(-1, -2))


@dataclass(frozen=True, eq=False)
class IPOFit:
    r"""Minimizers of the IPO loss.

    Attributes
    ----------
    log_policy : ndarray, shape (..., S, K)
        Normalized log-probabilities.
    log_ratio : ndarray, shape (..., S, K)
        :math:`\log\pi/\pi_0`.
    loss : ndarray, shape (...)
        The least loss.
    unique : ndarray of bool, shape (..., S)
        Whether the comparison graph of the context is connected, so that no other policy has the
        same loss. Otherwise every component keeps its reference mass.
    """

    log_policy: np.ndarray
    log_ratio: np.ndarray
    loss: np.ndarray
    unique: np.ndarray


def fit_ipo(data: Comparisons, pi0, tau) -> IPOFit:
    r"""The policy of least IPO loss, by eliminating one action after another in each context.

    Parameters
    ----------
    data : Comparisons
        Win counts, shape (..., T).
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    tau : array_like, shape (...)
        IPO's coefficient, positive.

    Returns
    -------
    IPOFit

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``ipo-bounded``: within a component of K actions, log-ratios differ by at most
    ``(K - 1) / (2 tau)``.
    """
    pi0, tau = check.reference(pi0), _tau(tau)
    data = _comparisons(data, *pi0.shape[-2:])
    lead = check.broadcast("pi0", pi0.shape[:-2], "the comparisons", data.counts.shape[:-1])
    check.broadcast("pi0 and the comparisons", lead, "tau", tau.shape)
    targets = ipo_targets(data, tau)
    weights = np.broadcast_to(data.counts, targets.shape)
    ratio, unique = _graph_least_squares(data.pairs, weights, targets, pi0)
    log_policy = ratio + np.log(pi0)
    log_policy = log_policy - logsumexp(log_policy, axis=-1, keepdims=True)
    return IPOFit(log_policy, ratio, ipo_loss(log_policy, pi0, data, tau), unique)


def ipo_limit(reward, pi0, tau, design) -> np.ndarray:
    r"""The policy that IPO converges to when Bradley-Terry votes are drawn from a design.

    The votes on a pair ask for :math:`\tanh(\Delta/2)/(2\tau)`, where :math:`\Delta` is the
    difference of the rewards; the design decides how the pairs are reconciled.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        True rewards.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    tau : array_like, shape (...)
        IPO's coefficient, positive.
    design : array_like, shape (..., S K (K-1) / 2)
        Probabilities over ``all_pairs(S, K)``. Where they do not connect the actions of a
        context, every component keeps its reference mass.

    Returns
    -------
    ndarray, shape (..., S, K)
        Log-probabilities.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``ipo-population``. Two answers of one policy ``mu`` give
    :math:`\pi \propto \pi_0 e^{P(a\succ\mu)/\tau}`.
    """
    reward, pi0, tau = check.rewards(reward), check.reference(pi0), _tau(tau)
    check.same_trailing("reward", reward, "pi0", pi0, 2)
    S, K = reward.shape[-2:]
    pairs = all_pairs(S, K)
    design = _design(design, len(pairs))
    x, first, second = pairs.T
    targets = np.tanh((reward[..., x, first] - reward[..., x, second]) / 2) / 2
    targets = targets / tau[..., None]
    lead = check.broadcast("the rewards", targets.shape[:-1], "the design", design.shape[:-1])
    check.broadcast("the rewards and the design", lead, "pi0", pi0.shape[:-2])
    targets, weights = np.broadcast_arrays(targets, design)
    ratio, _ = _graph_least_squares(pairs, weights, targets, pi0)
    log_policy = ratio + np.log(pi0)
    return log_policy - logsumexp(log_policy, axis=-1, keepdims=True)
