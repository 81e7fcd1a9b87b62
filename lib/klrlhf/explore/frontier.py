"""Item 1.2: expected reward against KL, the frontier and its tangent of slope beta."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from klrlhf.bandit import Bandit
from klrlhf.explore import marks
from klrlhf.explore.design import Design, Frame, axis, choice, key, number, panel, slider
from klrlhf.explore.host import Explorer
from klrlhf.policies import gibbs_policy
from klrlhf.values import temperature_path

KL_END, LOW, HIGH = 1.5, -0.4, 0.65
BETA_LO, BETA_HI, BETA_COUNT = 0.05, 5.0, 61
CLOUD = 240
INSTANCES = {"bad": "bad arm hidden", "good": "good arm hidden", "tied": "two best arms"}


@cache
def instance(name: str) -> Bandit:
    """The instance behind an option of the explorer."""
    if name == "tied":
        return Bandit.three_arms(gap=1.0)
    return Bandit.running_example(hidden=name)


@lru_cache(maxsize=8)
def backdrop(name: str, seed: int) -> dict:
    """What does not depend on beta: the frontier, and a cloud of random policies."""
    bandit = instance(name)
    rng = np.random.default_rng([12, seed])
    spread = rng.choice([0.3, 1.0, 3.0], size=(CLOUD // 2, 1, 1))
    flat = rng.gamma(spread, size=(CLOUD // 2, bandit.S, bandit.K)) + 1e-12
    flat /= flat.sum(axis=-1, keepdims=True)
    # Gibbs policies of a wrong reward come closer to the frontier than uniform luck does.
    beta = BETA_LO * (1.5 / BETA_LO) ** rng.random(CLOUD // 2)
    error = 0.35 * rng.standard_normal((CLOUD // 2, bandit.S, bandit.K))
    tilted = gibbs_policy(bandit.reward + error, beta, bandit.pi0)
    policies = np.concatenate([flat, tilted])
    kl, reward = bandit.kl(policies), bandit.expected_reward(policies)
    x = np.concatenate([np.linspace(0, 1, 41) ** 2 * bandit.kl_max, [KL_END]])
    limit = bandit.frontier(kl).reward
    return {"kl": kl, "reward": reward, "above": int(np.sum(reward > limit + 1e-12)),
            "x": x, "frontier": bandit.frontier(x).reward}


def frame(beta, instance_name, seed=0) -> Frame:
    """Frontier, cloud, and the Gibbs policy at `beta` with its tangent."""
    bandit = instance(instance_name)
    back = backdrop(instance_name, seed)
    grid = np.geomspace(BETA_LO, BETA_HI, 2 * BETA_COUNT - 1)
    path = temperature_path(1 / np.concatenate([[beta], grid]), bandit.reward, bandit.pi0,
                            bandit.d0)
    kl, reward = float(path.kl[0]), float(path.reward[0])
    value = reward - beta * kl
    start = float(bandit.expected_reward(bandit.pi0))
    curve = marks.line("frontier", "optimum", back["x"], back["frontier"])
    shown = [
        marks.band("reachable", "reference", back["x"], np.full(back["x"].size, LOW - 1),
                   back["frontier"]),
        marks.points("random policies", "reference", back["kl"], back["reward"], size=4.5),
        marks.rule("KL max", "reference", x=bandit.kl_max, style="fine"),
        marks.labels("KL max label", "reference", [bandit.kl_max], [LOW], ["KL<sub>max</sub>"],
                     dx=-5, dy=-8, anchor="end"),
        curve,
        marks.line("tangent", "bound", [0, KL_END], [value, value + beta * KL_END]),
        marks.points("value", "bound", [0], [value], size=10, style="strong"),
        marks.labels("value label", "bound", [0], [value], ["<i>J</i>"], dx=-9,
                     dy=1, anchor="end", style="bold"),
        marks.rule("no divergence", "reference", x=0, style="thin"),
        marks.points("reference policy", "reference", [0], [start], size=9, style="strong"),
        marks.labels("reference label", "reference", [0], [start], ["<i>π</i><sub>0</sub>"],
                     dx=10, dy=15, anchor="start"),
        marks.handle("Gibbs policy", "empirical", "beta", kl, reward,
                     along=(path.kl[1:], path.reward[1:], grid)),
    ]
    over = back["above"]
    cloud = (f"None of the {CLOUD} random policies lies above the frontier." if not over else
             f"{over} of the {CLOUD} random policies lie above the frontier.")
    say = [f"At <i>β</i> = {number(beta)} the Gibbs policy earns E <i>r</i> = {number(reward)} "
           f"for KL = {number(kl)}.",
           f"The tangent there has slope <i>β</i> and meets the axis at "
           f"<i>J</i> = {number(value)}.", cloud]
    return Frame([shown], say, [], {"kl": kl, "reward": reward, "value": value, "above": over})


def frontier_explorer(**values) -> Explorer:
    """Expected reward against KL: what each unit of divergence buys.

    Parameters
    ----------
    **values
        Start values: ``beta`` and ``instance_name`` ("bad", "good" or "tied").

    Returns
    -------
    Explorer
        Results ``temperature-path`` and ``kl-frontier``.
    """
    design = Design(
        id="frontier", label="Expected reward against KL divergence",
        controls=(
            slider("beta", "KL coefficient", 0.5, BETA_LO, BETA_HI, symbol="β", count=BETA_COUNT,
                   scale="log"),
            choice("instance_name", "instance", "bad", INSTANCES)),
        panels=(panel(axis("KL(<i>π</i> ‖ <i>π</i><sub>0</sub>), nats", -0.1, KL_END,
                           ticks=[0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]),
                      axis("expected reward E <i>r</i>", LOW, HIGH),
                      "expected reward against KL divergence: the frontier, random policies "
                      "below it, and the tangent at the Gibbs policy", aspect=0.52, least=230),),
        frame=frame,
        legend=(key("line", "optimum", "frontier"),
                key("dot", "empirical", "Gibbs policy (drag it)"),
                key("line", "bound", "tangent of slope <i>β</i>, from <i>J</i>"),
                key("points", "reference", "random policies")),
        api=("klrlhf.values.kl_frontier", "klrlhf.values.temperature_path"), resample=True)
    return Explorer(design, **values)
