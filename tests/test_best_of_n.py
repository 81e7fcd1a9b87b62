"""Best-of-n: exact laws against enumeration, bounds, closed forms and published numbers."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from klrlhf import sampling
from klrlhf.policies import best_of_n_policy, chi2_divergence, gibbs_policy, kl_divergence
from klrlhf.sampling import (
    best_of_n_bounds,
    best_of_n_cell_gap,
    best_of_n_frontier_gap,
    best_of_n_kl,
    best_of_n_kl_estimate,
    best_of_n_kl_from_top,
    best_of_n_kl_gap,
    best_of_n_proxy_loss,
    best_of_n_win_rate,
    best_of_n_worst_frontier_gap,
    largest_probability,
    rso_sample,
    rso_single_policy,
    selection_policy,
    win_rate,
    win_rate_frontier,
    win_rate_frontier_bound,
)
from klrlhf.values import kl_frontier

PI0 = np.array([[0.2, 0.3, 0.1, 0.4]])
REWARD = np.array([[0.0, 1.0, 1.0, -0.5]])


def enumerated(pi0, n, pick):
    """The law of a rule by enumeration of all lists of n draws; pick(list) gives weights."""
    law = np.zeros(pi0.size)
    for draws in itertools.product(range(pi0.size), repeat=n):
        for i, share in enumerate(pick(draws)):
            law[draws[i]] += share * np.prod(pi0[list(draws)])
    return law


def best(draws):
    scores = REWARD[0, list(draws)]
    top = scores == scores.max()
    return top / top.sum()


def first_accepted(draws, beta=0.7):
    scores = REWARD[0, list(draws)]
    out, left = [], 1.0
    for chance in np.exp((scores - scores.max()) / beta):
        out.append(left * chance)
        left *= 1 - chance
    return out


# ---- exact laws --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_against_enumeration(n):
    law = enumerated(PI0[0], n, best)
    assert np.allclose(law, best_of_n_policy(REWARD, PI0, n)[0], atol=1e-14)
    kl = (law * np.log(law / PI0[0])).sum()
    assert np.isclose(best_of_n_kl(REWARD, PI0, n)[0], kl, atol=1e-14)
    assert np.isclose(np.log(n) - (n - 1) / n - best_of_n_kl_gap(REWARD, PI0, n)[0], kl, atol=1e-14)
    versus = law[:, None] * PI0[0]
    first, second = REWARD[0][:, None], REWARD[0]
    rate = best_of_n_win_rate(REWARD, PI0, n)
    assert np.isclose(rate.win[0], versus[first > second].sum())
    assert np.isclose(rate.tie[0], versus[first == second].sum())
    assert rate.rate[0] <= n / (n + 1) <= rate.at_least[0] + 1e-15


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_first_accepted_draw(n):
    law = rso_single_policy(REWARD, 0.7, PI0, n)[0]
    assert np.allclose(law, enumerated(PI0[0], n, first_accepted), atol=1e-14)
    taken = rso_sample(REWARD, 0.7, PI0, np.random.default_rng(3), n, 1, runs=40_000)
    counts = np.bincount(taken.ravel(), minlength=4)
    assert np.all(np.abs(counts / 40_000 - law) < 5 * np.sqrt(law / 40_000))


def test_rso_lies_between_reference_and_gibbs():
    assert np.allclose(rso_single_policy(REWARD, 0.7, PI0, 1), PI0)
    assert np.allclose(rso_single_policy(REWARD, 0.7, PI0, 10**6), gibbs_policy(REWARD, 0.7, PI0))
    assert np.allclose(rso_single_policy(REWARD, 1e-3, PI0, 5), best_of_n_policy(REWARD, PI0, 5))


def test_selection_policy():
    rng = np.random.default_rng(0)
    rule = rng.dirichlet(np.ones(3), size=(4, 4, 4))
    law = selection_policy(rule, PI0[0])
    assert np.allclose(law, enumerated(PI0[0], 3, lambda t: rule[t]), atol=1e-14)
    many = selection_policy(rng.dirichlet(np.ones(3), size=(50, 4, 4, 4)),
                            rng.dirichlet(np.ones(4), 50))
    assert many.shape == (50, 4) and np.allclose(many.sum(axis=-1), 1)
    draws = np.stack(np.meshgrid(*[np.arange(4)] * 2, indexing="ij"), axis=-1)
    scores = REWARD[0][draws]
    top = scores == scores.max(axis=-1, keepdims=True)
    law = selection_policy(top / top.sum(axis=-1, keepdims=True), PI0[0])
    assert np.allclose(law, best_of_n_policy(REWARD, PI0, 2)[0])


# ---- published numbers -------------------------------------------------------------------------


def test_two_equal_answers():
    """Beirami et al. (arXiv 2401.01879): KL stays below log 2 while the formula is unbounded."""
    reward, pi0 = [[0.0, 1.0]], [[0.5, 0.5]]
    for n in (1, 2, 5, 20, 1000):
        q = 2.0**-n
        entropy = -q * np.log(q) - (1 - q) * np.log1p(-q) if q > 0 else 0.0
        kl = best_of_n_kl(reward, pi0, n)[0]
        assert np.isclose(kl, np.log(2) - entropy, rtol=1e-13, atol=1e-15)
        assert kl <= min(np.log(2) + 1e-15, best_of_n_bounds(n).kl + 1e-15)
    assert best_of_n_bounds(1000).kl > 5.9


def test_formulas_for_many_answers():
    """log n - (n-1)/n and n/(n+1), the published formulas, as the limit of fine cells."""
    for n in (2, 4, 16):
        law = np.diff((np.arange(20_001) / 20_000) ** n)  # the law on 20 000 equal answers
        kl = (law * np.log(law * 20_000)).sum()
        assert np.isclose(kl, np.log(n) - (n - 1) / n, atol=1e-6)
        reward, pi0 = np.arange(300)[None], np.full((1, 300), 1 / 300)
        gap = best_of_n_bounds(n).kl - best_of_n_kl(reward, pi0, n)[0]
        assert 0 < gap < n * n / 300**2 * 10
        assert np.isclose(best_of_n_win_rate(reward, pi0, n).rate[0], n / (n + 1), atol=1e-3)


def test_published_bounds_of_the_correction_follow():
    """2 n (n-1) sum pi0^2 and (n-1)/2 sum pi0^2 (Beirami et al.) are weaker than this book's."""
    rng = np.random.default_rng(1)
    pi0 = rng.dirichlet(np.full(6, 0.4), size=(500, 1)).clip(1e-9)
    pi0 /= pi0.sum(axis=-1, keepdims=True)
    reward, squares = rng.normal(size=pi0.shape), (pi0**2).sum(axis=(-2, -1))
    for n in (2, 5, 40):
        gap = best_of_n_kl_gap(reward, pi0, n)[:, 0]
        lost = n / (n + 1) - best_of_n_win_rate(reward, pi0, n).rate[:, 0]
        assert np.all(gap <= n * (n - 1) / 2 * squares * (1 + 1e-12))
        assert np.all(lost <= (n - 1) / 2 * squares + 1e-13)


@pytest.mark.parametrize("answers", [10, 100])
def test_uniform_reference_saturates_at_n_near_the_number_of_answers(answers):
    """The synthetic experiment of Beirami et al.: uniform reference on 10, 100, ... answers."""
    pi0, reward = np.full((1, answers), 1 / answers), np.arange(answers)[None]
    small, large = answers // 10 + 1, 10 * answers
    assert best_of_n_kl(reward, pi0, small)[0] > 0.97 * best_of_n_bounds(small).kl
    assert best_of_n_kl(reward, pi0, large)[0] > 0.999 * np.log(answers)
    assert best_of_n_bounds(large).kl - np.log(answers) > 1.2
    for n in (small, answers, large):
        kl = best_of_n_kl(reward, pi0, n)[0]
        sharp = best_of_n_kl_estimate(n, 1 / answers)
        published = best_of_n_kl_from_top(n, 1 / answers)
        assert kl <= sharp + 1e-12 and sharp <= published + 1e-12
        assert published - kl < 0.32


def test_published_estimate_formula():
    """(1-e)^n (log n + (n-1) log(1-e) - (n-1)/n) + (1-(1-e)^n) log((1-(1-e)^n)/e)."""
    for n, e in ((2, 0.3), (16, 0.01), (50, 0.5)):
        miss = (1 - e) ** n
        value = miss * (np.log(n) + (n - 1) * np.log(1 - e) - (n - 1) / n)
        value += (1 - miss) * np.log((1 - miss) / e)
        assert np.isclose(best_of_n_kl_from_top(n, e), value, rtol=1e-12)


# ---- the pieces --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 8, 60])
@pytest.mark.parametrize("tau", [0.0, 1e-6, 0.2, 0.7, 0.95])
def test_cell_gap_is_a_divergence(n, tau):
    def term(u):
        density = n * u ** (n - 1) / (1 - tau**n)
        return density * np.log(density * (1 - tau)) if density > 0 else 0.0

    assert np.isclose(best_of_n_cell_gap(n, tau), quad(term, tau, 1, limit=200)[0], rtol=1e-8)


def test_cell_gap_of_small_cells_and_ends():
    for n in (2, 10, 1000):
        near = 1 - 1e-7 / n
        assert np.isclose(best_of_n_cell_gap(n, near), (n - 1) ** 2 * np.log(near) ** 2 / 24,
                          rtol=1e-6)
        joint = np.exp(np.array([-1.6 - 1e-9, -1.6 + 1e-9]) / n)  # where the two forms meet
        assert np.isclose(*best_of_n_cell_gap(n, joint), rtol=1e-7)
        assert best_of_n_cell_gap(n, 1.0) == 0
        assert np.isclose(best_of_n_cell_gap(n, 0.0), best_of_n_bounds(n).kl)


@pytest.mark.parametrize("mass", [1e-12, 1e-3, 0.3, 0.999, 1.0])
def test_bound_from_the_best_mass(mass):
    for n in (1, 2, 30, 10**6):
        bound = best_of_n_kl_from_top(n, mass)
        assert -1e-15 <= bound <= min(best_of_n_bounds(n).kl, -np.log(mass)) + 1e-12


def test_win_rate_frontier_is_the_frontier_of_many_answers():
    K = 4000
    u = (np.arange(K) + 0.5)[None] / K
    kl = np.array([0.0, 1e-8, 0.01, 0.3, 1.0, 4.0])
    fine = kl_frontier(kl, u, np.full((1, K), 1 / K), [1.0]).reward
    assert np.allclose(win_rate_frontier(kl), fine, rtol=1e-6)
    assert np.all(win_rate_frontier(kl) <= win_rate_frontier_bound(kl) + 1e-15)
    n = np.arange(1, 500)
    lost = win_rate_frontier(best_of_n_bounds(n).kl) - n / (n + 1)
    assert np.all(lost >= -1e-14) and np.all(lost <= 0.5 / n**3 + 1e-14)


def test_largest_probability():
    p = largest_probability(0.4, 0.1)
    assert np.isclose(p * np.log(p / 0.1) + (1 - p) * np.log((1 - p) / 0.9), 0.4) and p > 0.1
    assert largest_probability(0.0, 0.1) == 0.1 and largest_probability(3.0, 0.1) == 1.0
    frontier = kl_frontier([0.4], [[0.0, 1.0]], [[0.9, 0.1]], [1.0]).reward[0]
    assert np.isclose(p, frontier)


@pytest.mark.parametrize("kl, mass, value", [
    # Bisection of the equation in 50 decimal digits.
    (2.690383075363533e-14, 2.264350019931712e-21, 2.1108778968922873e-15),
    (1.2228051080704044e-18, 1.4953327779980103e-30, 5.252117916193547e-20),
    (0.0013487188154528457, 2.739435462908747e-26, 2.8458538928474832e-05),
    (1.6039419121899514, 2.087922918684416e-28, 0.027119994402935797),
])
def test_largest_probability_of_rare_events(kl, mass, value):
    assert np.isclose(largest_probability(kl, mass), value, rtol=1e-12)


def test_largest_probability_of_few_nats():
    for mass in (1e-12, 0.3, 0.999):
        gain = largest_probability(1e-20, mass) - mass
        assert np.isclose(gain, np.sqrt(2e-20 * mass * (1 - mass)), rtol=1e-4)


def test_closed_bound_of_the_win_rate_is_the_limit_at_both_ends():
    assert np.isclose(win_rate_frontier_bound(1e-8) - 0.5, win_rate_frontier(1e-8) - 0.5, rtol=1e-4)
    assert np.isclose(1 - win_rate_frontier_bound(18.0), 1 - win_rate_frontier(18.0), rtol=1e-5)


def test_frontier_gap():
    two = best_of_n_frontier_gap([[0.0, 1.0]], [[0.9, 0.1]], [1.0], 5)
    assert two < 1e-9
    gap = best_of_n_frontier_gap(REWARD, PI0, [1.0], 5)
    kl = best_of_n_kl(REWARD, PI0, 5)
    top = kl_frontier(kl, REWARD, PI0, [1.0]).reward[0]
    assert np.isclose(gap, top - (best_of_n_policy(REWARD, PI0, 5) * REWARD).sum())
    worst = [best_of_n_worst_frontier_gap(n)[0] for n in (1, 2, 10, 1000)]
    assert worst[0] == 0 and np.all(np.diff(worst) > 0) and worst[-1] < 1


def test_proxy_loss_is_a_bound_and_shrinks_without_error():
    gain = best_of_n_proxy_loss(REWARD, REWARD, PI0, 50, [0.5])[0]
    assert 0 < gain < 1e-9
    worse = best_of_n_proxy_loss(-REWARD, REWARD, PI0, 3, [0.5])[0]
    law = best_of_n_policy(-REWARD, PI0, 3)
    assert (PI0 * REWARD).sum() - (law * REWARD).sum() <= worse
    # Two values without error, and one draw: the bound is the loss itself.
    two, good = np.array([[0.7, 0.3]]), np.array([[0.0, 1.0]])
    assert np.isclose(best_of_n_proxy_loss(good, good, two, 5, [0.3])[0], 0.7**5)
    assert np.isclose(best_of_n_proxy_loss(good, 2 * good, two, 1, 0.3)[0], 2 * 0.7)
    error = best_of_n_proxy_loss(good, -good, two, 4, [1.0])[0]
    assert np.isclose(error, 3 / np.sqrt(7) * 2 * np.sqrt(0.21))


# ---- the theorems on drawn instances -----------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5), st.integers(1, 4),
       st.integers(0, 10**6))
def test_every_rule_obeys_the_bounds(weights, n, seed):
    rng = np.random.default_rng(seed)
    pi0 = np.array(weights) / np.sum(weights)
    K = pi0.size
    rule = rng.dirichlet(np.full(n, 0.2), size=(K,) * n)
    law, bound = selection_policy(rule, pi0), best_of_n_bounds(n)
    assert kl_divergence(law[None], pi0[None])[0] <= bound.kl + 1e-12
    assert chi2_divergence(law[None], pi0[None])[0] <= bound.chi2 + 1e-12
    assert np.all(law <= bound.ratio * pi0 + 1e-12)
    reward = rng.integers(0, 3, K)[None]
    assert win_rate(law[None], reward, pi0[None]).rate[0] <= best_of_n_win_rate(
        reward, pi0[None], n).rate[0] + 1e-12


def test_random_stopping_is_not_a_rule():
    """The flaw of the exercise: rejection with 1/p draws on average exceeds log N - 1 + 1/N."""
    reward, pi0 = np.array([[0.0, 1.0]]), np.array([[0.9, 0.1]])
    kl = kl_divergence(gibbs_policy(reward, 1e-2, pi0), pi0)[0]
    mean_draws = 1 / sampling.acceptance_probability(reward, 1e-2, pi0)[0]
    assert kl > np.log(mean_draws) - 1 + 1 / mean_draws
    assert kl <= np.log(mean_draws) + 1e-12


def test_replicates_broadcast():
    reward = np.random.default_rng(2).normal(size=(7, 1, 4))
    assert best_of_n_kl(reward, PI0, 3).shape == (7, 1)
    assert best_of_n_frontier_gap(reward, PI0, [1.0], 3).shape == (7,)
    assert rso_single_policy(reward, np.full(7, 0.3), PI0, 3).shape == (7, 1, 4)
    assert best_of_n_bounds([1, 2, 3]).kl.shape == (3,)


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("call, message", [
    (lambda: best_of_n_bounds(0), "n must be at least 1"),
    (lambda: best_of_n_bounds([1, 2.5]), "whole number"),
    (lambda: best_of_n_kl(REWARD, PI0, 0), "n must be at least 1"),
    (lambda: best_of_n_kl(REWARD, [[0.5, 0.5, 0.0, 0.0]], 2), "full support"),
    (lambda: best_of_n_kl([[np.nan, 0, 0, 0]], PI0, 2), "reward must be finite"),
    (lambda: best_of_n_kl_gap(REWARD[:, :3], PI0, 2), "agree"),
    (lambda: best_of_n_cell_gap(2, 1.5), "ratio must be at most 1"),
    (lambda: best_of_n_kl_from_top(2, 0.0), "mass must be positive"),
    (lambda: best_of_n_kl_estimate(2, 1.5), "mass must be at most 1"),
    (lambda: win_rate(np.ones((1, 4)), REWARD, PI0), "sum to one"),
    (lambda: win_rate_frontier(-1.0), "kl must be nonnegative"),
    (lambda: largest_probability(1.0, 2.0), "mass must be at most 1"),
    (lambda: best_of_n_proxy_loss(REWARD, REWARD, PI0, 2, 0.0), "p must be positive"),
    (lambda: best_of_n_proxy_loss(REWARD, REWARD, [[1.0, 0, 0, 0]], 2, 0.5), "full support"),
    (lambda: best_of_n_proxy_loss(REWARD, REWARD[:, :3], PI0, 2, 0.5), "proxy and reward must"),
    (lambda: best_of_n_proxy_loss(REWARD, REWARD, PI0, 2, [0.1, 0.2]), "one entry per context"),
    (lambda: rso_single_policy(REWARD, 0.0, PI0, 2), "beta must be positive"),
    (lambda: rso_single_policy(np.zeros((3, 1, 4)), [0.1, 0.2], PI0, 2), "must broadcast"),
    (lambda: largest_probability([1.0, 2.0], [0.1, 0.2, 0.3]), "must broadcast"),
    (lambda: selection_policy(np.full((4, 4, 3), 1 / 3), PI0[0]), "rule must have 3 axes"),
    (lambda: selection_policy(np.ones((4, 4, 2)), PI0[0]), "sum to one"),
])
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
