"""The hidden side of assignment 6."""

from __future__ import annotations

import numpy as np
from grading.codec import Seed
from grading.compare import Wrong, as_numbers
from grading.intervals import judge_intervals
from grading.questions import Case, Question
from scipy.special import logsumexp, softmax, xlogy

TITLE = "Capstone: how far should one optimize?"
ABOUT = {"chapters": "Part V, second half", "hours": 8}
WRITTEN = {"w1": 6, "w2": 6}


def _law(lam, proxy, pi0):
    return softmax(lam * proxy + np.log(pi0), axis=-1)


# -- q1 ------------------------------------------------------------------------------------------

def _slope_cases(mine, rng):
    cases = [Case((mine["lam"], mine["proxy"], mine["gold"], mine["pi0"], mine["d0"]),
                  "your own instance")]
    for k in range(5):
        cases.append(Case((float(rng.uniform(0.2, 3)) if k else 0.0, rng.normal(size=(3, 5)),
                           rng.normal(size=(3, 5)), rng.dirichlet(np.ones(5), 3),
                           rng.dirichlet(np.ones(3))), "" if k else "the start, lambda = 0"))
    return cases


def _slope(lam, proxy, gold, pi0, d0):
    law = _law(lam, proxy, pi0)
    centred = proxy - (law * proxy).sum(axis=1, keepdims=True)
    return d0 @ (law * centred * gold).sum(axis=1)


Q1 = Question("q1", 4, "gold_slope", _slope_cases, _slope, names=("the slope",), mistakes=(
    (lambda lam, p, g, p0, d: _slope(lam, p, p, p0, d), "that is how fast the proxy rises"),
    (lambda lam, p, g, p0, d: _slope(0.0, p, g, p0, d), "the slope changes along the path: under which "
     "policy is the average taken?"),
    (lambda lam, p, g, p0, d: d @ (_law(lam, p, p0) * p * g).sum(axis=1), "a constant added to a "
     "reward must not change the slope")))

# -- q2 ------------------------------------------------------------------------------------------


def _soft_cases(mine, rng):
    cases = []
    for k in range(6):
        W, H = (2, 3) if k % 2 else (3, 2)
        tokens = [rng.dirichlet(np.ones(W), size=(W,) * t or None) for t in range(H)]
        far = k == 5
        cases.append(Case((rng.normal(size=(W,) * H) * (500 if far else 1), float(rng.uniform(0.2, 1)),
                           tokens), "rewards near 500" if far else ""))
    return cases


def _soft(reward, beta, tokens, mean=False):
    V = reward
    for law in tokens[::-1]:
        Q = V
        V = (law * Q).sum(axis=-1) if mean else beta * logsumexp(Q / beta, b=law, axis=-1)
    return float(V), softmax(Q / beta + np.log(tokens[0]))


def _greedy(reward, beta, tokens):
    V = reward
    for _ in tokens:
        Q, V = V, V.max(axis=-1)
    return float(V), softmax(Q / beta + np.log(tokens[0]))


Q2 = Question("q2", 5, "soft", _soft_cases, _soft, names=("the value", "the first token's law"), mistakes=(
    (lambda *a: _soft(*a, mean=True), "your value of a prefix averages what comes after it under the "
     "reference: the mean of a logarithm is not the logarithm of a mean"),
    (_greedy, "your value of a prefix is that of its best response: the penalty is lost"),))

# -- q3 ------------------------------------------------------------------------------------------


def _game_cases(mine, rng):
    cases = []
    for _ in range(6):
        A = rng.normal(size=(5, 5))
        P = 1 / (1 + np.exp(-2 * (A - A.T)))
        cases.append(Case((rng.dirichlet(np.ones(5)), P, float(rng.uniform(0.1, 1)),
                           rng.dirichlet(np.ones(5)))))
    return cases


def _exploit(policy, P, beta, pi0, turn=False, swap=False):
    best = softmax((P.T if turn else P) @ policy / beta + np.log(pi0))
    p, q = (best, policy) if swap else (policy, best)
    return beta * (xlogy(p, p) - xlogy(p, q)).sum()


def _no_penalty(policy, P, beta, pi0):
    return (P @ policy).max() - 0.5


Q3 = Question("q3", 4, "exploitability", _game_cases, _exploit, names=("the exploitability",), mistakes=(
    (lambda *a: _exploit(*a, turn=True), "rows and columns of P have changed places: who is preferred "
     "to whom?"),
    (lambda *a: _exploit(*a, swap=True), "look at the divergence: which policy averages?"),
    (_no_penalty, "the one who responds pays for leaving the reference, too")))

# -- q4 ------------------------------------------------------------------------------------------


def _gold(lam, mine):
    return float(mine["d0"] @ (_law(lam, mine["proxy"], mine["pi0"]) * mine["gold"]).sum(axis=1))


def _peak(mine):
    grid = np.linspace(0, 50, 20001)
    law = _law(grid[:, None, None], mine["proxy"], mine["pi0"])
    gold = (law * mine["gold"]).sum(axis=-1) @ mine["d0"]
    return float(gold.max())


def _judge_peak(outputs, cases, mine):
    answer = outputs[0]
    if not isinstance(answer, dict) or set(answer) != {"lam", "gold"}:
        raise Wrong("answer must be a dict with the keys 'lam' and 'gold'")
    lam, gold = (float(as_numbers(answer[k], k)) for k in ("lam", "gold"))
    if not 0 <= lam <= 50:
        raise Wrong("lam must lie between 0 and 50")
    if _gold(lam, mine) < _peak(mine) - 1e-5:
        raise Wrong("at your lam the gold reward is not at its highest: is it the peak of the proxy, or "
                    "one peak of several?")
    if abs(gold - _gold(lam, mine)) > 1e-4:
        raise Wrong("lam is right, the expected gold reward at it is not")


Q4 = Question("q4", 3, "answer", lambda mine, rng: [Case(None)], judge=_judge_peak, library=True)

# -- q5 ------------------------------------------------------------------------------------------

CALLS, RUNS, NOISE = 100, 200, 0.8


def _judge_gain(outputs, cases, mine):
    rng = np.random.default_rng(9)
    proxy = mine["gold"] + NOISE * rng.normal(size=(60_000, *mine["gold"].shape))
    law = _law(mine["lam"], proxy, mine["pi0"])
    gains = ((law - mine["pi0"]) * mine["gold"]).sum(axis=-1) @ mine["d0"]
    judge_intervals(outputs, float(gains.mean()), float(gains.std() / np.sqrt(RUNS)),
                    what="the mean gain")


Q5 = Question("q5", 4, "gain", lambda mine, rng: [
    Case((NOISE, RUNS, Seed(rng.integers(2**62)))) for _ in range(CALLS)], judge=_judge_gain,
    library=True, seconds=30)
QUESTIONS = (Q1, Q2, Q3, Q4, Q5)
