"""Gibbs policies, divergences and moments against high precision, enumeration and closed forms."""

from itertools import product

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import klrlhf
import reference
from reference import relative_error

pytestmark = pytest.mark.filterwarnings("error")
EXTREMES = reference.extreme_instances()


@pytest.mark.parametrize("name", EXTREMES)
def test_gibbs_policy_and_partition_in_high_precision(name):
    _, pi0, reward, beta = EXTREMES[name]
    policy = klrlhf.gibbs_policy(reward, beta, pi0)
    logs = klrlhf.log_gibbs_policy(reward, beta, pi0)
    z = klrlhf.log_partition(reward, beta, pi0)
    assert np.abs(policy.sum(axis=-1) - 1).max() < 4e-16
    for x in range(len(pi0)):
        truth = reference.gibbs(reward[x], beta, pi0[x])
        # A float result cannot be better than the rounding of the largest term it adds.
        size = max(1.0, float(np.abs(reward[x]).max()) / beta)
        assert abs(float(mp.mpf(float(z[x])) - reference.log_partition(reward[x], beta, pi0[x]))
                   ) < 1e-15 * size * 4
        for a, true in enumerate(truth):
            assert abs(float(mp.mpf(float(policy[x, a])) - true)) < 1e-14
            log_true = mp.log(true)
            assert abs(float(mp.mpf(float(logs[x, a])) - log_true)) < 1e-14 + 4e-16 * abs(
                float(log_true))


def test_gibbs_policy_keeps_near_ties_of_huge_rewards():
    # The two best rewards differ by one beta: the law between them is exactly 1 : e.
    reward = np.array([[1e6, 1e6 + 2.0**-20, 0.0]])
    policy = klrlhf.gibbs_policy(reward, 2.0**-20, np.full((1, 3), 1 / 3))
    e = np.e
    assert policy[0] == pytest.approx([1 / (1 + e), e / (1 + e), 0.0], abs=1e-15)


def test_gibbs_policy_ignores_prompt_only_shifts():
    rng = np.random.default_rng(3)
    _, pi0, reward = reference.random_instance(rng, S=5, K=6)
    reward = np.round(reward * 2**20) / 2**20
    shift = rng.integers(-1000, 1000, (5, 1)).astype(float)
    assert np.array_equal(klrlhf.gibbs_policy(reward + shift, 0.3, pi0),
                          klrlhf.gibbs_policy(reward, 0.3, pi0))


def test_limits_of_the_gibbs_policy():
    _, pi0, reward = reference.random_instance(np.random.default_rng(4))
    reward[0, :2] = reward[0].max() + 1.0
    cold = klrlhf.gibbs_policy(reward, 1e-9, pi0)
    assert np.abs(cold - klrlhf.greedy_policy(reward, pi0)).max() < 1e-12
    hot = klrlhf.gibbs_policy(reward, 1e14, pi0)
    assert np.abs(hot - pi0).max() < 1e-13


def test_replicate_axes_broadcast_to_the_bit():
    rng = np.random.default_rng(5)
    reward = rng.standard_normal((7, 1, 3, 4))
    pi0 = rng.dirichlet(np.ones(4), size=(5, 3))
    beta = 10.0 ** rng.uniform(-2, 2, (7, 1))
    batch = klrlhf.gibbs_policy(reward, beta, pi0)
    assert batch.shape == (7, 5, 3, 4)
    for i, j in product(range(7), range(5)):
        one = klrlhf.gibbs_policy(reward[i, 0], beta[i, 0], pi0[j])
        assert np.array_equal(batch[i, j], one)


def test_kl_divergence_in_high_precision():
    rng = np.random.default_rng(6)
    for size in (0.0, 1e-9, 1e-4, 0.1, 3.0, 200.0):
        q = rng.dirichlet(np.ones(5), size=2)
        p = q * np.exp(size * rng.uniform(-1, 1, (2, 5)))
        p /= p.sum(axis=-1, keepdims=True)
        value = klrlhf.kl_divergence(p, q)
        from_logs = klrlhf.kl_divergence_from_logs(np.log(p), np.log(q))
        for x in range(2):
            truth = reference.divergence(reference.law(p[x]), reference.law(q[x]))
            # Rounding of p moves the log-ratio by 1e-16 and KL by its square root times that.
            allowed = 1e-12 * float(truth) + 4e-15 * float(mp.sqrt(truth)) + 1e-31
            assert abs(float(value[x] - truth)) < allowed
            assert abs(float(from_logs[x] - truth)) < allowed + 1e-15 * float(mp.sqrt(truth))


def test_divergences_at_the_boundary_of_the_simplex():
    p = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.0, 1.0]])
    q = np.array([[0.5, 0.5], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert klrlhf.kl_divergence(p, q).tolist() == [pytest.approx(np.log(2)), np.inf, np.inf, 0.0]
    assert klrlhf.chi2_divergence(p, q).tolist() == [1.0, np.inf, np.inf, 0.0]
    tiny = np.array([[1e-300, 1.0]])
    assert klrlhf.kl_divergence([[1.0, 0.0]], tiny)[0] == pytest.approx(300 * np.log(10), rel=1e-14)
    assert klrlhf.chi2_divergence([[1.0, 0.0]], tiny)[0] == pytest.approx(1e300, rel=1e-12)


def test_chi_squared_in_high_precision():
    rng = np.random.default_rng(7)
    for size in (1e-7, 0.1, 20.0):
        q = rng.dirichlet(np.ones(5))
        p = q * np.exp(size * rng.uniform(-1, 1, 5))
        p /= p.sum()
        truth = mp.fsum((mp.mpf(float(a)) - mp.mpf(float(b))) ** 2 / mp.mpf(float(b))
                        for a, b in zip(p, q, strict=True))
        assert relative_error(klrlhf.chi2_divergence([p], [q])[0], truth) < 1e-12


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e9])
def test_moments_in_high_precision(offset):
    rng = np.random.default_rng(8)
    policy = rng.dirichlet(np.full(5, 0.3), size=3)
    f = offset + np.round(rng.standard_normal((3, 5)) * 2**20) / 2**20
    for x in range(3):
        p, g = reference.exact(policy[x]), reference.exact(f[x])
        mean = mp.fsum(a * b for a, b in zip(p, g, strict=True))
        spread = mp.fsum(a * (b - mean / mp.fsum(p)) ** 2 for a, b in zip(p, g, strict=True))
        assert relative_error(klrlhf.expectation(policy, f)[x], mean) < 1e-14
        assert relative_error(klrlhf.variance(policy, f)[x], spread) < 1e-12


def test_variance_of_an_unlikely_outlier_next_to_a_near_tie():
    policy = np.array([[0.0, 0.5, 0.5]])
    f = np.array([[1e6, 0.0, 1e-9]])
    assert klrlhf.variance(policy, f)[0] == pytest.approx(2.5e-19, rel=1e-12)


def test_feature_moments_are_moments_of_every_direction():
    rng = np.random.default_rng(9)
    policy = rng.dirichlet(np.ones(4), size=(6, 3))
    phi = rng.standard_normal((3, 4, 2))
    mean, covariance = klrlhf.feature_mean(policy, phi), klrlhf.feature_covariance(policy, phi)
    for u in rng.standard_normal((5, 2)):
        f = phi @ u
        assert np.allclose(mean @ u, klrlhf.expectation(policy, f), rtol=0, atol=1e-14)
        quadratic = np.einsum("nsij,i,j->ns", covariance, u, u)
        assert np.allclose(quadratic, klrlhf.variance(policy, f), rtol=1e-12, atol=1e-15)
    assert np.allclose(covariance, np.swapaxes(covariance, -1, -2), rtol=1e-13, atol=1e-16)


def test_uniform_and_mixture():
    assert np.array_equal(klrlhf.uniform_policy(2, 5), np.full((2, 5), 0.2))
    first, second = np.eye(3)[[0, 1]], np.eye(3)[[2, 1]]
    mix = klrlhf.mixture_policy([0.0, 0.25, 1.0], first, second)
    assert np.array_equal(mix[0], second)
    assert np.array_equal(mix[2], first)
    assert mix[1, 0].tolist() == [0.25, 0.0, 0.75]


def best_of_n_by_enumeration(reward, pi0, n):
    """Sum over all K^n tuples; a draw among the winners is kept uniformly."""
    law = np.zeros(len(pi0))
    for draws in product(range(len(pi0)), repeat=n):
        chance = np.prod(pi0[list(draws)])
        best = max(reward[list(draws)])
        winners = [a for a in draws if reward[a] == best]
        for a in winners:
            law[a] += chance / len(winners)
    return law


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_by_enumeration_of_all_tuples(n):
    rng = np.random.default_rng(10)
    for _ in range(4):
        pi0 = rng.dirichlet(np.full(4, 0.7))
        reward = rng.integers(0, 3, 4).astype(float)
        law = klrlhf.best_of_n_policy(reward[None], pi0[None], n)[0]
        assert law == pytest.approx(best_of_n_by_enumeration(reward, pi0, n), rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("n", [1, 2, 1000, 10**9, 10**15])
def test_best_of_n_without_ties_is_a_difference_of_powers(n):
    pi0 = np.array([1e-12, 0.25, 0.75 - 1e-9 - 1e-12, 1e-9])
    law = klrlhf.best_of_n_policy(np.arange(4.0)[None], pi0[None], n)[0]
    with mp.workdps(60):
        exact = reference.law(pi0)
        edges = [mp.fsum(exact[:k]) ** n for k in range(5)]
        for value, low, high in zip(law, edges[:-1], edges[1:], strict=True):
            if high - low > mp.mpf(10) ** -290:
                # The powers amplify the rounding of pi0 by n.
                assert relative_error(value, high - low) < 1e-12 + 4e-16 * n
    assert law.sum() == pytest.approx(1, abs=1e-15)


def test_best_of_n_never_exceeds_its_kl_bound():
    rng = np.random.default_rng(11)
    pi0 = rng.dirichlet(np.ones(6), size=(200, 1))
    reward = rng.integers(0, 5, (200, 1, 6)).astype(float)
    for n in (2, 4, 16):
        kl = klrlhf.kl_divergence(klrlhf.best_of_n_policy(reward, pi0, n), pi0)
        assert (kl <= np.log(n) - (n - 1) / n + 1e-14).all()


laws = st.lists(st.floats(1e-6, 1.0), min_size=3, max_size=3).map(
    lambda w: (np.array(w) / np.sum(w))[None])
tables = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3).map(lambda r: np.array(r)[None])


@given(laws, tables, st.floats(1e-6, 1e6))
def test_gibbs_policy_maximizes_the_objective(pi0, reward, beta):
    d0 = np.ones(1)
    best = klrlhf.optimal_value(reward, beta, pi0, d0)
    size = np.abs(reward).max() + beta
    attained = klrlhf.value(klrlhf.gibbs_policy(reward, beta, pi0), reward, beta, pi0, d0)
    assert abs(attained - best) <= 1e-12 * size
    for rival in (pi0, klrlhf.greedy_policy(reward, pi0), klrlhf.uniform_policy(1, 3)):
        assert klrlhf.value(rival, reward, beta, pi0, d0) <= best + 1e-12 * size
