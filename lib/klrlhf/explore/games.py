"""Item 5.10: self-play in rock, paper, scissors, below and above the step sizes that matter."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from klrlhf.explore import marks
from klrlhf.explore.design import Design, Frame, axis, choice, key, number, panel, slider
from klrlhf.explore.host import Explorer
from klrlhf.games import cyclic_preferences, safe_step, self_play, stability_threshold
from klrlhf.policies import kl_divergence_from_logs

CORNERS = np.array([[-0.5, -0.5 / 3**0.5], [0.5, -0.5 / 3**0.5], [0.0, 1 / 3**0.5]])
UNIFORM = np.full((1, 3), 1 / 3)
STARTS = {"far": (0.9, 0.09, 0.01), "near": (0.4, 0.35, 0.25)}
CHOICES = {"far": "nearly all rock", "near": "near the centre"}
STEPS, SHOWN = 120, 30  # steps of the run, steps drawn in the triangle
LATE = 700  # steps after which a run has arrived or cycles
TIMES = np.arange(0, STEPS + 1, 8)
LO, HI, EDGE, PIXEL = 1e-8, 10.0, 0.74, 1.48 / 300


@lru_cache(maxsize=4096)
def run(beta: float, multiple: float, strength: float, start: str):
    """Log-policies of a run and its divergences from the Nash policy."""
    P = cyclic_preferences(3, strength)
    path = self_play(P, beta, UNIFORM, multiple * beta, STEPS, np.array([STARTS[start]]))[:, 0]
    centre = np.broadcast_to(np.log(UNIFORM[0]), path.shape)
    return path, kl_divergence_from_logs(centre, path)


@lru_cache(maxsize=1024)
def edges(beta: float, strength: float) -> tuple:
    """The proved step and the threshold, both over beta."""
    P = cyclic_preferences(3, strength)
    return (float(safe_step(P, beta)[0] / beta),
            float(stability_threshold(P, beta, UNIFORM)[0] / beta))


@lru_cache(maxsize=1024)
def cycle(beta: float, multiple: float, strength: float):
    """The closed curve on which runs end; empty where they converge."""
    if multiple <= edges(beta, strength)[1]:
        return np.zeros((0, 2))
    P = cyclic_preferences(3, strength)
    path = self_play(P, beta, UNIFORM, multiple * beta, LATE, np.array([STARTS["near"]]))
    late = np.exp(path[-200:, 0]) @ CORNERS
    turn = np.arctan2(late[:, 1], late[:, 0])
    return late[np.argsort(turn)][::10]


def small(value: float) -> str:
    """A divergence in words; what rounding error can make is not a number to show."""
    return number(value, 2) if value >= 1e-15 else "less than 10⁻¹⁵"


def _places(points) -> tuple:
    """Coordinates in steps of a pixel."""
    return tuple(np.round(np.asarray(points).T / PIXEL) * PIXEL)


def frame(beta, multiple, strength, start, seed=0) -> Frame:
    """The run in the triangle, and its divergence beside the guaranteed one."""
    path, kls = run(beta, multiple, strength, start)
    safe, threshold = edges(beta, strength)
    rate = 1 + multiple * beta**2
    ends = np.array([0, STEPS])
    # The guarantee is drawn down to the lower edge of the panel.
    last = min(float(STEPS), np.log(kls[0] / LO) / np.log(rate))
    promised = kls[0] * rate ** -np.array([0.0, last])
    places = np.exp(path[:SHOWN + 1]) @ CORNERS
    around = np.vstack([CORNERS, CORNERS[:1]]).T
    loop = cycle(beta, multiple, strength)
    left = [
        marks.line("all policies", "optimum", *around, style="thin"),
        marks.labels("answers", "optimum", *(CORNERS * [[1.04, 1.2], [1.04, 1.2], [1, 1.07]]).T,
                     ["rock", "paper", "scissors"], dy=4),
        marks.points("cycle", "predicted", *_places(loop), size=4),
        marks.line("run", "empirical", *_places(places)),
        marks.points("start", "empirical", *_places(places[:1]), size=8, style="strong"),
        marks.points("Nash policy", "optimum", [0.0], [0.0], size=9, style="strong"),
    ]
    drawn = np.where(kls[TIMES] >= LO, kls[TIMES], np.nan)
    right = [
        marks.line("guaranteed", "bound", [0.0, round(last, 1)], promised),
        marks.line("divergence", "empirical", TIMES, drawn),
        marks.rule("end", "reference", x=ends[1], style="fine"),
    ]
    if multiple <= 4:
        verdict = "at most 4<i>β</i>, where the rate is proved for all preferences."
    elif multiple <= safe:
        verdict = "above 4<i>β</i>, but the rate is proved for this game."
    elif multiple < threshold:
        verdict = "not proved, but below the threshold: near the centre the run converges."
    else:
        verdict = "above the threshold: the run ends on a cycle."
    reached = float(kls[-1])
    allowed = float(kls[0] * rate**-STEPS)
    compare = "the rate would allow" if multiple > safe else "the guarantee is"
    say = [
        f"<i>β</i> = {number(beta, 2)} and strength {number(strength, 2)}: the rate is proved "
        f"up to <i>η</i> = {number(safe)} <i>β</i>,",
        "and no step size is too large." if np.isinf(threshold) else
        f"and cycles start at {number(threshold)} <i>β</i>.",
        f"<i>η</i> = {number(multiple)} <i>β</i> = {number(multiple * beta)} is {verdict}",
        f"From KL = {number(float(kls[0]), 2)} the run has come to {small(reached)} after "
        f"{STEPS} steps; {compare} {small(allowed)}."]
    return Frame([left, right], say, [],
                 {"safe": safe, "threshold": threshold, "kl": kls, "reached": reached,
                  "allowed": allowed, "path": path, "cycle": loop})


def games_explorer(**values) -> Explorer:
    """Self-play in rock, paper, scissors: guarantee, threshold, and what the run does.

    Parameters
    ----------
    **values
        Start values: ``beta``, ``multiple`` (step size over beta), ``strength`` of the cycle in
        (0, 1], and ``start`` ("far" or "near").

    Returns
    -------
    Explorer
        Results ``nash-self-play`` and ``self-play-threshold``.
    """
    design = Design(
        id="games", label="Self-play in rock, paper, scissors",
        controls=(
            slider("beta", "KL coefficient", 0.1, 0.025, 0.4, symbol="β", count=5, scale="log"),
            slider("multiple", "step size over β", 32.0, 2.0, 128.0, symbol="η/β", count=7,
                   scale="log"),
            slider("strength", "strength of the cycle", 1.0, 0.25, 1.0, symbol="s", count=4),
            choice("start", "start", "far", CHOICES)),
        panels=(
            panel(axis("", -EDGE, EDGE, hidden=True), axis("", -EDGE, EDGE, hidden=True),
                  "the triangle of policies: a run of self-play from its start, the Nash policy in "
                  "the centre, and the cycle on which runs end above the threshold", equal=True,
                  grow=1.0),
            panel(axis("step <i>t</i>", 0, STEPS + 2, ticks=[0, 40, 80, 120]),
                  axis("KL(<i>π</i><sub>N</sub> ‖ <i>π</i><sub>t</sub>)", LO, HI, scale="log"),
                  "divergence of the run from the Nash policy against the step, on a logarithmic "
                  "axis, and the guaranteed rate as a straight line", aspect=1.0, least=250)),
        frame=frame,
        legend=(key("line", "empirical", f"run (in the triangle: {SHOWN} steps)"),
                key("dot", "predicted", "the cycle"),
                key("dot", "optimum", "Nash policy"),
                key("line", "bound", "rate 1/(1 + <i>ηβ</i>)")),
        api=("klrlhf.games.self_play", "klrlhf.games.safe_step",
             "klrlhf.games.stability_threshold"))
    return Explorer(design, **values)
