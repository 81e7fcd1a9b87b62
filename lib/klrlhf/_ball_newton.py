r"""The batched Newton iteration behind ``fit_mle``.

The solver minimizes, in each step, the second-order model of the likelihood over the ball (one
linear solve, or the secular equation when the ball is active) and takes the whole step if no
margin changes by more than 1, else the fraction ``log(1 + r) / r``, ``r`` being the largest change.
The second derivative of the logistic loss changes by at most a factor ``e^s`` when margins change
by at most ``s``, so a step of curvature ``q`` changes the likelihood by at most
``q ((e^r - 1 - r) / r^2 - 1)``, negative for ``r <= 1``: descent is certain without evaluating the
likelihood, and near the optimum the convergence is quadratic.
Batches start from the fit of all their data together: replicates of one experiment are near it.

What lives here: the iteration on plain arrays, rows being replicates.
What does not: validation, data formats and what is done with a row that fails (``estimation``).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

# Margins below this let tanh carry the logistic function; above, 1 - tanh has lost its digits.
TANH_MARGIN = 12.0
# A full Newton step whose largest change of a margin is r shrinks the error, in the norm of the
# Hessian, by a factor below r: after a step of 1e-6 the error is below 1e-12. Where weights may
# underflow, steps must have stopped altogether.
STEP_TOLERANCE = 1e-6
CAREFUL_STEP_TOLERANCE = 1e-8
# Where eliminating systems side by side beats LAPACK, and the least pivot it may meet, relative to
# the diagonal: above it the error of a step stays below that of the convergence test.
ROWS_SIDE_BY_SIDE, LARGEST_SIDE_BY_SIDE = 200, 5
SMALLEST_PIVOT = 1e-8


def packed_products(z: np.ndarray) -> np.ndarray:
    """Upper triangles of ``z z'``, one row per pair: a weighted Gram matrix is one product."""
    T, d = z.shape
    # Whole rows of memory: many times faster than gathering columns of z.
    zt, packed, start = np.ascontiguousarray(z.T), np.empty((d * (d + 1) // 2, T)), 0
    for i in range(d):
        np.multiply(zt[i], zt[i:], out=packed[start : start + d - i])
        start += d - i
    return packed.T


def triangle_positions(d: int) -> np.ndarray:
    """Where entry (i, j) of a symmetric matrix stands in its packed upper triangle."""
    rows, columns = np.triu_indices(d)
    position = np.empty((d, d), dtype=np.intp)
    position[rows, columns] = position[columns, rows] = np.arange(len(rows))
    return position


def span_basis(z: np.ndarray) -> np.ndarray:
    """Orthonormal basis (d, rank) of the span of the rows of ``z``."""
    d = z.shape[1]
    _, singular, right = np.linalg.svd(z, full_matrices=False)
    rank = int((singular > singular.max(initial=0.0) * 1e-11).sum())
    return np.eye(d) if rank == d else right[:rank].T


def ball_step(H, gradient, theta, B):
    """The step to the minimizer of the quadratic model over the ball of radius B, row by row."""
    # A Hessian that vanishes beside its gradient sends the step out of the ball, wherever to.
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            move = -solve_rows(H, gradient)
        except np.linalg.LinAlgError:
            # No row may depend on who shares its batch: each singular one gets its own ridge.
            H, gradient = _unit_size(H, gradient, B)
            move = np.stack([_solve_or_ridge(*row) for row in zip(H, -gradient, strict=True)])
        target = theta + move
        outside = ~((target * target).sum(axis=1) <= B * B)
    if outside.any():
        H, gradient = _unit_size(H[outside], gradient[outside], B)
        b = (H @ theta[outside][..., None])[..., 0] - gradient
        move[outside] = on_sphere(H, b, B) - theta[outside]
    return move


def solve_rows(H, b):
    """Solve ``H x = b`` for every row; the matrices are symmetric positive definite.

    Many small systems are eliminated side by side, replicates along the last axis: LAPACK, called
    once per matrix, spends most of its time on being called. Rows whose pivots do not stay well
    above rounding go to LAPACK all the same.
    """
    R, d = b.shape
    if R < ROWS_SIDE_BY_SIDE or d > LARGEST_SIDE_BY_SIDE:
        return np.linalg.solve(H, b[..., None])[..., 0]
    # The right-hand side is one more column of the matrix.
    A = np.empty((d, d + 1, R))
    A[:, :d], A[:, d] = np.moveaxis(H, 0, -1), b.T
    x = A[:, d]
    diagonal = np.einsum("iir->ir", A[:, :d])
    least = SMALLEST_PIVOT * diagonal
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for j in range(d - 1):
            A[j + 1:, j + 1:] -= (A[j + 1:, j] / A[j, j])[:, None] * A[j, j + 1:]
        for j in range(d - 1, 0, -1):
            x[j] /= A[j, j]
            x[:j] -= A[:j, j] * x[j]
        x[0] /= A[0, 0]
    # What was the diagonal holds the pivots now.
    safe, x = (diagonal > least).all(axis=0), x.T
    if not safe.all():
        x[~safe] = np.linalg.solve(H[~safe], b[~safe][..., None])[..., 0]
    return x


def _solve_or_ridge(H, b):
    for ridge in (0.0, 1e-12, 1e-9):
        try:
            return np.linalg.solve(H + ridge * np.eye(len(b)), b)
        except np.linalg.LinAlgError:
            continue
    return np.full(len(b), np.inf)


def on_sphere(H, b, B):
    """Solve ``(H + mu I) theta = b``, ``|theta| = B``: Newton in mu on 1/B - 1/|theta|."""
    values, vectors = np.linalg.eigh(H)
    values = np.maximum(values, 1e-16)
    c2 = (np.swapaxes(vectors, 1, 2) @ b[..., None])[..., 0]
    square = c2**2
    # |theta(mu)| >= |b| / (max eigenvalue + mu) gives a start from which Newton is monotone.
    mu = np.maximum(_norm(b) / B - values[:, -1], 0.0)[:, None]
    for _ in range(60):
        shifted = values + mu
        norm2 = (square / shifted**2).sum(axis=1, keepdims=True)
        norm = np.sqrt(norm2)
        slope = (square / shifted**3).sum(axis=1, keepdims=True)
        update = norm2 / np.maximum(slope, 1e-300) * (norm - B) / B
        mu = np.maximum(mu + update, 0.0)
        if (np.abs(update) <= 1e-15 * (mu + values[:, :1])).all():
            break
    theta = (vectors @ (c2 / (values + mu))[..., None])[..., 0]
    return theta * (B / np.maximum(_norm(theta)[:, None], 1e-300))


def damping(r):
    """The fraction of a step that is safe when it changes a margin by at most ``r``."""
    return np.where(r > 1, np.log1p(r) / np.maximum(r, 1.0), 1.0)


class BallProblem:
    """The likelihood over the ball for one set of features; replicates are rows."""

    def __init__(self, z: np.ndarray, B: float):
        self.z, self.B, self.d = z, B, z.shape[1]
        self.half_packed, self.position = packed_products(z), triangle_positions(self.d)
        self.half_packed *= 0.5
        self.norms = np.linalg.norm(z, axis=1)
        self.longest = float(self.norms.max(initial=0.0))
        # Margins are kept as u/2, the argument of the tanh that carries the logistic function.
        # A residual n sigma(u) - w is (n/2) tanh(u/2) - (w - n/2); a weight n sigma'(u) is half of
        # (n/2)(1 - tanh^2(u/2)), and the packed products carry that half.
        self.half_zt = 0.5 * np.ascontiguousarray(z.T)
        self.arrays = self.loaded = None

    def is_large(self, theta, v):
        """Whether some of the half-margins ``v`` of ``theta`` leave the range of tanh."""
        # A bound by lengths spares the look at every margin.
        if _norm(theta).max(initial=0.0) * self.longest <= TANH_MARGIN:
            return False
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
            self.arrays, self.loaded = np.empty((6, rows, len(self.z))), None
        return list(self.arrays[:, :rows])

    def load(self, counts, wins, half, excess):
        """Write half the counts, and the wins above them, unless these are what stands there."""
        if self.loaded is not None and self.loaded[0] is counts and self.loaded[1] is wins:
            return
        np.multiply(counts, 0.5, out=half)
        np.subtract(wins, half, out=excess)
        self.loaded = counts, wins

    def pooled_start(self, counts, wins):
        """The fit of all replicates' data together: near every row's own if they are alike."""
        # Rows differ from it by their noise anyway: a rough fit does.
        pooled = counts.sum(axis=0)[None], wins.sum(axis=0)[None]
        theta, settled, _ = self.solve(*pooled, 30, tolerance=0.3)
        return theta[0] if settled[0] and not self.is_large(theta, theta @ self.half_zt) else None

    def solve(self, counts, wins, max_iterations, start=None, tolerance=STEP_TOLERANCE):
        """Newton steps on all rows until every row's margins have settled.

        Returns the estimates, which rows have settled, and the number of steps.
        """
        R = len(counts)
        theta, settled = np.zeros((R, self.d)), np.zeros(R, dtype=bool)
        if self.d == 0 or R == 0:
            return theta, ~settled, 0
        rows, busy = np.arange(R), np.ones(R, dtype=bool)
        half, excess, margins, residual, weights, change = self.memory(R)
        self.load(counts, wins, half, excess)
        null = self.null_projectors(counts)
        current = np.zeros((R, self.d))
        # The estimate of least norm is reached from zero only.
        warm = start is not None and null is None
        if warm:
            current += start
            self.common_step(current, half, excess)
        step = 1 if warm else 0
        np.matmul(current, self.half_zt, out=margins)
        while step < max_iterations:
            step += 1
            large = self.is_large(current, margins)
            self.derivatives(margins, half, excess, residual, weights, change, large)
            H = self.hessian(weights)
            if null is not None:
                H += null * np.maximum(np.trace(H, axis1=1, axis2=2), 1e-300)[:, None, None]
            move = self.model_minimizer(H, residual @ self.z, current, large)
            np.matmul(move, self.half_zt, out=change)
            r = self.largest_change(move)
            if (r > 1).any():
                fraction = damping(r)[:, None]
                move *= fraction
                change *= fraction
            if not busy.all():
                # A settled row rests: more steps would only move it by rounding errors.
                move[~busy] = 0.0
                change[~busy] = 0.0
            current += move
            margins += change
            busy &= r > (CAREFUL_STEP_TOLERANCE if large else tolerance)
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
                self.loaded = None
                half, excess, margins, residual, weights, change = self.memory(left)
                null = None if null is None else null[busy]
                busy = np.ones(left, dtype=bool)
        theta[rows], settled[rows] = current, ~busy
        return self.into_ball(theta), settled, step

    def hessian(self, weights):
        """Hessians (rows, d, d) from twice the weights per pair."""
        if self.d > LARGEST_SIDE_BY_SIDE:
            return (weights @ self.half_packed)[:, self.position]
        return self.unpacked(self.half_packed.T @ weights.T)

    def unpacked(self, columns):
        """Matrices (rows, d, d), stored with the rows last, from packed triangles in columns."""
        return np.moveaxis(columns[self.position], -1, 0)

    def largest_change(self, move):
        """The largest change of a margin, row by row; below 1 its bound by lengths will do."""
        r = _norm(move) * self.longest
        far = r > 1
        if far.any():
            r[far] = 2 * np.abs(move[far] @ self.half_zt).max(axis=1)
        return r

    def common_step(self, current, half, excess):
        """The first step from a start that all rows share: one row of margins serves them all."""
        v = current[:1] @ self.half_zt
        t = np.tanh(v)
        H = self.unpacked(((1.0 - t * t).T * self.half_packed).T @ half.T)
        gradient = half @ (t.T * self.z) - excess @ self.z
        move = self.model_minimizer(H, gradient, current, False)
        far = self.largest_change(move) > 1
        # Unlike the rest: such rows start again at zero, from where descent is certain.
        move[far] = -current[far]
        current += move

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
        values, vectors = np.linalg.eigh((seen @ self.half_packed)[:, self.position])
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
        return ball_step(H, gradient, theta, self.B)

    def certify(self, theta, counts, wins) -> dict:
        """Multiplier, KKT residual and Frank-Wolfe gap from one more gradient."""
        half, excess, v, residual, *_ = self.memory(len(theta))
        self.load(counts, wins, half, excess)
        np.matmul(theta, self.half_zt, out=v)
        if self.is_large(theta, v):
            up, down = (half - excess) * expit(2 * v), (half + excess) * expit(-2 * v)
            gradient, size = (up - down) @ self.z, (up + down) @ self.norms
        else:
            np.tanh(v, out=v)
            np.multiply(half, v, out=residual)
            residual -= excess
            gradient = residual @ self.z
            np.multiply(excess, v, out=v)
            size = np.subtract(half, v, out=v) @ self.norms
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


def _unit_size(H, gradient, B):
    """Rows scaled so that neither the trace of H nor the pull of the gradient on B exceeds 1."""
    pull = _norm(gradient) / B
    size = np.maximum(np.trace(H, axis1=1, axis2=2), np.maximum(pull, 1e-300))
    return H / size[:, None, None], gradient / size[:, None]
