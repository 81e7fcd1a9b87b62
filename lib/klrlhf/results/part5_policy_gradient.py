r"""Checks of part V, item 5.7: policy gradients beside mirror descent.

What lives here: natural and vanilla policy gradient in softmax logits.
What does not: mirror descent (``part5_mirror``) and the clipped surrogate (``part5_clipped``).
"""

from __future__ import annotations

import numpy as np

from klrlhf.mirror import (
    log_suboptimality,
    mirror_descent,
    mirror_factor,
    mirror_path,
    natural_policy_gradient,
    plateau_steps,
    policy_gradient,
    policy_gradient_bound,
    policy_gradient_smoothness,
)
from klrlhf.numerics import sharp_hoeffding
from klrlhf.policies import gibbs_policy, log_gibbs_policy
from klrlhf.results.instances import random_instances
from klrlhf.results.part5_mirror import centred, mean, rounding
from klrlhf.results.registry import result
from klrlhf.values import value


def softmax(u):
    u = np.exp(u - u.max(-1, keepdims=True))
    return u / u.sum(-1, keepdims=True)


def moderate(rng, size, S=None, K=None):
    """Instances whose Fisher matrices can be inverted, with a start."""
    S = int(rng.integers(1, 4)) if S is None else S
    K = int(rng.integers(2, 6)) if K is None else K
    pi0, start = softmax(rng.normal(size=(2, size, S, K)) * rng.uniform(0, 2, (2, size, 1, 1)))
    beta = 10.0 ** rng.uniform(-1, 1, size)
    reward = beta[:, None, None] * rng.normal(size=(size, S, K)) * rng.uniform(
        0.1, 3, (size, 1, 1))
    d0 = softmax(rng.normal(size=(size, S)))
    return d0, pi0, reward, beta, start


@result("natural-policy-gradient", part="V", item="5.7", kind="identity",
        title="Natural policy gradient is mirror descent",
        source="this book; cf. cen2022fast, agarwal2021theory", depends=("mirror-descent-rate",))
def natural_policy_gradient_check(check):
    """In softmax logits the natural gradient step is the explicit mirror step, factor 1 - eta beta."""
    for rng, size in check.batches(10_000, fast=2_000):
        d0, pi0, reward, beta, start = moderate(rng, size)
        eta = rng.uniform(0.05, 1.6, size) / beta
        # Step 1: the gradient of J in the logits, by central differences.
        u, v, t = np.log(start), rng.normal(size=start.shape), 1e-5
        plus, minus = (value(softmax(u + s * t * v), reward, beta, pi0, d0) for s in (1, -1))
        g = reward - beta[:, None, None] * (u - np.log(pi0))
        slope = d0[..., None] * start * (g - (start * g).sum(-1, keepdims=True))
        check.identity("step 1: the gradient", (plus - minus) / (2 * t), (slope * v).sum((1, 2)),
                       scale=(1 + np.abs(g).max((1, 2))) * (1 + np.abs(v).max((1, 2)) ** 3), tol=1e-6)
        # Step 2: the Fisher matrix times the slope is the gradient.
        fisher = d0[..., None, None] * (start[..., None] * np.eye(start.shape[-1])
                                        - start[..., None] * start[..., None, :])
        check.identity("step 2: Fisher times slope", (fisher @ g[..., None])[..., 0], slope,
                       scale=np.abs(g).max((1, 2))[:, None, None])
        natural = natural_policy_gradient(reward, beta, pi0, eta, 3, start)
        mirror = mirror_descent(reward, beta, pi0, eta, 3, start, "explicit")
        thin = np.exp(mirror).min(axis=(0, 2, 3))
        check.identity("claim: natural gradient is the explicit mirror step", natural, mirror,
                       scale=((1 + np.abs(mirror).max((0, 2, 3))) / thin)[:, None, None], tol=1e-12)
        s = mirror_factor(eta, beta, "explicit") ** 3
        check.identity("claim: the factor", mirror[3], mirror_path(reward, beta, pi0, s, start),
                       scale=1 + np.abs(mirror).max((0, 2, 3))[:, None, None], tol=1e-12)
        small = eta / (1 + eta * beta)
        check.identity("claim: implicit with a smaller step", mirror_descent(
            reward, beta, pi0, eta, 3, start)[3], mirror_descent(
            reward, beta, pi0, small, 3, start, "explicit")[3],
            scale=1 - np.log(thin)[:, None, None], tol=1e-12)
        gap = log_suboptimality(mirror, reward, beta, pi0, d0)
        calm = eta * beta <= 1
        check.inequality("step 4: gain while eta beta <= 1", gap[1:, calm], gap[:-1, calm],
                         scale=1e-6 * beta[calm], tol=1e-9)
    # Step 3, in a log-linear class: gradient and Fisher matrix in the parameter.
    rng = check.rng
    for _ in range(check.choose(300, 60)):
        d0, pi0, _, beta, _ = moderate(rng, 1, S=3, K=4)
        phi = rng.normal(size=(3, 4, 3))
        phi[..., 2] = phi[..., 0] + phi[..., 1]  # a redundant feature: F is singular
        theta, w = rng.normal(size=(2, 3))
        policy = gibbs_policy(phi @ w, 1.0, pi0[0])
        centre = phi - np.einsum("sk,skd->sd", policy, phi)[:, None]
        fisher = np.einsum("s,sk,skd,ske->de", d0[0], policy, centre, centre)
        g = phi @ theta - beta[0] * (phi @ w)
        slope = np.einsum("s,sk,skd,sk->d", d0[0], policy, centre, g)
        step = np.linalg.pinv(fisher, rcond=1e-10) @ slope
        law = log_gibbs_policy(phi @ (w + 0.3 * step), 1.0, pi0[0])
        exact = mirror_descent(phi @ theta, beta[0], pi0[0], 0.3, 1, policy, "explicit")[1]
        check.identity("step 3: in a log-linear class", law, exact, scale=1 - exact.min(), tol=1e-8)
    # Beyond eta beta = 1 a step may lose: odds (1 - a) / a, and the start beyond them.
    for a in (0.19, 0.1, 1e-3):
        for c in (0.01, 0.5, 0.99):
            star, F = np.array([[1 - a, a]]), np.log((1 - a) / a) / c
            start = softmax(np.log(star) + np.array([[F, 0.0]]))
            path = mirror_descent([[0.0, 0.0]], 1.0, star, 1 + c, 1, start, "explicit")
            gaps = log_suboptimality(path, [[0.0, 0.0]], 1.0, star, [1.0])
            check.identity("step 5: overshoot to a coin", np.exp(path[1]), 0.5, tol=1e-9)
            check.inequality("step 5: the step loses", gaps[0], gaps[1])


@result("policy-gradient-ascent", part="V", item="5.7", kind="inequality",
        title="A step size at which vanilla policy gradient never loses", source="this book",
        depends=("gibbs-variational",))
def policy_gradient_ascent(check):
    """In softmax logits the curvature of J is at least -L, so steps up to 2/L never lose."""
    for rng, size in check.batches(20_000, fast=2_000):
        i = random_instances(rng, size)
        K = i.pi0.shape[-1]
        u, v = rng.normal(size=(2,) + i.pi0.shape) * rng.uniform(0, 4, (2, size, 1, 1))
        pi = softmax(u)
        spread = (pi * v).sum(-1, keepdims=True)
        var = (pi * (v - spread) ** 2).sum(-1)
        w = i.reward + i.beta[:, None, None] * np.log(i.pi0)
        third = (pi * (w - (pi * w).sum(-1, keepdims=True)) * (v - spread) ** 2).sum(-1)
        logs = np.log(pi)
        entropy = -(pi * logs).sum(-1, keepdims=True)
        own = (pi * (logs + entropy) * (v - spread) ** 2).sum(-1) + var
        second = third - i.beta[:, None] * own
        t, size_of = 1e-4, np.abs(w).max((1, 2)) * (1 + np.abs(v).max((1, 2)) ** 4) + (
            i.beta * (1 + np.abs(u).max((1, 2))) * (1 + np.abs(v).max((1, 2)) ** 4))
        f = [mean(i.d0, ((p := softmax(u + s * t * v)) * (w - i.beta[:, None, None] * np.log(p))
                         ).sum(-1)) for s in (-1, 0, 1)]
        check.identity("step 1: the second derivative", (f[0] - 2 * f[1] + f[2]) / t**2,
                       mean(i.d0, second), scale=size_of, tol=1e-6)
        norm = (v**2).sum(-1)
        check.inequality("step 2: the range term", np.abs(third),
                         np.ptp(w, axis=-1) / 27**0.5 * norm, tol=1e-9,
                         scale=1e-9 * np.abs(w).max(-1) * norm)
        if K > 1:
            m = int(rng.integers(1, K))  # the group A: the first m answers
            a, b = softmax(u[..., :m]), softmax(u[..., m:])
            v_A, v_B = (a * v[..., :m]).sum(-1), (b * v[..., m:]).sum(-1)
            var_A = (a * (v[..., :m] - v_A[..., None]) ** 2).sum(-1)
            check.inequality("step 2: two groups", var_A + (v_A - v_B) ** 2 / 4, norm / 2)
        check.inequality("step 3: the entropy term", own, (1 + np.log(K)) / 2 * norm)
        L = policy_gradient_smoothness(i.reward, i.beta, i.pi0, i.d0)
        check.inequality("claim: curvature", -mean(i.d0, second), L * norm.sum(-1),
                         scale=1e-12 * size_of, tol=1e-9)
        eta = rng.choice([0.5, 1.0, 2.0], size) / L
        start = np.maximum(pi, 1e-300)
        path = policy_gradient(i.reward, i.beta, i.pi0, i.d0, eta, 1, start)
        slope = np.log(start) - log_gibbs_policy(i.reward, i.beta, i.pi0)
        slope = -i.beta[:, None, None] * i.d0[..., None] * pi * (
            slope - (pi * slope).sum(-1, keepdims=True))
        gap = log_suboptimality(path, i.reward, i.beta, i.pi0, i.d0)
        gain = eta * (1 - eta * L / 2) * (slope**2).sum((1, 2))
        room = 1e-5 * i.beta * (1 + np.abs(np.log(i.pi0)).max((1, 2)) + np.ptp(
            i.reward, axis=-1).max(-1) / i.beta + np.abs(u).max((1, 2)))
        check.inequality("claim: gain of a step", gap[1] + gain, gap[0], scale=room, tol=1e-9)
    # Attained: two answers, and a price that hardly counts.
    p = (1 - 1 / np.sqrt(3)) / 2
    for K in (2, 4):  # more answers, all but two of no mass
        pi = np.append([p, 1 - p], np.full(K - 2, 1e-12))
        v, w = np.append([1.0, -1.0], np.zeros(K - 2)) / np.sqrt(2), np.append(
            [-1.0], np.zeros(K - 1))
        third = float((pi * (w - pi @ w) * (v - pi @ v) ** 2).sum())
        flat = np.full((1, K), 1 / K)
        L = policy_gradient_smoothness(w[None], 1e-9, flat, [1.0])
        check.inequality("claim: curvature", -third, L, tol=1e-6)
        check.at_least("claim: the range term is attained", -third / L, 1 - 1e-6)

    def range_term(x):
        pi, v = softmax(x[:4]), x[4:8] / np.linalg.norm(x[4:8])
        w = np.array([1.0, 0.0, 0.0, 0.0])
        return float((pi * (w - pi @ w) * (v - pi @ v) ** 2).sum()) * 27**0.5
    starts = check.rng.normal(size=(6, 8))
    best = check.search("step 2: the range term, worst case", range_term, starts, maxiter=1500)
    check.at_least("claim: the search attains the range term", best, 1 - check.choose(1e-4, 0.1))


@result("policy-gradient-rate", part="V", item="5.7", kind="inequality",
        title="Vanilla policy gradient: each action at its own pace", source="this book",
        depends=("mirror-descent-rate", "hoeffding-kl"))
def policy_gradient_rate(check):
    """The centred log-ratio of an action shrinks by 1 - eta beta d0 pi_k(a): rare actions crawl."""
    for rng, size in check.batches(10_000, fast=2_000):
        d0, pi0, reward, beta, start = moderate(rng, size)
        eta = rng.uniform(0.05, 1, size) / (beta * d0.max(-1))
        k = int(rng.integers(1, 30))
        path = policy_gradient(reward, beta, pi0, d0, eta, k, start)
        optimal = log_gibbs_policy(reward, beta, pi0)
        D = path - optimal
        pi = np.exp(path)
        D = D - (pi * D).sum(-1, keepdims=True)
        pace = (eta * beta)[:, None, None] * d0[..., None] * pi
        check.identity("step 1: one step", centred(D[1:]), centred((1 - pace) * D)[:-1],
                       scale=1 + np.abs(D).max((0, 2, 3))[:, None, None], tol=1e-12)
        F = np.ptp(D, axis=-1)
        check.inequality("step 2: the span never grows", F[1:], F[:-1], scale=1e-3, tol=1e-9)
        floor = optimal.min(-1) - F[0]
        check.inequality("step 3: a floor under every action", floor, path.min(-1).min(0),
                         scale=1e-3, tol=1e-9)
        factor = 1 - (eta * beta)[:, None] * d0 * np.exp(floor)
        check.inequality("step 4: the span shrinks", F[1:], factor * F[:-1], scale=1e-3, tol=1e-9)
        gap = log_suboptimality(path[-1], reward, beta, pi0, d0)
        check.inequality("claim: gap of vanilla policy gradient", gap, policy_gradient_bound(
            reward, beta, pi0, d0, eta, k, start), scale=rounding(beta, F[0].max(-1), 20.0),
            tol=1e-9)
        check.identity("claim: the bound in closed form", policy_gradient_bound(
            reward, beta, pi0, d0, eta, k, start), beta * mean(d0, sharp_hoeffding(
                factor**k * F[0])), scale=beta, tol=1e-9)
        slowest = pi[:-1].min(-1)
        check.inequality("claim: own floor at each step", F[1:], (1 - (
            eta * beta)[:, None] * d0 * slowest) * F[:-1], scale=1e-3, tol=1e-9)
    # Attained: two answers, alike under the optimal policy, and a start close to it.
    for k, share in ((1, 1.0), (3, 1.0), (3, 0.5)):
        F = 1e-4
        start = softmax(np.array([[F, 0.0]]))
        half = np.array([[0.5, 0.5]])
        gap = log_suboptimality(policy_gradient([[0.0, 0.0]], 1.0, half, [1.0], share, k, start)[k],
                                [[0.0, 0.0]], 1.0, half, [1.0])
        bound = policy_gradient_bound([[0.0, 0.0]], 1.0, half, [1.0], share, k, start)
        check.inequality("claim: gap of vanilla policy gradient", gap, bound, tol=1e-6)
        check.at_least("claim: the bound is attained", gap / bound, 0.999)
    # The eventual rate is the least positive eigenvalue of the covariance of the optimal policy.
    rng = check.rng
    for _ in range(check.choose(40, 15)):
        d0, pi0, reward, beta, start = moderate(rng, 1, S=1, K=3)
        star = gibbs_policy(reward, beta, pi0)[0, 0]
        lam = np.linalg.eigvalsh(np.diag(star) - np.outer(star, star))[1]
        low, second = np.sort(star), np.linalg.eigvalsh(np.diag(star) - np.outer(star, star))[2]
        check.inequality("step 5: interlacing, below", low[0], lam, tol=1e-9)
        check.inequality("step 5: interlacing, above", lam, low[1], tol=1e-9)
        n = int(np.ceil(12 / lam))
        if n > 500 or second < 1.5 * lam:
            continue
        path = policy_gradient(reward, beta, pi0, d0, 1 / beta, 2 * n, start, every=n)
        gaps = log_suboptimality(path, reward, beta, pi0, d0)[:, 0]
        rate = np.log(gaps[2] / gaps[1]) / n
        check.identity("claim: the eventual rate", rate / (2 * np.log1p(-lam)), 1.0, tol=0.02)


@result("policy-gradient-plateau", part="V", item="5.7", kind="inequality",
        title="The plateau of vanilla policy gradient",
        source="this book; cf. mei2020global, li2023softmax", depends=("policy-gradient-rate",))
def policy_gradient_plateau(check):
    """Two answers: from probability p to one half takes at least (1/p - 2) / (2 eta g) steps."""
    rng = check.rng
    n, limit = check.choose(24_000, 4_000), 3_000
    p, beta = 10.0 ** rng.uniform(-2.5, -0.32, n), 10.0 ** rng.uniform(-1, 1, n)
    gap = 10.0 ** rng.uniform(-1, 1, n) * beta * 3
    star = gap / beta + np.log(p) - np.log1p(-p)  # log-odds of the optimal policy
    keep = star > 1e-3
    p, beta, gap, star = p[keep], beta[keep], gap[keep], star[keep]
    eta = 10.0 ** rng.uniform(-1, 1, p.size) / gap
    z, first = np.log(p) - np.log1p(-p), np.full(p.size, np.nan)
    start = z.copy()
    for k in range(check.choose(limit, 600)):
        first = np.where(np.isnan(first) & (z >= 0), k, first)
        odds = np.exp(-np.abs(z))
        move = 2 * eta * beta * odds / (1 + odds) ** 2 * (star - z)
        below = np.isnan(first)
        check.inequality("step 1: the odds fall slowly", np.exp(-z[below]) - 2 * (
            eta * gap)[below], np.exp(-(z + move)[below]), tol=1e-9)
        z = np.where(below, z + move, z)
    done = ~np.isnan(first)
    need = np.array([plateau_steps(e, g, q) for e, g, q in zip(eta, gap, p, strict=True)])
    check.inequality("claim: steps to one half", need[done], first[done], tol=1e-9)
    check.at_least("claim: runs that arrived", done.sum(), 500)
    # The recursion of the odds is the library's algorithm.
    for j in range(40):
        pi0 = np.array([[p[j], 1 - p[j]]])
        path = policy_gradient([[gap[j], 0.0]], beta[j], pi0, [1.0], eta[j], 5)
        z = start[j]
        for k in range(6):
            check.identity("step 1: two answers", path[k, 0, 0] - path[k, 0, 1], z,
                           scale=1 + abs(star[j]), tol=1e-11)
            q = 1 / (1 + np.exp(-z))
            z += 2 * eta[j] * beta[j] * q * (1 - q) * (star[j] - z)
    check.instances += p.size
