r"""Checks of part V, item 5.8: what an error costs, when to stop, and what pessimism changes.

What lives here: gold reward lost with k nats, the stopping rule of an ellipsoid, the curve of
pessimism in expectation, and errors that are independent of the gold reward.
What does not: the covariance law and the shape of the curve (``part5_over_optimization``).
"""

from __future__ import annotations

import numpy as np

from klrlhf.bandit import Bandit
from klrlhf.coverage import expected_features
from klrlhf.experiments import fit_sweep
from klrlhf.offline import pessimistic_expected, reference_mean
from klrlhf.over_optimization import (
    gold_at_budget,
    gold_derivative,
    guaranteed_curve,
    guaranteed_stopping,
    guaranteed_stopping_bound,
    over_optimization_curve,
    proxy_error_bound,
)
from klrlhf.policies import kl_divergence, kl_divergence_from_logs, log_gibbs_policy
from klrlhf.results.instances import random_policies
from klrlhf.results.part1_temperature import path_instances
from klrlhf.results.part3_plug_in import linear, linear_instances, mean, widths
from klrlhf.results.registry import result
from klrlhf.values import kl_frontier, temperature_path


@result("proxy-error-frontier", part="V", item="5.8", kind="inequality",
        title="Gold reward lost with k nats", source="this book",
        depends=("kl-frontier", "frontier-square-root"))
def proxy_error_frontier(check):
    """No policy with k nats loses more to the error than the frontier of minus the error."""
    for rng, size in check.batches(10_000, fast=500, size=500):
        inst, _ = path_instances(rng, size)
        D = inst.reward  # the error, of range 1
        policy = random_policies(rng, *D.shape)
        lean = log_gibbs_policy(-D, 10.0 ** rng.uniform(-2, 2, size), inst.pi0)
        policy = np.where((rng.random(size) < 0.5)[:, None, None], policy, np.exp(lean))
        policy = policy / policy.sum(-1, keepdims=True)
        k = mean(kl_divergence(policy, inst.pi0), inst.d0)
        lost = -mean(((policy - inst.pi0) * D).sum(-1), inst.d0)
        front = kl_frontier(k[:, None], -D, inst.pi0, inst.d0).reward[:, 0]
        front = front + mean((inst.pi0 * D).sum(-1), inst.d0)
        check.inequality("claim: the frontier of minus the error", lost, front, scale=1e-3,
                         tol=1e-8)
        root = proxy_error_bound(k, np.ptp(D, axis=-1), inst.d0)
        check.inequality("claim: square root", front, root, scale=1e-3, tol=1e-8)
        told = k > 1e-6
        check.ratio("claim: Pinsker", (lost / np.where(told, root, 1.0))[told])
    for rng, size in check.batches(10_000, fast=500, size=500):
        inst = linear_instances(rng, size)
        f = inst.phi @ inst.root[:, None]
        policy = random_policies(rng, *inst.pi0.shape)
        e = np.einsum("Ns,Nsk,Nskd->Nd", inst.d0, policy - inst.pi0, f)
        size_e = np.linalg.norm(e, axis=1)
        error = (inst.rho[:, None] * inst.unit * e).sum(1)
        check.inequality("step 3: the ellipsoid", -error, inst.rho * size_e,
                         scale=1e-6 * inst.rho * np.abs(f).max((1, 2, 3)))
        worst = -(inst.rho[:, None] * e / np.maximum(size_e, 1e-300)[:, None] * e).sum(1)
        check.identity("step 3: attained", -worst, inst.rho * size_e, scale=inst.rho * size_e)
        k = mean(kl_divergence(policy, inst.pi0), inst.d0)
        check.inequality("step 4: the dual norm", size_e,
                         proxy_error_bound(k, widths(f), inst.d0), tol=1e-9)

    def ratio(x):
        p = 0.5 + 0.49 * np.tanh(x[0])
        path = temperature_path(10.0 ** (-2 + 1.5 * np.tanh(x[1])), [[1.0, 0]], [[p, 1 - p]], [1.0])
        return (path.reward[0] - p) / proxy_error_bound(path.kl[0], [1.0], [1.0])

    best = check.search("claim: search", ratio, [[0.5, 0.5], [-1.0, 0.0]], tol=1e-7)
    check.at_least("claim: nearly attained", best, 0.999)


def covariance_of(inst, f, policy, s):
    """Cov(f, s) averaged over prompts, both centred per prompt: shape (N, d)."""
    s = s - (policy * s).sum(-1, keepdims=True)
    best = np.take_along_axis(f, policy.argmax(-1)[..., None, None], axis=2)
    return np.einsum("Ns,Nsk,Nsk,Nskd->Nd", inst.d0, policy, s, f - best)


@result("gold-stopping", part="V", item="5.8", kind="inequality",
        title="When gold reward is sure to rise", source="this book",
        depends=("over-optimization", "temperature-path", "gold-curve-start",
                 "confidence-ellipsoid"))
def gold_stopping(check):
    """Gold reward rises for every truth in the ellipsoid until rho |Sigma theta_hat| reaches v."""
    for rng, size in check.batches(20_000, fast=1_000, size=1_000):
        inst = linear_instances(rng, size, widest=1.0)
        f = inst.phi @ inst.root[:, None]  # coordinates in which V is the identity
        s = linear(inst.phi, inst.theta_hat)
        span = np.where(inst.d0 > 0, np.ptp(s, axis=-1), 0.0).max(-1)
        kept = span > 0
        lam = np.where(kept, 10.0 ** rng.uniform(-2, 1, size) / np.where(kept, span, 1.0), 0.0)
        policy = np.exp(log_gibbs_policy(s * lam[:, None, None], np.ones(size), inst.pi0))
        centred = s - (policy * s).sum(-1, keepdims=True)
        v = mean((policy * centred**2).sum(-1), inst.d0)
        pulled = covariance_of(inst, f, policy, s)
        truth = s + linear(f, inst.rho[:, None] * inst.unit)
        slope = mean((policy * centred * truth).sum(-1), inst.d0)
        drag = inst.rho * np.linalg.norm(pulled, axis=1)
        terms = span * (span + inst.rho * np.linalg.norm(f, axis=-1).max((1, 2)))
        check.inequality("claim: least slope", v - drag, slope, scale=terms)
        unit = -pulled / np.maximum(np.linalg.norm(pulled, axis=1), 1e-300)[:, None]
        worst = s + linear(f, inst.rho[:, None] * unit)
        check.identity("step 1: attained", mean((policy * centred * worst).sum(-1), inst.d0),
                       v - drag, scale=terms + 1e-300)
        middle = f - np.einsum("Nsk,Nskd->Nsd", policy, f)[:, :, None]
        top = np.linalg.eigvalsh(np.einsum("Ns,Nsk,Nski,Nskj->Nij", inst.d0, policy, middle,
                                           middle))[:, -1]
        check.inequality("step 2: Cauchy-Schwarz", np.linalg.norm(pulled, axis=1),
                         np.sqrt(v * top), scale=terms / np.maximum(inst.rho, 1e-300), tol=1e-9)
        W2 = mean(widths(f) ** 2, inst.d0)
        check.inequality("step 2: a quarter of the width", top, W2 / 4)
        start = mean((inst.pi0 * (s - (inst.pi0 * s).sum(-1, keepdims=True)) ** 2).sum(-1), inst.d0)
        check.inequality("step 3: the proxy's variance", np.exp(-lam * span) * start, v,
                         scale=1e-6 * span**2)
        between(check, rng, inst, f, s, span, lam)
        with np.errstate(divide="ignore"):
            closed = np.log(4 * start[kept] / (inst.rho**2 * W2)[kept]) / span[kept]
        sure = (closed > 0) & (closed < 600 / span[kept])
        stop = np.where(sure, closed, 0.0)
        path = temperature_path(stop[sure][:, None], s[kept][sure], inst.pi0[kept][sure],
                                inst.d0[kept][sure])
        check.inequality("claim: nats that are sure",
                         (stop**2 * (inst.rho**2 * W2)[kept] / 8)[sure], path.kl[:, 0],
                         scale=1e-9, tol=1e-8)
    # The library's rules on the running example and random instances: order, and no truth falls.
    rng, seen, met = check.rng, [], []
    for _ in range(check.choose(40, 8)):
        bandit = (Bandit.running_example(0.5, rng.choice(["bad", "good"])) if rng.random() < 0.5
                  else Bandit.random(rng, S=2, K=4, d=2))
        fits = fit_sweep(bandit, 1.0, [10**4, 10**6], replicates=4, seed=rng)
        scale = 10.0 ** rng.uniform(-1.5, 0)
        theta, V, rho = fits.theta, fits.V, fits.rho * scale
        stop = guaranteed_stopping(bandit, theta, V, rho, points=120)
        closed = guaranteed_stopping_bound(bandit, theta, V, rho)
        check.inequality("claim: closed form before the rule", closed, stop, tol=1e-9)
        span = np.ptp(bandit.reward_of(theta), axis=-1).max(-1)
        seen.append(float((closed * span).max()))
        end = np.minimum(stop, 50 / span)
        lam = end[..., None] * np.array([0.1, 0.5, 0.9, 0.999])
        direction = rng.standard_normal((*theta.shape[:-1], 20, bandit.d))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        root = np.linalg.cholesky(np.linalg.inv(V))
        truths = theta[..., None, :] + rho[..., None, None] * np.einsum(
            "...ij,...nj->...ni", root, direction)
        slope = gold_derivative(lam[..., None, :], bandit.reward_of(truths),
                                bandit.reward_of(theta)[..., None, :, :], bandit.pi0, bandit.d0)
        check.inequality("claim: no truth falls before it", 0.0, slope[stop > 0], scale=1e-9)
        curve = guaranteed_curve(lam, bandit, theta, V, rho)
        check.inequality("claim: the library's least slope", curve.slope[..., None, :], slope,
                         scale=1e-9)
        attained(check, bandit, theta, V, rho, lam, curve)
        start = (bandit.pi0 * bandit.reward_of(theta) ** 2).sum(-1) - (
            bandit.pi0 * bandit.reward_of(theta)).sum(-1) ** 2
        near = np.einsum("skd,...de->...ske", bandit.phi, root)
        W2 = widths(near.reshape(-1, *bandit.phi.shape)).reshape(*rho.shape, -1) ** 2 @ bandit.d0
        exact = np.log(4 * (start @ bandit.d0) / (rho**2 * W2))
        check.identity("claim: the library's closed form", closed * span, np.maximum(exact, 0),
                       tol=1e-8)
        # No point before the stop fails, on a grid that the rule did not use.
        fine = end[..., None] * np.sort(rng.random((*end.shape, 400)), axis=-1)
        held = guaranteed_curve(fine, bandit, theta, V, rho).ratio[stop > 0]
        check.inequality("claim: sure all the way", held, 1.0)
        inside = np.isfinite(stop) & (stop > 0) & (stop * span < 50)
        if inside.any():
            at = guaranteed_curve(end[..., None], bandit, theta, V, rho).ratio[..., 0][inside]
            met.extend(np.abs(at - 1) < 1e-6)
    check.at_least("claim: not vacuous, lambda times range", max(seen), 0.5)
    check.at_least("claim: share of stops at the crossing itself", np.mean(met), 0.9)


def attained(check, bandit, theta, V, rho, lam, curve):
    """The library's least gain and slope belong to truths of the ellipsoid."""
    proxy = bandit.reward_of(theta)
    for i in range(lam.shape[-1]):
        policy = np.exp(log_gibbs_policy(proxy * lam[..., i, None, None], 1.0, bandit.pi0))
        w = proxy - (policy * proxy).sum(-1, keepdims=True)
        pulled = np.einsum("s,...sk,skd->...d", bandit.d0, policy * w, bandit.phi)
        moved = np.einsum("s,...sk,skd->...d", bandit.d0, policy - bandit.pi0, bandit.phi)
        for name, e, least in (("slope", pulled, curve.slope), ("gain", moved, curve.gain)):
            away = np.linalg.solve(V, e[..., None])[..., 0]
            size = np.sqrt(np.maximum((e * away).sum(-1), 1e-300))
            truth = theta - (rho / size)[..., None] * away
            check.identity(f"claim: the library's least {name} is attained",
                           (truth * e).sum(-1), least[..., i], tol=1e-9,
                           scale=(1 + rho * np.sqrt(1 / np.linalg.eigvalsh(V)[..., 0])))


def between(check, rng, inst, f, s, span, lam):
    """Between two temperatures every truth's slope stays above its chord minus a curvature."""
    step = np.where(span > 0, 10.0 ** rng.uniform(-2, 0, len(lam)) / np.maximum(span, 1e-300), 0.0)
    share = rng.random(len(lam))
    truth = s + linear(f, inst.rho[:, None] * inst.unit)
    width = span + inst.rho * np.where(inst.d0 > 0, widths(f), 0.0).max(-1)
    slopes, variances, least = [], [], []
    for at in (lam, lam + step, lam + share * step):
        policy = np.exp(log_gibbs_policy(s * at[:, None, None], np.ones(len(at)), inst.pi0))
        w = s - (policy * s).sum(-1, keepdims=True)
        slopes.append(mean((policy * w * truth).sum(-1), inst.d0))
        variances.append(mean((policy * w**2).sum(-1), inst.d0))
        pulled = covariance_of(inst, f, policy, s)
        least.append(variances[-1] - inst.rho * np.linalg.norm(pulled, axis=1))
    reach = span * width
    bend = step**2 / 8 * reach * np.exp(step * span / 2) * np.sqrt(variances[0] * variances[1])
    check.inequality("step 5: variance between", variances[2],
                     np.exp(step * span / 2) * np.sqrt(variances[0] * variances[1]),
                     scale=1e-9 * span**2)
    chord = (1 - share) * slopes[0] + share * slopes[1]
    check.inequality("step 5: one truth above its chord", chord - slopes[2], bend, scale=reach)
    chord = (1 - share) * least[0] + share * least[1]
    check.inequality("claim: the least slope between grid points", chord - least[2], bend,
                     scale=reach)


@result("pessimism-path", part="V", item="5.8", kind="inequality",
        title="Pessimism never falls below the reference", source="this book",
        depends=("pessimism-expected", "pessimism-safe-improvement", "proxy-error-frontier"))
def pessimism_path(check):
    """Along option I's curve the guaranteed gold gain rises with the KL and is at least beta KL."""
    rng, largest = check.rng, 0.0
    betas = np.geomspace(5.0, 0.02, 12)
    for _ in range(check.choose(40, 4)):
        bandit = (Bandit.running_example(0.5, rng.choice(["bad", "good"])) if rng.random() < 0.5
                  else Bandit.random(rng, S=2, K=4, d=2))
        R = 24
        root = rng.standard_normal((R, 2, 2)) * 10.0 ** rng.uniform(-1, 0.5, (R, 1, 1))
        V = root @ np.swapaxes(root, -1, -2) + 0.01 * np.eye(2)
        theta = rng.standard_normal((R, 2)) * 2
        norm = np.sqrt(np.einsum("ni,nij,nj->n", theta, V, theta))
        rho = norm * 10.0 ** rng.uniform(-2, 0.2, R)
        nu = reference_mean(bandit)
        check.instances += R * len(betas)
        ell, k, back, true = [], [], [], []
        unit = rng.standard_normal((R, 2))
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        truth = theta + rho[:, None] * np.linalg.solve(
            np.swapaxes(np.linalg.cholesky(V), -1, -2), unit[..., None])[..., 0]
        for beta in betas:
            learned = pessimistic_expected(bandit.with_(beta=beta), theta, V, rho, nu)
            policy = learned.policy
            log_policy = log_gibbs_policy(bandit.reward_of(learned.theta), beta, bandit.pi0)
            e = expected_features(policy, bandit.phi, bandit.d0) - nu
            length = np.sqrt(np.einsum("ni,ni->n", e, np.linalg.solve(V, e[..., None])[..., 0]))
            ell.append((theta * e).sum(1) - rho * length)
            k.append(bandit.kl(policy))
            back.append(mean(kl_divergence_from_logs(np.log(bandit.pi0), log_policy), bandit.d0))
            true.append((truth * e).sum(1))
        ell, k, back, true = (np.array(f) for f in (ell, k, back, true))
        size = np.abs(theta).max(1) + rho * np.sqrt(1 / np.linalg.eigvalsh(V)[:, 0])
        check.inequality("claim: gold gain at least guaranteed", ell, true, scale=size, tol=1e-9)
        check.inequality("claim: at least beta times both divergences",
                         betas[:, None] * (k + back), ell, scale=size, tol=1e-7)
        check.inequality("claim: guaranteed gain rises", ell[:-1], ell[1:], scale=size, tol=1e-7)
        check.inequality("claim: divergence rises", k[:-1], k[1:], scale=1.0, tol=1e-6)
        # No policy of at most as many nats has a larger guaranteed gain: the plug-in's, and random.
        other = np.exp(log_gibbs_policy(bandit.reward_of(theta), np.full(R, rng.choice(betas)),
                                        bandit.pi0))
        for policy in (other, random_policies(rng, R, bandit.S, bandit.K)):
            e = expected_features(policy, bandit.phi, bandit.d0) - nu
            length = np.sqrt(np.einsum("ni,ni->n", e, np.linalg.solve(V, e[..., None])[..., 0]))
            gain = (theta * e).sum(1) - rho * length
            check.inequality("claim: best guarantee per nat", gain - betas[:, None] * bandit.kl(
                policy), ell - betas[:, None] * k, scale=size, tol=1e-7)
        largest = max(largest, float((ell[-1] / size).max()))
    check.at_least("claim: not vacuous", largest, 0.05)
    # The plug-in, on the same event, does fall below the reference; option I does not.
    bandit = Bandit.running_example(0.5).with_(theta=(1.0, -1.0))
    theta, V, rho = np.array([0.3, 0.6]), np.diag([100.0, 1.0]), 7.5
    off = bandit.theta - theta
    check.holds("remark: the truth is in the ellipsoid", off @ V @ off <= rho**2)
    start = float(bandit.expected_reward(bandit.pi0))
    for beta in betas:
        learned = pessimistic_expected(bandit.with_(beta=beta), theta, V, rho, nu=np.zeros(2))
        check.inequality("remark: option I stays above", start,
                         bandit.expected_reward(learned.policy), scale=1.0, tol=1e-9)
    plug_in = bandit.expected_reward(bandit.with_(beta=betas[-1]).gibbs(theta))
    check.at_least("remark: the plug-in falls below", start - float(plug_in), 0.1)


@result("independent-error", part="V", item="5.8", kind="inequality",
        title="Independent errors", source="this book; after kwa2024catastrophic",
        depends=("over-optimization", "temperature-path"))
def independent_error(check):
    """An error independent of the gold reward costs nats but never gold at a given temperature."""
    for rng, size in check.batches(10_000, fast=500, size=250):
        rows, J = int(rng.integers(2, 5)), int(rng.integers(2, 5))
        p, q = random_policies(rng, size, 1, rows)[:, 0], random_policies(rng, size, 1, J)[:, 0]
        p, q = 0.95 * p + 0.05 / rows, 0.95 * q + 0.05 / J
        gold = rng.standard_normal((size, rows))
        X = rng.standard_normal((size, J)) * 10.0 ** rng.uniform(-1, 1, (size, 1))
        pi0 = (p[:, :, None] * q[:, None, :]).reshape(size, 1, -1)
        pi0 = pi0 / pi0.sum(-1, keepdims=True)
        both = np.broadcast_to(gold[:, :, None], (size, rows, J)).reshape(size, 1, -1)
        proxy = (gold[:, :, None] + X[:, None, :]).reshape(size, 1, -1)
        lam = 10.0 ** rng.uniform(-2, 1, (size, 1))
        one = np.ones(1)
        curve = over_optimization_curve(lam, both, proxy, pi0, one)
        alone = temperature_path(lam, gold[:, None], p[:, None], one)
        error = temperature_path(lam, X[:, None], q[:, None], one)
        big = 1 + np.abs(proxy).max((1, 2))[:, None] * lam
        check.identity("claim: gold as without the error", curve.gold, alone.reward, scale=big)
        check.identity("step 1: divergences add", curve.kl, alone.kl + error.kl, scale=big)
        check.identity("step 1: covariance", curve.covariance, alone.variance, scale=big)
        R, k = np.ptp(gold, axis=1)[:, None], curve.kl
        start = (p * gold).sum(1, keepdims=True)
        check.inequality("step 2: gold by temperature", curve.gold - start, lam * R**2 / 4,
                         scale=1e-9)
        tau = np.ptp(X, axis=1)[:, None] ** 2 / 4
        check.inequality("claim: light tails keep the temperature up",
                         np.sqrt(2 * k / (tau + R**2 / 4)), lam, tol=1e-9, scale=1e-9)
    # A rare large error: gold is bounded by log(1/eps) / M, the proxy grows like M / log(1/eps).
    rng = check.rng
    for _ in range(check.choose(400, 40)):
        k, M = 10.0 ** rng.uniform(-1.5, 0.5), 10.0 ** rng.uniform(1, 6)
        eps = 0.25 * np.exp(-2 * k) * 10.0 ** -rng.uniform(0, 6)
        x = rng.uniform(0.1, 0.9)
        pi0 = np.outer([x, 1 - x], [eps, 1 - eps]).reshape(1, 4)
        gold = np.array([[1.0, 1.0, 0.0, 0.0]])
        proxy = gold + np.array([[M, 0.0, M, 0.0]])
        at = gold_at_budget([k], gold, proxy, pi0 / pi0.sum(), np.ones(1))
        check.inequality("step 3: inverse temperature", at.inverse_temperature[0],
                         np.log(1 / eps) / M, tol=1e-9)
        check.inequality("claim: gold gain of a rare large error", at.gold[0] - x,
                         np.log(1 / eps) / (4 * M), scale=1e-9, tol=1e-6)
        if eps * np.log(1 / eps) <= k <= np.log(1 / eps):
            base = float((pi0 * proxy).sum())
            check.inequality("claim: proxy gain of a rare large error",
                             M * (k / np.log(1 / eps) - eps), at.proxy[0] - base, scale=1e-9)
    # The proxy's share is attained when the budget nearly buys certainty.
    for share in (0.5, 0.9, 0.99, 0.999):
        for eps in (1e-3, 1e-9, 1e-30):
            k, M = share * np.log(1 / eps), 1e6
            pi0 = np.array([[eps, 1 - eps]])
            at = gold_at_budget([k], [[0.0, 0.0]], [[M, 0.0]], pi0, np.ones(1))
            check.inequality("claim: proxy gain of a rare large error", M * (share - eps),
                             at.proxy[0] - M * eps, scale=1e-9)
    # The regressional identity of Gao et al.: normal gold and error, on a fine grid.
    grid = np.linspace(-8, 8, 161)
    for sigma in (0.5, 1.0, 2.0):
        law = np.exp(-grid**2 / 2)
        law /= law.sum()
        pi0 = np.outer(law, law).reshape(1, -1)
        gold = np.repeat(grid, grid.size)[None]
        proxy = gold + sigma * np.tile(grid, grid.size)[None]
        d = np.array([0.3, 0.6, 1.0])
        at = gold_at_budget(d**2, gold, proxy, pi0 / pi0.sum(), np.ones(1))
        check.limit("claim: normal laws, gold per proxy", at.gold / at.proxy, 0.0,
                    1 / (1 + sigma**2), rtol=1e-6)
        check.limit("claim: normal laws, linear in d", at.gold, 0.0,
                    d * np.sqrt(2 / (1 + sigma**2)), rtol=1e-4)
