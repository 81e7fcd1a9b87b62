r"""Checks of part II, item 2.3: the limit law of the error, and what the radius costs against it.

What lives here: simulated against predicted constants, the price of the radius, and the
self-concordant radius with the Bernstein inequality behind it.
What does not: the finite-sample ellipsoid itself (``part2_confidence``).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit
from scipy.stats import binom, chi2

from klrlhf.bandit import Bandit
from klrlhf.confidence import (
    confidence_radius,
    design_matrix,
    fisher_information,
    inverse_norm,
    least_curvature,
    parameter_error,
    score_bound_fixed,
)
from klrlhf.estimation import fit_mle, hessian, score
from klrlhf.numerics import sigmoid_slope
from klrlhf.preferences import (
    all_pairs,
    coverage_design,
    pair_features,
    sample_comparisons,
)
from klrlhf.results.part2_confidence import (
    FIT_TOLERANCE,
    STARTS,
    comparisons,
    gradient_terms,
    one_dimension,
    random_fits,
    unpack_search,
)
from klrlhf.results.part2_score_tails import all_outcomes
from klrlhf.results.registry import result

# c times n must be large before the limit shows; see the chapter's burn-in figure.
CASES = (("bad", 1.0, 2.0), ("good", 1.0, 2.0), ("bad", 0.2, 3.0), ("good", 0.3, 4.0))


def simulate(bandit, c, n, trials, rng):
    """Fits of ``n`` comparisons at coverage ``c``, with Fisher information and design moments."""
    design = coverage_design(bandit, c)
    data = sample_comparisons(bandit, n, design, rng, trials)
    z = pair_features(bandit.phi, all_pairs(bandit.S, bandit.K))
    information = fisher_information(bandit.theta, z, design)
    sigma = np.einsum("t,ti,tj->ij", design, z, z)
    return data, fit_mle(data, bandit.B), information, sigma


def mean_and_error(x):
    return x.mean(), x.std(ddof=1) / np.sqrt(len(x))


def controlled(square, U, information, A, n):
    """Mean and standard error of n |error|^2_A, with the linear part as control variate.

    The linear part |I^{-1} U|^2_A / n has the mean tr(A I^{-1}) exactly, for every n, because
    Cov(U) = n I; so only the remainder, which the limit says vanishes, is left to simulation.
    """
    linear = U @ np.linalg.inv(information) / np.sqrt(n)
    mean, error = mean_and_error(square - np.einsum("Ni,ij,Nj->N", linear, A, linear))
    return mean + np.trace(A @ np.linalg.inv(information)), error


@result("mle-asymptotics", part="II", item="2.3", kind="rate",
        title="Asymptotic normality of the ball estimate", source="vandervaart1998asymptotic",
        depends=("confidence-ellipsoid",))
def mle_asymptotics(check):
    """sqrt(n) times the error is asymptotically normal, and n E |error|^2 tends to d."""
    trials, rng, n = check.choose(40_000, 4_000), check.rng, 10**6
    for hidden, c, B in CASES:
        bandit = Bandit.running_example(hidden=hidden).with_(B=B)
        data, fit, information, _ = simulate(bandit, c, n, trials, rng)
        check.instances += trials
        error = fit.theta - bandit.theta
        U = -score(np.broadcast_to(bandit.theta, fit.theta.shape), data)
        weak = np.linalg.eigvalsh(design_matrix(data, 0.0))[:, 0]
        gamma = least_curvature(bandit.L, B)
        check.inequality("step 1: consistency", np.linalg.norm(error, axis=1),
                         np.linalg.norm(U, axis=1) / (gamma * weak), tol=1e-7)
        check.holds("claim: the ball is inactive", ~fit.on_boundary)
        nodes, weights = np.polynomial.legendre.leggauss(8)
        H = sum(w / 2 * hessian(bandit.theta + (s + 1) / 2 * error, data)
                for s, w in zip(nodes, weights, strict=True))
        moved = np.einsum("Nij,Nj->Ni", H, error)
        check.identity("step 2: a linear equation", moved, U, scale=n * np.abs(error).max(1)[:,
                                                                                             None],
                       tol=1e-9)
        at_star = hessian(np.broadcast_to(bandit.theta, fit.theta.shape), data)
        drift = np.linalg.norm((H - at_star) / n, ord=2, axis=(1, 2))
        check.inequality("step 3: the matrix converges", drift,
                         bandit.L**3 * np.linalg.norm(error, axis=1) / 10, scale=1e-10, tol=1e-11)
        for i in range(bandit.d):
            for j in range(i + 1):
                covariance, se = mean_and_error(U[:, i] * U[:, j] / n)
                check.limit("step 4: covariance of the score", covariance + 1.0, se,
                            information[i, j] + 1.0)
        square = n * np.einsum("Ni,ij,Nj->N", error, information, error)
        check.limit("claim: n E |error|^2_I = d", *controlled(square, U, information, information,
                                                              n), float(bandit.d), rtol=2e-3)
        A = np.diag(np.arange(1.0, bandit.d + 1))
        other = n * np.einsum("Ni,ij,Nj->N", error, A, error)
        check.limit("claim: n E |error|^2_A", *controlled(other, U, information, A, n),
                    np.trace(A @ np.linalg.inv(information)), rtol=2e-3)
        law = np.sort(square)
        distance = np.abs(chi2.cdf(law, bandit.d) - (np.arange(trials) + 0.5) / trials).max()
        # 1.95 / sqrt(trials) is the 0.1 % point of the Kolmogorov statistic.
        check.inequality("the chi-squared law, by its distance", distance, 1.95 / np.sqrt(trials) + 2e-3)
        observed = np.einsum("Ni,Nij,Nj->N", error, hessian(fit.theta, data), error)
        for delta in (0.5, 0.1, 0.05):
            inside = (observed <= chi2.ppf(1 - delta, bandit.d)).astype(float)
            check.limit("claim: coverage of the Fisher ellipsoid", *mean_and_error(inside),
                        1 - delta)
    # Step 5's fourth moment, exactly: the argument uses only |eps| <= 1, and for random signs and
    # equal z its constant 3 is approached.
    outcomes = all_outcomes(8)
    for _ in range(check.choose(2_000, 200)):
        z, p = rng.standard_normal((8, 3)), expit(rng.uniform(-4, 4, 8))
        law = np.where(outcomes > 0, p, 1 - p).prod(axis=1)
        fourth = law @ np.linalg.norm((outcomes - p) @ z, axis=1) ** 4
        check.inequality("step 5: fourth moment of the score", fourth,
                         3 * 8**2 * np.linalg.norm(z, axis=1).max() ** 4)
    k = np.arange(2_001)
    signs = binom.pmf(k, 2_000, 0.5) @ (2.0 * k - 2_000) ** 4
    check.inequality("step 5: fourth moment of random signs", signs, 3 * 2_000.0**2)
    check.at_least("step 5: the constant 3 is approached", signs / (3 * 2_000.0**2), 0.999)
    bandit, sizes = Bandit.running_example(), [10**k for k in (3, 4, 5, 6)]
    trials = check.choose(20_000, 4_000)
    means = []
    for n in sizes:
        _, fit, _, _ = simulate(bandit, 1.0, n, trials, rng)
        means.append(((fit.theta - bandit.theta) ** 2).sum(1).mean())
    check.slope("claim: rate 1/n", sizes, means, -1.0, 0.02)


def price_factor(d, delta):
    tau = -np.log(delta)
    return 1 + 2 * np.sqrt(tau / d) + 2 * tau / d


@result("radius-price", part="II", item="2.3", kind="inequality",
        title="The price of the radius", source="this book",
        depends=("mle-asymptotics", "radius-fixed-design"))
def radius_price(check):
    """In the limit rho^2 / E |error|^2 lies between q / (4 gamma) and q / (16 gamma^2)."""
    for rng, size in check.batches(20_000, fast=2_000):
        d = int(rng.integers(1, 5))
        T = int(rng.integers(d, d + 5))
        z = rng.standard_normal((size, T, d))
        L = np.linalg.norm(z, axis=-1).max(axis=1)
        B = 10.0 ** rng.uniform(-2, 0.8, size) / L
        direction = rng.standard_normal((size, d))
        star = (B * rng.choice([0.0, 0.5, 1 - 1e-9], size))[:, None] * direction / np.linalg.norm(
            direction, axis=1, keepdims=True)
        design = rng.dirichlet(np.ones(z.shape[1]), size)
        u = np.einsum("Ntd,Nd->Nt", z, star)
        sigma = np.einsum("Nt,Nti,Ntj->Nij", design, z, z)
        information = np.einsum("Nt,Nti,Ntj->Nij", design * expit(u) * expit(-u), z, z)
        gamma = 1 / (2 + 2 * np.cosh(L * B))
        truth = np.trace(np.linalg.solve(information, sigma), axis1=1, axis2=2)
        keep = np.linalg.cond(information) < 1e8
        truth, gamma = truth[keep], gamma[keep]
        check.inequality("step 2: range of the truth, from below", 4.0 * d, truth, tol=1e-7)
        check.inequality("step 2: range of the truth, from above", truth, d / gamma, tol=1e-7)
        q = price_factor(d, 0.05)
        n_pairs = comparisons(z[0], np.round(1e6 * design[0]) + 1, 0 * design[0])
        curvature = float(1 / (2 + 2 * np.cosh(L[0] * B[0])))
        rho = confidence_radius(score_bound_fixed(n_pairs, 0.0, 0.05), curvature, 0.0, B[0])
        check.identity("step 3: the radius", rho**2, d * q / (4 * curvature**2), scale=rho**2,
                       tol=1e-10)
    for d in (1, 2, 5):
        q = price_factor(d, 0.05)
        check.inequality("the Gaussian price covers the quantile", chi2.ppf(0.95, d), d * q)
        small = 1 / (2 + 2 * np.cosh(1e-3))
        check.identity("claim: nothing is lost as LB -> 0", [q / (4 * small), q / (16 * small**2)],
                       q,
                       scale=q, tol=1e-6)
        large = 1 / (2 + 2 * np.cosh(30.0))
        check.identity("claim: growth for large LB", [4 * q / (4 * large),
                                                      16 * q / (16 * large**2)],
                       [q * np.exp(30.0), q * np.exp(60.0)],
                       scale=[q * np.exp(30.0), q * np.exp(60.0)], tol=1e-9)
    trials, n = check.choose(20_000, 4_000), 10**6
    for hidden, c, B in CASES:
        bandit = Bandit.running_example(hidden=hidden).with_(B=B)
        data, fit, information, sigma = simulate(bandit, c, n, trials, check.rng)
        square = parameter_error(fit.theta, bandit.theta, design_matrix(data, 0.0)) ** 2
        U = -score(np.broadcast_to(bandit.theta, fit.theta.shape), data)
        mean, error = controlled(square, U, information, sigma, n)
        truth = np.trace(sigma @ np.linalg.inv(information))
        check.limit("claim: the truth", mean, error, truth, rtol=2e-3)
        # The library's radius over the measured mean square, against the formula and its ends.
        gamma, q = least_curvature(bandit.L, B), price_factor(bandit.d, 0.05)
        rho = confidence_radius(score_bound_fixed(data, 0.0, 0.05), gamma, 0.0, B).mean()
        price = rho**2 / mean
        check.limit("claim: the price", price, price * error / mean,
                    bandit.d * q / (4 * gamma**2 * truth), rtol=2e-3)
        check.inequality("claim: lower end", q / (4 * gamma), price, tol=1e-9)
        check.inequality("claim: upper end", price, q / (16 * gamma**2), tol=1e-9)
    # Both ends, in one dimension, from counts: theta* at the centre and next to the edge.
    for LB in (0.5, 2.0, 5.0):
        for star, end in ((0.0, 16 * least_curvature(1.0, LB) ** 2),
                          (LB * (1 - 1e-6), 4 * least_curvature(1.0, LB))):
            data = comparisons(np.ones((1, 1)), np.array([10**6]), 0 * np.ones(1))
            rho = confidence_radius(score_bound_fixed(data, 0.0, 0.05), least_curvature(1.0, LB),
                                    0.0, LB)
            truth = 1 / fisher_information([star], data.z, [1.0])[0, 0]
            check.identity("claim: both ends are approached", rho**2 / truth * end,
                           price_factor(1, 0.05), scale=price_factor(1, 0.05), tol=1e-4)


def kappa(x):
    """x / (1 - e^{-x}), continuous at 0."""
    x = np.asarray(x, float)
    return np.where(np.abs(x) < 1e-8, 1 + x / 2, x / np.where(x == 0, 1.0, -np.expm1(-x)))


def score_at(data, theta, H):
    noise = data.wins - data.counts * expit(theta @ data.z.T)
    return inverse_norm(noise @ data.z, H)


@result("confidence-ellipsoid-self-concordant", part="II", item="2.3", kind="inequality",
        title="Self-concordant ellipsoid", source="this book; cf. bach2010self, faury2020improved",
        depends=("confidence-ellipsoid",))
def confidence_ellipsoid_self_concordant(check):
    """In the norm of the curvature at the truth the radius is free of e^{LB}."""
    local = []
    for rng, size in check.batches(30_000, fast=3_000, size=250):
        fits = random_fits(rng, size, with_reg=False)
        data, z, counts = fits.data, fits.data.z, fits.data.counts
        v = fits.theta_star @ z.T
        weight = counts * expit(v) * expit(-v)
        H = np.einsum("Nt,ti,tj->Nij", weight, z, z)
        delta = fits.theta_hat - fits.theta_star
        x = delta @ z.T
        slope = np.where(np.abs(x) > 1e-6, (expit(v + x) - expit(v)) / np.where(x == 0, 1, x),
                         sigmoid_slope(v + x / 2))
        check.inequality("step 1: self-concordance", sigmoid_slope(v) / kappa(np.abs(x)), slope,
                         tol=1e-9)
        at_hat, terms = gradient_terms(fits, fits.theta_hat)
        at_star, _ = gradient_terms(fits, fits.theta_star)
        change, length = ((at_hat - at_star) * delta).sum(1), np.linalg.norm(delta, axis=1)
        u = parameter_error(fits.theta_hat, fits.theta_star, H)
        # A pair never compared constrains nothing.
        largest = np.abs(np.where(counts > 0, x, 0.0)).max(1)
        check.inequality("step 2: curvature with a memory", u**2 / kappa(largest), change,
                         scale=terms * length, tol=1e-11)
        S = score_at(data, fits.theta_star, H)
        check.inequality("step 3: optimality and noise", change, S * u,
                         scale=terms * (length + fits.B),
                         tol=FIT_TOLERANCE)
        b = np.where(counts > 0, np.stack([inverse_norm(np.broadcast_to(row, delta.shape), H)
                                           for row in z], axis=1), 0.0).max(1)
        check.inequality("step 4: largest margin error", largest, b * u, scale=1e-6, tol=1e-6)
        absolute = 1e-7 * np.sqrt(terms)
        check.inequality("claim: with L B", u, kappa(2 * fits.L * fits.B) * S, scale=absolute,
                         tol=FIT_TOLERANCE)
        near = b * S < 1 - 1e-6
        radius = -np.log1p(-(b * S)[near]) / b[near]
        check.inequality("claim: local", u[near], radius, scale=absolute[near], tol=FIT_TOLERANCE)
        local.append(near.mean())
    check.at_least("the local bound applies: share", float(np.mean(local)), 0.2)

    def ratio(x):
        LB, star, win, _ = unpack_search((*x, 0.0), 0.01)
        theta, hat, _, _, _ = one_dimension(LB, star, win, 0.0)
        u, H = abs(hat - theta), float(sigmoid_slope(theta))
        if u < 1e-3 * LB:
            return 0.0
        S = abs(win - expit(theta)) / np.sqrt(H)
        bounds = [float(kappa(2 * LB)) * S]
        if S / np.sqrt(H) < 1:
            bounds.append(-np.log1p(-S / np.sqrt(H)) * np.sqrt(H))
        return u * np.sqrt(H) / min(bounds)

    best = check.search("claim: local", ratio, [s[:3] for s in STARTS])
    check.at_least("claim: the search gets close to 1", best, 0.999)


@result("norm-bernstein", part="II", item="2.3", kind="inequality",
        title="Bernstein's inequality for a norm", source="standard; this book")
def norm_bernstein(check):
    """The norm of a sum of bounded independent vectors has a Bernstein tail, in any dimension."""
    n, d, outcomes = 8, 3, all_outcomes(8)
    for rng, size in check.batches(10_000, fast=400, size=400):
        lam = 10.0 ** rng.uniform(-1, 0.5, (size, 1))
        x, h = rng.standard_normal((size, d)), rng.standard_normal((size, d))
        r = np.linalg.norm(x, axis=1, keepdims=True)
        along = (x * h).sum(1, keepdims=True) / r
        across2 = (h**2).sum(1, keepdims=True) - along**2
        second = lam**2 * (np.cosh(lam * r) * along**2 + np.sinh(lam * r) / (lam * r) * across2)
        t = 1e-4
        numeric = (np.cosh(lam * np.linalg.norm(x + t * h, axis=1,
                                                keepdims=True)) - 2 * np.cosh(lam * r)
                   + np.cosh(lam * np.linalg.norm(x - t * h, axis=1, keepdims=True))) / t**2
        check.identity("step 1: the formula, by differences", numeric, second,
                       scale=(1 + lam**4) * np.cosh(lam * (r + 1)) * (1 + (h**2).sum(1)[:,
                                                                                        None]) ** 2,
                       tol=1e-5)
        check.inequality("step 1: second derivative", second,
                         lam**2 * np.cosh(lam * r) * (h**2).sum(1, keepdims=True), tol=1e-12)
        y = 10.0 ** rng.uniform(-3, 0.47, size)
        check.inequality("step 4: the series", np.expm1(y) - y, y**2 / (2 * (1 - y / 3)),
                         scale=1e-12,
                         tol=1e-12)
        for _ in range(size):
            p = expit(rng.uniform(-4, 4, n))
            vectors = rng.standard_normal((n, d)) * 10.0 ** rng.uniform(-1, 0, (n, 1))
            if rng.random() < 0.3:
                vectors = vectors[:1] * rng.choice([-1.0, 1.0], (n, 1))
            eps = outcomes - p
            law = np.where(outcomes > 0, p, 1 - p).prod(1)
            norms = np.linalg.norm(eps @ vectors, axis=1)
            squares = (vectors**2).sum(1)
            b = (np.maximum(p, 1 - p) * np.sqrt(squares)).max()
            v = (p * (1 - p) * squares).sum()
            t = float(10.0 ** rng.uniform(-0.5, 1))
            lam = np.sqrt(2 * t) / (np.sqrt(v) + b / 3 * np.sqrt(2 * t))
            before = np.cosh(lam * np.linalg.norm(eps[:, :-1] @ vectors[:-1], axis=1))
            size_of = np.sqrt(squares[-1])
            big, small = lam * (1 - p[-1]) * size_of, lam * p[-1] * size_of
            growth = 1 + p[-1] * (np.expm1(big) - big) + (1 - p[-1]) * (np.expm1(small) - small)
            check.inequality("step 2: one more term", law @ np.cosh(lam * norms),
                             (law @ before) * growth,
                             tol=1e-12)
            exponent = v / b**2 * (np.expm1(lam * b) - lam * b)
            check.inequality("step 3: all terms", np.log(law @ np.cosh(lam * norms)), exponent,
                             scale=1.0, tol=1e-12)
            r = np.sqrt(2 * v * t) + b * t / 3
            check.identity("step 5: the exponent", v * lam**2 / (2 * (1 - lam * b / 3)) - lam * r,
                           -t,
                           scale=t + lam * r, tol=1e-12)
            check.inequality("claim: exact tail over all outcomes", law[norms >= r].sum(),
                             min(1.0, 2 * np.exp(-t)), tol=1e-12)


@result("radius-self-concordant", part="II", item="2.3", kind="probability",
        title="Self-concordant radius for a fixed design",
        source="this book; cf. faury2020improved",
        depends=("confidence-ellipsoid-self-concordant", "norm-bernstein", "mle-asymptotics"))
def radius_self_concordant(check):
    """With probability 1 - delta the score has a Bernstein bound and the error its local radius."""
    for rng, size in check.batches(20_000, fast=2_000, size=500):
        fits = random_fits(rng, size, with_reg=False)
        v = fits.theta_star @ fits.data.z.T
        weight = fits.data.counts * expit(v) * expit(-v)
        root = np.sqrt(weight)[..., None] * fits.data.z
        H = np.swapaxes(root, 1, 2) @ root
        pseudo = np.linalg.pinv(H, rcond=1e-10, hermitian=True)
        # E |X_i|^2 from the two outcomes, with no appeal to the slope of the sigmoid.
        p, length = expit(v), np.einsum("ti,Nij,tj->Nt", fits.data.z, pseudo, fits.data.z)
        second = p * expit(-v) ** 2 + expit(-v) * p**2
        variance = (fits.data.counts * second * length).sum(axis=1)
        check.identity("step 1: the variance is the rank", variance,
                       np.linalg.matrix_rank(root, rtol=1e-5), tol=1e-6)
    trials, rng = check.choose(40_000, 4_000), check.rng
    for d, T, per_pair, LB, delta in ((1, 1, 30, 0.5, 0.05), (2, 3, 100, 2.0, 0.2), (3, 20, 40, 4.0,
                                                                                     0.1),
                                      (2, 3, 1000, 6.0, 0.2), (5, 40, 30, 1.0, 0.05)):
        z = rng.standard_normal((T, d))
        z /= np.linalg.norm(z, axis=1).max()
        star = np.zeros(d)
        star[0] = 0.9 * LB
        counts = np.full((trials, T), float(per_pair))
        data = comparisons(z, counts, rng.binomial(per_pair, expit(z @ star), (trials, T)))
        H = np.einsum("t,ti,tj->ij", per_pair * sigmoid_slope(z @ star), z, z)
        b = inverse_norm(z, H).max()
        level = np.log(2 / delta)
        s = np.sqrt(2 * d * level) + b / 3 * level
        check.failure_rate("claim: score", (score_at(data, star, H) > s).sum(), trials, delta)
        error = parameter_error(fit_mle(data, LB).theta, star, H)
        radius = kappa(2 * LB) * s
        if b * s < 1:
            radius = min(radius, -np.log1p(-b * s) / b)
        check.failure_rate("claim: ellipsoid", (error > radius).sum(), trials, delta)
    # The limit of the price, and that the e^{LB} of the plain radius is gone.
    bandit, n, delta = Bandit.running_example(hidden="good").with_(B=4.0), 10**6, 0.05
    data, fit, information, _ = simulate(bandit, 1.0, n, check.choose(20_000, 2_000), rng)
    H = n * information
    b = inverse_norm(data.z, H).max()
    s = np.sqrt(2 * bandit.d * np.log(2 / delta)) + b / 3 * np.log(2 / delta)
    radius = -np.log1p(-b * s) / b
    U = -score(np.broadcast_to(bandit.theta, fit.theta.shape), data)
    square = parameter_error(fit.theta, bandit.theta, H) ** 2
    check.limit("claim: the truth", *controlled(square, U, information, information, n),
                float(bandit.d), rtol=2e-3)
    # The radius is deterministic given the design, so its limit needs no simulation: take n huge.
    small = inverse_norm(data.z, 1e14 * information).max()
    s = np.sqrt(2 * bandit.d * np.log(2 / delta)) + small / 3 * np.log(2 / delta)
    limit = -np.log1p(-small * s) / small
    check.identity("claim: the price", limit**2 / bandit.d, 2 * np.log(2 / delta),
                   scale=2 * np.log(2 / delta), tol=2e-5)
    gamma = least_curvature(bandit.L, bandit.B)
    plain = 0.5 * confidence_radius(score_bound_fixed(data, 0.0, delta), gamma, 0.0, bandit.B)
    check.not_vacuous("claim: shorter than the plain radius at LB = 4", radius, plain)
