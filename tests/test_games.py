"""Preference games: closed forms, independent solvers, guarantees and their edges, bad input."""

import numpy as np
import pytest
from scipy.optimize import minimize, root

from klrlhf import games
from klrlhf.bandit import Bandit
from klrlhf.policies import (
    gibbs_policy,
    kl_divergence,
    kl_divergence_from_logs,
    log_gibbs_policy,
)
from klrlhf.preferences import Comparisons, all_pairs, pair_features

UNIFORM = np.full((1, 3), 1 / 3)


def random_game(seed, K=4, S=2, N=6):
    rng = np.random.default_rng(seed)
    A = np.triu(rng.uniform(-0.5, 0.5, (N, S, K, K)), 1)
    pi0 = rng.dirichlet(np.ones(K), (N, S))
    return 0.5 + A - np.swapaxes(A, -1, -2), 10 ** rng.uniform(-1.3, 0.5, N), pi0


# ---- the Nash policy, four ways ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_nash_policy_agrees_with_self_play(seed):
    P, beta, pi0 = random_game(seed)
    nash = games.log_nash_policy(P, beta, pi0)
    path = games.self_play(P, beta, pi0, games.safe_step(P, beta).min(axis=-1), 6000)
    assert np.abs(path[-1] - nash).max() < 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_nash_policy_agrees_with_scipy(seed):
    """A saddle as a convex problem: minimize max_pi' G(pi', pi) over logits, and a root finder."""
    P, beta, pi0 = (values[0] for values in random_game(seed, S=1))
    P, pi0, beta = P[0], pi0[0], float(beta)

    def worst(logits):
        policy = np.exp(logits - logits.max())
        policy /= policy.sum()
        return beta * np.log(pi0 @ np.exp(P @ policy / beta)) + beta * policy @ np.log(policy / pi0)

    found = minimize(worst, np.log(pi0), method="BFGS", options={"gtol": 1e-9})
    policy = np.exp(found.x - found.x.max())
    nash = games.nash_policy(P[None], beta, pi0[None])[0]
    assert np.isclose(found.fun, 0.5, atol=1e-8)
    assert np.allclose(policy / policy.sum(), nash, atol=1e-4)

    def residual(logits):
        policy = np.exp(logits - np.logaddexp.reduce(logits))
        out = logits - np.log(pi0) - P @ policy / beta
        return out - out.mean() + logits.mean()

    solved = root(residual, np.log(pi0), tol=1e-13)
    policy = np.exp(solved.x - np.logaddexp.reduce(solved.x))
    assert np.allclose(policy, nash, atol=1e-8)


def test_nash_policy_from_its_own_reference():
    rng = np.random.default_rng(5)
    P, beta, _ = random_game(5, K=6)
    nash = rng.dirichlet(np.ones(6), (6, 2))
    pi0 = gibbs_policy(-games.win_rates(P, nash), beta, nash)
    assert np.allclose(games.nash_policy(P, beta, pi0), nash, rtol=1e-10)


@pytest.mark.parametrize("beta", [1e-3, 1e-2, 0.1, 1.0, 1e3])
def test_small_and_large_coefficients(beta):
    P, pi0 = games.cyclic_preferences(), np.array([[0.9, 0.09, 0.01]])
    nash = games.nash_policy(P, beta, pi0)
    assert games.exploitability(nash, P, beta, pi0)[0] < 1e-9 * max(beta, 1)
    if beta <= 1e-3:
        assert np.allclose(nash, 1 / 3, atol=0.01)  # the unregularized solution
    if beta >= 1e3:
        assert np.allclose(nash, pi0, atol=1e-3)


def test_two_answers_have_a_closed_form():
    pi0, beta = np.array([[0.3, 0.7]]), 0.2
    P = np.array([[[0.5, 0.8], [0.2, 0.5]]])
    odds = 0.3 / 0.7 * np.exp(0.3 / beta)
    assert np.allclose(games.nash_policy(P, beta, pi0), [[odds / (1 + odds), 1 / (1 + odds)]])


def test_rock_paper_scissors_closed_forms():
    """Uniform reference: uniform Nash policy, and the threshold 24 beta / (s^2 - 12 beta^2)."""
    for s in (0.3, 1.0):
        P = games.cyclic_preferences(3, s)
        assert np.allclose(games.nash_policy(P, 0.05, UNIFORM), 1 / 3, rtol=1e-13)
        assert np.isclose(games.interaction(P)[0], 3 * s / 8)
        assert np.isclose(games.rotation(P, UNIFORM)[0], s / 12**0.5)
        assert np.isclose(games.safe_step(P, 0.05)[0], 64 * 0.05 / (9 * s**2))
        edge = games.stability_threshold(P, 0.05, UNIFORM)[0]
        assert np.isclose(edge, 24 * 0.05 / (s**2 - 12 * 0.05**2))
    assert np.isinf(games.stability_threshold(P, 0.3, UNIFORM)[0])


def test_no_game_turns_faster_than_a_long_cycle():
    """The rotation is at most 1 / pi, and cot(pi / 2K) / 2K in the cycle of K actions."""
    for K in (3, 5, 41):
        omega = games.rotation(games.cyclic_preferences(K), np.full((1, K), 1 / K))[0]
        assert np.isclose(omega, 0.5 / (K * np.tan(np.pi / (2 * K))))
        assert omega < 1 / np.pi
    assert omega > 0.999 / np.pi
    rng = np.random.default_rng(3)
    angle = np.sort(rng.uniform(0, 2 * np.pi, (200, 1, 9)), axis=-1)
    P = 0.5 + np.sign(np.sin(angle[..., :, None] - angle[..., None, :])) / 2
    omega = games.rotation(P, rng.dirichlet(np.full(9, 2.0), (200, 1)))
    assert 0.3 < omega.max() <= 1 / np.pi


def test_the_one_shot_equilibrium_of_the_unregularized_game():
    """Weighted rock, paper, scissors: the solution is proportional to the other pair's margin."""
    a, b, c = 0.1, 0.2, 0.4  # margins of 2 over 1, 3 over 2, 1 over 3
    A = np.array([[0, -a, c], [a, 0, -b], [-c, b, 0]])
    nash = games.nash_policy(0.5 + A[None], 1e-5, UNIFORM)
    assert np.allclose(nash[0], np.array([b, c, a]) / (a + b + c), atol=2e-4)


# ---- Gibbs policies ------------------------------------------------------------------------------


def test_additive_payoffs_give_gibbs_policies():
    rng = np.random.default_rng(2)
    r, pi0 = rng.standard_normal((5, 2, 4)), rng.dirichlet(np.ones(4), (5, 2))
    beta = 10 ** rng.uniform(-1, 1, 5)
    P = games.bradley_terry_preferences(r)
    log_odds = games.log_odds_payoff(P)
    assert np.allclose(games.log_nash_policy(log_odds, beta, pi0),
                       log_gibbs_policy(r, beta, pi0), atol=1e-9)
    c = 30.0
    assert np.allclose(games.nash_policy(games.linear_preferences(r, c), beta, pi0),
                       gibbs_policy(r, c * beta, pi0), atol=1e-11)
    assert np.all(games.interaction(log_odds) < 1e-12)
    assert np.all(games.interaction(P) > 1e-4)


@pytest.mark.parametrize("beta", [0.05, 0.3, 2.0])
def test_strengths_one_two_four_are_no_gibbs_policy(beta):
    P = games.bradley_terry_preferences(np.log([[1.0, 2.0, 4.0]]))
    log_nash = games.log_nash_policy(P, beta, UNIFORM)[0]
    x = np.exp(log_nash[1] - log_nash[0])
    assert abs(log_nash[2] - 2 * log_nash[1] + log_nash[0]) > 1e-4 * x / (1 + x)


# ---- guarantees ----------------------------------------------------------------------------------


def test_loss_to_the_nash_policy_is_exact():
    P, beta, pi0 = random_game(3)
    nash = games.nash_policy(P, beta, pi0)
    policy = np.random.default_rng(0).dirichlet(np.ones(4), nash.shape[:2])
    loss = 0.5 - games.game_value(policy, nash, P, beta, pi0)
    assert np.allclose(loss, beta[:, None] * kl_divergence(policy, nash), rtol=1e-10)
    gain = games.game_value(games.best_response(policy, P, beta, pi0), policy, P, beta, pi0) - 0.5
    assert np.allclose(gain, games.exploitability(policy, P, beta, pi0), rtol=1e-9)


def test_distance_bound_by_its_formula():
    for t in (1e-3, 0.299, 0.301, 1.0, 10.0):
        want = np.log(np.sinh(t) / t)
        assert np.isclose(games.nash_kl_bound(0.5 / t), want, rtol=1e-9, atol=1e-16)
    assert np.isclose(games.nash_kl_bound(1e-3), 500 - np.log(1000))


def test_threshold_separates_convergence_from_cycles():
    P, pi0, beta = games.cyclic_preferences(), np.array([[0.5, 0.3, 0.2]]), 0.1
    edge = games.stability_threshold(P, beta, pi0)[0]
    nash = games.log_nash_policy(P, beta, pi0)
    start = np.exp(nash) * [[1.01, 1.0, 0.99]]
    path = games.self_play(P, beta, pi0, np.array([0.95, 1.05]) * edge, 3000,
                           (start / start.sum())[None])
    kls = kl_divergence_from_logs(np.broadcast_to(nash, path.shape), path)[..., 0]
    assert kls[-1, 0] < 1e-9 < 1e-3 < kls[-1, 1]


def test_nash_md_is_self_play_at_another_coefficient():
    P, pi0, beta, eta = games.cyclic_preferences(), np.array([[0.6, 0.3, 0.1]]), 0.2, 0.7
    path = games.nash_md(P, beta, pi0, eta, 400)
    wide = beta / (1 - eta * beta)
    limit = games.best_response(games.nash_policy(P, wide, pi0), P, beta, pi0)
    assert np.allclose(np.exp(path[-1]), limit, atol=1e-9)


# ---- learning ------------------------------------------------------------------------------------


def test_estimates_are_preferences_and_their_errors_are_bounded():
    P = games.cyclic_preferences(5, 0.6)
    hat = games.sample_preferences(P, 200, 7, replicates=500)
    assert hat.shape == (500, 1, 5, 5)
    games.preference_matrix(hat)
    assert np.isclose(hat[:, 0, 1, 0].mean(), P[0, 1, 0], atol=0.01)
    eps = games.preference_error_bound(200, 1, 5, 0.1)
    assert np.mean(np.abs(hat - P).max(axis=(1, 2, 3)) > eps) < 0.1
    pi0 = np.full((1, 5), 0.2)
    lost = games.exploitability(games.nash_policy(hat, 0.1, pi0), P, 0.1, pi0)
    assert (lost <= games.nash_estimation_bound(np.abs(hat - P).max(axis=(1, 2, 3)), 0.1)[:, None]
            + 1e-12).all()


def test_preferences_from_comparisons():
    bandit = Bandit.tabular(np.zeros((2, 3)), 1.0, B=2.0)
    pairs = all_pairs(2, 3)
    counts = np.array([4, 0, 2, 8, 1, 5])
    wins = np.array([1, 0, 2, 4, 0, 5])
    data = Comparisons(pairs, pair_features(bandit.phi, pairs), counts, wins)
    P = games.preferences_from_comparisons(data, 2, 3)
    assert P[0, 0, 1] == 0.25 and P[0, 1, 0] == 0.75 and P[0, 0, 2] == 0.5 and P[1, 1, 2] == 1.0
    assert np.array_equal(P + np.swapaxes(P, -1, -2), np.ones((2, 3, 3)))


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("call, message", [
    (lambda: games.preference_matrix([[[0.5, 1.2], [-0.2, 0.5]]]), "lie in"),
    (lambda: games.preference_matrix([[[0.5, 0.7], [0.4, 0.5]]]), "action 0, opponent 1"),
    (lambda: games.preference_matrix([[[0.4, 0.5], [0.3, 0.4]]]), "not 1/2"),
    (lambda: games.preference_matrix([[[0.5, 0.5]]]), "square"),
    (lambda: games.nash_policy(games.cyclic_preferences(), 0.0, UNIFORM), "beta must be positive"),
    (lambda: games.nash_policy(games.cyclic_preferences(), 1.0, [[0.5, 0.5, 0]]), "full support"),
    (lambda: games.nash_policy(games.cyclic_preferences(5), 1.0, UNIFORM), "agree"),
    (lambda: games.self_play(games.cyclic_preferences(), 1.0, UNIFORM, -1.0, 3), "eta"),
    (lambda: games.self_play(games.cyclic_preferences(), 1.0, UNIFORM, 1.0, 2.5), "steps"),
    (lambda: games.nash_md(games.cyclic_preferences(), 2.0, UNIFORM, 1.0, 3), "at most 1"),
    (lambda: games.cyclic_preferences(4), "odd"),
    (lambda: games.cyclic_preferences(3, 1.5), "strength"),
    (lambda: games.linear_preferences([[0.0, 1.0]], 1.5), "twice the range"),
    (lambda: games.log_odds_payoff(games.cyclic_preferences()), "strictly between"),
    (lambda: games.sample_preferences(games.cyclic_preferences(), 0, 1), "at least 1"),
    (lambda: games.preferences_from_comparisons(3, 1, 3), "Comparisons"),
    (lambda: games.preference_error_bound(10, 1, 3, 1.0), "strictly between 0 and 1"),
    (lambda: games.nash_estimation_bound(-0.1, 1.0), "nonnegative"),
    (lambda: games.nash_kl_bound(1.0, [np.nan]), "finite"),
])
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_explorer_matches_the_closed_forms():
    pytest.importorskip("anywidget")
    from klrlhf.explore import games as explorer

    for multiple in (2.0, 16.0, 32.0):
        values = explorer.frame(0.1, multiple, 1.0, "far").values
        assert np.isclose(values["threshold"], 24 / (1 - 0.12))
        assert np.isclose(values["safe"], 64 / 9)
        assert (len(values["cycle"]) > 0) == (multiple > values["threshold"])
    guaranteed = explorer.frame(0.1, 4.0, 1.0, "far").values
    rate = 1.04 ** -np.arange(explorer.STEPS + 1.0)
    assert (guaranteed["kl"] <= guaranteed["kl"][0] * rate * (1 + 1e-9)).all()
