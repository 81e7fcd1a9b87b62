r"""Checks of part II, item 2.2: the deterministic half of the confidence ellipsoid.

What lives here: random and extreme fits, and the three radii (sharp, approximate, usual), each with
the steps of its proof.
What does not: the tail bounds of the score (``part2_score_tails``) and asymptotics
(``part2_asymptotics``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from klrlhf.confidence import (
    confidence_radius,
    design_matrix,
    least_curvature,
    parameter_error,
    score_norm,
)
from klrlhf.estimation import fit_mle, frank_wolfe_gap
from klrlhf.preferences import Comparisons
from klrlhf.results.registry import result

# A fit is exact up to the solver's tolerance on margins, not to rounding error.
FIT_TOLERANCE = 1e-7


class Fits(NamedTuple):
    """Replicates (N, ...) that share their features z (T, d): data, truth, estimate, constants."""

    data: Comparisons
    theta_star: np.ndarray
    theta_hat: np.ndarray
    B: float
    L: float
    gamma: float
    reg: float


def in_ball(rng, size: int, d: int, B: float) -> np.ndarray:
    """Points (size, d) of the ball: inside, near the centre, and exactly on the sphere."""
    direction = rng.standard_normal((size, d))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = rng.choice([1.0, 0.999, 0.5, 0.01], size) * np.where(
        rng.random(size) < 0.5, 1.0, rng.random(size))
    return B * radius[:, None] * direction


def comparisons(z, counts, wins) -> Comparisons:
    """Data over features ``z`` that need not come from an instance; wins may be fractions.

    The deterministic results hold for any outcomes in [0, 1], so fractions are fair game.
    """
    rows = np.arange(len(z))
    pairs = np.stack([rows, 0 * rows, 0 * rows + 1], axis=1)
    return Comparisons._trusted(pairs, z, np.asarray(counts, float), np.asarray(wins, float))


def random_fits(rng, size: int, with_reg: bool = True) -> Fits:
    """``size`` fits with common features: any outcomes, any truth in the ball, ridge or none."""
    d = int(rng.integers(1, 5))
    T = int(rng.integers(d, d + 6))
    z = rng.standard_normal((T, d)) * 10.0 ** rng.uniform(-1, 0.3, (T, 1))
    if rng.random() < 0.3:
        z = np.tile(z[:1], (T, 1)) * rng.choice([-1.0, 1.0], (T, 1))  # one direction only
    L = float(np.linalg.norm(z, axis=1).max())
    LB = 10.0 ** rng.uniform(-2, 0.8)
    B = LB / L
    counts = np.floor(10.0 ** rng.uniform(0, 4, (size, T)))
    star = in_ball(rng, size, d, B)
    # Outcomes: from the model, from another point of the ball, or arbitrary.
    other = in_ball(rng, size, d, B)
    kind = rng.integers(0, 3, (size, 1))
    p = np.where(kind == 0, expit(star @ z.T), np.where(kind == 1, expit(other @ z.T),
                                                        rng.random((size, T))))
    wins = rng.binomial(counts.astype(np.int64), p).astype(float)
    data = comparisons(z, counts, wins)
    reg = 10.0 ** rng.uniform(-4, 3) if with_reg and rng.random() < 0.6 else 0.0
    hat = fit_mle(data, B).theta
    return Fits(data, star, hat, B, L, least_curvature(L, B), reg)


def gradient_terms(fits: Fits, theta) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of the loss at ``theta``, written row by row, and the size of its terms."""
    z, counts, wins = fits.data.z, fits.data.counts, fits.data.wins
    residual = counts * expit(theta @ z.T) - wins
    size = (counts * np.linalg.norm(z, axis=1)).sum(axis=1)
    return residual @ z, size


def loss(theta, data) -> np.ndarray:
    u = theta @ data.z.T
    return (data.counts * np.logaddexp(0, u) - data.wins * u).sum(axis=-1)


def one_dimension(LB, ratio_star, win, reg):
    """One feature z = 1 (L = 1) compared once (n = 1, win in [0, 1]): closed-form fit.

    Returns the truth, the fit, V, the score norm, the curvature.
    """
    star = LB * ratio_star
    hat = float(np.clip(logit(np.clip(win, 1e-300, 1 - 1e-16)), -LB, LB))
    V = 1.0 + reg
    return star, hat, V, abs(win - expit(star)) / np.sqrt(V), float(1 / (2 + 2 * np.cosh(LB)))


def unpack_search(x, floor: float):
    """Unbounded search variables to LB >= floor, theta*/B in [-1, 1], win, reg >= 0."""
    LB = floor + np.exp(np.clip(x[0], -12, 2))
    star = np.sin(x[1])
    win = float(expit(LB * np.sin(x[2])))
    reg = np.sin(x[3]) ** 2  # in units of n L^2; a huge ridge makes every radius trivially tight
    return LB, star, win, reg


STARTS = [(-3.0, 0.2, 1.0, 0.0), (0.0, -1.3, 1.2, 0.5), (-4.0, -1.5, 1.5, 1.0), (1.0, 0.0, 1.5,
                                                                                 0.1)]


@result("confidence-ellipsoid", part="II", item="2.2", kind="inequality",
        title="Confidence ellipsoid, sharp form", source="this book; cf. zhu2023principled",
        depends=("bt-likelihood",))
def confidence_ellipsoid(check):
    """The error of the ball MLE in the norm of V is at most rho(S_n), whatever the outcomes."""
    for rng, size in check.batches(30_000, fast=3_000, size=250):
        fits = random_fits(rng, size)
        data, z, counts = fits.data, fits.data.z, fits.data.counts
        delta = fits.theta_hat - fits.theta_star
        V = design_matrix(data, fits.reg)
        at_hat, terms = gradient_terms(fits, fits.theta_hat)
        at_star, _ = gradient_terms(fits, fits.theta_star)
        length = np.linalg.norm(delta, axis=1)
        check.inequality("step 1: optimality", (at_hat * delta).sum(1), 0.0,
                         scale=terms * (length + fits.B), tol=FIT_TOLERANCE)
        seen = (counts * (delta @ z.T) ** 2).sum(1)
        change = ((at_hat - at_star) * delta).sum(1)
        check.inequality("step 2: curvature", fits.gamma * seen, change, scale=terms * length,
                         tol=1e-12)
        S = score_norm(data, fits.theta_star, fits.reg)
        u = parameter_error(fits.theta_hat, fits.theta_star, V)
        check.inequality("step 3: noise", -(at_star * delta).sum(1), S * u, scale=terms * length,
                         tol=1e-9)
        ridge = 4 * fits.reg * fits.B**2
        full = counts @ (z**2).sum(1) * length**2 + fits.reg * length**2
        check.identity("step 4: design without the ridge", seen, u**2 - fits.reg * length**2,
                       scale=full, tol=1e-12)
        check.inequality("step 4: diameter of the ball", u**2 - ridge, seen, scale=full, tol=1e-12)
        rho = confidence_radius(S, fits.gamma, fits.reg, fits.B)
        check.identity("step 5: the larger root", fits.gamma * rho**2,
                       S * rho + fits.gamma * ridge, scale=fits.gamma * rho**2 + 1e-300, tol=1e-11)
        check.inequality("claim", u, rho, tol=FIT_TOLERANCE, scale=1e-9 * np.sqrt(terms))

    def ratio(x):
        LB, star, win, reg = unpack_search(x, 0.01)
        theta, hat, V, S, gamma = one_dimension(LB, star, win, reg)
        if abs(hat - theta) < 1e-3 * LB:
            return 0.0  # there S and the error are both lost to rounding
        rho = float(confidence_radius(S, gamma, reg, LB))
        return abs(hat - theta) * np.sqrt(V) / rho if rho > 0 else 0.0

    best = check.search("claim", ratio, STARTS)
    check.at_least("claim: the search gets close to 1", best, 0.9999)
    without = check.search("claim: without ridge", lambda x: ratio((x[0], x[1], x[2], 0.0)),
                           [s[:3] for s in STARTS])
    with_ridge = check.search("claim: with reg = n L^2",
                              lambda x: ratio((x[0], x[1], x[2], np.pi / 2)),
                              [s[:3] for s in STARTS])
    check.at_least("claim: attained without ridge", without, 0.9999)
    # The constant 1 / gamma is exact at every LB, not only in small balls: errors at the edge.
    for LB in (1.0, 4.0, 8.0):
        e = LB * (1 - 10.0 ** -np.arange(2, 5))[:, None]
        data = comparisons(np.ones((1, 1)), np.full((3, 1), 1e6), 1e6 * expit(e))
        hat, star = fit_mle(data, LB).theta, np.array([LB])
        u = parameter_error(hat, star, design_matrix(data, 0.0))
        rho = confidence_radius(score_norm(data, star, 0.0), least_curvature(1.0, LB), 0.0, LB)
        check.ratio("claim: at the edge", u / rho)
        check.at_least(f"claim: attained at the edge, L B = {LB:g}", (u / rho).max(), 0.999)
    check.at_least("claim: attained with ridge", with_ridge, 0.999)


@result("confidence-ellipsoid-approximate", part="II", item="2.2", kind="inequality",
        title="Confidence ellipsoid of an approximate minimiser", source="this book",
        depends=("confidence-ellipsoid", "frank-wolfe-certificate"))
def confidence_ellipsoid_approximate(check):
    """The Frank-Wolfe gap of any point of the ball adds g / gamma under the root of the radius."""
    for rng, size in check.batches(30_000, fast=3_000, size=250):
        fits = random_fits(rng, size)
        d = fits.data.z.shape[1]
        mix = 10.0 ** rng.uniform(-6, 0, (size, 1))
        theta = (1 - mix) * fits.theta_hat + mix * in_ball(rng, size, d, fits.B)
        gradient, terms = gradient_terms(fits, theta)
        gap = (gradient * theta).sum(1) + fits.B * np.linalg.norm(gradient, axis=1)
        scale = terms * fits.B
        check.identity("the library's certificate", frank_wolfe_gap(theta, fits.data, fits.B), gap,
                       scale=scale, tol=1e-12)
        v = in_ball(rng, size, d, fits.B)
        check.inequality("step 1: the gap", (gradient * (theta - v)).sum(1), gap, scale=scale,
                         tol=1e-12)
        check.inequality("step 1: the gap is nonnegative", 0.0, gap, scale=scale, tol=1e-12)
        excess = loss(theta, fits.data) - loss(fits.theta_hat, fits.data)
        check.inequality("step 2: certificate", excess, gap, scale=fits.data.n + scale, tol=1e-10)
        at_hat = frank_wolfe_gap(fits.theta_hat, fits.data, fits.B)
        check.inequality("step 2: zero at the minimiser", at_hat, 0.0, scale=scale, tol=1e-7)
        V = design_matrix(fits.data, fits.reg)
        S = score_norm(fits.data, fits.theta_star, fits.reg)
        u = parameter_error(theta, fits.theta_star, V)
        delta = theta - fits.theta_star
        quadratic = fits.gamma * (u**2 - 4 * fits.reg * fits.B**2) - S * u
        check.inequality("step 3: the quadratic", quadratic, gap,
                         scale=scale + fits.gamma * u**2 + terms * np.abs(delta).sum(1), tol=1e-11)
        rho = confidence_radius(S, fits.gamma, fits.reg, fits.B, certificate=np.maximum(gap, 0))
        check.inequality("claim", u, rho, tol=1e-9, scale=1e-9 * np.sqrt(terms))

    def ratio(x):
        LB, star, win, reg = unpack_search(x[:4], 0.01)
        theta, _, V, S, gamma = one_dimension(LB, star, win, reg)
        point = LB * np.sin(x[4])
        slope = expit(point) - win
        rho = float(confidence_radius(S, gamma, reg, LB, slope * point + LB * abs(slope)))
        return abs(point - theta) * np.sqrt(V) / rho if rho > 0 else 0.0

    best = check.search("claim", ratio, [(*s, x) for s in STARTS for x in (1.0, -0.5)])
    check.at_least("claim: the search gets close to 1", best, 0.999)

    # Without noise (the fit is theta*, at one end of the ball; the point at the other) the gap is
    # all there is, so this pins down its coefficient.
    def by_gap(x):
        LB, reg = 0.01 + np.exp(np.clip(x[0], -12, 2)), np.sin(x[1]) ** 2
        slope = expit(LB) - expit(-LB)
        rho = float(confidence_radius(0.0, least_curvature(1.0, LB), reg, LB, 2 * LB * slope))
        return 2 * LB * np.sqrt(1 + reg) / rho

    best = check.search("claim: no noise, only the gap", by_gap, [(-3.0, 0.0), (0.0, 1.0)])
    check.at_least("claim: attained by the gap alone", best, 0.999)


@result("confidence-ellipsoid-usual", part="II", item="2.2", kind="inequality",
        title="Value-comparison radius, twice as long", source="standard; this book",
        depends=("confidence-ellipsoid",))
def confidence_ellipsoid_usual(check):
    """Comparing values instead of gradients gives a valid radius between one and two times rho."""
    for rng, size in check.batches(30_000, fast=3_000, size=250):
        fits = random_fits(rng, size)
        d = fits.data.z.shape[1]
        mix = np.where(rng.random((size, 1)) < 0.3, 0.0, 10.0 ** rng.uniform(-4, 0, (size, 1)))
        theta = (1 - mix) * fits.theta_hat + mix * in_ball(rng, size, d, fits.B)
        eta = np.maximum(loss(theta, fits.data) - loss(fits.theta_star, fits.data), 0.0)
        delta = theta - fits.theta_star
        at_star, terms = gradient_terms(fits, fits.theta_star)
        seen = (fits.data.counts * (delta @ fits.data.z.T) ** 2).sum(1)
        scale = fits.data.n + terms * fits.B
        expansion = loss(fits.theta_star,
                         fits.data) + (at_star * delta).sum(1) + fits.gamma / 2 * seen
        check.inequality("step 1: second-order expansion", expansion, loss(theta, fits.data),
                         scale=scale,
                         tol=1e-12)
        V = design_matrix(fits.data, fits.reg)
        S = score_norm(fits.data, fits.theta_star, fits.reg)
        u = parameter_error(theta, fits.theta_star, V)
        check.inequality("step 2: compare values",
                         fits.gamma / 2 * (u**2 - 4 * fits.reg * fits.B**2), S * u + eta,
                         scale=scale, tol=1e-11)
        rho = confidence_radius(S, fits.gamma, fits.reg, fits.B, eta, form="usual")
        check.inequality("claim", u, rho, tol=FIT_TOLERANCE, scale=1e-6 * np.sqrt(terms))
        sharp = confidence_radius(S, fits.gamma, fits.reg, fits.B)
        usual = confidence_radius(S, fits.gamma, fits.reg, fits.B, form="usual")
        check.inequality("step 3: the usual radius is not shorter", sharp, usual, tol=1e-12)
        check.inequality("step 3: nor more than twice as long", usual, 2 * sharp, tol=1e-12)

    def ratio(x):
        LB, star, win, reg = unpack_search(x[:4], 0.01)
        theta, _, V, S, gamma = one_dimension(LB, star, win, reg)
        point = LB * np.sin(x[4])
        excess = (np.logaddexp(0, point) - win * point) - (np.logaddexp(0, theta) - win * theta)
        if abs(point - theta) < 1e-3 * LB:
            return 0.0  # there the excess is lost to rounding
        rho = float(confidence_radius(S, gamma, reg, LB, max(excess, 0.0), form="usual"))
        return abs(point - theta) * np.sqrt(V) / rho if rho > 0 else 0.0

    best = check.search("claim", ratio, [(*s, x) for s in STARTS for x in (1.0, -0.5)], tol=1e-6)
    check.at_least("claim: attained by some approximate minimiser", best, 0.999)

    # The same without noise: theta* = -B is the fit, the point is +B, and eta is all there is.
    def by_excess(x):
        LB, reg = 0.01 + np.exp(np.clip(x[0], -12, 2)), np.sin(x[1]) ** 2
        # The loss is sp(v) - win v with win = sigma(-LB), and sp(LB) - sp(-LB) = LB.
        eta = LB - 2 * LB * float(expit(-LB))
        rho = float(confidence_radius(0.0, least_curvature(1.0, LB), reg, LB, eta, form="usual"))
        return 2 * LB * np.sqrt(1 + reg) / rho

    best = check.search("claim: no noise, only the excess loss", by_excess,
                        [(-3.0, 0.0), (0.0, 1.0)], tol=1e-6)
    check.at_least("claim: attained by the excess loss alone", best, 0.999)
