"""Rejection sampling and its multi-step form: closed forms, hypotheses, published programs."""

import itertools
import random

import numpy as np
import pytest

from klrlhf.policies import gibbs_policy
from klrlhf.sampling import (
    acceptance_probability,
    amplified_error,
    estimated_maximum_law,
    fresh_maximum_bound,
    fresh_maximum_error,
    fresh_maximum_law,
    level_acceptances,
    log_acceptance_probability,
    multistep_cost,
    multistep_path,
    multistep_rejection_sample,
    optimal_levels,
    rejection_sample,
    reused_maximum_bound,
    reused_maximum_law,
    rso_bound,
    rso_policy,
    rso_sample,
    sampled_path,
    span_total_variation,
    total_variation,
)

PI0 = np.array([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]])
REWARD = np.array([[0.0, 0.5, 0.5, 2.0], [1.0, -1.0, 0.3, 0.2]])
BETA = 0.7


def test_acceptance_is_the_mean_weight():
    weight = np.exp((REWARD - REWARD.max(1, keepdims=True)) / BETA)
    assert np.allclose(acceptance_probability(REWARD, BETA, PI0), (PI0 * weight).sum(1), rtol=1e-14)
    star = gibbs_policy(REWARD, BETA, PI0)
    assert np.allclose(acceptance_probability(REWARD, BETA, PI0), (PI0 / star).min(1), rtol=1e-13)


def test_acceptance_survives_extremes():
    log = log_acceptance_probability([[0.0, 1e5]], 1.0, [[1 - 1e-300, 1e-300]])
    assert np.allclose(log, -300 * np.log(10))
    assert acceptance_probability([[3.0, 3.0]], 1e-40, [[0.5, 0.5]])[0] == 1.0
    assert np.allclose(acceptance_probability([[0.0, 1.0]], 1.0, [[0.5, 0.5]], maximum=[-5.0]), 1.0)
    assert np.allclose(acceptance_probability([[0.0, 1.0]], 1.0, [[0.5, 0.5]], maximum=[3.0]),
                       0.5 * (np.exp(-3) + np.exp(-2)))


def test_sampler_law_and_draws():
    out = rejection_sample(REWARD, BETA, PI0, np.random.default_rng(0), 40_000)
    star, p = gibbs_policy(REWARD, BETA, PI0), acceptance_probability(REWARD, BETA, PI0)
    share = np.stack([(out.actions == a).mean(1) for a in range(4)], -1)
    assert np.all(np.abs(share - star) < 5 * np.sqrt(star * (1 - star) / 40_000))
    assert np.all(np.abs(out.draws.mean(1) * p - 1) < 5 * np.sqrt((1 - p) / 40_000))
    # geometric: P(one draw) = p, and draws say nothing about the action
    assert np.all(np.abs((out.draws == 1).mean(1) - p) < 0.012)
    late = out.draws[0] > 8
    assert abs((out.actions[0, late] == 3).mean() - star[0, 3]) < 0.02


def test_sampler_with_a_small_maximum():
    M = np.array([0.2, 0.1])
    out = rejection_sample(REWARD, BETA, PI0, np.random.default_rng(1), 40_000, maximum=M)
    law = estimated_maximum_law(REWARD, BETA, PI0, M)
    by_hand = PI0 * np.minimum(1, np.exp((REWARD - M[:, None]) / BETA))
    assert np.allclose(law, by_hand / by_hand.sum(1, keepdims=True), rtol=1e-13)
    share = np.stack([(out.actions == a).mean(1) for a in range(4)], -1)
    assert np.all(np.abs(share - law) < 5 * np.sqrt(law * (1 - law) / 40_000))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_estimated_maxima_by_enumeration(n):
    star = gibbs_policy(REWARD, BETA, PI0)
    for x in range(2):
        fresh, tv, kept = np.zeros(4), 0.0, np.zeros(4)
        for draws in itertools.product(range(4), repeat=n):
            chance, top = np.prod(PI0[x, list(draws)]), REWARD[x, list(draws)].max()
            law = estimated_maximum_law(REWARD[x:x + 1], BETA, PI0[x:x + 1], [top])[0]
            fresh, tv = fresh + chance * law, tv + chance * 0.5 * np.abs(law - star[x]).sum()
            for a in draws:
                kept[a] += chance * np.exp((REWARD[x, a] - top) / BETA) / n
        assert np.allclose(fresh_maximum_law(REWARD, BETA, PI0, n)[x], fresh, rtol=1e-12)
        assert np.isclose(fresh_maximum_error(REWARD, BETA, PI0, n)[0][x], tv, rtol=1e-12)
        policy, share = reused_maximum_law(REWARD, BETA, PI0, n)
        assert np.allclose(policy[x], kept / kept.sum(), rtol=1e-12)
        assert np.isclose(share[x], kept.sum(), rtol=1e-12)


def test_fresh_bound_is_attained_and_a_tenth_less_is_not_a_bound():
    n, s = 20, 0.01
    law, reward = np.array([[1 - 1 / n, 1 / n]]), np.array([[np.log(s), 0.0]])
    p = acceptance_probability(reward, 1.0, law)
    clipped = fresh_maximum_error(reward, 1.0, law, n)[1]
    assert np.allclose(clipped, fresh_maximum_bound(p, n), rtol=1e-12)
    assert np.allclose(fresh_maximum_bound(0.001, 3), 0.999**3)
    assert fresh_maximum_bound(1.0, 1) == 0
    n = np.arange(1, 200)
    assert np.all(fresh_maximum_bound(0.03, n) <= 1 / ((n + 1) * 0.03))
    assert np.all(fresh_maximum_bound(0.03, n) <= 1)


def test_reused_bound_needs_its_logarithm():
    t, n = 6.0, 10**7
    y = np.linspace(0.5, 20, 400)
    best = 0.0
    for q in y / (n - 1):
        law, reward = np.array([[1 - q, q]]), np.array([[-t, 0.0]])
        star = gibbs_policy(reward, 1.0, law)
        tv = total_variation(reused_maximum_law(reward, 1.0, law, n)[0], star)[0]
        best = max(best, tv / reused_maximum_bound(
            acceptance_probability(reward, 1.0, law), n, t)[0])
    assert 0.999 < best <= 1
    # continuous where the evaluation switches
    assert np.isclose(reused_maximum_bound(1, 2, 599.999), reused_maximum_bound(1, 2, 600.001),
                      rtol=1e-4)


def reference_program(responses, rewards, size, beta, rng):
    """The steps of Algorithm 1 of arXiv 2309.06657, in plain Python."""
    left, taken = dict(zip(responses, rewards, strict=True)), []
    while len(taken) < size:
        best, gone = max(left.values()), []
        for response, value in left.items():
            if rng.random() < np.exp((value - best) / beta):
                taken.append(response)
                gone.append(response)
                if len(taken) == size:
                    break
        for response in gone:
            del left[response]
    return taken


def test_published_program_agrees_with_plain_python():
    runs, n, size = 20_000, 6, 2
    rng, fast = random.Random(1), np.random.default_rng(2)
    counts = np.zeros((2, 4))
    for _ in range(runs):
        drawn = rng.choices(range(4), PI0[0], k=n)
        names = [(i, a) for i, a in enumerate(drawn)]  # different texts: no draw counts twice
        taken = reference_program(names, REWARD[0, drawn], size, BETA, rng)
        for place, (_, a) in enumerate(taken):
            counts[place, a] += 1
    ours = rso_sample(REWARD, BETA, PI0, fast, n, size, runs)[0]
    mine = np.stack([(ours == a).sum(0) for a in range(4)], -1)
    assert np.all(np.abs(mine - counts) / runs < 5 * np.sqrt(0.5 / runs))


def test_published_limits():
    # its Theorem 1's remarks: hot keeps draws of the reference, cold keeps the top k
    rng = np.random.default_rng(3)
    hot, error = rso_policy(REWARD, 1e9, PI0, rng, 16, 4, 20_000)
    assert np.all(np.abs(hot - PI0) < 5 * error + 1e-12)
    cold = rso_sample(REWARD, 1e-9, PI0, rng, 16, 4, 500)
    reward = np.take_along_axis(np.repeat(REWARD[:, None], 500, 1), cold, -1)
    assert np.all(np.diff(reward, axis=-1) <= 0)
    few = rso_sample(REWARD, BETA, PI0, rng, 16, 8, 50, deduplicate=True)
    for run in few.reshape(-1, 8):
        kept = run[run >= 0]
        assert len(set(kept)) == len(kept) <= 4


def test_published_program_obeys_its_bound():
    p = acceptance_probability(REWARD, BETA, PI0)
    star = gibbs_policy(REWARD, BETA, PI0)
    for n, size in ((100, 1), (400, 4)):
        policy, error = rso_policy(REWARD, BETA, PI0, np.random.default_rng(n), n, size, 2000)
        for x in range(2):
            bound = rso_bound(p[x], n, size)
            assert bound < 0.5
            assert total_variation(policy, star)[x] - 2 * error[x].sum() <= bound
            assert star[x, REWARD[x].argmax()] * bound <= total_variation(policy, star)[x] + 2 * (
                error[x].sum())
    assert np.isclose(rso_bound(0.9, 10, 10), 0.1) and np.isclose(rso_bound(0.2, 9), 0.8**9)
    assert rso_bound(1.0, 10**6, 1) == 0
    # sharp: two values, the worse one hopeless
    pair = np.array([[0.0, 60.0]]), np.array([[0.8, 0.2]])
    policy, error = rso_policy(pair[0], 1.0, pair[1], np.random.default_rng(7), 12, 3, 20_000)
    assert abs(policy[0, 0] - rso_bound(0.2, 12, 3)) < 5 * error[0, 0]


def test_paths_multiply_and_equalize():
    p = acceptance_probability(REWARD, BETA, PI0)
    for N in (1, 2, 7):
        path = multistep_path(REWARD, BETA, PI0, N)
        rates = level_acceptances(REWARD, PI0, path)
        assert np.allclose(rates, p[:, None] ** (1 / N), rtol=1e-12)
        assert np.allclose(path[:, -1], 1 / BETA) and np.all(path[:, 0] == 0)
        common = multistep_path(REWARD, BETA, PI0, N, d0=[0.3, 0.7])
        rates = level_acceptances(REWARD, PI0, common)
        assert np.allclose(rates.prod(-1), p, rtol=1e-12)
        mean = np.array([0.3, 0.7]) @ np.log(rates)
        assert np.allclose(mean, mean[0], rtol=1e-10)
    # a root many orders of magnitude below 1 / beta
    huge = np.array([[0.0, 1e40]]), np.array([[1 - 1e-9, 1e-9]])
    rates = level_acceptances(*huge, multistep_path(huge[0], 1e-6, huge[1], 3))
    assert np.allclose(rates, 1e-3)
    flat = multistep_path(np.ones((1, 3)), 0.5, np.full((1, 3), 1 / 3), 4)
    assert np.allclose(flat, [[0, 0.5, 1, 1.5, 2]])


@pytest.mark.parametrize("p", [1.0, 0.5, 0.25, 0.2499, np.exp(-1), 1e-3, 1e-9, 1e-300])
def test_best_number_of_levels(p):
    N = np.arange(1, 1500)
    costs = multistep_cost(p, N)
    assert optimal_levels(p) == N[costs.argmin()]
    L = -np.log(p)
    assert np.e * L - 1e-9 <= costs.min() <= np.e * L + 1
    assert np.isclose(multistep_cost(np.exp(-7.0), 7), 7 * np.e)


def test_sampled_path_aims_at_its_target():
    rng = np.random.default_rng(4)
    reward, pi0 = rng.standard_normal(300) * 4, rng.dirichlet(np.ones(300))
    path = sampled_path(reward, 1.0, pi0, rng, 20_000)
    rates = level_acceptances(reward[None], pi0[None], path)[0]
    assert np.all(np.abs(rates[:-1] - np.exp(-1)) < 0.02) and rates[-1] > np.exp(-1) - 0.02
    assert path[-1] == 1.0


def test_walk_with_exact_and_with_forgetful_fits():
    rng, size = np.random.default_rng(5), 20_000
    path = multistep_path(REWARD, BETA, PI0, 3)
    run = multistep_rejection_sample(REWARD, PI0, path, rng, size)
    star = gibbs_policy(REWARD, BETA, PI0)
    assert np.allclose(run.policies[-1], star, rtol=1e-12)
    share = np.stack([(run.actions == a).mean(1) for a in range(4)], -1)
    assert np.all(np.abs(share - star) < 5 * np.sqrt(star * (1 - star) / size))
    rates = level_acceptances(REWARD, PI0, path)
    assert np.allclose(run.draws.T / size, 1 / rates, rtol=0.05)

    def forget(actions, _):
        best = REWARD.argmax(1)
        law = np.stack([(actions == a).mean(1) for a in range(4)], -1)
        law[np.arange(2), best] = 0
        return law / law.sum(1, keepdims=True)

    lost = multistep_rejection_sample(REWARD, PI0, path, rng, 4000, forget)
    missed = star[np.arange(2), REWARD.argmax(1)]
    assert np.all(total_variation(lost.policies[-1], star) >= missed - 1e-12)


def test_amplification_formula():
    assert np.isclose(amplified_error([0.1, 0.2, 0.3], [0.5, 0.25, 0.1]),
                      0.1 / (0.25 * 0.1) + 0.2 / 0.1 + 0.3)
    assert np.isclose(span_total_variation(4.0), np.tanh(1.0))


@pytest.mark.parametrize("call, words", [
    (lambda: acceptance_probability(REWARD, -1.0, PI0), "beta must be positive"),
    (lambda: acceptance_probability(REWARD, 1.0, [[1.0, 0, 0, 0]] * 2), "full support"),
    (lambda: rejection_sample(REWARD, 1.0, PI0, 0, 0), "size must be at least 1"),
    (lambda: rejection_sample([[0.0, 1e4]], 1.0, [[1 - 1e-12, 1e-12]], 0, 1), "draws are needed"),
    (lambda: rejection_sample(REWARD[None], 1.0, PI0, 0, 1), "one instance"),
    (lambda: fresh_maximum_law(REWARD, 1.0, PI0, 0), "n must be at least 1"),
    (lambda: fresh_maximum_bound(1.5, 3), "p must lie in"),
    (lambda: reused_maximum_bound(0.5, 1, 1.0), "n must be at least 2"),
    (lambda: fresh_maximum_bound(0.5, 2.5), "whole numbers"),
    (lambda: rejection_sample(REWARD, 1.0, PI0, 0, 1, maximum=[1e5, 1e5]), "draws are needed"),
    (lambda: rejection_sample(REWARD, 1.0, PI0, 0, 1, maximum=[1.0]), "maximum must have shape"),
    (lambda: rso_sample(REWARD, 1.0, PI0, 0, 4, 5), "size must be at most 4"),
    (lambda: level_acceptances(REWARD, PI0, [0.0, 2.0, 1.0]), "must not decrease"),
    (lambda: level_acceptances(REWARD, PI0, [1.0, 2.0]), "start at inverse temperature 0"),
    (lambda: multistep_path(REWARD, 1.0, PI0, 0), "N must be at least 1"),
    (lambda: multistep_cost(0.0, 2), "p must lie in"),
    (lambda: optimal_levels(float("nan")), "p must lie in"),
    (lambda: multistep_cost(0.5, 1.5), "whole numbers"),
    (lambda: sampled_path(REWARD[0], 1.0, PI0[0], 0, 10, target=1.0), "target"),
    (lambda: multistep_rejection_sample(REWARD, PI0, [0, 1], 0, 5, lambda a, t: PI0[:1]),
     "fitted policy must have shape"),
    (lambda: amplified_error([0.1], [0.0]), "acceptances must lie in"),
])
def test_hypotheses_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
