"""Pairs and designs by plain loops; sampling laws by chi-squared tests at fixed seeds."""

import numpy as np
import pytest
from scipy.stats import binom, chi2

import klrlhf
from klrlhf import Bandit, Comparisons

pytestmark = pytest.mark.filterwarnings("error")


def test_all_pairs_by_plain_loops():
    for S, K in ((1, 2), (3, 4), (2, 5)):
        rows = [[x, a, b] for x in range(S) for a in range(K) for b in range(a + 1, K)]
        assert klrlhf.all_pairs(S, K).tolist() == rows


def test_pair_features_by_plain_loops():
    bandit = Bandit.random(1)
    pairs = klrlhf.all_pairs(bandit.S, bandit.K)[::3]
    z = klrlhf.pair_features(bandit.phi, pairs)
    for row, (x, a, b) in zip(z, pairs, strict=True):
        assert np.array_equal(row, bandit.phi[x, a] - bandit.phi[x, b])


def test_preference_probability_is_bradley_terry():
    rng = np.random.default_rng(2)
    theta, z = rng.standard_normal((5, 2)), rng.standard_normal((7, 2))
    p = klrlhf.preference_probability(theta, z)
    for i in range(5):
        for t in range(7):
            assert p[i, t] == pytest.approx(1 / (1 + np.exp(-theta[i] @ z[t])), rel=1e-14)
    assert np.allclose(p + klrlhf.preference_probability(-theta, z), 1, atol=1e-15)
    assert klrlhf.preference_probability([1e6], [[1.0], [-1.0]]).tolist() == [1.0, 0.0]


def test_policy_design_by_enumeration_of_draws():
    rng = np.random.default_rng(3)
    S, K = 3, 4
    d0 = rng.dirichlet(np.ones(S))
    mu1, mu2 = rng.dirichlet(np.ones(K), size=S), rng.dirichlet(np.ones(K), size=S)
    design = klrlhf.policy_design(d0, mu1, mu2)
    chance = {tuple(row): 0.0 for row in klrlhf.all_pairs(S, K).tolist()}
    same = 0.0
    for x in range(S):
        for a in range(K):
            for b in range(K):
                p = d0[x] * mu1[x, a] * mu2[x, b]
                if a == b:
                    same += p
                else:
                    chance[x, min(a, b), max(a, b)] += p
    assert design == pytest.approx(list(chance.values()), rel=1e-14)
    assert 1 - design.sum() == pytest.approx(same, rel=1e-12)


def test_policy_design_covariance_identity():
    """For one sampling policy, E z z' = 2 E_x Cov_mu(phi)."""
    bandit = Bandit.random(4)
    mu = np.random.default_rng(4).dirichlet(np.ones(4), size=3)
    z = klrlhf.pair_features(bandit.phi, klrlhf.all_pairs(3, 4))
    design = klrlhf.policy_design(bandit.d0, mu, mu)
    second = np.einsum("t,ti,tj->ij", design, z, z)
    covariance = klrlhf.feature_covariance(mu, bandit.phi)
    assert second == pytest.approx(2 * np.einsum("s,sij->ij", bandit.d0, covariance), rel=1e-12)


@pytest.mark.parametrize("c", [0.0, 0.01, 0.5, 1.0])
def test_coverage_design(c):
    bandit = Bandit.running_example()
    design = klrlhf.coverage_design(bandit, c)
    assert design.sum() == pytest.approx(1, abs=1e-15)
    for (_, a, b), p in zip(klrlhf.all_pairs(3, 4).tolist(), design, strict=True):
        assert p == pytest.approx((c / 6 + (1 - c) * ((a, b) == (0, 1))) / 3, abs=1e-16)


def chi_squared_accepts(observed, expected, ddof=0, level=1e-4):
    """Pearson's statistic stays below its 1 - level quantile (cells with expectation > 5)."""
    keep = expected > 5
    statistic = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    return statistic < chi2.ppf(1 - level, max(keep.sum() - 1 - ddof, 1))


def test_counts_are_multinomial_and_wins_binomial():
    bandit = Bandit.random(5, S=2, K=3)
    design = klrlhf.policy_design(bandit.d0, bandit.pi0, klrlhf.uniform_policy(2, 3))
    n, R = 12, 20_000
    data = klrlhf.sample_comparisons(bandit, n, design, 11, replicates=R)
    assert data.counts.shape == data.wins.shape == (R, 6)
    total = data.counts.sum(axis=0)
    law = np.append(design, 1 - design.sum())
    assert chi_squared_accepts(np.append(total, n * R - total.sum()), n * R * law)
    z = klrlhf.pair_features(bandit.phi, data.pairs)
    p = klrlhf.preference_probability(bandit.theta, z)
    for t in range(6):
        # The marginal law of a count, and of wins given that count.
        seen = np.bincount(data.counts[:, t].astype(int), minlength=n + 1)
        assert chi_squared_accepts(seen, R * binom.pmf(np.arange(n + 1), n, design[t]))
        k = int(data.counts[:, t].max()) // 2
        given = data.wins[data.counts[:, t] == k, t].astype(int)
        assert chi_squared_accepts(np.bincount(given, minlength=k + 1),
                                   len(given) * binom.pmf(np.arange(k + 1), k, p[t]))
    # Pairs are dependent only through the total: covariance -n p q.
    c = np.cov(data.counts[:, 0], data.counts[:, 1])[0, 1]
    assert c == pytest.approx(-n * design[0] * design[1], abs=5 * n * 0.3 / np.sqrt(R))


def test_fixed_counts_are_kept_and_outcomes_binomial():
    bandit = Bandit.random(6, S=2, K=3)
    counts = np.array([0, 1, 5, 40, 3, 0])
    data = klrlhf.sample_outcomes(bandit, counts, 12, replicates=20_000)
    assert (data.counts == counts).all()
    p = klrlhf.preference_probability(bandit.theta, data.z)
    for t in (1, 2, 3, 4):
        k = counts[t]
        seen = np.bincount(data.wins[:, t].astype(int), minlength=k + 1)
        assert chi_squared_accepts(seen, 20_000 * binom.pmf(np.arange(k + 1), k, p[t]))
    assert (data.wins[:, [0, 5]] == 0).all()


def test_totals():
    bandit = Bandit.running_example()
    full = klrlhf.coverage_design(bandit, 0.3)
    for n in (0, 1, 17, 10**9, 10**15):
        data = klrlhf.sample_comparisons(bandit, n, full, 13, replicates=(2, 3))
        # Above 1e12 the rounding of the design's sum may send a comparison or two nowhere.
        assert (np.abs(data.n - n) <= 1e-14 * n).all()
        assert data.n.shape == (2, 3)
        assert (data.wins <= data.counts).all()
        assert (data.counts == np.floor(data.counts)).all()
        assert np.array_equal(data.losses, data.counts - data.wins)
    half = klrlhf.sample_comparisons(bandit, 10_000, full / 2, 13)
    assert abs(half.n - 5_000) < 5 * 50


def test_every_replicate_follows_its_own_design():
    bandit = Bandit.random(8, S=1, K=3)
    designs = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.5, 0.5], [0.0, 0.0, 0.0]])
    data = klrlhf.sample_comparisons(bandit, 40, designs, 23, replicates=5)
    assert data.counts.shape == (5, 4, 3)
    assert (data.counts[:, 0] == [40, 0, 0]).all()
    assert (data.counts[:, 1] == [0, 0, 40]).all()
    assert (data.counts[:, 2, 0] == 0).all()
    assert (data.n == [40, 40, 40, 0]).all()


def test_a_billion_comparisons_obey_their_means():
    bandit = Bandit.running_example()
    design = klrlhf.coverage_design(bandit, 0.5)
    n = 10**9
    data = klrlhf.sample_comparisons(bandit, n, design, 14)
    assert (np.abs(data.counts - n * design) < 5 * np.sqrt(n * design)).all()
    p = klrlhf.preference_probability(bandit.theta, data.z)
    assert (np.abs(data.wins - data.counts * p) < 5 * np.sqrt(data.counts / 4)).all()


def follow_the_leader(data, t):
    """A rule that looks at outcomes: put all mass on the pair with the most wins so far."""
    design = np.full(data.wins.shape, 0.25 / data.wins.shape[-1])
    leader = data.wins.argmax(axis=-1)[..., None]
    np.put_along_axis(design, leader, np.take_along_axis(design, leader, -1) + 0.75, axis=-1)
    return design


def samplers(bandit):
    design = klrlhf.coverage_design(bandit, 0.4)
    counts = np.arange(len(design))
    return [
        lambda rng: klrlhf.sample_comparisons(bandit, 50, design, rng, replicates=4),
        lambda rng: klrlhf.sample_outcomes(bandit, counts, rng, replicates=(2, 2)),
        lambda rng: klrlhf.sample_adaptive(bandit, follow_the_leader, 6, 5, rng, replicates=4),
    ]


@pytest.mark.parametrize("which", range(3))
def test_sampling_is_reproducible_and_leaves_the_global_state_alone(which):
    sample = samplers(Bandit.running_example())[which]
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, three = sample(15), sample(np.random.default_rng(15)), sample(16)
    assert np.array_equal(one.wins, two.wins)
    assert np.array_equal(one.counts, two.counts)
    assert not np.array_equal(one.wins, three.wins)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_a_generator_advances_between_draws():
    rng = np.random.default_rng(17)
    sample = samplers(Bandit.running_example())[0]
    assert not np.array_equal(sample(rng).wins, sample(rng).wins)


def test_adaptive_rounds_add_up_and_rules_see_the_past():
    bandit = Bandit.running_example()
    seen = []

    def rule(data, t):
        seen.append((t, data.n.copy(), data.wins.copy()))
        return follow_the_leader(data, t)

    data = klrlhf.sample_adaptive(bandit, rule, 7, 30, 18, replicates=5)
    assert [t for t, _, _ in seen] == list(range(7))
    for t, n, _ in seen:
        assert (n == 30 * t).all()
    wins = [w for _, _, w in seen] + [data.wins]
    assert all((later >= earlier).all() for earlier, later in zip(wins, wins[1:], strict=False))
    assert (data.n == 210).all()


def test_adaptive_sampling_with_a_fixed_rule_has_the_fixed_law():
    bandit = Bandit.random(7, S=1, K=3)
    design = np.array([0.5, 0.2, 0.3])
    R = 20_000
    data = klrlhf.sample_adaptive(bandit, lambda data, t: design, 3, 4, 19, replicates=R)
    for t in range(3):
        seen = np.bincount(data.counts[:, t].astype(int), minlength=13)
        assert chi_squared_accepts(seen, R * binom.pmf(np.arange(13), 12, design[t]))


def test_adaptive_outcomes_are_fair_given_the_pair():
    """Whatever the rule, wins minus their conditional means form a martingale."""
    bandit = Bandit.running_example()
    data = klrlhf.sample_adaptive(bandit, follow_the_leader, 10, 4, 20, replicates=20_000)
    p = klrlhf.preference_probability(bandit.theta, data.z)
    excess = data.wins - p * data.counts
    error = np.sqrt((p * (1 - p) * data.counts.mean(axis=0)) / 20_000)
    assert (np.abs(excess.mean(axis=0)) < 4.5 * error).all()


def test_comparisons_add_up():
    bandit = Bandit.running_example()
    design = klrlhf.coverage_design(bandit, 1.0)
    rng = np.random.default_rng(21)
    first = klrlhf.sample_comparisons(bandit, 40, design, rng, replicates=3)
    second = klrlhf.sample_comparisons(bandit, 60, design, rng)
    both = first + second
    assert np.array_equal(both.counts, first.counts + second.counts)
    assert np.array_equal(both.wins, first.wins + second.wins)
    nothing = Comparisons.empty(bandit, (3,))
    assert (nothing.n == 0).all()
    assert np.array_equal((first + nothing).wins, first.wins)
    with pytest.raises(ValueError, match="same pairs"):
        first + klrlhf.sample_comparisons(Bandit.three_arms(), 5, np.full(3, 1 / 3), 1)
    with pytest.raises(TypeError):
        first + 1


def test_comparisons_are_frozen():
    bandit = Bandit.running_example()
    data = klrlhf.sample_comparisons(bandit, 40, klrlhf.coverage_design(bandit, 1.0), 22)
    made = Comparisons(data.pairs, data.z, data.counts, data.wins)
    for comparisons in (data, made, data + made, Comparisons.empty(bandit)):
        for name in ("pairs", "z", "counts", "wins"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(comparisons, name)[0] = 0


def test_half_wins_are_ties():
    bandit = Bandit.three_arms()
    pairs = klrlhf.all_pairs(1, 3)
    z = klrlhf.pair_features(bandit.phi, pairs)
    data = Comparisons(pairs, z, [3, 1, 0], [1.5, 0.5, 0])
    assert data.n == 4
    assert data.losses.tolist() == [1.5, 0.5, 0]
