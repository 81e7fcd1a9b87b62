r"""Checks of part V, item 5.1: direct preference optimization is the plug-in.

What lives here: the change of variables, the equality of the losses and what follows, the gradient
and gradient descent in logits, free logits against the Gibbs class, the pessimistic loss.
What does not: what an inexact fit costs (``part5_direct_inexact``), data without a minimum
(``part5_separation``), iterations (``part5_iterative``).
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from klrlhf.bandit import Bandit
from klrlhf.confidence import (
    confidence_radius,
    design_matrix,
    least_curvature,
    parameter_error,
    score_bound_fixed,
)
from klrlhf.direct import (
    dpo_gradient,
    dpo_loss,
    dpo_weights,
    fit_dpo,
    fit_dpo_softmax,
    fit_pessimistic_dpo,
    gradient_step_size,
    implicit_reward,
    log_ratio_margin,
    pessimistic_shift,
)
from klrlhf.estimation import fit_mle, negative_log_likelihood
from klrlhf.offline import (
    asymptotic_gap,
    pessimistic_pointwise,
    pessimistic_pointwise_bounds,
    plug_in_bounds,
    reference_means,
)
from klrlhf.policies import log_gibbs_policy, log_partition
from klrlhf.preferences import (
    Comparisons,
    all_pairs,
    coverage_design,
    pair_features,
    sample_comparisons,
)
from klrlhf.results.instances import random_instances, random_policies
from klrlhf.results.part3_plug_in import linear, linear_instances, widths
from klrlhf.results.registry import result
from klrlhf.three_arms import third_arm_best, three_arm_data


def random_counts(rng, size, T):
    """Counts and wins over T pairs: few, many, unanimous, none."""
    counts = np.floor(10.0 ** rng.uniform(-0.5, 3, (size, T)))
    wins = rng.binomial(counts.astype(int), rng.random((size, T))).astype(float)
    unanimous = rng.random((size, T)) < 0.3
    return counts, np.where(unanimous, counts * (rng.random((size, T)) < 0.5), wins)


@result("dpo-change-of-variables", part="V", item="5.1", kind="identity",
        title="A policy is a reward", source="rafailov2023direct",
        depends=("gibbs-variational",))
def dpo_change_of_variables(check):
    """Every full-support policy is the Gibbs policy of its implicit reward; margins are rewards."""
    for rng, size in check.batches(20_000, fast=2_000):
        inst = random_instances(rng, size)
        beta, reward = inst.beta, inst.reward
        log_policy = log_gibbs_policy(reward, beta, inst.pi0)
        log_z = log_partition(reward, beta, inst.pi0)
        unit = beta + np.abs(reward).max((1, 2)) + beta * np.abs(np.log(inst.pi0)).max((1, 2))
        implicit = implicit_reward(log_policy, inst.pi0, beta)
        check.identity("step 1: the log-ratio", implicit,
                       reward - beta[:, None, None] * log_z[..., None],
                       scale=unit[:, None, None])
        free = np.log(random_policies(rng, size, *reward.shape[1:]))
        own = implicit_reward(free, inst.pi0, beta)
        check.identity("step 2: its partition function is one",
                       log_partition(own, beta, inst.pi0), 0.0, scale=(unit / beta)[:, None] + 500)
        check.identity("claim: the policy is the Gibbs policy",
                       log_gibbs_policy(own, beta, inst.pi0), free,
                       scale=(unit / beta)[:, None, None] + 500)
        pairs = all_pairs(*reward.shape[1:])
        x, a, b = pairs.T
        check.identity("claim: the margin is the reward difference",
                       log_ratio_margin(log_policy, inst.pi0, pairs, beta),
                       reward[:, x, a] - reward[:, x, b], scale=unit[:, None])
        span = np.ptp(reward - implicit, axis=-1)
        check.identity("step 3: when two rewards agree", span, 0.0, scale=unit[:, None])
        moved = reward + (beta[:, None] * rng.standard_normal(reward.shape[:2]))[..., None]
        check.identity("claim: a shift per prompt changes nothing",
                       log_gibbs_policy(moved, beta, inst.pi0), log_policy,
                       scale=(unit / beta)[:, None, None] + 10)


@result("dpo-is-plug-in", part="V", item="5.1", kind="identity",
        title="DPO is the plug-in", source="rafailov2023direct; this book",
        depends=("dpo-change-of-variables", "bt-likelihood", "plug-in-chain", "plug-in-failure"))
def dpo_is_plug_in(check):
    """In the Gibbs class the DPO loss is the Bradley-Terry loss, at every beta and reference."""
    for rng, size in check.batches(12_000, fast=1_200, size=300):
        S, K, d = (int(rng.integers(*ends)) for ends in ((1, 4), (2, 6), (1, 5)))
        phi, pairs = rng.standard_normal((S, K, d)), all_pairs(S, K)
        counts, wins = random_counts(rng, size, len(pairs))
        data = Comparisons(pairs, pair_features(phi, pairs), counts, wins)
        theta = rng.standard_normal((size, d)) * 10.0 ** rng.uniform(-2, 1, (size, 1))
        beta, pi0 = 10.0 ** rng.uniform(-2, 2, size), random_policies(rng, size, S, K)
        reward = np.einsum("skd,nd->nsk", phi, theta)
        log_policy = log_gibbs_policy(reward, beta, pi0)
        u = theta @ data.z.T
        # Rounding of a log-ratio is that of log pi and log pi0, not of their difference.
        unit = 1 + np.abs(u).max(-1) + beta * (np.abs(log_policy).max((1, 2)) + 200)
        check.identity("step 1: margins", log_ratio_margin(log_policy, pi0, pairs, beta), u,
                       scale=unit[:, None])
        check.identity("claim: the losses are equal", dpo_loss(log_policy, pi0, data, beta),
                       negative_log_likelihood(theta, data),
                       scale=unit * np.maximum(counts.sum(-1), 1))
    # The minimizer, by an optimizer that knows only the DPO loss and the ball.
    rng = check.rng
    for _ in range(check.choose(60, 12)):
        bandit = Bandit.random(rng, S=2, K=3, d=2, beta=float(10 ** rng.uniform(-1, 0.7)), B=1.5)
        data = sample_comparisons(bandit, 60, coverage_design(bandit, 1.0), rng)
        fit = fit_dpo(bandit, data)
        found = minimize_in_ball(bandit, data)
        check.identity("step 2: the minimal loss", found.fun, fit.loss, scale=fit.loss, tol=1e-9)
        check.identity("claim: the minimizer", bandit.gibbs(found.x), np.exp(fit.log_policy),
                       tol=1e-4)
        check.identity("claim: another reference and beta, same parameter", fit_dpo(
            bandit.with_(beta=0.3, pi0=random_policies(rng, 1, 2, 3)[0]), data).theta, fit.theta,
            tol=1e-12)
    # What it inherits: the chain of bounds, and the failure on three arms.
    for beta, n, c in ((0.05, 400, 0.1), (0.5, 100, 1.0), (0.5, 5_000, 1.0), (5.0, 100, 0.1)):
        bandit = Bandit.running_example(beta, "good")
        data = sample_comparisons(bandit, n, coverage_design(bandit, c), rng, 300)
        fit, V = fit_dpo(bandit, data), design_matrix(data, 0.01)
        rho = confidence_radius(score_bound_fixed(data, 0.01, 0.05),
                                least_curvature(bandit.L, bandit.B), 0.01, bandit.B)
        event = parameter_error(fit.theta, bandit.theta, V) <= rho
        check.inequality("claim: the certificate", bandit.gap(np.exp(fit.log_policy))[event],
                         plug_in_bounds(bandit, fit.theta, V, rho).certificate[event],
                         scale=1e-9)
    bandit = Bandit.three_arms(1.0, 0.5, 2.0)
    for n in (2, 5, 30, 300):
        for W in range(0, n, max(n // 20, 1)):
            policy = np.exp(fit_dpo(bandit, three_arm_data(n, W)).log_policy)[0]
            told = bool(third_arm_best(n, W, bandit.B))
            check.holds("claim: it fails where the plug-in fails",
                        told == (policy[2] > policy[:2].max() * (1 + 1e-9)))


def minimize_in_ball(bandit, data):
    """Minimize the DPO loss of Gibbs(theta) over the ball: SLSQP, several starts."""
    def loss(theta):
        log_policy = log_gibbs_policy(bandit.reward_of(theta), bandit.beta, bandit.pi0)
        return float(dpo_loss(log_policy, bandit.pi0, data, bandit.beta))

    starts = [np.zeros(bandit.d), np.full(bandit.d, 0.3)]
    ball = {"type": "ineq", "fun": lambda t: bandit.B**2 - t @ t}
    runs = [minimize(loss, start, method="SLSQP", constraints=[ball],
                     options={"ftol": 1e-13, "maxiter": 300}) for start in starts]
    return min(runs, key=lambda run: run.fun)


def complex_loss(logits, pi0, data, beta, shift):
    """The DPO loss from logits, written for complex arguments: an exact directional derivative."""
    log_policy = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    x, a, b = data.pairs.T
    ratio = log_policy - np.log(pi0)
    m = beta[:, None] * (ratio[:, x, a] - ratio[:, x, b]) + shift
    return (data.wins * np.log1p(np.exp(-m)) + data.losses * np.log1p(np.exp(m))).sum(axis=-1)


@result("dpo-gradient", part="V", item="5.1", kind="identity",
        title="The gradient of DPO and its weights", source="rafailov2023direct",
        depends=("dpo-change-of-variables",))
def dpo_gradient_check(check):
    """In logits each comparison has weight beta sigma(-margin); in theta, beta cancels."""
    for rng, size in check.batches(10_000, fast=1_000, size=250):
        S, K, d = (int(rng.integers(*ends)) for ends in ((1, 4), (2, 6), (1, 4)))
        pairs, pi0 = all_pairs(S, K), np.maximum(random_policies(rng, size, S, K), 1e-6)
        pi0 /= pi0.sum(-1, keepdims=True)
        phi = rng.standard_normal((S, K, d))
        counts, wins = random_counts(rng, size, len(pairs))
        data = Comparisons(pairs, pair_features(phi, pairs), counts, wins)
        beta = 10.0 ** rng.uniform(-2, 0.5, size)
        logits = np.log(pi0) + rng.standard_normal((size, S, K))
        shift = rng.standard_normal((size, len(pairs)))
        log_policy = log_softmax(logits, axis=-1)
        gradient = dpo_gradient(log_policy, pi0, data, beta, shift)
        direction = rng.standard_normal((size, S, K))
        slope = complex_loss(logits + 1e-30j * direction, pi0, data, beta, shift).imag / 1e-30
        unit = beta * np.maximum(counts.sum(-1), 1.0)
        check.identity("claim: the gradient in logits", (gradient * direction).sum((1, 2)), slope,
                       scale=unit * 5)
        check.identity("step 2: a prompt sums to zero", gradient.sum(-1), 0.0, scale=unit[:, None])
        m = log_ratio_margin(log_policy, pi0, pairs, beta) + shift
        win, loss = dpo_weights(log_policy, pi0, data, beta, shift)
        check.identity("step 1: the weights", np.stack([win, loss]),
                       beta[:, None] * expit(np.stack([-m, m])), scale=beta[:, None])
        theta = rng.standard_normal((size, d))
        reward = np.einsum("skd,nd->nsk", phi, theta)
        inside = log_gibbs_policy(reward, beta, pi0)
        turn = rng.standard_normal((size, d))
        moved = theta + 1e-30j * turn
        bent = np.log(pi0) + np.einsum("skd,nd->nsk", phi, moved) / beta[:, None, None]
        bent = bent - bent.real.max(-1, keepdims=True)
        slope = complex_loss(bent, pi0, data, beta, 0.0).imag / 1e-30
        u = theta @ data.z.T
        direct = ((data.losses * expit(u) - wins * expit(-u)) @ data.z * turn).sum(-1)
        chained = (dpo_gradient(inside, pi0, data, beta) / beta[:, None, None]
                   * np.einsum("skd,nd->nsk", phi, turn)).sum((1, 2))
        scale = np.maximum(counts.sum(-1), 1) * (np.abs(data.z).max() + 1) ** 2 * 10
        check.identity("step 3: the chain rule", chained, direct, scale=scale)
        check.identity("claim: in theta the coefficient cancels", slope, direct, scale=scale)


@result("dpo-descent", part="V", item="5.1", kind="inequality",
        title="Gradient descent on logits learns the same reward at every beta",
        source="this book", depends=("dpo-gradient",))
def dpo_descent(check):
    """With step 2/(beta^2 D) the loss falls by a known amount; the learned reward ignores beta."""
    for rng, size in check.batches(10_000, fast=1_000, size=250):
        S, K = int(rng.integers(1, 4)), int(rng.integers(2, 6))
        pairs, pi0 = all_pairs(S, K), random_policies(rng, 1, S, K)[0]
        counts, wins = random_counts(rng, size, len(pairs))
        data = Comparisons(pairs, np.zeros((len(pairs), 1)), counts, wins)
        beta = float(10.0 ** rng.uniform(-1.5, 1))
        step = gradient_step_size(data, beta)
        logits = np.log(pi0) + rng.standard_normal((size, S, K)) * rng.choice([0, 1, 5]) / beta
        here = log_softmax(logits, axis=-1)
        g = dpo_gradient(here, pi0, data, beta)
        there = log_softmax(logits - step[:, None, None] * g, axis=-1)
        degree = 2 / (step * beta**2)
        unit = np.eye(S * K)
        incidence = unit[pairs[:, 0] * K + pairs[:, 1]] - unit[pairs[:, 0] * K + pairs[:, 2]]
        laplacian = np.einsum("ti,nt,tj->nij", incidence, counts, incidence)
        check.inequality("step 1: the largest eigenvalue", np.linalg.eigvalsh(laplacian)[:, -1],
                         2 * degree, scale=1e-9)
        before, after = (dpo_loss(p, pi0, data, beta) for p in (here, there))
        square = (g**2).sum((1, 2))
        check.inequality("claim: the loss falls", step / 2 * square, before - after,
                         scale=before + 1, tol=1e-10)
        check.inequality("step 2: descent", after, before - step * square + step / 2 * square,
                         scale=before + 1, tol=1e-10)
        # The same reward path at every beta, up to a shift per prompt.
        steps = np.array([1, 7])
        u = np.zeros((size, S * K))  # the recursion in which no beta and no reference occurs
        for _ in range(7):
            m = u @ incidence.T
            u = u - 2 / degree[:, None] * ((data.losses * expit(m) - wins * expit(-m)) @ incidence)
        own = u.reshape(size, S, K) - u.reshape(size, S, K).mean(-1, keepdims=True)
        paths = []
        for b in (beta, 3.7 * beta):
            fit = fit_dpo_softmax(data, pi0, b, steps)
            learned = implicit_reward(fit.path, pi0, b)
            paths.append(learned - learned.mean(-1, keepdims=True))
        check.identity("step 3: the same path", paths[0][1], own,
                       scale=1 + beta * 200 + np.abs(own))
        check.identity("claim: the learned reward ignores beta", paths[0], paths[1],
                       scale=1 + beta * 200 + np.abs(paths[0]))
    # One pair, balanced: the descent constant is attained to first order around the minimum.
    data = Comparisons([[0, 0, 1]], [[1.0]], [1000.0], [500.0])
    logits = np.array([[1e-3, 0.0]])
    pi0 = np.full((1, 2), 0.5)
    step = float(gradient_step_size(data, 1.0))
    g = dpo_gradient(log_softmax(logits), pi0, data, 1.0)
    after = dpo_loss(log_softmax(logits - step * g), pi0, data, 1.0)
    fell = dpo_loss(log_softmax(logits), pi0, data, 1.0) - after
    check.at_least("claim: attained", step / 2 * (g**2).sum() / fell, 0.999)


@result("dpo-free-softmax", part="V", item="5.1", kind="inequality",
        title="Free logits against the Gibbs class", source="this book",
        depends=("dpo-is-plug-in", "mle-existence", "plug-in-asymptotics"))
def dpo_free_softmax(check):
    """Free logits fit one reward per answer: a smaller loss, and never a smaller limiting gap."""
    for rng, size in check.batches(10_000, fast=1_000, size=2_500):
        bandit = Bandit.random(rng, S=2, K=3, d=2, beta=float(10 ** rng.uniform(-1.3, 0.7)), B=2.0)
        data = sample_comparisons(bandit, 120, coverage_design(bandit, 1.0), rng, size)
        known = fit_dpo_softmax(data, bandit.pi0, bandit.beta, [0]).attained
        kept = Comparisons(data.pairs, data.z, data.counts[known], data.wins[known])
        fit, free = fit_dpo(bandit, kept), fit_dpo_softmax(kept, bandit.pi0, bandit.beta)
        g = dpo_gradient(free.log_policy, bandit.pi0, kept, bandit.beta)
        table = implicit_reward(free.log_policy, bandit.pi0, bandit.beta)
        x, a, b = kept.pairs.T
        u = table[:, x, a] - table[:, x, b]
        check.identity("step 1: the loss of the table", free.loss, (
            kept.wins * np.logaddexp(0, -u) + kept.losses * np.logaddexp(0, u)).sum(-1),
            scale=free.loss)
        check.identity("step 2: stationary", g, 0.0, scale=bandit.beta * 120, tol=1e-7)
        check.inequality("claim: a smaller loss", free.loss, fit.loss, scale=1e-9, tol=1e-12)
    # Gradient descent arrives where the exact fit says.
    pi0 = np.full((1, 3), 1 / 3)
    data = Comparisons(all_pairs(1, 3), np.zeros((3, 1)), [7.0, 6.0, 5.0], [5.0, 2.0, 4.0])
    path = fit_dpo_softmax(data, pi0, 0.4, [3_000])
    check.identity("step 2: gradient descent", path.log_policy,
                   fit_dpo_softmax(data, pi0, 0.4).log_policy, tol=1e-9)
    # The price: limiting gaps, projections.
    for _ in range(check.choose(400, 60)):
        S, K, d = (int(rng.integers(*ends)) for ends in ((1, 4), (2, 5), (1, 4)))
        bandit = Bandit.random(rng, S=S, K=K, d=min(d, S * (K - 1)), B=1.0,
                               beta=float(10 ** rng.uniform(-1, 1)))
        bandit = bandit.with_(B=2.0)
        table = Bandit.tabular(bandit.reward, bandit.beta, bandit.pi0, bandit.d0,
                               B=2 * np.linalg.norm(bandit.reward) + 1)
        design = rng.dirichlet(np.ones(len(all_pairs(S, K))))
        check.inequality("step 4: the projection", projection(bandit, design), 1.0, tol=1e-8)
        check.inequality("claim: never a smaller limit", asymptotic_gap(bandit, design),
                         asymptotic_gap(table, design), tol=1e-8)
    bandit = Bandit.random(rng, S=1, K=3, d=2, B=1.0).with_(B=2.0)
    table = Bandit.tabular(bandit.reward, 1.0, bandit.pi0, bandit.d0, B=5.0)
    design = np.full(3, 1 / 3)
    check.at_least("claim: equal when the features span",
                   float(asymptotic_gap(bandit, design) / asymptotic_gap(table, design)), 1 - 1e-9)


def projection(bandit, design):
    """The largest eigenvalue of root(I) Phi (Phi' I Phi)^+ Phi' root(I), I of one-hot features."""
    pairs, phi = all_pairs(bandit.S, bandit.K), bandit.phi.reshape(-1, bandit.d)
    z = pair_features(np.eye(len(phi)).reshape(bandit.S, bandit.K, -1), pairs)
    slope = expit(z @ phi @ bandit.theta) * expit(-(z @ phi @ bandit.theta))
    root = np.sqrt(design * slope)[:, None] * z @ phi
    hat = root @ np.linalg.pinv(root.T @ root, hermitian=True) @ root.T
    return float(np.linalg.eigvalsh((hat + hat.T) / 2)[-1])


@result("dpo-pessimistic", part="V", item="5.1", kind="identity",
        title="Pessimistic DPO", source="xiong2024iterative; this book",
        depends=("dpo-change-of-variables", "dpo-is-plug-in", "pessimism-pointwise",
                 "pessimism-pointwise-fast"))
def dpo_pessimistic(check):
    """With the shift rho (Gamma_w - Gamma_l) the loss is the likelihood, the fit option II."""
    for rng, size in check.batches(10_000, fast=1_000, size=250):
        inst = linear_instances(rng, size)
        S, K = inst.pi0.shape[1:]
        pairs = all_pairs(S, K)
        x, a, b = pairs.T
        counts, wins = random_counts(rng, size, len(pairs))
        data = Comparisons(pairs, np.zeros((len(pairs), 1)), counts, wins)
        nu = np.einsum("nsk,nskd->nsd", random_policies(rng, size, S, K), inst.phi)
        Gamma = np.linalg.norm((inst.phi - nu[:, :, None]) @ inst.root[:, None], axis=-1)
        rho = inst.rho[:, None]
        r = linear(inst.phi, inst.theta_hat)
        log_policy = log_gibbs_policy(r - rho[..., None] * Gamma, inst.beta, inst.pi0)
        shift = rho * (Gamma[:, x, a] - Gamma[:, x, b])
        u = r[:, x, a] - r[:, x, b]
        unit = (np.abs(r).max((1, 2)) + inst.rho * Gamma.max((1, 2))
                + inst.beta * (np.abs(log_policy).max((1, 2)) + 200))
        margin = log_ratio_margin(log_policy, inst.pi0, pairs, inst.beta)
        check.identity("step 1: margin plus shift", margin + shift, u, scale=unit[:, None])
        likelihood = (wins * np.logaddexp(0, -u) + data.losses * np.logaddexp(0, u)).sum(-1)
        check.identity("claim: the loss is the likelihood",
                       dpo_loss(log_policy, inst.pi0, data, inst.beta, shift), likelihood,
                       scale=(1 + unit) * np.maximum(counts.sum(-1), 1))
        whitened = inst.phi @ inst.root[:, None]
        apart = rho * np.linalg.norm(whitened[:, x, a] - whitened[:, x, b], axis=-1)
        check.inequality("step 2: the shift is bounded", np.abs(shift), apart,
                         scale=1e-9 * rho * Gamma.max((1, 2))[:, None], tol=1e-6)
        check.inequality("step 2: the shift is bounded", apart, rho * widths(whitened)[:, x],
                         tol=1e-9)
        end = rho[..., None] * np.linalg.norm(whitened - whitened[:, :, :1], axis=-1)  # nu = phi_1
        check.identity("step 2: attained", np.abs(end[:, x, a] - end[:, x, b])[:, a == 0],
                       apart[:, a == 0], scale=1e-300 + apart[:, a == 0])
    rng = check.rng
    for beta, n, c in ((0.05, 400, 0.1), (0.5, 200, 1.0), (5.0, 100, 0.01), (0.5, 20_000, 0.1)):
        bandit = Bandit.running_example(beta, "good")
        data = sample_comparisons(bandit, n, coverage_design(bandit, c), rng, 200)
        V, nu = design_matrix(data, 0.01), reference_means(bandit)
        theta = fit_mle(data, bandit.B).theta
        rho = confidence_radius(score_bound_fixed(data, 0.01, 0.05),
                                least_curvature(bandit.L, bandit.B), 0.01, bandit.B)
        fit = fit_pessimistic_dpo(bandit, data, V, rho, nu)
        option = pessimistic_pointwise(bandit, theta, V, rho, nu)
        check.identity("claim: the fit is option II", np.exp(fit.log_policy), option.policy,
                       tol=1e-12)
        check.identity("step 3: the minimal loss", fit.loss, negative_log_likelihood(theta, data),
                       scale=n * (1 + beta * 100))
        event = parameter_error(theta, bandit.theta, V) <= rho
        bounds = pessimistic_pointwise_bounds(bandit, V, rho, nu)
        check.inequality("claim: its bound", bandit.gap(np.exp(fit.log_policy))[event],
                         np.minimum(bounds.slow, bounds.fast)[event], scale=1e-9)
        # The sign: with the wrong one the loss is no likelihood.
        shift = pessimistic_shift(bandit, V, rho, nu)
        wrong = dpo_loss(fit.log_policy, bandit.pi0, data, beta, -shift) - fit.loss
        check.at_least("claim: the sign matters", float(np.abs(wrong).max() / n), 1e-3)
    # Free logits with the same shift: the tabular estimate, minus the penalty.
    bandit = Bandit.three_arms(1.0, 0.5)
    data = Comparisons(all_pairs(1, 3), pair_features(bandit.phi, all_pairs(1, 3)),
                       [7.0, 6.0, 5.0], [5.0, 2.0, 4.0])
    V, nu = design_matrix(data, 0.1), reference_means(bandit)
    shift = pessimistic_shift(bandit, V, 0.7, nu)
    free = fit_dpo_softmax(data, bandit.pi0, 0.5, [4_000], shift=shift)
    plain = fit_dpo_softmax(data, bandit.pi0, 0.5)
    check.identity("step 4: free logits",
                   log_ratio_margin(free.log_policy, bandit.pi0, data.pairs, 0.5) + shift,
                   log_ratio_margin(plain.log_policy, bandit.pi0, data.pairs, 0.5), tol=1e-8)
