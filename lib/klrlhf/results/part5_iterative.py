r"""Checks of part V, item 5.6: iterative DPO as the online algorithm, exact and as practised.

What lives here: the certificate of a played policy that is not the fitted one, the guarantee of a
run with inexact fits, what comparisons of two policies tell, moving references, certain labels.
What does not: the exact algorithm (``part4_guarantee``), one inexact fit
(``part5_direct_inexact``).
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from klrlhf.bandit import Bandit
from klrlhf.confidence import parameter_error
from klrlhf.coverage import expected_features
from klrlhf.direct import best_and_worst, inexact_enhancer, iterative_dpo, released_recipe
from klrlhf.offline import plug_in_bounds
from klrlhf.online import (
    best_of_n_enhancer,
    exact_enhancer,
    online_bound,
    online_gshf,
    required_reg,
    temperature_enhancer,
    uncertainty,
    worst_of_n_enhancer,
)
from klrlhf.policies import (
    feature_covariance,
    feature_mean,
    gibbs_policy,
    kl_divergence,
    kl_divergence_from_logs,
    log_gibbs_policy,
    log_partition,
)
from klrlhf.preferences import all_pairs, pair_features, policy_design
from klrlhf.results.instances import random_instances, random_policies
from klrlhf.results.part3_plug_in import linear_instances, log_policy, mean, moved_features, penalty
from klrlhf.results.part4_chernoff import least_eigenvalue
from klrlhf.results.registry import result


@result("inexact-certificate", part="V", item="5.6", kind="inequality",
        title="The certificate of a played policy", source="this book",
        depends=("value-decomposition-inexact", "online-certificate", "enhancer-exact"))
def inexact_certificate(check):
    """Relative to the policy that is played, an inexact fit costs epsilon once and nothing else."""
    for rng, size in check.batches(20_000, fast=2_000, size=500):
        inst = linear_instances(rng, size)
        start, best = log_policy(inst, 0 * inst.unit), log_policy(inst, inst.unit)
        shift = rng.standard_normal(start.shape) * 10.0 ** rng.uniform(-3, 1, (size, 1, 1))
        played = log_softmax(start + shift, axis=-1)
        eps = penalty(inst, played)
        gap = inst.beta * mean(kl_divergence_from_logs(played, best), inst.d0)
        towards = penalty(inst, best)
        v = moved_features(inst, best) - moved_features(inst, played)
        cross = inst.rho * (v * inst.unit).sum(-1)
        unit = gap + towards + eps + np.abs(cross) + inst.beta * 1e-3
        check.identity("step 1: the decomposition", gap + towards, cross + eps,
                       scale=unit + inst.beta * np.abs(played).max((1, 2)), tol=1e-9)
        Gamma = np.linalg.norm(v, axis=-1)
        check.inequality("claim: gap and divergence", gap + towards, inst.rho * Gamma + eps,
                         scale=unit, tol=1e-9)
        check.inequality("step 2: membership", towards, inst.rho * Gamma + eps, scale=unit,
                         tol=1e-9)
        own = np.linalg.norm(moved_features(inst, best), axis=-1)
        aside = np.linalg.norm(moved_features(inst, played), axis=-1)
        check.inequality("step 3: the enhancer of the fitted policy", Gamma, own + aside, tol=1e-9,
                         scale=1e-9 * (own + aside))
    # One dimension, truth at the end of the ellipsoid: equality.
    inst = linear_instances(check.rng, 500, d=1)
    unit = np.sign(inst.unit)
    start, best = log_policy(inst, 0 * unit), log_policy(inst, unit)
    played = log_softmax(start + 0.1 * (best - start), axis=-1)
    v = moved_features(inst, best) - moved_features(inst, played)
    left = inst.beta * mean(kl_divergence_from_logs(played, best), inst.d0) + penalty(inst, best)
    right = inst.rho * np.linalg.norm(v, axis=-1) + penalty(inst, played)
    check.identity("claim: attained", left, right, tol=1e-9,
                   scale=right + inst.beta * (1e-3 + np.abs(played).max((1, 2))))
    # The computed maximum: above every candidate that a search finds, and found itself.
    rng, tight = check.rng, []
    for _ in range(check.choose(60, 12)):
        bandit = Bandit.random(rng, S=2, K=3, d=2, beta=float(10 ** rng.uniform(-1, 0.5)))
        theta, rho = rng.standard_normal(2), float(10 ** rng.uniform(-1, 0.5))
        root = rng.standard_normal((2, 2)) + 1.5 * np.eye(2)
        V = root @ root.T + 0.1 * np.eye(2)
        played = np.exp(log_softmax(np.log(bandit.gibbs(theta))
                                    + 0.3 * rng.standard_normal((2, 3)), axis=-1))
        found = inexact_enhancer(bandit, theta, V, rho, played, angles=96)
        log_main = log_gibbs_policy(bandit.reward_of(theta), bandit.beta, bandit.pi0)
        eps = bandit.beta * kl_divergence_from_logs(np.log(played), log_main) @ bandit.d0
        spread = 10.0 ** rng.uniform(-1, 1.5, (400, 1, 1))
        others = np.exp(log_softmax(np.concatenate([
            log_main + spread * rng.standard_normal((400, 2, 3)),
            log_main + bandit.reward_of(rng.standard_normal((400, 2)) * spread[..., 0])]), -1))
        others = np.maximum(others, 1e-300)
        Gamma = uncertainty(bandit, others, played, V)
        paid = bandit.beta * kl_divergence_from_logs(
            np.log(others / others.sum(-1, keepdims=True)), log_main) @ bandit.d0
        inside = paid <= rho * Gamma + eps
        check.inequality("step 4: no candidate is more uncertain", Gamma[inside], found.upper,
                         tol=1e-9)
        own = bandit.beta * kl_divergence(found.policy, np.exp(log_main)) @ bandit.d0
        check.inequality("step 4: its policy is a candidate", own,
                         rho * found.uncertainty + eps, scale=1e-9, tol=1e-6)
        # The end: truths on the ellipsoid, and an enhancer that finds a share alpha of the most.
        unit = rng.standard_normal((200, 2))
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        truth = theta + rho * np.linalg.solve(np.linalg.cholesky(V).T, unit.T).T
        stars = log_gibbs_policy(bandit.reward_of(truth), bandit.beta, bandit.pi0)
        lost = bandit.beta * kl_divergence_from_logs(np.log(played), stars) @ bandit.d0
        lost = lost + bandit.beta * kl_divergence_from_logs(stars, log_main) @ bandit.d0
        some = Gamma[inside][:1]
        check.inequality("claim: an enhancer of ratio alpha", lost,
                         rho * some / (some / found.upper) + eps, tol=1e-9)
        tight.append(float(found.uncertainty / found.upper))
        rough = inexact_enhancer(bandit, theta, V, rho, played, angles=8, polish=0).upper
        check.inequality("step 4: the upper bound of a rough search", found.uncertainty, rough,
                         tol=1e-9)
        same = inexact_enhancer(bandit, theta, V, rho, np.exp(log_main), angles=96)
        check.identity("step 4: without error it is the exact enhancer", same.uncertainty,
                       exact_enhancer(bandit, theta, V, rho, angles=96).uncertainty, tol=1e-5)
    check.at_least("step 4: value and upper bound meet", min(tight), 0.95)


def played_near(bandit, theta):
    """A mixture of the fitted policy with a flatter one: what a sampler with a bug might play."""
    flat = gibbs_policy(bandit.reward_of(theta), 2.0 * bandit.beta, bandit.pi0)
    return 0.8 * bandit.gibbs(theta) + 0.2 * flat


@result("online-inexact", part="V", item="5.6", kind="probability",
        title="Iterative DPO with inexact policies", source="this book; algorithm of "
        "xiong2024iterative", depends=("inexact-certificate", "dpo-inexact", "online-guarantee",
                                       "adapted-matrix-chernoff", "elliptical-potential-batch"))
def online_inexact(check):
    """With probability 1 - delta every certificate of the played policies holds, at every round."""
    rng, trials, delta = check.rng, check.choose(100, 30), 0.2
    cases = ((0.5, "good", 8, 25, 3, played_near), (0.5, "bad", 6, 40, None, played_near),
             (5.0, "good", 6, 20, 1, None))
    for beta, hidden, T, m, steps, play in cases:
        bandit = Bandit.running_example(beta, hidden)
        reg = required_reg(bandit.L, bandit.d, delta)
        run = iterative_dpo(bandit, T, m, rng, reg=reg, delta=delta, gradient_steps=steps,
                            play=play, replicates=trials)
        check.instances += trials
        event = parameter_error(run.theta, bandit.theta, run.V) <= run.rho
        star, d0 = bandit.optimal_policy, bandit.d0
        towards = bandit.beta * kl_divergence(star, run.main) @ d0
        toward_star = np.stack([uncertainty(bandit, star, p, V)
                                for p, V in zip(run.played, run.V, strict=True)])
        member = towards <= run.rho * toward_star + run.epsilon + 1e-12
        certified = run.gap + towards <= 1.01 * run.rho * run.uncertainty + run.epsilon + 1e-12
        printed = run.gap <= run.certificate * (1 + 1e-9)
        z = (expected_features(run.enhanced, bandit.phi, d0)
             - expected_features(run.played, bandit.phi, d0))
        grown = np.cumsum(m * z[..., :, None] * z[..., None, :], axis=0)
        W = reg * np.eye(2) + np.concatenate([0 * grown[:1], grown])
        half = least_eigenvalue(run.V - W[:-1] / 2) >= -1e-9
        check.identity("step 4: the potential", run.information,
                       np.linalg.slogdet(W[1:])[1] - np.linalg.slogdet(W[0])[1],
                       scale=1 + run.information, tol=1e-9)
        check.inequality("step 1: the radius never shrinks", run.rho[:-1], run.rho[1:])
        rounds = np.arange(1, T + 1)[:, None]
        worst = np.maximum.accumulate(run.epsilon, axis=0)
        least = np.minimum.accumulate(run.rho * run.uncertainty + run.epsilon, axis=0)
        bound = online_bound(run.rho, run.information, rounds, m) + worst
        kept = half.all(axis=0)
        check.inequality("claim: the least certificate", least[:, kept], bound[:, kept], tol=1e-9)
        parts = (event, member, certified, printed, half)
        for name, part in zip(("step 1: event", "step 2: candidate", "step 2: certificate",
                               "step 2: printed certificate", "step 3: half"), parts, strict=True):
            check.failure_rate(name, (~part.all(axis=0)).sum(), trials, delta)
        check.failure_rate("claim: any part fails in any round",
                           (~np.all(parts, axis=(0, 1))).sum(), trials, delta)
    # The printed certificate is not below either of its two sources, for a policy played far off.
    for enhancer in (None, exact_enhancer):
        bandit = Bandit.running_example(5.0, "good")
        run = iterative_dpo(bandit, 4, 2_000, rng, reg=12.0, enhancer=enhancer, replicates=5,
                            play=lambda b, theta: 0.5 * b.gibbs(theta) + 0.5 * np.eye(4)[2])
        for t in range(4):
            theta, V, rho, played = run.theta[t], run.V[t], run.rho[t], run.played[t]
            away = uncertainty(bandit, played, run.main[t], V)
            first = plug_in_bounds(bandit, theta, V, rho).certificate + rho * away
            second = rho * (run.uncertainty[t] if enhancer is None else
                            exact_enhancer(bandit, theta, V, rho).uncertainty + away)
            check.inequality("step 2: the printed certificate adds every term",
                             0.99 * np.minimum(first, second) + run.epsilon[t],
                             run.certificate[t], tol=1e-9)
    bandit = Bandit.running_example(0.5, "good")
    settings = {"reg": required_reg(1.0, 2, 0.05), "replicates": 3}
    mine = iterative_dpo(bandit, 4, 50, 7, enhancer=exact_enhancer, **settings)
    theirs = online_gshf(bandit, 4, 50, 7, **settings)
    for name in ("theta", "certificate", "gap", "information"):
        check.identity("claim: exact fits give the online algorithm", getattr(mine, name),
                       getattr(theirs, name), scale=1 + np.abs(getattr(theirs, name)), tol=1e-12)


@result("comparison-information", part="V", item="5.6", kind="identity",
        title="What a comparison of two policies tells", source="this book",
        depends=("enhancer-exact",))
def comparison_information(check):
    """A comparison informs by both covariances and the difference; the latter may be 0."""
    for rng, size in check.batches(10_000, fast=1_000, size=500):
        S, K, d = (int(rng.integers(*ends)) for ends in ((1, 4), (2, 6), (1, 4)))
        phi, d0 = rng.standard_normal((S, K, d)), rng.dirichlet(np.ones(S))
        first, second = (random_policies(rng, size, S, K) for _ in range(2))
        z = pair_features(phi, all_pairs(S, K))
        told = np.einsum("nt,ti,tj->nij", policy_design(d0, first, second), z, z)
        step = feature_mean(first, phi) - feature_mean(second, phi)
        inside = (feature_covariance(first, phi) + feature_covariance(second, phi)
                  + step[..., :, None] * step[..., None, :])
        right = np.einsum("s,nsij->nij", d0, inside)
        size_of = np.abs(phi).max() ** 2 * 10
        check.identity("claim: step 1: the second moment", told, right, scale=size_of)
        zbar = np.einsum("s,nsi->ni", d0, step)
        check.inequality("step 2: at least the mean difference", 0.0, least_eigenvalue(
            told - zbar[:, :, None] * zbar[:, None, :]), scale=size_of)
    practical = (temperature_enhancer(2.0), best_of_n_enhancer(4), worst_of_n_enhancer(4))
    for rng, size in check.batches(2_000, fast=200, size=200):
        bandit = Bandit.running_example(float(10 ** rng.uniform(-1, 0.7)), "good")
        V = np.diag(10.0 ** rng.uniform(0, 3, 2))
        rho = 10.0 ** rng.uniform(-1, 1, size)
        theta = np.stack([rng.uniform(-1.5, 1.5, size), np.zeros(size)], axis=-1)
        for enhancer in practical:
            none = enhancer(bandit, 0 * theta, V, rho)
            check.identity("step 3: blind before the first fit", none.uncertainty, 0.0)
            one = enhancer(bandit, theta, V, rho).policy
            moved = expected_features(one, bandit.phi, bandit.d0)[:, 1]
            check.identity("step 3: blind across a symmetry", moved, 0.0)
        found = exact_enhancer(bandit, 0 * theta, V, rho, angles=16).uncertainty
        check.holds("step 3: the exact enhancer is not", found > 0)


@result("dpo-moving-reference", part="V", item="5.6", kind="identity",
        title="A moving reference lowers the temperature", source="this book",
        depends=("dpo-change-of-variables", "temperature-path"))
def dpo_moving_reference(check):
    """If each iteration tilts the last policy, T iterations play the mean reward at beta / T."""
    for rng, size in check.batches(10_000, fast=1_000):
        inst = random_instances(rng, size)
        T = int(rng.integers(1, 6))
        rewards = inst.reward + inst.beta[:, None, None] * rng.standard_normal(
            (T, *inst.reward.shape))
        current = np.log(inst.pi0)
        for r in rewards:
            current = log_softmax(current + r / inst.beta[:, None, None], axis=-1)
        unit = (np.abs(rewards).sum(0).max((1, 2)) / inst.beta)[:, None, None] + 300
        check.identity("step 1: the tilts add", current,
                       log_gibbs_policy(rewards.sum(0), inst.beta, inst.pi0), scale=unit)
        check.identity("claim: the mean at a lower temperature", current,
                       log_gibbs_policy(rewards.mean(0), inst.beta / T, inst.pi0), scale=unit)
        exact = [log_gibbs_policy(inst.reward, inst.beta / t, inst.pi0) for t in (1, T, T + 1)]
        kls = [mean(kl_divergence_from_logs(p, np.log(inst.pi0)), inst.d0) for p in exact]
        check.inequality("claim: the divergence grows", kls[1], kls[2], scale=1e-9)
        gap = inst.beta * mean(kl_divergence_from_logs(exact[1], exact[0]), inst.d0)
        # beta (T - 1) E_{pi_T} r / beta minus the log-partition functions, per prompt.
        z1, zT = (log_partition(inst.reward, inst.beta / t, inst.pi0) for t in (1, T))
        direct = (T - 1) * (np.exp(exact[1]) * inst.reward).sum(-1) + inst.beta[:, None] * (z1 - zT)
        check.identity("step 2: what is lost", gap, mean(direct, inst.d0),
                       scale=inst.beta + T * np.abs(inst.reward).max((1, 2)), tol=1e-9)
    bandit = Bandit.running_example(0.5, "good")
    run = released_recipe(bandit, 3, 300, check.rng, reference="previous", labels="people",
                          replicates=20)
    check.identity("claim: the recipe with a moving reference", run.log_policy[-1],
                   log_gibbs_policy(bandit.reward_of(run.theta.sum(0)), 0.5, bandit.pi0),
                   tol=1e-10)


def chernoff_floor(first, second, d0):
    """max_s E_x -log sum_a p^s q^(1-s), and the s; log-policies (S, K)."""
    def minus(s):
        return d0 @ logsumexp(s * first + (1 - s) * second, axis=-1)

    found = minimize_scalar(minus, bounds=(0, 1), method="bounded", options={"xatol": 1e-12})
    return -float(found.fun), float(found.x)


@result("hard-labels", part="V", item="5.6", kind="inequality",
        title="Certain labels tell the order, not the differences", source="this book",
        depends=("mle-existence", "gibbs-variational"))
def hard_labels(check):
    """If the better score always wins, the fit is on the sphere; rewards of one order look alike."""
    rng = check.rng
    for _ in range(check.choose(40, 8)):
        bandit = Bandit.random(rng, S=2, K=4, d=2, beta=0.5, B=2.0)
        for labels in ("proxy", "people"):
            run = released_recipe(bandit, 2, 400, rng, labels=labels, replicates=5)
            norm = np.linalg.norm(run.theta[1:], axis=-1)
            if labels == "proxy":
                check.identity("claim: step 1: the sphere", norm, bandit.B, tol=1e-6)
        soft = released_recipe(bandit, 2, 400, rng, smoothing=0.3, replicates=5).theta[1:]
        check.holds("step 1: soft labels leave the sphere",
                    np.linalg.norm(soft, axis=-1).min() < bandit.B * (1 - 1e-6))
        seed, policy = int(rng.integers(1 << 30)), random_policies(rng, 3, 2, 4)
        counts = [best_and_worst(policy, score, bandit.d0, 8, 200, seed)
                  for score in (bandit.reward, 7 * bandit.reward, np.tanh(bandit.reward))]
        for other in counts[1:]:
            check.identity("step 2: same order, same data", other, counts[0])
    # Two rewards of the same order: no policy is good for both.
    attained = []
    for rng, size in check.batches(10_000, fast=1_000, size=250):
        S, K = int(rng.integers(1, 4)), int(rng.integers(2, 5))
        pi0, d0 = random_policies(rng, 1, S, K)[0], rng.dirichlet(np.ones(S))
        reward, beta = rng.standard_normal((S, K)), float(10 ** rng.uniform(-1, 1))
        scale = float(rng.uniform(1.2, 6))
        rank = reward.argsort(axis=-1).argsort(axis=-1)
        other = np.take_along_axis(np.cumsum(rng.exponential(scale, (S, K)), axis=-1), rank, -1)
        first, second = (log_gibbs_policy(r, beta, pi0) for r in (reward, other))
        floor, s = chernoff_floor(first, second, d0)
        middle = log_gibbs_policy(s * reward + (1 - s) * other, beta, pi0)
        tried = log_softmax(np.concatenate([
            middle + 10.0 ** rng.uniform(-3, 0.5, (size, 1, 1)) * rng.standard_normal((size, S, K)),
            np.log(random_policies(rng, 50, S, K))]), axis=-1)
        losses = np.stack([kl_divergence_from_logs(tried, q) @ d0 for q in (first, second)])
        mixed = s * losses[0] + (1 - s) * losses[1]
        check.inequality("step 3: a mixture of the losses", floor, mixed, scale=1e-9, tol=1e-9)
        check.inequality("claim: no policy is good for both", beta * floor,
                         beta * losses.max(axis=0), scale=beta * 1e-9, tol=1e-9)
        own = max(float(kl_divergence_from_logs(middle, q) @ d0) for q in (first, second))
        attained.append(floor / own if floor > 1e-6 else 1.0)
    check.at_least("claim: step 4: attained between the two", min(attained), 0.999)
