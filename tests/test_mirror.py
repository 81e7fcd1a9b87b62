"""Policy mirror descent, policy gradients and the clipped surrogate: closed forms and bad input."""

import numpy as np
import pytest
from scipy.optimize import minimize

from klrlhf.bandit import Bandit
from klrlhf.mirror import (
    clipped_gradient_steps,
    clipped_surrogate,
    clipped_update,
    effective_beta,
    log_suboptimality,
    mirror_bound,
    mirror_descent,
    mirror_factor,
    mirror_path,
    mirror_step,
    mirror_steps,
    natural_policy_gradient,
    plateau_steps,
    policy_gradient,
    policy_gradient_bound,
    policy_gradient_smoothness,
)
from klrlhf.policies import gibbs_policy, kl_divergence, log_gibbs_policy
from klrlhf.values import suboptimality, value

REWARD = np.array([[1.0, 0.2, -0.5], [0.0, 0.7, 0.3]])
PI0 = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
START = np.array([[0.1, 0.1, 0.8], [0.3, 0.3, 0.4]])
D0 = np.array([0.4, 0.6])
CASE = REWARD, 0.5, PI0


def softmax(u):
    u = np.exp(u - u.max(axis=-1, keepdims=True))
    return u / u.sum(axis=-1, keepdims=True)


# ---- mirror descent ----------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.1, 1.0, 30.0])
def test_implicit_step_maximizes_its_own_objective(eta):
    def loss(u):
        policy = softmax(u.reshape(2, 3))
        return -(value(policy, *CASE, D0) - D0 @ kl_divergence(policy, START) / eta)
    found = minimize(loss, np.log(START).ravel(), method="BFGS", options={"gtol": 1e-9})
    step = np.exp(mirror_step(np.log(START), *CASE, eta))
    assert np.allclose(step, softmax(found.x.reshape(2, 3)), atol=1e-6)
    assert -loss(np.log(step)) >= -found.fun - 1e-12


@pytest.mark.parametrize("eta", [0.1, 1.0, 1.9])
def test_explicit_step_maximizes_the_linearization(eta):
    slope = REWARD - 0.5 * np.log(START / PI0)
    exact = log_gibbs_policy(slope, 1 / eta, START)
    assert np.allclose(mirror_step(np.log(START), *CASE, eta, "explicit"), exact, atol=1e-13)


def test_steps_agree_with_the_closed_form_and_the_hand_value():
    path = mirror_descent(*CASE, 2.0, 4, START)
    assert np.allclose(path[4], mirror_path(*CASE, 2.0**-4, START), atol=1e-13)
    assert np.allclose(path[0], np.log(START))
    # Two answers, log-odds -1 under the optimum: at the factor 1/2 they are halfway.
    two = mirror_descent([[0.0, 1.0]], 1.0, [[0.5, 0.5]], 1.0, 1, [[0.5, 0.5]])[1, 0]
    assert np.isclose(two[0] - two[1], -0.5, rtol=1e-13)


def test_from_the_reference_iterates_are_gibbs_policies():
    path = mirror_descent(*CASE, 0.8, 5)
    for k in range(1, 6):
        price = effective_beta(0.8, 0.5, k)
        assert np.allclose(np.exp(path[k]), gibbs_policy(REWARD, price, PI0), atol=1e-14)
    assert effective_beta(0.8, 0.5, 0) == np.inf
    assert np.isclose(effective_beta(2.0, 0.5, 1), 1.0)


def test_gaps_agree_with_the_library_and_obey_the_bound():
    path = mirror_descent(*CASE, 0.8, 8, START)
    gap = log_suboptimality(path, *CASE, D0)
    assert np.allclose(gap[:4], suboptimality(np.exp(path[:4]), *CASE, D0), rtol=1e-9)
    span = np.ptp(np.log(START) - log_gibbs_policy(*CASE), axis=-1)
    bound = mirror_bound(span, 0.5, D0, mirror_factor(0.8, 0.5) ** np.arange(9))
    assert np.all(gap <= bound) and np.all(np.diff(gap) < 0)
    assert np.isclose(np.log(gap[8] / gap[7]), -2 * np.log(1.4), atol=0.1)


def test_number_of_steps():
    k = mirror_steps(1e-4, 5.0, 0.1, 20.0)
    q = mirror_factor(5.0, 0.1)
    bound = mirror_bound([[20.0], [20.0]], 0.1, [1.0], np.array([q**k, q ** (k - 1)]))
    assert bound[0] <= 1e-4 and 0.1 * (20 * q ** (k - 1)) ** 2 / 8 > 1e-4
    assert mirror_steps(1.0, 1.0, 1.0, 0.0) == 0


def test_errors_are_carried_by_the_factor():
    rng = np.random.default_rng(3)
    errors = rng.normal(size=(3, 2, 3))
    path = mirror_descent(*CASE, 1.0, 3, START, errors=errors)
    q = mirror_factor(1.0, 0.5)
    total = q**3 * (np.log(START) - log_gibbs_policy(*CASE)) + sum(
        q ** (2 - j) * errors[j] for j in range(3))
    difference = path[3] - log_gibbs_policy(*CASE) - total
    assert np.ptp(difference, axis=-1).max() < 1e-13


def test_replicates_broadcast():
    eta, beta = np.array([0.1, 1.0, 10.0]), np.array([0.5, 1.0, 2.0])
    path = mirror_descent(REWARD, beta, PI0, eta, 2)
    assert path.shape == (3, 3, 2, 3)
    for n in range(3):
        assert np.allclose(path[:, n], mirror_descent(REWARD, beta[n], PI0, eta[n], 2))


# ---- gradients ---------------------------------------------------------------------------------


def test_natural_gradient_is_the_explicit_step():
    natural = natural_policy_gradient(*CASE, 0.7, 4, START)
    assert np.allclose(natural, mirror_descent(*CASE, 0.7, 4, START, "explicit"), atol=1e-11)


def test_vanilla_step_is_the_gradient():
    u, t = np.log(START), 1e-6
    gradient = np.array([[(value(softmax(u + t * e), *CASE, D0) - value(
        softmax(u - t * e), *CASE, D0)) / (2 * t) for e in np.eye(6)[3 * x:3 * x + 3].reshape(
        3, 2, 3)] for x in range(2)])
    step = policy_gradient(*CASE, D0, 0.3, 1, START)[1]
    assert np.allclose(np.exp(step), softmax(u + 0.3 * gradient), atol=1e-9)


def test_vanilla_ascends_up_to_its_step_size_and_obeys_the_rate():
    L = policy_gradient_smoothness(*CASE, D0)
    by_hand = max(
        d * (np.ptp(r + 0.5 * np.log(p)) / 27**0.5 + 0.25 * (1 + np.log(3)))
        for d, r, p in zip(D0, REWARD, PI0, strict=True))
    assert np.isclose(L, by_hand, rtol=1e-13)
    gap = log_suboptimality(policy_gradient(*CASE, D0, 2 / L, 300, START), *CASE, D0)
    assert np.all(np.diff(gap) <= 1e-15)
    eta = 1 / (0.5 * D0.max())
    path = policy_gradient(*CASE, D0, eta, 300, START, every=50)
    bound = policy_gradient_bound(*CASE, D0, eta, 50 * np.arange(7), START)
    assert path.shape == (7, 2, 3)
    assert np.all(log_suboptimality(path, *CASE, D0) <= bound)


def test_one_answer_leaves_nothing_to_do():
    one = np.ones((1, 1))
    assert np.array_equal(policy_gradient_bound([[3.0]], 1.0, one, [1.0], 1.0, np.arange(3.0)),
                          np.zeros(3))
    assert clipped_update([[0.0]], [[3.0]], 1.0, one, 0.2) == 1.0
    assert np.array_equal(natural_policy_gradient([[3.0]], 1.0, one, 1.0, 2), np.zeros((3, 1, 1)))


def test_plateau():
    need = plateau_steps(2.0, 1.0, 0.01)
    assert np.isclose(need, 98 / 4)
    path = np.exp(policy_gradient([[1.0, 0.0]], 0.1, [[0.01, 0.99]], [1.0], 2.0, 100)[:, 0, 0])
    first = int(np.argmax(path >= 0.5))
    assert need <= first <= 1.6 * need


# ---- the clipped surrogate ---------------------------------------------------------------------


def test_clipped_ratios_by_hand():
    third = np.full((1, 3), 1 / 3)
    up = clipped_update(np.log(third), [[2.0, -1.0, -1.0]], 1.0, third, 0.2)
    assert np.allclose(up / third, [[1.4, 0.8, 0.8]])
    down = clipped_update(np.log(third), [[1.0, 1.0, -2.0]], 1.0, third, 0.2)
    assert np.allclose(down / third, [[1.2, 1.2, 0.6]])
    flat = clipped_update(np.log(third), [[1.0, 0.0, -1.0]], 1.0, third, 0.2)
    assert np.allclose(flat / third, [[1.2, 1.0, 0.8]])
    # No room for 1 + epsilon on two answers that have 0.95 of the mass: the best is filled first.
    old = np.array([[0.5, 0.45, 0.05]])
    full = clipped_update(np.log(old), np.array([[1.0, 0.5, -50.0]]), 1e-9, old, 0.2)
    assert np.allclose(full, [[0.6, 0.4, 0.0]])
    # Equal advantages are raised by the same ratio, in any order of the answers.
    old = np.array([[0.45, 0.45, 0.05, 0.05]])
    equal = clipped_update(np.log(old), [[1.0, 1.0, -9.0, -9.0]], 1e-9, old, 0.2)
    assert np.allclose(equal, [[0.5, 0.5, 0.0, 0.0]])


@pytest.mark.parametrize("seed", range(20))
def test_clipped_update_maximizes_and_is_nearest(seed):
    rng = np.random.default_rng(seed)
    old, reward = softmax(rng.normal(size=(1, 4))), rng.normal(size=(1, 4))
    pi0, clip = softmax(rng.normal(size=(1, 4))), 0.3
    new = clipped_update(np.log(old), reward, 0.7, pi0, clip)
    best = clipped_surrogate(new, np.log(old), reward, 0.7, pi0, clip)
    others = rng.dirichlet(np.ones(4), (3000, 1))
    near = 0.95 * new + 0.05 * others
    for laws in (others, near):
        values = clipped_surrogate(laws, np.log(old), reward, 0.7, pi0, clip)
        assert values.max() <= best + 1e-12
        ties = values[:, 0] >= best - 1e-13
        if ties.any():
            assert kl_divergence(laws[ties], old).min() >= kl_divergence(new, old) - 1e-12


def test_nothing_to_do_at_the_optimum():
    optimal = log_gibbs_policy(*CASE)
    assert np.allclose(clipped_update(optimal, *CASE, 0.2), np.exp(optimal), atol=1e-15)
    assert np.allclose(clipped_gradient_steps(optimal, *CASE, 0.2, 1.0, 5), optimal, atol=1e-12)


def test_first_epoch_is_vanilla_policy_gradient():
    one = clipped_gradient_steps(np.log(START), *CASE, 0.2, 0.4, 1)
    for x in range(2):
        vanilla = policy_gradient(REWARD[x:x + 1], 0.5, PI0[x:x + 1], [1.0], 0.4, 1,
                                  START[x:x + 1])[1]
        assert np.allclose(one[x:x + 1], vanilla, atol=1e-14)


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("call, words", [
    (lambda: mirror_descent(REWARD, 0.0, PI0, 1.0, 1), "beta must be positive"),
    (lambda: mirror_descent(*CASE, -1.0, 1), "eta must be positive"),
    (lambda: mirror_descent(*CASE, 1.0, 1.5), "steps must be a whole number"),
    (lambda: mirror_descent(*CASE, 1.0, 1, [[1.0, 0.0, 0.0]] * 2), "start must have full support"),
    (lambda: mirror_descent(*CASE, 1.0, 1, variant="both"), "variant must be one of"),
    (lambda: mirror_descent(*CASE, 1.0, 2, errors=np.zeros((1, 2, 3))), "one entry per step"),
    (lambda: mirror_descent([[1.0, 2.0]], 0.5, PI0, 1.0, 1), "agree in their last 2 axes"),
    (lambda: mirror_step(np.zeros((2, 3)), *CASE, 1.0), "normalized"),
    (lambda: mirror_descent(*CASE, 1e12, 60, variant="explicit"), "iterates overflow"),
    (lambda: mirror_bound([1.0, 2.0], 0.5, [1.0], 0.5), "one entry per context"),
    (lambda: effective_beta(1.0, 1.0, -1), "k must be nonnegative"),
    (lambda: policy_gradient_bound(*CASE, D0, 10.0, 1), "at most 1"),
    (lambda: policy_gradient(*CASE, [0.5, 0.6], 1.0, 1), "d0 must sum to one"),
    (lambda: plateau_steps(1.0, 1.0, 0.7), "p must be below 1/2"),
    (lambda: clipped_update(np.log(START), *CASE, 1.0), "clip_epsilon must lie strictly"),
    (lambda: clipped_surrogate(PI0 * 2, np.log(START), *CASE, 0.2), "policy must sum to one"),
    (lambda: natural_policy_gradient(*CASE, 1.0, 1, [[1 - 2e-13, 1e-13, 1e-13]] * 2), "Fisher"),
    (lambda: log_suboptimality(np.full((2, 3), np.nan), *CASE, D0), "no NaN"),
    (lambda: log_suboptimality(np.full((2, 3), -9.0), *CASE, D0), "log_policy must be normalized"),
    (lambda: mirror_descent([REWARD] * 3, 0.5, PI0, 1.0, 2, errors=np.zeros((2, 5, 2, 3))),
     "errors and the instances must broadcast"),
    (lambda: plateau_steps(1.0, 1.0, 1e-310), "p must be at least"),
])
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# ---- the explorer ------------------------------------------------------------------------------


def test_explorer_says_what_it_draws():
    pytest.importorskip("anywidget")
    from klrlhf.explore import mirror
    widget = mirror.mirror_explorer()
    said = {widget.compute(**change).say for change in (
        {}, {"beta": 5.0}, {"eta": 10.0}, {"start": "rare"}, {"method": "vanilla"},
        {"method": "clipped"}, {"method": "explicit", "beta": 5.0, "eta": 10.0})}
    assert len(said) == 7
    facts = widget.compute(beta=0.5, eta=1.0, start="wrong", method="implicit").values
    assert np.isclose(facts["slope"], -2 * np.log(1.5))
    assert np.isclose(np.log(facts["gap"][30] / facts["gap"][29]), facts["slope"], atol=1e-3)
    law = facts["height"] * np.exp(facts["slope"] * 30)
    assert np.isclose(facts["gap"][30], law, rtol=1e-3)
    bandit = Bandit.running_example(0.5, "good")
    assert np.isclose(facts["gap"][0], bandit.gap(mirror.start_policy(bandit, "wrong")))
    assert np.all(facts["gap"][mirror.SHOWN] <= facts["bound"] * (1 + 1e-9))


def test_explorer_runs_on_the_frontier_from_the_reference():
    pytest.importorskip("anywidget")
    from klrlhf.explore import mirror
    facts = mirror.run(0.5, 1.0, "reference", "implicit")
    best = facts["bandit"].frontier(facts["kl"][1:]).reward
    assert np.allclose(facts["reward"][1:], best, atol=1e-9)
