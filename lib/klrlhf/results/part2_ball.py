r"""Checks of part II, item 2.1: the estimate over a ball, its certificate and its solver.

What lives here: a slow reference solver (bisection for the multiplier, no shortcuts), written from
the book's algorithm and independent of ``estimation``, and the checks that use it.
What does not: existence without the ball (``part2_existence``).
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from klrlhf.estimation import fit_mle, frank_wolfe_gap, hessian, mle_exists
from klrlhf.preferences import Comparisons
from klrlhf.results.part2_existence import (
    gradient,
    index_pairs,
    lattice,
    loss,
    sparse_votes,
    take,
)
from klrlhf.results.part2_likelihood import random_votes, row_gradient, row_loss
from klrlhf.results.registry import result


def gain(r):
    """psi(r) = ((1 + r) log(1 + r) - r) / r^2, with its series near 0."""
    r = np.asarray(r, float)
    safe = np.maximum(r, 1e-3)
    return np.where(
        r < 1e-3, 0.5 - r / 6 + r**2 / 12, ((1 + safe) * np.log1p(safe) - safe) / safe**2
    )


def ball_step(H, g, theta, B):
    """The minimizer of the quadratic model over the ball, by bisection; batched."""
    size = np.trace(H, axis1=1, axis2=2) / H.shape[-1]
    values, vectors = np.linalg.eigh(H)
    values = np.maximum(values, 1e-14 * size[:, None])
    right = np.einsum("nij,nj->ni", H, theta) - g
    coordinates = np.einsum("nij,ni->nj", vectors, right)
    low = np.zeros(len(H))
    high = np.linalg.norm(right, axis=1) / B + 1e-300
    inside = np.linalg.norm(coordinates / values, axis=1) <= B
    for _ in range(120):
        middle = 0.5 * (low + high)
        long = np.linalg.norm(coordinates / (values + middle[:, None]), axis=1) > B
        low, high = np.where(long, middle, low), np.where(long, high, middle)
    multiplier = np.where(inside, 0.0, high)
    target = np.einsum("nij,nj->ni", vectors, coordinates / (values + multiplier[:, None]))
    return target - theta


def random_points(rng, size, d, B):
    """Points of the ball: inside, near the centre, on the sphere."""
    direction = rng.standard_normal((size, d))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = rng.choice([1e-3, 0.3, 0.9, 1.0], size) * rng.choice([1.0, 0.999], size)
    return direction * (B * radius)[:, None] if np.ndim(B) else direction * B * radius[:, None]


def some_votes(rng, size):
    """Shared integer features, sparse or plentiful votes, separable or not."""
    d = int(rng.choice([1, 2, 3]))
    z = lattice(d, 2 if d < 3 else 1) * 10.0 ** rng.uniform(-0.5, 0.3)
    data = sparse_votes(rng, size, z, most=len(z))
    if rng.random() < 0.3:
        data = Comparisons(data.pairs, z, data.counts * 1000, data.wins * 1000)
    return data


@result(
    "ball-mle-exists",
    part="II",
    item="2.1",
    kind="inequality",
    title="The ball-constrained estimate",
    source="standard; this book",
    depends=("bt-likelihood", "mle-existence"),
)
def ball_mle_exists(check):
    """A minimizer over the ball exists, is characterized by KKT, and is unique on the sphere."""
    for rng, size in check.batches(12_000, fast=1_500, size=500):
        data, B = some_votes(rng, size), float(10.0 ** rng.uniform(-1, 0.6))
        fit = fit_mle(data, B=B)
        g, norm = gradient(fit.theta, data), np.linalg.norm(fit.theta, axis=1)
        bulk = (data.counts * np.linalg.norm(data.z, axis=1)).sum(1)
        check.inequality("step 1: in the ball", norm, B, tol=1e-9)
        at_minimum = loss(fit.theta, data)
        for _ in range(20):
            other = random_points(rng, size, data.z.shape[1], B)
            check.inequality(
                "claim: no point of the ball is better",
                at_minimum,
                loss(other, data),
                scale=data.n,
                tol=1e-12,
            )
        check.identity(
            "claim: KKT (step 2)",
            g + fit.multiplier[:, None] * fit.theta,
            0.0,
            scale=bulk[:, None],
            tol=1e-8,
        )
        check.identity(
            "step 2: multiplier is |g| / B",
            fit.multiplier * B,
            np.linalg.norm(g, axis=1),
            scale=bulk,
            tol=1e-8,
        )
        check.identity(
            "step 2: complementary", fit.multiplier * (B - norm), 0.0, scale=bulk, tol=1e-9
        )
        # Inside exactly when an unconstrained estimate fits: compare with a larger ball.
        wide = fit_mle(data, B=2 * B)
        least = np.linalg.norm(wide.theta, axis=1)
        clear = np.abs(least - B) > 1e-4 * B
        check.holds(
            "claim: on the sphere iff no estimate inside (step 3)",
            (np.asarray(fit.on_boundary) == (least > B))[clear],
        )
        free = clear & (least < B)
        check.holds("step 3: inside means it exists", np.asarray(mle_exists(take(data, free))))
        check.identity(
            "step 3: inside means equal", fit.theta[free], wide.theta[free], scale=B, tol=1e-6
        )
        # A general-purpose optimizer as an independent judge of the point itself.
        for k in range(0, size, 100):
            one = take(data, [k])
            found = minimize(
                lambda v, one=one: loss(v[None], one)[0] / one.n[0],
                np.zeros(data.z.shape[1]),
                jac=lambda v, one=one: gradient(v[None], one)[0] / one.n[0],
                method="SLSQP",
                constraints={
                    "type": "ineq",
                    "fun": lambda v, B=B: B**2 - v @ v,
                    "jac": lambda v: -2 * v,
                },
                options={"ftol": 1e-15, "maxiter": 300},
            )
            check.inequality(
                "claim: a general optimizer is not better",
                at_minimum[k] / data.n[k],
                found.fun,
                tol=1e-7,
                scale=1.0,
            )
            if fit.multiplier[k] > 1e-3 * bulk[k]:
                check.identity(
                    "step 3: unique on the sphere", fit.theta[k], found.x, scale=B, tol=1e-3
                )


@result(
    "frank-wolfe-certificate",
    part="II",
    item="2.1",
    kind="inequality",
    title="Frank-Wolfe certificate",
    source="Jaggi 2013; part 3: this book",
    depends=("bt-likelihood", "ball-mle-exists"),
)
def frank_wolfe_certificate(check):
    """The gap <g, theta> + B |g| bounds the excess loss and, over gamma, the squared distance."""
    for rng, size in check.batches(20_000, fast=2_000):
        data, B = some_votes(rng, size), float(10.0 ** rng.uniform(-1, 0.6))
        best = fit_mle(data, B=B).theta
        near = rng.random(size) < 0.5
        theta = random_points(rng, size, data.z.shape[1], B)
        theta = np.where(near[:, None], best + 0.1 * rng.random((size, 1)) * (theta - best), theta)
        g = gradient(theta, data)
        gap = (g * theta).sum(1) + B * np.linalg.norm(g, axis=1)
        bulk = B * (data.counts * np.linalg.norm(data.z, axis=1)).sum(1)
        check.identity(
            "claim: the library's gap", frank_wolfe_gap(theta, data, B), gap, scale=bulk, tol=1e-13
        )
        worst = -B * g / np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-300)
        check.identity(
            "step 1: what the gap is", (g * (theta - worst)).sum(1), gap, scale=bulk, tol=1e-13
        )
        for _ in range(5):
            other = random_points(rng, size, data.z.shape[1], B)
            check.inequality(
                "step 1: largest over the ball",
                (g * (theta - other)).sum(1),
                gap,
                scale=bulk,
                tol=1e-12,
            )
            check.inequality(
                "step 2: tangent",
                loss(theta, data) + (g * (other - theta)).sum(1),
                loss(other, data),
                scale=bulk,
                tol=1e-12,
            )
        check.inequality(
            "claim: excess loss",
            loss(theta, data) - loss(best, data),
            gap,
            scale=data.n + bulk,
            tol=1e-12,
        )
        L = np.linalg.norm(data.z, axis=1).max()
        gamma = 1 / (2 + np.exp(L * B) + np.exp(-L * B))
        apart = (data.counts * ((theta - best) @ data.z.T) ** 2).sum(1)
        slope = ((g - gradient(best, data)) * (theta - best)).sum(1)
        check.inequality(
            "step 3: distance, curvature", gamma * apart, slope, scale=1e-6 * bulk, tol=1e-9
        )
        check.inequality("claim: squared distance", gamma * apart, gap, scale=bulk, tol=1e-9)
    # Both are attained in the limit: one pair whose estimate is -B, judged from the far end +B.
    N = 10.0 ** np.arange(4, 10)
    W = N / 2 - np.floor(np.sqrt(N))
    data = Comparisons(index_pairs(1), np.ones((1, 1)), N[:, None], W[:, None])
    B = np.log(N - W) - np.log(W)
    g = gradient(B[:, None], data)[:, 0]
    gamma = expit(B) * expit(-B)
    ratio = gamma * N * (2 * B) ** 2 / (2 * B * g)
    check.ratio("claim: squared distance, attained", ratio)
    check.at_least("claim: squared distance, attained in the limit", ratio.max(), 0.9999)


@result(
    "newton-damping",
    part="II",
    item="2.1",
    kind="inequality",
    title="A step length that needs no line search",
    source="Bach 2010; Sun and Tran-Dinh 2019",
    depends=("bt-likelihood",),
)
def newton_damping(check):
    """The fraction log(1 + r) / r of a Newton step gains at least <-g, p> psi(r)."""
    for rng, size in check.batches(20_000, fast=2_000):
        theta, z, sign, _ = random_votes(rng, size)
        g = row_gradient(theta, z, sign)
        u = np.einsum("Nd,Nnd->Nn", theta, z)
        H = np.einsum("Nn,Nni,Nnj->Nij", expit(u) * expit(-u), z, z)
        B = np.linalg.norm(theta, axis=1) * rng.uniform(1, 3, size) + 1e-9
        size_H = np.trace(H, axis1=1, axis2=2)
        flat = size_H < 1e-12 * (np.linalg.norm(z, axis=-1) ** 2).sum(1)
        p = _steps(H, g, theta, B)
        decrement = np.einsum("Ni,Nij,Nj->N", p, H, p)
        drop = -(g * p).sum(1)
        check.inequality(
            "step 4: the hypothesis",
            decrement[~flat],
            drop[~flat],
            scale=(1e-3 * np.linalg.norm(g, axis=1) * np.linalg.norm(p, axis=1))[~flat],
            tol=1e-7,
        )
        # The lemma needs only the hypothesis: shorten steps that rounding pushed over the edge.
        p = p * np.minimum(1.0, drop / np.maximum(decrement, 1e-300))[:, None]
        change = np.einsum("Nd,Nnd->Nn", p, z)
        r = np.maximum(np.abs(change).max(1), 1e-12)
        decrement, drop = np.einsum("Ni,Nij,Nj->N", p, H, p), -(g * p).sum(1)
        start, bulk = row_loss(theta, z, sign), 1 + np.abs(u).sum(1) + np.abs(change).sum(1)
        for fraction in (0.2, 1.0, 2.0):
            t = fraction * np.log1p(r) / r
            moved = u + t[:, None] * change
            along = (expit(moved) * expit(-moved) * change**2).sum(1)
            with np.errstate(over="ignore"):
                check.inequality(
                    "step 1: curvature along the step", along, np.exp(r * t) * decrement, tol=1e-9
                )
            model = (
                start
                - t * drop
                + decrement
                * np.where(
                    r * t < 1e-4, t**2 / 2 * (1 + r * t / 3), (np.expm1(r * t) - r * t) / r**2
                )
            )
            check.inequality(
                "step 2: integrate twice",
                row_loss(theta + t[:, None] * p, z, sign),
                model,
                scale=bulk,
                tol=1e-12,
            )
        t = np.log1p(r) / r
        after = row_loss(theta + t[:, None] * p, z, sign)
        check.inequality("claim", drop * gain(r), start - after, scale=bulk, tol=1e-12)
    r = 10.0 ** np.linspace(-6, 6, 2_000)
    t = np.log1p(r) / r
    safe = r > 1e-2
    check.identity(
        "step 3: best step", (t - (np.expm1(r * t) - r * t) / r**2)[safe], gain(r)[safe], tol=1e-10
    )
    s = (np.arange(4_000) + 0.5) / 4_000
    integral = ((1 - s) / (1 + r[::20, None] * s)).mean(axis=1)
    small = r[::20] < 100
    check.identity("step 3: psi as an integral", integral[small], gain(r[::20])[small], tol=1e-5)
    check.holds("step 3: psi decreases", np.diff(gain(r)) < 0)


def _steps(H, g, theta, B):
    """``ball_step`` with a radius per row."""
    scale = B[:, None]
    return ball_step(H * scale[..., None] ** 2, g * scale, theta / scale, 1.0) * scale


@result(
    "ball-newton-converges",
    part="II",
    item="2.1",
    kind="inequality",
    title="The damped ball-Newton method converges",
    source="this book",
    depends=("newton-damping", "frank-wolfe-certificate"),
)
def ball_newton_converges(check):
    """Iterates stay in the ball, the loss never increases, the certificate tends to zero."""
    for rng, size in check.batches(10_000, fast=1_000, size=500):
        data, B = some_votes(rng, size), float(10.0 ** rng.uniform(-1, 0.6))
        L, n = np.linalg.norm(data.z, axis=1).max(), data.n
        theta = random_points(rng, size, data.z.shape[1], B)
        start, drops, fit = loss(theta, data), [], fit_mle(data, B=B)
        floor = np.minimum(gain(2 * L * B), 3 - np.e)
        for k in range(1, 61):
            g, H = gradient(theta, data), hessian(theta, data)
            p = ball_step(H, g, theta, B)
            drop = np.maximum(-(g * p).sum(1), 0.0)
            drops.append(drop)
            gap = (g * theta).sum(1) + B * np.linalg.norm(g, axis=1)
            bulk = n * (1 + L * B)
            check.inequality(
                "claim: certificate (step 3)",
                gap,
                drop + B * L * np.sqrt(n * drop),
                scale=bulk,
                tol=1e-6,
            )
            r = np.abs(p @ data.z.T * (data.counts > 0)).max(1)
            full = (r < 1e-3) | (rng.random(size) < 0.2) & (r <= 1)
            t = np.where(full, 1.0, np.log1p(r) / np.maximum(r, 1e-300))
            new = theta + t[:, None] * p
            check.inequality(
                "claim: in the ball (step 1)", np.linalg.norm(new, axis=1), B, tol=1e-9
            )
            check.inequality(
                "claim: descent (step 1)",
                loss(new, data) + floor * drop,
                loss(theta, data),
                scale=bulk,
                tol=1e-10,
            )
            theta = new
            if k in (1, 4, 16, 60):
                check.inequality(
                    "claim: rate (step 2)",
                    np.min(drops, axis=0),
                    (start - loss(fit.theta, data)) / (k * floor),
                    scale=bulk,
                    tol=1e-10,
                )
        g = gradient(theta, data)
        gap = (g * theta).sum(1) + B * np.linalg.norm(g, axis=1)
        check.inequality("claim: certificate after 60 steps", gap, 0.0, scale=bulk, tol=1e-7)
        check.identity(
            "claim: the library finds the same loss",
            loss(fit.theta, data),
            loss(theta, data),
            scale=bulk,
            tol=1e-9,
        )
