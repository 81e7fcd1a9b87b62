r"""Checks of part IV, item 4.3, second half: what online learning with an enhancer is promised.

What lives here: the certificate at fixed data, whole runs against every part of the guarantee, the
number of comparisons it asks for, and the argument that treats rounds one by one.
What does not: the matrix Chernoff bound (``part4_chernoff``), the enhancer's optimality.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from klrlhf.bandit import Bandit
from klrlhf.confidence import confidence_radius, least_curvature, parameter_error
from klrlhf.coverage import expected_features
from klrlhf.experiments import evaluate, fit_sweep
from klrlhf.numerics import sharp_hoeffding
from klrlhf.online import (
    exact_enhancer,
    gibbs_class_enhancer,
    information_bound,
    online_bound,
    online_gshf,
    reference_enhancer,
    required_reg,
    uncertainty,
    uniform_enhancer,
)
from klrlhf.policies import kl_divergence
from klrlhf.results.part4_chernoff import X_HALF, least_eigenvalue
from klrlhf.results.registry import result
from klrlhf.values import plug_in_suboptimality


def explicit_radius(d, n, L, B, reg, delta):
    """An upper bound of the radius after n comparisons that needs no data."""
    score = np.sqrt(0.5 * (information_bound(d, n, L, reg) / 2 + np.log(1 / delta)))
    return confidence_radius(score, least_curvature(L, B), reg, B)


def one_dimensional(rng, beta=0.5):
    phi = rng.uniform(-0.5, 0.5, (2, 3, 1))
    return Bandit(np.array([0.4, 0.6]), np.full((2, 3), 1 / 3), phi, np.array([1.2]), beta, 1.5)


def random_bandit(rng):
    if rng.random() < 0.3:
        return one_dimensional(rng, float(10.0 ** rng.uniform(-1, 1)))
    return Bandit.random(rng, S=2, K=3, d=2, beta=float(10.0 ** rng.uniform(-1.3, 1)), B=2.0)


@result("online-certificate", part="IV", item="4.3", kind="inequality",
        title="The optimal policy is a candidate", source="xiong2024iterative, this book",
        depends=("jeffreys-identity", "enhancer-exact"))
def online_certificate(check):
    """On the event the optimal policy lies in Pi, and rho times the largest uncertainty certifies."""
    size = 250
    for rng, now in check.batches(10_000, fast=750, size=size):
        bandit = random_bandit(rng)
        d = bandit.d
        root = rng.standard_normal((now, d, d)) * 10.0 ** rng.uniform(-1, 1, (now, 1, 1))
        V = root @ np.swapaxes(root, 1, 2) + 0.05 * np.eye(d)
        error = rng.standard_normal((now, d)) * 10.0 ** rng.uniform(-2, 0.5, (now, 1))
        theta = bandit.theta + error
        rho = parameter_error(theta, bandit.theta, V)
        rho = rho * np.where(rng.random(now) < 0.7, 1.0, 10.0 ** rng.uniform(0, 1, now))
        main, star = bandit.gibbs(theta), bandit.optimal_policy
        towards = bandit.beta * kl_divergence(star, main) @ bandit.d0
        away = bandit.plug_in_gap(theta)
        z = (expected_features(star, bandit.phi, bandit.d0)
             - expected_features(main, bandit.phi, bandit.d0))
        inner = -(error * z).sum(-1)
        scale = np.abs(error * z).sum(-1) + 1e-6
        check.identity("step 1: both divergences", towards + away, inner, scale=scale, tol=1e-8)
        gamma = uncertainty(bandit, star, main, V)
        check.inequality("step 2: Cauchy-Schwarz", inner, rho * gamma, scale=scale, tol=1e-9)
        check.inequality("claim: membership, with both divergences", towards + away, rho * gamma,
                         scale=scale, tol=1e-8)
        second = exact_enhancer(bandit, theta, V, rho, angles=24)
        check.inequality("claim: certificate", away + towards, rho * second.upper, scale=scale,
                         tol=1e-8)
        check.inequality("step 3: the enhancer's set", bandit.beta * kl_divergence(
            second.policy, main) @ bandit.d0, rho * second.uncertainty, scale=scale, tol=1e-7)
        check.inequality("step 3: the enhancer is at least as uncertain", gamma, second.upper,
                         scale=1e-9, tol=1e-8)
        # Any truth on the edge of the ellipsoid, that of the worst gap included.
        u = rng.standard_normal((now, d))
        u *= (rho / parameter_error(u, np.zeros(d), V))[:, None]
        edge = plug_in_suboptimality(bandit.reward_of(theta), bandit.reward_of(theta + u),
                                     bandit.beta, bandit.pi0, bandit.d0)
        check.inequality("remark: the plug-in certificate is never larger", edge,
                         rho * second.upper, scale=scale, tol=1e-8)
    # A tiny radius along the worst direction: half of the certificate is for the wrong divergence.
    bandit = one_dimensional(np.random.default_rng(0))
    small = np.array([1e-4])
    theta = bandit.theta + small
    second = exact_enhancer(bandit, theta, np.eye(1), 1e-4)
    both = bandit.plug_in_gap(theta) + bandit.beta * kl_divergence(
        bandit.optimal_policy, bandit.gibbs(theta)) @ bandit.d0
    check.limit("remark: half of the certificate is used as the radius shrinks",
                both / (1e-4 * second.uncertainty), 0.0, 0.5, rtol=1e-2)
    far = bandit.with_(beta=0.005)
    theta = -far.theta
    second = exact_enhancer(far, theta, np.eye(1), 2 * float(far.theta[0]))
    both = far.plug_in_gap(theta) + far.beta * kl_divergence(
        far.optimal_policy, far.gibbs(theta)) @ far.d0
    check.at_least("claim: attained as beta tends to 0", float(
        both / (2 * far.theta[0] * second.uncertainty)), 0.99)
    far = bandit.with_(beta=1e-4)
    second = exact_enhancer(far, np.zeros(1), np.eye(1), float(far.theta[0]))
    edge = max(far.with_(theta=sign * far.theta).plug_in_gap(np.zeros(1)) for sign in (1, -1))
    check.inequality("remark: the plug-in certificate is never larger", edge,
                     far.theta[0] * second.upper, tol=1e-8)
    check.at_least("remark: the plug-in certificate, attained as beta tends to 0", float(
        edge / (far.theta[0] * second.uncertainty)), 0.99)


def expected_design(history):
    """Mean feature differences (T, ..., d) and W_t (T, ..., d, d) of all rounds of a run."""
    bandit = history.bandit
    z = (expected_features(history.enhanced, bandit.phi, bandit.d0)
         - expected_features(history.main, bandit.phi, bandit.d0))
    grown = history.batch * np.cumsum(z[..., :, None] * z[..., None, :], axis=0)
    return z, history.reg * np.eye(bandit.d) + np.concatenate([0 * grown[:1], grown[:-1]])


def failures(history):
    """Per run: did the event, membership, the certificate, V >= W/2 or the bound ever fail?"""
    bandit, m = history.bandit, history.batch
    event = parameter_error(history.theta, bandit.theta, history.V) <= history.rho
    star = bandit.optimal_policy
    towards = bandit.beta * kl_divergence(star, history.main) @ bandit.d0
    gamma = uncertainty(bandit, star, history.main, history.V)
    member = towards <= history.rho * gamma * (1 + 1e-9) + 1e-12
    rhogamma = history.rho * history.uncertainty
    slack = 1 + 1e-2  # the enhancer is found to a relative accuracy of 1e-3
    certified = history.gap + towards <= rhogamma * slack + 1e-12
    _, W = expected_design(history)
    half = least_eigenvalue(history.V - W / 2) >= -1e-9
    T = np.arange(1, history.rounds + 1).reshape(-1, *([1] * (history.rho.ndim - 1)))
    bound = online_bound(history.rho, history.information, T, m)
    bounded = np.minimum.accumulate(rhogamma, axis=0) <= bound * (1 + 1e-9)
    parts = {"event": event, "membership": member, "certificate": certified, "half": half,
             "bound": bounded}
    return {name: ~np.all(held, axis=0) for name, held in parts.items()}, bound


def pathwise(check, history):
    """The steps of the proof without probability: ridge, radius, and step 4 with the measured V.

    With s_t the least eigenvalue of W_t^{-1/2} V_t W_t^{-1/2} in the place of one half, step 4
    holds on every path, with equality at T = 1.
    """
    bandit, m, reg, delta = history.bandit, history.batch, history.reg, history.delta
    L, B, d = bandit.L, bandit.B, bandit.d
    # The statement's ridge and radius, written out, against the library's.
    least = 2 / X_HALF * L**2 * np.log(2 * d / delta)
    check.inequality("setting: the ridge is large enough", least, reg, tol=1e-12)
    gain = np.linalg.slogdet(history.V)[1] - d * np.log(reg)
    score2 = 0.5 * (0.5 * gain + np.log(2 / delta))
    gamma = 1 / (2 + 2 * np.cosh(L * B))
    rho = score2**0.5 / (2 * gamma) + np.sqrt(score2 / (4 * gamma**2) + 4 * reg * B**2)
    check.identity("setting: the radius", history.rho, rho, scale=rho, tol=1e-9)
    z, W = expected_design(history)
    root = np.linalg.cholesky(W)
    inner = np.linalg.solve(root, np.swapaxes(np.linalg.solve(root, history.V), -1, -2))
    share = least_eigenvalue(inner)
    width = (z * np.linalg.solve(W, z[..., None])[..., 0]).sum(-1)
    check.inequality("step 4: from V to W", history.uncertainty**2, width / share, scale=1e-9,
                     tol=1e-8)
    T = np.arange(1, history.rounds + 1).reshape(-1, *([1] * (history.rho.ndim - 1)))
    bound = online_bound(1.0, history.information, T, m)
    bound = bound / np.sqrt(2 * np.minimum.accumulate(share, axis=0))
    check.inequality("step 4: least uncertainty, with the measured share",
                     np.minimum.accumulate(history.uncertainty, axis=0), bound, scale=1e-9,
                     tol=1e-8)
    gain = np.linalg.slogdet(W)[1] - d * np.log(reg)  # of t - 1 rounds
    check.identity("setting: the information", np.diff(gain, axis=0), np.diff(np.concatenate(
        [0 * history.information[:1], history.information])[:-1], axis=0), scale=1.0, tol=1e-8)


def race(check):
    """Online against offline at equal n, both ways round; floors are far below what is seen."""
    quick = partial(exact_enhancer, angles=12, polish=8)
    runs, rng = check.choose(200, 60), check.rng
    for hidden, beta, m, T in (("good", 0.5, 100, 11), ("bad", 0.05, 25, 2)):
        bandit = Bandit.running_example(beta, hidden)
        reg = required_reg(bandit.L, bandit.d, 0.05)
        online = online_gshf(bandit, T, m, rng, reg=reg, replicates=runs, enhancer=quick).gap[-1]
        n = m * (T - 1)
        poor, full = (evaluate(fit_sweep(bandit, c, [n], replicates=400, seed=rng),
                               methods=("plug_in", "pointwise")) for c in (0.01, 1.0))
        if hidden == "good":
            check.at_least("simulated, good arm hidden: full coverage over online",
                           full.mean("plug_in")[0] / online.mean(), 0.5)
            stalled = min(poor.mean("plug_in")[0], poor.mean("pointwise")[0])
            check.at_least("simulated, good arm hidden: coverage 0.01 over online",
                           stalled / online.mean(), 10.0)
        else:
            check.at_least("simulated, bad arms hidden, small n: online over pessimism",
                           online.mean() / poor.mean("pointwise")[0], 2.0)


@result("online-guarantee", part="IV", item="4.3", kind="probability",
        title="Online learning with an enhancer", source="this book; algorithm of xiong2024iterative",
        depends=("online-certificate", "radius-adaptive-design", "design-half",
                 "elliptical-potential-batch"))
def online_guarantee(check):
    """With probability 1 - delta the certificate holds in all rounds and its least value is bounded."""
    rng = check.rng
    cases = [(one_dimensional(rng), 12, 5, check.choose(1_200, 200), 0.05),
             (one_dimensional(rng, 0.05), 25, 1, check.choose(400, 100), 0.05),
             (Bandit.running_example(0.5, "good"), 10, 20, check.choose(200, 30), 0.2),
             (Bandit.running_example(0.05, "bad"), 10, 50, check.choose(150, 30), 0.2),
             (Bandit.random(rng, S=2, K=3, d=2, beta=5.0), 8, 10, check.choose(150, 30), 0.2)]
    for bandit, T, m, trials, delta in cases:
        check.instances += trials
        reg = required_reg(bandit.L, bandit.d, delta)
        history = online_gshf(bandit, T, m, rng, reg=reg, delta=delta, replicates=trials)
        pathwise(check, history)
        failed, bound = failures(history)
        for name in ("event", "half"):
            check.failure_rate(f"step: {name}", failed[name].sum(), trials, delta)
        check.failure_rate("claim: any part fails in any round",
                           np.any(list(failed.values()), axis=0).sum(), trials, delta)
        n = m * np.arange(T).reshape(-1, 1)
        check.inequality("step 1: the radius never shrinks", history.rho[:-1], history.rho[1:],
                         tol=1e-9)
        check.inequality("step 4: explicit radius", history.rho,
                         explicit_radius(bandit.d, n, bandit.L, bandit.B, reg, delta / 2), tol=1e-9)
        check.inequality("step 4: explicit information", history.information,
                         information_bound(bandit.d, n + m, bandit.L, reg), scale=1e-9)
        kept = ~failed["half"]
        rhogamma = np.minimum.accumulate(history.rho * history.uncertainty, axis=0)
        check.inequality("claim: least certificate", rhogamma[:, kept], bound[:, kept], tol=1e-9)
    # The bound holds for every second policy: it is the certificate that needs the maximum.
    for enhancer in (uniform_enhancer, reference_enhancer, gibbs_class_enhancer):
        bandit = Bandit.running_example(0.5, "good")
        history = online_gshf(bandit, 8, 20, rng, reg=required_reg(1.0, 2, 0.05),
                              replicates=check.choose(150, 25), enhancer=enhancer)
        failed, _ = failures(history)
        check.failure_rate("claim: bound, other enhancers", (failed["bound"] | failed["half"]).sum(),
                           failed["bound"].size, 0.2)
    check.at_least("step 4: attained, tightest ratio", check.steps[
        "step 4: least uncertainty, with the measured share"]["tightest_ratio"], 0.9999)
    race(check)
    bounds, trivial = [], []
    for beta in (0.05, 0.5, 5.0):
        bandit = Bandit.running_example(beta, "good")
        reg = required_reg(bandit.L, 2, 0.05)
        for T in (10**3, 10**5, 10**7):
            rho = explicit_radius(2, 10 * T, bandit.L, bandit.B, reg, 0.025)
            bounds.append(online_bound(rho, information_bound(2, 10 * T, 1.0, reg), T, 10))
            trivial.append(beta * sharp_hoeffding(bandit.B * bandit.L / beta) / 4)
    check.not_vacuous("claim: below what the reference loses at most", bounds, trivial)


@result("online-sample-complexity", part="IV", item="4.3", kind="inequality",
        title="How many comparisons and rounds", source="this book", depends=("online-guarantee",))
def online_sample_complexity(check):
    """With at least I rounds, 2(e - 1) rho^2 I / eps^2 comparisons are enough."""
    for rng, size in check.batches(20_000, fast=2_000):
        d = rng.integers(1, 10)
        L, B = 10.0 ** rng.uniform(-1, 1, size), 10.0 ** rng.uniform(-1, 0.3, size)
        delta, m = rng.uniform(0.001, 0.5, size), np.floor(10.0 ** rng.uniform(0, 3, size))
        T = np.floor(10.0 ** rng.uniform(0, 5, size))
        reg = 2 / X_HALF * L**2 * np.log(2 * d / delta)
        info = d * np.log1p(m * T * L**2 / (d * reg))
        score2 = 0.5 * (info / 2 + np.log(2 / delta))
        gamma = 1 / (2 + 2 * np.cosh(L * B))
        rho = np.sqrt(score2) / (2 * gamma) + np.sqrt(score2 / (4 * gamma**2) + 4 * reg * B**2)
        y = rng.uniform(0, 1, size)
        check.inequality("step 1: the chord of the exponential", np.expm1(y), (np.e - 1) * y)
        bound = rho * np.sqrt(2 / m * np.expm1(np.minimum(info / T, 600.0)))
        enough = T >= info
        simple = rho * np.sqrt(2 * (np.e - 1) * info / (m * T))
        check.inequality("claim: simple form", bound[enough], simple[enough], tol=1e-11)
        # Fewer rounds than features: more comparisons per round never help for long.
        one = 2 / m * np.expm1(np.minimum(info / T, 600.0))
        few = T <= d  # equality at T = d
        check.inequality("remark: too few rounds", 2 * L[few]**2 / reg[few], one[few] * (1 + 1e-9))


@result("round-by-round-vacuous", part="IV", item="4.3", kind="inequality",
        title="Round by round, the bound stays above a constant", source="this book",
        depends=("design-half", "elliptical-potential-batch"))
def round_by_round_vacuous(check):
    """A ridge proportional to the number of rounds keeps the explicit bound above a constant."""
    for rng, size in check.batches(20_000, fast=2_000):
        d = int(rng.integers(1, 10))
        L, B = 10.0 ** rng.uniform(-1, 1, size), 10.0 ** rng.uniform(-1, 0.3, size)
        delta, m = rng.uniform(0.001, 0.5, size), np.floor(10.0 ** rng.uniform(0, 4, size))
        T = np.floor(10.0 ** rng.uniform(0, 6, size))
        each = 2 / X_HALF * L**2 * np.log(2 * d * T / delta)
        first = 2 / X_HALF * L**2 * np.log(2 * d / delta)
        info = d * np.log1p(m * L**2 / (d * each))  # with reg = T each
        score2 = 0.5 * (info / 2 + np.log(2 / delta))
        gamma = 1 / (2 + 2 * np.cosh(L * B))
        rho = np.sqrt(score2) / (2 * gamma) + np.sqrt(score2 / (4 * gamma**2) + 4 * T * each * B**2)
        check.inequality("step 1: the ridge enters the radius", 2 * B * np.sqrt(T * each), rho)
        bound = rho * np.sqrt(2 / m * np.expm1(info / T))
        floor = 2 * B * np.sqrt(2 / m * d * each * np.log1p(m * L**2 / (d * each)))
        check.inequality("step 2: below by the tangent", floor, bound, tol=1e-11)
        least = 2 * B * np.sqrt(2 / m * d * first * np.log1p(m * L**2 / (d * first)))
        check.inequality("claim: the bound stays above a constant", least, bound, tol=1e-11)
        check.inequality("step 3: the constant grows with the ridge", least, floor, tol=1e-11)
