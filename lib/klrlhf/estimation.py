r"""Maximum likelihood for Bradley-Terry comparisons over the ball :math:`\|\theta\|\le B`, batched.

What lives here: the likelihood and its derivatives on win counts, the batched Newton solver of the
ball-constrained problem with its certificates, and the tests of existence of an unconstrained MLE.
What does not: confidence (``confidence``).

The solver minimizes, in each step, the second-order model of the likelihood over the ball (one
linear solve, or the secular equation when the ball is active) and takes the whole step if no
margin changes by more than 1, else the fraction ``log(1 + r) / r``, ``r`` being the largest change.
The second derivative of the logistic loss changes by at most a factor ``e^s`` when margins change
by at most ``s``, so a step of curvature ``q`` changes the likelihood by at most
``q ((e^r - 1 - r) / r^2 - 1)``, negative for ``r <= 1``: descent is certain without evaluating the
likelihood, and near the optimum the convergence is quadratic.
Batches start from the fit of all their data together: replicates of one experiment are near it.
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
# Rows of one block of replicates: their arrays together fit in a core's second-level cache.
BLOCK_ENTRIES = 2**15
# A full Newton step whose largest change of a margin is r shrinks the error, in the norm of the
# Hessian, by a factor below r: after a step of 1e-6 the error is below 1e-12. Where weights may
# underflow, steps must have stopped altogether.
STEP_TOLERANCE = 1e-6
CAREFUL_STEP_TOLERANCE = 1e-8
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


def _packed(z: np.ndarray) -> np.ndarray:
    """Upper triangles of ``z z'``, one row per pair: a weighted Gram matrix is one product."""
    rows, columns = np.triu_indices(z.shape[1])
    return z[:, rows] * z[:, columns]


def _triangle_positions(d: int) -> np.ndarray:
    """Where entry (i, j) of a symmetric matrix stands in its packed upper triangle."""
    rows, columns = np.triu_indices(d)
    position = np.empty((d, d), dtype=np.intp)
    position[rows, columns] = position[columns, rows] = np.arange(len(rows))
    return position


def _weighted_gram(weights: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (weights @ _packed(z))[..., _triangle_positions(z.shape[1])]


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
    basis = _span(data.z)
    z = data.z @ basis
    # One scale for all margins keeps the arithmetic away from under- and overflow.
    unit = float(np.abs(z).max(initial=0.0)) or 1.0
    z, radius = z / unit, B * unit
    problem = _Problem(z, radius)
    R, d = len(counts), z.shape[1]
    theta, settled = np.zeros((R, d)), np.zeros(R, dtype=bool)
    fit = {name: np.zeros(R) for name in ("multiplier", "certificate", "kkt_residual")}
    fit["on_boundary"] = np.zeros(R, dtype=bool)
    start = problem.pooled_start(counts, wins) if R >= POOLED_FROM else None
    steps, block = 0, max(24, BLOCK_ENTRIES // max(T, 1))
    for first in range(0, R, block):
        part = slice(first, first + block)
        theta[part], settled[part], used = problem.solve(
            counts[part], wins[part], max_iterations, start)
        for name, values in problem.certify(theta[part], counts[part], wins[part]).items():
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
        self.packed, self.position = _packed(z), _triangle_positions(self.d)
        self.norms = np.linalg.norm(z, axis=1)
        # Margins are kept as u/2, the argument of the tanh that carries the logistic function.
        # A residual n sigma(u) - w is (n/2) tanh(u/2) - (w - n/2); a weight n sigma'(u) is half of
        # (n/2)(1 - tanh^2(u/2)), and the packed products carry that half.
        self.half_zt, self.half_packed = 0.5 * np.ascontiguousarray(z.T), 0.5 * self.packed
        self.arrays = None

    def is_large(self, v):
        """Whether some half-margins leave the range of tanh."""
        return v.size > 0 and 2 * max(v.max(), -v.min()) > TANH_MARGIN

    def derivatives(self, v, half, excess, residual, weights, spare, large):
        """Residuals and twice the Hessian weights per pair, written into ``residual, weights``."""
        if large:
            high, low = expit(2 * v), expit(-2 * v)
            residual[:] = (half - excess) * high - (half + excess) * low
            np.multiply(4 * half, high * low, out=weights)
            return
        t = np.tanh(v, out=spare)
        np.multiply(half, t, out=residual)
        np.multiply(residual, t, out=weights)
        np.subtract(half, weights, out=weights)
        residual -= excess

    def memory(self, rows: int) -> list[np.ndarray]:
        """Six arrays (rows, T), the same ones for every block: fresh memory is slow."""
        if self.arrays is None or self.arrays.shape[1] < rows:
            self.arrays = np.empty((6, rows, len(self.z)))
        return list(self.arrays[:, :rows])

    def pooled_start(self, counts, wins):
        """The fit of all replicates' data together: near every row's own if they are alike."""
        theta, settled, _ = self.solve(counts.sum(axis=0)[None], wins.sum(axis=0)[None], 30)
        return theta[0] if settled[0] and not self.is_large(theta @ self.half_zt) else None

    def solve(self, counts, wins, max_iterations, start=None):
        """Newton steps on all rows until every row's margins have settled.

        Returns the estimates, which rows have settled, and the number of steps.
        """
        R = len(counts)
        theta, settled = np.zeros((R, self.d)), np.zeros(R, dtype=bool)
        if self.d == 0 or R == 0:
            return theta, ~settled, 0
        rows, busy = np.arange(R), np.ones(R, dtype=bool)
        half, excess, margins, residual, weights, change = self.memory(R)
        np.multiply(counts, 0.5, out=half)
        np.subtract(wins, half, out=excess)
        null = self.null_projectors(counts)
        current = np.zeros((R, self.d))
        # The estimate of least norm is reached from zero only.
        warm = start is not None and null is None
        if warm:
            current += start
        np.matmul(current, self.half_zt, out=margins)
        for step in range(1, max_iterations + 1):
            large = self.is_large(margins)
            self.derivatives(margins, half, excess, residual, weights, change, large)
            H = (weights @ self.half_packed)[:, self.position]
            if null is not None:
                H += null * np.maximum(np.trace(H, axis1=1, axis2=2), 1e-300)[:, None, None]
            move = self.model_minimizer(H, residual @ self.z, current, large)
            np.matmul(move, self.half_zt, out=change)
            r = 2 * np.maximum(change.max(axis=1), -change.min(axis=1))
            if warm and step == 1 and (r > 1).any():
                # Unlike the rest: such rows start again at zero, from where descent is certain.
                far = r > 1
                move[far], change[far] = -current[far], -margins[far]
            elif (r > 1).any():
                fraction = np.where(r > 1, np.log1p(r) / np.maximum(r, 1.0), 1.0)[:, None]
                move *= fraction
                change *= fraction
            if not busy.all():
                # A settled row rests: more steps would only move it by rounding errors.
                move[~busy] = 0.0
                change[~busy] = 0.0
            current += move
            margins += change
            busy &= r > (CAREFUL_STEP_TOLERANCE if large else STEP_TOLERANCE)
            left = np.count_nonzero(busy)
            if left == 0:
                break
            # Leaving a few settled rows in costs less than moving the others.
            if left <= len(rows) // 2:
                done = rows[~busy]
                theta[done], settled[done] = current[~busy], True
                rows, current = rows[busy], current[busy]
                for array in (margins, half, excess):
                    array[:left] = array[busy]
                half, excess, margins, residual, weights, change = self.memory(left)
                null = None if null is None else null[busy]
                busy = np.ones(left, dtype=bool)
        theta[rows], settled[rows] = current, ~busy
        return self.into_ball(theta), settled, step

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
        values, vectors = np.linalg.eigh((seen @ self.packed)[:, self.position])
        # Squares of singular values: the machine's precision here is its root in the features.
        floor = 16 * self.d * np.finfo(float).eps
        idle = values <= floor * np.maximum(values[:, -1:], 1e-300)
        kept = np.where(idle[:, None, :], vectors, 0.0)
        projectors[gaps] = kept @ np.swapaxes(kept, 1, 2)
        return projectors if idle.any() else None

    def model_minimizer(self, H, gradient, theta, large):
        """The step to the minimizer of the quadratic model over the ball, row by row."""
        if large:
            # Rows may differ by hundreds of orders of magnitude (separable data).
            H, gradient = _unit_trace(H, gradient)
        try:
            move = -np.linalg.solve(H, gradient[..., None])[..., 0]
        except np.linalg.LinAlgError:
            H, gradient = _unit_trace(H, gradient)
            move = -np.linalg.solve(H + 1e-12 * np.eye(self.d), gradient[..., None])[..., 0]
        target = theta + move
        outside = ~((target * target).sum(axis=1) <= self.B**2)
        if outside.any():
            H, gradient = _unit_trace(H[outside], gradient[outside])
            b = (H @ theta[outside][..., None])[..., 0] - gradient
            move[outside] = self.on_sphere(H, b) - theta[outside]
        return move

    def on_sphere(self, H, b):
        """Solve ``(H + mu I) theta = b``, ``|theta| = B``: Newton in mu on 1/B - 1/|theta|."""
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
        half, excess, v, residual, *_ = self.memory(len(theta))
        np.multiply(counts, 0.5, out=half)
        np.subtract(wins, half, out=excess)
        np.matmul(theta, self.half_zt, out=v)
        if self.is_large(v):
            up, down = (half - excess) * expit(2 * v), (half + excess) * expit(-2 * v)
            gradient, size = (up - down) @ self.z, (up + down) @ self.norms
        else:
            np.tanh(v, out=v)
            np.multiply(half, v, out=residual)
            residual -= excess
            gradient = residual @ self.z
            half -= np.multiply(excess, v, out=excess)
            size = half @ self.norms
        # The gradient is a sum of terms of total length ``size``: below eps times it is rounding.
        norm, steepness = _norm(theta), _norm(gradient)
        slope = (gradient * theta).sum(axis=1)
        on_boundary = norm >= self.B * (1 - 1e-9)
        inward = -slope / np.maximum(norm**2, 1e-300)
        multiplier = np.where(on_boundary, np.maximum(inward, 0.0), 0.0)
        residual = _norm(gradient + multiplier[:, None] * theta)
        dead = (size == 0) & (counts @ self.norms > 0)
        return {
            "multiplier": multiplier,
            "certificate": np.maximum(slope + self.B * steepness, 0.0),
            # A row whose every term underflowed is not certified.
            "kkt_residual": np.where(dead, np.inf, residual / np.maximum(size, 1e-300)),
            "on_boundary": on_boundary,
        }


def _norm(vectors):
    return np.sqrt(np.einsum("ij,ij->i", vectors, vectors))


def _unit_trace(H, gradient):
    size = np.maximum(np.trace(H, axis1=1, axis2=2), 1e-300)
    return H / size[:, None, None], gradient / size[:, None]


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
