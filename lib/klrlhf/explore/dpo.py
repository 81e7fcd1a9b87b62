"""Item 5.1: the loss of DPO over the Gibbs class, on top of the Bradley-Terry loss."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from klrlhf.bandit import Bandit
from klrlhf.direct import dpo_loss, fit_dpo
from klrlhf.estimation import negative_log_likelihood
from klrlhf.explore import marks
from klrlhf.explore.design import Design, Frame, axis, choice, key, number, panel, slider
from klrlhf.explore.host import Explorer
from klrlhf.policies import log_gibbs_policy
from klrlhf.preferences import Comparisons, coverage_design, sample_comparisons

EDGE, RAYS, FAR = 3.0, 20, 9.0
LEVELS = (1.0, 4.0, 16.0)  # above the least loss in the ball
SHOWN = 2  # the prompt of the right panel: the strongest
TURN = 2 * np.pi * np.arange(RAYS + 1) / RAYS
CIRCLE = np.linspace(0, 2 * np.pi, 49)
ARMS = np.arange(1, 5)


@lru_cache(maxsize=256)
def log(hidden: str, c: float, n: int, seed: int) -> Comparisons:
    """One log of n comparisons; it does not depend on beta."""
    bandit = Bandit.running_example(hidden=hidden)
    rng = np.random.default_rng([51, seed, n])
    return sample_comparisons(bandit, n, coverage_design(bandit, c), rng)


def contour(loss, centre, level) -> np.ndarray:
    """Points where `loss`, convex, is `level`, along rays from `centre`; far away if nowhere."""
    way = np.stack([np.cos(TURN), np.sin(TURN)], axis=-1)
    low, high = np.zeros(len(TURN)), np.full(len(TURN), FAR)
    for _ in range(26):
        middle = 0.5 * (low + high)
        inside = loss(centre + middle[:, None] * way) <= level
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return centre + high[:, None] * way


def direct_loss(bandit: Bandit, data: Comparisons, theta) -> np.ndarray:
    """The DPO loss of the policies Gibbs(theta), from their log-probabilities."""
    log_policy = log_gibbs_policy(bandit.reward_of(theta), bandit.beta, bandit.pi0)
    return dpo_loss(log_policy, bandit.pi0, data, bandit.beta)


@lru_cache(maxsize=256)
def landscape(hidden: str, c: float, n: int, seed: int) -> tuple:
    """Level lines of the Bradley-Terry loss, and the minimizer: no beta anywhere."""
    data = log(hidden, c, n, seed)
    theta = fit_dpo(Bandit.running_example(hidden=hidden), data).theta
    least = float(negative_log_likelihood(theta, data))
    return theta, [contour(lambda t: negative_log_likelihood(t, data), theta, least + level)
                   for level in LEVELS]


def frame(beta, c, n, hidden, seed=0) -> Frame:
    """Both losses over the parameter, and the policy at their common minimizer."""
    bandit, c, n = Bandit.running_example(float(beta), hidden), float(c), int(n)
    data = log(hidden, c, n, seed)
    theta, lines = landscape(hidden, c, n, seed)
    least = float(direct_loss(bandit, data, theta))
    left = [marks.shape("ball", "optimum", 2 * np.cos(CIRCLE), 2 * np.sin(CIRCLE),
                        style="outline")]
    for level, curve in zip(LEVELS, lines, strict=True):
        dots = contour(lambda t: direct_loss(bandit, data, t), theta, least + level)
        left.append(marks.line(f"Bradley–Terry {level:g}", "bound", curve[:, 0].round(3),
                               curve[:, 1].round(3), style="solid"))
        left.append(marks.points(f"DPO {level:g}", "online", dots[:, 0].round(3),
                                 dots[:, 1].round(3), size=6))
    left += [marks.points("truth", "optimum", [bandit.theta[0]], [bandit.theta[1]], size=9,
                          style="strong"),
             marks.points("minimizer", "empirical", [theta[0]], [theta[1]], size=9,
                          style="strong")]
    grid = np.stack(np.meshgrid(np.linspace(-EDGE, EDGE, 13), np.linspace(-EDGE, EDGE, 13)), -1)
    plain = negative_log_likelihood(grid, data)
    apart = float(np.abs(direct_loss(bandit, data, grid) / plain - 1).max())
    policy = bandit.gibbs(theta)
    gap, kl = float(bandit.plug_in_gap(theta)), float(bandit.kl(policy))
    nothing = float(bandit.gap(bandit.pi0))
    right = [marks.bars("DPO policy", "empirical", ARMS, policy[SHOWN].round(4), 0.6),
             marks.points("optimal policy", "optimum", ARMS,
                          bandit.optimal_policy[SHOWN].round(4), size=9, style="strong"),
             marks.rule("reference", "reference", y=0.25, style="thin")]
    norm = float(np.linalg.norm(theta))
    where = ("on the sphere" if norm > bandit.B * (1 - 1e-6) else
             f"inside the ball of radius {number(bandit.B)}")
    agree = "to rounding error" if apart < 1e-10 else f"up to {number(apart)}"
    say = [
        f"{number(n)} comparisons, coverage <i>c</i> = {number(c)}: both losses are least at "
        f"<i>θ̂</i> = ({number(theta[0])}, {number(theta[1])}), {where}, whatever <i>β</i> is;",
        f"over the square they agree {agree}.",
        f"At <i>β</i> = {number(beta)} the policy of <i>θ̂</i> moves "
        f"KL = {number(kl)} from the reference and loses {number(gap)};",
        f"the reference itself loses {number(nothing)}.",
    ]
    return Frame([left, right], say, [], {"theta": theta, "apart": apart, "gap": gap, "kl": kl,
                                          "policy": policy, "least": least})


def dpo_explorer(**values) -> Explorer:
    r"""DPO against Bradley-Terry: one landscape, whatever beta; another policy at each beta.

    Parameters
    ----------
    **values
        Start values: ``beta``, ``c`` (coverage), ``n`` (comparisons), ``hidden`` ("bad", "good").

    Returns
    -------
    Explorer
        Result ``dpo-is-plug-in``.
    """
    design = Design(
        id="dpo", label="DPO is the plug-in",
        controls=(
            slider("beta", "KL coefficient", 0.5, 0.05, 5.0, symbol="β", count=7, scale="log"),
            slider("c", "coverage", 1.0, 0.01, 1.0, symbol="c", count=3, scale="log", finer=1),
            slider("n", "comparisons", 300, 30, 30_000, symbol="n", count=4, scale="log",
                   integer=True, finer=1),
            choice("hidden", "rarely compared arms", "good", {"bad": "bad", "good": "good"})),
        panels=(
            panel(axis("<i>θ</i><sub>1</sub>", -EDGE, EDGE), axis("<i>θ</i><sub>2</sub>",
                                                                   -EDGE, EDGE),
                  "level lines of the Bradley–Terry loss over the parameter, and on them points "
                  "where the DPO loss of the Gibbs policy has the same level; the ball, the "
                  "minimizer and the truth", equal=True),
            panel(axis("arm, at the strongest prompt", 0.4, 4.6, ticks=[1, 2, 3, 4]),
                  axis("probability", 0.0, 1.0),
                  "the policy at the minimizer, beside the optimal policy and the reference",
                  aspect=0.9, least=220)),
        frame=frame,
        legend=(key("line", "bound", "level lines of Bradley–Terry", "solid"),
                key("dot", "online", "the same levels of DPO"),
                key("dot", "empirical", "minimizer, and its policy"),
                key("dot", "optimum", "truth, and optimal policy"),
                key("line", "reference", "reference", "thin")),
        api=("klrlhf.direct.dpo_loss", "klrlhf.direct.fit_dpo",
             "klrlhf.estimation.negative_log_likelihood"), resample=True)
    return Explorer(design, **values)
