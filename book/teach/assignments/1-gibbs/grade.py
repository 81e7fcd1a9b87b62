"""The hidden side of assignment 1. Solutions are in source.md; this file has the reference values."""

from __future__ import annotations

import assignment1 as public
import checks
import numpy as np
from grading.codec import Seed
from grading.compare import Wrong, as_numbers
from grading.intervals import judge_intervals
from grading.questions import Case, Question
from scipy.optimize import brentq

from klrlhf import gibbs_policy, log_gibbs_policy, temperature_path
from klrlhf.values import plug_in_suboptimality

TITLE = "The Gibbs policy and what an error costs"
WRITTEN = {"w1": 4}
ABOUT = {"chapters": "Part I", "hours": 4}


def _instance(rng, S=4, K=5):
    return (rng.normal(size=(S, K)), float(rng.uniform(0.2, 1.5)), rng.dirichlet(np.ones(K), S),
            rng.dirichlet(np.ones(S)))


# -- q1 ------------------------------------------------------------------------------------------

def _gibbs_cases(mine, rng):
    cases = [Case((mine["reward"], mine["beta"], mine["pi0"]), "your own instance")]
    for _ in range(4):
        reward, beta, pi0, _ = _instance(rng)
        cases.append(Case((reward, beta, pi0)))
    reward, beta, pi0, _ = _instance(rng)
    cases.append(Case((1e5 * reward, beta, pi0), "rewards near 1e5"))
    cases.append(Case((reward - 5e4, 1e-2, pi0), "a small beta"))
    zero = pi0.copy()
    zero[:, 0] = 0
    zero /= zero.sum(axis=1, keepdims=True)
    cases.append(Case((reward, beta, zero), "an answer that the reference never gives"))
    return cases


def _gibbs(reward, beta, pi0):
    with np.errstate(divide="ignore"):
        score = (reward - reward.max(axis=1, keepdims=True)) / beta + np.log(pi0)
    score -= score.max(axis=1, keepdims=True)
    weight = np.exp(score)
    return weight / weight.sum(axis=1, keepdims=True)


Q1 = Question(
    "q1", 4, "gibbs", _gibbs_cases, _gibbs, names=("the policy",), rtol=1e-9, atol=1e-13,
    properties=(lambda out, *_: checks.policy(out),),
    mistakes=(
        (lambda r, b, p: _gibbs(r, b, np.ones_like(p)), "your policy does not depend on the reference"),
        (lambda r, b, p: _gibbs(r, 1 / b, p), "look at the role of beta: at a large beta the policy "
         "should stay near the reference"),
    ))


# -- q2 ------------------------------------------------------------------------------------------

def _gap_cases(mine, rng):
    cases = [Case((mine["pi0"], mine["reward"], mine["beta"], mine["pi0"], mine["d0"]),
                  "your own instance")]
    for _ in range(4):
        reward, beta, pi0, d0 = _instance(rng)
        cases.append(Case((rng.dirichlet(np.ones(5), 4), reward, beta, pi0, d0)))
    reward, beta, pi0, d0 = _instance(rng)
    close = gibbs_policy(reward + 1e-3 * rng.normal(size=reward.shape), beta, pi0)
    cases.append(Case((close, reward + 1e6, beta, pi0, d0),
                      "a policy close to the optimum, rewards near a million"))
    cases.append(Case((np.eye(5)[:4], reward, beta, pi0, d0), "a deterministic policy"))
    return cases


def _kl(p, q):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0).sum(axis=1)


def _gap(policy, reward, beta, pi0, d0):
    log_best = log_gibbs_policy(reward - reward.max(axis=1, keepdims=True), beta, pi0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(policy > 0, policy * (np.log(policy) - log_best), 0.0)
    return beta * (d0 @ terms.sum(axis=1))


def _swapped(policy, reward, beta, pi0, d0):
    return beta * (d0 @ _kl(gibbs_policy(reward, beta, pi0), policy))


def _against_reference(policy, reward, beta, pi0, d0):
    value = d0 @ ((policy * reward).sum(1) - beta * _kl(policy, pi0))
    return abs(d0 @ (pi0 * reward).sum(1) - value)


Q2 = Question(
    "q2", 4, "gap", _gap_cases, _gap, names=("the gap",), rtol=1e-5, atol=0.0,
    properties=(public.gap_properties,),
    mistakes=(
        (_swapped, "your function is not finite, or wrong, for policies that never give an answer: "
         "which policy averages in the divergence of the gap identity?"),
        (_against_reference, "this measures the distance to another policy's value, not to the best"),
        (lambda p, r, b, p0, d0: _gap(p, r, b, p0, np.full(len(d0), 1 / len(d0))),
         "prompts do not all have the same probability"),
        (lambda p, r, b, p0, d0: _gap(p, r, b, p0, d0) / b, "check the unit of your gap: it should "
         "double when reward and beta double"),
    ))


# -- q3 ------------------------------------------------------------------------------------------

def _expansion_cases(mine, rng):
    cases = []
    for _ in range(6):
        reward, beta, pi0, d0 = _instance(rng)
        cases.append(Case((reward, rng.normal(size=reward.shape), beta, pi0, d0)))
    return cases


def _moments(law, D, d0):
    centred = D - (law * D).sum(axis=1, keepdims=True)
    return [d0 @ (law * centred**k).sum(axis=1) for k in (2, 3)]


def _expansion(reward, D, beta, pi0, d0, third=3.0, law=None):
    law = gibbs_policy(reward, beta, pi0) if law is None else law
    second, cube = _moments(law, D, d0)
    return second / (2 * beta), cube / (third * beta**2)


Q3 = Question(
    "q3", 6, "expansion", _expansion_cases, _expansion, names=("c2", "c3"),
    mistakes=(
        (lambda r, D, b, p, d0: _expansion(r, D, b, p, d0, third=6.0),
         "c2 is right and c3 is not: the two divergences between two close policies agree to second "
         "order only"),
        (lambda r, D, b, p, d0: _expansion(r, D, b, p, d0, law=p),
         "the moments are taken under the wrong policy"),
    ))


# -- q4 ------------------------------------------------------------------------------------------

def _budget(mine):
    def path(lam):
        return temperature_path([lam], mine["reward"], mine["pi0"], mine["d0"])

    lam = brentq(lambda t: path(t).kl.item() - mine["budget"], 1e-6, 1e3, xtol=1e-13)
    return 1 / lam, path(lam).reward.item()


def _judge_budget(outputs, cases, mine):
    answer = outputs[0]
    if not isinstance(answer, dict) or set(answer) != {"beta", "reward"}:
        raise Wrong("answer must be a dict with the keys 'beta' and 'reward'")
    beta, reward = _budget(mine)
    given = {k: float(as_numbers(v, k)) for k, v in answer.items()}
    if not np.isclose(given["beta"], beta, rtol=1e-4):
        raise Wrong("beta is wrong: at your beta the expected divergence from the reference is not "
                    "the budget")
    if not np.isclose(given["reward"], reward, rtol=0, atol=1e-4):
        raise Wrong("beta is right, the expected reward at it is not: is it the reward without the "
                    "penalty, averaged over your prompts?")


Q4 = Question("q4", 4, "answer", lambda mine, rng: [Case(None)], judge=_judge_budget, library=True)

# -- q5 ------------------------------------------------------------------------------------------

CALLS, RUNS = 150, 300


def _mean_gap_cases(mine, rng):
    return [Case((0.4, RUNS, Seed(rng.integers(2**62)))) for _ in range(CALLS)]


def _judge_mean_gap(outputs, cases, mine):
    rng = np.random.default_rng(11)
    noisy = mine["reward"] + 0.4 * rng.normal(size=(40_000, *mine["reward"].shape))
    gaps = plug_in_suboptimality(noisy, mine["reward"], mine["beta"], mine["pi0"], mine["d0"])
    judge_intervals(outputs, float(gaps.mean()), float(gaps.std() / np.sqrt(RUNS)),
                    what="the mean gap")


Q5 = Question("q5", 4, "mean_gap", _mean_gap_cases, judge=_judge_mean_gap, library=True, seconds=30)
QUESTIONS = (Q1, Q2, Q3, Q4, Q5)
