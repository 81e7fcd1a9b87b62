r"""Checks of part IV, item 4.5: exploring with the reference policy, and what that costs.

What lives here: variances under tilts, the guarantees of pairs (reference, reference) and (main
agent, reference), the burn-in after which no exponential is left.
What does not: the two-arm example (``part4_free_price``), the enhancer (``part4_guarantee``),
coverage of reward classes (part III).
"""

from __future__ import annotations

import numpy as np

from klrlhf.bandit import Bandit
from klrlhf.confidence import (
    confidence_radius,
    design_matrix,
    least_curvature,
    parameter_error,
    score_bound_fixed,
)
from klrlhf.coverage import design_covariance, reward_class_coverage
from klrlhf.estimation import fit_mle
from klrlhf.numerics import sharp_hoeffding
from klrlhf.offline import asymptotic_gap
from klrlhf.online import (
    free_exploration_bound,
    free_regret_bound,
    information_bound,
    online_gshf,
    reference_enhancer,
    required_reg,
    required_reg_free,
)
from klrlhf.policies import feature_covariance, kl_divergence, variance
from klrlhf.preferences import all_pairs, pair_features, policy_design, sample_comparisons
from klrlhf.results.instances import random_policies
from klrlhf.results.part4_chernoff import least_eigenvalue
from klrlhf.results.registry import result


def two_arms(R, beta, p, B):
    """One prompt, arms worth R / 2 and -R / 2; the reference plays the better one with p."""
    return Bandit([1.0], [[p, 1 - p]], [[[0.5], [-0.5]]], [R], beta, B)


def centre(bandit):
    """Sigma_0, the mean covariance of features under the reference."""
    return np.einsum("s,sij->ij", bandit.d0, feature_covariance(bandit.pi0, bandit.phi))


@result("tilted-variance", part="IV", item="4.5", kind="inequality",
        title="A variance cannot grow faster than the likelihood ratio", source="this book",
        depends=("kl-budget-ratio",))
def tilted_variance(check):
    """A variance grows at most by the largest ratio of the laws, exponential over the ball."""
    for rng, size in check.batches(20_000, fast=2_000):
        K = int(rng.integers(2, 6))
        P, Q = (random_policies(rng, size, 1, K)[:, 0] for _ in range(2))
        close = (rng.random((size, 1)) < 0.5) * rng.uniform(0, 0.999, (size, 1))
        P = (1 - close) * P + close * Q
        f = rng.standard_normal((size, K)) * 10.0 ** rng.uniform(-2, 2, (size, 1))
        f = np.where(rng.random((size, 1)) < 0.3, np.round(f), f)
        var_P, var_Q, mean_Q = variance(P, f), variance(Q, f), (Q * f).sum(-1, keepdims=True)
        second = (P * (f - mean_Q) ** 2).sum(-1)
        scale = (f**2).max(-1) * 1e-12
        check.inequality("step 1: any centre", var_P, second, scale=scale)
        ratio = (P / Q).max(-1)
        check.inequality("step 2: change of law", second, ratio * var_Q, scale=scale * ratio)
        check.inequality("claim: largest ratio", var_P, ratio * var_Q, scale=scale * ratio)
        log_ratio = np.log(P / Q)
        check.inequality("claim: span", var_P, np.exp(np.ptp(log_ratio, axis=-1)) * var_Q,
                         scale=scale * ratio)
    for rng, size in check.batches(10_000, fast=500, size=50):
        bandit = Bandit.random(rng, S=int(rng.integers(1, 4)), K=int(rng.integers(2, 5)),
                               d=int(rng.integers(1, 4)), beta=10.0 ** rng.uniform(-0.5, 1.5),
                               B=10.0 ** rng.uniform(-1, 0.5))
        theta = rng.standard_normal((size, bandit.d))
        theta *= (bandit.B * np.minimum(1, rng.uniform(0, 2, size)) / np.linalg.norm(
            theta, axis=1))[:, None]
        D = bandit.reward_of(rng.standard_normal((size, bandit.d)))
        policy, price = bandit.gibbs(theta), np.exp(bandit.B * bandit.L0 / bandit.beta)
        check.inequality("step 3: Jensen's ratio", (policy / bandit.pi0).max((1, 2)), price)
        check.inequality("claim: over the ball", variance(policy, D),
                         price * variance(bandit.pi0, D), scale=1e-12 * price)
    # A rare arm that the tilt makes likely: ratio 1 in the limit.
    p, beta = 1e-9, 0.2
    bandit = two_arms(1.0, beta, p, 1.0)
    D = bandit.reward_of(np.array([1.0]))
    got = float((variance(bandit.gibbs(np.array([1.0])), D) / variance(bandit.pi0, D))[0])
    check.at_least("attained in the limit", got / np.exp(bandit.L0 / beta), 0.999)


def judge_reference(check, bandit, n, delta, trials):
    """Part A: n comparisons of two answers of the reference."""
    rng, reg = check.rng, required_reg_free(bandit.L, bandit.d, delta)
    design = policy_design(bandit.d0, bandit.pi0, bandit.pi0)
    data = sample_comparisons(bandit, n, design, rng, trials)
    theta, V = fit_mle(data, bandit.B).theta, design_matrix(data, reg)
    gamma = least_curvature(bandit.L, bandit.B)
    rho = confidence_radius(score_bound_fixed(data, reg, delta), gamma, reg, bandit.B)
    event = parameter_error(theta, bandit.theta, V) <= rho
    half = least_eigenvalue(V - n * centre(bandit)) >= -1e-9
    gap, bound = bandit.plug_in_gap(theta), free_exploration_bound(bandit, rho, n)
    check.instances += trials
    check.failure_rate("step 1 (A): design", (~half).sum(), trials, delta)
    check.failure_rate("step 1 (A): event", (~event).sum(), trials, delta)
    check.failure_rate("claim A", (gap > bound).sum(), trials, min(2 * delta, 1.0))
    check.inequality("claim A: wherever both events hold", gap[event & half], bound[event & half],
                     tol=1e-9)
    return bound, gap


@result("free-exploration", part="IV", item="4.5", kind="probability",
        title="Exploring with the reference alone",
        source="this book; cf. wu2025greedy, wang2026greedy",
        depends=("second-order-gap", "tilted-variance", "adapted-matrix-chernoff",
                 "confidence-ellipsoid", "radius-adaptive-design"))
def free_exploration(check):
    """Data from the reference give a fast rate, with a factor exponential in 1 / beta."""
    # Steps 2 to 4 at fixed data.
    for rng, size in check.batches(10_000, fast=1_000, size=100):
        bandit = Bandit.random(rng, S=int(rng.integers(1, 4)), K=int(rng.integers(2, 5)),
                               d=int(rng.integers(1, 4)), beta=10.0 ** rng.uniform(-0.5, 1.5),
                               B=10.0 ** rng.uniform(-1, 0.5))
        theta = rng.standard_normal((size, bandit.d))
        theta *= (bandit.B * rng.random(size) / np.linalg.norm(theta, axis=1))[:, None]
        theta = bandit.theta + (theta - bandit.theta) * rng.choice([1, 0.1, 1e-3], size)[:, None]
        s = rng.random((size, 1))
        on = theta + s * (bandit.theta - theta)
        check.inequality("step 2: the segment stays in the ball", np.linalg.norm(on, axis=1),
                         bandit.B)
        u = bandit.theta - theta
        D, sigma0 = bandit.reward_of(u), centre(bandit)
        quadratic = np.einsum("ni,ij,nj->n", u, sigma0, u)
        check.identity("step 3: variance under the reference", variance(bandit.pi0, D) @ bandit.d0,
                       quadratic, scale=(u**2).sum(1), tol=1e-10)
        price = np.exp(bandit.B * bandit.L0 / bandit.beta)
        gap = bandit.plug_in_gap(theta)
        core = price * quadratic / (2 * bandit.beta)
        check.inequality("step 4: second-order gap", gap, core, scale=1e-12 * bandit.R, tol=1e-9)
        root = rng.standard_normal((size, bandit.d, bandit.d))
        n = 10.0 ** rng.uniform(0, 5, size)
        check.identity("claim A: the formula", free_exploration_bound(
            bandit, np.sqrt(n * quadratic), n), core, scale=core, tol=1e-9)
        V = n[:, None, None] * sigma0 + root @ np.swapaxes(root, 1, 2)
        rho = parameter_error(theta, bandit.theta, V)
        check.inequality("step 5: the bound from the design", core, price * rho**2
                         / (2 * bandit.beta * n), scale=1e-12, tol=1e-9)
        # What a comparison of (main agent, reference) expects.
        main = bandit.gibbs(theta[0])
        z = pair_features(bandit.phi, all_pairs(bandit.S, bandit.K))
        expected = design_covariance(z, policy_design(bandit.d0, main, bandit.pi0))
        own = np.einsum("s,sij->ij", bandit.d0, feature_covariance(main, bandit.phi))
        check.inequality("step 6: both covariances", 0.0, least_eigenvalue(expected - own - sigma0),
                         scale=np.trace(expected), tol=1e-9)
    trials = check.choose(3_000, 400)
    for beta, hidden, n, delta in ((0.5, "good", 500, 0.1), (0.5, "bad", 5_000, 0.05),
                                   (5.0, "good", 100, 0.1), (0.2, "good", 2_000, 0.2)):
        judge_reference(check, Bandit.running_example(beta, hidden), n, delta, trials)
    rare = two_arms(1.0, 0.25, 0.02, 1.2)
    for n in (50, 500):
        judge_reference(check, rare, n, 0.2, trials)
    # Part B: pairs (main agent, reference), all rounds at once.
    trials = check.choose(300, 60)
    for bandit, T, m, delta in ((Bandit.running_example(0.5, "good"), 8, 100, 0.2),
                                (Bandit.running_example(5.0, "bad"), 8, 20, 0.2),
                                (rare, 20, 10, 0.2)):
        reg = required_reg_free(bandit.L, bandit.d, delta / 2)
        check.identity("part B: half the ridge of the online guarantee", 2 * reg,
                       required_reg(bandit.L, bandit.d, delta))
        history = online_gshf(bandit, T, m, check.rng, reg=reg, delta=delta, replicates=trials,
                              enhancer=reference_enhancer)
        n = m * np.arange(1, T)[:, None]
        bound = free_exploration_bound(bandit, history.rho[1:], n / 2)
        failed = (history.gap[1:] > bound).any(axis=0)
        check.instances += trials
        check.failure_rate("claim B: gap in some round", failed.sum(), trials, delta)
        design = least_eigenvalue(history.V[1:] - n[..., None, None] / 2 * centre(bandit)) < -1e-9
        check.failure_rate("step 7 (B): design", design.any(axis=0).sum(), trials, delta / 2)
        regret = m * history.gap.sum(axis=0)
        total = free_regret_bound(bandit, history.rho[-1], T, m)
        price = np.exp(bandit.B * bandit.L0 / bandit.beta)
        check.identity("claim B: the formula", bound,
                       price * history.rho[1:] ** 2 / (bandit.beta * n), scale=bound)
        check.identity("claim B: the regret's formula", total,
                       m * bandit.beta * sharp_hoeffding(bandit.R / bandit.beta) + price
                       * history.rho[-1] ** 2 / bandit.beta * (1 + np.log(T)), scale=total)
        check.failure_rate("claim B: regret", (regret > total).sum(), trials, delta)
        summed = m * bandit.beta * sharp_hoeffding(bandit.R / bandit.beta) + m * bound.sum(axis=0)
        check.inequality("step 8: harmonic sum", summed, total, tol=1e-9)
        check.inequality("step 8: round 1 plays the reference", history.gap[0],
                         bandit.beta * sharp_hoeffding(bandit.R / bandit.beta), tol=1e-9)
    bandit = Bandit.running_example(0.5, "good")
    bound, _ = judge_reference(check, bandit, 10**6, 0.05, trials=check.choose(1_000, 400))
    check.not_vacuous("claim A: below the gap of the reference", bound,
                      float(bandit.gap(bandit.pi0)))


@result("free-exploration-burn-in", part="IV", item="4.5", kind="probability",
        title="After a burn-in the exponential is gone",
        source="this book; cf. zhao2024sharp, kim2026coverage",
        depends=("free-exploration", "tilted-variance", "second-order-gap",
                 "reward-class-coverage"))
def free_exploration_burn_in(check):
    """Once errors are below beta the agent's own answers explore: a rate without exponential."""
    nodes, weights = np.polynomial.legendre.leggauss(30)
    s = (nodes + 1) / 2
    check.identity("step 3: the integral", weights / 2 @ ((1 - s) * np.exp(1 - s)), 1.0, tol=1e-12)
    for rng, size in check.batches(10_000, fast=1_000, size=100):
        bandit = Bandit.random(rng, S=int(rng.integers(1, 4)), K=int(rng.integers(2, 5)),
                               d=int(rng.integers(1, 4)), beta=10.0 ** rng.uniform(-1.5, 1), B=2.0)
        u = rng.standard_normal((size, bandit.d))
        sigma0 = centre(bandit)
        D = bandit.reward_of(u)
        D2 = reward_class_coverage(bandit.phi, bandit.pi0, bandit.d0, "midrange")
        spread = np.ptp(D, axis=-1).max(-1)
        check.inequality("step 1: from the mean to every answer", spread**2,
                         4 * D2 * np.einsum("ni,ij,nj->n", u, sigma0, u), tol=1e-8)
        shrink = bandit.beta * rng.choice([1.0, 0.5, 0.05], size) / spread
        u, D = u * shrink[:, None], D * shrink[:, None, None]
        theta = bandit.theta - u
        main, star = bandit.gibbs(theta), bandit.optimal_policy
        ratio = np.log(main / star)
        check.inequality("step 2: the agent's law", np.abs(ratio).max((1, 2)), 1.0, tol=1e-9)
        own, best = feature_covariance(main, bandit.phi), feature_covariance(star, bandit.phi)
        check.inequality("step 2: the agent's covariance", 0.0, least_eigenvalue(
            own - np.exp(-1) * best).min(-1), scale=(bandit.phi**2).sum())
        v = np.einsum("ni,s,sij,nj->n", u, bandit.d0, best, u)
        gap = bandit.plug_in_gap(theta)
        check.inequality("step 3: the gap near the truth", gap, v / bandit.beta,
                         scale=1e-12 * bandit.R, tol=1e-8)
        m, t, t0 = 10.0 ** rng.uniform(0, 3), 50, int(rng.integers(2, 40))
        root = rng.standard_normal((size, bandit.d, bandit.d))
        V = m * (t - t0) / (2 * np.e) * np.einsum("s,sij->ij", bandit.d0, best)
        V = V + root @ np.swapaxes(root, 1, 2)
        rho = parameter_error(theta, bandit.theta, V)
        check.inequality("claim: at fixed data", gap, 2 * np.e * rho**2
                         / (bandit.beta * m * (t - t0)), scale=1e-12 * bandit.R, tol=1e-8)
        kept, used = rare_answer(bandit.beta, m, t - t0)
        check.inequality("step 2: a rare answer obeys it", kept, 1.0, tol=1e-6)
        check.at_least("step 2: attained by a rare answer", kept, 0.999)
        check.inequality("claim: a rare answer obeys it", used, 1.0, tol=1e-6)
        check.at_least("claim: attained by a rare answer", used, 0.999)
        spread = worst_spread(bandit, sigma0)
        check.inequality("step 1: the burn-in", spread, bandit.beta, tol=1e-9)
        check.at_least("step 1: the burn-in is attained", spread / bandit.beta, 0.999)
    trials = check.choose(200, 40)
    for bandit, T, m, delta in ((Bandit.running_example(5.0, "good"), 12, 500, 0.2),
                                (Bandit.running_example(0.5, "bad"), 10, 20_000, 0.2),
                                (two_arms(1.0, 0.25, 0.02, 1.2), 12, 60_000, 0.2)):
        reg = required_reg_free(bandit.L, bandit.d, delta / 2)
        history = online_gshf(bandit, T, m, check.rng, reg=reg, delta=delta, replicates=trials,
                              enhancer=reference_enhancer)
        check.instances += trials
        t0 = burn_in(bandit, history.rho, m)
        check.holds("the burn-in ends within the run", t0 < T)
        t = np.arange(1, T + 1)[:, None]
        after = t > t0
        bound = 2 * np.e * history.rho**2 / (bandit.beta * m * np.maximum(t - t0, 1))
        failed = (after & (history.gap > bound)).any(axis=0)
        check.failure_rate("claim: gap in some round", failed.sum(), trials, delta)
        best = np.einsum("s,sij->ij", bandit.d0,
                         feature_covariance(bandit.optimal_policy, bandit.phi))
        kept = m * np.maximum(t - t0, 0)[..., None, None] / (2 * np.e) * best
        thin = (least_eigenvalue(history.V - kept) < -1e-9).any(axis=0)
        check.failure_rate("step 2: the design", thin.sum(), trials, delta)
        spread = np.ptp(bandit.reward - bandit.reward_of(history.theta), axis=-1).max(-1)
        late = ((t >= t0) & (spread > bandit.beta)).any(axis=0)
        check.failure_rate("step 1: errors below beta", late.sum(), trials, delta)
        # The determinant replaced by its largest value: once late enough, always late enough.
        n = np.geomspace(1, 1e12, 400)
        growth = information_bound(bandit.d, n, bandit.L, reg) / 2
        gamma = least_curvature(bandit.L, bandit.B)
        rho = confidence_radius(np.sqrt((growth + np.log(2 / delta)) / 2), gamma, reg, bandit.B)
        check.inequality("remark: late enough once and for all", np.diff(rho**2 / n), 0.0)
    # The limit: own answers bound the constant by d / (2 beta gamma), for every reference.
    for rng, size in check.batches(1_000, fast=100, size=10):
        for _ in range(size):
            bandit = Bandit.random(rng, S=2, K=3, d=2, beta=10.0 ** rng.uniform(-1, 1), B=2.0)
            design = policy_design(bandit.d0, bandit.optimal_policy, bandit.pi0)
            check.inequality("claim: limit constant", asymptotic_gap(bandit, design),
                             bandit.d / (2 * bandit.beta * least_curvature(bandit.L, bandit.B)),
                             tol=1e-6)


def needed_comparisons(bandit, rho):
    """8 D^2 rho^2 / beta^2, the comparisons of the burn-in."""
    D2 = reward_class_coverage(bandit.phi, bandit.pi0, bandit.d0, "midrange")
    return 8 * D2 * rho**2 / bandit.beta**2


def burn_in(bandit, rho, m):
    """Per run, the least t0 >= 2 with m (i - 1) >= 8 D^2 rho_i^2 / beta^2 from t0 on."""
    i = np.arange(1, len(rho) + 1)[:, None]
    early = m * (i - 1) < needed_comparisons(bandit, rho)
    return np.maximum((i * early).max(axis=0) + 1, 2)


def rare_answer(beta, m, rounds, p=1e-7):
    """Rounds that underestimate a rare answer by beta, then one that overestimates it by beta.

    Returns Sigma_* over e times the agent's covariance in the first rounds, and the gap of the last
    one over its bound, with the least design that Step 2 allows and the radius that just fits.
    """
    bandit = two_arms(beta, beta, p / (p + np.e * (1 - p)), 2 * beta)  # the optimum plays it with p
    before, after = bandit.gibbs([0.0]), bandit.gibbs([2 * beta])
    own, best = (float(feature_covariance(policy, bandit.phi)[0, 0, 0])
                 for policy in (before, bandit.optimal_policy))
    rho2 = m * rounds / 2 * own * beta**2
    bound = 2 * np.e * rho2 / (beta * m * rounds)
    return best / (np.e * own), beta * float(kl_divergence(after, bandit.optimal_policy)[0]) / bound


def worst_spread(bandit, sigma0, rho=5.0):
    """The largest range of an error with ||error||_V <= rho, V = n Sigma_0 / 2, after burn-in."""
    half = needed_comparisons(bandit, rho) / 2 * sigma0
    pairs = all_pairs(bandit.S, bandit.K)
    asked = bandit.d0 > 0
    z = pair_features(bandit.phi, pairs[asked[pairs[:, 0]]])
    w = z @ np.linalg.pinv(half, rcond=1e-10, hermitian=True)
    w *= (rho / np.sqrt(np.einsum("ni,ij,nj->n", w, half, w)))[:, None]
    return float(np.ptp(bandit.reward_of(w), axis=-1)[:, asked].max())
