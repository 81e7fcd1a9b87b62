"""The hidden side of assignment 4."""

from __future__ import annotations

import numpy as np
from grading.codec import Seed
from grading.intervals import judge_intervals
from grading.questions import Case, Question

from klrlhf import (
    Bandit,
    coverage_design,
    feature_mean,
    fit_mle,
    online_gshf,
    reference_enhancer,
    sample_comparisons,
    suboptimality,
)

TITLE = "Online: information, enhancers, regret"
ABOUT = {"chapters": "Part IV", "hours": 4}
WRITTEN = {"w1": 4}

# -- q1 ------------------------------------------------------------------------------------------


def _increment_cases(mine, rng):
    cases = []
    for k in range(6):
        d = 2 + k % 3
        A = rng.normal(size=(d, d))
        far = k == 5
        cases.append(Case((A @ A.T + np.eye(d), rng.normal(size=(8, d)) * (1e3 if far else 1)),
                          "long features" if far else ""))
    return cases


def _increments(V0, Z, late=False, plain=False):
    V, out = V0.copy(), []
    for z in Z:
        after = V + np.outer(z, z)
        w = z @ np.linalg.solve(after if late else V, z)
        out.append(w if plain else np.log1p(w))
        V = after
    return np.array(out)


Q1 = Question("q1", 4, "increments", _increment_cases, _increments, names=("the increments",), mistakes=(
    (lambda V, Z: _increments(V, Z, late=True), "an increment is measured before its comparison is "
     "added, not after"),
    (lambda V, Z: _increments(V, Z, plain=True), "these are squared norms, not gains of information")))

# -- q2 ------------------------------------------------------------------------------------------

Q2 = Question("q2", 4, "potential_constant",
              lambda mine, rng: [Case((float(c),), k) for c, k in (
                  (rng.uniform(0.2, 0.9), ""), (1.0, ""), (rng.uniform(2, 5), ""), (50.0, "a large cap"),
                  (1e-3, "a small cap"))],
              lambda cap: cap / np.log1p(cap), names=("the constant",), mistakes=(
    (lambda cap: 2.0, "that is a constant for one cap; asked for is the best one for every cap"),
    (lambda cap: 2 * max(1.0, cap), "the inequality holds with your constant, but a smaller one will do"),
    (lambda cap: 1 + cap, "the inequality holds with your constant, but a smaller one will do")))

# -- q3 ------------------------------------------------------------------------------------------


def _choose_cases(mine, rng):
    cases = []
    while len(cases) < 8:
        phi, d0 = rng.normal(size=(3, 4, 2)), rng.dirichlet(np.ones(3))
        A = rng.normal(size=(2, 2))
        V, beta = A @ A.T * 4 + np.eye(2), float(rng.uniform(0.2, 0.8))
        main = rng.dirichlet(np.ones(4), 3)
        candidates = np.stack([main, *rng.dirichlet(np.full(4, 0.7), (9, 3))])
        rho = float(rng.uniform(0.3, 1.2))
        args = (candidates, main, V, rho, phi, beta, d0)
        # Instances on which the condition decides, in either direction of the divergence.
        answers = {_choose(*args)[0], _choose(*args, check=False)[0], _choose(*args, swap=True)[0]}
        if len(answers) >= 2 or len(cases) < 2:
            cases.append(Case(args))
    return cases


def _choose(candidates, main, V, rho, phi, beta, d0, check=True, swap=False):
    u = np.einsum("s,nsd->nd", d0, feature_mean(candidates, phi)) - d0 @ feature_mean(main, phi)
    gamma = np.sqrt(np.maximum(np.einsum("nd,de,ne->n", u, np.linalg.inv(V), u), 0))
    p, q = (main, candidates) if swap else (candidates, main)
    kl = (p * np.log(p / q)).sum(axis=-1) @ d0
    allowed = beta * kl <= rho * gamma + 1e-12 if check else np.ones(len(gamma), bool)
    index = int(np.where(allowed, gamma, -1.0).argmax())
    return index, gamma[index]


Q3 = Question("q3", 5, "choose", _choose_cases, _choose, names=("the index", "the uncertainty"), mistakes=(
    (lambda *a: _choose(*a, check=False), "some of your choices cannot be the best policy on the event: "
     "which candidates are allowed?"),
    (lambda *a: _choose(*a, swap=True), "look at the divergence in the condition: which policy averages?")))

# -- q4 ------------------------------------------------------------------------------------------


def _regret_cases(mine, rng):
    cases = []
    for _ in range(5):
        S, K, T = 3, 4, 6
        cases.append(Case((rng.dirichlet(np.ones(K), (T, 2, S)), int(rng.integers(5, 50)),
                           rng.normal(size=(S, K)), float(rng.uniform(0.3, 1)),
                           rng.dirichlet(np.ones(K), S), rng.dirichlet(np.ones(S)))))
    return cases


def _regret(policies, batch, reward, beta, pi0, d0):
    return batch * suboptimality(policies, reward, beta, pi0, d0).sum(axis=1).cumsum()


def _value(policies, reward, beta, pi0, d0):
    kl = (policies * np.log(policies / pi0)).sum(axis=-1)
    return ((policies * reward).sum(axis=-1) - beta * kl) @ d0


def _against_best_answer(policies, batch, reward, beta, pi0, d0):
    top = d0 @ reward.max(axis=1)
    return batch * (top - _value(policies, reward, beta, pi0, d0)).sum(axis=1).cumsum()


def _against_reference(policies, batch, reward, beta, pi0, d0):
    base = _value(pi0[None], reward, beta, pi0, d0)
    return batch * (base - _value(policies, reward, beta, pi0, d0)).sum(axis=1).cumsum()


Q4 = Question("q4", 4, "regret", _regret_cases, _regret, names=("the regret",), mistakes=(
    (_against_best_answer, "your competitor pays no penalty for leaving the reference; the best policy does"),
    (_against_reference, "the gap is measured against the wrong policy: the reference is not the best"),
    (lambda p, *a: _regret(p[:, :1], *a), "both answers of a comparison count"),
    (lambda p, m, *a: _regret(p, 1, *a), "every round makes a whole batch of comparisons")))

# -- q5 ------------------------------------------------------------------------------------------

CALLS, RUNS, ROUNDS, BATCH = 16, 40, 4, 40


def _differences(mine, runs, rng):
    bandit = Bandit(*(mine[k] for k in ("d0", "pi0", "phi", "theta", "beta", "B")))
    online = online_gshf(bandit, ROUNDS, BATCH, rng, reg=mine["reg"], enhancer=reference_enhancer,
                         replicates=runs).gap[-1]
    data = sample_comparisons(bandit, (ROUNDS - 1) * BATCH, coverage_design(bandit, mine["coverage"]),
                              rng, runs)
    return bandit.plug_in_gap(fit_mle(data, bandit.B).theta), online


def _judge_advantage(outputs, cases, mine):
    offline, online = _differences(mine, 1500, np.random.default_rng(5))
    judge_intervals(outputs, float(offline.mean() - online.mean()),
                    float(np.sqrt((offline.var() + online.var()) / RUNS)),
                    what="the mean difference")


Q5 = Question("q5", 5, "advantage", lambda mine, rng: [
    Case((ROUNDS, BATCH, RUNS, Seed(rng.integers(2**62)))) for _ in range(CALLS)],
    judge=_judge_advantage, library=True, seconds=90)
QUESTIONS = (Q1, Q2, Q3, Q4, Q5)
