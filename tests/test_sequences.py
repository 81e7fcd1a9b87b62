"""Language models one can enumerate: the tree, soft values, token rewards, classes, bad input."""

import itertools

import numpy as np
import pytest
from scipy.optimize import brentq, check_grad

from klrlhf import Bandit, Comparisons
from klrlhf.policies import gibbs_policy, kl_divergence, log_gibbs_policy
from klrlhf.preferences import policy_design, preference_probability, sample_comparisons
from klrlhf.sequences import (
    LanguageModel,
    _shared,
    best_shared,
    context_map,
    depths,
    fit_ngram,
    fit_token_dpo,
    length_normalized_policy,
    log_reach,
    parents,
    path_sums,
    read_songs,
    response_features,
    sequence_log_policy,
    sequence_policy,
    shaped_reward,
    shared_tokens,
    soft_values,
    songs_bandit,
    songs_model,
    split_stanzas,
    token_gibbs,
    token_kl,
    token_log_policy,
    token_log_ratio,
    token_soft_values,
    tokens_spent,
    total_reward,
    tree_sizes,
)
from klrlhf.values import suboptimality

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def model():
    return songs_model()


@pytest.fixture(scope="module")
def bandit():
    return songs_bandit(beta=0.5)


def random_tokens(rng, W, H, S=2, lead=()):
    M = tree_sizes(W, H)[1]
    return np.log(rng.dirichlet(np.ones(W + 1), size=(*lead, S, M)))


# -- the tree --------------------------------------------------------------------------------------


@pytest.mark.parametrize("W, H", [(1, 1), (1, 5), (2, 3), (4, 2), (3, 4)])
def test_nodes_are_the_words_in_order_of_length(W, H):
    K, M = tree_sizes(W, H)
    names = [w for length in range(H + 1) for w in itertools.product(range(W), repeat=length)]
    assert len(names) == K and M == K - W**H
    for node, up in enumerate(parents(W, H)):
        assert up == (names.index(names[node][:-1]) if names[node] else -1)
        assert depths(W, H)[node] == len(names[node])
        assert tokens_spent(W, H)[node] == len(names[node]) + (len(names[node]) < H)


@pytest.mark.parametrize("W, H", [(1, 4), (2, 3), (3, 2)])
def test_probabilities_are_products_of_tokens(W, H):
    log_tokens = random_tokens(np.random.default_rng(W), W, H)
    p, policy = np.exp(log_tokens), sequence_policy(log_tokens)
    names = [w for length in range(H + 1) for w in itertools.product(range(W), repeat=length)]
    for x in range(2):
        for k, name in enumerate(names):
            product = 1.0
            for t, word in enumerate(name):
                product *= p[x, names.index(name[:t]), word]
            assert np.isclose(np.exp(log_reach(log_tokens)[x, k]), product, rtol=1e-13)
            if len(name) < H:
                product *= p[x, k, W]
            assert np.isclose(policy[x, k], product, rtol=1e-13)
    assert np.allclose(policy.sum(-1), 1, rtol=1e-13)


def test_every_law_of_responses_is_autoregressive_in_one_way():
    rng = np.random.default_rng(0)
    log_policy = np.log(rng.dirichlet(np.ones(40), size=(5, 2)))
    tokens = token_log_policy(log_policy, 3)
    assert np.allclose(sequence_log_policy(tokens), log_policy, rtol=1e-12)
    again = token_log_policy(sequence_log_policy(tokens), 3)
    assert np.allclose(again, tokens, atol=1e-12)


# -- soft values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.01, 0.5, 50.0])
def test_soft_bellman_gives_the_gibbs_policy(model, bandit, beta):
    soft = soft_values(bandit.reward, beta, model.log_tokens)
    assert np.allclose(sequence_log_policy(soft.log_tokens),
                       log_gibbs_policy(bandit.reward, beta, model.policy), atol=1e-10)
    assert np.allclose(soft.V[:, 0] @ bandit.d0, bandit.with_(beta=beta).optimal_value)
    assert np.array_equal(token_gibbs(bandit.reward, beta, model.log_tokens), soft.log_tokens)


def test_soft_value_is_a_conditional_expectation(model, bandit):
    soft = soft_values(bandit.reward, 0.5, model.log_tokens)
    prefix = model.node("sleep happy")
    below = [k for k, r in enumerate(model.responses) if r[:2] == ("sleep", "happy")]
    mass = model.policy[:, below]
    mean = (mass * np.exp(bandit.reward[:, below] / 0.5)).sum(-1) / mass.sum(-1)
    assert np.allclose(soft.V[:, prefix], 0.5 * np.log(mean), rtol=1e-12)


def test_ends_of_the_temperature(model, bandit):
    hot = soft_values(bandit.reward, 1e6, model.log_tokens).V[:, 0]
    cold = soft_values(bandit.reward, 1e-6, model.log_tokens).V[:, 0]
    assert np.allclose(hot, (model.policy * bandit.reward).sum(-1), atol=1e-5)
    assert np.allclose(cold, bandit.reward.max(-1), atol=1e-4)


def test_gap_adds_up_token_by_token(model, bandit):
    log_pi = random_tokens(np.random.default_rng(3), 4, 3, S=3)
    star = token_gibbs(bandit.reward, 0.5, model.log_tokens)
    reach = np.exp(log_reach(log_pi))[:, : model.M]
    gap = 0.5 * (reach * token_kl(log_pi, star)).sum(-1) @ bandit.d0
    policy = sequence_policy(log_pi)
    assert np.isclose(gap, bandit.gap(policy), rtol=1e-12)
    assert np.isclose(gap, suboptimality(policy, bandit.reward, 0.5, bandit.pi0, bandit.d0))
    assert np.isclose((reach * token_kl(log_pi, model.log_tokens)).sum(-1) @ bandit.d0,
                      bandit.kl(policy), rtol=1e-12)


def test_a_certain_policy_has_a_finite_divergence(model):
    certain = np.full(model.log_tokens.shape, -np.inf)
    certain[..., 3] = 0.0  # joy, joy, joy
    joy = model.node("joy joy joy")
    assert np.array_equal(sequence_policy(certain)[:, joy], np.ones(3))
    whole = (np.exp(log_reach(certain))[:, : model.M] * token_kl(certain, model.log_tokens))
    assert np.allclose(whole.sum(-1), -model.log_policy[:, joy], rtol=1e-12)


def test_a_policy_with_zeros_has_the_gap_of_its_tokens(model, bandit):
    log_pi = random_tokens(np.random.default_rng(8), 4, 3, S=3)
    log_pi[:, :5, 1:3] = -np.inf  # never sleep, never happy at the first nodes
    log_pi -= np.logaddexp.reduce(log_pi, axis=-1, keepdims=True)
    star = token_gibbs(bandit.reward, 0.5, model.log_tokens)
    reach = np.exp(log_reach(log_pi))[:, : model.M]
    gap = 0.5 * (reach * token_kl(log_pi, star)).sum(-1) @ bandit.d0
    assert (reach == 0).any() and np.isclose(gap, bandit.gap(sequence_policy(log_pi)), rtol=1e-12)


def test_replicates_broadcast(model, bandit):
    beta = np.array([0.2, 1.0, 3.0])
    many = soft_values(bandit.reward, beta, model.log_tokens)
    for i, b in enumerate(beta):
        one = soft_values(bandit.reward, b, model.log_tokens)
        assert np.allclose(many.V[i], one.V) and np.allclose(many.Q[i], one.Q)


# -- token rewards ---------------------------------------------------------------------------------


def test_shaping_and_the_log_ratio(model):
    rng = np.random.default_rng(4)
    g = rng.standard_normal(model.log_tokens.shape)
    soft = token_soft_values(g, 0.7, model.log_tokens)
    whole = soft_values(total_reward(g), 0.7, model.log_tokens)
    assert np.allclose(soft.log_tokens, whole.log_tokens, atol=1e-12)
    ratio = token_log_ratio(soft.log_tokens, model.log_tokens, 0.7)
    assert np.allclose(ratio, soft.Q - soft.V[:, : model.M, None], atol=1e-12)
    assert np.allclose(shaped_reward(g, soft.V[:, : model.M]), ratio, atol=1e-12)
    assert np.allclose(token_soft_values(ratio, 0.7, model.log_tokens).V, 0, atol=1e-12)
    phi = rng.standard_normal((3, model.M))
    moved = token_soft_values(shaped_reward(g, phi), 0.7, model.log_tokens)
    assert np.allclose(moved.log_tokens, soft.log_tokens, atol=1e-12)
    assert np.allclose(total_reward(ratio) - total_reward(g),
                       -soft.V[:, :1], atol=1e-12)


def test_path_sums_do_not_read_the_end():
    values = np.zeros((1, 3))
    values[0] = 1.0, 2.0, 100.0
    assert np.array_equal(path_sums(values), [0.0, 1.0, 2.0])
    assert np.array_equal(total_reward(values[None])[0], [100.0, 1.0, 2.0])


# -- length ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_length_normalization_against_a_root_finder(model, bandit, offset):
    policy = length_normalized_policy(bandit.reward, 0.5, bandit.pi0, model.lengths, offset)
    for x in range(3):
        def law(c, x=x):
            return bandit.pi0[x] * np.exp(model.lengths * (bandit.reward[x] - c) / 0.5 - offset)
        c = brentq(lambda c: law(c).sum() - 1, -20, 20, xtol=1e-13)
        assert np.allclose(policy[x], law(c), rtol=1e-8)


def test_normalized_penalty_lengthens_without_reward():
    policy = length_normalized_policy([[0.0, 0.0]], 1.0, [[0.5, 0.5]], [1.0, 8.0], 1.0)
    # t + t^8 = 2e with t = e^m
    t = brentq(lambda t: t + t**8 - 2 * np.e, 1, 2)
    assert np.allclose(policy[0], [t / (2 * np.e), t**8 / (2 * np.e)], rtol=1e-9)
    kept = length_normalized_policy([[3.0, 3.0]], 1.0, [[0.3, 0.7]], [1.0, 8.0])
    assert np.allclose(kept, [[0.3, 0.7]], rtol=1e-12)


def test_normalized_margins_have_an_objective_of_their_own():
    rng = np.random.default_rng(9)
    pi0, length, r, beta = rng.dirichlet(np.ones(6)), rng.integers(1, 9, 6), rng.random(6), 0.3
    best = length_normalized_policy(r[None], beta, pi0[None], length.astype(float))[0]

    def value(p):
        return p @ r - beta * ((p * np.log(p / pi0) - p + pi0) / length).sum()

    for p in rng.dirichlet(np.ones(6), 200):
        gap = beta * ((p * np.log(p / best) - p + best) / length).sum()
        assert np.isclose(value(best) - value(p), gap, rtol=1e-9) and gap > 0


@pytest.mark.parametrize("x", [0.7, 1.0, 1.2])
def test_length_limit(x):
    q, H, beta = 0.2, 40, 0.5
    tokens = np.log(np.full((1, H, 2), [1 - q, q]))
    reward = beta * np.log(x / (1 - q)) * np.arange(H + 1)[None]
    soft = soft_values(reward, beta, tokens)
    series = q * (x ** np.arange(H)).sum() + x**H
    assert np.isclose(soft.V[0, 0], beta * np.log(series), rtol=1e-12)
    assert np.isclose(sequence_policy(soft.log_tokens)[0, -1], x**H / series, rtol=1e-10)


# -- the model -------------------------------------------------------------------------------------


def test_songs_by_hand(model):
    words = ("sweet", "sleep", "happy", "joy")
    stanzas = [[w for w in s if w in words] for s in split_stanzas(read_songs())]
    stanzas = [s for s in stanzas if s]
    tokens = [w for s in stanzas for w in [*s, None]]
    after = [b for s in stanzas for a, b in zip(s, [*s[1:], None], strict=True) if a == "sweet"]
    for i, token in enumerate((*words, None)):
        single = (tokens.count(token) + 2 / 5) / (len(tokens) + 2)
        assert np.isclose(np.exp(model.log_tokens[0, 0, i]),
                          (after.count(token) + 2 * single) / (len(after) + 2), rtol=1e-12)
    assert "INFANT" in read_songs() and not any("infant" in s[:1] for s in stanzas)


def test_order_one_ignores_the_prefix_and_order_three_does_not():
    one, two, three = (songs_model(order=order) for order in (1, 2, 3))
    assert np.ptp(one.log_tokens, axis=(0, 1)).max() < 1e-12
    last = {two.node("joy sweet"), two.node("sweet")}
    assert len({tuple(two.log_tokens[0, k].round(12)) for k in last}) == 1
    assert len({tuple(three.log_tokens[0, k].round(12)) for k in last}) == 2


def test_a_text_that_leaves_no_choice():
    only = fit_ngram("a b\n\na b", ("a", "b"), ("a",), 2, smoothing=1e-9)
    assert np.exp(only.log_tokens[0, 0, 1]) > 1 - 1e-8
    assert only.text(only.node("b")) == "b" and only.text(0) == "."


def test_sampling_follows_the_law(model):
    star = soft_values(response_features(model) @ [0.5, 1.0, -1.5, 1.0], 0.5, model.log_tokens)
    draws = model.sample(1, 40_000, star.log_tokens)
    law = sequence_policy(star.log_tokens)
    seen = np.stack([np.bincount(row, minlength=model.K) for row in draws]) / 40_000
    assert np.all(np.abs(seen - law) <= 5 * np.sqrt(law / 40_000) + 1e-4)


def test_features_by_hand(model):
    phi = response_features(model)
    sleep = model.prompts.index("sleep")
    assert np.allclose(phi[sleep, model.node("sleep sweet joy")], [1, 1, 1 / 3, 1 / 3])
    assert np.allclose(phi[sleep, 0], 0)
    happy = response_features(model, "happy")
    assert happy[sleep, model.node("happy"), 1] == 1 and phi[sleep, model.node("happy"), 1] == 0


def test_the_bandit_is_an_ordinary_instance(model, bandit):
    assert isinstance(bandit, Bandit) and bandit.K == model.K == 85
    assert np.allclose(bandit.gibbs(bandit.theta), bandit.optimal_policy)
    assert np.allclose(bandit.pi0, model.policy)


# -- shared logits ---------------------------------------------------------------------------------


def test_gradient_of_shared_logits(model, bandit):
    rng = np.random.default_rng(5)
    contexts = context_map(model)
    weights = rng.standard_normal((model.S, model.K))

    def value(flat):
        tokens = shared_tokens(model, flat.reshape(4, 5), contexts)
        return (weights * sequence_log_policy(tokens)).sum()

    def slope(flat):
        tokens = shared_tokens(model, flat.reshape(4, 5), contexts)
        return _shared._pull(model, contexts, tokens, weights, 4).ravel()

    assert check_grad(value, slope, rng.standard_normal(20)) < 1e-4


def test_finest_class_contains_the_gibbs_policy(model, bandit):
    price = [best_shared(model, bandit.reward, 0.5, contexts=context_map(model, last)).objective
             for last in (0, 1, 2)]
    assert price[0] > price[1] > price[2] > 1e-3
    whole = best_shared(model, bandit.reward, 0.5, contexts=context_map(model, 4))
    assert whole.objective < 1e-9
    assert np.abs(whole.policy - bandit.optimal_policy).max() < 1e-4


def test_a_far_start_can_end_in_a_local_minimum(model, bandit):
    contexts = context_map(model, 0)
    start = 3 * np.random.default_rng(3).standard_normal((1, 5))
    near = best_shared(model, bandit.reward, 0.5, contexts=contexts)
    far = best_shared(model, bandit.reward, 0.5, contexts=contexts, start=start)
    assert far.gradient < 1e-6 and far.objective > 2 * near.objective


def test_objective_of_the_best_policy_is_its_gap(model, bandit):
    fit = best_shared(model, bandit.reward, 0.5)
    assert np.isclose(fit.objective, bandit.gap(fit.policy), rtol=1e-9)
    assert fit.gradient < 1e-6
    rng = np.random.default_rng(6)
    for scale in (0.01, 0.3):
        other = shared_tokens(model, fit.logits + scale * rng.standard_normal((4, 5)),
                              context_map(model))
        assert bandit.gap(sequence_policy(other)) >= fit.objective


def test_token_dpo_finds_gibbs_from_complete_data(model, bandit):
    design = policy_design(bandit.d0, bandit.pi0, bandit.pi0)
    one = sample_comparisons(bandit, 10, design, 0)
    counts = np.round(1e13 * design)
    wins = np.round(counts * preference_probability(bandit.theta, one.z))
    data = Comparisons(one.pairs, one.z, counts, wins)
    contexts = context_map(model, 4)
    fit = fit_token_dpo(model, data, 0.5, contexts, ridge=1e-10)
    assert bandit.gap(fit.policy) < 1e-4
    coarse = fit_token_dpo(model, data, 0.5, ridge=1e-10)
    assert bandit.gap(coarse.policy) > 1.1 * best_shared(model, bandit.reward, 0.5).objective


def test_token_dpo_with_a_huge_ridge_keeps_the_reference(model, bandit):
    data = sample_comparisons(bandit, 500, policy_design(bandit.d0, bandit.pi0, bandit.pi0), 1)
    fit = fit_token_dpo(model, data, 0.5, ridge=1e6)
    assert np.abs(fit.policy - bandit.pi0).max() < 1e-5
    assert np.isclose(fit.objective, np.log(2), rtol=1e-5)


def test_pairwise_rewards_need_the_position_only(model):
    g = np.random.default_rng(7).standard_normal((4, 5))[context_map(model)]
    reward = total_reward(g)
    seen = best_shared(model, reward, 0.5, contexts=context_map(model, 1, position=True))
    assert seen.objective < 1e-9 < best_shared(model, reward, 0.5).objective


# -- bad input -------------------------------------------------------------------------------------

GOOD = np.log(np.full((1, 3, 3), 1 / 3))  # W = 2, H = 2
CERTAIN = np.broadcast_to([0.0, -np.inf, -np.inf], (1, 3, 3))


@pytest.mark.parametrize("call, match", [
    (lambda: tree_sizes(0, 2), "W must be at least 1"),
    (lambda: tree_sizes(10, 20), "at most 1000000 nodes"),
    (lambda: sequence_log_policy(GOOD[0]), "axes"),
    (lambda: sequence_log_policy(GOOD[:, :2]), "open nodes"),
    (lambda: sequence_log_policy(GOOD + 0.1), "normalized: prompt 0, node 0"),
    (lambda: sequence_log_policy(np.full((1, 3, 3), np.nan)), "no NaN"),
    (lambda: soft_values(np.zeros((1, 6)), 1.0, GOOD), "one entry per prompt"),
    (lambda: soft_values(np.zeros((1, 7)), 0.0, GOOD), "beta must be positive"),
    (lambda: soft_values(np.full((1, 7), np.inf), 1.0, GOOD), "reward must be finite"),
    (lambda: soft_values(np.zeros((1, 7)), 1.0, CERTAIN), "full support"),
    (lambda: token_log_policy(np.log(np.full((1, 6), 1 / 6)), 2), "K must be"),
    (lambda: token_log_policy(np.zeros((1, 7)), 2), "normalized"),
    (lambda: token_kl(GOOD, np.log(np.full((2, 3, 3), 1 / 3))), "agree"),
    (lambda: shaped_reward(GOOD, np.zeros((1, 4))), "agree"),
    (lambda: total_reward(np.full((1, 3, 3), np.nan)), "token_reward must be finite"),
    (lambda: token_soft_values(GOOD, -1.0, GOOD), "beta must be positive"),
    (lambda: token_log_ratio(GOOD, GOOD, np.inf), "beta must be finite"),
    (lambda: length_normalized_policy([[0.0, 1.0]], 1.0, [[0.5, 0.5]], [1.0]), "length must"),
    (lambda: length_normalized_policy([[0.0, 1.0]], 1.0, [[0.5, 0.5]], [1.0, 0.0]), "positive"),
    (lambda: fit_ngram(3, ("a",), ("a",), 1), "text must be a string"),
    (lambda: fit_ngram("a", "a", ("a",), 1), "words must be a sequence"),
    (lambda: fit_ngram("a", ("a", "a"), ("a",), 1), "all different"),
    (lambda: fit_ngram("a", ("a",), ("a",), 0), "H must be at least 1"),
    (lambda: fit_ngram("a", ("a",), ("a",), 1, smoothing=0.0), "smoothing must be positive"),
    (lambda: fit_ngram("a", ("a",), ("a",), 1, order=0), "order must be at least 1"),
    (lambda: LanguageModel(("a", "b"), ("p", "q"), GOOD), "log_tokens must have"),
    (lambda: songs_model().node("sweet lamb"), "a response holds at most 3"),
    (lambda: songs_model().node(3), "a response must be a text"),
    (lambda: songs_model().node("joy joy joy joy"), "a response holds at most 3"),
    (lambda: songs_model().sample(0, 3, GOOD), "log_tokens must have shape"),
    (lambda: songs_model().text(85), "node must be at most"),
    (lambda: response_features(songs_model(), "lamb"), "favourite must be"),
    (lambda: shared_tokens(songs_model(), np.zeros((3, 5)), context_map(songs_model())),
     "logits must have"),
    (lambda: shared_tokens(songs_model(), np.zeros((4, 5)), np.zeros((3, 3))),
     "contexts must be whole"),
    (lambda: best_shared(songs_model(), np.zeros((3, 4)), 1.0), "reward must have shape"),
    (lambda: best_shared(songs_model(), np.zeros((3, 85)), 1.0, start=np.zeros((4, 4))),
     "start must have shape"),
    (lambda: fit_token_dpo(songs_model(), Comparisons.empty(songs_bandit()), 0.5),
     "at least one comparison"),
    (lambda: fit_token_dpo(songs_model(), sample_comparisons(Bandit.random(0, S=3, K=90), 5000,
     policy_design(np.full(3, 1 / 3), *np.full((2, 3, 90), 1 / 90)), 0), 0.5), "outside its tree"),
])
def test_bad_input_names_the_hypothesis(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_frozen(model):
    with pytest.raises(ValueError):
        model.log_tokens[0, 0, 0] = 0.0
    with pytest.raises(AttributeError):
        model.words = ("a",)


def test_gibbs_of_the_model_through_the_ordinary_library(model, bandit):
    plain = gibbs_policy(bandit.reward, 0.5, model.policy)
    ours = sequence_policy(token_gibbs(bandit.reward, 0.5, model.log_tokens))
    assert np.abs(kl_divergence(ours, plain)).max() < 1e-14


def test_explorer_tells_the_soft_values_and_every_control_changes_its_sentence(model, bandit):
    pytest.importorskip("anywidget")
    from klrlhf.explore import tokens, tokens_explorer

    start = {c.name: c.value for c in tokens_explorer().design.controls}
    values = tokens.frame(**start).values
    sleep, last = model.prompts.index("sleep"), model.node("happy joy sweet")
    assert np.isclose(values["earned"], bandit.reward[sleep, last])
    assert np.isclose(values["values"][0] + values["ratios"].sum(), values["earned"])
    assert np.isclose(values["law"], bandit.optimal_policy[sleep, last])
    for control in tokens_explorer().design.controls:
        said = {tokens.frame(**{**start, control.name: v}).say for v in control.grid()}
        assert len(said) == len(control.grid())
