"""Option I against other algorithms, at its kink, on its boundary, and in closed form."""

import numpy as np
import pytest
from scipy.optimize import minimize

import klrlhf
from klrlhf import Bandit
from offline_cases import (
    NUS,
    SIZES,
    divergence,
    inverse_length,
    mean_feature,
    penalized,
    problem,
    reference_vector,
    softmax,
)

pytestmark = pytest.mark.filterwarnings("error")


# -- option I against other algorithms -------------------------------------------------------------


@pytest.mark.parametrize("kind", NUS)
@pytest.mark.parametrize("rho", [0.0, 0.05, 1.0, 30.0])
@pytest.mark.parametrize("S, K, d", SIZES)
def test_no_policy_beats_option_one(S, K, d, rho, kind):
    """Random policies and small changes of the answer stay below the objective plus the gap."""
    bandit, theta_hat, V, rho, rng = problem(7, S, K, d, rho=rho)
    nu = reference_vector(kind, bandit, rng)
    made = klrlhf.pessimistic_expected(bandit, theta_hat, V, rho, nu)
    own = penalized(bandit, theta_hat, V, rho, nu, made.policy)
    size = abs(own) + bandit.beta + np.abs(theta_hat @ nu)
    assert made.objective == pytest.approx(own, abs=1e-10 * size)
    assert 0 <= made.duality_gap <= 1e-8 * size
    top = made.objective + made.duality_gap + 1e-11 * size
    rivals = [rng.dirichlet(np.full(K, 10.0 ** rng.uniform(-1, 1)), size=S) for _ in range(150)]
    rivals += [softmax(np.log(made.policy) + 10 ** rng.uniform(-5, 0)
                       * rng.standard_normal((S, K))) for _ in range(150)]
    rivals += [bandit.pi0, klrlhf.plug_in(bandit, theta_hat), bandit.optimal_policy]
    for policy in rivals:
        assert penalized(bandit, theta_hat, V, rho, nu, policy) <= top


def best_by_softmax(bandit, theta_hat, V, rho, nu, start):
    """SLSQP on logits and a slack t >= the penalty's norm: a cone instead of a kink."""
    S, K, d = bandit.phi.shape
    root = np.linalg.cholesky(np.linalg.inv(V))
    scaled = bandit.phi @ root
    centre = nu @ root

    def parts(x):
        logits = np.clip(x[:-1].reshape(S, K), -300, 300)
        logits = np.maximum(logits - logits.max(axis=1, keepdims=True), -300)
        policy = softmax(logits)
        return policy, np.einsum("s,sk,skd->d", bandit.d0, policy, scaled) - centre

    def pull(policy, direction):
        """Gradient of E[policy . direction] with respect to the logits."""
        mean = (policy * direction).sum(axis=1, keepdims=True)
        return (bandit.d0[:, None] * policy * (direction - mean)).ravel()

    def negative(x):
        policy, _ = parts(x)
        gain = bandit.phi @ theta_hat - bandit.beta * np.log(policy / bandit.pi0)
        earned = bandit.d0 @ (policy * gain).sum(axis=1)
        return -(earned - rho * x[-1]), np.append(-pull(policy, gain), rho)

    def cone(x):
        _, off = parts(x)
        return x[-1] ** 2 - off @ off

    def cone_slope(x):
        policy, off = parts(x)
        return np.append(-2 * pull(policy, scaled @ off), 2 * x[-1])

    constraints = [{"type": "ineq", "fun": cone, "jac": cone_slope},
                   {"type": "ineq", "fun": lambda x: x[-1],
                    "jac": lambda x: np.append(np.zeros(S * K), 1.0)}]
    x0 = np.append(np.log(start).ravel(), np.linalg.norm(parts(np.append(
        np.log(start).ravel(), 0.0))[1]) + 1e-6)
    found = minimize(negative, x0, jac=True, method="SLSQP", constraints=constraints,
                     options={"ftol": 1e-15, "maxiter": 2000})
    return parts(found.x)[0]


@pytest.mark.parametrize("kind", ["reference", "reachable", "far"])
@pytest.mark.parametrize("rho", [0.05, 1.0])
@pytest.mark.parametrize("S, K, d", [(1, 3, 2), (3, 4, 2), (2, 5, 4)])
def test_slsqp_on_softmax_logits_agrees(S, K, d, rho, kind):
    bandit, theta_hat, V, rho, rng = problem(8, S, K, d, rho=rho)
    nu = reference_vector(kind, bandit, rng)
    made = klrlhf.pessimistic_expected(bandit, theta_hat, V, rho, nu)
    best = -np.inf
    for start in (bandit.pi0, klrlhf.plug_in(bandit, theta_hat)):
        policy = best_by_softmax(bandit, theta_hat, V, rho, nu, start)
        reached = penalized(bandit, theta_hat, V, rho, nu, policy)
        assert reached <= made.objective + made.duality_gap + 1e-12
        if reached > best:
            best, other = reached, policy
    assert made.objective == pytest.approx(best, abs=2e-6)
    # strong concavity: objective within e of the best means KL within e / beta
    np.testing.assert_allclose(other, made.policy, atol=3e-3)


@pytest.mark.parametrize("kind", NUS)
@pytest.mark.parametrize("rho", [0.05, 1.0, 10.0])
@pytest.mark.parametrize("S, K, d", [(3, 4, 2), (2, 5, 4), (2, 3, 1)])
def test_projected_gradients_on_the_dual_agree(S, K, d, rho, kind):
    """Accelerated projected gradients in whitened coordinates, as one would write them by hand."""
    bandit, theta_hat, V, rho, rng = problem(9, S, K, d, rho=rho)
    nu = reference_vector(kind, bandit, rng)
    made = klrlhf.pessimistic_expected(bandit, theta_hat, V, rho, nu)
    root = np.linalg.inv(np.linalg.cholesky(V)).T  # w = theta_hat + root v, |v| <= rho

    def dual(v):
        w = theta_hat + root @ v
        logits = np.log(bandit.pi0) + bandit.phi @ w / bandit.beta
        top = logits.max(axis=1)
        logz = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        slope = root.T @ (mean_feature(bandit, softmax(logits)) - nu)
        return bandit.beta * bandit.d0 @ logz - w @ nu, slope, softmax(logits)

    scaled = bandit.phi @ root
    step = bandit.beta / (np.ptp(scaled, axis=1) ** 2).sum(axis=-1).max() * 4
    v = look = np.zeros(d)
    pace, lowest = 1.0, np.inf
    for _ in range(1000):
        worth, slope, _ = dual(look)
        ahead = look - step * slope
        ahead *= min(1.0, rho / max(np.linalg.norm(ahead), 1e-300))
        if (look - ahead) @ (ahead - v) > 0:  # restart the momentum when it points uphill
            pace = 1.0
        following = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        v, look, pace = ahead, ahead + (pace - 1) / following * (ahead - v), following
        lowest = min(lowest, dual(v)[0])
    assert lowest >= made.objective - 1e-10 * (1 + abs(lowest))
    assert made.objective == pytest.approx(lowest, rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(dual(v)[2], made.policy, atol=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_brute_force_in_the_triangle(seed):
    """One prompt, three answers: a grid of policies, refined around its best point."""
    rho = [0.05, 0.5, 3.0][seed % 3]
    bandit, theta_hat, V, rho, rng = problem(seed, 1, 3, [1, 2, 3][seed % 3 - 1], rho=rho)
    nu = reference_vector(NUS[seed % len(NUS)], bandit, rng)
    made = klrlhf.pessimistic_expected(bandit, theta_hat, V, rho, nu)
    inverse = np.linalg.inv(V)
    centre, width = np.array([1 / 3, 1 / 3]), 2 / 3
    for _ in range(30):
        step = np.linspace(-width, width, 61)
        p, q = centre[0] + step[:, None], centre[1] + step[None, :]
        policies = np.stack(np.broadcast_arrays(p, q, 1 - p - q), axis=-1)
        valid = (policies > 0).all(axis=-1)
        policies = np.where(valid[..., None], policies, 1 / 3)
        off = policies @ bandit.phi[0] - nu
        worth = (off @ theta_hat - rho * np.sqrt(np.einsum("...i,ij,...j->...", off, inverse, off))
                 - bandit.beta * (policies * np.log(policies / bandit.pi0[0])).sum(axis=-1))
        worth = np.where(valid, worth, -np.inf)
        best = np.unravel_index(worth.argmax(), worth.shape)
        centre, width = policies[best][:2], width / 2
    assert worth.max() <= made.objective + made.duality_gap + 1e-12
    assert worth.max() == pytest.approx(float(made.objective), abs=1e-7)
    np.testing.assert_allclose(policies[best], made.policy[0], atol=1e-3)


# -- option I: the kink and the boundary -----------------------------------------------------------


@pytest.mark.parametrize("S, K, d", SIZES)
def test_at_the_kink_and_on_the_boundary(S, K, d):
    for seed in range(12):
        rho = 10 ** np.random.default_rng(seed).uniform(-2, 2)
        bandit, theta_hat, V, rho, rng = problem(seed, S, K, d, rho=rho)
        nu = reference_vector(NUS[seed % 3], bandit, rng)
        made = klrlhf.pessimistic_expected(bandit, theta_hat, V, rho, nu)
        length = klrlhf.parameter_error(made.theta, theta_hat, V)
        off = mean_feature(bandit, made.policy) - nu
        assert length <= rho * (1 + 1e-8)
        np.testing.assert_allclose(bandit.gibbs(made.theta), made.policy, atol=1e-8)
        if made.at_kink:
            np.testing.assert_allclose(off, 0, atol=1e-7 * (1 + np.abs(bandit.phi).max()))
        else:
            assert length == pytest.approx(rho, rel=1e-7)
            # the penalty's gradient: w = theta_hat - rho V^-1 off / ||off||
            toward = theta_hat - rho * np.linalg.solve(V, off) / inverse_length(off, V)
            if inverse_length(off, V) > 1e-3:
                spread = np.ptp(bandit.phi @ (made.theta - toward), axis=1)
                assert spread.max() < 1e-5 * (1 + np.abs(theta_hat).max())


@pytest.mark.parametrize("S, K, d", SIZES)
def test_beyond_the_kink_nothing_changes(S, K, d):
    """A reachable nu and a huge radius: the least divergence among policies of mean nu."""
    bandit, theta_hat, V, _, rng = problem(10, S, K, d)
    nu = reference_vector("reachable", bandit, rng)
    made = [klrlhf.pessimistic_expected(bandit, theta_hat, V, rho, nu) for rho in (1e3, 1e5)]
    assert made[0].at_kink and made[1].at_kink
    np.testing.assert_allclose(made[0].policy, made[1].policy, atol=1e-6)
    own = divergence(made[0].policy, bandit.pi0, bandit.d0)
    for _ in range(200):
        # keep the mean: move along directions in which it does not change
        shape = (S, K)
        rows = np.concatenate([np.kron(np.eye(S), np.ones(K)),
                               (bandit.d0[:, None, None] * bandit.phi).reshape(S * K, d).T])
        null = np.linalg.svd(rows)[2][np.linalg.matrix_rank(rows):]
        if len(null) == 0:
            break
        move = (rng.standard_normal(len(null)) @ null).reshape(shape)
        rival = made[0].policy + 0.3 * made[0].policy.min() * move / np.abs(move).max()
        assert divergence(rival, bandit.pi0, bandit.d0) >= own - 1e-8


def test_radius_zero_is_the_plug_in():
    for S, K, d in SIZES:
        bandit, theta_hat, V, _, rng = problem(11, S, K, d)
        for kind in NUS:
            nu = reference_vector(kind, bandit, rng)
            made = klrlhf.pessimistic_expected(bandit, theta_hat, V, 0.0, nu)
            np.testing.assert_allclose(made.policy, klrlhf.plug_in(bandit, theta_hat), atol=1e-13)
            np.testing.assert_allclose(made.theta, theta_hat, atol=1e-13)
            assert not made.at_kink and made.duality_gap == 0
            flat = klrlhf.pessimistic_pointwise(
                bandit, theta_hat, V, 0.0, klrlhf.reference_means(bandit))
            np.testing.assert_allclose(flat.policy, made.policy, atol=1e-13)


@pytest.mark.parametrize("factor", [0.5, 0.999, 1.001, 2.0])
def test_safe_improvement_collapses_exactly_inside_the_ellipsoid(factor):
    """nu = E phi(pi0): the policy is pi0 if and only if ||theta_hat||_V <= rho."""
    for S, K, d in [(3, 4, 2), (2, 3, 1), (2, 5, 4)]:
        bandit, theta_hat, V, _, _ = problem(12, S, K, d)
        rho = factor * np.sqrt(theta_hat @ V @ theta_hat)
        made = klrlhf.pessimistic_expected(bandit, theta_hat, V, rho,
                                           klrlhf.reference_mean(bandit))
        moved = np.abs(made.policy - bandit.pi0).max()
        if factor > 1:
            assert moved < 1e-8 and made.at_kink
        else:
            assert moved > 1e-5 and not made.at_kink


def test_two_arms_are_a_soft_threshold():
    """One dimension, nu of the reference: w = sign(theta_hat) (|theta_hat| - rho/sqrt(V))_+."""
    bandit = Bandit([1.0], [[0.3, 0.7]], [[[0.5], [-0.5]]], [0.0], 0.2, B=10.0)
    theta_hat = np.linspace(-2, 2, 21)[:, None]
    made = klrlhf.pessimistic_expected(bandit, theta_hat, [[4.0]], 1.5,
                                       klrlhf.reference_mean(bandit))
    expected = np.sign(theta_hat) * np.maximum(np.abs(theta_hat) - 0.75, 0)
    np.testing.assert_allclose(made.theta, expected, atol=1e-9)
    np.testing.assert_array_equal(made.at_kink, np.abs(theta_hat[:, 0]) < 0.75)


def test_rounding_in_a_flat_direction_does_not_move_the_search():
    """The browser's arithmetic left a curvature of -2e-21 there, and steps that crossed the ball."""
    from klrlhf._log_partition import without_noise

    H = np.array([[[-2e-21, 0.0], [0.0, 0.08]], [[0.04, 0.0], [0.0, 0.08]]])
    gradient, v = np.array([[1e-19, 1.6e-5], [1e-3, 1e-3]]), np.zeros((2, 2))
    noisy = np.array([[0.9, -2e-4], [-0.025, -0.0125]])
    calm = without_noise(H, gradient, v, noisy)
    np.testing.assert_allclose(calm, [[0.0, -2e-4], [-0.025, -0.0125]], rtol=1e-12)
    leaving = without_noise(H, 1e4 * gradient, v, noisy)
    np.testing.assert_array_equal(leaving, noisy)
