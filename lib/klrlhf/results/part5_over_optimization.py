r"""Checks of part V, item 5.8: the gold curve of a proxy's path, its shape and its beginning.

What lives here: the covariance law and the peaks, how often the curve can turn, and its first two
coefficients at the reference.
What does not: what an error or an ellipsoid costs (``part5_over_optimization_bounds``).
"""

from __future__ import annotations

import numpy as np

from klrlhf.over_optimization import (
    best_of_n_curve,
    covariance_sign_changes,
    fit_form,
    gold_at_budget,
    gold_by_proxy,
    gold_start,
    over_optimization_curve,
)
from klrlhf.policies import greedy_policy, kl_divergence
from klrlhf.results.instances import random_policies
from klrlhf.results.part1_gibbs import average
from klrlhf.results.part1_temperature import Path, path_instances
from klrlhf.results.registry import result
from klrlhf.values import kl_max

STEP = 1e-20


def proxied(rng, size):
    """Instances whose proxy has range 1, gold rewards of size 1 related to it, and lambda."""
    inst, lam = path_instances(rng, size)
    proxy = inst.reward
    other = rng.standard_normal(proxy.shape)
    mixed = rng.uniform(-1, 1, (size, 1, 1)) * proxy + rng.standard_normal((size, 1, 1)) * other
    kind = rng.integers(0, 4, (size, 1, 1))
    gold = np.where(kind == 0, np.sign(other), np.where(kind == 1, proxy, mixed))
    gold = np.where(kind == 3, (proxy >= 0.7 * proxy.max(axis=-1, keepdims=True)) * 1.0, gold)
    gold = gold - gold[..., :1]
    size = np.abs(gold).max(axis=(1, 2))
    return inst, gold / np.where(size > 1e-9, size, 1.0)[:, None, None], lam


def moments(path, gold, proxy, d0):
    """G, the covariance and the third mixed moment from their definitions (complex allowed)."""
    r = gold - (path.policy * gold).sum(axis=-1, keepdims=True)
    s = proxy - (path.policy * proxy).sum(axis=-1, keepdims=True)
    return tuple(average(d0, (path.policy * f).sum(axis=-1)) for f in (gold, r * s, r * s * s))


@result("over-optimization", part="V", item="5.8", kind="identity", title="The covariance law",
        source="this book; observed by gao2023scaling",
        depends=("temperature-path", "kl-frontier"))
def over_optimization(check):
    """Gold reward grows along the proxy's path by the covariance; its peak is a sign change."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst, gold, lam = proxied(rng, size)
        arrays = inst.reward, inst.pi0, inst.d0
        here, above = Path(lam, *arrays), Path(lam + 1j * STEP, *arrays)
        G, C, _ = moments(here, gold, inst.reward, inst.d0)
        rise = moments(above, gold, inst.reward, inst.d0)[0].imag / STEP
        check.identity("claim: the slope is the covariance", rise, C, scale=1.0, tol=1e-11)
        curve = over_optimization_curve(lam[:, None], gold, *arrays)
        check.identity("claim: the library's curve", curve.covariance[:, 0], C, tol=1e-10)
        check.identity("claim: the library's gold", curve.gold[:, 0], G, tol=1e-11)
        drop = above.kl.imag / STEP
        told = here.variance > 1e-8
        b = C / np.where(told, here.variance, 1.0)
        check.identity("step 2: per nat, beta times the regression slope",
                       (rise - b * drop / lam)[told], 0.0)
        # The regression slope by least squares, one intercept per prompt.
        w = inst.d0[..., None] * here.policy
        s = inst.reward - (here.policy * inst.reward).sum(axis=-1, keepdims=True)
        r = gold - (here.policy * gold).sum(axis=-1, keepdims=True)
        score = (w * s * (r - b[:, None, None] * s)).sum(axis=(1, 2))
        check.identity("step 2: normal equation of the regression", score[told], 0.0)
        # The value at price beta_0 and the pair form of the covariance.
        price = 10.0 ** rng.uniform(-1, 1, size)
        check.identity("step 3: slope of the value", rise - price * drop,
                       C - price * lam * here.variance, scale=1 + price)
        at_price = C - here.variance
        error = (w * s * (r - s)).sum(axis=(1, 2))
        check.identity("step 3: at the own price, the error's covariance", at_price, error)
        pairs = here.policy[..., :, None] * here.policy[..., None, :]
        spread = (gold[..., :, None] - gold[..., None, :]) * (
            inst.reward[..., :, None] - inst.reward[..., None, :])
        check.identity("step 4: pair form", average(inst.d0, (pairs * spread).sum((-1, -2)) / 2), C)
    for rng, size in check.batches(2_000, fast=200, size=200):
        peaks(check, rng, size)
        last_sign(check, rng, size)
    # Peaks at 0, at infinity and in between, and a curve with several turns.
    one, flat = np.ones(1), np.full((1, 4), 0.25)
    proxy = np.array([[0.0, 1.0, 2.0, 3.0]])
    for gold, turns in (([[3.0, 2, 1, 0]], 0), ([[0.0, 1, 2, 3]], 0), ([[0.0, 2, 3, 1]], 1)):
        found = covariance_sign_changes(np.array(gold), proxy, flat, one)
        check.identity("claim: examples of peaks", len(found), turns)
    levels = np.arange(5.0)
    narrow = np.exp(-2 * levels**2)[None] / np.exp(-2 * levels**2).sum()
    found = covariance_sign_changes(np.array([[0.0, 1, 0, 1, 0]]), levels[None], narrow, one)
    check.identity("claim: three turns", len(found), 3)


def peaks(check, rng, size):
    """Every maximizer of the value comes before every maximizer of gold reward."""
    inst, gold, _ = proxied(rng, size)
    lam = np.concatenate([[0.0], np.geomspace(1e-2, 60, 400)])
    curve = over_optimization_curve(lam, gold, inst.reward, inst.pi0, inst.d0)
    last = average(inst.d0, (greedy_policy(inst.reward, inst.pi0) * gold).sum(-1))[:, None]
    G = np.concatenate([curve.gold, last], axis=1)
    k = np.concatenate([curve.kl, kl_max(inst.reward, inst.pi0, inst.d0)[:, None]], axis=1)
    price = 10.0 ** rng.uniform(-2, 0.5, (size, 1))
    J = G - price * k
    first = (G >= G.max(axis=1, keepdims=True)).argmax(axis=1)
    late = J.shape[1] - 1 - (J >= J.max(axis=1, keepdims=True))[:, ::-1].argmax(axis=1)
    # Where the divergence has stopped growing in double precision, so has the argument.
    behind = np.take_along_axis(k, late[:, None], 1) - np.take_along_axis(k, first[:, None], 1)
    check.inequality("claim: the value peaks first", behind[:, 0], 0.0, scale=1.0, tol=1e-10)


def last_sign(check, rng, size):
    """The limit of e^{lambda g} C: the last sign is that of m_1 - m_2."""
    K = int(rng.integers(2, 6))
    proxy = rng.integers(0, 3, (size, 1, K)) * 1.0
    proxy[:, 0, :2] = (0.0, 2.0)
    gold, pi0 = rng.standard_normal((size, 1, K)), random_policies(rng, size, 1, K)
    pi0 = 0.9 * pi0 + 0.1 / K
    top = proxy == 2.0
    below = np.where((proxy == 1.0).any(-1, keepdims=True), 1.0, 0.0)
    gap, second = 2.0 - below[:, 0, 0], proxy == below
    p1, p2 = ((pi0 * level).sum((1, 2)) for level in (top, second))
    m1, m2 = (((pi0 * level * gold).sum((1, 2)) / p) for level, p in ((top, p1), (second, p2)))
    C = over_optimization_curve(28.0, gold, proxy, pi0, np.ones(1)).covariance[:, 0]
    limit = gap * p2 / p1 * (m1 - m2)
    check.identity("step 5: the last sign", C * np.exp(28.0 * gap), limit,
                   scale=(1 + np.abs(gold).max((1, 2))) * (1 + p2 / p1), tol=1e-8)


def sign_changes(values, tol=0.0):
    """Sign changes along the last axis, zeros dropped."""
    values = np.where(np.abs(values) <= tol, 0.0, values)
    count = np.zeros(values.shape[:-1], int)
    last = np.zeros(values.shape[:-1])
    for j in range(values.shape[-1]):
        sign = np.sign(values[..., j])
        count += (sign != 0) & (last != 0) & (sign != last)
        last = np.where(sign != 0, sign, last)
    return count


@result("gold-curve-shape", part="V", item="5.8", kind="inequality",
        title="The curve is no wilder than the regression",
        source="this book; Descartes' rule for exponential sums",
        depends=("over-optimization",))
def gold_curve_shape(check):
    """On one prompt the gold curve turns no more often than its regression on the proxy."""
    lam = np.linspace(-30, 30, 801)
    ns = np.unique(np.geomspace(1, 5_000, 80).astype(int))
    most = 0
    for rng, size in check.batches(10_000, fast=500, size=250):
        J = int(rng.integers(2, 7))
        levels = np.sort(rng.uniform(0, 4, (size, J)), axis=1)
        if rng.random() < 0.5:
            levels = np.broadcast_to(np.arange(J) * 1.0, (size, J))
        weight = np.exp(-rng.uniform(0, 3, (size, 1)) * (levels - levels[:, :1]) ** 2)
        weight = np.where(rng.random((size, 1)) < 0.5, weight, rng.uniform(0.05, 1, (size, J)))
        weight /= weight.sum(1, keepdims=True)
        m = rng.standard_normal((size, J))
        m = np.where(rng.random((size, 1)) < 0.3, m * 0 + (-1.0) ** np.arange(J), m)
        m = np.where(rng.random((size, 1)) < 0.2, np.sort(m, 1), m)
        hill = np.concatenate([np.sort(m[:, : J // 2 + 1], 1), -np.sort(-m[:, J // 2 + 1:], 1)], 1)
        hill[:, J // 2] = m.max(1)
        m = np.where(rng.random((size, 1)) < 0.3, hill, m)
        # Answers of equal proxy may differ: only their mean counts.
        split = rng.uniform(0.1, 0.9, (size, J))
        noise = rng.standard_normal((size, J))
        gold = np.concatenate([m + noise / split, m - noise / (1 - split)], 1)[:, None]
        proxy = np.concatenate([levels, levels], 1)[:, None]
        pi0 = np.concatenate([weight * split, weight * (1 - split)], 1)[:, None]
        pi0 = pi0 / pi0.sum(-1, keepdims=True)
        check.identity("step 1: only the regression counts",
                       gold_by_proxy(gold, proxy, pi0)[:, 0, :J], m,
                       scale=1 + np.abs(gold).max((1, 2))[:, None], tol=1e-11)
        logits = np.log(weight)[:, None] + lam[:, None] * levels[:, None]
        policy = np.exp(logits - logits.max(-1, keepdims=True))
        policy /= policy.sum(-1, keepdims=True)
        G = (policy * m[:, None]).sum(-1)
        some = G[:, ::100]
        direct = over_optimization_curve(np.abs(lam[::100]), gold, proxy, pi0, np.ones(1)).gold
        check.identity("step 1: gold curve of the regression", some[:, 4:], direct[:, 4:],
                       scale=1 + np.abs(gold).max((1, 2))[:, None], tol=1e-10)
        for share in (0.2, 0.5, 0.8, rng.random()):
            c = (G.min(1) + share * np.ptp(G, axis=1))[:, None]
            met, allowed = sign_changes(G - c, 1e-11), sign_changes(m - c)
            check.inequality("claim: crossings of a level", met, allowed)
            # Laguerre's step: differentiate after dividing by an exponential between two levels.
            coef = weight * (m - c)
            at = rng.integers(0, J - 1)
            t = 0.5 * (levels[:, at] + levels[:, at + 1])
            less = sign_changes(coef * (levels - t[:, None]))
            here = np.sign(coef[:, at]) * np.sign(coef[:, at + 1]) < 0
            check.identity("step 2: one sign change less",
                           less[here], sign_changes(coef)[here] - 1)
        turned = sign_changes(np.diff(G, axis=1), 1e-12)
        up = sign_changes(np.diff(m, axis=1))
        check.inequality("claim: turns of the gold curve", turned, up)
        peaked = (up == 1) & (m[:, 1] > m[:, 0])
        check.inequality("step 3: single-peaked, so least at an end",
                         np.minimum(G[:, 0], G[:, -1])[peaked], G.min(1)[peaked], scale=1.0)
        slopes_of_tails(check, rng, policy[:, ::8], levels, m)
        most = max(most, int(turned.max()))
        bon = best_of_n_curve(ns, gold, proxy * 1.0, pi0, np.ones(1)).gold
        U = np.cumsum(weight, 1)
        powers = U[:, None, :-1] ** ns[:, None]
        check.identity("step 5: best-of-n as an exponential sum",
                       m[:, -1:] - (powers * np.diff(m, axis=1)[:, None]).sum(-1), bon,
                       scale=1 + np.abs(gold).max((1, 2))[:, None], tol=1e-9)
        bent = sign_changes(np.diff(bon, axis=1), 1e-11)
        check.inequality("claim: turns of best-of-n", bent, up)
    check.at_least("claim: curves with several turns occur", most, 3)


def slopes_of_tails(check, rng, policy, levels, m):
    """G' = sum of differences of m times slopes of tails, whose ratios increase in lambda."""
    score = levels[:, None] - (policy * levels[:, None]).sum(-1, keepdims=True)
    slope = np.cumsum((policy * score)[..., ::-1], axis=-1)[..., -2::-1]
    check.inequality("step 4: slopes of tails are positive", -slope, 0.0, scale=1.0)
    direct = (policy * score * m[:, None]).sum(-1)
    check.identity("step 4: sum by parts", (slope * np.diff(m, axis=1)[:, None]).sum(-1), direct,
                   scale=1 + np.abs(m).max(1)[:, None], tol=1e-10)
    if slope.shape[-1] < 2:
        return
    i, j = np.sort(rng.choice(slope.shape[-1], 2, replace=False))
    near = slice(42, 59, 3)  # |lambda| <= 5, where differences keep their digits
    ratio = np.log(slope[:, near, j]) - np.log(slope[:, near, i])
    check.inequality("step 4: their ratios increase", ratio[:, :-1], ratio[:, 1:], scale=1.0,
                     tol=1e-8)
    # The Wronskian of two slopes, from its expansion over blocks of levels.
    q, s = policy[:, near], levels
    block = [slice(0, i + 1), slice(i + 1, j + 1), slice(j + 1, None)]
    total = 0.0
    for a in range(*block[0].indices(s.shape[1])):
        for b in range(*block[1].indices(s.shape[1])):
            for c in range(*block[2].indices(s.shape[1])):
                spread = (s[:, b] - s[:, a]) * (s[:, c] - s[:, a]) * (s[:, c] - s[:, b])
                total = total + q[..., a] * q[..., b] * q[..., c] * spread[:, None]
    # K' of a tail's slope K is the sum of the second-order scores over the tail.
    w = score[:, near]
    second = q * (w**2 - (q * w**2).sum(-1, keepdims=True))
    bend = np.cumsum(second[..., ::-1], axis=-1)[..., -2::-1]
    K = slope[:, near]
    check.identity("step 4: the Wronskian is a sum of Vandermonde determinants",
                   K[..., i] * bend[..., j] - K[..., j] * bend[..., i], total, scale=50.0,
                   tol=1e-12)


def centred(policy, f):
    return f - (policy * f).sum(axis=-1, keepdims=True)


@result("gold-curve-start", part="V", item="5.8", kind="rate", title="The first nats",
        source="this book; forms of gao2023scaling",
        depends=("over-optimization", "temperature-path"))
def gold_curve_start(check):
    """Gold gain is zeta d - omega d^2 + O(d^3) in d = sqrt(KL), with both coefficients exact."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst, gold, lam = proxied(rng, size)
        arrays = inst.reward, inst.pi0, inst.d0
        here, above = Path(lam, *arrays), Path(lam + 1j * STEP, *arrays)
        G, C, M = moments(here, gold, inst.reward, inst.d0)
        bend = moments(above, gold, inst.reward, inst.d0)[1].imag / STEP
        check.identity("step 1: the covariance's slope", bend, M)
        R = np.where(inst.d0 > 0, np.ptp(gold, axis=-1), 0.0).max(-1)
        check.inequality("step 1: at most R times the variance", np.abs(M), R * here.variance,
                         scale=1e-9)
        zero = Path(np.zeros(size), *arrays)
        G0, C0, _ = moments(zero, gold, inst.reward, inst.d0)
        check.inequality("claim: change of the covariance", np.abs(C - C0),
                         R * (here.mean - zero.mean), scale=1e-2)
        back = average(inst.d0, kl_divergence(inst.pi0, np.maximum(here.policy, 1e-300)))
        told = here.policy.min(axis=(1, 2)) > 1e-250
        check.identity("step 2: the integral is the reverse divergence",
                       (here.A - lam * zero.mean)[told], back[told], scale=1 + lam[told], tol=1e-10)
        check.inequality("claim: distance to the first-order line",
                         np.abs(G - G0 - lam * C0)[told], (R * back)[told], scale=1e-3)
        # Third order: with ranges R and 1, explicit constants.
        w = centred(here.policy, inst.reward)
        u, square = centred(here.policy, gold), here.policy * w**2
        spread = square.sum(-1, keepdims=True)
        fourth = (here.policy * u * w * (w**2 - 3 * spread)).sum(-1)
        check.identity("step 3: the fourth cumulant",
                       moments(above, gold, inst.reward, inst.d0)[2].imag / STEP,
                       average(inst.d0, fourth))
        b = np.maximum(w.max(-1), -w.min(-1))
        a, var = np.ptp(w, axis=-1) - b, spread[..., 0]
        w4 = (square * w**2).sum(-1)
        inner = (b > 1e-9) & (var > 1e-14)
        check.inequality("step 3: the fourth moment", w4[inner],
                         (var * (b**2 - var * (b - a) / np.where(b > 0, b, 1.0)))[inner],
                         scale=1e-6)
        check.inequality("step 3: at most the range", w4 + 3 * var**2, (a + b) ** 2 * var,
                         scale=1e-6)
        check.inequality("step 3: absolute value", (here.policy * np.abs(w * (w**2 - 3 * spread))
                                                    ).sum(-1), (a + b) * var, scale=1e-6)
        T = average(inst.d0, (inst.pi0 * centred(inst.pi0, inst.reward) ** 3).sum(-1))
        growth = np.exp(lam) * zero.variance
        check.inequality("step 3: third order of the divergence",
                         np.abs(here.kl - lam**2 * zero.variance / 2 - lam**3 * T / 3),
                         lam**4 / 8 * growth, scale=1e-2 * (1 + lam))
        M0 = moments(zero, gold, inst.reward, inst.d0)[2]
        check.inequality("claim: third order of gold reward",
                         np.abs(G - G0 - lam * C0 - lam**2 * M0 / 2),
                         R * lam**3 / 6 * growth, scale=1e-3 * (1 + lam**2))
        start = gold_start(gold, *arrays)
        told = zero.variance > 1e-6
        check.identity("step 4: the library's coefficients", start.slope[told],
                       (C0 * np.sqrt(2 / zero.variance))[told])
        v = zero.variance[told]
        check.identity("step 4: the library's curvature", start.curvature[told] * v**2,
                       2 * C0[told] * T[told] / 3 - M0[told] * v)
    def third(x):
        pi0 = np.exp(np.concatenate([np.clip(x[:2], -12, 12), [0.0]]))[None]
        gold, proxy = np.append(x[2:4], 0.0)[None], np.append(x[4:6], 1.0)[None]
        lam, pi0, R = 10.0 ** np.clip(x[6], -2, 1), pi0 / pi0.sum(), np.ptp(gold)
        curve = over_optimization_curve([0.0, lam], gold, proxy, pi0, np.ones(1))
        start, span = gold_start(gold, proxy, pi0, np.ones(1)), np.ptp(proxy)
        error = curve.gold[1] - curve.gold[0] - lam * start.covariance - lam**2 * start.third / 2
        bound = R * span * lam**3 / 6 * np.exp(lam * span) * curve.variance[0]
        return abs(error) / bound if bound > 1e-9 else 0.0

    found = check.search("claim: search for a larger third order", third, [
        [-4.0, 0, 1, 0, 1, 0, -1], [-6.0, -6, 1, 0, 2, 1, -1.2], [0.0, 0, 1, -1, 0.5, -1, 0]],
        tol=1e-6)
    check.at_least("claim: third order nearly attained", found, 0.9)
    # The order of the remainder, and what the two published forms can do at the beginning.
    proxy, one = np.array([[0.0, 0.3, 1.0, 0.6]]), np.ones(1)
    gold, pi0 = np.array([[0.1, 0.9, 0.2, 0.5]]), np.array([[0.4, 0.3, 0.1, 0.2]])
    lam = np.geomspace(0.02, 0.2, 8)
    curve = over_optimization_curve(lam, gold, proxy, pi0, one)
    start, d = gold_start(gold, proxy, pi0, one), np.sqrt(curve.kl)
    gain = curve.gold - (pi0 * gold).sum()
    left = np.abs(gain - start.slope * d + start.curvature * d**2)
    check.slope("claim: order of the remainder", d, left, 3.0, 0.1)
    near = np.geomspace(1e-4, 1e-2, 20)
    small = gold_at_budget(near**2, gold, proxy, pi0, one).gold - (pi0 * gold).sum()
    linear = fit_form(near, small, "linear")
    check.limit("claim: the linear form finds zeta", linear.zeta, 0.0, start.slope, rtol=1e-3)
    check.limit("claim: the linear form finds omega", linear.omega, 0.0, start.curvature, rtol=5e-2)
    worst = [np.abs(near * (start.slope - w * np.log(near)) - small).max() for w in (0.1, 0.01)]
    better = np.abs(near * (start.slope - start.curvature * near) - small).max()
    check.at_least("claim: the logarithmic form cannot", min(worst) / better, 100.0)
