"""Design matrix, score norm, radii and Fisher information, row by row and by Monte Carlo."""

import mpmath as mp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import beta as beta_law

import klrlhf
from klrlhf import Bandit, Comparisons

pytestmark = pytest.mark.filterwarnings("error")


def rows(data):
    """One row per comparison: features and outcomes, by plain loops (single replicate)."""
    z, y = [], []
    for feature, n, w in zip(data.z, data.counts, data.wins, strict=True):
        z += [feature] * int(n)
        y += [1.0] * int(w) + [0.0] * int(n - w)
    return np.array(z).reshape(len(y), data.z.shape[1]), np.array(y)


def sample(seed, n=60, d=2, replicates=None):
    bandit = Bandit.random(seed, S=3, K=4, d=d)
    design = klrlhf.policy_design(bandit.d0, bandit.pi0, klrlhf.uniform_policy(3, 4))
    return bandit, klrlhf.sample_comparisons(bandit, n, design, seed, replicates=replicates)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("reg", [0.0, 0.01, 3.0])
def test_design_matrix_and_score_norm_row_by_row(d, reg):
    bandit, data = sample(1 + d, d=d)
    z, y = rows(data)
    V = reg * np.eye(d) + sum((np.outer(v, v) for v in z), np.zeros((d, d)))
    assert klrlhf.design_matrix(data, reg) == pytest.approx(V, rel=1e-12)
    eps = y - 1 / (1 + np.exp(-z @ bandit.theta))
    noise = z.T @ eps
    norm = np.sqrt(noise @ np.linalg.solve(V, noise))
    assert klrlhf.score_norm(data, bandit.theta, reg) == pytest.approx(norm, rel=1e-10)


@pytest.mark.parametrize("reg", [0.0, 0.01, 3.0])
@pytest.mark.parametrize("delta", [1e-12, 0.05, 0.9])
def test_fixed_design_bound_from_the_explicit_n_by_n_matrix(reg, delta):
    """M = Z V^-1 Z' with one row per comparison, never formed by the library."""
    for seed, n in ((2, 40), (3, 1), (4, 100)):
        _, data = sample(seed, n=n, d=3)
        z, _ = rows(data)
        V = reg * np.eye(3) + z.T @ z
        M = z @ np.linalg.pinv(V, rcond=1e-12) @ z.T
        log = np.log(1 / delta)
        square = (np.trace(M) + 2 * np.sqrt(np.trace(M @ M) * log)
                  + 2 * np.linalg.norm(M, 2) * log) / 4
        bound = klrlhf.score_bound_fixed(data, reg, delta)
        assert bound == pytest.approx(np.sqrt(square), rel=1e-9)
        if reg == 0:
            rank = np.linalg.matrix_rank(z)
            plain = (rank + 2 * np.sqrt(rank * log) + 2 * log) / 4
            assert bound == pytest.approx(np.sqrt(plain), rel=1e-12)


@pytest.mark.parametrize("reg", [1e-6, 0.01, 3.0])
def test_adaptive_bound_row_by_row(reg):
    for seed, n in ((5, 40), (6, 0), (7, 300)):
        _, data = sample(seed, n=n, d=3)
        z, _ = rows(data)
        _, logdet = np.linalg.slogdet(reg * np.eye(3) + z.T @ z)
        square = 0.5 * (0.5 * (logdet - 3 * np.log(reg)) + np.log(20))
        tight = klrlhf.score_bound_adaptive(data, reg, 0.05)
        assert tight == pytest.approx(np.sqrt(square), rel=1e-10)
        L = np.linalg.norm(data.z, axis=1).max()
        square = 0.5 * (1.5 * np.log(1 + len(z) * L**2 / (3 * reg)) + np.log(20))
        loose = klrlhf.score_bound_adaptive(data, reg, 0.05, form="explicit")
        assert loose == pytest.approx(np.sqrt(square), rel=1e-12)
        assert tight <= loose * (1 + 1e-14)


def test_bounds_broadcast_over_replicates_and_levels():
    _, data = sample(8, replicates=(4, 1))
    delta = np.array([0.01, 0.1, 0.5])
    for bound in (klrlhf.score_bound_fixed, klrlhf.score_bound_adaptive):
        table = bound(data, 0.1, delta)
        assert table.shape == (4, 3)
        for i in range(4):
            one = Comparisons(data.pairs, data.z, data.counts[i, 0], data.wins[i, 0])
            for j in range(3):
                assert table[i, j] == pytest.approx(bound(one, 0.1, delta[j]), rel=1e-13)


def test_few_votes_beside_a_billion_still_count():
    """V = diag(1e9, 1) + reg: eigenvalues 1e-9 of the largest are data, not rounding."""
    pairs = np.array([[0, 0, 1], [1, 0, 1]])
    data = Comparisons(pairs, np.eye(2), [1e13, 1.0], [5e12, 1.0])
    square = 0.5 * (0.5 * (np.log1p(1e13 / 0.01) + np.log1p(1 / 0.01)) + np.log(20))
    assert klrlhf.score_bound_adaptive(data, 0.01, 0.05) == pytest.approx(np.sqrt(square), rel=1e-9)
    narrow = Comparisons(pairs, np.eye(2), [1e12, 0.0], [5e11, 0.0])
    V = klrlhf.design_matrix(narrow, 0.01)
    assert klrlhf.inverse_norm([0.0, 1.0], V) == pytest.approx(10.0, rel=1e-9)


def test_both_bounds_hold_at_their_level_and_are_not_vacuous():
    bandit = Bandit.running_example()
    counts = np.round(200 * klrlhf.coverage_design(bandit, 0.3))
    R, delta = 4_000, 0.05
    data = klrlhf.sample_outcomes(bandit, counts, 9, replicates=R)
    s = klrlhf.score_norm(data, bandit.theta, 0.01)
    for bound in (klrlhf.score_bound_fixed(data, 0.01, delta),
                  klrlhf.score_bound_adaptive(data, 0.01, delta)):
        failures = int((s > bound).sum())
        upper = beta_law.ppf(0.99, failures + 1, R - failures)
        assert upper < delta
        # Worst case over outcomes: every one of 200 comparisons wrong.
        assert bound.max() < np.sqrt(200)


def test_confidence_radius_formulas():
    s, gamma, reg, B, g = 1.7, 0.11, 0.03, 2.0, 0.4
    sharp = s / (2 * gamma) + np.sqrt(s**2 / (4 * gamma**2) + 4 * reg * B**2 + g / gamma)
    usual = s / gamma + np.sqrt(s**2 / gamma**2 + 4 * reg * B**2 + 2 * g / gamma)
    assert klrlhf.confidence_radius(s, gamma, reg, B, g) == pytest.approx(sharp, rel=1e-15)
    assert klrlhf.confidence_radius(s, gamma, reg, B, g, form="usual") == pytest.approx(
        usual, rel=1e-15)
    table = klrlhf.confidence_radius([1.0, 2.0], [[0.1], [0.2], [0.25]], reg, B)
    assert table.shape == (3, 2)
    assert table[1, 1] == klrlhf.confidence_radius(2.0, 0.2, reg, B)
    assert klrlhf.confidence_radius(s, gamma, 0.0, B) == pytest.approx(s / gamma, rel=1e-15)
    assert klrlhf.confidence_radius(s, gamma, 0.0, B, form="usual") == pytest.approx(
        2 * s / gamma, rel=1e-15)
    # The radius solves the quadratic inequality of the proof.
    rho = klrlhf.confidence_radius(s, gamma, reg, B, g)
    assert gamma * rho**2 - s * rho - 4 * gamma * reg * B**2 - g == pytest.approx(0, abs=1e-12)


def test_confidence_radius_at_vanishing_curvature():
    gamma = klrlhf.least_curvature(1.0, 700.0)
    radius = klrlhf.confidence_radius(2.0, gamma, 0.01, 700.0)
    assert radius == pytest.approx(2.0 / gamma, rel=1e-12)
    with pytest.raises(ValueError, match="gamma .* too small"):
        klrlhf.confidence_radius(1e10, gamma, 0.01, 700.0)


def test_least_curvature_in_high_precision():
    for margin in (0.0, 1e-9, 1.0, 30.0, 700.0):
        truth = 1 / (2 + mp.exp(mp.mpf(margin)) + mp.exp(-mp.mpf(margin)))
        assert klrlhf.least_curvature(margin, 1.0) == pytest.approx(float(truth), rel=1e-14)
    assert klrlhf.least_curvature(0.0, 5.0) == 0.25
    with pytest.raises(ValueError, match="underflows"):
        klrlhf.least_curvature(10.0, 100.0)
    # It is the least slope over the ball, found by search.
    found = minimize_scalar(lambda t: klrlhf.sigmoid_slope(t), bounds=(-2.0, 2.0), method="bounded")
    assert klrlhf.least_curvature(1.0, 2.0) == pytest.approx(found.fun, rel=1e-4)


@pytest.mark.parametrize("reg", [0.0, 0.01])
def test_the_ellipsoid_contains_the_truth_whenever_the_score_bound_holds(reg):
    """Result confidence-ellipsoid, on every replicate, with Sn itself as the bound."""
    bandit, data = sample(10, n=80, replicates=500)
    gamma = klrlhf.least_curvature(bandit.L, bandit.B)
    fit = klrlhf.fit_mle(data, bandit.B)
    error = klrlhf.parameter_error(fit.theta, bandit.theta, klrlhf.design_matrix(data, reg))
    s = klrlhf.score_norm(data, bandit.theta, reg)
    sharp = klrlhf.confidence_radius(s, gamma, reg, bandit.B, fit.certificate)
    usual = klrlhf.confidence_radius(s, gamma, reg, bandit.B, fit.certificate, form="usual")
    assert (error <= sharp * (1 + 1e-9)).all()
    assert (sharp <= usual * (1 + 1e-12)).all()
    assert (usual <= 2 * sharp * (1 + 1e-12)).all()


def test_parameter_error_and_inverse_norm_are_dual():
    rng = np.random.default_rng(11)
    root = rng.standard_normal((7, 3, 3))
    V = root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(3)
    u, w = rng.standard_normal((7, 3)), rng.standard_normal((7, 3))
    for i in range(7):
        assert klrlhf.parameter_error(u[i], w[i], V[i]) == pytest.approx(
            np.sqrt((u[i] - w[i]) @ V[i] @ (u[i] - w[i])), rel=1e-12)
        assert klrlhf.inverse_norm(u[i], V[i]) == pytest.approx(
            np.sqrt(u[i] @ np.linalg.solve(V[i], u[i])), rel=1e-11)
    zero = np.zeros(3)
    product = klrlhf.inverse_norm(u, V) * klrlhf.parameter_error(w, zero, V)
    assert (np.abs((u * w).sum(axis=1)) <= product * (1 + 1e-12)).all()
    best = np.linalg.solve(V, u[..., None])[..., 0]
    attained = (u * best).sum(axis=1) / klrlhf.parameter_error(best, zero, V)
    assert klrlhf.inverse_norm(u, V) == pytest.approx(attained, rel=1e-10)


def test_inverse_norm_on_the_span_of_one_hot_data():
    """One-hot features: V is singular, differences are measured by the graph's resistance."""
    bandit = Bandit.tabular([[0.3, 0.0, -0.3]], 1.0)
    data = klrlhf.sample_outcomes(bandit, [4, 0, 2], 12)
    V = klrlhf.design_matrix(data, 0.0)
    # Arms 1-2 with four comparisons and 2-3 with two: resistances 1/4 and 1/4 + 1/2.
    assert klrlhf.inverse_norm([1.0, -1.0, 0.0], V) == pytest.approx(0.5, rel=1e-12)
    assert klrlhf.inverse_norm([1.0, 0.0, -1.0], V) == pytest.approx(np.sqrt(0.75), rel=1e-12)
    with pytest.raises(ValueError, match="span of the data"):
        klrlhf.inverse_norm([1.0, 0.0, 0.0], V)
    cut = klrlhf.design_matrix(klrlhf.sample_outcomes(bandit, [4, 0, 0], 12), 0.0)
    with pytest.raises(ValueError, match="span of the data"):
        klrlhf.inverse_norm([0.0, 1.0, -1.0], cut)
    assert klrlhf.score_norm(data, bandit.theta, 0.0) >= 0


def test_fisher_information_is_the_covariance_of_the_score_by_monte_carlo():
    bandit, _ = sample(13)
    z = klrlhf.pair_features(bandit.phi, klrlhf.all_pairs(3, 4))
    design = klrlhf.policy_design(bandit.d0, bandit.pi0, klrlhf.uniform_policy(3, 4))
    information = klrlhf.fisher_information(bandit.theta, z, design)
    data = klrlhf.sample_comparisons(bandit, 1, design, 14, replicates=200_000)
    scores = klrlhf.score(bandit.theta, data)
    assert (np.abs(scores.mean(axis=0)) < 5 * np.sqrt(np.diag(information) / 200_000)).all()
    outer = np.einsum("ni,nj->nij", scores, scores)
    error = outer.std(axis=0) / np.sqrt(200_000)
    assert (np.abs(outer.mean(axis=0) - information) < 5 * error).all()
    # And the expected Hessian, which is exact here: counts are the design.
    mean = Comparisons(klrlhf.all_pairs(3, 4), z, np.round(design * 1e12), np.zeros(len(z)))
    assert klrlhf.hessian(bandit.theta, mean) / 1e12 == pytest.approx(information, rel=1e-8)


def test_fisher_information_predicts_the_spread_of_the_estimate():
    bandit = Bandit.running_example()
    design = klrlhf.coverage_design(bandit, 1.0)
    n, R = 20_000, 4_000
    data = klrlhf.sample_comparisons(bandit, n, design, 15, replicates=R)
    error = np.sqrt(n) * (klrlhf.fit_mle(data, bandit.B).theta - bandit.theta)
    predicted = np.linalg.inv(klrlhf.fisher_information(bandit.theta, data.z, design))
    assert np.diag(np.cov(error.T)) == pytest.approx(np.diag(predicted), rel=5 * np.sqrt(2 / R))


def test_running_example_constants():
    bandit = Bandit.running_example()
    assert klrlhf.least_curvature(bandit.L, bandit.B) == pytest.approx(
        1 / (2 + np.exp(2) + np.exp(-2)), rel=1e-15)
