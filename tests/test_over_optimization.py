"""Over-optimization: closed forms, published values, independent computations and bad input."""

import numpy as np
import pytest
from scipy.integrate import quad

from klrlhf.bandit import Bandit
from klrlhf.experiments import fit_sweep
from klrlhf.offline import pessimistic_expected
from klrlhf.over_optimization import (
    best_of_n_curve,
    covariance_sign_changes,
    fit_form,
    gold_at_budget,
    gold_by_proxy,
    gold_derivative,
    gold_start,
    guaranteed_curve,
    guaranteed_stopping,
    guaranteed_stopping_bound,
    over_optimization_curve,
    proxy_error_bound,
)
from klrlhf.over_optimization._guarantee import _proved
from klrlhf.policies import gibbs_policy
from klrlhf.values import expected_kl, expected_reward, kl_frontier, temperature_path

ONE = np.ones(1)


def random_case(seed, R=6, S=3, K=4):
    rng = np.random.default_rng(seed)
    pi0 = rng.dirichlet(np.ones(K), (R, S))
    return rng.standard_normal((R, S, K)), rng.standard_normal((R, S, K)), pi0, rng.dirichlet(
        np.ones(S), R)


def test_two_answers_in_closed_form():
    """Gold is sigma(lambda) times a gap when the two agree, and its mirror when they do not."""
    lam = np.array([0.0, 0.5, 2.0, 30.0])
    p, rest = 1 / (1 + np.exp(-lam)), 1 / (1 + np.exp(lam))
    half, proxy = np.full((1, 2), 0.5), np.array([[1.0, 0.0]])
    for gap in (2.0, -3.0):
        curve = over_optimization_curve(lam, gap * proxy, proxy, half, ONE)
        np.testing.assert_allclose(curve.gold, gap * p, rtol=1e-14)
        np.testing.assert_allclose(curve.covariance, gap * p * rest, rtol=1e-11)
        np.testing.assert_allclose(curve.variance, p * rest, rtol=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_curve_against_policies_one_by_one(seed):
    gold, proxy, pi0, d0 = random_case(seed)
    lam = np.array([0.0, 0.3, 4.0, 90.0])
    curve = over_optimization_curve(lam, gold, proxy, pi0, d0)
    for i, one in enumerate(lam):
        policy = pi0 if one == 0 else gibbs_policy(proxy, 1 / one, pi0)
        np.testing.assert_allclose(curve.gold[:, i], expected_reward(policy, gold, d0), atol=1e-12)
        np.testing.assert_allclose(curve.proxy[:, i], expected_reward(policy, proxy, d0),
                                   atol=1e-12)
        np.testing.assert_allclose(curve.kl[:, i], expected_kl(policy, pi0, d0), atol=1e-12)
    at = gold_at_budget([0.01, 0.2], gold, proxy, pi0, d0)
    again = over_optimization_curve(at.inverse_temperature, gold, proxy, pi0, d0)
    np.testing.assert_allclose(at.gold, again.gold, rtol=1e-12)
    np.testing.assert_allclose(again.kl, at.kl, rtol=1e-9)


def test_gold_is_the_integral_of_the_covariance():
    gold, proxy, pi0, d0 = random_case(7, R=1)
    args = gold[0], proxy[0], pi0[0], d0[0]
    grown = quad(lambda lam: gold_derivative(lam, *args)[0], 0, 3, epsabs=1e-12)[0]
    curve = over_optimization_curve([0.0, 3.0], *args)
    assert curve.gold[1] - curve.gold[0] == pytest.approx(grown, abs=1e-10)


def test_same_reward_is_the_temperature_path():
    gold, _, pi0, d0 = random_case(3)
    lam = np.geomspace(1e-6, 1e3, 7)
    curve = over_optimization_curve(lam, gold, gold, pi0, d0)
    path = temperature_path(lam, gold, pi0, d0)
    np.testing.assert_allclose(curve.gold, path.reward, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(curve.covariance, path.variance, rtol=1e-9, atol=1e-14)
    kl = np.array([0.0, 1e-4, 0.1, 50.0])
    np.testing.assert_allclose(gold_at_budget(kl, gold, gold, pi0, d0).gold,
                               kl_frontier(kl, gold, pi0, d0).reward, rtol=1e-11, atol=1e-11)


def test_sign_changes():
    flat, ramp = np.full((1, 3), 1 / 3), np.array([[0.0, 1.0, 2.0]])
    # Gold 0, 1, 0 with a uniform reference: symmetric about lambda = 0, so it falls from the start.
    assert covariance_sign_changes([[0.0, 1, 0]], ramp, flat, ONE).size == 0
    tilted = np.array([[0.6, 0.3, 0.1]])
    found = covariance_sign_changes([[0.0, 1, 0]], ramp, tilted, ONE)
    # pi(1) is largest where 0.6 e^{-lam} = 0.1 e^{lam}.
    np.testing.assert_allclose(found, [0.5 * np.log(6)], rtol=1e-9)
    assert covariance_sign_changes(ramp, ramp, flat, ONE).size == 0
    assert covariance_sign_changes(ramp, 0 * ramp, flat, ONE).size == 0


def test_sign_changes_far_out_and_in_the_noise():
    # A favourite of probability e^-L takes over near lambda = L over its lead, however large L.
    for rare in (1e-20, 1e-100, 1e-300):
        found = covariance_sign_changes([[0.0, 1, -1]], [[0.0, 1, 2]], [[0.5, 0.5 - rare, rare]],
                                        ONE)
        # C = 0: pi(0) pi(1) = 4 pi(0) pi(2) (-1)(-1)/2 + 2 pi(1) pi(2), all with uniform weights.
        lam = found[0]
        a, b, c = np.log(0.5), np.log(0.5 - rare) + lam, np.log(rare) + 2 * lam
        assert found.size == 1
        assert a + b == pytest.approx(np.logaddexp(np.log(2) + a + c, np.log(2) + b + c), abs=1e-9)
    # A gold reward that averages out at equal proxy has no covariance, only rounding.
    assert covariance_sign_changes([[0.1, 0.7, 0.3, 0.1]], [[0, 0, 1, 1]], [[0.2, 0.3, 0.3, 0.2]],
                                   ONE).size == 0
    assert covariance_sign_changes([[0.3, 0.7, 0.7, 0.3]], [[0, 0, 1, 1]], [[0.25] * 4],
                                   ONE).size == 0


def test_budgets_beyond_the_end():
    at = gold_at_budget([0.1, 9.0], [[1.0, 2.0]], [[1.0, 3.0]], [[0.5, 0.5]], ONE)
    np.testing.assert_allclose(at.kl, [0.1, np.log(2)], rtol=1e-9)
    assert gold_at_budget([9.0], [[1.0, 2.0]], [[1.0, 1.0]], [[0.5, 0.5]], ONE).kl == 0


def test_start_does_not_depend_on_the_scale_of_the_proxy():
    gold, proxy, pi0, d0 = random_case(5)
    one = gold_start(gold, proxy, pi0, d0)
    for size in (1e-120, 1e40):
        other = gold_start(gold, size * proxy, pi0, d0)
        np.testing.assert_allclose(other.slope, one.slope, rtol=1e-12)
        np.testing.assert_allclose(other.curvature, one.curvature, rtol=1e-10, atol=1e-12)


def test_start_by_differences():
    gold, proxy, pi0, d0 = random_case(11)
    start = gold_start(gold, proxy, pi0, d0)
    h = 1e-4
    C = gold_derivative([0.0, h, 2 * h], gold, proxy, pi0, d0)
    np.testing.assert_allclose(start.covariance, C[:, 0], atol=1e-13)
    np.testing.assert_allclose(start.third, (4 * C[:, 1] - C[:, 2] - 3 * C[:, 0]) / (2 * h),
                               atol=1e-6)
    d = np.array([1e-3, 2e-3])
    gain = gold_at_budget(d**2, gold, proxy, pi0, d0).gold - expected_reward(
        pi0, gold, d0)[:, None]
    # gain / d = zeta - omega d + O(d^2)
    slope = (gain / d) @ np.array([2.0, -1.0])
    np.testing.assert_allclose(start.slope, slope, atol=2e-5)
    np.testing.assert_allclose(start.curvature, -np.diff(gain / d)[:, 0] / 1e-3, atol=2e-2)


def test_turns_of_one_prompt():
    """No prompt's gold curve turns more often than its regression on the proxy (independent count).
    """
    rng, most = np.random.default_rng(0), 0
    lam = np.linspace(0, 40, 2001)
    for _ in range(40):
        J = int(rng.integers(3, 6))
        levels = np.sort(rng.uniform(0, 3, J))
        weight = np.exp(rng.normal(0, 8, J))
        gold, proxy = rng.standard_normal((2, J)), np.stack([levels, levels])
        pi0 = np.stack([0.3 * weight, 0.7 * weight]).reshape(1, -1) / weight.sum()
        m = gold_by_proxy(gold.reshape(1, -1), proxy.reshape(1, -1), pi0)[0, :J]
        np.testing.assert_allclose(m, 0.3 * gold[0] + 0.7 * gold[1], atol=1e-12)
        found = covariance_sign_changes(gold.reshape(1, -1), proxy.reshape(1, -1), pi0, ONE)
        slope = gold_derivative(lam, gold.reshape(1, -1), proxy.reshape(1, -1), pi0, ONE)
        turns = int((np.diff(np.sign(np.diff(m))) != 0).sum())
        clear = np.sign(slope[np.abs(slope) > 1e-13])
        assert (np.diff(clear) != 0).sum() <= len(found) <= turns
        most = max(most, len(found))
    assert most >= 2


def test_regression_and_ties():
    gold, proxy = np.array([[1.0, 3.0, 5.0]]), np.array([[0.0, 0.0, 1.0]])
    m = gold_by_proxy(gold, proxy, [[0.1, 0.3, 0.6]])
    np.testing.assert_allclose(m, [[2.5, 2.5, 5.0]])


def test_published_best_of_n_divergence():
    """Gao et al. (2023): n = 1000 is about 6 nats, n = 60 000 about 10; formula log n - (n-1)/n."""
    K = 2000
    ramp, uniform = np.arange(K)[None] * 1.0, np.full((1, K), 1 / K)
    found = best_of_n_curve([1, 4, 64], ramp, ramp, uniform, ONE)
    n = found.n
    np.testing.assert_allclose(found.kl, np.log(n) - (n - 1) / n, atol=2e-3)
    np.testing.assert_allclose((found.proxy + 0.5) / K, n / (n + 1), atol=1e-3)
    assert np.log(1000) - 0.999 == pytest.approx(6, abs=0.1)
    assert np.log(60_000) - 1 == pytest.approx(10, abs=0.05)


def test_regressional_identity_of_gao():
    """Gold per proxy is Var(X) / (Var(X) + Var(Z)) for normal gold X and error Z."""
    grid = np.linspace(-8, 8, 121)
    law = np.exp(-grid**2 / 2) / np.exp(-grid**2 / 2).sum()
    gold = np.repeat(grid, grid.size)[None]
    proxy = gold + 0.7 * np.tile(grid, grid.size)[None]
    pi0 = np.outer(law, law).reshape(1, -1)
    at = gold_at_budget([0.2, 1.0], gold, proxy, pi0 / pi0.sum(), ONE)
    np.testing.assert_allclose(at.gold / at.proxy, 1 / (1 + 0.49), rtol=1e-8)
    np.testing.assert_allclose(at.proxy, np.sqrt(2 * at.kl * 1.49), rtol=1e-6)


def test_forms_are_recovered():
    d = np.linspace(0.1, 3, 30)
    for form, shape in (("linear", d * (0.7 - 0.2 * d)), ("log", d * (0.7 - 0.2 * np.log(d)))):
        fit = fit_form(d, np.stack([shape, 2 * shape]), form)
        np.testing.assert_allclose(fit.zeta, [0.7, 1.4], rtol=1e-10)
        np.testing.assert_allclose(fit.omega, [0.2, 0.4], rtol=1e-10)
        assert fit.error.max() < 1e-12


def test_guarantee_against_the_ellipse_by_brute_force():
    bandit = Bandit.running_example(0.5, "good")
    theta, V, rho = np.array([0.4, 0.9]), np.array([[30.0, 5.0], [5.0, 6.0]]), 1.7
    turn = np.linspace(0, 2 * np.pi, 20_001)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    truths = theta + rho * np.linalg.solve(np.linalg.cholesky(V).T, circle.T).T
    lam = np.array([0.0, 0.7, 3.0])
    curve = guaranteed_curve(lam, bandit, theta, V, rho)
    proxy = bandit.reward_of(theta)
    all_of = over_optimization_curve(lam, bandit.reward_of(truths), proxy, bandit.pi0, bandit.d0)
    start = (bandit.reward_of(truths) * bandit.pi0).sum(-1) @ bandit.d0
    np.testing.assert_allclose(curve.gain, (all_of.gold - start[:, None]).min(0), atol=1e-7)
    np.testing.assert_allclose(curve.slope, all_of.covariance.min(0), atol=1e-7)


def test_stopping_rules():
    bandit = Bandit.running_example(0.5, "bad")
    fits = fit_sweep(bandit, 1.0, [10**5], replicates=5, seed=1)
    args = bandit, fits.theta[0], fits.V[0], fits.rho[0]
    closed, exact = guaranteed_stopping_bound(*args), guaranteed_stopping(*args, 80)
    assert (closed > 0).all() and (closed <= exact).all()
    # No doubt at all: the rule never stops. Hopeless doubt: it never starts.
    assert np.isinf(guaranteed_stopping(bandit, args[1], args[2], 0.0, 40)).all()
    assert (guaranteed_stopping(bandit, args[1], args[2], 1e4, 40) == 0).all()
    assert (guaranteed_stopping_bound(bandit, args[1], args[2], 1e4) == 0).all()
    assert guaranteed_stopping(bandit, np.zeros(2), np.eye(2), 1.0, 40) == 0
    assert guaranteed_stopping_bound(bandit, np.zeros(2), np.eye(2), 1.0) == 0
    theta, V = np.array([0.8, 1.2]), np.diag([11.0, 0.6])
    stop = guaranteed_stopping(bandit, theta, V, 1.0)
    assert guaranteed_curve([stop], bandit, theta, V, 1.0).ratio[0] == pytest.approx(1, abs=1e-9)


def test_stopping_does_not_miss_a_dip():
    """The least slope dips below zero and comes back: the rule stops before the dip."""
    rng, dips = np.random.default_rng(3), 0
    for _ in range(40):
        bandit = Bandit.random(rng, S=2, K=5, d=2)
        theta = rng.standard_normal(2)
        root = rng.standard_normal((2, 2))
        V = root @ root.T + 0.05 * np.eye(2)
        span = np.ptp(bandit.reward_of(theta), axis=-1).max()
        lam = np.concatenate([[0.0], np.geomspace(1e-2, 40, 400) / span])
        unit = guaranteed_curve(lam, bandit, theta, V, 1.0).ratio
        rho = 0.999 / unit[: np.searchsorted(lam, 20 / span)].max()
        ratio = rho * unit * 1.002
        stop = guaranteed_stopping(bandit, theta, V, rho * 1.002, points=3)
        again = guaranteed_stopping(bandit, theta, V, rho * 1.002, points=300)
        bad = np.flatnonzero(ratio >= 1)
        assert bad.size and stop <= lam[bad[0]] and again <= lam[bad[0]]
        at = guaranteed_curve([stop], bandit, theta, V, rho * 1.002).ratio[0]
        assert stop == 0 or at <= 1
        np.testing.assert_allclose(again, stop, rtol=1e-8)
        back = bad[0] + np.flatnonzero(ratio[bad[0]:] < 1)
        if back.size and bad[0] > 0:
            # Over the dip, from a point before it to the first one after it, nothing is proved.
            dips += 1
            ends = lam[[[bad[0] - 1, back[0]]]]
            widest = span + rho * 1.002 * np.sqrt(np.max([
                z @ np.linalg.solve(V, z) for s in bandit.phi for a in s for z in s - a]))
            assert not _proved(ends, bandit, [theta[None], V[None], np.array([rho * 1.002])],
                               np.array([span]), np.array([widest])).any()
    assert dips > 3


def test_pessimism_has_the_best_guarantee():
    bandit = Bandit.running_example(0.3, "bad")
    theta, V, rho = np.array([0.8, 1.2]), np.diag([11.0, 0.6]), 1.0
    policy = pessimistic_expected(bandit, theta, V, rho, np.zeros(2)).policy
    e = np.einsum("s,sk,skd->d", bandit.d0, policy, bandit.phi)
    floor = e @ theta - rho * np.sqrt(e @ np.linalg.solve(V, e))
    stop = kl_frontier([bandit.kl(policy)], bandit.reward_of(theta), bandit.pi0, bandit.d0)
    assert guaranteed_curve(1 / stop.beta, bandit, theta, V, rho).gain[0] < floor


def test_error_bound():
    assert proxy_error_bound(0.5, [2.0], ONE) == pytest.approx(1.0)
    assert proxy_error_bound(0.5, [2.0, 9.0], [1.0, 0.0]) == pytest.approx(1.0)


BAD = [
    (lambda: over_optimization_curve([-1.0], [[0, 1]], [[0, 1]], [[0.5, 0.5]], ONE), "nonnegative"),
    (lambda: over_optimization_curve([1.0], [[0, 1]], [[0, np.nan]], [[0.5, 0.5]], ONE), "finite"),
    (lambda: over_optimization_curve([1.0], [[0, 1]], [[0, 1]], [[0.0, 1.0]], ONE), "full support"),
    (lambda: gold_derivative([1.0], [[0, 1]], [[0, 1, 2]], [[0.5, 0.5]], ONE), "reward_hat"),
    (lambda: covariance_sign_changes(np.zeros((2, 1, 2)), np.zeros((1, 2)), [[0.5, 0.5]], ONE),
     "one instance"),
    (lambda: gold_start([[0, 1]], [[1, 1]], [[0.5, 0.5]], ONE), "flat"),
    (lambda: gold_at_budget([-0.1], [[0, 1]], [[0, 1]], [[0.5, 0.5]], ONE), "nonnegative"),
    (lambda: best_of_n_curve([0], [[0, 1]], [[0, 1]], [[0.5, 0.5]], ONE), "at least 1"),
    (lambda: best_of_n_curve([], [[0, 1]], [[0, 1]], [[0.5, 0.5]], ONE), "nonempty"),
    (lambda: fit_form([1.0, 2.0], [1.0, 2.0], "cubic"), "form"),
    (lambda: fit_form([0.0, 2.0], [1.0, 2.0], "log"), "positive"),
    (lambda: fit_form([2.0, 2.0], [1.0, 2.0], "log"), "different"),
    (lambda: fit_form([1.0, 2.0], [1.0], "log"), "one entry per distance"),
    (lambda: proxy_error_bound(-1.0, [1.0], ONE), "nonnegative"),
    (lambda: proxy_error_bound(1.0, [1.0, 2.0], ONE), "one entry per context"),
    (lambda: guaranteed_curve([1.0], Bandit.running_example(), [0, 1], np.eye(2), -1.0),
     "nonnegative"),
    (lambda: guaranteed_stopping(Bandit.running_example(), [0, 1], np.eye(3), 1.0), "V"),
    (lambda: guaranteed_stopping_bound("no bandit", [0, 1], np.eye(2), 1.0), "Bandit"),
]


@pytest.mark.parametrize("call, named", BAD)
def test_bad_input(call, named):
    with pytest.raises(ValueError, match=named):
        call()
