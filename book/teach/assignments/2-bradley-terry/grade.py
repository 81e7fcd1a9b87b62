"""The hidden side of assignment 2."""

from __future__ import annotations

import functools

import numpy as np
from grading.codec import Seed
from grading.compare import Wrong, as_numbers, pieces
from grading.questions import Case, Question
from scipy import stats
from scipy.special import expit

from klrlhf import Comparisons, confidence_radius, fit_mle, least_curvature, score_bound_fixed

TITLE = "Bradley-Terry: likelihood, estimate, confidence"
ABOUT = {"chapters": "Part II", "hours": 5}
WRITTEN = {"w1": 4}


def _log(rng, T=6, d=3, size=1.0):
    z = rng.normal(size=(T, d))
    counts = rng.integers(5, 60, T).astype(float)
    wins = rng.binomial(counts.astype(int), expit(z @ rng.normal(size=d) * size)).astype(float)
    return z, counts, wins


def _data(z, counts, wins):
    pairs = np.array([(t, 0, 1) for t in range(len(z))])
    return Comparisons(pairs, z, counts, wins)


# -- q1 ------------------------------------------------------------------------------------------

def _loss_cases(mine, rng):
    cases = [Case((mine["theta"], mine["z"], mine["counts"], mine["wins"]), "your own instance")]
    for k in range(6):
        far = k == 5
        cases.append(Case((rng.normal(size=3) * (500 if far else 1), *_log(rng)),
                          "margins near 1000" if far else ""))
    return cases


def _loss(theta, z, counts, wins, flip=1.0):
    u = z @ theta
    loss = wins @ np.logaddexp(0, -u) + (counts - wins) @ np.logaddexp(0, u)
    return loss, flip * (counts * expit(u) - wins) @ z


Q1 = Question("q1", 5, "loss_gradient", _loss_cases, _loss, names=("the loss", "the gradient"),
              rtol=1e-8, mistakes=(
    (lambda t, z, c, w: _loss(t, z, c, w, -1.0), "the gradient points downhill: check its sign "
     "against a difference of two losses"),
    (lambda t, z, c, w: _loss(t, z, c, c - w), "wins and losses have changed places"),
    (lambda t, z, c, w: tuple(x / c.sum() for x in _loss(t, z, c, w)),
     "the sum over comparisons is asked for, not the mean")))


# -- q2 ------------------------------------------------------------------------------------------

def _fit_cases(mine, rng):
    cases = [Case((mine["z"], mine["counts"], mine["wins"], mine["B"]), "your own instance")]
    cases += [Case((*_log(rng), 3.0)) for _ in range(3)]
    z, counts, wins = _log(rng, size=2.0)
    cases.append(Case((z, counts, wins, 0.5), "a small ball"))
    cases.append(Case((z, counts, counts * (z[:, 0] > 0), 2.0), "votes that all agree"))
    return cases


def _fit(z, counts, wins, B):
    return fit_mle(_data(z, counts, wins), B).theta


def _projected(z, counts, wins, B):
    theta = _fit(z, counts, wins, 30.0)
    return theta * min(1.0, B / np.linalg.norm(theta))


def _in_ball(theta, z, counts, wins, B):
    norm = np.linalg.norm(np.asarray(theta, float))
    assert norm <= B * (1 + 1e-5), f"the estimate must lie in the ball of radius {B:g}: norm {norm:.4g}"


Q2 = Question("q2", 6, "fit", _fit_cases, _fit, names=("the estimate",), rtol=2e-3, atol=2e-3,
              seconds=30, properties=(_in_ball,), mistakes=(
    (_projected, "the best point of the ball is not the unconstrained estimate, shortened"),))


# -- q3 ------------------------------------------------------------------------------------------

def _sd_cases(mine, rng):
    cases = [Case((mine["theta"], mine["z"], mine["design"], np.array([1.0, 0.5]), 1000))]
    for _ in range(5):
        cases.append(Case((2 * rng.normal(size=3), rng.normal(size=(6, 3)),
                           rng.dirichlet(np.ones(6)), rng.normal(size=3), 500)))
    return cases


def _sd(theta, z, design, u, n, weight=None, power=0.5):
    p = expit(z @ theta)
    w = p * (1 - p) if weight is None else weight
    information = (z.T * (design * w)) @ z
    return (u @ np.linalg.solve(information, u) / n) ** power


Q3 = Question("q3", 4, "asymptotic_sd", _sd_cases, _sd, names=("the deviation",), mistakes=(
    (lambda *a: _sd(*a, weight=0.25), "not every vote carries as much information as a coin flip"),
    (lambda *a: _sd(*a, power=1.0), "that is a variance"),
    (lambda *a: _sd(*a, weight=1.0), "a vote is not a measurement with unit noise: where does the "
     "sigmoid enter?")))


# -- q4 ------------------------------------------------------------------------------------------

def _radius(mine):
    data = _data(mine["z"], mine["counts"], mine["wins"])
    bound = float(score_bound_fixed(data, mine["reg"], mine["delta"]))
    gamma = least_curvature(mine["L"], mine["B"])
    return (bound, *(float(confidence_radius(bound, gamma, mine["reg"], mine["B"], form=f))
                     for f in ("sharp", "usual")))


def _judge_radius(outputs, cases, mine):
    answer = outputs[0]
    if not isinstance(answer, dict) or set(answer) != {"score_bound", "radius"}:
        raise Wrong("answer must be a dict with the keys 'score_bound' and 'radius'")
    given = {k: float(as_numbers(v, k)) for k, v in answer.items()}
    bound, sharp, usual = _radius(mine)
    if not np.isclose(given["score_bound"], bound, rtol=1e-4):
        raise Wrong("the bound of the score norm is not that of a fixed design at your delta and reg")
    if np.isclose(given["radius"], usual, rtol=1e-4):
        raise Wrong("this radius follows from comparing values; optimality gives a smaller one")
    if not np.isclose(given["radius"], sharp, rtol=1e-4):
        raise Wrong("the score bound is right, the radius that follows from it is not")


Q4 = Question("q4", 3, "answer", lambda mine, rng: [Case(None)], judge=_judge_radius, library=True)

# -- q5 ------------------------------------------------------------------------------------------

CALLS, RUNS, N = 8, 400, 60


@functools.lru_cache(maxsize=32)
def _truth(key):
    z, design, theta = (np.frombuffer(k).reshape(s) for k, s in key)
    rng = np.random.default_rng(7)
    T = len(z)
    counts = rng.multinomial(N, design / design.sum(), size=6000).astype(float)
    wins = rng.binomial(counts.astype(int), expit(z @ theta)).astype(float)
    pairs = np.array([(t, 0, 1) for t in range(T)])
    error = fit_mle(Comparisons(pairs, z, counts, wins), 5.0).theta - theta
    p = expit(z @ theta)
    information = (z.T * (design / design.sum() * p * (1 - p))) @ z
    square = N * np.einsum("ri,ij,rj->r", error, information, error)
    return float((square > stats.chi2.ppf(0.9, 2)).mean())


def _judge_misses(outputs, cases, mine):
    total = 0
    for output in outputs:
        parts = [as_numbers(p, "each part") for p in pieces(output)]
        if len(parts) != 3 or any(p.shape != () for p in parts):
            raise Wrong("return three numbers: misses, lower limit, upper limit")
        k, low, high = (float(p) for p in parts)
        if k != round(k) or not 0 <= k <= RUNS:
            raise Wrong("the first number must be a count of data sets")
        exact = (stats.beta.ppf(0.025, k, RUNS - k + 1) if k else 0.0,
                 stats.beta.ppf(0.975, k + 1, RUNS - k) if k < RUNS else 1.0)
        if not np.allclose((low, high), exact, atol=1e-6):
            raise Wrong("these are not the exact (Clopper-Pearson) limits of your own count, two-sided, "
                        "at 95 %")
        total += int(k)
    if len({float(as_numbers(pieces(o)[0])) for o in outputs}) == 1:
        raise Wrong("different generators must give different counts: draw from rng")
    key = tuple((np.ascontiguousarray(mine[n]).tobytes(), mine[n].shape)
                for n in ("z", "design", "theta"))
    p, runs = _truth(key), CALLS * RUNS
    slack = 6 * np.sqrt(p * (1 - p) * (1 / runs + 1 / 6000))
    if abs(total / runs - p) > slack:
        side = "too often" if total / runs > p else "too rarely"
        raise Wrong(f"your ellipsoid misses the truth {side}: check the matrix, the quantile and n")


Q5 = Question("q5", 5, "misses",
              lambda mine, rng: [Case((N, RUNS, Seed(rng.integers(2**62)))) for _ in range(CALLS)],
              judge=_judge_misses, library=True, seconds=40)
QUESTIONS = (Q1, Q2, Q3, Q4, Q5)
