r"""Checks of part IV, item 4.4: hybrid learning, from an offline log to rounds of comparisons.

What lives here: the radius that knows the design of the log, the guarantee of a hybrid run, how the
log shrinks the information gain, and the variant whose second answer comes from the reference.
What does not: the guarantee without a log (``part4_guarantee``), the potential
(``part4_potential``).
"""

from __future__ import annotations

import numpy as np
from scipy.stats import binom

from klrlhf.bandit import Bandit
from klrlhf.confidence import design_matrix, parameter_error
from klrlhf.coverage import design_covariance, expected_features, mixture_design
from klrlhf.numerics import sigmoid
from klrlhf.online import (
    online_bound,
    online_gshf,
    reference_enhancer,
    required_reg,
    water_level,
    without_enhancer_bound,
)
from klrlhf.policies import kl_divergence
from klrlhf.preferences import (
    all_pairs,
    coverage_design,
    pair_features,
    policy_design,
    sample_comparisons,
)
from klrlhf.results.part4_chernoff import least_eigenvalue
from klrlhf.results.registry import result


def log_det(A):
    return np.linalg.slogdet(A)[1]


def score_bound_hybrid(V, V_start, kappa, delta):
    """Bound of the score norm after a log of fixed design: its design enters the prior."""
    d = V.shape[-1]
    growth = d * np.log1p(1 / kappa) + log_det(V) - log_det(V_start)
    return np.sqrt((1 + kappa) / 2 * (growth / 2 - np.log(delta)))


@result("radius-hybrid", part="IV", item="4.4", kind="probability",
        title="A radius that knows the design of the log",
        source="this book; method of abbasi2011improved",
        depends=("radius-adaptive-design",))
def radius_hybrid(check):
    """After a log of fixed design, adaptivity is paid for on the online comparisons only."""
    # The mixture in one dimension, all pairs z = 1 and fair outcomes: its mean by enumeration.
    for n, kappa in ((50, 1.0), (2_000, 0.5)):
        s, prior = np.arange(n + 1) - n / 2, kappa * n
        mixture = np.sqrt(prior / (prior + n)) * np.exp(2 * s**2 / (prior + n))
        mean = binom.pmf(np.arange(n + 1), n, 0.5) @ mixture
        check.inequality("step 1: mean of the mixture", mean, 1.0, tol=1e-9)
        check.at_least("step 1: the mean is attained", mean, 0.99)
    for rng, size in check.batches(10_000, fast=1_000, size=500):
        d = int(rng.integers(1, 5))
        root = rng.standard_normal((2, size, d, d))
        root *= 10.0 ** rng.uniform(-1.5, 1.5, (2, size, 1, 1))
        start, new = root @ np.swapaxes(root, -1, -2)
        start = start + 1e-3 * np.trace(start, axis1=1, axis2=2)[:, None, None] * np.eye(d)
        V, kappa = start + new, 10.0 ** rng.uniform(-2, 1, size)
        ridge = rng.random(size) * np.linalg.eigvalsh(start)[:, 0]
        both = kappa[:, None, None] * start + V - ridge[:, None, None] * np.eye(d)
        check.inequality("step 2: the prior is at most kappa more", 0.0, least_eigenvalue(
            (1 + kappa)[:, None, None] * V - both),
            scale=(1 + kappa) * np.trace(V, axis1=1, axis2=2))
        s = rng.standard_normal((size, d))
        plain = np.einsum("ni,ni->n", s, np.linalg.solve(V, s[..., None])[..., 0])
        inner = np.einsum("ni,ni->n", s, np.linalg.solve(both, s[..., None])[..., 0])
        check.inequality("step 3: change of norm", plain, (1 + kappa) * inner, tol=1e-9)
        exact = log_det(both) - log_det(kappa[:, None, None] * start)
        check.inequality("step 4: the determinant", exact,
                         d * np.log1p(1 / kappa) + log_det(V) - log_det(start), scale=1.0, tol=1e-9)
        delta = rng.uniform(0.01, 0.9, size)
        largest = 2 * score_bound_hybrid(V, start, kappa, delta) ** 2 / (1 + kappa)
        growth = d * np.log1p(1 / kappa) + log_det(V) - log_det(start)
        check.identity("step 4: the mixture at the bound", largest - growth / 2, -np.log(delta),
                       scale=1 + growth, tol=1e-9)
    # The level: a log of fixed design, then comparisons chosen by looking (ties of the fit).
    trials, rng = check.choose(6_000, 800), check.rng
    for d, n_off, rounds, kappa, delta in ((1, 20, 60, 0.5, 0.2), (2, 50, 60, 1.0, 0.1),
                                           (3, 200, 40, 1.0, 0.2)):
        theta = np.full(d, 0.5 / np.sqrt(d))
        log = rng.standard_normal((n_off, d))
        log /= np.linalg.norm(log, axis=1, keepdims=True)
        V = np.tile(np.eye(d) * 0.5 + log.T @ log, (trials, 1, 1))
        start = V.copy()
        p = sigmoid(log @ theta)
        s = ((rng.random((trials, n_off)) < p) - p) @ log
        crossed = np.zeros(trials, bool)
        for turn in range(rounds + 1):
            norm = np.sqrt(np.einsum("ni,ni->n", s, np.linalg.solve(V, s[..., None])[..., 0]))
            crossed |= norm > score_bound_hybrid(V, start, kappa, delta)
            if turn == rounds:
                break
            z = np.linalg.solve(V, s[..., None])[..., 0] + 0.3 * rng.standard_normal((trials, d))
            z /= np.linalg.norm(z, axis=1, keepdims=True)
            y = rng.random(trials) < sigmoid(z @ theta)
            s = s + (y - sigmoid(z @ theta))[:, None] * z
            V = V + z[:, :, None] * z[:, None, :]
        check.failure_rate("claim: ever above, log and adaptive rounds", crossed.sum(), trials,
                           delta)
    # One dimension, the log alone, no ridge, the best kappa.
    trials = check.choose(100_000, 20_000)
    for n, delta in ((2_000, 0.3), (2_000, 0.05)):
        s = (rng.binomial(n, 0.5, trials) - n / 2) / np.sqrt(n)
        kappas = np.geomspace(0.01, 20, 400)
        V = np.array([[float(n)]])
        best = min(score_bound_hybrid(V, V, kappa, delta) for kappa in kappas)
        check.failure_rate("claim: the log alone", (np.abs(s) > best).sum(), trials, delta)
    # It is never larger than the fixed-design bound of a log without ridge.
    for d in (1, 2, 5, 20, 100):
        for delta in (0.5, 0.1, 0.01, 1e-6):
            tau = -np.log(delta)
            kappa = np.sqrt(d / tau) / 2
            check.inequality("step 5: beside the fixed-design bound",
                             (1 + kappa) / 2 * (d / 2 * np.log1p(1 / kappa) + tau),
                             0.25 * (d + 2 * np.sqrt(d * tau) + 2 * tau))


def random_case(rng):
    """An instance of random kind, with a log that may be empty in some directions."""
    if rng.random() < 0.3:
        return Bandit.running_example(float(10.0 ** rng.uniform(-1.3, 0.7)), "good")
    return Bandit.random(rng, S=2, K=3, d=2, beta=float(10.0 ** rng.uniform(-1.3, 0.7)), B=2.0)


def replay(history, offline, weight=2.0):
    """V before each round, W before each round and zbar, from what a run recorded."""
    bandit, m = history.bandit, history.batch
    z = (expected_features(history.enhanced, bandit.phi, bandit.d0)
         - expected_features(history.main, bandit.phi, bandit.d0))
    grown = m * np.cumsum(z[..., :, None] * z[..., None, :], axis=0)
    grown = np.concatenate([0 * grown[:1], grown])
    return z, history.reg * np.eye(bandit.d) + weight * design_matrix(offline, 0.0) + grown


@result("hybrid-guarantee", part="IV", item="4.4", kind="probability",
        title="Hybrid learning", source="this book; algorithm of xiong2024iterative",
        depends=("online-certificate", "radius-adaptive-design", "adapted-matrix-chernoff",
                 "elliptical-potential-batch"))
def hybrid_guarantee(check):
    """With probability 1 - delta all certificates hold and the least of them is bounded."""
    rng, trials = check.rng, check.choose(120, 30)
    cases = ((0.05, "good", 0.01, 100, 8, 50), (0.5, "good", 0.01, 400, 8, 25),
             (0.5, "bad", 0.3, 200, 10, 10), (5.0, "good", 1.0, 50, 6, 20))
    delta = 0.2
    for beta, hidden, c, n_off, T, m in cases:
        bandit = Bandit.running_example(beta, hidden)
        reg = required_reg(bandit.L, bandit.d, delta)
        offline = sample_comparisons(bandit, n_off, coverage_design(bandit, c), rng, trials)
        history = online_gshf(bandit, T, m, rng, reg=reg, delta=delta, offline=offline)
        check.instances += trials
        failed, bound = failures(history, offline)
        for name in ("event", "half"):
            check.failure_rate(f"step: {name}", failed[name].sum(), trials, delta)
        check.failure_rate("claim: any part fails in any round",
                           np.any(list(failed.values()), axis=0).sum(), trials, delta)
        z, W = replay(history, offline)
        check.identity("step 2: where V starts", history.V[0],
                       reg * np.eye(2) + design_matrix(offline, 0.0), scale=n_off + reg)
        check.identity("step 2: where V and W start", 2 * history.V[0] - reg * np.eye(2), W[0],
                       scale=n_off + reg)
        check.identity("step 2: the library's W", history.W, W[-1], scale=n_off + reg + m * T)
        gained = m * np.einsum("tni,tni->tn", z, np.linalg.solve(W[:-1], z[..., None])[..., 0])
        exact = log_det(W[1:]) - log_det(W[:1])
        check.identity("step 3: the potential", np.cumsum(np.log1p(gained), axis=0), exact,
                       scale=1 + exact, tol=1e-9)
        check.identity("step 3: the library's information", history.information, exact,
                       scale=1 + exact, tol=1e-9)
        kept = ~failed["half"]
        least = np.minimum.accumulate(history.rho * history.uncertainty, axis=0)
        check.inequality("claim: least certificate", least[:, kept], bound[:, kept], tol=1e-9)
    # Half of W from the log's own weight two, for every design of the log.
    for rng, size in check.batches(10_000, fast=1_000):
        d = int(rng.integers(1, 5))
        root = rng.standard_normal((3, size, d, d)) * 10.0 ** rng.uniform(-1, 1, (3, size, 1, 1))
        G, X, more = root @ np.swapaxes(root, -1, -2)
        reg = 10.0 ** rng.uniform(-1, 1, size)[:, None, None]
        half = reg / 2 * np.eye(d) + X  # at least Y / 2, by Chernoff's bound
        Y = 2 * half - more * (least_eigenvalue(half) / np.linalg.eigvalsh(more)[:, -1]
                               * rng.random(size))[:, None, None]
        V, W = reg * np.eye(d) + G + X, reg * np.eye(d) + 2 * G + Y
        check.inequality("step 2: half of W", 0.0, least_eigenvalue(V - W / 2),
                         scale=np.trace(V, axis1=1, axis2=2))
    # The first round's certificate is that of the offline plug-in; not vacuous with a covering log.
    bandit = Bandit.running_example(0.5, "good")
    offline = sample_comparisons(bandit, 10**6, coverage_design(bandit, 1.0), check.rng)
    first = online_gshf(bandit, 1, 1, check.rng, reg=required_reg(1.0, 2, 0.05), offline=offline)
    check.not_vacuous("claim: certificate of round 1", first.certificate[0],
                      float(bandit.gap(bandit.pi0)))


def failures(history, offline):
    """Per run: did the event, membership, certificate, V >= W/2 or the bound ever fail?"""
    bandit, m = history.bandit, history.batch
    star = bandit.optimal_policy
    event = parameter_error(history.theta, bandit.theta, history.V) <= history.rho
    towards = bandit.beta * kl_divergence(star, history.main) @ bandit.d0
    certified = history.gap + towards <= history.rho * history.uncertainty * 1.01 + 1e-12
    honest = history.gap <= history.certificate * (1 + 1e-9)
    _, W = replay(history, offline)
    half = least_eigenvalue(history.V - W[:-1] / 2) >= -1e-9
    T = np.arange(1, history.rounds + 1)[:, None]
    bound = online_bound(history.rho, history.information, T, m)
    least = np.minimum.accumulate(history.rho * history.uncertainty, axis=0)
    parts = {"event": event, "certificate": certified & honest, "half": half,
             "bound": least <= bound * (1 + 1e-9)}
    return {name: ~np.all(held, axis=0) for name, held in parts.items()}, bound


@result("hybrid-information", part="IV", item="4.4", kind="inequality",
        title="A log shrinks the information gain", source="this book",
        depends=("elliptical-potential-batch", "coverage-mixture"))
def hybrid_information(check):
    """The gain is at most that of filling the eigenvalues of W_1 like water; a log lifts them."""
    for rng, size in check.batches(20_000, fast=2_000):
        d, T = int(rng.integers(1, 5)), int(rng.integers(1, 7))
        root = rng.standard_normal((size, d, d)) * 10.0 ** rng.uniform(-1.5, 0.5, (size, 1, d))
        W1 = root @ np.swapaxes(root, 1, 2) + 10.0 ** rng.uniform(-3, 0, (size, 1, 1)) * np.eye(d)
        w, axes = np.linalg.eigh(W1)
        m, L = np.floor(10.0 ** rng.uniform(0, 3, size)), 10.0 ** rng.uniform(-1, 1, size)
        z = rng.standard_normal((size, T, d))
        # Along the weak axes, where the bound is tight.
        lean = (rng.random(size) < 0.5)[:, None, None]
        z = np.where(lean, np.einsum("nij,ntj->nti", axes, z / w[:, None, :] ** 2), z)
        z *= (L * rng.choice([1.0, 0.6], size))[:, None, None] / np.linalg.norm(
            z, axis=-1, keepdims=True)
        A = m[:, None, None] * np.einsum("nti,ntj->nij", z, z)
        gain, budget = log_det(W1 + A) - log_det(W1), m * T * L**2
        nu = water_level(w, budget)
        check.identity("step 1: the level", np.maximum(nu[:, None] - w, 0).sum(-1), budget,
                       scale=budget, tol=1e-9)
        filled = np.maximum(np.log(nu[:, None] / w), 0.0).sum(-1)
        N = np.einsum("nij,nj,nkj->nik", axes, np.maximum(w, nu[:, None]), axes)
        tangent = log_det(N) + np.einsum("nij,nji->n", np.linalg.inv(N), W1 + A - N)
        check.inequality("step 2: the tangent", log_det(W1 + A), tangent, scale=1.0, tol=1e-9)
        check.inequality("step 3: the trace", tangent, log_det(N), scale=1.0, tol=1e-8)
        check.inequality("claim: water filling", gain, filled, scale=1e-9, tol=1e-9)
        check.identity("claim: attained", log_det(N) - log_det(W1), filled, scale=1 + filled,
                       tol=1e-9)
        check.identity("claim: attained with the same trace",
                       np.trace(N - W1, axis1=1, axis2=2), budget,
                       scale=budget + np.trace(W1, axis1=1, axis2=2), tol=1e-9)
        check.inequality("claim: least eigenvalue", filled,
                         d * np.log1p(budget / (d * w[:, 0])), tol=1e-9)
        check.inequality("claim: linear in the rounds", gain, budget / w[:, 0], tol=1e-9)
        floor = w[:, 0] * rng.random(size)  # a ridge: the gain without the log is at least that
        check.inequality("remark: the two regimes", gain, np.minimum(
            d * np.log1p(budget / (d * floor)), budget / w[:, 0]), tol=1e-9)
        width = np.einsum("nti,nti->nt", z, np.linalg.solve(W1[:, None], z[..., None])[..., 0])
        check.inequality("claim: widths at the start", gain, m * T * width.max(1), tol=1e-9)
        # A mixture log: W_1 is at least that of its covering share.
        K = int(rng.integers(2, 5))
        phi = rng.standard_normal((1, K, d))
        covering, narrow = rng.dirichlet(np.ones(K * (K - 1) // 2), 2)
        c, n_off, reg = rng.random(), 10.0 ** rng.uniform(0, 5), 10.0 ** rng.uniform(-2, 1)
        pairs = pair_features(phi, all_pairs(1, K))
        whole = design_covariance(pairs, mixture_design(c, covering, narrow))
        share = design_covariance(pairs, covering)
        check.inequality("step 4: the covering share", 0.0,
                         least_eigenvalue(whole - c * share), scale=np.trace(whole))
        start = reg * np.eye(d) + 2 * n_off * whole
        lift = reg + 2 * c * n_off * max(np.linalg.eigvalsh(share)[0], 0.0)
        L2 = (z**2).sum(-1).max(1)
        check.inequality("claim: mixture log", log_det(start + A) - log_det(start),
                         d * np.log1p(m * T * L2 / (d * lift)), scale=1e-9, tol=1e-8)
        check.inequality("claim: a larger start gains less", log_det(start + A) - log_det(start),
                         log_det(reg * np.eye(d) + A) - log_det(reg * np.eye(d)), scale=1e-9,
                         tol=1e-9)


@result("hybrid-without-enhancer", part="IV", item="4.4", kind="probability",
        title="Hybrid learning without an enhancer",
        source="xiong2024iterative; constants: this book",
        depends=("hybrid-guarantee", "online-certificate"))
def hybrid_without_enhancer(check):
    """Pairs (main agent, reference): the best round of the second half is bounded."""
    for rng, size in check.batches(10_000, fast=1_000, size=250):
        bandit = random_case(rng)
        d = bandit.d
        root = rng.standard_normal((size, d, d)) * 10.0 ** rng.uniform(-1, 1, (size, 1, 1))
        late = root @ np.swapaxes(root, 1, 2) + 0.05 * np.eye(d)
        early = late * rng.random((size, 1, 1))
        error = rng.standard_normal((size, d)) * 10.0 ** rng.uniform(-2, 0.5, (size, 1))
        theta = bandit.theta + error
        rho = parameter_error(theta, bandit.theta, late)
        main = bandit.gibbs(theta)
        e = [expected_features(p, bandit.phi, bandit.d0)
             for p in (bandit.optimal_policy, main, bandit.pi0)]

        def norm(u, V):
            return np.sqrt(np.einsum("ni,ni->n", u, np.linalg.solve(V, u[..., None])[..., 0]))

        both = bandit.plug_in_gap(theta) + bandit.beta * kl_divergence(
            bandit.optimal_policy, main) @ bandit.d0
        whole = norm(e[0] - e[1], late)
        check.inequality("step 1: the certificate of one policy", both, rho * whole,
                         scale=1e-7 * rho, tol=1e-8)
        star = norm(np.broadcast_to(e[0] - e[2], theta.shape), late)
        check.inequality("step 2: triangle", whole, star + norm(e[1] - e[2], late), tol=1e-10)
        check.inequality("step 3: V grows", star, norm(
            np.broadcast_to(e[0] - e[2], theta.shape), early), tol=1e-9)
    rng, trials, delta = check.rng, check.choose(120, 30), 0.2
    cases = ((0.05, "good", 0.01, 200, 8, 50), (0.5, "good", 0.01, 400, 9, 25),
             (0.5, "bad", 1.0, 100, 10, 20), (5.0, "good", 0.1, 50, 7, 20))
    for beta, hidden, c, n_off, T, m in cases:
        bandit = Bandit.running_example(beta, hidden)
        reg = required_reg(bandit.L, bandit.d, delta)
        offline = sample_comparisons(bandit, n_off, coverage_design(bandit, c), rng, trials)
        history = online_gshf(bandit, T, m, rng, reg=reg, delta=delta, offline=offline,
                              enhancer=reference_enhancer)
        check.instances += trials
        half = T // 2
        z, W = replay(history, offline)
        later = slice(half, T)
        width2 = np.einsum("tni,tni->tn", z, np.linalg.solve(W[:-1], z[..., None])[..., 0])
        gain = history.information[-1] - history.information[half - 1]
        check.inequality("step 4: the least of the second half", width2[later].min(0),
                         np.expm1(gain / (T - half)) / m, tol=1e-9)
        pick = half + history.uncertainty[later].argmin(0)
        run = np.arange(trials)
        towards = bandit.beta * kl_divergence(bandit.optimal_policy, history.main) @ bandit.d0
        both = (history.gap + towards)[pick, run]
        e = (expected_features(bandit.optimal_policy, bandit.phi, bandit.d0)
             - expected_features(bandit.pi0, bandit.phi, bandit.d0))
        start = np.sqrt(np.einsum("i,nij,j->n", e, np.linalg.inv(history.V[half]), e))
        sharp = history.rho[-1] * (start + np.sqrt(2 / m * np.expm1(gain / (T - half))))
        simple = without_enhancer_bound(history.rho[-1], start, history.information[-1], T, m)
        check.identity("claim: the formula", simple, history.rho[-1] * (start + np.sqrt(
            2 / m * np.expm1(2 * history.information[-1] / T))), scale=simple)
        check.inequality("step 5: simpler", sharp, simple, tol=1e-9)
        check.failure_rate("claim: second half", (both > sharp).sum(), trials, delta)
        check.failure_rate("claim: simple form", (both > simple).sum(), trials, delta)
    # Data from (pi0, pi0) alone: the first term decays, with the coverage of part III in front.
    bandit, values = Bandit.running_example(0.5, "good"), []
    z = pair_features(bandit.phi, all_pairs(bandit.S, bandit.K))
    sigma = design_covariance(z, policy_design(bandit.d0, bandit.pi0, bandit.pi0))
    e = expected_features(bandit.optimal_policy, bandit.phi, bandit.d0)
    for n in (1e3, 1e4, 1e5):
        values.append(np.sqrt(e @ np.linalg.solve(np.eye(2) + n * sigma, e)))
    check.slope("remark: the first term", [1e3, 1e4, 1e5], values, -0.5, 0.02)
