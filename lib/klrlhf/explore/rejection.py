"""Items 5.3 and 5.4: draws of rejection sampling over R / beta, of its multi-step form over N."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from klrlhf.explore import marks
from klrlhf.explore.design import (
    Design,
    Frame,
    axis,
    choice,
    key,
    number,
    panel,
    percent,
    slider,
)
from klrlhf.explore.host import Explorer
from klrlhf.policies import gibbs_policy
from klrlhf.sampling import (
    amplified_error,
    log_acceptance_probability,
    multistep_cost,
    optimal_levels,
)

RATIOS = np.linspace(0.5, 16, 32)
LEVELS = np.arange(1, 21)
COST_HI, ERROR_LO = 2e7, 1e-4


def _shapes() -> dict:
    """Rewards in [0, 1] and references of the three prompts."""
    even = np.linspace(0, 1, 41)
    bell = np.exp(-0.5 * ((even - 0.4) / 0.13) ** 2)
    rare = np.array([1 - 1e-5, 1e-5])
    return {"rare": (np.array([0.0, 1.0]), rare), "bell": (even, bell / bell.sum()),
            "even": (even, np.full(41, 1 / 41))}


SHAPES = _shapes()
NAMES = {"rare": "one good in 100 000", "bell": "bell-shaped", "even": "evenly spread"}


def log_price(name: str, ratio) -> np.ndarray:
    """log(1 / p) of one step where the reward range over beta is `ratio`."""
    reward, pi0 = SHAPES[name]
    ratio = np.atleast_1d(np.asarray(ratio, float))
    scaled = ratio[:, None, None] * reward
    return -log_acceptance_probability(scaled, 1.0, np.broadcast_to(pi0, scaled.shape))[:, 0]


def worst_error(price: float, N: int, eps: float) -> float:
    """Bound of the final total variation with fit errors `eps` at each of N equal levels."""
    # The last fit's own error is not amplified, the first one's by every later level.
    return float(amplified_error(np.full(N, eps), np.full(N, np.exp(-price / N))))


def relative_error(N, eps: float):
    """The same, if each fit's log-ratio has the span that alone can make `eps`."""
    return np.tanh(np.asarray(N) * np.arctanh(eps))


@lru_cache(maxsize=64)
def over_ratio(name: str, N: int) -> tuple:
    """Left: draws against R / beta."""
    price = log_price(name, RATIOS)
    p = np.exp(-price)
    return (
        marks.line("bound", "bound", [RATIOS[0], RATIOS[-1]], np.exp([RATIOS[0], RATIOS[-1]])),
        marks.line("one step", "reference", RATIOS, 1 / p, style="solid"),
        marks.line("N levels", "online", RATIOS, multistep_cost(p, N), style="solid"),
        marks.line("best N", "predicted", RATIOS, multistep_cost(p, optimal_levels(p))),
    )


@lru_cache(maxsize=256)
def over_levels(name: str, ratio: float) -> tuple:
    """Middle: draws against N."""
    price = float(log_price(name, ratio)[0])
    p = np.exp(-price)
    best = int(optimal_levels(p))
    return (
        marks.rule("e log(1/p)", "reference", y=max(np.e * price, 1.0), style="fine"),
        marks.points("cost", "online", LEVELS, multistep_cost(p, LEVELS), size=6,
                     style="strong"),
        marks.points("best", "predicted", [best], [multistep_cost(p, best)], size=10,
                     style="strong"),
    )


@lru_cache(maxsize=1024)
def errors(name: str, ratio: float, eps: float) -> tuple:
    """Right: final total variation against N."""
    price = float(log_price(name, ratio)[0])
    worst = [min(worst_error(price, int(N), eps), 1.0) for N in LEVELS]
    return (
        marks.points("bound", "bound", LEVELS, worst, size=6, style="strong"),
        marks.points("relative errors", "empirical", LEVELS, relative_error(LEVELS, eps), size=6,
                     style="strong"),
    )


def frame(ratio, N, eps, instance, seed=0) -> Frame:
    """Draws and accuracy of one step and of N levels."""
    ratio, N, eps = float(ratio), int(N), float(eps)
    price = float(log_price(instance, ratio)[0])
    p = float(np.exp(-price))
    best, cost = int(optimal_levels(p)), float(multistep_cost(p, N))
    least = float(multistep_cost(p, best))
    worst, relative = worst_error(price, N, eps), float(relative_error(N, eps))
    reward, pi0 = SHAPES[instance]
    top = float(gibbs_policy(ratio * reward[None], 1.0, pi0[None])[0, -1])
    here = {"style": "thin"}
    left = [marks.rule("here", "reference", x=ratio, **here), *over_ratio(instance, N),
            marks.handle("ratio", "reference", "ratio", ratio, 1.6, axis="x")]
    middle = [marks.rule("here", "reference", x=N, **here), *over_levels(instance, ratio),
              marks.handle("levels", "reference", "N", N, 1.6, axis="x")]
    right = [marks.rule("here", "reference", x=N, **here), *errors(instance, ratio, eps)]
    saved = ("one step is already the cheapest" if best == 1
             else f"the cheapest number of levels is {best}, at {number(least)}")
    say = [
        f"At <i>R</i>/<i>β</i> = {number(ratio)} one step accepts {percent(p)} of its draws:",
        f"{number(1 / p)} draws per response, of at most {number(np.exp(ratio))};"
        f" the best response ends with probability {number(top, 2)}.",
        f"With <i>N</i> = {N} equal levels each accepts {percent(p ** (1 / N))},"
        f" and all together take {number(cost)} draws; {saved}.",
        f"If every fit is off by {number(eps)} in total variation, the end is off by at most"
        f" {'1, which says nothing' if worst >= 1 else number(worst, 2)};",
        f"if the fits' log-ratios have the span that allows {number(eps)}, by at most"
        f" {number(relative, 2)}."]
    return Frame([left, middle, right], say, [],
                 {"p": p, "price": price, "best": best, "cost": cost, "least": least,
                  "worst": worst, "relative": relative})


def rejection_explorer(**values) -> Explorer:
    r"""Rejection sampling against R / beta, its multi-step form against N, and the accuracy price.

    Parameters
    ----------
    **values
        Start values: ``ratio`` (R / beta), ``N`` (levels), ``eps`` (total variation of a fit),
        ``instance`` ("rare", "bell" or "even").

    Returns
    -------
    Explorer
        Results ``rejection-gibbs``, ``multistep-cost`` and ``multistep-errors``.
    """
    levels = axis("levels <i>N</i>", 0, 21, ticks=[1, 5, 10, 15, 20])
    design = Design(
        id="rejection", label="Rejection sampling, in one step and in many",
        controls=(
            slider("ratio", "reward range over KL coefficient", 10, 1, 16, symbol="R/β", count=16,
                   integer=True, finer=1),
            slider("N", "levels", 4, 1, 20, symbol="N", count=20, integer=True, finer=1),
            slider("eps", "error of a fit", 0.01, 0.001, 0.1, symbol="ε", count=3, scale="log",
                   finer=8),
            choice("instance", "rewards", "bell", NAMES)),
        panels=(
            panel(axis("<i>R</i>/<i>β</i>", 0, 16.5, ticks=[4, 8, 12, 16]),
                  axis("draws per response", 1, COST_HI, scale="log"),
                  "draws per response against R over beta on a logarithmic axis: exponential "
                  "bound, one step, N levels, and the best number of levels",
                  aspect=1.05, least=210),
            panel(levels, axis("draws per response", 1, COST_HI, scale="log"),
                  "draws per response against the number of levels on a logarithmic axis",
                  aspect=1.05, least=210),
            panel(levels, axis("final total variation", ERROR_LO, 1.5, scale="log"),
                  "bounds of the final total variation against the number of levels: with absolute "
                  "and with relative errors", aspect=1.05, least=210)),
        frame=frame,
        legend=(key("line", "bound", "<i>e</i><sup><i>R</i>/<i>β</i></sup>"),
                key("line", "reference", "one step", "solid"),
                key("line", "online", "<i>N</i> levels", "solid"),
                key("line", "predicted", "best number of levels"),
                key("dot", "bound", "bound, fits off by <i>ε</i> in total variation"),
                key("dot", "empirical", "bound, log-ratios of that span")),
        api=("klrlhf.sampling.acceptance_probability", "klrlhf.sampling.multistep_cost",
             "klrlhf.sampling.optimal_levels", "klrlhf.sampling.amplified_error"))
    return Explorer(design, **values)
