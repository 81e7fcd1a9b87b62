r"""Checks of part V, item 5.1: what an inexact fit or an inexact sampler costs.

What lives here: the two kinds of inexactness, their constants, and cases that attain them.
What does not: exact fits (``part5_direct``) and rounds of them (``part5_iterative``).
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax

from klrlhf.bandit import Bandit
from klrlhf.confidence import (
    confidence_radius,
    design_matrix,
    least_curvature,
    parameter_error,
    score_norm,
)
from klrlhf.direct import fit_dpo
from klrlhf.estimation import frank_wolfe_gap
from klrlhf.policies import kl_divergence_from_logs
from klrlhf.preferences import coverage_design, sample_comparisons
from klrlhf.results.part3_plug_in import (
    linear_instances,
    log_policy,
    loss_at,
    mean,
    moved_features,
    penalty,
    widths,
)
from klrlhf.results.registry import result


def two_arm_costs(x):
    """Gap of the played policy, F and epsilon for tilts of a two-point law; x = (logit, a, b)."""
    logit, a, b = x
    laws = [log_softmax(np.array([logit + t, 0.0])) for t in (0.0, a, a + b)]
    best, aimed, played = laws
    gap, eps = (float(kl_divergence_from_logs(played, q)) for q in (best, aimed))
    return gap, a**2 / 8, eps


def inexact_ratio(x):
    """Gap over (sqrt F + sqrt epsilon)^2 at beta = 1."""
    gap, F, eps = two_arm_costs(x)
    bound = (np.sqrt(F) + np.sqrt(eps)) ** 2
    return gap / bound if bound > 1e-14 else 0.0


@result("dpo-inexact", part="V", item="5.1", kind="inequality",
        title="What an inexact policy costs", source="this book",
        depends=("value-decomposition-inexact", "plug-in-chain",
                 "confidence-ellipsoid-approximate"))
def dpo_inexact(check):
    """A policy at distance epsilon from the plug-in loses at most (sqrt F + sqrt epsilon)^2."""
    for rng, size in check.batches(20_000, fast=2_000, size=500):
        inst = linear_instances(rng, size)
        start = log_policy(inst, np.zeros_like(inst.unit))
        best = log_policy(inst, inst.unit)
        noise = rng.standard_normal(start.shape) * 10.0 ** rng.uniform(-3, 1, (size, 1, 1))
        # Half of the errors push further along the error that is already there: the worst case.
        along = (start - best) * 10.0 ** rng.uniform(-2, 1, (size, 1, 1))
        played = log_softmax(start + np.where((rng.random(size) < 0.5)[:, None, None],
                                              noise, along), axis=-1)
        eps = penalty(inst, played)
        exact = loss_at(inst, inst.unit)  # the gap of the plug-in policy
        gap = inst.beta * mean(kl_divergence_from_logs(played, best), inst.d0)
        v = moved_features(inst, played)
        cross = -inst.rho * (v * inst.unit).sum(-1)
        unit = gap + eps + exact + np.abs(cross)
        check.identity("step 1: three terms", gap, exact + cross + eps, scale=unit + inst.beta * (
            1e-3 + np.abs(played).max((1, 2))), tol=1e-9)
        Gamma = np.linalg.norm(v, axis=-1)
        check.inequality("step 2: Cauchy-Schwarz", cross, inst.rho * Gamma, scale=1e-12 * unit)
        w = widths(inst.phi @ inst.root[:, None])
        W = np.sqrt(mean(w**2, inst.d0))
        check.inequality("step 3: Pinsker", Gamma, W * np.sqrt(eps / (2 * inst.beta)),
                         scale=1e-9 * W, tol=1e-9)
        F = inst.rho**2 * W**2 / (8 * inst.beta)
        slack = 1e-9 * inst.beta
        check.identity("step 4: a square", F + inst.rho * W * np.sqrt(eps / (2 * inst.beta)) + eps,
                       (np.sqrt(F) + np.sqrt(eps)) ** 2, scale=F + eps)
        check.inequality("claim: any certificate", gap,
                         exact + inst.rho * Gamma + eps, scale=slack, tol=1e-9)
        check.inequality("claim: the two square roots", gap, (np.sqrt(F) + np.sqrt(eps)) ** 2,
                         scale=slack, tol=1e-9)
    best = check.search("claim: the two square roots", inexact_ratio,
                        [(0.1, 0.3, 0.2), (0.0, 0.1, 0.3), (1.0, 2.0, -1.0), (0.5, 0.02, 0.01)])
    check.at_least("claim: attained", best, 0.999)
    # Both errors small, neither negligible: F and epsilon are each worth their constant.
    for share in (0.2, 1.0, 5.0):
        balanced = inexact_ratio((0.0, 1e-3 * share, 1e-3))
        check.at_least("step 6: attained", balanced, 0.999)
        check.inequality("claim: the two square roots", balanced, 1.0, tol=1e-9)
    check.at_least("step 3: Pinsker is attained", pinsker_ratio(1e-3), 0.999)
    # The other kind: a parameter that is not the minimizer has no epsilon, but a larger radius.
    rng = check.rng
    for beta, n, c in ((0.5, 200, 1.0), (0.05, 2_000, 0.1)):
        bandit = Bandit.running_example(beta, "good")
        data = sample_comparisons(bandit, n, coverage_design(bandit, c), rng, 500)
        theta = fit_dpo(bandit, data).theta
        for size in (0.01, 0.3, 2.0):
            near = theta + size * rng.standard_normal(theta.shape)
            length = np.linalg.norm(near, axis=-1, keepdims=True)
            near = near * np.minimum(1.0, bandit.B / length)
            V = design_matrix(data, 0.01)
            rho = confidence_radius(score_norm(data, bandit.theta, 0.01),
                                    least_curvature(bandit.L, bandit.B), 0.01, bandit.B,
                                    certificate=frank_wolfe_gap(near, data, bandit.B))
            check.inequality("step 5: a rough parameter", parameter_error(near, bandit.theta, V),
                             rho)


def pinsker_ratio(t):
    """Gamma over its bound for a small tilt of two equal arms, beta = 1, w = 1."""
    law = log_softmax(np.array([t, 0.0]))
    eps = float(kl_divergence_from_logs(law, np.log([0.5, 0.5])))
    return (np.exp(law[0]) - 0.5) / np.sqrt(eps / 2)
