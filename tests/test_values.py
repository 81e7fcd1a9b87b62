"""J, its optimum, its gap and its frontier against high precision and SciPy's optimizers."""

import mpmath as mp
import numpy as np
import pytest
from scipy.optimize import NonlinearConstraint, minimize

import klrlhf
import reference
from klrlhf.results.instances import random_instances
from reference import relative_error

pytestmark = pytest.mark.filterwarnings("error")
EXTREMES = reference.extreme_instances()


def size_of(reward, beta):
    return float(np.abs(reward).max()) + beta


@pytest.mark.parametrize("name", EXTREMES)
def test_objective_and_optimum_by_definition(name):
    d0, pi0, reward, beta = EXTREMES[name]
    rng = np.random.default_rng(1)
    policy = rng.dirichlet(np.ones(pi0.shape[1]), size=3)
    kl_size = 1 + float(np.abs(np.log(pi0)).max())
    truth = reference.objective(policy, reward, beta, pi0, d0)
    error = abs(float(mp.mpf(float(klrlhf.value(policy, reward, beta, pi0, d0))) - truth))
    assert error < 1e-15 * (np.abs(reward).max() + beta * kl_size) * 4
    best = mp.mpf(float(beta)) * reference.mean_over_contexts(
        [reference.log_partition(r, beta, p) for r, p in zip(reward, pi0, strict=True)], d0)
    error = abs(float(mp.mpf(float(klrlhf.optimal_value(reward, beta, pi0, d0))) - best))
    assert error < 4e-15 * np.abs(reward).max()


def test_value_splits_into_reward_and_divergence():
    rng = np.random.default_rng(2)
    inst = random_instances(rng, 500, S=3, K=4)
    policy = klrlhf.gibbs_policy(inst.reward_hat, inst.beta, inst.pi0)
    earned = klrlhf.expected_reward(policy, inst.reward, inst.d0)
    paid = klrlhf.expected_kl(policy, inst.pi0, inst.d0)
    j = klrlhf.value(policy, inst.reward, inst.beta, inst.pi0, inst.d0)
    assert np.array_equal(j, earned - inst.beta * paid)


@pytest.mark.parametrize("name", EXTREMES)
def test_suboptimality_in_high_precision(name):
    d0, pi0, reward, beta = EXTREMES[name]
    rng = np.random.default_rng(3)
    best = klrlhf.gibbs_policy(reward, beta, pi0)
    for size in (1e-6, 1e-3, 1.0, 10.0):
        policy = best * np.exp(size * rng.uniform(-1, 1, best.shape))
        policy /= policy.sum(axis=-1, keepdims=True)
        gap = klrlhf.suboptimality(policy, reward, beta, pi0, d0)
        with mp.workdps(200):
            truth = reference.suboptimality(policy, reward, beta, pi0, d0)
        # Rounding of the policy alone moves the log-ratio u by 1e-16 and the gap by u times that.
        rounding = 4e-15 * float(mp.sqrt(truth * beta)) + beta * 1e-30
        assert gap >= 0
        assert abs(float(mp.mpf(float(gap)) - truth)) < 1e-12 * float(truth) + rounding


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("size", [1e-15, 1e-10, 1e-6, 1e-3, 0.3, 0.99, 1.01, 3.0, 40.0, 2e3])
def test_plug_in_suboptimality_in_high_precision(name, size):
    """Gaps from 1e-30 to 1e3 and beyond, to 1e-12 relative."""
    d0, pi0, reward, beta = EXTREMES[name]
    rng = np.random.default_rng(4)
    reward_hat = reward + size * beta * rng.standard_normal(reward.shape)
    gap = klrlhf.plug_in_suboptimality(reward_hat, reward, beta, pi0, d0)
    with mp.workdps(200):  # the smallest gaps are near 1e-120
        truth = reference.plug_in_gap(reward_hat, reward, beta, pi0, d0)
    if truth > mp.mpf(10) ** -290:
        assert relative_error(gap, truth) < 1e-12
    else:
        assert gap == pytest.approx(0, abs=1e-290)


def test_plug_in_gaps_cover_the_promised_range():
    d0, pi0, reward, beta = EXTREMES["plain"]
    direction = np.random.default_rng(5).standard_normal(reward.shape)
    smallest = klrlhf.plug_in_suboptimality(2.0**-50 * direction, 0 * reward, beta, pi0, d0)
    largest = klrlhf.plug_in_suboptimality(-3e3 * direction, 3e3 * direction, beta, pi0, d0)
    assert smallest < 1e-29
    assert largest > 1e3
    exactly = klrlhf.plug_in_suboptimality(reward, reward, beta, pi0, d0)
    assert exactly == 0


def test_two_likely_actions_a_huge_error_apart():
    """D = (0, 1e6) at beta = 1e-6: the gap is beta log 2 up to e^-1e12."""
    pi0, zero = np.full((1, 2), 0.5), np.zeros((1, 2))
    gap = klrlhf.plug_in_suboptimality([[0.0, 1e6]], zero, 1e-6, pi0, [1.0])
    assert gap == pytest.approx(1e-6 * np.log(2), rel=1e-14)


def test_plug_in_gap_is_the_suboptimality_of_its_policy():
    inst = random_instances(np.random.default_rng(6), 2_000, S=3, K=4)
    gap = klrlhf.plug_in_suboptimality(
        inst.reward_hat, inst.reward, inst.beta, inst.pi0, inst.d0)
    policy = klrlhf.gibbs_policy(inst.reward_hat, inst.beta, inst.pi0)
    other = klrlhf.suboptimality(policy, inst.reward, inst.beta, inst.pi0, inst.d0)
    assert (np.abs(gap - other) <= 1e-12 * gap + 1e-13 * np.sqrt(inst.beta * gap) + 1e-28).all()
    best = klrlhf.optimal_value(inst.reward, inst.beta, inst.pi0, inst.d0)
    j = klrlhf.value(policy, inst.reward, inst.beta, inst.pi0, inst.d0)
    size = np.abs(inst.reward).max(axis=(1, 2)) + inst.beta * 200
    assert (np.abs(best - j - gap) <= 1e-12 * size).all()


def test_contexts_that_never_occur_do_not_matter():
    rng = np.random.default_rng(7)
    _, pi0, reward = reference.random_instance(rng)
    d0 = np.array([0.25, 0.75, 0.0])
    wild = reward.copy()
    wild[2] = [1e6, -1e6, 0.0, 3.0]
    policy = klrlhf.gibbs_policy(reward, 0.5, pi0)
    other = policy.copy()
    other[2] = [0, 0, 0, 1]
    for function in (klrlhf.value, klrlhf.suboptimality):
        assert function(policy, reward, 0.5, pi0, d0) == function(other, wild, 0.5, pi0, d0)
    assert klrlhf.optimal_value(reward, 0.5, pi0, d0) == klrlhf.optimal_value(wild, 0.5, pi0, d0)
    assert klrlhf.kl_max(reward, pi0, d0) == klrlhf.kl_max(wild, pi0, d0)
    here, there = (klrlhf.kl_frontier([0.01, 0.3], r, pi0, d0) for r in (reward, wild))
    assert here.reward == pytest.approx(there.reward, rel=1e-12)


def test_replicates_agree_with_one_by_one():
    inst = random_instances(np.random.default_rng(8), 10, S=3, K=4)
    policy = klrlhf.gibbs_policy(inst.reward_hat, inst.beta, inst.pi0)
    budgets = np.array([0.0, 0.01, 0.3, 5.0])
    batch = {
        "value": klrlhf.value(policy, inst.reward, inst.beta, inst.pi0, inst.d0),
        "best": klrlhf.optimal_value(inst.reward, inst.beta, inst.pi0, inst.d0),
        "gap": klrlhf.suboptimality(policy, inst.reward, inst.beta, inst.pi0, inst.d0),
        "plug": klrlhf.plug_in_suboptimality(
            inst.reward_hat, inst.reward, inst.beta, inst.pi0, inst.d0),
        "top": klrlhf.kl_max(inst.reward, inst.pi0, inst.d0),
        "front": klrlhf.kl_frontier(budgets, inst.reward, inst.pi0, inst.d0).reward,
    }
    for i in range(10):
        d0, pi0, reward, hat, beta = (part[i] for part in inst)
        one = {
            "value": klrlhf.value(policy[i], reward, beta, pi0, d0),
            "best": klrlhf.optimal_value(reward, beta, pi0, d0),
            "gap": klrlhf.suboptimality(policy[i], reward, beta, pi0, d0),
            "plug": klrlhf.plug_in_suboptimality(hat, reward, beta, pi0, d0),
            "top": klrlhf.kl_max(reward, pi0, d0),
            "front": klrlhf.kl_frontier(budgets, reward, pi0, d0).reward,
        }
        for name, number in one.items():
            assert np.allclose(batch[name][i], number, rtol=1e-13, atol=1e-300), name


@pytest.mark.parametrize("seed", range(4))
def test_frontier_by_direct_constrained_maximization(seed):
    rng = np.random.default_rng(seed)
    S, K = (1, 3) if seed % 2 else (2, 3)
    d0, pi0, reward = reference.random_instance(rng, S, K)
    ceiling = klrlhf.kl_max(reward, pi0, d0)

    def policy_of(logits):
        weight = np.exp(logits.reshape(S, K) - logits.reshape(S, K).max(axis=1, keepdims=True))
        return weight / weight.sum(axis=1, keepdims=True)

    def divergence(logits):
        p = policy_of(logits)
        return float(d0 @ (p * (np.log(p) - np.log(pi0))).sum(axis=1))

    for budget in (0.02 * ceiling, 0.2 * ceiling, 0.7 * ceiling):
        found = minimize(
            lambda t: -float(d0 @ (policy_of(t) * reward).sum(axis=1)),
            np.log(pi0).ravel() + 0.1 * rng.standard_normal(S * K), method="SLSQP",
            constraints=[NonlinearConstraint(divergence, -np.inf, budget)],
            options={"ftol": 1e-12, "maxiter": 500})
        frontier = klrlhf.kl_frontier(budget, reward, pi0, d0)
        assert divergence(found.x) <= budget + 1e-6
        assert -found.fun == pytest.approx(float(frontier.reward[0]), abs=2e-6)


def test_frontier_points_are_attained_and_dual():
    inst = random_instances(np.random.default_rng(9), 300, S=2, K=4)
    ceiling = klrlhf.kl_max(inst.reward, inst.pi0, inst.d0)
    budget = ceiling[:, None] * np.array([1e-6, 0.01, 0.3, 0.9])
    front = klrlhf.kl_frontier(budget, inst.reward, inst.pi0, inst.d0)
    span = np.ptp(inst.reward, axis=(1, 2))
    for j in range(budget.shape[1]):
        live = (front.beta[:, j] > 0) & np.isfinite(front.beta[:, j]) & (span > 0)
        beta = np.where(live, front.beta[:, j], 1.0)
        policy = klrlhf.gibbs_policy(inst.reward, beta, inst.pi0)
        kl = klrlhf.expected_kl(policy, inst.pi0, inst.d0)
        earned = klrlhf.expected_reward(policy, inst.reward, inst.d0)
        assert np.allclose(kl[live], budget[live, j], rtol=1e-9)
        assert (np.abs(earned - front.reward[:, j])[live] <= 1e-12 * size_of(inst.reward, 0)).all()
        # Weak duality: F(k) <= beta k + max J at every beta; equality at the tangent.
        dual = beta * budget[:, j] + klrlhf.optimal_value(inst.reward, beta, inst.pi0, inst.d0)
        assert (np.abs(dual - front.reward[:, j])[live] <= 1e-9 * (span + np.abs(dual))[live]).all()


def test_frontier_ends():
    d0, pi0, reward, _ = EXTREMES["plain"]
    ceiling = float(klrlhf.kl_max(reward, pi0, d0))
    front = klrlhf.kl_frontier([0.0, ceiling, 2 * ceiling], reward, pi0, d0)
    assert front.reward[0] == klrlhf.expected_reward(pi0, reward, d0)
    assert front.reward[1] == front.reward[2] == pytest.approx(d0 @ reward.max(axis=1), rel=1e-15)
    assert front.beta.tolist() == [np.inf, 0.0, 0.0]
    flat = klrlhf.kl_frontier([0.0, 1.0], np.zeros((3, 4)), pi0, d0)
    assert flat.reward.tolist() == [0.0, 0.0]
    grid = klrlhf.kl_frontier(np.linspace(0, 1.2 * ceiling, 60), reward, pi0, d0).reward
    assert (np.diff(grid) >= -1e-14).all()
    assert (np.diff(grid, 2) <= 1e-12).all()


def test_kl_max_in_closed_form():
    pi0 = np.array([[0.5, 0.3, 0.2], [1e-300, 1.0 - 1e-16, 1e-16]])
    reward = np.array([[1.0, 1.0, 0.0], [5.0, 0.0, 0.0]])
    d0 = np.array([0.75, 0.25])
    expected = -0.75 * np.log(0.8) + 0.25 * 300 * np.log(10)
    assert klrlhf.kl_max(reward, pi0, d0) == pytest.approx(expected, rel=1e-14)
    nearly = klrlhf.kl_max([[1.0, 0.0]], [[1 - 1e-13, 1e-13]], [1.0])
    assert nearly == pytest.approx(-np.log1p(-1e-13), rel=1e-12)


def test_temperature_path_in_high_precision():
    d0, pi0, reward, _ = EXTREMES["plain"]
    # Powers of two: the reference can then tilt by the exact product lambda r.
    lam = np.array([0.0, 2.0**-60, 2.0**-20, 0.125, 0.5, 1.0, 8.0, 256.0])
    path = klrlhf.temperature_path(lam, reward, pi0, d0)
    for i, value in enumerate(lam):
        laws = [reference.law(p) if value == 0 else reference.gibbs(r * value, 1.0, p)
                for r, p in zip(reward, pi0, strict=True)]
        rewards = [reference.exact(r) for r in reward]
        means = [mp.fsum(a * b for a, b in zip(p, r, strict=True))
                 for p, r in zip(laws, rewards, strict=True)]
        spreads = [mp.fsum(a * (b - m) ** 2 for a, b in zip(p, r, strict=True))
                   for p, r, m in zip(laws, rewards, means, strict=True)]
        divergences = [reference.divergence(p, reference.law(q))
                       for p, q in zip(laws, pi0, strict=True)]
        for got, each in ((path.reward, means), (path.variance, spreads), (path.kl, divergences)):
            truth = reference.mean_over_contexts(each, d0)
            assert relative_error(got[i], truth) < 2e-13 * max(1, value), value
    assert path.kl[0] == 0


def test_temperature_path_follows_the_gibbs_policy_to_the_limits():
    d0, pi0, reward, _ = EXTREMES["plain"]
    path = klrlhf.temperature_path([0.0, 2.0, 1e30], reward, pi0, d0)
    gibbs = klrlhf.gibbs_policy(reward, 0.5, pi0)
    assert path.reward[1] == pytest.approx(klrlhf.expected_reward(gibbs, reward, d0), rel=1e-13)
    assert path.kl[1] == pytest.approx(klrlhf.expected_kl(gibbs, pi0, d0), rel=1e-13)
    assert path.kl[2] == pytest.approx(klrlhf.kl_max(reward, pi0, d0), rel=1e-14)
    assert path.variance[2] == 0


def test_derivatives_along_the_path():
    """Result temperature-path: dE r / d lambda = Var and dKL / d lambda = lambda Var."""
    d0, pi0, reward, _ = EXTREMES["plain"]
    for lam in (0.1, 1.0, 3.0):
        # Five-point differences: error O(h^4) without cancellation trouble at h = 1e-2.
        h = 1e-2
        stencil = klrlhf.temperature_path(lam + h * np.array([-2, -1, 0, 1, 2]), reward, pi0, d0)
        weight = np.array([1, -8, 0, 8, -1]) / (12 * h)
        assert weight @ stencil.reward == pytest.approx(stencil.variance[2], rel=1e-6)
        assert weight @ stencil.kl == pytest.approx(lam * stencil.variance[2], rel=1e-6)


def test_frontier_at_tiny_budgets_follows_its_square_root():
    """F(k) = mean + sqrt(2 k Var) + O(k): the slope beta is sqrt(Var / (2 k))."""
    d0, pi0, reward, _ = EXTREMES["plain"]
    spread = float(d0 @ klrlhf.variance(pi0, reward))
    for budget in (1e-8, 1e-16, 1e-24):
        front = klrlhf.kl_frontier(budget, reward, pi0, d0)
        expected = np.sqrt(spread / (2 * budget))
        assert front.beta[0] == pytest.approx(expected, rel=3 * np.sqrt(budget) + 1e-9)


def test_axes_of_different_arguments_broadcast_against_each_other():
    rng = np.random.default_rng(10)
    reward = rng.standard_normal((3, 1, 2, 4))
    pi0 = rng.dirichlet(np.ones(4), size=(2, 2))
    d0 = rng.dirichlet(np.ones(2), size=(3, 1))
    beta = rng.uniform(0.1, 2, (1, 2))
    policy = rng.dirichlet(np.ones(4), size=(3, 2, 2))
    lam = np.array([0.0, 0.5, 2.0])
    results = {
        "value": lambda r, p, d, b, q: klrlhf.value(q, r, b, p, d),
        "best": lambda r, p, d, b, q: klrlhf.optimal_value(r, b, p, d),
        "gap": lambda r, p, d, b, q: klrlhf.suboptimality(q, r, b, p, d),
        "plug-in": lambda r, p, d, b, q: klrlhf.plug_in_suboptimality(r + r**2, r, b, p, d),
        "top": lambda r, p, d, b, q: klrlhf.kl_max(r, p, d),
        "frontier": lambda r, p, d, b, q: klrlhf.kl_frontier([0.01, 0.2], r, p, d).reward,
        "path": lambda r, p, d, b, q: klrlhf.temperature_path(lam, r, p, d).kl,
        "variance": lambda r, p, d, b, q: klrlhf.variance(q, r),
        "best of n": lambda r, p, d, b, q: klrlhf.best_of_n_policy(r, p, 3),
        "greedy": lambda r, p, d, b, q: klrlhf.greedy_policy(r, p),
    }
    for name, function in results.items():
        together = function(reward, pi0, d0, beta, policy)
        for i in range(3):
            for j in range(2):
                alone = function(reward[i, 0], pi0[j], d0[i, 0], beta[0, j], policy[i, j])
                assert np.allclose(together[i, j], alone, rtol=1e-12, atol=1e-300), name


@pytest.mark.parametrize("rare", [1e-300, 1e-30, 1e-12])
@pytest.mark.parametrize("shift", [-1e50, -3e3, -40.0, -3.0, -0.9, 0.9, 3.0, 25.0])
def test_large_errors_about_a_rare_action_keep_their_digits(rare, shift):
    """The gap is of the order of the rare action's probability, far below rounding of 1."""
    pi0 = np.array([[rare, 0.3, 0.7 - 1e-17]])
    hat = np.array([[shift, 0.0, 0.0]])
    gap = klrlhf.plug_in_suboptimality(hat, np.zeros((1, 3)), 1.0, pi0, [1.0])
    with mp.workdps(700):
        truth = reference.plug_in_gap(hat, np.zeros((1, 3)), 1.0, pi0, [1.0])
    assert relative_error(gap, truth) < 1e-12


def test_policies_that_live_on_different_actions():
    """Rewards 1e50 times beta: the estimate is uniform, the truth is greedy."""
    reward, hat = np.array([[-1.0, -1.0, -0.5, 1.0]]), np.full((1, 4), -1e-50)
    gap = klrlhf.plug_in_suboptimality(hat, reward, 1e-50, np.full((1, 4), 0.25), [1.0])
    assert gap == pytest.approx(1.0 - reward.mean(), rel=1e-14)
