"""The hidden side of assignment 3."""

from __future__ import annotations

import checks
import numpy as np
from grading.codec import Seed
from grading.intervals import judge_intervals
from grading.questions import Case, Question

from klrlhf import (
    Bandit,
    coverage_design,
    design_matrix,
    feature_mean,
    feature_widths,
    fit_mle,
    gibbs_policy,
    pessimistic_expected,
    pessimistic_pointwise,
    reference_means,
    sample_comparisons,
    sharp_hoeffding,
)

TITLE = "Offline: trust the estimate, or be pessimistic"
ABOUT = {"chapters": "Part III", "hours": 5}
WRITTEN = {"w1": 4}


def _instance(rng, S=3, K=4, d=2):
    A = rng.normal(size=(d, d))
    return {"theta_hat": rng.normal(size=d), "V": A @ A.T * 5 + np.eye(d), "rho": float(rng.uniform(0.3, 2)),
            "phi": rng.normal(size=(S, K, d)), "beta": float(rng.uniform(0.2, 1)),
            "pi0": rng.dirichlet(np.ones(K), S) * 0.9 + 0.1 / K, "d0": rng.dirichlet(np.ones(S))}


# -- q1 ------------------------------------------------------------------------------------------

def _value_cases(mine, rng):
    cases = []
    for _ in range(6):
        e = _instance(rng)
        cases.append(Case((rng.dirichlet(np.ones(4), 3), e["theta_hat"], e["V"], e["rho"],
                           rng.normal(size=2), e["phi"], e["beta"], e["pi0"], e["d0"])))
    return cases


def _value(law, theta, V, rho, nu, phi, beta, pi0, d0, sign=-1.0, inverse=True):
    u = d0 @ feature_mean(law, phi) - nu
    size = np.sqrt(u @ (np.linalg.solve(V, u) if inverse else V @ u))
    kl = d0 @ (law * np.log(law / pi0)).sum(axis=1)
    return theta @ u + sign * rho * size - beta * kl


Q1 = Question("q1", 5, "pessimistic_value", _value_cases, _value, names=("the value",), mistakes=(
    (lambda *a: _value(*a, sign=1.0), "that is the best case over the set, not the worst"),
    (lambda *a: _value(*a, inverse=False), "an uncertain direction is one in which V is small: which "
     "matrix measures it?"),
    (lambda p, t, V, r, nu, *a: _value(p, t, V, r, 0 * nu, *a), "values are measured from nu")))

# -- q2 ------------------------------------------------------------------------------------------


def _cautious_cases(mine, rng):
    cases = []
    for _ in range(6):
        e = _instance(rng)
        cases.append(Case((e["theta_hat"], e["V"], e["rho"], rng.normal(size=(3, 2)), e["phi"],
                           e["beta"], e["pi0"])))
    return cases


def _cautious(theta, V, rho, nu, phi, beta, pi0, sign=-1.0):
    u = phi - nu[:, None]
    size = np.sqrt(np.einsum("skd,de,ske->sk", u, np.linalg.inv(V), u))
    return gibbs_policy(phi @ theta + sign * rho * size, beta, pi0)


PLUG_IN = "this is the plug-in policy: it trusts the estimate however little is known"
Q2 = Question("q2", 4, "cautious", _cautious_cases, _cautious, names=("the policy",),
              properties=(lambda out, *_: checks.policy(out),), mistakes=(
    (lambda t, V, r, nu, *a: _cautious(t, V, 0.0, nu, *a), PLUG_IN),
    (lambda *a: _cautious(*a, sign=1.0), "this policy prefers what is unknown: it is optimistic"),
    (lambda t, V, r, nu, *a: _cautious(t, V, r, 0 * nu, *a), "uncertainty is measured from nu(x)")))

# -- q3 ------------------------------------------------------------------------------------------


def _expected_cases(mine, rng):
    cases = []
    for k in range(5):
        e = _instance(rng)
        nu = e["d0"] @ feature_mean(e["pi0"], e["phi"])
        cases.append(Case((e["theta_hat"], e["V"], e["rho"] * (1 if k else 5), nu, e["phi"],
                           e["beta"], e["pi0"], e["d0"]), "" if k else "a large radius"))
    return cases


def _bandit(phi, beta, pi0, d0):
    return Bandit(d0, pi0, phi, np.zeros(phi.shape[2]), beta, B=100.0)


def _expected(theta, V, rho, nu, phi, beta, pi0, d0):
    return pessimistic_expected(_bandit(phi, beta, pi0, d0), theta, V, rho, nu).policy


def _second_option(theta, V, rho, nu, phi, beta, pi0, d0):
    return _cautious(theta, V, rho, feature_mean(pi0, phi), phi, beta, pi0)


Q3 = Question("q3", 6, "best_in_expectation", _expected_cases, _expected, names=("the policy",),
              rtol=0, atol=2e-3, seconds=30, properties=(lambda out, *_: checks.policy(out),), mistakes=(
    (_second_option, "this is pessimism answer by answer; asked for is pessimism about the policy's "
     "average"),
    (lambda t, V, r, nu, phi, b, p, d: gibbs_policy(phi @ t, b, p), PLUG_IN)))

# -- q4 ------------------------------------------------------------------------------------------


def _bound_cases(mine, rng):
    cases = []
    for k in range(6):
        e = _instance(rng)
        kind, scale = (("a radius of one millionth", 1e-6), ("a radius of a thousand", 1e3),
                       ("", 1.0))[min(k, 2)]
        cases.append(Case((e["V"], scale * e["rho"], e["phi"], e["beta"], e["d0"]), kind))
    return cases


def _bound(V, rho, phi, beta, d0):
    return beta * (d0 @ sharp_hoeffding(rho * feature_widths(phi, V) / beta))


def _square(V, rho, phi, beta, d0):
    return rho**2 * (d0 @ feature_widths(phi, V) ** 2) / (8 * beta)


Q4 = Question("q4", 4, "certificate", _bound_cases, _bound, names=("the bound",), atol=0.0, mistakes=(
    (_square, "this is the quadratic bound; one that is never larger, and linear for large radii, is "
     "asked for"),
    (lambda V, r, phi, b, d: b * sharp_hoeffding(r * (d @ feature_widths(phi, V)) / b),
     "the bound averages over prompts after the function h, not before")))

# -- q5 ------------------------------------------------------------------------------------------

CALLS, RUNS, N, SHARE = 40, 60, 200, 0.05


def _gaps(mine, runs, rng):
    bandit = Bandit(*(mine[k] for k in ("d0", "pi0", "phi", "theta", "beta", "B")))
    data = sample_comparisons(bandit, N, coverage_design(bandit, SHARE), rng, runs)
    theta, V = fit_mle(data, bandit.B).theta, design_matrix(data, mine["reg"])
    safe = pessimistic_pointwise(bandit, theta, V, mine["rho"], reference_means(bandit)).policy
    return bandit.plug_in_gap(theta) - bandit.gap(safe)


def _judge_difference(outputs, cases, mine):
    d = _gaps(mine, 4000, np.random.default_rng(3))
    judge_intervals(outputs, float(d.mean()), float(d.std() / np.sqrt(RUNS)),
                    what="the mean difference")


Q5 = Question("q5", 5, "difference", lambda mine, rng: [
    Case((SHARE, N, RUNS, Seed(rng.integers(2**62)))) for _ in range(CALLS)],
    judge=_judge_difference, library=True, seconds=60)
QUESTIONS = (Q1, Q2, Q3, Q4, Q5)
