r"""Checks of part V, item 5.7: policy mirror descent as an oracle for the Gibbs policy.

What lives here: the exact log-ratio and rate, the path from the reference, the usual proof, inexact
steps, and estimated rewards.
What does not: gradient methods and the clipped surrogate (``part5_policy_gradient``).
"""

from __future__ import annotations

import numpy as np

from klrlhf.mirror import (
    effective_beta,
    log_suboptimality,
    mirror_bound,
    mirror_descent,
    mirror_factor,
    mirror_path,
    mirror_step,
    mirror_steps,
)
from klrlhf.numerics import sharp_hoeffding
from klrlhf.policies import (
    gibbs_policy,
    kl_divergence_from_logs,
    log_gibbs_policy,
    variance,
)
from klrlhf.results.instances import random_instances, random_policies
from klrlhf.results.registry import result
from klrlhf.values import kl_frontier, plug_in_suboptimality, value

NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)


def mean(d0, f):
    """Mean over prompts; prompts of probability 0 do not count."""
    return np.where(d0 > 0, d0 * f, 0.0).sum(-1)


def case(rng, size):
    """Instances with a start, a step size and the log-ratio of the start."""
    i = random_instances(rng, size)
    start = random_policies(rng, size, *i.pi0.shape[1:])
    start = np.where((rng.random(size) < 0.3)[:, None, None], i.pi0, start)
    eta = 10.0 ** rng.uniform(-2, 2, size) / i.beta
    optimal = log_gibbs_policy(i.reward, i.beta, i.pi0)
    return i, start, eta, optimal, np.log(start) - optimal


def rounding(beta, moved, size):
    """Rounding error of a gap whose log-ratio has span ``moved``, over the tolerance 1e-9."""
    return 1e9 * beta * 1e-15 * size * (moved + 1e-15 * size)


def centred(f):
    return f - f.mean(-1, keepdims=True)


def two_laws(s, F):
    """An optimal policy and a start on two actions: the law at factor s attains h(s F)."""
    t = s * F
    best = np.where(t > 1e-6, -1 / np.expm1(-t) - 1 / np.maximum(t, 1e-300), 0.5)
    log_odds = np.log(best) - np.log1p(-best) - t  # of pi*, so that pi_s has probability `best`
    optimal = np.stack([-np.logaddexp(0, -log_odds), -np.logaddexp(0, log_odds)], -1)[:, None, :]
    return optimal, F


@result("mirror-descent-rate", part="V", item="5.7", kind="inequality",
        title="Policy mirror descent, exactly", source="this book; cf. lan2023policy",
        depends=("gibbs-variational", "temperature-path", "hoeffding-kl"))
def mirror_descent_rate(check):
    """The log-ratio to the optimum shrinks by 1/(1 + eta beta) per step, exactly; the gap squared."""
    for rng, size in check.batches(20_000, fast=2_000):
        i, start, eta, optimal, f = case(rng, size)
        q, span = mirror_factor(eta, i.beta), np.ptp(f, axis=-1)
        k = int(rng.integers(1, 9))
        path = mirror_descent(i.reward, i.beta, i.pi0, eta, k, start)
        # Step 1 against the definition: no other policy has a larger proximal objective.
        other = random_policies(rng, size, *i.pi0.shape[1:])
        proximal = [value(p, i.reward, i.beta, i.pi0, i.d0) - mean(i.d0, kl_divergence_from_logs(
            np.log(p), np.log(start))) / eta for p in (np.exp(path[1]) / np.exp(path[1]).sum(
                -1, keepdims=True), other)]
        scale = np.abs(i.reward).max((1, 2)) + (i.beta + 1 / eta) * 300
        check.identity("step 1: three-point identity", proximal[0] - proximal[1],
                       (i.beta + 1 / eta) * mean(i.d0, kl_divergence_from_logs(
                           np.log(other), path[1])), scale=scale)
        s = q**k
        size_of_logs = 1 + np.abs(optimal).max((1, 2)) + span.max(-1)
        check.identity("step 2: the log-ratio", centred(path[k] - optimal),
                       centred(s[:, None, None] * f), scale=size_of_logs[:, None, None], tol=1e-12)
        gap = log_suboptimality(path[k], i.reward, i.beta, i.pi0, i.d0)
        t = s[:, None] * (NODES + 1) / 2
        laws = mirror_path(i.reward, i.beta, i.pi0, t.T, start)
        v = mean(i.d0, np.stack([variance(np.exp(law) / np.exp(law).sum(-1, keepdims=True), f)
                                 for law in laws]))
        floor = rounding(i.beta, s * span.max(-1), size_of_logs)
        smooth = s * span.max(-1) < 8  # where 24 nodes resolve the integrand
        integral = i.beta * s / 2 * ((WEIGHTS[:, None] * t.T * v).sum(0))
        check.identity("step 3: the gap is an integral", gap[smooth], integral[smooth],
                       scale=np.maximum(gap, 1e-2 * floor)[smooth], tol=1e-7)
        bound = mirror_bound(span, i.beta, i.d0, s)
        check.inequality("claim: gap after k steps", gap, bound, scale=floor, tol=1e-9)
        check.inequality("claim: quadratic", bound, i.beta * s**2 * mean(i.d0, span**2) / 8)
        check.inequality("claim: linear", bound, i.beta * s * mean(i.d0, span), tol=1e-9)
        V, F = mean(i.d0, variance(gibbs_policy(i.reward, i.beta, i.pi0), f)), (
            np.where(i.d0 > 0, span, 0).max(-1))
        told = (s * F > 1e-8) & (s * F < 30) & (V > 1e-200)
        lead = 0.5 * i.beta * s**2 * V
        check.inequality("step 4: at least the limiting law", (np.exp(-s * F) * lead)[told],
                         gap[told], scale=floor[told], tol=1e-9)
        check.inequality("step 4: at most the limiting law", gap[told],
                         (np.exp(s * F) * lead)[told], scale=floor[told], tol=1e-9)
        before = log_suboptimality(path[k - 1], i.reward, i.beta, i.pi0, i.d0)
        check.inequality("step 5: every step gains", gap, before, scale=floor, tol=1e-9)
        wanted = i.beta * 10.0 ** rng.uniform(-8, 0, size)
        for n in range(0, size, 50):
            steps = mirror_steps(wanted[n], eta[n], i.beta[n], F[n])
            check.inequality("claim: number of steps", mirror_bound(
                span[n], i.beta[n], i.d0[n], q[n] ** steps), wanted[n], tol=1e-9)
    # Attained: the two-point law of the sharp Hoeffding bound, at any factor and span.
    rng = check.rng
    F, s = 10.0 ** rng.uniform(-1, 1.3, 500), rng.uniform(0.05, 1, 500)
    optimal, F = two_laws(s, F)
    law = optimal + (s * F)[:, None, None] * np.array([1.0, 0.0])
    law = law - np.logaddexp(law[..., :1], law[..., 1:])
    reached = kl_divergence_from_logs(law, optimal)[:, 0] / sharp_hoeffding(s * F)
    check.inequality("claim: attained", reached, 1.0, tol=1e-9)
    check.at_least("claim: the sharp bound is attained", reached.min(), 1 - 1e-9)

    def ratio(x):
        logits, first = x[:3], x[3:6]
        i = np.zeros((1, 3)), 1.0, np.exp(logits - np.logaddexp.reduce(logits))[None]
        start = np.exp(first - np.logaddexp.reduce(first))[None]
        f = np.log(start) - np.log(i[2])
        path = mirror_descent(*i, 0.7, 2, np.maximum(start, 1e-300))
        top = mirror_bound(np.ptp(f, axis=-1), 1.0, np.ones(1), 1.7**-2)
        return float(log_suboptimality(path[2], *i, np.ones(1)) / max(top, 1e-6))
    check.search("claim: gap after k steps", ratio, check.rng.standard_normal((5, 6)) * 2)


@result("mirror-descent-path", part="V", item="5.7", kind="identity",
        title="Mirror descent from the reference walks along the temperature path",
        source="this book", depends=("mirror-descent-rate", "kl-frontier"))
def mirror_descent_path(check):
    """Iterate k from the reference is the optimal policy at the price beta_k, on the frontier."""
    for rng, size in check.batches(20_000, fast=2_000):
        i, _, eta, _, _ = case(rng, size)
        k = int(rng.integers(1, 9))
        path = mirror_descent(i.reward, i.beta, i.pi0, eta, k)
        price = effective_beta(eta, i.beta, k)
        s = mirror_factor(eta, i.beta) ** k
        check.identity("step 1: the price", price * (1 - s), i.beta, scale=i.beta / (1 - s))
        big = 1 + np.ptp(i.reward, axis=-1).max(-1) / i.beta - np.log(i.pi0).min((1, 2))
        check.identity("claim: the iterate is Gibbs at beta_k", path[k],
                       log_gibbs_policy(i.reward, price, i.pi0), scale=big[:, None, None],
                       tol=1e-11)
        gap = log_suboptimality(path[k], i.reward, i.beta, i.pi0, i.d0)
        shrunk = (1 - s)[:, None, None] * i.reward
        check.identity("claim: a shrunk reward", gap,
                       plug_in_suboptimality(shrunk, i.reward, i.beta, i.pi0, i.d0),
                       scale=gap + 1e-14 * i.beta * big**2, tol=1e-6)
        check.inequality("claim: gap from the reference", gap, mirror_bound(
            np.ptp(i.reward, axis=-1) / i.beta[:, None], i.beta, i.d0, s),
            scale=rounding(i.beta, s * big, big), tol=1e-9)
    rng = check.rng
    for _ in range(check.choose(60, 15)):
        i = random_instances(rng, 1, S=2, K=4)
        path = np.exp(mirror_descent(i.reward, i.beta, i.pi0, 0.5 / i.beta, 4))[:, 0]
        path /= path.sum(-1, keepdims=True)
        kl = mean(i.d0, kl_divergence_from_logs(np.log(np.maximum(path, 1e-320)), np.log(i.pi0)))
        earned = mean(i.d0, (path * i.reward).sum(-1))
        if np.ptp(i.reward) * 1e-6 < i.beta[0] and kl[1] > 1e-8:
            best = kl_frontier(kl[1:], i.reward, i.pi0, i.d0).reward
            check.identity("step 2: on the frontier", earned[1:], best,
                           scale=np.ptp(i.reward) + np.abs(i.reward).max(), tol=1e-7)
    # In the Gibbs class the parameter itself is interpolated.
    for _ in range(check.choose(500, 100)):
        phi, d = rng.standard_normal((3, 4, 2)), np.array([0.2, 0.5, 0.3])
        theta, first = rng.standard_normal((2, 2))
        pi0 = random_policies(rng, 1, 3, 4)[0]
        del d
        path = mirror_descent(phi @ theta, 0.7, pi0, 1.3, 3, np.maximum(gibbs_policy(
            phi @ first, 0.7, pi0), 1e-300))
        s = (1 + 0.7 * 1.3) ** -3
        check.identity("step 3: the parameter", path[3], log_gibbs_policy(
            phi @ ((1 - s) * theta + s * first), 0.7, pi0), scale=1 - path[3].min(), tol=1e-11)


@result("mirror-descent-usual", part="V", item="5.7", kind="inequality",
        title="The usual proof of mirror descent", source="standard; cf. lan2023policy",
        depends=("mirror-descent-rate",))
def mirror_descent_usual(check):
    """The three-point argument gives a factor 1/(1 + eta beta) per step: half of the true exponent."""
    for rng, size in check.batches(20_000, fast=2_000):
        i, start, eta, optimal, f = case(rng, size)
        k = int(rng.integers(1, 7))
        path = mirror_descent(i.reward, i.beta, i.pi0, eta, k, start)
        q = mirror_factor(eta, i.beta)
        star = np.exp(optimal)
        towards = [mean(i.d0, kl_divergence_from_logs(optimal, p)) for p in path]
        gap = log_suboptimality(path[k], i.reward, i.beta, i.pi0, i.d0)
        moved = mean(i.d0, kl_divergence_from_logs(path[k], path[k - 1]))
        size_of = 1 + np.ptp(f, axis=-1).max(-1) + np.abs(optimal * star).max((1, 2))
        check.identity("step 1: what one step does", towards[k],
                       q * (towards[k - 1] - eta * gap - moved), scale=size_of, tol=1e-9)
        check.inequality("step 2: one factor per step", towards[k], q * towards[k - 1],
                         scale=rounding(1.0, size_of * q**k, size_of), tol=1e-9)
        check.inequality("claim: the gap", gap, q ** (k - 1) * towards[0] / eta,
                         scale=rounding(i.beta, size_of * q**k, size_of), tol=1e-9)
    # What it misses: the true exponent is twice as large.
    k = np.arange(10, 40)
    path = mirror_descent([[1.0, 0.0, 0.3]], 0.5, [[0.2, 0.5, 0.3]], 1.0, 40)
    gap = log_suboptimality(path, [[1.0, 0.0, 0.3]], 0.5, [[0.2, 0.5, 0.3]], [1.0])
    check.slope("remark: the true exponent", np.exp(k * np.log(1.5)), gap[k], -2.0, 0.01)


@result("mirror-descent-inexact", part="V", item="5.7", kind="inequality",
        title="Mirror descent with an inexact oracle", source="this book",
        depends=("mirror-descent-rate",))
def mirror_descent_inexact(check):
    """Errors of the log-policies add up as a geometric sum, exactly; their spans bound the gap."""
    for rng, size in check.batches(20_000, fast=2_000):
        i, start, eta, optimal, f = case(rng, size)
        k, variant = int(rng.integers(1, 7)), str(rng.choice(["implicit", "explicit"]))
        eta = np.where(np.full(size, variant == "explicit"), rng.uniform(0.02, 1.9, size) / i.beta,
                       eta)
        q = mirror_factor(eta, i.beta, variant)
        noise = 10.0 ** rng.uniform(-4, 0.7, (k, size, 1, 1)) * rng.standard_normal(
            (k,) + i.pi0.shape)
        noise = np.where((rng.random(size) < 0.3)[:, None, None], np.ptp(noise, axis=-1)[
            ..., None] * np.sign(centred(f)), noise)
        path = mirror_descent(i.reward, i.beta, i.pi0, eta, k, start, variant, noise)
        exact = mirror_step(path[k - 1], i.reward, i.beta, i.pi0, eta, variant)
        big = 1 + np.abs(f).max((1, 2)) + np.abs(noise).sum(0).max((1, 2)) + np.abs(optimal).max(
            (1, 2))
        check.identity("step 1: the error of one step", centred(path[k] - exact),
                       centred(noise[-1]), scale=big[:, None, None], tol=1e-11)
        total = q[:, None, None] ** k * f + sum(
            q[:, None, None] ** (k - j) * noise[j - 1] for j in range(1, k + 1))
        check.identity("step 2: the sum of all errors", centred(path[k] - optimal), centred(total),
                       scale=big[:, None, None], tol=1e-11)
        spans, first = np.ptp(noise, axis=-1), np.ptp(f, axis=-1)
        a = np.abs(q)[:, None]
        own = a**k * first + sum(a ** (k - j) * spans[j - 1] for j in range(1, k + 1))
        check.inequality("step 3: spans add", np.ptp(path[k] - optimal, axis=-1), own,
                         scale=1e-5 * big[:, None], tol=1e-9)
        worst = a**k * first + spans.max(0) * (1 - a**k) / (1 - a)
        check.inequality("step 4: the geometric sum", own, worst, tol=1e-9)
        gap = log_suboptimality(path[k], i.reward, i.beta, i.pi0, i.d0)
        noise_floor = rounding(i.beta, worst.max(-1), big)
        check.inequality("claim: gap of the inexact iterate", gap, i.beta * mean(
            i.d0, sharp_hoeffding(own)), scale=noise_floor, tol=1e-9)
        check.inequality("claim: equal errors", gap, i.beta * mean(i.d0, sharp_hoeffding(worst)),
                         scale=noise_floor, tol=1e-9)
    # Attained: all errors in one direction, on the two-point law.
    F = check.rng.uniform(0.2, 6, 300)
    q, k, e = check.rng.uniform(0.1, 0.95, 300), 5, check.rng.uniform(0.01, 1, 300)
    own = q**k * F + e * (1 - q**k) / (1 - q)
    optimal, _ = two_laws(np.ones(300), own)
    up = np.array([1.0, 0.0])
    start = optimal + F[:, None, None] * up
    start = np.exp(start - np.logaddexp(start[..., :1], start[..., 1:]))
    law = mirror_descent(np.zeros((300, 1, 2)), 1.0, np.exp(optimal), 1 / q - 1, k, start,
                         errors=np.broadcast_to(e[:, None, None] * up, (k, 300, 1, 2)))[k]
    reached = kl_divergence_from_logs(law, optimal)[:, 0] / sharp_hoeffding(own)
    check.inequality("claim: attained", reached, 1.0, tol=1e-8)
    check.at_least("claim: aligned errors attain it", reached.min(), 1 - 1e-8)


@result("mirror-descent-kl-errors", part="V", item="5.7", kind="identity",
        title="Errors that are small in KL can stay for ever", source="this book",
        depends=("mirror-descent-inexact",))
def mirror_descent_kl_errors(check):
    """An oracle that forgets a rare answer in one step makes a tiny KL error and keeps a full gap."""
    rng = check.rng
    R, beta = 10.0 ** rng.uniform(-1, 1, 4_000), 10.0 ** rng.uniform(-1, 1, 4_000)
    R = np.minimum(R, 200 * beta)
    eta = 10.0 ** rng.uniform(-1, 1, 4_000) / beta
    q = mirror_factor(eta, beta)
    low = -np.logaddexp(0, R / beta)
    log_pi0 = np.stack([low, low + R / beta], -1)[:, None, :]
    reward = np.stack([R, 0 * R], -1)[:, None, :]
    first = mirror_step(log_pi0, reward, beta, np.exp(log_pi0), eta)
    error = -np.log(np.exp(first[:, 0, 1]))
    check.identity("step 1: the first step", first[:, 0, 0] - first[:, 0, 1], -q * R / beta,
                   scale=1 + R / beta)
    # The oracle returns the first step conditioned on the common answer.
    gone = np.stack([np.full(4_000, -np.inf), np.zeros(4_000)], -1)[:, None, :]
    check.identity("step 2: its error in KL", kl_divergence_from_logs(gone, first)[:, 0],
                   np.log1p(np.exp(-q * R / beta)), scale=1 + error, tol=1e-11)
    gap = beta * kl_divergence_from_logs(gone, log_gibbs_policy(reward, beta, np.exp(log_pi0)))[:, 0]
    check.identity("claim: the gap that stays", gap, beta * np.log(2), scale=beta, tol=1e-11)
    value_error = (beta + 1 / eta) * np.log1p(np.exp(-q * R / beta))
    check.inequality("claim: value error over gap", value_error / gap,
                     (1 + 1 / (eta * beta)) * np.exp(-q * R / beta) / np.log(2))
    check.not_vacuous("claim: the error is tiny beside the gap", value_error / gap, 1.0)


@result("mirror-descent-estimated", part="V", item="5.7", kind="inequality",
        title="Mirror descent on an estimated reward", source="this book",
        depends=("mirror-descent-inexact", "value-decomposition-inexact", "second-order-gap"))
def mirror_descent_estimated(check):
    """The gap is h of the sum of the estimation and optimization errors of the log-policy."""
    for rng, size in check.batches(20_000, fast=2_000):
        i, start, eta, optimal, _ = case(rng, size)
        hat = log_gibbs_policy(i.reward_hat, i.beta, i.pi0)
        k, q = int(rng.integers(1, 7)), mirror_factor(eta, i.beta)
        noise = 10.0 ** rng.uniform(-5, 0.5, (k, size, 1, 1)) * rng.standard_normal(
            (k,) + i.pi0.shape)
        path = mirror_descent(i.reward_hat, i.beta, i.pi0, eta, k, start, errors=noise)
        D, a = i.reward - i.reward_hat, q[:, None]
        own = a**k * np.ptp(np.log(start) - hat, axis=-1) + sum(
            a ** (k - j) * np.ptp(noise[j - 1], axis=-1) for j in range(1, k + 1))
        apart = np.ptp(D, axis=-1)
        big = 1 + np.abs(optimal).max((1, 2)) + np.abs(hat).max((1, 2)) + own.max(-1) + (
            np.abs(np.log(start)).max((1, 2)))
        check.identity("step 1: two log-ratios", centred(path[k] - optimal),
                       centred(path[k] - hat - D / i.beta[:, None, None]),
                       scale=big[:, None, None], tol=1e-11)
        check.inequality("step 2: spans add", np.ptp(path[k] - optimal, axis=-1),
                         own + apart / i.beta[:, None], scale=1e-5 * big[:, None], tol=1e-9)
        gap = log_suboptimality(path[k], i.reward, i.beta, i.pi0, i.d0)
        room = rounding(i.beta, (own + apart / i.beta[:, None]).max(-1), big)
        check.inequality("claim: estimation and optimization", gap, i.beta * mean(
            i.d0, sharp_hoeffding(own + apart / i.beta[:, None])), scale=room, tol=1e-9)
        check.inequality("claim: square roots add", gap, mean(
            i.d0, (apart + i.beta[:, None] * own) ** 2) / (8 * i.beta), scale=room, tol=1e-9)
        eps = log_suboptimality(path[k], i.reward_hat, i.beta, i.pi0, i.d0)
        played = np.exp(path[k])
        exact = mean(i.d0, (np.exp(optimal) * D).sum(-1) - (played * D).sum(-1)) - (
            i.beta * mean(i.d0, kl_divergence_from_logs(optimal, hat))) + eps
        check.identity("step 3: the inexact decomposition", gap, exact,
                       scale=i.beta * big + np.abs(D).max((1, 2)), tol=1e-10)
        check.inequality("step 4: the optimization error", eps, i.beta * mean(
            i.d0, sharp_hoeffding(own)), scale=room, tol=1e-9)
        s = q**k
        free = mirror_descent(i.reward_hat, i.beta, i.pi0, eta, k)[k]
        gap = log_suboptimality(free, i.reward, i.beta, i.pi0, i.d0)
        check.identity("claim: a shrunk estimate", gap, plug_in_suboptimality(
            (1 - s)[:, None, None] * i.reward_hat, i.reward, i.beta, i.pi0, i.d0),
            scale=gap + 1e-14 * i.beta * big**2, tol=1e-6)
    # Attained on two answers when both errors point the same way.
    R = check.rng.uniform(0.1, 5, 300)
    own = check.rng.uniform(0.1, 3, 300)
    optimal, _ = two_laws(np.ones(300), own + R)
    hat = optimal + R[:, None, None] * np.array([1.0, 0.0])
    law = hat + own[:, None, None] * np.array([1.0, 0.0])
    law = law - np.logaddexp(law[..., :1], law[..., 1:])
    reached = kl_divergence_from_logs(law, optimal)[:, 0] / sharp_hoeffding(own + R)
    check.at_least("claim: attained", reached.min(), 1 - 1e-9)
