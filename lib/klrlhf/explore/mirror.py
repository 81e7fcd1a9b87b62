"""Item 5.7: the gap of mirror descent, natural and vanilla gradient and clipped updates, by step."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from klrlhf.bandit import Bandit
from klrlhf.explore import marks
from klrlhf.explore.design import Design, Frame, axis, choice, key, number, panel, slider
from klrlhf.explore.host import Explorer
from klrlhf.mirror import (
    clipped_gradient_steps,
    log_suboptimality,
    mirror_bound,
    mirror_descent,
    mirror_factor,
    policy_gradient,
    policy_gradient_bound,
)
from klrlhf.policies import gibbs_policy, variance

STEPS, EVERY = 40, 4
SHOWN = np.arange(0, STEPS + 1, EVERY)
CLIP, EPOCHS = 0.2, 10
Y_LO, Y_HI = 1e-12, 1e2
METHODS = {"implicit": "mirror descent", "explicit": "natural gradient",
           "vanilla": "vanilla gradient", "clipped": "clipped surrogate"}
STARTS = {"reference": "the reference", "wrong": "a confident mistake", "rare": "good answer rare"}


def start_policy(bandit: Bandit, start: str) -> np.ndarray:
    """The first policy: log-ratios to the reference that do not depend on beta."""
    if start == "reference":
        return bandit.pi0
    if start == "wrong":
        return gibbs_policy(-4 * bandit.reward, 1.0, bandit.pi0)
    rare = np.where(bandit.reward == bandit.reward.max(axis=-1, keepdims=True), 1e-3, 1.0)
    return rare / rare.sum(axis=-1, keepdims=True)


@lru_cache(maxsize=1024)
def run(beta: float, eta: float, start: str, method: str) -> dict:
    """Gap, divergence and reward of the first steps, with what the theory says about them."""
    bandit = Bandit.running_example(beta, "good")
    case = bandit.reward, beta, bandit.pi0
    first = start_policy(bandit, start)
    ell = np.log(first) - np.log(bandit.optimal_policy)
    span, spread = np.ptp(ell, axis=-1), bandit.d0 @ variance(bandit.optimal_policy, ell)
    bound, slope, height = np.full(SHOWN.size, np.nan), 0.0, np.nan
    if method in ("implicit", "explicit"):
        path = mirror_descent(*case, eta, STEPS, first, method)
        q = abs(float(mirror_factor(eta, beta, method)))
        slope = 2 * float(np.log(max(q, 1e-9)))
        if q < 1:
            bound = mirror_bound(span, beta, bandit.d0, q ** SHOWN.astype(float))
            height = float(beta / 2 * spread)
    elif method == "vanilla":
        path = policy_gradient(*case, bandit.d0, eta, STEPS, first)
        star = bandit.optimal_policy
        slow = min(np.linalg.eigvalsh(np.diag(p) - np.outer(p, p))[1] for p in star)
        pace = eta * beta * bandit.d0.max()
        if pace <= 1:
            bound = policy_gradient_bound(*case, bandit.d0, eta, SHOWN.astype(float), first)
            slope = 2 * float(np.log1p(-pace * slow))
    else:
        path = [np.log(first)]
        for _ in range(STEPS):
            path.append(clipped_gradient_steps(path[-1], *case, CLIP, eta, EPOCHS))
        path = np.stack(path)
    gap = log_suboptimality(path, *case, bandit.d0)
    law = np.exp(path)
    law = law / law.sum(axis=-1, keepdims=True)
    return {"gap": gap, "bound": bound, "slope": slope, "height": height,
            "kl": bandit.kl(law), "reward": bandit.expected_reward(law),
            "ratio": float(np.exp(np.diff(path, axis=0).clip(-50, 50)).max()), "bandit": bandit}


@lru_cache(maxsize=2)
def frontier() -> tuple:
    bandit = Bandit.running_example(1.0, "good")
    k = np.linspace(0, bandit.kl_max, 41) ** 2 / bandit.kl_max
    return k, bandit.frontier(k).reward


def told(values) -> np.ndarray:
    """Values on the axis, three digits each; nothing below it."""
    return np.array([float(f"{v:.3g}") if Y_LO < v < np.inf else np.nan for v in values])


def told_plain(values) -> np.ndarray:
    """Values with three digits each."""
    return np.array([float(f"{v:.3g}") if np.isfinite(v) else np.nan for v in values])


def law_line(facts: dict) -> np.ndarray:
    """The straight line of the limiting law, where it is on the axis."""
    if not np.isfinite(facts["height"]):
        return np.full((2, 2), np.nan)
    top, slope = np.log(facts["height"]), facts["slope"]
    end = min(STEPS, (np.log(Y_LO) - top) / slope if slope < 0 else STEPS)
    return np.array([[0, max(end, 0)], [np.exp(top), np.exp(top + slope * max(end, 0))]])


def frame(beta, eta, start, method, seed=0) -> Frame:
    """Gap against the step, and the run in the plane of divergence and reward."""
    facts = run(float(beta), float(eta), start, method)
    gap, bandit = facts["gap"], facts["bandit"]
    line, product = law_line(facts), float(eta * beta)
    star = bandit.optimal_policy
    run_kl, run_reward = told_plain(facts["kl"][SHOWN]), told_plain(facts["reward"][SHOWN])
    one = [marks.line("bound", "bound", SHOWN, told(facts["bound"])),
           marks.line("limiting law", "predicted", line[0], line[1]),
           marks.points("gap", "empirical", SHOWN, told(gap[SHOWN]), size=7, style="strong")]
    k, reward = frontier()
    two = [marks.line("frontier", "bound", k, reward, style="solid"),
           marks.line("run", "empirical", run_kl, run_reward),
           marks.points("steps", "empirical", run_kl, run_reward, size=5),
           marks.points("optimum", "optimum", [float(bandit.kl(star))],
                        [float(bandit.expected_reward(star))], size=9, style="strong")]
    say = [f"<i>β</i> = {number(beta)}, <i>η</i> = {number(eta)}, from {STARTS[start]}, by "
           f"{METHODS[method]}: the gap goes from {number(gap[0], 2)} to {number(gap[-1], 2)} "
           f"in {STEPS} steps.", theory(facts, method, product)]
    return Frame([one, two], say, [], {**facts, "eta": float(eta), "start": start})


def theory(facts: dict, method: str, product: float) -> str:
    """What the results of the chapter say about this run."""
    if method == "clipped":
        return (f"The largest ratio of one update was {number(facts['ratio'], 3)}; the clip range "
                f"ends at {number(1 + CLIP)} ({EPOCHS} epochs of step <i>η</i> each).")
    if method == "vanilla":
        if facts["slope"] == 0:
            return (f"With <i>ηβ</i> = {number(product)} and <i>d</i><sub>0</sub> = 1/3 the step "
                    f"is too large for the theorem.")
        return (f"The eventual slope of log gap is {number(facts['slope'], 2)} per step, "
                f"where mirror descent has {number(-2 * np.log1p(product), 2)}.")
    if not np.isfinite(facts["height"]):
        return f"<i>ηβ</i> = {number(product)} is 2 or more: the explicit step does not converge."
    if facts["slope"] < -30:
        return f"<i>ηβ</i> = {number(product)}: the explicit step arrives at once."
    name = "−2 log(1 + <i>ηβ</i>)" if method == "implicit" else "2 log |1 − <i>ηβ</i>|"
    return f"Predicted slope of log gap: {name} = {number(facts['slope'], 3)} per step."


def mirror_explorer(**values) -> Explorer:
    r"""Mirror descent, natural and vanilla gradient, and clipped updates: the gap by step.

    Parameters
    ----------
    **values
        Start values: ``beta``, ``eta`` (step size), ``start``, ``method``.

    Returns
    -------
    Explorer
        Results ``mirror-descent-rate``, ``natural-policy-gradient``, ``policy-gradient-rate`` and
        ``mirror-descent-path``.
    """
    design = Design(
        id="mirror", label="From a policy to the Gibbs policy, step by step",
        controls=(
            slider("beta", "KL coefficient", 0.5, 0.05, 5.0, symbol="β", count=5, scale="log"),
            slider("eta", "step size", 1.0, 0.1, 10.0, symbol="η", count=5, scale="log"),
            choice("start", "start", "reference", STARTS),
            choice("method", "method", "implicit", METHODS)),
        panels=(
            panel(axis("step <i>k</i>", 0, STEPS), axis("gap", Y_LO, Y_HI, scale="log"),
                  "gap against the number of steps, on a logarithmic axis, with the bound and the "
                  "limiting law", aspect=0.8, least=250),
            panel(axis("KL to the reference", 0, 1.45), axis("reward", -0.6, 0.65),
                  "the run in the plane of divergence and reward, with the frontier and the "
                  "optimum", aspect=0.8, least=250)),
        frame=frame,
        legend=(key("dot", "empirical", "the run, every fourth step"),
                key("line", "predicted", "limiting law"),
                key("line", "bound", "bound"),
                key("line", "bound", "frontier", "solid"),
                key("dot", "optimum", "optimum")),
        api=("klrlhf.mirror.mirror_descent", "klrlhf.mirror.policy_gradient",
             "klrlhf.mirror.clipped_gradient_steps"))
    return Explorer(design, **values)
