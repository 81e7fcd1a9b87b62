"""Direct preference optimization: losses, fits, rounds, against formulas stated elsewhere.

The reference formulas are restated here, independently of the library, from the paper and from
the public sources that are named beside them.
"""

import numpy as np
import pytest
from scipy.special import expit, log_expit, log_softmax

from klrlhf import direct
from klrlhf.bandit import Bandit
from klrlhf.confidence import design_matrix
from klrlhf.direct import (
    best_and_worst,
    dpo_gradient,
    dpo_loss,
    dpo_steps,
    dpo_weights,
    fit_dpo,
    fit_dpo_softmax,
    fit_pessimistic_dpo,
    gradient_step_size,
    implicit_reward,
    inexact_enhancer,
    iterative_dpo,
    log_ratio_margin,
    pessimistic_shift,
    released_recipe,
)
from klrlhf.estimation import fit_mle, negative_log_likelihood
from klrlhf.explore import dpo
from klrlhf.offline import pessimistic_pointwise, reference_means
from klrlhf.online import exact_enhancer, online_gshf, required_reg
from klrlhf.preferences import (
    Comparisons,
    all_pairs,
    coverage_design,
    pair_features,
    sample_comparisons,
)

BETA = 0.3


@pytest.fixture(scope="module")
def case():
    """An instance, data with every kind of pair, and a policy outside the Gibbs class."""
    rng = np.random.default_rng(0)
    bandit = Bandit.random(rng, S=3, K=4, d=2, beta=BETA, B=2.0)
    data = sample_comparisons(bandit, 300, coverage_design(bandit, 1.0), rng)
    return bandit, data, log_softmax(2 * rng.standard_normal((3, 4)), axis=-1)


def preferences(data):
    """One (x, chosen, rejected) for each comparison, as a preference data set lists them."""
    for (x, a, b), n, wins in zip(data.pairs, data.counts, data.wins, strict=True):
        yield from [(x, a, b)] * int(wins)
        yield from [(x, b, a)] * int(n - wins)


def log_probabilities(log_policy, data):
    rows = np.array(list(preferences(data)))
    return log_policy[rows[:, 0], rows[:, 1]], log_policy[rows[:, 0], rows[:, 2]]


# ---- the loss of the paper and of two public implementations -----------------------------------


def mitchell_dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta):
    """`dpo_loss` of trainers.py, eric-mitchell/direct-preference-optimization: losses, rewards."""
    logits = (policy_chosen - policy_rejected) - (reference_chosen - reference_rejected)
    return (-log_expit(beta * logits), beta * (policy_chosen - reference_chosen),
            beta * (policy_rejected - reference_rejected))


def torchtune_dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta,
                       label_smoothing):
    """`DPOLoss.forward` of torchtune 0.6.1, torchtune/rlhf/loss/dpo.py."""
    logits = (policy_chosen - policy_rejected) - (reference_chosen - reference_rejected)
    return (-log_expit(beta * logits) * (1 - label_smoothing)
            - log_expit(-beta * logits) * label_smoothing)


def test_loss_of_the_authors_code(case):
    bandit, data, log_policy = case
    four = (*log_probabilities(log_policy, data), *log_probabilities(np.log(bandit.pi0), data))
    losses, chosen, rejected = mitchell_dpo_loss(*four, BETA)
    assert np.isclose(dpo_loss(log_policy, bandit.pi0, data, BETA), losses.sum(), rtol=1e-13)
    reward = implicit_reward(log_policy, bandit.pi0, BETA)
    own = log_probabilities(reward, data)
    assert np.allclose(own, (chosen, rejected), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.25])
def test_label_smoothing_is_soft_counts(case, smoothing):
    bandit, data, log_policy = case
    four = (*log_probabilities(log_policy, data), *log_probabilities(np.log(bandit.pi0), data))
    expected = torchtune_dpo_loss(*four, BETA, smoothing).sum()
    turned = Comparisons(data.pairs, data.z, data.counts, data.losses)
    mixed = ((1 - smoothing) * dpo_loss(log_policy, bandit.pi0, data, BETA)
             + smoothing * dpo_loss(log_policy, bandit.pi0, turned, BETA))
    assert np.isclose(mixed, expected, rtol=1e-13)


def test_gradient_of_the_paper(case):
    """The form stated with the loss: weight beta sigma(r(rejected) - r(chosen)) per comparison."""
    bandit, data, log_policy = case
    reward = BETA * (log_policy - np.log(bandit.pi0))
    expected = np.zeros_like(log_policy)
    for x, chosen, rejected in preferences(data):
        weight = BETA * expit(reward[x, rejected] - reward[x, chosen])
        for a, sign in ((chosen, -1.0), (rejected, 1.0)):
            # d log pi(a) / d logits = e_a - pi
            expected[x] += sign * weight * (np.eye(4)[a] - np.exp(log_policy[x]))
    got = dpo_gradient(log_policy, bandit.pi0, data, BETA)
    assert np.allclose(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_gradient_by_differences(case, shift):
    bandit, data, log_policy = case
    shifts = shift * np.linspace(-1, 1, len(data.pairs))
    got = dpo_gradient(log_policy, bandit.pi0, data, BETA, shifts)
    for index in np.ndindex(3, 4):
        step = np.zeros((3, 4))
        step[index] = 1e-5
        ends = [dpo_loss(log_softmax(log_policy + s * step, axis=-1), bandit.pi0, data, BETA,
                         shifts) for s in (1, -1)]
        assert np.isclose((ends[0] - ends[1]) / 2e-5, got[index], rtol=1e-6, atol=1e-6)


def test_weights_of_a_wrong_and_a_right_margin():
    pi0 = np.full((1, 2), 0.5)
    data = Comparisons([[0, 0, 1]], [[1.0]], [1.0], [1.0])
    sure = log_softmax([[40.0, 0.0]], axis=-1)
    win, loss = dpo_weights(sure, pi0, data, 0.5)
    assert np.isclose(win[0], 0.5 * expit(-20.0), rtol=1e-12)
    assert np.isclose(loss[0], 0.5 * expit(20.0), rtol=1e-12)


# ---- fits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0])
def test_gibbs_fit_is_the_plug_in(case, beta):
    bandit, data, _ = case
    other = bandit.with_(beta=beta)
    fit, mle = fit_dpo(other, data), fit_mle(data, bandit.B)
    assert np.array_equal(fit.theta, mle.theta)
    assert np.allclose(np.exp(fit.log_policy), other.gibbs(mle.theta), rtol=1e-12)
    assert np.isclose(fit.loss, negative_log_likelihood(mle.theta, data), rtol=1e-11)


@pytest.mark.parametrize("wins,n", [(3, 4), (1, 2), (9, 10)])
def test_one_pair_in_free_logits_has_its_closed_form(wins, n):
    pi0 = np.array([[0.2, 0.3, 0.5]])
    data = Comparisons([[0, 0, 1]], [[1.0]], [n], [wins])
    fit = fit_dpo_softmax(data, pi0, 0.7)
    margin = log_ratio_margin(fit.log_policy, pi0, data.pairs, 0.7)
    assert np.isclose(margin[0], np.log(wins / (n - wins)), rtol=1e-8, atol=1e-10)
    # Nothing compares the third answer: its implicit reward is that of the centred table, 0.
    reward = implicit_reward(fit.log_policy, pi0, 0.7)[0]
    assert np.isclose(reward[0] + reward[1], 2 * reward[2], atol=1e-9)


def test_free_logits_refuse_unanimous_data_and_descend_on_them():
    pi0 = np.full((1, 3), 1 / 3)
    data = Comparisons(all_pairs(1, 3), np.zeros((3, 1)), [4.0, 4.0, 4.0], [4.0, 4.0, 2.0])
    with pytest.raises(ValueError, match="not strongly connected"):
        fit_dpo_softmax(data, pi0, 0.5)
    fit = fit_dpo_softmax(data, pi0, 0.5, [0, 10, 100, 1000])
    assert not fit.attained and np.all(np.diff(fit.losses) < 0)
    assert np.allclose(fit.path[0], np.log(pi0), atol=1e-15)


def test_step_size_by_hand():
    data = Comparisons(all_pairs(1, 3), np.zeros((3, 1)), [5.0, 0.0, 2.0], [1.0, 0.0, 1.0])
    assert np.isclose(gradient_step_size(data, 0.5), 2 / (0.25 * 7))


def test_pessimistic_fit_is_option_two(case):
    bandit, data, _ = case
    V, nu = design_matrix(data, 0.1), reference_means(bandit)
    theta = fit_mle(data, bandit.B).theta
    fit = fit_pessimistic_dpo(bandit, data, V, 1.3, nu)
    option = pessimistic_pointwise(bandit, theta, V, 1.3, nu)
    assert np.allclose(np.exp(fit.log_policy), option.policy, rtol=1e-11)
    assert np.isclose(fit.loss, negative_log_likelihood(theta, data), rtol=1e-11)
    x, a, b = data.pairs.T
    Gamma = np.linalg.norm((bandit.phi - nu[:, None]) @ np.linalg.inv(np.linalg.cholesky(V)).T,
                           axis=-1)
    assert np.allclose(pessimistic_shift(bandit, V, 1.3, nu), 1.3 * (Gamma[x, a] - Gamma[x, b]))


# ---- rounds ------------------------------------------------------------------------------------


def test_exact_rounds_are_the_online_algorithm():
    bandit = Bandit.running_example(0.5, "good")
    settings = {"reg": required_reg(1.0, 2, 0.05), "replicates": 2}
    mine = iterative_dpo(bandit, 3, 40, 5, enhancer=exact_enhancer, **settings)
    theirs = online_gshf(bandit, 3, 40, 5, **settings)
    for name in ("theta", "rho", "uncertainty", "certificate", "gap", "information"):
        assert np.allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-12, atol=1e-15)
    assert np.array_equal(mine.data.wins, theirs.data.wins)
    assert mine.rounds == 3 and mine.best_policy.shape == (2, 3, 4)


def test_steps_reach_the_estimate(case):
    bandit, data, _ = case
    exact = fit_mle(data, bandit.B).theta
    losses = [negative_log_likelihood(dpo_steps(np.zeros(2), data, bandit.B, k), data)
              for k in (0, 1, 2, 5, 2000)]
    assert np.all(np.diff(losses) <= 1e-12)
    assert np.allclose(dpo_steps(np.zeros(2), data, bandit.B, 20_000), exact, atol=1e-6)


def test_enhancer_of_a_played_policy_dominates_random_candidates():
    rng = np.random.default_rng(3)
    bandit = Bandit.running_example(0.5, "good")
    theta, V, rho = np.array([0.4, 0.3]), np.diag([20.0, 3.0]), 1.5
    main = bandit.gibbs(theta)
    played = 0.7 * main + 0.3 * bandit.pi0
    eps = bandit.beta * (bandit.d0 @ (played * np.log(played / main)).sum(-1))
    found = inexact_enhancer(bandit, theta, V, rho, played, angles=200)
    def feature(p):
        return np.einsum("s,...sk,skd->...d", bandit.d0, p, bandit.phi)

    candidates = np.exp(log_softmax(np.log(main) + rng.standard_normal((20_000, 3, 4))
                                    * 10.0 ** rng.uniform(-1, 1, (20_000, 1, 1)), axis=-1))
    z = feature(candidates) - feature(played)
    Gamma = np.sqrt((z**2 / np.diag(V)).sum(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(candidates > 0, candidates * np.log(candidates / main), 0.0)
    inside = bandit.beta * terms.sum(-1) @ bandit.d0 <= rho * Gamma + eps
    assert inside.any() and Gamma[inside].max() <= found.upper * (1 + 1e-9)
    assert 0.99 * found.upper <= found.uncertainty <= found.upper


def test_best_and_worst_follow_their_exact_law():
    """Two draws: the pair is ordered by score, ties of an answer with itself are dropped."""
    policy, score = np.array([[0.5, 0.3, 0.2]]), np.array([[0.0, 2.0, 1.0]])
    counts = best_and_worst(policy, score, [1.0], 2, 200_000, 1)[0] / 200_000
    expected = np.array([[0, 0, 0], [2 * 0.3 * 0.5, 0, 2 * 0.3 * 0.2], [2 * 0.2 * 0.5, 0, 0]])
    assert np.allclose(counts, expected, atol=4e-3)


def test_moving_reference_adds_its_parameters():
    bandit = Bandit.running_example(0.5, "bad")
    run = released_recipe(bandit, 3, 100, 2, reference="previous", labels="people")
    assert np.allclose(np.exp(run.log_policy[-1]), bandit.gibbs(run.theta.sum(axis=0)), atol=1e-12)
    assert np.allclose(run.gap[-1], bandit.gap(np.exp(run.log_policy[-1])), rtol=1e-9)
    assert np.isclose(run.kl[0], 0.0, atol=1e-15)


def test_certain_labels_end_on_the_sphere():
    run = released_recipe(Bandit.running_example(0.5, "good"), 2, 100, 2, replicates=3)
    assert np.allclose(np.linalg.norm(run.theta[1:], axis=-1), 2.0, rtol=1e-7)


def test_smoothing_is_felt_by_single_comparisons():
    """One pair, one comparison: the fit has the margin log((1 - q) / q), not the end of the ball."""
    bandit = Bandit([1.0], [[0.5, 0.5]], [[[1.0], [0.0]]], [1.0], 0.5, B=9.0)
    run = released_recipe(bandit, 1, 1, 0, draws=30, smoothing=0.1)
    assert np.isclose(run.theta[-1, 0], np.log(9.0), rtol=1e-6)
    assert run.data.wins.sum() == run.data.counts.sum() == 1.0


def test_a_played_policy_far_off_still_has_a_certificate():
    """Every set of the enhancer holds the played policy, so none is empty and none is skipped."""
    bandit = Bandit.running_example(0.5, "good")
    for played in (np.eye(4)[[1, 1, 1]], np.eye(4)[[0, 1, 2]], bandit.pi0):
        for rho in (1e-8, 1.0, 1e4):
            found = inexact_enhancer(bandit, [0.3, -0.2], np.diag([9.0, 2.0]), rho, played)
            assert np.isfinite(found.upper) and found.upper >= found.uncertainty > 0


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("change,words", [
    ({"log_policy": np.zeros((3, 4))}, "normalized: context 0"),
    ({"log_policy": np.full((3, 4), -np.inf)}, "finite"),
    ({"pi0": np.eye(3, 4)}, "full support"),
    ({"beta": 0.0}, "beta must be positive"),
    ({"shift": np.nan}, "shift must be finite"),
    ({"shift": np.zeros(5)}, "one entry per pair"),
    ({"data": None}, "Comparisons"),
])
def test_losses_name_the_violated_hypothesis(case, change, words):
    bandit, data, log_policy = case
    good = {"log_policy": log_policy, "pi0": bandit.pi0, "data": data, "beta": BETA, "shift": 0.0}
    for function in (dpo_loss, dpo_gradient, dpo_weights):
        with pytest.raises(ValueError, match=words):
            function(**{**good, **change})


@pytest.mark.parametrize("call,words", [
    (lambda b, d: fit_dpo_softmax(d, b.pi0, BETA, [3, 2]), "increase"),
    (lambda b, d: fit_dpo_softmax(d, b.pi0, BETA, shift=1.0), "shift must be 0"),
    (lambda b, d: fit_dpo_softmax(d, b.pi0[:2], BETA), "contexts and actions"),
    (lambda b, d: fit_dpo(b.with_(phi=2 * b.phi), d), "features of bandit"),
    (lambda b, d: log_ratio_margin(np.log(b.pi0), b.pi0, [[9, 0, 1]], BETA), "row 0"),
    (lambda b, d: iterative_dpo(b, 2, 10, 0, reg=0.0), "reg must be positive"),
    (lambda b, d: iterative_dpo(b, 2, 10, 0, reg=1.0, play=lambda b, t: b.pi0 * 2), "sum to one"),
    (lambda b, d: released_recipe(b, 1, 10, 0, labels="oracle"), "labels must be one of"),
    (lambda b, d: released_recipe(b, 1, 10, 0, smoothing=0.5), "below 1/2"),
    (lambda b, d: released_recipe(b, 1, 10, 0, reference="previous", memory="all"), "'last'"),
    (lambda b, d: best_and_worst(b.pi0, b.reward, b.d0, 1, 10, 0), "draws must be at least 2"),
    (lambda b, d: dpo_steps(np.zeros(2), d, -1.0, 3), "B must be positive"),
    (lambda b, d: dpo_steps(np.full(2, 9.0), d, 2.0, 0), "theta must start in the ball"),
])
def test_fits_name_the_violated_hypothesis(case, call, words):
    bandit, data, _ = case
    with pytest.raises(ValueError, match=words):
        call(bandit, data)


def test_replicates_broadcast(case):
    bandit, data, log_policy = case
    many = np.stack([log_policy, np.log(bandit.pi0)])
    both = dpo_loss(many, bandit.pi0, data, np.array([BETA, 2.0]))
    assert both.shape == (2,)
    assert np.isclose(both[1], data.counts.sum() * np.log(2), rtol=1e-13)
    assert dpo_gradient(many, bandit.pi0, data, np.array([BETA, 2.0])).shape == (2, 3, 4)


def test_public_names_are_documented():
    for name in direct.__all__:
        assert (getattr(direct, name).__doc__ or "").strip(), name


# ---- the explorer ------------------------------------------------------------------------------


def test_explorer_shows_one_landscape_and_many_policies():
    frames = [dpo.frame(beta, 1.0, 300, "good") for beta in (0.05, 0.5, 5.0)]
    assert all(np.array_equal(f.values["theta"], frames[0].values["theta"]) for f in frames)
    assert max(f.values["apart"] for f in frames) < 1e-10
    kls = [f.values["kl"] for f in frames]
    assert kls[0] > kls[1] > kls[2]
    for mark in ("Bradley–Terry 1", "DPO 1"):
        curves = [next(m for m in f.marks[0] if m["series"] == mark) for f in frames]
        assert np.allclose(curves[0]["x"], curves[2]["x"], atol=2e-3)


def test_explorer_contours_have_their_level():
    theta, lines = dpo.landscape("good", 1.0, 300, 0)
    data = dpo.log("good", 1.0, 300, 0)
    least = negative_log_likelihood(theta, data)
    for level, curve in zip(dpo.LEVELS, lines, strict=True):
        assert np.allclose(negative_log_likelihood(curve, data) - least, level, atol=1e-3)
    assert pair_features(Bandit.running_example().phi, data.pairs).shape == (18, 2)
