"""Online learning: enhancers against brute force, the loop, its history, the bounds, bad input."""

import numpy as np
import pytest
from scipy.optimize import brentq, minimize

from klrlhf import Bandit, Comparisons
from klrlhf.confidence import (
    confidence_radius,
    design_matrix,
    least_curvature,
    parameter_error,
    score_bound_adaptive,
)
from klrlhf.estimation import fit_mle
from klrlhf.numerics import sharp_hoeffding
from klrlhf.offline import certificate
from klrlhf.online import (
    Enhanced,
    History,
    best_of_n_enhancer,
    exact_enhancer,
    free_exploration_bound,
    free_exploration_constant,
    free_regret_bound,
    gibbs_class_enhancer,
    information_bound,
    online_bound,
    online_gshf,
    reference_enhancer,
    required_reg,
    required_reg_free,
    temperature_enhancer,
    uncertainty,
    uniform_enhancer,
    water_level,
    without_enhancer_bound,
    worst_of_n_enhancer,
)
from klrlhf.preferences import coverage_design, sample_comparisons

pytestmark = pytest.mark.filterwarnings("error")

ENHANCERS = {"exact": exact_enhancer, "gibbs": gibbs_class_enhancer,
             "reference": reference_enhancer, "uniform": uniform_enhancer,
             "hot": temperature_enhancer(2.0),
             "cold": temperature_enhancer(0.5), "best": best_of_n_enhancer(4),
             "worst": worst_of_n_enhancer(4)}


# -- the definitions, written out ------------------------------------------------------------------


def divergence(policy, main, d0) -> float:
    ratio = np.where(policy > 0, policy, 1.0) / main
    return float((policy * np.log(ratio)).sum(axis=-1) @ d0)


def moved(bandit, policy, main):
    return np.einsum("s,sk,skd->d", bandit.d0, policy - main, bandit.phi)


def gamma_of(bandit, policy, main, V) -> float:
    z = moved(bandit, policy, main)
    return float(np.sqrt(z @ np.linalg.solve(V, z)))


def slack(bandit, policy, main, V, rho) -> float:
    """rho Gamma - beta KL: nonnegative in the set."""
    return (rho * gamma_of(bandit, policy, main, V)
            - bandit.beta * divergence(policy, main, bandit.d0))


def tilted(bandit, main, direction):
    score = bandit.phi @ direction
    weight = main * np.exp(score - score.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def case(seed, S, K, d):
    """An instance, an estimate in the ball, V and a radius of every order of magnitude."""
    rng = np.random.default_rng([42, seed, S, K, d])
    bandit = Bandit.random(rng, S=S, K=K, d=d, beta=float(10 ** rng.uniform(-1.3, 1)), B=2.0)
    root = rng.standard_normal((d, d))
    V = 10 ** rng.uniform(-1, 2) * (root @ root.T + 0.05 * np.eye(d))
    rho = float(bandit.beta * 10 ** rng.uniform(-1.5, 1) * np.sqrt(np.linalg.norm(V, 2)))
    theta = rng.standard_normal(d)
    theta *= 1.5 / np.linalg.norm(theta) * rng.random()
    return bandit, theta, V, rho, rng


SIZES = [(1, 3, 1), (2, 4, 1), (1, 3, 2), (3, 3, 2), (2, 4, 2), (2, 4, 3), (1, 6, 4)]


# -- the exact enhancer ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(28))
def test_the_exact_policy_is_in_the_set_and_below_its_bound(seed):
    bandit, theta, V, rho, _ = case(seed, *SIZES[seed % len(SIZES)])
    found = exact_enhancer(bandit, theta, V, rho)
    main = bandit.gibbs(theta)
    assert np.allclose(found.policy.sum(axis=-1), 1) and (found.policy >= 0).all()
    gamma = gamma_of(bandit, found.policy, main, V)
    assert gamma == pytest.approx(float(found.uncertainty), rel=1e-9)
    assert slack(bandit, found.policy, main, V, rho) >= -1e-9 * rho * gamma
    assert found.upper >= found.uncertainty
    assert np.isfinite(found.upper) == (bandit.d <= 2)


@pytest.mark.parametrize("seed", range(20))
def test_no_policy_of_a_grid_in_the_simplex_is_farther(seed):
    bandit, theta, V, rho, _ = case(seed, 1, 3, 2)
    main, m = bandit.gibbs(theta), 120
    first, second = np.meshgrid(np.arange(m + 1), np.arange(m + 1))
    inside = first + second <= m
    grid = np.stack([first, second, m - first - second], axis=-1)[inside][:, None] / m
    with np.errstate(divide="ignore", invalid="ignore"):
        paid = np.where(grid > 0, grid * np.log(grid / main), 0.0).sum(axis=(1, 2))
    z = np.einsum("nsk,skd->nd", grid - main, bandit.phi)
    gamma = np.sqrt((z * np.linalg.solve(V, z.T).T).sum(axis=-1))
    best = gamma[bandit.beta * paid <= rho * gamma].max(initial=0.0)
    found = exact_enhancer(bandit, theta, V, rho)
    assert best <= found.upper * (1 + 1e-12)
    # The grid point at most a cell away from the maximum loses at most a cell of uncertainty.
    corners = bandit.phi[0] @ np.linalg.inv(np.linalg.cholesky(V)).T
    cell = 3 * np.ptp(corners, axis=0).max() / m
    assert found.uncertainty <= max(best / 0.97, best + 3 * cell)


@pytest.mark.parametrize("seed", range(15))
def test_no_local_search_finds_a_farther_policy(seed):
    bandit, theta, V, rho, rng = case(seed, *SIZES[seed % 5])
    main = bandit.gibbs(theta)
    found = exact_enhancer(bandit, theta, V, rho)
    size, shape, reached = float(found.uncertainty), main.shape, 0.0

    def policy_of(x):
        logits = np.clip(x, -40, 40).reshape(shape)
        weight = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return weight / weight.sum(axis=-1, keepdims=True)

    for _ in range(6):
        start = np.log(main) + rng.standard_normal(shape) * 10 ** rng.uniform(-1, 0.8)
        result = minimize(
            lambda x: -gamma_of(bandit, policy_of(x), main, V) / size, start.ravel(),
            method="SLSQP", options={"maxiter": 150, "ftol": 1e-12},
            constraints={"type": "ineq",
                         "fun": lambda x: slack(bandit, policy_of(x), main, V, rho) / (rho * size)})
        policy = policy_of(result.x)
        # Back into the set, along the segment to the main policy.
        share = 1.0
        while slack(bandit, main + share * (policy - main), main, V, rho) < 0:
            share *= 1 - 1e-6 if share > 0.999 else 0.99
        reached = max(reached, share * gamma_of(bandit, policy, main, V))
    assert reached <= found.upper * (1 + 1e-9)
    if found.policy.min() > 1e-6:  # logits run away where the maximum is on a face
        assert reached >= 0.99 * size


@pytest.mark.parametrize("seed", range(12))
def test_one_dimension_has_two_candidates(seed):
    bandit, theta, V, rho, _ = case(seed, 2, 3, 1)
    main, best = bandit.gibbs(theta), 0.0
    for sign in (-1.0, 1.0):
        def left(kappa, sign=sign):
            return slack(bandit, tilted(bandit, main, np.array([sign * kappa])), main, V, rho)
        start = rho / bandit.beta / np.sqrt(V[0, 0])
        top = start
        while left(top) > 0 and top < 1e5:
            top *= 2
        kappa = brentq(left, start, top, xtol=1e-13 * top) if left(top) < 0 else top
        policy = tilted(bandit, main, np.array([sign * kappa]))
        best = max(best, gamma_of(bandit, policy, main, V))
    found = exact_enhancer(bandit, theta, V, rho)
    assert found.uncertainty == pytest.approx(best, rel=1e-8)
    assert found.upper == pytest.approx(best, rel=1e-8)


def test_two_symmetric_arms_in_closed_form():
    """KL(q, 1 - q || 1/2) = 2 r |q - 1/2| has one root."""
    bandit = Bandit(np.ones(1), np.full((1, 2), 0.5), np.array([[[-0.5], [0.5]]]), np.zeros(1), 1.0,
                    1.0)
    for r in (1e-3, 0.1, 0.5, 0.69):
        def left(e, r=r):
            q = 0.5 + e
            return r * e - (q * np.log(2 * q) + (1 - q) * np.log(2 * (1 - q)))
        e = brentq(left, 1e-9, 0.5 - 1e-15, xtol=1e-16) if left(0.5 - 1e-15) < 0 else 0.5
        found = exact_enhancer(bandit, np.zeros(1), np.eye(1), r)
        assert found.uncertainty == pytest.approx(e, rel=1e-6)
    for r in (2 * np.log(2) + 1e-6, 5.0):  # r / 2 >= log 2: the whole segment belongs to the set
        found = exact_enhancer(bandit, np.zeros(1), np.eye(1), r)
        assert found.uncertainty == pytest.approx(0.5, rel=1e-12)
        assert sorted(found.policy[0]) == [0.0, 1.0]


@pytest.mark.parametrize("seed", range(10))
def test_more_polish_is_never_less_uncertain(seed):
    bandit, theta, V, rho, _ = case(seed, *SIZES[2 + seed % 5])
    values = [float(exact_enhancer(bandit, theta, V, rho, angles=8, polish=steps).uncertainty)
              for steps in (0, 1, 2, 5, 40)]
    assert all(later >= earlier * (1 - 1e-6)
               for earlier, later in zip(values, values[1:], strict=False))


@pytest.mark.parametrize("seed", range(8))
def test_bounds_of_few_and_many_angles_agree(seed):
    bandit, theta, V, rho, _ = case(seed, 2, 4, 2)
    results = [exact_enhancer(bandit, theta, V, rho, angles=m) for m in (8, 48, 400)]
    value = float(results[-1].uncertainty)
    for one in results:
        assert value <= one.upper * (1 + 1e-9)
        assert one.uncertainty <= results[-1].upper * (1 + 1e-9)
    assert results[-1].upper <= 1.02 * value
    assert results[0].uncertainty == pytest.approx(value, rel=1e-2)


@pytest.mark.parametrize("seed", range(8))
def test_the_exact_policy_is_a_gibbs_policy_outside_the_ellipsoid(seed):
    bandit, theta, V, rho, _ = case(seed, *SIZES[2 + seed % 5])
    found = exact_enhancer(bandit, theta, V, rho)
    if (found.policy < 1e-14).any():
        pytest.skip("a face")
    change = bandit.beta * np.log(found.policy / bandit.gibbs(theta))
    centred = (bandit.phi - bandit.phi.mean(axis=1, keepdims=True)).reshape(-1, bandit.d)
    change = (change - change.mean(axis=1, keepdims=True)).ravel()
    w, *_ = np.linalg.lstsq(centred, change, rcond=None)
    assert np.allclose(centred @ w, change, atol=1e-6 * np.abs(change).max())
    assert np.sqrt(w @ V @ w) >= rho * (1 - 1e-6)


@pytest.mark.parametrize("beta", [1e-4, 1e-2, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("rho", [0.0, 1e-8, 1e-3, 1.0, 1e4])
def test_extreme_coefficients_and_radii(beta, rho):
    bandit = Bandit.running_example(beta, "good")
    theta, V = np.array([0.2, 0.5]), np.diag([30.0, 2.0])
    main = bandit.gibbs(theta)
    for enhancer in (exact_enhancer, gibbs_class_enhancer):
        found = enhancer(bandit, theta, V, rho)
        assert np.isfinite(found.policy).all() and np.allclose(found.policy.sum(axis=-1), 1)
        gamma = gamma_of(bandit, found.policy, main, V)
        assert gamma <= found.upper * (1 + 1e-6) + 1e-12
        if rho == 0:
            assert gamma == pytest.approx(0.0, abs=1e-12)
        if found.policy.min() > 0 and main.min() > 0:
            assert slack(bandit, found.policy, main, V, rho) >= -1e-7 * rho * gamma - 1e-12 * beta


@pytest.mark.parametrize("beta", [1e-3, 5e-4, 1e-4, 1e-6])
def test_policies_that_underflow_still_count(beta):
    """An arm of probability e^-5000 costs beta 5000, which the set may afford."""
    bandit = Bandit.running_example(beta, "good")
    theta, V = np.array([0.2, 0.5]), np.diag([30.0, 2.0])
    reward = bandit.reward_of(theta)
    log_main = (reward - reward.max(axis=-1, keepdims=True)) / beta - np.log(4)
    log_main -= np.logaddexp.reduce(log_main, axis=-1, keepdims=True)
    best, main = 0.0, np.exp(log_main)
    for arms in np.ndindex(4, 4, 4):
        policy = np.eye(4)[list(arms)]
        gamma = gamma_of(bandit, policy, main, V)
        if -beta * (policy * log_main).sum(axis=-1) @ bandit.d0 <= gamma:
            best = max(best, gamma)
    found = exact_enhancer(bandit, theta, V, 1.0)
    assert found.upper >= best * (1 - 1e-9)
    assert found.uncertainty >= 0.99 * best


def test_prompts_that_never_occur_do_not_matter():
    rng = np.random.default_rng(3)
    phi = rng.standard_normal((3, 3, 2))
    d0, part = np.array([0.4, 0.0, 0.6]), [0, 2]
    whole = Bandit(d0, np.full((3, 3), 1 / 3), phi, np.zeros(2), 0.5, 2.0)
    two = Bandit(d0[part], np.full((2, 3), 1 / 3), phi[part], np.zeros(2), 0.5, 2.0)
    for enhancer in (exact_enhancer, gibbs_class_enhancer):
        first = enhancer(whole, np.array([0.3, 0.1]), np.eye(2), 0.7)
        second = enhancer(two, np.array([0.3, 0.1]), np.eye(2), 0.7)
        assert first.uncertainty == pytest.approx(float(second.uncertainty), rel=1e-9)
        assert np.allclose(first.policy[part], second.policy, atol=1e-7)


def test_features_that_span_less_than_the_space():
    bandit = Bandit.tabular(np.array([[0.3, -0.1, -0.2]]), 0.5, B=2.0)  # differences span 2 of 3
    found = exact_enhancer(bandit, np.zeros(3), np.eye(3), 0.8)
    assert np.isfinite(found.upper) and found.uncertainty <= found.upper <= 1.02 * found.uncertainty
    same = Bandit(np.ones(1), np.full((1, 2), 0.5), np.ones((1, 2, 2)), np.zeros(2), 0.5, 2.0)
    still = exact_enhancer(same, np.zeros(2), np.eye(2), 0.8)
    assert still.uncertainty == 0 and still.upper == 0
    assert np.allclose(still.policy, 0.5)


def test_enhancers_broadcast_over_replicates():
    rng = np.random.default_rng(5)
    bandit = Bandit.running_example(0.5, "good")
    theta = 0.5 * rng.standard_normal((4, 1, 2))
    V = np.array([np.diag([4.0, 1.0]), np.diag([9.0, 2.0]), np.eye(2)])
    rho = np.array([0.2, 1.0, 5.0])
    for name, enhancer in ENHANCERS.items():
        many = enhancer(bandit, theta, V, rho)
        assert many.policy.shape == (4, 3, 3, 4), name
        assert many.uncertainty.shape == many.upper.shape == (4, 3), name
        for i in range(4):
            for j in range(3):
                one = enhancer(bandit, theta[i, 0], V[j], rho[j])
                assert one.uncertainty == pytest.approx(float(many.uncertainty[i, j]), rel=1e-5)


def test_an_empty_batch_gives_empty_results():
    bandit = Bandit.running_example()
    found = exact_enhancer(bandit, np.zeros((0, 2)), np.eye(2), 1.0)
    assert found.policy.shape == (0, 3, 4) and found.uncertainty.shape == (0,)


# -- the smaller class, and the enhancers of practice ----------------------------------------------


@pytest.mark.parametrize("seed", range(14))
def test_gibbs_policies_of_the_confidence_set_belong_to_the_set(seed):
    bandit, theta, V, rho, rng = case(seed, *SIZES[seed % len(SIZES)])
    main = bandit.gibbs(theta)
    inverse = np.linalg.inv(np.linalg.cholesky(V)).T
    best = 0.0
    for _ in range(400):
        v = rng.standard_normal(bandit.d)
        w = theta + rho * rng.random() ** 0.2 * inverse @ (v / np.linalg.norm(v))
        if np.linalg.norm(w) > bandit.B:
            continue
        policy = bandit.gibbs(w)
        size = rho * gamma_of(bandit, policy, main, V)
        assert slack(bandit, policy, main, V, rho) >= -1e-9 * size - 1e-13
        best = max(best, gamma_of(bandit, policy, main, V))
    part = gibbs_class_enhancer(bandit, theta, V, rho, angles=96)
    whole = exact_enhancer(bandit, theta, V, rho)
    assert slack(bandit, part.policy, main, V, rho) >= -1e-9 * rho * part.uncertainty - 1e-13
    assert part.uncertainty <= whole.upper * (1 + 1e-9)
    if bandit.d <= 2:
        assert best <= 1.01 * part.uncertainty


@pytest.mark.parametrize("seed", range(10))
def test_the_optimal_policy_is_in_the_set_on_the_event(seed):
    bandit, _, V, _, rng = case(seed, *SIZES[seed % len(SIZES)])
    theta = bandit.theta + rng.standard_normal(bandit.d) * 10 ** rng.uniform(-2, 0)
    rho = float(parameter_error(theta, bandit.theta, V))
    star, main = bandit.optimal_policy, bandit.gibbs(theta)
    both = bandit.beta * (divergence(star, main, bandit.d0) + divergence(main, star, bandit.d0))
    assert both <= rho * gamma_of(bandit, star, main, V) * (1 + 1e-8)
    if bandit.d <= 2:
        found = exact_enhancer(bandit, theta, V, rho)
        assert bandit.gap(main) <= rho * found.upper


def test_practical_enhancers_are_the_policies_they_name():
    bandit = Bandit.running_example(0.5, "good")
    theta, V = np.array([0.4, 0.9]), np.diag([20.0, 3.0])
    main = bandit.gibbs(theta)
    assert np.allclose(reference_enhancer(bandit, theta, V, 1.0).policy, bandit.pi0)
    assert np.allclose(uniform_enhancer(bandit, theta, V, 1.0).policy, 0.25)
    hot = temperature_enhancer(3.0)(bandit, theta, V, 1.0).policy
    assert np.allclose(hot, bandit.with_(beta=1.5).gibbs(theta))
    assert np.allclose(temperature_enhancer(1.0)(bandit, theta, V, 1.0).policy, main)
    assert np.allclose(best_of_n_enhancer(1)(bandit, theta, V, 1.0).policy, main)
    assert np.allclose(worst_of_n_enhancer(1)(bandit, theta, V, 1.0).policy, main)
    reward = bandit.reward_of(theta)
    order = np.argsort(reward, axis=-1)
    for n in (2, 8):
        best = best_of_n_enhancer(n)(bandit, theta, V, 1.0).policy
        worst = worst_of_n_enhancer(n)(bandit, theta, V, 1.0).policy
        for x in range(bandit.S):
            below = np.concatenate([[0.0], main[x, order[x]].cumsum()])
            assert np.allclose(best[x, order[x]], np.diff(below**n), atol=1e-12)
            above = np.concatenate([[0.0], main[x, order[x]][::-1].cumsum()])
            assert np.allclose(worst[x, order[x]][::-1], np.diff(above**n), atol=1e-12)
    for enhancer in ENHANCERS.values():
        found = enhancer(bandit, theta, V, 1.0)
        assert isinstance(found, Enhanced)
        assert found.uncertainty == pytest.approx(gamma_of(bandit, found.policy, main, V), rel=1e-9)


def test_uncertainty_is_its_definition_and_broadcasts():
    rng = np.random.default_rng(8)
    bandit = Bandit.random(rng, S=2, K=3, d=3)
    V = np.eye(3) + np.diag(rng.random(3))
    policies = rng.dirichlet(np.ones(3), size=(5, 2))
    found = uncertainty(bandit, policies, bandit.pi0, V)
    assert found.shape == (5,)
    for policy, value in zip(policies, found, strict=True):
        assert value == pytest.approx(gamma_of(bandit, policy, bandit.pi0, V), rel=1e-10)


# -- the loop --------------------------------------------------------------------------------------


def small_run(seed=0, rounds=4, **options):
    bandit = options.pop("bandit", Bandit.running_example(0.5, "good"))
    settings = {"reg": 2.0, "delta": 0.05} | options
    return online_gshf(bandit, rounds, 20, seed, **settings)


@pytest.mark.parametrize("replicates, lead", [(None, ()), (3, (3,)), ((2, 3), (2, 3))])
@pytest.mark.parametrize("name", ENHANCERS)
def test_shapes_of_a_history(name, replicates, lead):
    history = small_run(replicates=replicates, enhancer=ENHANCERS[name], rounds=2)
    assert isinstance(history, History) and history.rounds == 2
    assert history.theta.shape == (2, *lead, 2) and history.V.shape == (2, *lead, 2, 2)
    for array in (history.rho, history.uncertainty, history.certificate, history.gap, history.kl,
                  history.information):
        assert array.shape == (2, *lead) and np.isfinite(array).all()
    assert history.main.shape == history.enhanced.shape == (2, *lead, 3, 4)
    assert history.W.shape == (*lead, 2, 2)
    assert history.data.counts.shape[:-1] == lead
    assert (history.data.n <= 40).all()  # draws of one action against itself are not kept
    assert history.best_round.shape == history.best_certificate.shape == lead
    assert history.best_policy.shape == (*lead, 3, 4)


def test_the_first_main_policy_is_the_reference():
    history = small_run()
    assert (history.theta[0] == 0).all()
    assert np.allclose(history.main[0], history.bandit.pi0)
    assert np.allclose(history.V[0], 2.0 * np.eye(2))
    assert history.kl[0] == pytest.approx(0.0, abs=1e-15)


def test_the_same_seed_gives_the_same_bits():
    first, second = small_run(7, replicates=3), small_run(7, replicates=3)
    other = small_run(8, replicates=3)
    for name in ("theta", "V", "rho", "main", "enhanced", "certificate", "gap", "information"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert np.array_equal(first.data.counts, second.data.counts)
    assert np.array_equal(first.data.wins, second.data.wins)
    assert not np.array_equal(first.theta, other.theta)


@pytest.mark.parametrize("replicates", [None, 2])
def test_a_resumed_run_equals_a_longer_one(replicates):
    bandit = Bandit.running_example(0.5, "good")
    long = online_gshf(bandit, 5, 10, np.random.default_rng(1), reg=1.0, replicates=replicates)
    rng = np.random.default_rng(1)
    start = online_gshf(bandit, 2, 10, rng, reg=1.0, replicates=replicates)
    whole = online_gshf(bandit, 3, 10, rng, reg=1.0, resume=start, replicates=replicates)
    assert whole.rounds == 5 and start.rounds == 2
    for name in ("theta", "V", "rho", "main", "enhanced", "uncertainty", "certificate", "gap", "kl",
                 "information", "W"):
        assert np.array_equal(getattr(whole, name), getattr(long, name)), name
    assert np.array_equal(whole.data.wins, long.data.wins)


def test_a_resumed_run_keeps_its_replicates():
    start = small_run(replicates=3)
    more = online_gshf(start.bandit, 2, 20, 5, reg=2.0, resume=start)
    assert more.rho.shape == (6, 3) and np.array_equal(more.rho[:4], start.rho)


def test_every_round_is_what_its_definition_says():
    history = small_run(3, rounds=6)
    bandit, gamma = history.bandit, least_curvature(history.bandit.L, history.bandit.B)
    W = 2.0 * np.eye(2)
    for t in range(6):
        main, second = history.main[t], history.enhanced[t]
        assert np.allclose(main, bandit.gibbs(history.theta[t]))
        assert history.gap[t] == pytest.approx(float(bandit.gap(main)), rel=1e-8)
        assert history.kl[t] == pytest.approx(float(bandit.kl(main)), rel=1e-8, abs=1e-14)
        found = exact_enhancer(bandit, history.theta[t], history.V[t], history.rho[t])
        assert np.allclose(found.policy, second)
        plug_in = certificate(bandit, history.theta[t], history.V[t], history.rho[t]).upper
        assert history.certificate[t] == pytest.approx(
            min(float(history.rho[t] * found.upper), float(plug_in)), rel=1e-9)
        z = moved(bandit, second, main)
        W = W + 20 * np.outer(z, z)
        gained = np.linalg.slogdet(W)[1] - 2 * np.log(2.0)
        assert history.information[t] == pytest.approx(gained, rel=1e-9)
    assert np.allclose(history.W, W)
    last = history.data
    assert np.allclose(fit_mle(last, bandit.B).theta,
                       online_gshf(bandit, 1, 20, 0, reg=2.0, resume=history).theta[-1])
    radius = confidence_radius(score_bound_adaptive(last, 2.0, 0.025), gamma, 2.0, bandit.B)
    again = online_gshf(bandit, 1, 20, 0, reg=2.0, resume=history)
    assert again.rho[-1] == pytest.approx(float(radius), rel=1e-12)
    assert np.allclose(again.V[-1], design_matrix(last, 2.0))


def test_an_offline_log_counts_twice_in_the_information_matrix():
    bandit = Bandit.running_example(0.5, "good")
    log = sample_comparisons(bandit, 500, coverage_design(bandit, 0.1), np.random.default_rng(0), 2)
    history = online_gshf(bandit, 3, 10, 4, reg=1.5, offline=log, replicates=2)
    V_off = design_matrix(log, 0.0)
    assert np.allclose(history.V[0], 1.5 * np.eye(2) + V_off)
    assert np.allclose(history.theta[0], fit_mle(log, bandit.B).theta)
    start = 1.5 * np.eye(2) + 2 * V_off
    grown = np.linalg.slogdet(history.W)[1] - np.linalg.slogdet(start)[1]
    assert np.allclose(history.information[-1], grown)
    assert (history.data.n >= log.n).all()
    assert (history.V[1:] - history.V[:-1] >= -1e-9).any()
    # The log makes the online part learn less.
    fresh = online_gshf(bandit, 3, 10, 4, reg=1.5, replicates=2)
    assert (history.information[-1] < fresh.information[-1]).all()


def test_one_offline_log_may_serve_many_runs():
    bandit = Bandit.running_example(0.5, "good")
    log = sample_comparisons(bandit, 500, coverage_design(bandit, 0.1), np.random.default_rng(0))
    history = online_gshf(bandit, 2, 10, 4, reg=1.5, offline=log, replicates=3)
    assert history.rho.shape == (2, 3)
    assert not np.array_equal(history.theta[1, 0], history.theta[1, 1])


def test_the_information_never_falls_and_the_radius_neither():
    history = small_run(2, rounds=10, replicates=5)
    assert (np.diff(history.information, axis=0) >= -1e-12).all()
    assert (np.diff(history.rho, axis=0) >= -1e-9).all()
    T = np.arange(1, 11)[:, None]
    assert (history.information <= information_bound(2, 20 * T, 1.0, 2.0) + 1e-9).all()


def test_the_certificate_covers_the_gap_on_the_event():
    history = small_run(6, rounds=8, replicates=40, reg=required_reg(1.0, 2, 0.05))
    error = parameter_error(history.theta, history.bandit.theta, history.V)
    on = error <= history.rho
    assert on.all(axis=0).mean() >= 0.9
    assert (history.gap[on] <= history.certificate[on] * (1 + 1e-9)).all()
    best = np.take_along_axis(history.certificate, history.best_round[None], axis=0)[0]
    assert np.array_equal(best, history.best_certificate)
    for r in range(3):
        assert np.array_equal(history.best_policy[r], history.main[history.best_round[r], r])


def test_more_than_two_dimensions_print_the_plug_in_certificate():
    rng = np.random.default_rng(2)
    bandit = Bandit.random(rng, S=2, K=4, d=3, beta=0.5, B=1.5)
    history = online_gshf(bandit, 2, 15, rng, reg=1.0)
    plug_in = certificate(bandit, history.theta[1], history.V[1], history.rho[1]).upper
    assert history.certificate[1] == pytest.approx(float(plug_in))


def test_printing_and_progress(capsys):
    history = small_run(progress=True)
    lines = str(history).splitlines()
    assert len(lines) == 5 and lines[0].split() == ["round", "comparisons", "radius", "uncertainty",
                                                    "certificate"]
    assert lines[3].split()[:2] == ["3", "40"]
    assert float(lines[2].split()[-1]) == pytest.approx(float(history.certificate[1]), rel=6e-3)
    assert "round 4" in capsys.readouterr().err
    online_gshf(history.bandit, 1, 20, 0, reg=2.0, resume=history, progress=True)
    assert "round 5" in capsys.readouterr().err
    assert "3" in str(small_run(replicates=3)).splitlines()[3]


def test_a_user_written_enhancer_is_welcome():
    def second_choice(bandit, theta_hat, V, rho):
        policy = np.broadcast_to(bandit.pi0, (*theta_hat.shape[:-1], bandit.S, bandit.K))
        gamma = uncertainty(bandit, policy, bandit.gibbs(theta_hat), V)
        return Enhanced(policy, gamma, np.full(gamma.shape, np.inf))

    mine = small_run(4, enhancer=second_choice, replicates=2)
    theirs = small_run(4, enhancer=reference_enhancer, replicates=2)
    assert np.array_equal(mine.data.wins, theirs.data.wins)


# -- the bounds ------------------------------------------------------------------------------------


def test_ridges():
    x = brentq(lambda x: (1 - np.exp(-x)) / x - 0.5, 1, 2, xtol=1e-15)
    assert required_reg(1.5, 3, 0.05) == pytest.approx(2 / x * 1.5**2 * np.log(6 / 0.05), rel=1e-12)
    assert required_reg(1.0, 1, 0.1) == pytest.approx(1.2551 * np.log(20), rel=1e-3)
    assert required_reg_free(1.5, 3, 0.05) == pytest.approx(1.5**2 * np.log(60) / x, rel=1e-12)


def test_formulas_of_the_bounds():
    assert information_bound(2, 100, 1.5, 4.0) == pytest.approx(2 * np.log(1 + 100 * 2.25 / 8))
    assert online_bound(3.0, 2.0, 10, 5) == pytest.approx(3 * np.sqrt(0.4 * (np.exp(0.2) - 1)))
    assert without_enhancer_bound(3.0, 0.7, 2.0, 10, 5) == pytest.approx(
        3 * (0.7 + np.sqrt(0.4 * (np.exp(0.4) - 1))))
    bandit = Bandit.running_example(0.5, "good")
    price = np.exp(bandit.B * bandit.L0 / 0.5)
    assert free_exploration_bound(bandit, 3.0, 50) == pytest.approx(price * 9 / 50)
    t = bandit.R / 0.5
    h = t / 2 / np.tanh(t / 2) - 1 + np.log(np.sinh(t / 2) / (t / 2))
    assert free_regret_bound(bandit, 3.0, 20, 5) == pytest.approx(
        5 * 0.5 * h + price * 9 / 0.5 * (1 + np.log(20)))
    slope = np.exp(1.0) / (1 + np.exp(1.0)) ** 2
    assert free_exploration_constant(1.0, 0.25) == pytest.approx(
        np.cosh(2.0) ** 2 / (4 * 0.25 * slope))
    assert free_exploration_constant(1.0, 0.25) == pytest.approx(72.0, abs=0.05)
    assert free_exploration_constant(1.0, 0.1) == pytest.approx(70025, abs=1)


def test_bounds_broadcast_and_overflow_quietly():
    rho = np.array([1.0, 2.0])[:, None]
    assert online_bound(rho, np.array([0.0, 1.0, 5000.0]), 4, 10).shape == (2, 3)
    assert online_bound(1.0, 1e6, 4, 10) == np.inf and online_bound(1.0, 0.0, 4, 10) == 0
    assert free_exploration_constant(1.0, 1e-5) == np.inf
    cold = Bandit.running_example(1e-4, "good")
    assert free_exploration_bound(cold, 1.0, 10) == np.inf
    # A radius of zero promises zero, also where the other factor overflows.
    assert online_bound(0.0, 1e6, 4, 10) == 0 and free_exploration_bound(cold, 0.0, 10) == 0
    assert without_enhancer_bound(0.0, 1.0, 1e6, 4, 10) == 0
    assert free_regret_bound(cold, 0.0, 4, 10) == pytest.approx(
        10 * 1e-4 * float(sharp_hoeffding(cold.R / 1e-4)))


def test_information_is_at_most_its_bound_for_any_vectors():
    rng = np.random.default_rng(9)
    for _ in range(50):
        d, n, reg = int(rng.integers(1, 5)), int(rng.integers(1, 40)), 10 ** rng.uniform(-2, 1)
        z = rng.standard_normal((n, d))
        z /= np.linalg.norm(z, axis=1).max()
        gained = np.linalg.slogdet(np.eye(d) + z.T @ z / reg)[1]
        assert gained <= information_bound(d, n, 1.0, reg) + 1e-12


def test_the_water_level_uses_up_the_budget():
    rng = np.random.default_rng(10)
    for d in (1, 2, 5):
        w = 10.0 ** rng.uniform(-3, 3, (40, d))
        w[:10] = np.round(w[:10]) + 1  # ties
        budget = 10.0 ** rng.uniform(-3, 5, 40)
        level = water_level(w, budget)
        assert np.maximum(level[:, None] - w, 0).sum(-1) == pytest.approx(budget, rel=1e-9)
        assert (level > w.min(-1)).all()
        assert water_level(w[:, ::-1], budget) == pytest.approx(level, rel=1e-12)
        assert water_level(w, 0.0) == pytest.approx(w.min(-1), rel=1e-12)
    assert water_level([1.0, 3.0], [1.0, 2.0, 4.0]) == pytest.approx([2.0, 3.0, 4.0])
    assert water_level([1.0, 1e40], 1.0) == 2.0
    # Any matrix of that trace gains at most what filling up to the level does.
    w = 10.0 ** rng.uniform(-2, 1, (200, 3))
    root = rng.standard_normal((200, 3, 3)) * 10.0 ** rng.uniform(-1, 1, (200, 1, 3))
    more = root @ np.swapaxes(root, 1, 2)
    level = water_level(w, np.trace(more, axis1=1, axis2=2))
    gain = np.linalg.slogdet(w[:, :, None] * np.eye(3) + more)[1] - np.log(w).sum(-1)
    filled = np.maximum(np.log(level[:, None] / w), 0).sum(-1)
    assert (gain <= filled + 1e-9).all() and (gain / filled).max() > 0.9


# -- bad input -------------------------------------------------------------------------------------

EXAMPLE = Bandit.running_example()


@pytest.mark.parametrize("change, message", [
    ({"rounds": 0}, "rounds"), ({"rounds": 1.5}, "rounds"), ({"batch": 0}, "batch"),
    ({"batch": -1}, "batch"), ({"reg": 0.0}, "reg"), ({"reg": -1.0}, "reg"),
    ({"reg": np.nan}, "reg"), ({"delta": 0.0}, "delta"), ({"delta": 1.0}, "delta"),
    ({"rng": "seed"}, "rng"), ({"replicates": -1}, "replicates"), ({"bandit": "bandit"}, "bandit"),
    ({"resume": "run"}, "resume"), ({"offline": "log"}, "omparisons"),
])
def test_the_loop_names_the_bad_argument(change, message):
    good = {"bandit": EXAMPLE, "rounds": 1, "batch": 5, "rng": 0, "reg": 1.0}
    with pytest.raises(ValueError, match=message):
        online_gshf(**(good | change))


@pytest.mark.parametrize("change, message", [
    ({"batch": 21}, "batch"), ({"reg": 3.0}, "reg"), ({"delta": 0.1}, "delta"),
    ({"bandit": Bandit.running_example(0.7, "good")}, "bandit"),
    ({"offline": Comparisons.empty(EXAMPLE)}, "offline"), ({"replicates": 4}, "replicates"),
])
def test_a_resumed_run_must_be_the_same_run(change, message):
    start = small_run(rounds=1)
    good = {"bandit": start.bandit, "rounds": 1, "batch": 20, "rng": 0, "reg": 2.0,
            "resume": start}
    with pytest.raises(ValueError, match=message):
        online_gshf(**(good | change))


@pytest.mark.parametrize("enhancer", [exact_enhancer, gibbs_class_enhancer, reference_enhancer])
@pytest.mark.parametrize("change, message", [
    ({"theta_hat": np.zeros(3)}, "theta"), ({"theta_hat": np.array([np.nan, 0])}, "theta"),
    ({"V": np.eye(3)}, "V"), ({"V": np.array([[1.0, 2.0], [0.0, 1.0]])}, "V"),
    ({"rho": -1.0}, "rho"), ({"rho": np.inf}, "rho"), ({"bandit": None}, "bandit"),
])
def test_enhancers_name_the_bad_argument(enhancer, change, message):
    good = {"bandit": EXAMPLE, "theta_hat": np.zeros(2), "V": np.eye(2), "rho": 1.0}
    with pytest.raises(ValueError, match=message):
        enhancer(**(good | change))


def test_enhancers_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="angles"):
        exact_enhancer(EXAMPLE, np.zeros(2), np.eye(2), 1.0, angles=3)
    with pytest.raises(ValueError, match="ball"):
        gibbs_class_enhancer(EXAMPLE, np.array([3.0, 0.0]), np.eye(2), 1.0)
    with pytest.raises(ValueError, match="V"):
        exact_enhancer(EXAMPLE, np.zeros(2), np.diag([1.0, 0.0]), 1.0)
    for factor in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="factor"):
            temperature_enhancer(factor)
    for make in (best_of_n_enhancer, worst_of_n_enhancer):
        for n in (0, -1, 1.5):
            with pytest.raises(ValueError, match="n must"):
                make(n)


@pytest.mark.parametrize("call, message", [
    (lambda: required_reg(0.0, 2, 0.05), "L"), (lambda: required_reg(1.0, 0, 0.05), "d"),
    (lambda: required_reg(1.0, 2, 0.0), "delta"), (lambda: required_reg_free(1.0, 2, 2.0), "delta"),
    (lambda: information_bound(2, -1, 1.0, 1.0), "n"),
    (lambda: information_bound(2, 1, 1.0, 0.0), "reg"),
    (lambda: water_level([1.0, 0.0], 1.0), "eigenvalues must be positive"),
    (lambda: water_level([1.0, np.nan], 1.0), "eigenvalues must be finite"),
    (lambda: water_level([], 1.0), "eigenvalues must not be empty"),
    (lambda: water_level(1.0, 1.0), "eigenvalues must have at least 1 axes"),
    (lambda: water_level([1.0], -1.0), "budget must be nonnegative"),
    (lambda: water_level(np.ones((2, 3)), np.ones(4)), "must broadcast"),
    (lambda: online_bound(-1.0, 1.0, 1, 1), "rho"), (lambda: online_bound(1.0, -1.0, 1, 1), "info"),
    (lambda: online_bound(1.0, 1.0, 0, 1), "rounds"),
    (lambda: online_bound(1.0, 1.0, 1, 0), "batch"),
    (lambda: without_enhancer_bound(1.0, -1.0, 1.0, 1, 1), "start"),
    (lambda: free_exploration_bound(EXAMPLE, 1.0, 0), "n"),
    (lambda: free_regret_bound(EXAMPLE, 1.0, 0, 1), "rounds"),
    (lambda: free_regret_bound(EXAMPLE, 1.0, 0.1, 1), "rounds must be at least 1"),
    (lambda: free_regret_bound(EXAMPLE, 1.0, 2, 0.5), "batch must be at least 1"),
    (lambda: free_exploration_constant(-1.0, 1.0), "R"),
    (lambda: free_exploration_constant(1.0, 0.0), "beta"),
])
def test_bounds_name_the_bad_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
