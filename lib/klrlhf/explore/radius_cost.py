"""Item 2.3: what a radius that holds for every parameter of the ball costs, over LB and n."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from klrlhf.bandit import Bandit
from klrlhf.confidence import (
    confidence_radius,
    design_matrix,
    fisher_information,
    least_curvature,
    parameter_error,
    score_bound_fixed,
)
from klrlhf.estimation import fit_mle
from klrlhf.explore import marks
from klrlhf.explore.confidence import predicted_errors, upper_quantile
from klrlhf.explore.design import Design, Frame, axis, choice, key, number, panel, slider
from klrlhf.explore.host import Explorer
from klrlhf.preferences import coverage_design, sample_comparisons, sample_outcomes

REG, DELTA = 0.01, 0.05
REPLICATES = 400
LO, HI, COUNT = 0.25, 5.0, 20
GRID = np.linspace(LO, HI, COUNT)  # of LB; the running example has L = 1
PLACES = {"centre": (0.0, "centre"), "half": (0.5, "half way"), "edge": (0.9, "near the edge")}


@lru_cache(maxsize=1024)
def measure(LB: float, n: int, place: str, seed: int = 0) -> dict:
    """Measured error quantile, its prediction and both radii at one LB."""
    bandit = Bandit.running_example()
    B = LB / bandit.L
    bandit = bandit.with_(theta=[PLACES[place][0] * B, 0.0], B=B)
    rng = np.random.default_rng([23, seed, n])  # one design for all LB: curves are smooth
    counts = sample_comparisons(bandit, n, coverage_design(bandit, 1.0), rng).counts
    data = sample_outcomes(bandit, counts, rng, replicates=REPLICATES)
    V = design_matrix(data, REG)[0]
    error = parameter_error(fit_mle(data, B).theta, bandit.theta, V)
    information = fisher_information(bandit.theta, data.z, counts / n) * n
    score = score_bound_fixed(data, REG, DELTA)[0]
    gamma = least_curvature(bandit.L, B)
    return {
        "measured": float(np.quantile(error, 1 - DELTA)),
        "predicted": upper_quantile(predicted_errors(information, V), DELTA),
        "sharp": float(confidence_radius(score, gamma, REG, B)),
        "usual": float(confidence_radius(score, gamma, REG, B, form="usual")),
        "failed": int(np.sum(error > confidence_radius(score, gamma, REG, B))),
    }


@lru_cache(maxsize=64)
def curves(n: int, place: str, seed: int = 0) -> tuple:
    """The two panels' curves over all LB."""
    rows = [measure(float(f"{LB:.12g}"), n, place, seed) for LB in GRID]
    get = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    left = [
        marks.line("usual radius", "bound", GRID, get["usual"], style="usual"),
        marks.line("sharp radius", "bound", GRID, get["sharp"]),
        marks.line("measured quantile", "empirical", GRID, get["measured"]),
        marks.line("predicted quantile", "predicted", GRID, get["predicted"]),
    ]
    right = [
        marks.line("usual price", "bound", GRID, get["usual"] / get["measured"], style="usual"),
        marks.line("sharp price", "bound", GRID, get["sharp"] / get["measured"]),
    ]
    return left, right


PRICE = marks.line("curvature price", "optimum", GRID, (2 + np.exp(GRID) + np.exp(-GRID)) / 4)


def frame(LB, n, place, seed=0) -> Frame:
    """Radii and errors over LB, read off at one `LB`."""
    left, right = curves(n, place, seed)
    here = measure(LB, n, place, seed)
    price = here["sharp"] / here["measured"]
    left = [
        marks.rule("here", "reference", x=LB, style="thin"),
        *left,
        marks.points("sharp here", "bound", [LB], [here["sharp"]], size=9, style="strong"),
        marks.points("measured here", "empirical", [LB], [here["measured"]], size=9,
                     style="strong"),
    ]
    right = [
        marks.rule("here", "reference", x=LB, style="thin"),
        PRICE,
        *right,
        marks.points("price here", "bound", [LB], [price], size=9, style="strong"),
    ]
    curvature = float((2 + np.exp(LB) + np.exp(-LB)) / 4)
    say = [
        f"At <i>LB</i> = {number(LB)} and <i>n</i> = {number(n)}, 95 % of the errors stay below "
        f"{number(here['measured'])} (Fisher predicts {number(here['predicted'])}), "
        f"while the sharp radius is {number(here['sharp'])} and the usual one "
        f"{number(here['usual'])}.",
        f"The sharp radius is {number(price)} times the measured quantile "
        f"({number(price**2)} times in the square);",
        f"the least curvature alone accounts for a factor 1/(4<i>γ</i>) = {number(curvature)}."]
    return Frame([left, right], say, [], {**here, "price": price})


def radius_cost_explorer(**values) -> Explorer:
    """What the confidence radius costs against the measured error, over LB and n.

    Parameters
    ----------
    **values
        Start values: ``LB``, ``n``, ``place`` of theta* in the ball ("centre", "half", "edge").

    Returns
    -------
    Explorer
        Result ``mle-asymptotics``, measured beside ``confidence-ellipsoid``.
    """
    wide = (0.0, HI + 0.1)
    design = Design(
        id="radius-cost", label="The price of the confidence radius",
        controls=(
            slider("LB", "largest reward difference", 2.0, LO, HI, symbol="LB", count=COUNT),
            slider("n", "comparisons", 1000, 100, 100_000, symbol="n", count=7, scale="log",
                   integer=True),
            choice("place", "place of <i>θ</i>* in the ball", "half",
                   {k: text for k, (_, text) in PLACES.items()})),
        panels=(
            panel(axis("<i>LB</i>", *wide), axis("‖·‖<sub><i>V</i></sub>", 0.5, 2000, scale="log"),
                  "radii and 95 percent quantile of the error against L B", aspect=0.9,
                  least=250),
            panel(axis("<i>LB</i>", *wide), axis("times the measured quantile", 0.7, 1000,
                                                 scale="log"),
                  "radii over the measured quantile against L B", aspect=0.9, least=250)),
        frame=frame,
        legend=(key("line", "empirical", "measured 95 % quantile"),
                key("line", "predicted", "Fisher's prediction"),
                key("line", "bound", "sharp <i>ρ</i>"),
                key("line", "bound", "usual <i>ρ</i>", "usual"),
                key("line", "optimum", "1/(4<i>γ</i>) = (2 + e<sup><i>LB</i></sup> + "
                                       "e<sup>−<i>LB</i></sup>)/4")),
        api=("klrlhf.confidence.confidence_radius", "klrlhf.confidence.fisher_information"),
        resample=True)
    return Explorer(design, **values)
