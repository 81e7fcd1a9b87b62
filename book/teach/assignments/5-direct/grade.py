"""The hidden side of assignment 5."""

from __future__ import annotations

import checks
import numpy as np
from grading.codec import Seed
from grading.compare import Wrong, as_numbers, pieces
from grading.questions import Case, Question
from scipy import stats
from scipy.special import expit, log_softmax, softmax

from klrlhf import best_of_n_policy
from klrlhf.sampling import best_of_n_kl

TITLE = "Direct optimization and sampling"
ABOUT = {"chapters": "Part V, first half", "hours": 5}
WRITTEN = {"w1": 4}

# -- q1 ------------------------------------------------------------------------------------------


def _dpo_cases(mine, rng):
    cases = []
    for k in range(6):
        pairs = np.array([[0, 1], [1, 2], [0, 3], [2, 4]])
        counts = rng.integers(3, 30, 4).astype(float)
        far = k == 5
        cases.append(Case((rng.normal(size=5) * (2000 if far else 1), rng.dirichlet(np.ones(5)), pairs,
                           counts, rng.binomial(counts.astype(int), 0.6).astype(float),
                           float(rng.uniform(0.2, 1.5))), "logits near 2000" if far else ""))
    return cases


def _dpo(logits, pi0, pairs, counts, wins, beta, no_reference=False, power=1, flip=1):
    ratio = log_softmax(logits) - (0 if no_reference else np.log(pi0))
    a, b = pairs.T
    m = beta * (ratio[a] - ratio[b])
    loss = wins @ np.logaddexp(0, -m) + (counts - wins) @ np.logaddexp(0, m)
    pull = flip * beta**power * (counts * expit(m) - wins)
    gradient = np.zeros(len(logits))
    np.add.at(gradient, a, pull)
    np.add.at(gradient, b, -pull)
    return loss, gradient


Q1 = Question("q1", 5, "dpo", _dpo_cases, _dpo, names=("the loss", "the gradient"), mistakes=(
    (lambda *a: _dpo(*a, no_reference=True), "your margin compares policies, not policies with the "
     "reference"),
    (lambda *a: _dpo(*a, power=0), "the gradient misses a factor that the loss has inside"),
    (lambda *a: _dpo(*a, flip=-1), "the gradient has the wrong sign")))

# -- q2 ------------------------------------------------------------------------------------------


def _chain_cases(mine, rng):
    cases = [Case((float(rng.uniform(0.2, 2)), rng.dirichlet(np.ones(5)),
                   rng.integers(1, 30, 4).astype(float), rng.integers(1, 30, 4).astype(float)))
             for _ in range(6)]
    beta, pi0, wins, losses = cases[0].args
    cases.append(Case((beta, pi0, wins, losses * np.array([1, 0, 1, 1])), "a unanimous pair"))
    return cases


def _chain(beta, pi0, wins, losses, refuse=True, start=True):
    if refuse and ((wins == 0) | (losses == 0)).any():
        raise ValueError("a unanimous pair: no minimum")
    score = -np.concatenate([[0], np.cumsum(np.log(wins / losses))]) / beta
    return softmax(score + (np.log(pi0) if start else 0))


Q2 = Question("q2", 4, "chain", _chain_cases, _chain, names=("the policy",), mistakes=(
    (lambda *a: _chain(*a, refuse=False), "a unanimous pair should be refused with a ValueError: is "
     "there a minimum?"),
    (lambda b, *a: _chain(1 / b, *a), "look at the role of beta: a small one lets votes move the policy far"),
    (lambda *a: _chain(*a, start=False), "answers keep their shares of the reference where votes are tied")))

# -- q3 and q4 -----------------------------------------------------------------------------------


def _best_cases(mine, rng):
    cases = [Case((mine["reward"], mine["pi0"], 7), "your own instance")]
    for _ in range(4):
        cases.append(Case((rng.normal(size=6), rng.dirichlet(np.ones(6)), int(rng.integers(2, 40)))))
    cases.append(Case((np.array([0.0, 1, 1, 2, 2, 2]), rng.dirichlet(np.ones(6)), 5), "tied rewards"))
    return cases


def _best(reward, pi0, n):
    return best_of_n_policy(reward[None], pi0[None], n)[0]


def _first_of_ties(reward, pi0, n):
    order = np.argsort(reward, kind="stable")
    top = np.cumsum(pi0[order])
    law = np.zeros(len(pi0))
    law[order] = top**n - (top - pi0[order]) ** n
    return law



Q3 = Question("q3", 4, "best_of_n", _best_cases, _best, names=("the law",),
              properties=(lambda out, *_: checks.policy(out, name="the law"),), mistakes=(
    (_first_of_ties, "right without ties; among tied answers the draw decides, not their order"),))


def _kl(reward, pi0, n):
    return float(best_of_n_kl(reward[None], pi0[None], n)[0])


Q4 = Question("q4", 3, "kl", _best_cases, _kl, names=("the divergence",), mistakes=(
    (lambda r, p, n: np.log(n) - (n - 1) / n, "that is the bound for rewards without ties and answers "
     "without mass, not the divergence"),
    (lambda r, p, n: np.log(n), "log n is never reached: compute the divergence of the exact law"),
    (lambda r, p, n: float((p * np.log(p / np.maximum(_best(r, p, n), 1e-300))).sum()),
     "that is the divergence in the other direction")))

# -- q5 ------------------------------------------------------------------------------------------

SIZE = 4000


def _rejection_cases(mine, rng):
    return [Case((mine["reward"] - shift, mine["beta"], mine["pi0"], SIZE, Seed(rng.integers(2**62))))
            for shift in (0.0, 5.0, -5.0)]


def _judge_rejection(outputs, cases, mine):
    best = softmax(mine["reward"] / mine["beta"] + np.log(mine["pi0"]))
    accept = float(mine["pi0"] @ np.exp((mine["reward"] - mine["reward"].max()) / mine["beta"]))
    for output in outputs:
        parts = pieces(output)
        if len(parts) != 2:
            raise Wrong("return two values: the answers, and the number of draws")
        answers, draws = as_numbers(parts[0], "the answers"), as_numbers(parts[1], "the draws")
        if answers.shape != (SIZE,) or draws.shape != () or not np.isin(answers, np.arange(8)).all():
            raise Wrong("return an array of `size` indices and one number of draws")
        seen = np.bincount(answers.astype(int), minlength=8)
        if stats.chisquare(seen, SIZE * best).pvalue < 1e-6:
            raise Wrong("the answers do not have the law of the Gibbs policy: what must the acceptance "
                        "probability be at most, and what at the best answer?")
        sd = np.sqrt(SIZE * (1 - accept)) / accept
        if float(draws) < SIZE / accept - 6 * sd:
            raise Wrong("fewer draws than this law can cost: rejected draws count too")
        if float(draws) > SIZE / accept + 6 * sd:
            raise Wrong("right law, but more draws than necessary: can the acceptance be scaled up? And "
                        "are draws counted after the last accepted answer?")


Q5 = Question("q5", 5, "rejection", _rejection_cases, judge=_judge_rejection, seconds=20)

QUESTIONS = (Q1, Q2, Q3, Q4, Q5)
