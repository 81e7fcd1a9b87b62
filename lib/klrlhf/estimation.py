r"""Maximum likelihood for Bradley-Terry comparisons over the ball :math:`\|\theta\|\le B`, batched.

What lives here: the likelihood and its derivatives on win counts, the ball-constrained fit with its
certificates, and the tests of existence of an unconstrained MLE.
What does not: the Newton iteration itself (``_ball_newton``) and confidence (``confidence``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from . import _validate as check
from ._ball_newton import BallProblem, packed_products, span_basis, triangle_positions
from .preferences import Comparisons

__all__ = [
    "negative_log_likelihood",
    "score",
    "hessian",
    "frank_wolfe_gap",
    "MaximumLikelihoodFit",
    "ConvergenceError",
    "fit_mle",
    "mle_exists",
    "win_graph_strongly_connected",
]

# Entries of one block of replicates: its six arrays (3 MB) stay in cache, and the cost of calling
# NumPy is spread over many rows.
BLOCK_ENTRIES = 2**16
# From this number of replicates on, the fit of all data together pays as a common start.
POOLED_FROM = 8
KKT_TOLERANCE = 1e-8


class ConvergenceError(RuntimeError):
    """The solver could not certify its optimum; the message says why."""


def _comparisons(data) -> Comparisons:
    if not isinstance(data, Comparisons):
        raise ValueError(f"data must be Comparisons: got {type(data).__name__}")
    return data


def _theta(theta, data: Comparisons) -> np.ndarray:
    _comparisons(data)
    theta = check.finite(theta, "theta", ("feature",))
    if theta.shape[-1] != data.z.shape[1]:
        raise ValueError(f"theta must have {data.z.shape[1]} features: got shape {theta.shape}")
    check.broadcast("theta", theta.shape[:-1], "the comparisons", data.counts.shape[:-1])
    return theta


def negative_log_likelihood(theta, data: Comparisons) -> np.ndarray:
    r"""The negative log-likelihood of Bradley-Terry win counts.

    .. math:: \ell(\theta) = -\sum_t \big[w_t\log\sigma(u_t) + (n_t-w_t)\log\sigma(-u_t)\big],
              \qquad u_t = \langle\theta,z_t\rangle

    Parameters
    ----------
    theta : array_like, shape (..., d)
        Parameters.
    data : Comparisons
        Win counts, shape (..., T).

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If an entry is not finite or shapes do not match.

    Notes
    -----
    Result ``bt-likelihood``.
    """
    u = _theta(theta, data) @ data.z.T
    return (data.wins * np.logaddexp(0, -u) + data.losses * np.logaddexp(0, u)).sum(axis=-1)


def score(theta, data: Comparisons) -> np.ndarray:
    r"""The gradient of the negative log-likelihood, :math:`\sum_t (n_t\sigma(u_t) - w_t) z_t`.

    Parameters
    ----------
    theta : array_like, shape (..., d)
        Parameters.
    data : Comparisons
        Win counts, shape (..., T).

    Returns
    -------
    ndarray, shape (..., d)

    Raises
    ------
    ValueError
        If an entry is not finite or shapes do not match.

    Notes
    -----
    Result ``bt-likelihood``.
    """
    return _residual(_theta(theta, data) @ data.z.T, data.wins, data.losses) @ data.z


def _residual(u, wins, losses):
    # Two products of like sign keep relative accuracy when one outcome never occurred.
    return losses * expit(u) - wins * expit(-u)


def hessian(theta, data: Comparisons) -> np.ndarray:
    r"""The Hessian of the negative log-likelihood, :math:`\sum_t n_t\sigma'(u_t) z_t z_t^\top`.

    Parameters
    ----------
    theta : array_like, shape (..., d)
        Parameters.
    data : Comparisons
        Win counts, shape (..., T).

    Returns
    -------
    ndarray, shape (..., d, d)

    Raises
    ------
    ValueError
        If an entry is not finite or shapes do not match.

    Notes
    -----
    Result ``bt-likelihood``.
    """
    u = _theta(theta, data) @ data.z.T
    return _weighted_gram(data.counts * expit(u) * expit(-u), data.z)


def _weighted_gram(weights: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (weights @ packed_products(z))[..., triangle_positions(z.shape[1])]


def frank_wolfe_gap(theta, data: Comparisons, B: float) -> np.ndarray:
    r"""The certificate :math:`\langle g,\theta\rangle + B\|g\|`, a bound of the excess likelihood.

    Parameters
    ----------
    theta : array_like, shape (..., d)
        Points of the ball.
    data : Comparisons
        Win counts, shape (..., T).
    B : float
        Radius of the ball, positive.

    Returns
    -------
    ndarray, shape (...)
        At least the negative log-likelihood of ``theta`` minus its minimum over the ball.

    Raises
    ------
    ValueError
        If ``theta`` leaves the ball, or ``B`` is not positive.

    Notes
    -----
    Result ``confidence-ellipsoid`` uses it for approximate minimizers.
    """
    theta, B = _theta(theta, data), check.number(check.positive(B, "B"), "B")
    norm = np.linalg.norm(theta, axis=-1)
    if np.any(norm > B * (1 + 1e-9)):
        raise ValueError(
            f"theta must lie in the ball of radius B: norm {float(norm.max())!r} > B = {B!r}"
        )
    gradient = score(theta, data)
    gap = (gradient * theta).sum(axis=-1) + B * np.linalg.norm(gradient, axis=-1)
    return np.maximum(gap, 0.0)


@dataclass(frozen=True, eq=False)
class MaximumLikelihoodFit:
    r"""A batch of ball-constrained maximum likelihood estimates with their certificates.

    Attributes
    ----------
    theta : ndarray, shape (..., d)
        Estimates; of least norm where the comparisons do not identify the parameter.
    multiplier : ndarray, shape (...)
        KKT multiplier :math:`\mu\ge0` of the ball: gradient :math:`= -\mu\hat\theta`.
    certificate : ndarray, shape (...)
        Frank-Wolfe gap, an upper bound of the excess negative log-likelihood.
    kkt_residual : ndarray, shape (...)
        :math:`\|g + \mu\hat\theta\|` relative to the sizes of the terms that make up ``g``.
    on_boundary : ndarray of bool, shape (...)
        Whether the ball is active.
    iterations : int
        Newton steps of the slowest replicate.
    converged : ndarray of bool, shape (...)
        Whether the margins settled and the residual is below tolerance; ``fit_mle`` raises unless
        asked not to.
    """

    theta: np.ndarray
    multiplier: np.ndarray
    certificate: np.ndarray
    kkt_residual: np.ndarray
    on_boundary: np.ndarray
    iterations: int
    converged: np.ndarray


def fit_mle(data: Comparisons, B: float, *, max_iterations: int = 400,
            require_convergence: bool = True) -> MaximumLikelihoodFit:
    r"""Maximum likelihood over the ball :math:`\|\theta\|\le B`, for all replicates at once.

    Separable data are no exception: the minimizer over the ball always exists, on the sphere.
    Where the comparisons leave directions unidentified, the estimate of least norm is returned.

    Parameters
    ----------
    data : Comparisons
        Win counts, shape (..., T).
    B : float
        Radius of the ball, positive.
    max_iterations : int
        Limit on Newton steps.
    require_convergence : bool
        Raise when a replicate is not certified (default), instead of flagging it.

    Returns
    -------
    MaximumLikelihoodFit

    Raises
    ------
    ValueError
        If ``B`` is not positive or the features are not finite.
    ConvergenceError
        If the optimum of a replicate cannot be certified; with separable data and huge
        ``B max|z|`` the likelihood is flat to rounding error.

    Notes
    -----
    Results ``bt-likelihood`` and ``mle-existence``.
    """
    B = check.number(check.positive(B, "B"), "B")
    max_iterations = check.size(max_iterations, "max_iterations")
    _comparisons(data)
    lead, T = data.counts.shape[:-1], data.counts.shape[-1]
    counts, wins = data.counts.reshape(-1, T), data.wins.reshape(-1, T)
    # In orthonormal coordinates of span{z} the ball keeps its shape and the Hessian its rank.
    basis = span_basis(data.z)
    z = data.z @ basis
    # One scale for all margins keeps the arithmetic away from under- and overflow.
    unit = float(np.abs(z).max(initial=0.0)) or 1.0
    z, radius = z / unit, B * unit
    problem = BallProblem(z, radius)
    R, d = len(counts), z.shape[1]
    theta, settled = np.zeros((R, d)), np.zeros(R, dtype=bool)
    fit = {name: np.zeros(R) for name in ("multiplier", "certificate", "kkt_residual")}
    fit["on_boundary"] = np.zeros(R, dtype=bool)
    start = problem.pooled_start(counts, wins) if R >= POOLED_FROM else None
    steps, rows = 0, max(24, BLOCK_ENTRIES // max(T, 1))
    for first in range(0, R, rows):
        part = slice(first, first + rows)
        block = counts[part], wins[part]
        theta[part], settled[part], used = problem.solve(*block, max_iterations, start)
        for name, values in problem.certify(theta[part], *block).items():
            fit[name][part] = values
        steps = max(steps, used)
    estimate = (theta / unit) @ basis.T
    # A small residual alone does not certify separable data: there the objective converges long
    # before the direction does, so the margins must have settled too.
    done = settled & (fit["kkt_residual"] <= KKT_TOLERANCE)
    if require_convergence and not done.all():
        where = np.unravel_index(int(np.argmin(done)), lead) if lead else ()
        raise ConvergenceError(
            f"the maximum likelihood estimate of replicate {tuple(int(i) for i in where)} is not "
            f"certified: KKT residual {fit['kkt_residual'][~done].max():.1e} after {steps} steps. "
            f"B max|z| = {B * np.linalg.norm(data.z, axis=1).max(initial=0.0):.3g}; where it is "
            "large and the comparisons are separable, the likelihood is flat to rounding error: "
            "choose a smaller B (features that are nearly collinear have the same effect)"
        )
    return MaximumLikelihoodFit(
        theta=estimate.reshape(*lead, -1),
        multiplier=(fit["multiplier"] * unit**2).reshape(lead),
        certificate=fit["certificate"].reshape(lead),
        kkt_residual=fit["kkt_residual"].reshape(lead),
        on_boundary=fit["on_boundary"].reshape(lead),
        iterations=steps,
        converged=done.reshape(lead),
    )


def mle_exists(data: Comparisons) -> np.ndarray:
    r"""Whether the unconstrained minimum of the negative log-likelihood is attained.

    It is iff no direction :math:`\theta` has :math:`s_i\langle\theta,z_i\rangle\ge0` for all
    comparisons and :math:`>0` for one (:math:`s_i=\pm1` the outcome); decided by a linear program.

    Parameters
    ----------
    data : Comparisons
        Win counts, shape (..., T).

    Returns
    -------
    ndarray of bool, shape (...)

    Raises
    ------
    ValueError
        If ``data`` are not comparisons.

    Notes
    -----
    Result ``mle-existence``.
    """
    _comparisons(data)
    lead, T = data.counts.shape[:-1], data.counts.shape[-1]
    wins, losses = data.wins.reshape(-1, T), data.losses.reshape(-1, T)
    unit = data.z / np.maximum(np.linalg.norm(data.z, axis=1, keepdims=True), 1e-300)
    unit = np.where(np.linalg.norm(data.z, axis=1, keepdims=True) > 0, unit, 0.0)
    known: dict[bytes, bool] = {}
    answers = []
    for won, lost in zip(wins > 0, losses > 0, strict=True):
        key = won.tobytes() + lost.tobytes()
        if key not in known:
            known[key] = not _separates(unit, won, lost)
        answers.append(known[key])
    return np.array(answers, dtype=bool).reshape(lead)


def _separates(z: np.ndarray, won: np.ndarray, lost: np.ndarray) -> bool:
    signed = np.concatenate([z[won & ~lost], -z[lost & ~won]])
    if not len(signed):
        return False
    both = z[won & lost]
    found = linprog(
        -signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(signed)),
        A_eq=both if len(both) else None, b_eq=np.zeros(len(both)) if len(both) else None,
        bounds=(-1, 1),
    )
    if found.status != 0:
        raise ConvergenceError(f"the linear program of separability failed: {found.message}")
    return bool(-found.fun > 1e-9)


def win_graph_strongly_connected(data: Comparisons) -> np.ndarray:
    r"""Whether every component of the win graph is strongly connected (Ford's condition).

    Nodes are actions within a context; each win is an arrow from winner to loser.

    Parameters
    ----------
    data : Comparisons
        Win counts, shape (..., T).

    Returns
    -------
    ndarray of bool, shape (...)
        For one-hot features, the same answer as ``mle_exists``.

    Raises
    ------
    ValueError
        If ``data`` are not comparisons.

    Notes
    -----
    Result ``mle-existence``, tabular case.
    """
    _comparisons(data)
    lead, T = data.counts.shape[:-1], data.counts.shape[-1]
    K = int(data.pairs[:, 2].max(initial=0)) + 1
    first = data.pairs[:, 0] * K + data.pairs[:, 1]
    second = data.pairs[:, 0] * K + data.pairs[:, 2]
    size = int(second.max(initial=0)) + 1
    answers = []
    won, lost = data.wins.reshape(-1, T) > 0, data.losses.reshape(-1, T) > 0
    for wins, losses in zip(won, lost, strict=True):
        tail = np.concatenate([first[wins], second[losses]])
        head = np.concatenate([second[wins], first[losses]])
        graph = coo_array((np.ones(len(tail)), (tail, head)), shape=(size, size)).tocsr()
        strong, _ = connected_components(graph, directed=True, connection="strong")
        weak, _ = connected_components(graph, directed=False)
        answers.append(strong == weak)
    return np.array(answers, dtype=bool).reshape(lead)
