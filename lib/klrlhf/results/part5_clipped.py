r"""Checks of part V, item 5.7: the penalty inside the reward, and the clipped surrogate.

What lives here: what a step with frozen advantages does to J, the maximizers of the clipped
surrogate, and why they never settle.
What does not: mirror descent and policy gradients (``part5_mirror``, ``part5_policy_gradient``).
"""

from __future__ import annotations

import numpy as np

from klrlhf.mirror import (
    clipped_gradient_steps,
    clipped_surrogate,
    clipped_update,
    policy_gradient,
)
from klrlhf.policies import kl_divergence, log_gibbs_policy
from klrlhf.results.instances import random_instances, random_policies
from klrlhf.results.part5_mirror import mean
from klrlhf.results.part5_policy_gradient import moderate, softmax
from klrlhf.results.registry import result
from klrlhf.values import value


def advantage(old, reward, beta, pi0):
    """The advantage of the reward that contains the penalty."""
    g = reward - beta[..., None, None] * (np.log(old) - np.log(pi0))
    return g - (old * g).sum(-1, keepdims=True)


@result("frozen-penalty", part="V", item="5.7", kind="identity",
        title="The penalty inside the reward, frozen", source="this book",
        depends=("gibbs-variational",))
def frozen_penalty(check):
    """A step with frozen advantages changes J by their mean minus beta KL to the old policy."""
    for rng, size in check.batches(20_000, fast=2_000):
        i = random_instances(rng, size)
        old = np.maximum(random_policies(rng, size, *i.pi0.shape[1:]), 1e-300)
        old = old / old.sum(-1, keepdims=True)
        new = random_policies(rng, size, *i.pi0.shape[1:])
        A = advantage(old, i.reward, i.beta, i.pi0)
        change = value(new, i.reward, i.beta, i.pi0, i.d0) - value(
            old, i.reward, i.beta, i.pi0, i.d0)
        scale = np.abs(i.reward).max((1, 2)) + i.beta * (1 - np.log(i.pi0).min((1, 2)) - np.log(
            old).min((1, 2)))
        check.identity("claim: the change of J", change, mean(i.d0, (new * A).sum(-1)) - (
            i.beta * mean(i.d0, kl_divergence(new, old))), scale=scale)
        check.identity("step 1: the advantage has mean zero", (old * A).sum(-1), 0.0,
                       scale=scale[:, None])


@result("clipped-leaves-region", part="V", item="5.7", kind="inequality",
        title="What the clip does and does not guarantee",
        source="this book; cf. schulman2017proximal, wang2020truly", depends=("frozen-penalty",))
def clipped_leaves_region(check):
    """Maximizers of the clipped surrogate leave the clip range, and some of them forget actions."""
    for rng, size in check.batches(20_000, fast=2_000):
        d0, pi0, reward, beta, old = moderate(rng, size)
        if rng.random() < 0.3:  # coarse advantages: ties and zeros
            old = pi0
            reward = beta[:, None, None] * rng.integers(-1, 2, reward.shape)
        e = float(rng.uniform(0.02, 0.9))
        A = advantage(old, reward, beta, pi0)
        A = np.where(np.abs(A) < 1e-12 * beta[:, None, None], 0.0, A)
        logs = np.log(old)
        up, flat = np.where(A > 0, old, 0).sum(-1), (A == 0).any(-1)
        active = (A != 0).any(-1)
        room = (1 + e) * up <= 1
        top = e * (old * np.abs(A)).sum(-1)
        new = clipped_update(logs, reward, beta, pi0, e)
        L = clipped_surrogate(new, logs, reward, beta, pi0, e)
        scale = np.abs(A).max(-1)
        check.identity("step 1: the maximum", L[room], top[room], scale=1 + scale[room], tol=1e-11)
        other = random_policies(rng, size, *pi0.shape[1:])
        sides = clipped_surrogate(other, logs, reward, beta, pi0, e)
        check.inequality("step 1: nothing is larger", sides, L, scale=scale, tol=1e-9)
        check.inequality("step 1: nothing is larger than the maximum", sides, top, scale=scale,
                         tol=1e-9)
        ratio = new / old
        inside = room & active
        check.holds("step 1: ratios of a maximizer", np.where(
            A > 0, ratio >= 1 + e - 1e-9, np.where(A < 0, ratio <= 1 - e + 1e-9, True))[inside])
        full = ~room & active
        check.inequality("step 2: no room", np.where(A <= 0, new, 0).sum(-1)[full], 0.0, scale=1.0,
                         tol=1e-9)
        sure = active & ~flat & (np.abs(up - 0.5) > 1e-6)
        outside = np.maximum(ratio.max(-1) - 1 - e, 1 - e - ratio.min(-1))
        check.inequality("claim: a ratio leaves the clip range", 0.0, outside[sure], scale=1e-9,
                         tol=1e-3)
        # Step 4: the maximizer that keeps nothing below the old mean.
        shifted = np.where(A > 0, old * (1 + e), 0.0)
        spare = 1 - shifted.sum(-1, keepdims=True)
        best = np.where(A > 0, old, 0) / np.maximum(up[..., None], 1e-300)
        forget = np.where((room & active)[..., None], shifted + spare * best, old)
        forget = np.maximum(forget, 0) / np.maximum(forget, 0).sum(-1, keepdims=True)
        check.identity("step 4: forgetting is optimal", clipped_surrogate(
            forget, logs, reward, beta, pi0, e)[inside], top[inside], scale=1 + scale[inside],
            tol=1e-10)
        check.holds("claim: a maximizer at infinite KL", np.isinf(
            kl_divergence(old, forget))[inside])
        check.inequality("step 5: pessimistic", sides, (other * A).sum(-1), scale=scale, tol=1e-9)
        check.inequality("claim: what a maximizer gains", top[inside], (new * A).sum(-1)[inside],
                         scale=scale[inside], tol=1e-9)
        gain = value(new, reward, beta, pi0, d0) - value(old, reward, beta, pi0, d0)
        check.identity("step 6: the change of J", gain, mean(d0, (new * A).sum(-1)) - beta * mean(
            d0, kl_divergence(new, old)), scale=beta * 30 + np.abs(reward).max((1, 2)))
        # Nearest: no other maximizer is closer in KL.
        mixed = 0.999 * new + 0.001 * forget
        check.inequality("remark: the nearest maximizer", kl_divergence(new, old)[inside],
                         kl_divergence(mixed, old)[inside], scale=1e-6, tol=1e-6)
    # Answers of advantage 0: probabilities (a, 2a, rest), rewards (1, -1/2, 0, 0) or the negative.
    for _ in range(check.choose(400, 100)):
        a, e = check.rng.uniform(0.01, 0.32), check.rng.uniform(0.02, 0.9)
        sign = check.rng.choice([-1, 1])
        old = np.array([[a, 2 * a, (1 - 3 * a) / 4, (1 - 3 * a) * 3 / 4]])
        r, price = sign * np.array([[1.0, -0.5, 0.0, 0.0]]), 10.0 ** check.rng.uniform(-1, 1)
        new = clipped_update(np.log(old), r, price, old, e)
        up = a if sign > 0 else 2 * a
        share = (1 - (1 + e) * up - (1 - e) * (3 * a - up)) / (1 - 3 * a)  # one ratio for the flat
        if 1 - e <= share <= 1 + e:
            check.identity("remark: answers of advantage 0", new / old, np.array([[
                1 + sign * e, 1 - sign * e, share, share]]), tol=1e-9)
        if (1 + e) * up <= 1:
            check.identity("step 1: the maximum", clipped_surrogate(
                new, np.log(old), r, price, old, e), e * (old * np.abs(r)).sum(-1), tol=1e-11)
    # Half of the mass on each side: one maximizer stays on the border, and it can lose.
    for e in (0.1, 0.2, 0.5):
        kappa = ((1 + e) * np.log1p(e) + (1 - e) * np.log1p(-e)) / 2
        for edge in (0.5, 0.99, 1.01, 2.0):
            a = edge * kappa / e
            half = np.array([[0.5, 0.5]])
            new = clipped_update(np.log(half), [[2 * a, 0.0]], 1.0, half, e)
            check.identity("step 7: the border", new, half * (1 + e * np.array([1, -1])))
            gain = value(new, [[2 * a, 0.0]], 1.0, half, [1.0]) - value(
                half, [[2 * a, 0.0]], 1.0, half, [1.0])
            check.identity("claim: gain on the border", gain, e * a - kappa)
            check.holds("claim: it loses near the optimum", (gain < 0) == (edge < 1))


@result("clipped-first-epoch", part="V", item="5.7", kind="identity",
        title="The first epoch is vanilla policy gradient", source="this book; cf. schulman2017proximal",
        depends=("frozen-penalty", "policy-gradient-rate"))
def clipped_first_epoch(check):
    """At the old policy the clip is idle: one gradient step on the surrogate is policy gradient."""
    for rng, size in check.batches(10_000, fast=2_000):
        d0, pi0, reward, beta, old = moderate(rng, size, S=1)
        e, eta = float(rng.uniform(0.05, 0.9)), float(10.0 ** rng.uniform(-2, 1))
        logs, v, t = np.log(old), rng.normal(size=old.shape), 1e-6
        plus, minus = (clipped_surrogate(softmax(logs + s * t * v), logs, reward, beta, pi0, e)
                       for s in (1, -1))
        slope = old * advantage(old, reward, beta, pi0)
        size_of = beta * 20 + np.abs(reward).max((1, 2))
        check.identity("step 1: the gradient of the surrogate", ((plus - minus) / (2 * t))[:, 0],
                       (slope * v).sum((1, 2)), scale=size_of * np.abs(v).max((1, 2)), tol=1e-6)
        check.identity("claim: one epoch", clipped_gradient_steps(
            logs, reward, beta, pi0, e, eta, 1), policy_gradient(
            reward, beta, pi0, np.ones((size, 1)), eta, 1, old)[1],
            scale=1 + eta * size_of[:, None, None], tol=1e-11)


@result("clipped-never-settles", part="V", item="5.7", kind="inequality",
        title="Exact clipped updates never settle", source="this book",
        depends=("clipped-leaves-region", "mirror-descent-rate"))
def clipped_never_settles(check):
    """Two consecutive spans of the log-ratio to the optimum add up to a constant of the clip."""
    for rng, size in check.batches(20_000, fast=2_000):
        d0, pi0, reward, beta, old = moderate(rng, size)
        near = (10.0 ** rng.uniform(-6, 1, size))[:, None, None]  # from very close to far
        star = log_gibbs_policy(reward, beta, pi0)
        old = softmax(star + near * rng.normal(size=star.shape))
        e = float(rng.uniform(0.02, 0.9))
        new = clipped_update(np.log(old), reward, beta, pi0, e)
        least = np.log1p(e) - np.log1p(-e)
        with np.errstate(divide="ignore"):
            moved = np.log(new) - np.log(old)
            after = np.log(new) - star
        moved = np.where(np.isinf(moved), -1e9, moved)
        after = np.where(np.isinf(after), -1e9, after)
        check.inequality("step 1: the step has a least size", least, np.ptp(moved, axis=-1),
                         tol=1e-9)
        check.inequality("claim: two spans", least, np.ptp(np.log(old) - star, axis=-1)
                         + np.ptp(after, axis=-1), tol=1e-9)
    # Attained: two answers with half of the mass on each side.
    half = np.array([[0.5, 0.5]])
    for e in (0.1, 0.5):
        new = clipped_update(np.log(half), [[1e-9, 0.0]], 1.0, half, e)
        check.at_least("claim: attained near the optimum", (np.log1p(e) - np.log1p(-e)) / np.ptp(
            np.log(new)), 1 - 1e-6)
