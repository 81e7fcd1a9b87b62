"""The frozen instance: sizes, exact values, and the book's standard instances in closed form."""

import dataclasses

import numpy as np
import pytest

import klrlhf
from klrlhf import Bandit

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("hidden, theta", [("bad", (1.0, 0.0)), ("good", (0.5, 1.5))])
def test_running_example_is_the_one_of_the_book(hidden, theta):
    bandit = Bandit.running_example(beta=0.5, hidden=hidden)
    assert (bandit.S, bandit.K, bandit.d) == (3, 4, 2)
    assert bandit.d0.tolist() == [1 / 3] * 3
    assert np.array_equal(bandit.pi0, np.full((3, 4), 0.25))
    assert tuple(bandit.theta) == theta
    assert (bandit.B, bandit.beta) == (2.0, 0.5)
    assert bandit.L == 1.0
    # nu = E phi(pi0) = 0, so L0 is the norm of the longest feature.
    assert bandit.L0 == 0.5
    kappa = np.array([0.5, 0.75, 1.0])
    a, b = theta
    expected = kappa[:, None] * np.array([a, -a, b, -b]) / 2
    assert np.array_equal(bandit.reward, expected)
    assert bandit.R_x == pytest.approx(kappa * max(a, b))
    assert bandit.R == max(a, b)


def test_running_example_story():
    bad, good = Bandit.running_example(hidden="bad"), Bandit.running_example(hidden="good")
    assert (bad.reward.argmax(axis=1) == 0).all()
    assert (bad.reward[:, 2:] == 0).all()
    assert (good.reward.argmax(axis=1) == 2).all()
    assert bad.kl_max == pytest.approx(np.log(4), rel=1e-15)


def test_running_example_optimum_in_closed_form():
    for beta in (0.05, 0.5, 5.0):
        bandit = Bandit.running_example(beta=beta)
        t = np.array([0.5, 0.75, 1.0]) / (2 * beta)
        best = beta * np.mean(np.log(0.5 * np.cosh(t) + 0.5))
        assert bandit.optimal_value == pytest.approx(best, rel=1e-13)
        law = np.stack([np.exp(t), np.exp(-t), np.ones(3), np.ones(3)], axis=1)
        law /= law.sum(axis=1, keepdims=True)
        assert bandit.optimal_policy == pytest.approx(law, rel=1e-13)


@pytest.mark.parametrize("gap", [0.0, 0.5, 1.0, 2.0])
def test_three_arms(gap):
    bandit = Bandit.three_arms(gap=gap, beta=0.5, B=2.0)
    assert (bandit.S, bandit.K, bandit.d) == (1, 3, 3)
    r = bandit.reward[0]
    assert r[0] == r[1]
    assert r[0] - r[2] == pytest.approx(gap, abs=1e-15)
    assert r.sum() == pytest.approx(0, abs=1e-15)
    assert bandit.L == pytest.approx(np.sqrt(2))
    policy = np.exp(r / 0.5) / np.exp(r / 0.5).sum()
    assert bandit.optimal_policy[0] == pytest.approx(policy, rel=1e-14)


def test_three_arms_must_fit_in_the_ball():
    largest = 2.0 / np.sqrt(2 / 3)
    Bandit.three_arms(gap=largest * (1 - 1e-9), B=2.0)
    with pytest.raises(ValueError, match="ball of radius B"):
        Bandit.three_arms(gap=largest * 1.001, B=2.0)


def test_tabular_is_its_own_reward():
    reward = np.random.default_rng(1).standard_normal((3, 4))
    bandit = Bandit.tabular(reward, 0.7)
    assert np.array_equal(bandit.reward, reward)
    assert bandit.B == pytest.approx(np.linalg.norm(reward))
    assert bandit.d == 12
    assert np.array_equal(bandit.reward_of(2 * reward.ravel()), 2 * reward)


def test_default_bound_is_the_norm_of_theta():
    base = Bandit.random(1)
    bandit = Bandit(base.d0, base.pi0, base.phi, base.theta, 1.0)
    assert bandit.B == np.linalg.norm(base.theta)
    assert Bandit(base.d0, base.pi0, base.phi, [0.0, 0.0], 1.0).B == 1.0


def test_random_instances_reproduce_and_spread_over_the_ball():
    one, two = Bandit.random(7, S=4, K=5, d=3, beta=0.3, B=1.5), Bandit.random(
        np.random.default_rng(7), S=4, K=5, d=3, beta=0.3, B=1.5)
    for name in ("d0", "pi0", "phi", "theta"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert one.phi.shape == (4, 5, 3)
    rng = np.random.default_rng(8)
    # Uniform in the ball: (|theta| / B)^d is uniform on [0, 1]; mean 1/2 within 4 s.e.
    share = [(np.linalg.norm(Bandit.random(rng, d=3, B=1.5).theta) / 1.5) ** 3 for _ in range(600)]
    assert abs(np.mean(share) - 0.5) < 4 * np.sqrt(1 / 12 / 600)


def test_methods_are_the_functions_of_the_library():
    bandit = Bandit.random(3, S=3, K=4, d=2, beta=0.4)
    rng = np.random.default_rng(4)
    policy = rng.dirichlet(np.ones(4), size=(5, 3))
    theta = rng.standard_normal((5, 2))
    r, beta, pi0, d0 = bandit.reward, bandit.beta, bandit.pi0, bandit.d0
    assert np.allclose(r, bandit.phi @ bandit.theta, rtol=1e-14)
    assert np.array_equal(bandit.value(policy), klrlhf.value(policy, r, beta, pi0, d0))
    assert np.array_equal(bandit.kl(policy), klrlhf.expected_kl(policy, pi0, d0))
    assert np.array_equal(bandit.gap(policy), klrlhf.suboptimality(policy, r, beta, pi0, d0))
    assert np.array_equal(bandit.expected_reward(policy), klrlhf.expected_reward(policy, r, d0))
    hat = bandit.reward_of(theta)
    assert np.allclose(hat, np.einsum("nd,skd->nsk", theta, bandit.phi), rtol=1e-14, atol=1e-15)
    assert np.array_equal(bandit.gibbs(theta), klrlhf.gibbs_policy(hat, beta, pi0))
    assert np.allclose(bandit.plug_in_gap(theta),
                       klrlhf.plug_in_suboptimality(hat, r, beta, pi0, d0), rtol=1e-12)
    best = bandit.value(bandit.optimal_policy)
    assert best == pytest.approx(bandit.optimal_value, rel=1e-13)
    assert np.allclose(bandit.optimal_value - bandit.value(policy), bandit.gap(policy), rtol=1e-12)
    assert bandit.gibbs(bandit.theta) == pytest.approx(bandit.optimal_policy, rel=1e-13)
    front = bandit.frontier([0.0, bandit.kl(bandit.optimal_policy)])
    assert front.beta[1] == pytest.approx(beta, rel=1e-9)
    assert front.reward[1] == pytest.approx(bandit.expected_reward(bandit.optimal_policy))


def test_plug_in_gap_keeps_its_digits_below_the_rounding_of_theta():
    bandit = Bandit.random(5).with_(theta=[1.0, 0.5])
    error = np.array([2.0**-45, -(2.0**-46)])
    whole, half = bandit.plug_in_gap(bandit.theta + error), bandit.plug_in_gap(
        bandit.theta + error / 2)
    # The gap is quadratic: a factor 4, up to the cubic term of relative size 1e-14.
    assert whole / half == pytest.approx(4, rel=1e-11)
    assert 0 < whole < 1e-26


def test_constants_by_plain_loops():
    bandit = Bandit.random(6, S=3, K=4, d=3)
    lengths = [np.linalg.norm(bandit.phi[x, a] - bandit.phi[x, b])
               for x in range(3) for a in range(4) for b in range(4)]
    assert bandit.L == pytest.approx(max(lengths), rel=1e-15)
    centre = [bandit.pi0[x] @ bandit.phi[x] for x in range(3)]
    lengths = [np.linalg.norm(bandit.phi[x, a] - centre[x]) for x in range(3) for a in range(4)]
    assert bandit.L0 == pytest.approx(max(lengths), rel=1e-14)
    assert bandit.R == max(np.ptp(bandit.reward[x]) for x in range(3))


def test_an_instance_is_frozen():
    bandit = Bandit.running_example()
    with pytest.raises(dataclasses.FrozenInstanceError):
        bandit.beta = 1.0
    for name in ("d0", "pi0", "phi", "theta", "reward"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(bandit, name)[0] = 0.0


def test_an_instance_does_not_share_its_callers_arrays():
    pi0 = np.full((1, 2), 0.5)
    bandit = Bandit([1.0], pi0, np.eye(2)[None], [1.0, 0.0], 0.5)
    pi0[0] = [0.1, 0.9]
    assert bandit.pi0.tolist() == [[0.5, 0.5]]


def test_with_replaces_and_validates():
    bandit = Bandit.running_example(beta=0.5)
    other = bandit.with_(beta=2.0, theta=[0.0, 1.0])
    assert (other.beta, bandit.beta) == (2.0, 0.5)
    assert (other.reward.argmax(axis=1) == 2).all()
    with pytest.raises(ValueError, match="no gamma"):
        bandit.with_(gamma=1.0)
    with pytest.raises(ValueError, match="ball of radius B"):
        bandit.with_(theta=[3.0, 0.0])


def test_one_action_and_one_context():
    bandit = Bandit([1.0], [[1.0]], [[[2.0]]], [0.5], 0.1)
    assert (bandit.optimal_value, bandit.kl_max, bandit.L, bandit.L0, bandit.R) == (1.0, 0, 0, 0, 0)
    assert bandit.plug_in_gap([-0.5]) == 0
    assert bandit.gap(bandit.pi0) == 0
