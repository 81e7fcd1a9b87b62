"""IPO and separated comparisons, against published definitions and independent solvers."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, logsumexp

from klrlhf.bandit import Bandit
from klrlhf.direct import (
    displaced_policies,
    displacement_slopes,
    dpo_gradient,
    dpo_limit,
    dpo_loss,
    fit_dpo_softmax,
    fit_ipo,
    ipo_gradient,
    ipo_limit,
    ipo_loss,
    ipo_targets,
    surviving_actions,
    unanimous_margin_bounds,
    unanimous_margins,
    vanishing_log_ratio,
)
from klrlhf.estimation import mle_exists, win_graph_strongly_connected
from klrlhf.preferences import Comparisons, all_pairs, policy_design, sample_comparisons

pytestmark = pytest.mark.filterwarnings("error")


def make(pairs, counts, wins):
    """Comparisons without features."""
    return Comparisons(pairs, np.zeros((len(pairs), 1)), counts, wins)


def random_case(rng, S=2, K=4, most=4):
    pairs = all_pairs(S, K)
    counts = rng.integers(0, most, len(pairs))
    log_policy = rng.standard_normal((S, K))
    log_policy -= logsumexp(log_policy, axis=-1, keepdims=True)
    pi0 = rng.dirichlet(np.ones(K), S)
    return make(pairs, counts, rng.binomial(counts, 0.5)), log_policy, pi0


# -- the loss, against its definitions ----------------------------------------------------------


def votes(data):
    """The log as single votes (prompt, winner, loser)."""
    for (x, a, b), n, w in zip(data.pairs.tolist(), data.counts, data.wins, strict=True):
        yield from [(x, a, b)] * int(w) + [(x, b, a)] * int(n - w)


@pytest.mark.parametrize("seed", range(5))
def test_loss_as_published_implementations_compute_it(seed):
    """Per vote (logits - 1/(2 tau))^2 with logits the difference of two log-ratios of chosen and
    rejected: the formula of the DPO authors' trainer and of TRL (there tau is called beta)."""
    rng = np.random.default_rng(seed)
    data, log_policy, pi0 = random_case(rng)
    tau, log_pi0, losses = 0.3, np.log(pi0), []
    for x, chosen, rejected in votes(data):
        pi_logratios = log_policy[x, chosen] - log_policy[x, rejected]
        ref_logratios = log_pi0[x, chosen] - log_pi0[x, rejected]
        losses.append((pi_logratios - ref_logratios - 1 / (2 * tau)) ** 2)
    assert np.isclose(ipo_loss(log_policy, pi0, data, tau), np.sum(losses), rtol=1e-13)


@pytest.mark.parametrize("seed", range(5))
def test_loss_as_the_paper_defines_it(seed):
    """E over ordered pairs of (h(y, y') - I(y, y') / tau)^2, I the Bernoulli vote: it has the same
    gradient as the sampled loss, because both orders of every vote are counted."""
    rng = np.random.default_rng(seed)
    data, log_policy, pi0 = random_case(rng)
    tau, K = 0.4, pi0.shape[-1]

    def published(logits):
        ratio = logits - np.log(pi0)
        total = 0.0
        for x, winner, loser in votes(data):
            for y, other, vote in ((winner, loser, 1.0), (loser, winner, 0.0)):
                total += 0.5 * (ratio[x, y] - ratio[x, other] - vote / tau) ** 2
        return total

    gradient = ipo_gradient(log_policy, pi0, data, tau)
    for index in np.ndindex(2, K):
        move = np.zeros((2, K))
        move[index] = 1e-5
        numeric = (published(log_policy + move) - published(log_policy - move)) / 2e-5
        assert np.isclose(numeric, gradient[index], atol=1e-6 * (1 + abs(gradient).max()))


def test_gradient_is_the_derivative_of_the_loss():
    data, log_policy, pi0 = random_case(np.random.default_rng(7))
    gradient = ipo_gradient(log_policy, pi0, data, 0.2)
    for index in np.ndindex(*pi0.shape):
        move = np.zeros(pi0.shape)
        move[index] = 1e-5
        numeric = (ipo_loss(log_policy + move, pi0, data, 0.2)
                   - ipo_loss(log_policy - move, pi0, data, 0.2)) / 2e-5
        assert np.isclose(numeric, gradient[index], atol=1e-6 * (1 + abs(gradient).max()))


# -- the fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_fit_agrees_with_a_general_optimizer(seed):
    rng = np.random.default_rng(seed)
    data, _, pi0 = random_case(rng, S=1, K=5)
    fit = fit_ipo(data, pi0, 0.3)

    def objective(logits):
        return ipo_loss(logits.reshape(1, 5), pi0, data, 0.3)

    found = minimize(objective, np.log(pi0).ravel(), method="BFGS", options={"gtol": 1e-9})
    assert fit.loss <= found.fun * (1 + 1e-9) + 1e-12
    if fit.unique[0]:
        g = found.x - found.x.mean() - np.log(pi0[0]) + np.log(pi0[0]).mean()
        own = fit.log_ratio[0] - fit.log_ratio[0].mean()
        assert np.allclose(g, own, atol=1e-5)


def test_fit_agrees_with_least_squares_on_the_incidence_matrix():
    rng = np.random.default_rng(3)
    pairs, tau = all_pairs(1, 6), 0.7
    counts = rng.integers(1, 9, len(pairs))
    data = make(pairs, counts, rng.binomial(counts, 0.6))
    incidence = np.eye(6)[pairs[:, 1]] - np.eye(6)[pairs[:, 2]]
    root = np.sqrt(counts)[:, None]
    g = np.linalg.lstsq(root * incidence, root[:, 0] * ipo_targets(data, tau), rcond=None)[0]
    ratio = fit_ipo(data, np.full((1, 6), 1 / 6), tau).log_ratio[0]
    assert np.allclose(ratio - ratio.mean(), g, atol=1e-12)


@pytest.mark.parametrize(("k", "N"), [(0, 3), (2, 3), (7, 7), (1, 2)])
def test_one_pair_has_its_closed_form(k, N):
    pi0 = np.array([[0.1, 0.6, 0.3]])
    ratio = fit_ipo(make([[0, 0, 2]], [N], [k]), pi0, 0.4).log_ratio[0]
    assert np.isclose(ratio[0] - ratio[2], (2 * k / N - 1) / 0.8, rtol=1e-13)
    assert ratio[1] == 0  # never compared: it keeps its mass


def test_components_keep_their_reference_mass():
    pi0 = np.array([[0.1, 0.2, 0.3, 0.4]])
    fit = fit_ipo(make([[0, 0, 1], [0, 2, 3]], [3, 1], [3, 0]), pi0, 0.2)
    law = np.exp(fit.log_policy[0])
    assert np.isclose(law[:2].sum(), 0.3) and np.isclose(law[2:].sum(), 0.7)
    assert not fit.unique[0]


def test_fit_broadcasts_and_survives_extreme_counts():
    pairs = all_pairs(1, 3)
    counts = np.array([[1e15, 1, 0], [1, 1, 1], [0, 0, 0]])
    fit = fit_ipo(make(pairs, counts, counts), np.full((1, 3), 1 / 3), np.array([0.5, 1e-3, 1.0]))
    assert fit.log_policy.shape == (3, 1, 3)
    first = fit.log_ratio[0, 0]
    assert np.allclose(first[0] - first[1:], 1.0, rtol=1e-9)
    assert np.allclose(fit.log_ratio[2], 0)
    assert np.allclose(logsumexp(fit.log_policy, axis=-1), 0, atol=1e-12)


def test_all_pairs_alike_give_average_win_rates():
    rng = np.random.default_rng(8)
    K, N, tau = 5, 7, 0.3
    pairs = all_pairs(1, K)
    wins = rng.binomial(N, 0.6, len(pairs))
    rate = np.full((K, K), 0.5)
    rate[pairs[:, 1], pairs[:, 2]] = wins / N
    rate[pairs[:, 2], pairs[:, 1]] = 1 - wins / N
    ratio = fit_ipo(make(pairs, np.full(len(pairs), N), wins), np.full((1, K), 1 / K), tau)
    g, mean = ratio.log_ratio[0], rate.mean(axis=1)
    assert np.allclose(g[:, None] - g, (mean[:, None] - mean) / tau, atol=1e-12)


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0, 3.0])
def test_two_answers_and_a_certain_winner_as_the_paper_has_it(tau):
    """Section 5.3.1 of Azar et al.: from a uniform reference IPO ends at sigma(1 / (2 tau))."""
    half = np.full((1, 2), 0.5)
    law = np.exp(fit_ipo(make([[0, 0, 1]], [1], [1]), half, tau).log_policy[0])
    assert np.allclose(law, expit([0.5 / tau, -0.5 / tau]), rtol=1e-13)
    limit = dpo_limit(make([[0, 0, 1]], [1], [1]), half, tau)
    assert limit.policy.tolist() == [[1.0, 0.0]] and not limit.attained


@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
def test_three_answers_as_the_paper_has_them(tau):
    """Section 5.4 of Azar et al.: with a total order DPO becomes deterministic for every
    coefficient and IPO does not; the cycle, which they leave out, keeps the reference."""
    third, pairs = np.full((1, 3), 1 / 3), all_pairs(1, 3)
    order, cycle = make(pairs, [1, 1, 1], [1, 1, 1]), make(pairs, [1, 1, 1], [1, 0, 1])
    assert np.allclose(dpo_limit(order, third, tau).policy, [[1, 0, 0]])
    ratio = fit_ipo(order, third, tau).log_ratio[0]
    assert np.allclose(np.diff(ratio), -1 / (3 * tau), rtol=1e-12)
    assert dpo_limit(cycle, third, tau).attained
    assert np.allclose(dpo_limit(cycle, third, tau).policy, third)
    assert np.allclose(fit_ipo(cycle, third, tau).log_ratio, 0, atol=1e-12)


def test_an_answer_without_votes_is_not_excluded():
    """Two opposite votes on one pair, the third answer unseen: nothing vanishes."""
    data, pi0 = make([[0, 0, 1]], [2], [1]), np.array([[0.5, 0.3, 0.2]])
    limit = dpo_limit(data, pi0, 0.7)
    assert limit.survives.all() and limit.attained and not limit.unique[0]
    assert np.allclose(limit.policy, pi0)


# -- the limit ----------------------------------------------------------------------------------


def test_limit_is_the_gibbs_policy_of_the_win_probability():
    bandit = Bandit.running_example(0.5, "good")
    r, tau = bandit.reward, 0.125
    design = policy_design(bandit.d0, bandit.pi0, bandit.pi0)
    limit = ipo_limit(r, bandit.pi0, tau, design)
    P = (expit(r[:, :, None] - r[:, None, :]) * bandit.pi0[:, None, :]).sum(-1)
    claimed = np.log(bandit.pi0) + P / tau
    assert np.allclose(limit, claimed - logsumexp(claimed, axis=-1, keepdims=True), atol=1e-12)
    data = sample_comparisons(bandit, 10**6, design, np.random.default_rng(0))
    assert np.abs(fit_ipo(data, bandit.pi0, tau).log_policy - limit).max() < 0.05


# -- DPO without a minimizer --------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_survivors_by_a_graph_search(seed):
    """Top classes by scipy's strong components, another route than the closure."""
    rng = np.random.default_rng(seed)
    K = 6
    pairs = all_pairs(1, K)
    counts = rng.integers(0, 2, len(pairs)) * rng.integers(0, 2, len(pairs))
    data = make(pairs, counts, rng.binomial(counts, 0.5))
    arrows = np.zeros((K, K))
    for _, winner, loser in votes(data):
        arrows[winner, loser] = 1
    _, label = connected_components(arrows, directed=True, connection="strong")
    entered = {label[b] for a, b in zip(*np.nonzero(arrows), strict=True) if label[a] != label[b]}
    expected = [c not in entered for c in label]
    assert surviving_actions(data, 1, K)[0].tolist() == expected
    limit = dpo_limit(data, np.full((1, K), 1 / K), 1.0)
    assert limit.attained == win_graph_strongly_connected(data)
    assert (limit.policy[0] > 0).tolist() == expected
    assert np.isclose(limit.policy.sum(), 1)


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_limit_is_where_gradient_descent_goes(beta):
    wins = np.array([[0, 3, 0, 1], [1, 0, 2, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    x, a, b = (pairs := all_pairs(1, 4)).T
    data = make(pairs, wins[a, b] + wins[b, a], wins[a, b])
    pi0 = np.array([[0.4, 0.1, 0.3, 0.2]])
    limit = dpo_limit(data, pi0, beta)
    path = fit_dpo_softmax(data, pi0, beta, steps=[3000])
    assert limit.survives[0].tolist() == [True, True, False, True]
    top = limit.survives[0]
    law = np.exp(path.log_policy[0])
    assert np.allclose(law[top] / law[top].sum(), limit.policy[0, top], atol=1e-3)
    assert 0 < dpo_loss(path.log_policy, pi0, data, beta) - limit.infimum < 2e-3


def test_limit_where_the_infimum_is_attained_is_the_minimizer():
    wins = np.array([[0, 3, 1], [1, 0, 2], [2, 1, 0]])
    x, a, b = (pairs := all_pairs(1, 3)).T
    data = make(pairs, wins[a, b] + wins[b, a], wins[a, b])
    pi0 = np.array([[0.5, 0.2, 0.3]])
    limit = dpo_limit(data, pi0, 0.7)
    assert limit.attained and limit.unique[0]
    assert np.allclose(np.log(limit.policy), fit_dpo_softmax(data, pi0, 0.7).log_policy, atol=1e-6)
    assert np.abs(dpo_gradient(np.log(limit.policy), pi0, data, 0.7)).max() < 1e-6


def test_without_features_existence_is_decided_by_the_graph():
    one_hot = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
    data = Comparisons([[0, 0, 1], [0, 1, 2]], one_hot, [2, 3], [1, 3])
    assert not mle_exists(data)
    limit = dpo_limit(data, np.full((1, 3), 1 / 3), 2.0)
    assert np.allclose(limit.policy, [[0.5, 0.5, 0.0]])
    assert np.isclose(limit.infimum, 2 * np.log(2))


def test_ratio_bound_is_an_equality_for_one_pair():
    for margin, n, beta in ((0.3, 1, 0.5), (4.0, 7, 2.0), (-20.0, 2, 1.0)):
        excess = n * np.logaddexp(0, -margin)
        assert np.isclose(vanishing_log_ratio(excess, n, beta), -margin / beta, rtol=1e-9)


def test_margins_follow_gradient_descent_on_the_policy():
    beta, eta, pi0 = 0.8, 0.5, np.array([[0.2, 0.5, 0.3]])
    data = make([[0, 0, 1]], [4], [4])
    path = fit_dpo_softmax(data, pi0, beta, steps=np.arange(1, 31), step_size=eta / 4).path
    ratio = (path - np.log(pi0))[:, 0]
    margins = unanimous_margins(30, 2 * beta**2 * eta)
    assert np.allclose(beta * (ratio[:, 0] - ratio[:, 1]), margins[1:], rtol=1e-10)
    low, high = unanimous_margin_bounds(np.arange(31), 2 * beta**2 * eta)
    assert np.all(low <= margins + 1e-12) and np.all(margins <= high + 1e-12)
    assert np.isclose(margins[1], high[1], rtol=1e-12)


@pytest.mark.parametrize("kappa", [1e-40, 1e-9, 0.3, 40.0, 99.0, 101.0, 1e6, 1e30])
def test_margin_bounds_for_every_step_size(kappa):
    """No cancellation for tiny steps, no overflow for huge ones, equality at t = 0 and t = 1."""
    t = np.arange(60)
    margins = unanimous_margins(59, kappa)
    low, high = unanimous_margin_bounds(t, kappa)
    assert low[0] == high[0] == 0
    assert np.isclose(high[1], margins[1], rtol=1e-13)
    assert np.all(low <= margins * (1 + 1e-13)) and np.all(margins <= high * (1 + 1e-13))
    if kappa < 1e-6:
        assert np.allclose(low, kappa * t / 2, rtol=1e-6) and np.allclose(high, low, rtol=1e-6)


# -- displacement -------------------------------------------------------------------------------


def test_displacement_example_and_free_logits():
    phi, start = [[1.0], [-1.0], [-2.0]], np.log(np.full(3, 1 / 3))
    law = np.exp(displaced_policies(phi, start, 1, 2, np.log(2)))
    assert np.allclose(law, np.array([8, 2, 1]) / 11)
    assert displacement_slopes(phi, np.full(3, 1 / 3), 1, 2)[1] < 0
    pi = np.array([0.2, 0.3, 0.5])
    assert np.isclose(displacement_slopes(np.eye(3), pi, 0, 1)[0], 1 - 0.2 + 0.3)


def test_displacement_slope_is_the_derivative():
    rng = np.random.default_rng(1)
    phi, start = rng.standard_normal((5, 2)), np.log(rng.dirichlet(np.ones(5)))
    walk = displaced_policies(phi, start, 2, 4, np.array([-1e-6, 1e-6]))
    slope = displacement_slopes(phi, np.exp(start), 2, 4)
    assert np.allclose((walk[1] - walk[0]) / 2e-6, slope, atol=1e-6)


# -- bad input ----------------------------------------------------------------------------------


DATA = make([[0, 0, 1]], [3], [1])
HALF = np.array([[0.5, 0.5]])


@pytest.mark.parametrize(("call", "words"), [
    (lambda: ipo_loss(np.log(HALF), HALF, DATA, 0.0), "tau must be positive"),
    (lambda: ipo_loss(np.log(HALF), [[1.0, 0.0]], DATA, 1.0), "full support"),
    (lambda: ipo_loss([[np.nan, 0.0]], HALF, DATA, 1.0), "log_policy must be finite"),
    (lambda: ipo_loss(np.log(HALF), HALF, "votes", 1.0), "must be Comparisons"),
    (lambda: fit_ipo(make([[0, 0, 2]], [1], [1]), HALF, 1.0), "actions of pi0"),
    (lambda: fit_ipo(make([[1, 0, 1]], [1], [1]), HALF, 1.0), "contexts of pi0"),
    (lambda: fit_ipo(DATA, HALF, np.ones((2, 3)) * -1), "tau must be positive"),
    (lambda: ipo_targets(DATA, -1.0), "tau must be positive"),
    (lambda: ipo_limit([[0.0, 1.0]], HALF, 1.0, [0.7, 0.7]), "one probability per pair"),
    (lambda: ipo_limit([[0.0, np.inf]], HALF, 1.0, [1.0]), "reward must be finite"),
    (lambda: dpo_limit(DATA, HALF[None], 1.0), "shape"),
    (lambda: dpo_limit(DATA, HALF, 0.0), "beta must be positive"),
    (lambda: surviving_actions(DATA, 1, 1), "K must be at least 2"),
    (lambda: unanimous_margins(-1, 1.0), "steps must be nonnegative"),
    (lambda: unanimous_margins(3, 1.0, 1.5), "share must lie"),
    (lambda: unanimous_margin_bounds(3, 0.0), "kappa must be positive"),
    (lambda: unanimous_margin_bounds(-1, 1.0), "t must be nonnegative"),
    (lambda: vanishing_log_ratio(0.0, 1.0, 1.0), "excess must be positive"),
    (lambda: displacement_slopes(np.eye(2), HALF[0], 0, 0), "must differ"),
    (lambda: displacement_slopes(np.eye(2), HALF[0], 0, 5), "rejected must be one of"),
    (lambda: displaced_policies(np.eye(2), [0.0], 0, 1, 1.0), "log_policy must have 2 actions"),
])
def test_bad_input_names_the_hypothesis(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


# -- the explorer -------------------------------------------------------------------------------


def test_explorer_frame_agrees_with_closed_forms():
    pytest.importorskip("anywidget")
    from klrlhf.explore import margins

    beta, B = float(f"{0.2**0.5:.12g}"), 3.0
    frame = margins.frame(beta, 1000, 0, B)
    kappa = 2 * round(beta, 3) ** 2 * margins.ETA
    assert frame.values["free"] == unanimous_margins(1000, kappa)[-1]
    assert frame.values["ball"] == min(frame.values["free"], B)
    assert np.isclose(frame.values["ipo"], 2.0, rtol=1e-9)
    assert "no minimizer" in frame.say
    one = margins.frame(beta, 100_000, 1, B)
    assert np.isclose(one.values["free"], np.log(19), rtol=1e-6)
    assert np.isclose(one.values["ipo"], 1.8)
    start = {"beta": beta, "steps": 1000, "contrary": 0, "B": B}
    for change in ({"beta": 1.0}, {"steps": 100}, {"contrary": 2}, {"B": 2.0}):
        assert margins.frame(**{**start, **change}).say != frame.say


def test_every_page_names_its_own_results():
    """The ids of this chapter stand in it as labels."""
    page = Path(__file__).parents[1] / "book" / "part5" / "where-dpo-breaks.md"
    if not page.exists():
        pytest.skip("installed without the book")
    text = page.read_text(encoding="utf-8")
    for id in ("dpo-unattained", "dpo-log-growth", "dpo-ball-margin", "ipo-bounded",
               "ipo-population", "dpo-displacement"):
        assert f":label: {id}\n" in text
