r"""Maximum likelihood for Bradley-Terry comparisons over the ball :math:`\|\theta\|\le B`, batched.

What lives here: the likelihood and its derivatives on win counts, the batched Newton solver of the
ball-constrained problem with its certificates, and the tests of existence of an unconstrained MLE.
What does not: confidence (``confidence``).

The solver minimizes, in each step, the second-order model of the likelihood over the ball (one linear
solve, or the secular equation when the ball is active) and moves a fraction ``log(1 + r) / r`` of the
way, ``r`` being the largest change of a margin.
The second derivative of the logistic loss changes by at most a factor ``e^r`` over such a step, so the
fraction guarantees descent without evaluating the likelihood; near the optimum it tends to 1 and the
convergence is quadratic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from . import _validate as check
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

# Margins below this let tanh carry the logistic function; above, 1 - tanh has lost its digits.
TANH_MARGIN = 12.0
BLOCK_ENTRIES = 2**15
MARGIN_TOLERANCE = 1e-8
KKT_TOLERANCE = 1e-8


class ConvergenceError(RuntimeError):
    """The solver could not certify its optimum; the message says why."""


def _theta(theta, data: Comparisons) -> np.ndarray:
    theta = check.finite(theta, "theta", ("feature",))
    if theta.shape[-1] != data.z.shape[1]:
        raise ValueError(f"theta must have {data.z.shape[1]} features: got shape {theta.shape}")
    check.broadcast("theta", theta.shape[:-1], "the comparisons", data.counts.shape[:-1])
    return theta


def negative_log_likelihood(theta, data: Comparisons) -> np.ndarray:
    r"""The negative log-likelihood :math:`-\sum_t [w_t\log\sigma(u_t) + (n_t-w_t)\log\sigma(-u_t)]`.

    Parameters
    ----------
    theta : array_like, shape (..., d)
        Parameters; :math:`u_t = \langle\theta,z_t\rangle`.
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


def _packed(z: np.ndarray) -> np.ndarray:
    """Upper triangles of ``z z'``, one row per pair: a weighted Gram matrix is then one product."""
    rows, columns = np.triu_indices(z.shape[1])
    return z[:, rows] * z[:, columns]


def _unpack(packed: np.ndarray, d: int) -> np.ndarray:
    rows, columns = np.triu_indices(d)
    position = np.empty((d, d), dtype=np.intp)
    position[rows, columns] = position[columns, rows] = np.arange(len(rows))
    return packed[..., position]


def _weighted_gram(weights: np.ndarray, z: np.ndarray) -> np.ndarray:
    return _unpack(weights @ _packed(z), z.shape[1])


def frank_wolfe_gap(theta, data: Comparisons, B: float) -> np.ndarray:
    r"""The certificate :math:`\langle g,\theta\rangle + B\|g\|`, an upper bound of the excess likelihood.

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
    theta, B = _theta(theta, data), float(check.positive(B, "B"))
    norm = np.linalg.norm(theta, axis=-1)
    if np.any(norm > B * (1 + 1e-9)):
        raise ValueError(f"theta must lie in the ball of radius B: norm {float(norm.max())!r} > {B!r}")
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
    B = float(check.positive(B, "B"))
    if not isinstance(data, Comparisons):
        raise ValueError(f"data must be Comparisons: got {type(data).__name__}")
    lead, T = data.counts.shape[:-1], data.counts.shape[-1]
    counts, wins = data.counts.reshape(-1, T), data.wins.reshape(-1, T)
    # In orthonormal coordinates of span{z} the ball keeps its shape and the Hessian its rank.
    basis = _span(data.z)
    z = data.z @ basis
    # One scale for all margins keeps the arithmetic away from under- and overflow.
    unit = float(np.abs(z).max(initial=0.0)) or 1.0
    z, radius = z / unit, B * unit
    problem = _Problem(z, radius)
    R, d = len(counts), z.shape[1]
    theta, settled = np.zeros((R, d)), np.zeros(R, dtype=bool)
    steps, block = 0, max(64, BLOCK_ENTRIES // max(T, 1))
    for start in range(0, R, block):
        part = slice(start, start + block)
        theta[part], settled[part], used = problem.solve(counts[part], wins[part], max_iterations)
        steps = max(steps, used)
    fit = problem.certify(theta, counts, wins)
    estimate = (theta / unit) @ basis.T
    # A small residual alone does not certify separable data: there the objective converges long
    # before the direction does, so the margins must have settled too.
    done = settled & (fit["kkt_residual"] <= KKT_TOLERANCE)
    if require_convergence and not done.all():
        where = np.unravel_index(int(np.argmin(done)), lead) if lead else ()
        raise ConvergenceError(
            f"the maximum likelihood estimate of replicate {tuple(int(i) for i in where)} is not "
            f"certified: KKT residual {fit['kkt_residual'][~done].max():.1e} after {steps} steps. "
            f"B max|z| = {B * np.linalg.norm(data.z, axis=1).max(initial=0.0):.3g}; where it is large and "
            "the comparisons are separable, the likelihood is flat to rounding error: choose a smaller B"
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


def _span(z: np.ndarray) -> np.ndarray:
    """Orthonormal basis (d, rank) of the span of the rows of ``z``."""
    d = z.shape[1]
    _, singular, right = np.linalg.svd(z, full_matrices=False)
    rank = int((singular > singular.max(initial=0.0) * 1e-11).sum())
    return np.eye(d) if rank == d else right[:rank].T


class _Problem:
    """The likelihood over the ball for one set of features; replicates are rows."""

    def __init__(self, z: np.ndarray, B: float):
        self.z, self.B, self.d = z, B, z.shape[1]
        self.zt, self.packed = np.ascontiguousarray(z.T), _packed(z)
        self.norms = np.linalg.norm(z, axis=1)
        self.careful = B * self.norms.max(initial=0.0) > TANH_MARGIN

    def derivatives(self, u, counts, wins, half_counts, excess):
        """Residuals and Hessian weights per pair; see TANH_MARGIN for the two forms."""
        if self.careful:
            high, low = expit(u), expit(-u)
            return (counts - wins) * high - wins * low, counts * high * low
        # u holds u/2 on this path.
        t = np.tanh(u)
        residual = half_counts * t
        weights = half_counts - residual * t
        weights *= 0.5
        residual -= excess
        return residual, weights

    def solve(self, counts, wins, max_iterations):
        """Newton steps on all rows until every row's margins have settled.

        Returns the estimates, which rows have settled, and the number of steps.
        """
        R = len(counts)
        theta, settled = np.zeros((R, self.d)), np.zeros(R, dtype=bool)
        if self.d == 0 or R == 0:
            return theta, ~settled, 0
        rows = np.arange(R)
        half, excess = 0.5 * counts, wins - 0.5 * counts
        scale = 1.0 if self.careful else 0.5
        zt = self.zt * scale
        margins = np.zeros_like(counts)
        current = np.zeros((R, self.d))
        null = self.null_projectors(counts)
        for step in range(1, max_iterations + 1):
            residual, weights = self.derivatives(margins, counts, wins, half, excess)
            gradient = residual @ self.z
            H = _unpack(weights @ self.packed, self.d)
            if null is not None:
                H += null * np.maximum(np.trace(H, axis1=1, axis2=2), 1e-300)[:, None, None]
            move = self.model_minimizer(H, gradient, current) - current
            change = move @ zt
            r = np.abs(change).max(axis=1) / scale
            fraction = np.where(r > 1e-12, np.log1p(r) / np.maximum(r, 1e-12), 1.0)
            # Close to the optimum the full step is the better one: its error is quadratic in r.
            fraction = np.where(r < 1e-3, 1.0, fraction)[:, None]
            current += fraction * move
            margins += fraction * change
            busy = r > MARGIN_TOLERANCE
            if not busy.all():
                theta[rows[~busy]], settled[rows[~busy]] = current[~busy], True
                if not busy.any():
                    return self.into_ball(theta), settled, step
                rows, current, margins = rows[busy], current[busy], margins[busy]
                counts, wins, half, excess = counts[busy], wins[busy], half[busy], excess[busy]
                null = None if null is None else null[busy]
        theta[rows] = current
        return self.into_ball(theta), settled, max_iterations

    def into_ball(self, theta):
        norm = np.linalg.norm(theta, axis=1, keepdims=True)
        return theta * np.minimum(1.0, self.B / np.maximum(norm, 1e-300))

    def null_projectors(self, counts):
        """Projectors onto the directions that a row's comparisons leave unidentified, or None.

        They are added to the Hessian, whose null space they are at every step: the step then has no
        component there, and the estimate is the one of least norm.
        """
        gaps = (counts == 0).any(axis=1)
        if not gaps.any():
            return None
        projectors = np.zeros((len(counts), self.d, self.d))
        seen = (counts[gaps] > 0).astype(float)
        values, vectors = np.linalg.eigh(_unpack(seen @ self.packed, self.d))
        idle = values <= 1e-11 * np.maximum(values[:, -1:], 1e-300)
        kept = np.where(idle[:, None, :], vectors, 0.0)
        projectors[gaps] = kept @ np.swapaxes(kept, 1, 2)
        return projectors if idle.any() else None

    def model_minimizer(self, H, gradient, theta):
        """The minimizer of the quadratic model over the ball, row by row."""
        # Rows may differ by hundreds of orders of magnitude (separable data): bring each to size 1.
        size = np.maximum(np.trace(H, axis1=1, axis2=2), 1e-300)
        H = H / size[:, None, None]
        b = (H @ theta[..., None])[..., 0] - gradient / size[:, None]
        try:
            target = np.linalg.solve(H, b[..., None])[..., 0]
        except np.linalg.LinAlgError:
            target = np.linalg.solve(H + 1e-12 * np.eye(self.d), b[..., None])[..., 0]
        outside = ~(np.linalg.norm(target, axis=1) <= self.B)
        if outside.any():
            target[outside] = self.on_sphere(H[outside], b[outside])
        return target

    def on_sphere(self, H, b):
        """Solve ``(H + mu I) theta = b``, ``|theta| = B``, ``mu >= 0``: Newton on 1/B - 1/|theta|."""
        values, vectors = np.linalg.eigh(H)
        values = np.maximum(values, 1e-16)
        c2 = (np.swapaxes(vectors, 1, 2) @ b[..., None])[..., 0]
        square = c2**2
        # |theta(mu)| >= |b| / (max eigenvalue + mu) gives a start from which Newton is monotone.
        mu = np.maximum(np.linalg.norm(b, axis=1) / self.B - values[:, -1], 0.0)[:, None]
        for _ in range(60):
            shifted = values + mu
            norm2 = (square / shifted**2).sum(axis=1, keepdims=True)
            norm = np.sqrt(norm2)
            slope = (square / shifted**3).sum(axis=1, keepdims=True)
            update = norm2 / np.maximum(slope, 1e-300) * (norm - self.B) / self.B
            mu = np.maximum(mu + update, 0.0)
            if (np.abs(update) <= 1e-15 * (mu + values[:, :1])).all():
                break
        theta = (vectors @ (c2 / (values + mu))[..., None])[..., 0]
        return theta * (self.B / np.maximum(np.linalg.norm(theta, axis=1, keepdims=True), 1e-300))

    def certify(self, theta, counts, wins) -> dict:
        """Multiplier, KKT residual and Frank-Wolfe gap from one more gradient."""
        u = theta @ self.zt
        losses = counts - wins
        gradient = _residual(u, wins, losses) @ self.z
        # The gradient is a sum of these sizes: rounding below eps times it means nothing.
        size = (losses * expit(u) + wins * expit(-u)) @ self.norms
        norm = np.linalg.norm(theta, axis=1)
        on_boundary = norm >= self.B * (1 - 1e-9)
        inward = -(gradient * theta).sum(axis=1) / np.maximum(norm**2, 1e-300)
        multiplier = np.where(on_boundary, np.maximum(inward, 0.0), 0.0)
        residual = np.linalg.norm(gradient + multiplier[:, None] * theta, axis=1)
        gap = (gradient * theta).sum(axis=1) + self.B * np.linalg.norm(gradient, axis=1)
        dead = (size == 0) & (counts.sum(axis=1) > 0)
        return {
            "multiplier": multiplier,
            "certificate": np.maximum(gap, 0.0),
            # A row whose every term underflowed is not certified.
            "kkt_residual": np.where(dead, np.inf, residual / np.maximum(size, 1e-300)),
            "on_boundary": on_boundary,
        }


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
    if not isinstance(data, Comparisons):
        raise ValueError(f"data must be Comparisons: got {type(data).__name__}")
    lead, T = data.counts.shape[:-1], data.counts.shape[-1]
    wins, losses = data.wins.reshape(-1, T), data.losses.reshape(-1, T)
    unit = data.z / np.maximum(np.linalg.norm(data.z, axis=1, keepdims=True), 1e-300)
    unit = np.where(np.linalg.norm(data.z, axis=1, keepdims=True) > 0, unit, 0.0)
    known: dict[bytes, bool] = {}
    answers = []
    for won, lost in zip(wins > 0, losses > 0):
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
    if not isinstance(data, Comparisons):
        raise ValueError(f"data must be Comparisons: got {type(data).__name__}")
    lead, T = data.counts.shape[:-1], data.counts.shape[-1]
    K = int(data.pairs[:, 2].max(initial=0)) + 1
    first = data.pairs[:, 0] * K + data.pairs[:, 1]
    second = data.pairs[:, 0] * K + data.pairs[:, 2]
    size = int(second.max(initial=0)) + 1
    answers = []
    for wins, losses in zip(data.wins.reshape(-1, T) > 0, data.losses.reshape(-1, T) > 0):
        tail = np.concatenate([first[wins], second[losses]])
        head = np.concatenate([second[wins], first[losses]])
        graph = coo_array((np.ones(len(tail)), (tail, head)), shape=(size, size)).tocsr()
        strong, _ = connected_components(graph, directed=True, connection="strong")
        weak, _ = connected_components(graph, directed=False)
        answers.append(strong == weak)
    return np.array(answers, dtype=bool).reshape(lead)
