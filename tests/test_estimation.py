"""The ball-constrained MLE against independent solvers, closed forms and its own certificates."""

from itertools import product

import mpmath as mp
import numpy as np
import pytest
from scipy.optimize import NonlinearConstraint, minimize
from scipy.special import logit

import klrlhf
from klrlhf import Bandit, Comparisons, _ball_newton

pytestmark = pytest.mark.filterwarnings("error")


def loss(theta, z, counts, wins):
    """The negative log-likelihood by its definition."""
    u = z @ theta
    return float(np.sum(wins * np.logaddexp(0, -u) + (counts - wins) * np.logaddexp(0, u)))


def gradient(theta, z, counts, wins):
    u = z @ theta
    return z.T @ (counts / (1 + np.exp(-u)) - wins)


def independent_fit(z, counts, wins, B, start=None):
    """SLSQP, then trust-constr from there: two solvers that share nothing with the library."""
    n = max(counts.sum(), 1.0)
    ball = {"type": "ineq", "fun": lambda t: B**2 - t @ t, "jac": lambda t: -2 * t}
    start = np.zeros(z.shape[1]) if start is None else start
    found = minimize(lambda t: loss(t, z, counts, wins) / n, start, method="SLSQP",
                     jac=lambda t: gradient(t, z, counts, wins) / n, constraints=[ball],
                     options={"ftol": 1e-15, "maxiter": 1000})
    return found.x


def make(z, counts, wins):
    """Comparisons with arbitrary features: one prompt per row."""
    z = np.asarray(z, float)
    pairs = np.stack([np.arange(len(z)), np.zeros(len(z), int), np.ones(len(z), int)], axis=1)
    return Comparisons(pairs, z, counts, wins)


def random_data(rng, d, T=8, n=200, scale=1.0):
    z = rng.standard_normal((T, d)) * scale
    counts = rng.multinomial(n, rng.dirichlet(np.ones(T))).astype(float)
    theta = rng.standard_normal(d) / scale
    wins = rng.binomial(counts.astype(int), 1 / (1 + np.exp(-z @ theta))).astype(float)
    return z, counts, wins


# -- the likelihood ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-6, 1.0, 30.0, 300.0])
def test_likelihood_and_derivatives_in_high_precision(size):
    rng = np.random.default_rng(1)
    z, counts, wins = random_data(rng, 3)
    theta = size * rng.standard_normal(3)
    data = make(z, counts, wins)
    value, slope, curvature = mp.mpf(0), [mp.mpf(0)] * 3, [[mp.mpf(0)] * 3 for _ in range(3)]
    size_slope = 0.0
    with mp.workdps(400):
        for row, n, w in zip(z, counts, wins, strict=True):
            row = [mp.mpf(float(v)) for v in row]
            n, w = mp.mpf(float(n)), mp.mpf(float(w))
            u = mp.fsum(a * mp.mpf(float(b)) for a, b in zip(row, theta, strict=True))
            p = 1 / (1 + mp.exp(-u))
            value += -w * mp.log(p) - (n - w) * mp.log(1 - p)
            slope = [s + (n * p - w) * r for s, r in zip(slope, row, strict=True)]
            size_slope += float(n)
            for i, j in product(range(3), range(3)):
                curvature[i][j] += n * p * (1 - p) * row[i] * row[j]
    assert klrlhf.negative_log_likelihood(theta, data) == pytest.approx(float(value), rel=1e-13)
    allowed = 1e-15 * size_slope * (1 + size)
    assert klrlhf.score(theta, data) == pytest.approx([float(s) for s in slope], abs=allowed)
    truth = np.array([[float(v) for v in row] for row in curvature])
    assert klrlhf.hessian(theta, data) == pytest.approx(truth, rel=1e-12 * (1 + size), abs=1e-280)


def test_likelihood_broadcasts_over_replicates_of_both():
    rng = np.random.default_rng(2)
    bandit = Bandit.running_example()
    data = klrlhf.sample_comparisons(
        bandit, 50, klrlhf.coverage_design(bandit, 1.0), rng, replicates=(4, 1))
    theta = rng.standard_normal((3, 2))
    value = klrlhf.negative_log_likelihood(theta, data)
    first, second = klrlhf.score(theta, data), klrlhf.hessian(theta, data)
    assert value.shape == (4, 3)
    for i, j in product(range(4), range(3)):
        assert value[i, j] == pytest.approx(
            loss(theta[j], data.z, data.counts[i, 0], data.wins[i, 0]), rel=1e-13)
        assert first[i, j] == pytest.approx(
            gradient(theta[j], data.z, data.counts[i, 0], data.wins[i, 0]), abs=1e-12)
        assert second[i, j] == pytest.approx(second[i, j].T, rel=1e-15)


# -- the fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, 5])
@pytest.mark.parametrize("B", [0.3, 1.0, 4.0])
def test_fit_by_an_independent_solver(d, B):
    rng = np.random.default_rng(100 * d + int(10 * B))
    for n in (1, 5, 200, 10**6):
        z, counts, wins = random_data(rng, d, n=n)
        fit = klrlhf.fit_mle(make(z, counts, wins), B)
        other = independent_fit(z, counts, wins, B)
        other *= min(1.0, B / max(np.linalg.norm(other), 1e-300))
        here, there = loss(fit.theta, z, counts, wins), loss(other, z, counts, wins)
        # Never worse than the peer, and no further from it than its own tolerance.
        assert here <= there + 1e-12 * n
        assert there - here < 1e-6 * n
        if np.linalg.matrix_rank(z[counts > 0]) == d:
            assert fit.theta == pytest.approx(other, abs=2e-3 * B)


def test_fit_by_trust_constr():
    rng = np.random.default_rng(3)
    for B in (0.5, 3.0):
        z, counts, wins = random_data(rng, 2)
        fit = klrlhf.fit_mle(make(z, counts, wins), B)
        found = minimize(loss, np.zeros(2), args=(z, counts, wins), method="trust-constr",
                         jac=gradient,
                         constraints=[NonlinearConstraint(lambda t: t @ t, -np.inf, B**2,
                                                          jac=lambda t: 2 * t[None])],
                         options={"gtol": 1e-10, "xtol": 1e-12, "maxiter": 2000})
        assert fit.theta == pytest.approx(found.x, abs=1e-5)


@pytest.mark.parametrize("n", [1, 3, 10, 1000, 10**9])
@pytest.mark.parametrize("B", [0.5, 2.0, 8.0])
def test_two_arms_have_a_closed_form(n, B):
    """One direction z = 2: the MLE is logit(wins / n) / 2, clipped at the ball."""
    wins = np.unique(np.array([0, 1, n // 3, n // 2, n - 1, n]))
    data = make([[2.0]], np.full((len(wins), 1), n), wins[:, None])
    fit = klrlhf.fit_mle(data, B)
    with np.errstate(divide="ignore"):
        free = logit(wins / n) / 2
    assert fit.theta[:, 0] == pytest.approx(np.clip(free, -B, B), rel=1e-9, abs=1e-9)
    assert (fit.on_boundary == (np.abs(free) >= B)).all()


def test_three_arm_closed_form_of_the_book():
    """Result plug-in-failure: the ball MLE sits at norm B with coordinates that sum to zero."""
    bandit = Bandit.three_arms(gap=1.0, B=2.0)
    counts = np.array([99.0, 1.0, 0.0])
    wins = np.stack([np.arange(100.0), np.zeros(100), np.zeros(100)], axis=1)
    pairs = klrlhf.all_pairs(1, 3)
    data = Comparisons(pairs, klrlhf.pair_features(bandit.phi, pairs),
                       np.broadcast_to(counts, wins.shape), wins)
    fit = klrlhf.fit_mle(data, 2.0)
    assert np.linalg.norm(fit.theta, axis=1) == pytest.approx(2.0, rel=1e-12)
    assert fit.theta.sum(axis=1) == pytest.approx(0.0, abs=1e-12)
    b, n = np.sqrt(1.5) * 2.0, 100
    s = 1 / (1 + np.exp(-b))
    fooled = ((n - 2) * (1 - s) < wins[:, 0]) & (wins[:, 0] < (n - 1) * s + 1)
    best = fit.theta[:, 2] > np.maximum(fit.theta[:, 0], fit.theta[:, 1])
    assert np.array_equal(best, fooled)


def check_optimality(fit, z, counts, wins, B):
    """KKT by plain loops: gradient = -mu theta, mu >= 0, mu (B - |theta|) = 0."""
    for i in np.ndindex(fit.multiplier.shape):
        g = gradient(fit.theta[i], z, counts[i], wins[i])
        size = max(counts[i].sum() * np.abs(z).max(), 1e-300)
        assert np.linalg.norm(g + fit.multiplier[i] * fit.theta[i]) < 1e-7 * size
        assert fit.multiplier[i] >= 0
        norm = np.linalg.norm(fit.theta[i])
        assert norm <= B * (1 + 1e-12)
        if norm < B * (1 - 1e-9):
            assert fit.multiplier[i] == 0
            assert not fit.on_boundary[i]
        assert fit.converged[i]


@pytest.mark.parametrize("B", [0.2, 2.0, 6.0])
@pytest.mark.parametrize("n", [0, 1, 2, 10, 1000, 10**9])
def test_kkt_on_the_running_example(n, B):
    bandit = Bandit.running_example(hidden="good")
    for c in (0.0, 0.01, 1.0):
        data = klrlhf.sample_comparisons(
            bandit, n, klrlhf.coverage_design(bandit, c), 4, replicates=60)
        fit = klrlhf.fit_mle(data, B)
        check_optimality(fit, data.z, data.counts, data.wins, B)


def test_certificate_bounds_the_excess_likelihood():
    rng = np.random.default_rng(5)
    for B in (0.5, 2.0, 5.0):
        z, counts, wins = random_data(rng, 3)
        data = make(z, counts, wins)
        best = klrlhf.fit_mle(data, B)
        at_best = loss(best.theta, z, counts, wins)
        assert best.certificate < 1e-6 * counts.sum()
        assert best.certificate == pytest.approx(
            klrlhf.frank_wolfe_gap(best.theta, data, B), abs=1e-9 * counts.sum())
        points = rng.standard_normal((200, 3))
        points *= B * rng.random((200, 1)) / np.linalg.norm(points, axis=1, keepdims=True)
        gap = klrlhf.frank_wolfe_gap(points, data, B)
        excess = np.array([loss(p, z, counts, wins) for p in points]) - at_best
        assert (excess <= gap + 1e-10 * counts.sum()).all()
        g = np.array([gradient(p, z, counts, wins) for p in points])
        plain = (g * points).sum(axis=1) + B * np.linalg.norm(g, axis=1)
        assert gap == pytest.approx(plain, rel=1e-10, abs=1e-10)


def test_a_batch_is_its_replicates_one_by_one():
    bandit = Bandit.random(6, S=3, K=4, d=3)
    design = klrlhf.policy_design(bandit.d0, bandit.pi0, klrlhf.uniform_policy(3, 4))
    for n in (3, 30, 3000):
        data = klrlhf.sample_comparisons(bandit, n, design, 7, replicates=(5, 8))
        batch = klrlhf.fit_mle(data, 2.0)
        assert batch.theta.shape == (5, 8, 3)
        for i in product(range(5), range(8)):
            one = klrlhf.fit_mle(Comparisons(data.pairs, data.z, data.counts[i], data.wins[i]), 2.0)
            assert batch.theta[i] == pytest.approx(one.theta, abs=1e-12)
            assert batch.multiplier[i] == pytest.approx(one.multiplier, rel=1e-9, abs=1e-9)


def test_blocks_of_replicates_agree_with_a_single_block(monkeypatch):
    bandit = Bandit.running_example()
    data = klrlhf.sample_comparisons(
        bandit, 100, klrlhf.coverage_design(bandit, 0.3), 8, replicates=500)
    whole = klrlhf.fit_mle(data, 2.0)
    monkeypatch.setattr(klrlhf.estimation, "BLOCK_ENTRIES", 1)
    split = klrlhf.fit_mle(data, 2.0)
    assert np.allclose(whole.theta, split.theta, rtol=0, atol=1e-12)


def test_order_and_orientation_do_not_matter():
    rng = np.random.default_rng(9)
    z, counts, wins = random_data(rng, 3, T=9)
    base = klrlhf.fit_mle(make(z, counts, wins), 1.5).theta
    order = rng.permutation(9)
    shuffled = klrlhf.fit_mle(make(z[order], counts[order], wins[order]), 1.5).theta
    assert shuffled == pytest.approx(base, abs=1e-12)
    flip = np.where(np.arange(9) % 2, -1.0, 1.0)
    turned = klrlhf.fit_mle(
        make(z * flip[:, None], counts, np.where(flip > 0, wins, counts - wins)), 1.5).theta
    assert turned == pytest.approx(base, abs=1e-12)
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    rotated = klrlhf.fit_mle(make(z @ q.T, counts, wins), 1.5).theta
    assert rotated == pytest.approx(q @ base, abs=1e-11)
    tripled = klrlhf.fit_mle(make(z / 3, counts, wins), 4.5).theta
    assert tripled == pytest.approx(3 * base, abs=1e-11)


@pytest.mark.parametrize("scale", [1e-40, 1e-6, 1e6, 1e40])
def test_units_of_the_features_do_not_matter(scale):
    z, counts, wins = random_data(np.random.default_rng(10), 2)
    base = klrlhf.fit_mle(make(z, counts, wins), 1.0)
    scaled = klrlhf.fit_mle(make(z * scale, counts, wins), 1.0 / scale)
    assert scaled.theta * scale == pytest.approx(base.theta, rel=1e-9)
    assert scaled.multiplier / scale**2 == pytest.approx(base.multiplier, rel=1e-6, abs=1e-9)


def test_features_of_very_different_sizes_are_not_dropped():
    """z has a direction 1e-6 of the other, and a pair without comparisons."""
    z = np.array([[1.0, 0.0], [0.0, 1e-6], [1.0, 1e-6]])
    counts, wins = np.array([100.0, 100.0, 0.0]), np.array([60.0, 30.0, 0.0])
    fit = klrlhf.fit_mle(make(z, counts, wins), 1e7)
    assert fit.theta == pytest.approx([logit(0.6), 1e6 * logit(0.3)], rel=1e-8)


# -- degenerate data -----------------------------------------------------------------------------


def test_no_data_gives_zero():
    bandit = Bandit.running_example()
    fit = klrlhf.fit_mle(Comparisons.empty(bandit, (3,)), 2.0)
    assert (fit.theta == 0).all()
    assert (fit.certificate == 0).all()
    assert fit.converged.all()
    assert klrlhf.mle_exists(Comparisons.empty(bandit))
    assert klrlhf.win_graph_strongly_connected(Comparisons.empty(bandit))


def test_equal_features_say_nothing():
    phi = np.ones((2, 3, 2))
    pairs = klrlhf.all_pairs(2, 3)
    z = klrlhf.pair_features(phi, pairs)
    data = Comparisons(pairs, z, np.full(6, 7.0), np.arange(6.0))
    fit = klrlhf.fit_mle(data, 2.0)
    assert (fit.theta == 0).all()
    assert klrlhf.mle_exists(data)
    assert klrlhf.negative_log_likelihood(fit.theta, data) == pytest.approx(42 * np.log(2))


def test_unidentified_directions_get_the_least_norm():
    rng = np.random.default_rng(11)
    z, counts, wins = random_data(rng, 2)
    basis, _ = np.linalg.qr(rng.standard_normal((5, 2)))
    low = klrlhf.fit_mle(make(z, counts, wins), 1.5)
    high = klrlhf.fit_mle(make(z @ basis.T, counts, wins), 1.5)
    assert high.theta == pytest.approx(basis @ low.theta, abs=1e-10)
    # The same when rows exist but were never compared.
    idle = rng.standard_normal((2, 5))
    more = klrlhf.fit_mle(make(np.concatenate([z @ basis.T, idle]), np.append(counts, [0, 0]),
                               np.append(wins, [0, 0])), 1.5)
    assert more.theta == pytest.approx(high.theta, abs=1e-9)


@pytest.mark.parametrize("B", [0.5, 2.0, 5.0, 10.0])
def test_separable_data_end_on_the_sphere(B):
    z = np.array([[1.0, 0.2], [0.3, 1.0], [1.0, 1.0]])
    counts = np.array([5.0, 2.0, 1.0])
    data = make(z, counts, counts)
    fit = klrlhf.fit_mle(data, B)
    assert np.linalg.norm(fit.theta) == pytest.approx(B, rel=1e-12)
    # On the circle there is one angle to search: do it by brute force.
    angle = np.linspace(0, np.pi / 2, 200_001)
    circle = B * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    values = (counts * np.logaddexp(0, -circle @ z.T)).sum(axis=1)
    assert fit.theta == pytest.approx(circle[values.argmin()], abs=2e-5 * B)


def test_hopeless_separable_data_are_refused_or_certified():
    data = make([[1.0, 0.0], [0.9, 0.1]], [10.0, 1.0], [10.0, 1.0])
    try:
        fit = klrlhf.fit_mle(data, 5000.0)
    except klrlhf.ConvergenceError as error:
        assert "choose a smaller B" in str(error)
    else:
        assert fit.certificate < 1e-6
    flagged = klrlhf.fit_mle(data, 5000.0, require_convergence=False)
    assert np.isfinite(flagged.theta).all()


def test_too_few_iterations_are_an_error_not_an_answer():
    z, counts, wins = random_data(np.random.default_rng(12), 3)
    with pytest.raises(klrlhf.ConvergenceError, match="not certified"):
        klrlhf.fit_mle(make(z, counts, wins), 4.0, max_iterations=1)
    flagged = klrlhf.fit_mle(make(z, counts, wins), 4.0, max_iterations=1,
                             require_convergence=False)
    assert not flagged.converged


def test_a_billion_comparisons_cost_what_a_thousand_cost():
    bandit = Bandit.running_example()
    design = klrlhf.coverage_design(bandit, 1.0)
    steps = []
    for n in (10**3, 10**9):
        data = klrlhf.sample_comparisons(bandit, n, design, 13, replicates=200)
        fit = klrlhf.fit_mle(data, 2.0)
        steps.append(fit.iterations)
        if n == 10**9:
            assert np.abs(fit.theta - bandit.theta).max() < 1e-3
    assert steps[1] <= steps[0] + 5


# -- existence -----------------------------------------------------------------------------------


def plane_exists(z, won, lost):
    """Brute force in the plane: a separating direction can be turned onto a normal of some z."""
    rows = [v for v, w in zip(z, won, strict=True) if w]
    rows += [-v for v, w in zip(z, lost, strict=True) if w]
    if not rows:
        return True
    rows = np.array(rows)
    candidates = [np.zeros(2)]
    for v in rows:
        candidates += [np.array([-v[1], v[0]]), np.array([v[1], -v[0]]), v, -v]
    candidates += [a + b for a in candidates for b in candidates]
    for theta in candidates:
        margin = rows @ theta
        if (margin >= 0).all() and (margin > 0).any():
            return False
    return True


def test_mle_exists_by_brute_force_over_all_sign_patterns():
    """Integer features in the plane; each pair unseen, won, lost or both."""
    rng = np.random.default_rng(14)
    found = set()
    for _ in range(3):
        z = rng.integers(-2, 3, (4, 2)).astype(float)
        patterns = np.array(list(product(range(4), repeat=4)))
        won, lost = patterns % 2, patterns // 2
        data = make(z, (won + lost).astype(float), won.astype(float))
        answer = klrlhf.mle_exists(data)
        for i in range(len(patterns)):
            truth = plane_exists(z, won[i] > 0, lost[i] > 0)
            found.add(truth)
            assert answer[i] == truth, (z, patterns[i])
    assert found == {True, False}


def reachability(data, K):
    """Win graph by plain loops and its transitive closure by Warshall's algorithm."""
    size = int(data.pairs[:, 0].max() + 1) * K
    reach = np.eye(size, dtype=bool)
    for (x, a, b), w, n in zip(data.pairs.tolist(), data.wins, data.counts, strict=True):
        reach[x * K + a, x * K + b] |= w > 0
        reach[x * K + b, x * K + a] |= n - w > 0
    joined = reach | reach.T
    for graph in (reach, joined):
        for k in range(size):
            graph |= graph[:, [k]] & graph[[k], :]
    return np.array_equal(reach, joined)


def test_ford_condition_by_warshall_and_existence_in_the_tabular_case():
    rng = np.random.default_rng(15)
    found = set()
    for S, K in ((1, 3), (2, 3), (1, 5)):
        bandit = Bandit.tabular(rng.standard_normal((S, K)), 1.0)
        T = len(klrlhf.all_pairs(S, K))
        design = np.full(T, 1 / T)
        for n in (2, 5, 12, 40):
            data = klrlhf.sample_comparisons(bandit, n, design, rng, replicates=40)
            strong, exists = klrlhf.win_graph_strongly_connected(data), klrlhf.mle_exists(data)
            for i in range(40):
                one = Comparisons(data.pairs, data.z, data.counts[i], data.wins[i])
                truth = reachability(one, K)
                found.add(truth)
                assert strong[i] == exists[i] == truth
    assert found == {True, False}


def test_existence_decides_whether_the_estimate_runs_away():
    rng = np.random.default_rng(16)
    z = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    counts = rng.integers(0, 4, (200, 3)).astype(float)
    wins = np.floor(rng.random((200, 3)) * (counts + 1))
    data = make(z, counts, wins)
    exists = klrlhf.mle_exists(data)
    near, far = klrlhf.fit_mle(data, 5.0), klrlhf.fit_mle(data, 10.0)
    # Without existence the norm follows the ball; with it and few votes it stays put.
    assert np.linalg.norm(far.theta, axis=1)[~exists] == pytest.approx(10.0, rel=1e-9)
    assert np.allclose(near.theta[exists], far.theta[exists], atol=1e-6)
    assert (far.multiplier[exists] == 0).all()


@pytest.mark.parametrize("d", [1, 2, 3, 5, 6])
def test_systems_solved_side_by_side_agree_with_lapack_row_by_row(d):
    rng = np.random.default_rng(d)
    X = rng.standard_normal((400, d, d + 2)) * 10.0 ** rng.uniform(-6, 6, (400, 1, 1))
    H, b = X @ X.swapaxes(1, 2), rng.standard_normal((400, d))
    if d > 1:  # nearly singular rows go to LAPACK, whoever shares their batch
        H[7] = np.outer(X[7, :, 0], X[7, :, 0]) + 1e-12 * np.eye(d) * np.trace(H[7])
    x = _ball_newton.solve_rows(H, b)
    each = np.stack([np.linalg.solve(*row) for row in zip(H, b, strict=True)])
    error = np.linalg.norm((H @ x[..., None])[..., 0] - b, axis=1)
    scale = np.linalg.norm(H, axis=(1, 2)) * np.linalg.norm(x, axis=1)
    assert (error <= 1e-13 * scale).all()
    if d > 1:
        np.testing.assert_array_equal(x[7], each[7])


def test_a_singular_row_among_many_does_not_disturb_the_others():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 3, 5))
    H, b, theta = X @ X.swapaxes(1, 2), rng.standard_normal((300, 3)), np.zeros((300, 3))
    broken = H.copy()
    broken[11] = 0.0
    good, rest = _ball_newton.ball_step(H, b, theta, 5.0), np.arange(300) != 11
    move = _ball_newton.ball_step(broken, b, theta, 5.0)
    assert np.isfinite(move).all()
    np.testing.assert_allclose(move[rest], good[rest], rtol=1e-12)
