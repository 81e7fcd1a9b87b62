"""Item 5.2: the margin of one pair along gradient descent, for DPO, DPO over a ball, and IPO."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.special import expit, logit

from klrlhf.direct import unanimous_margins
from klrlhf.explore import marks
from klrlhf.explore.design import Design, Frame, axis, choice, key, number, panel, slider
from klrlhf.explore.host import Explorer

VOTES, ETA = 20, 0.1
LAST = 100_000
CONTRARY = (0, 1, 2, 5)
# The stops of the live slider, five per decade.
SHOWN = np.floor(10.0 ** (np.arange(26) / 5) + 0.5).astype(int)
MARGIN = 9.0
P_LO, P_HI = 1e-8, 1.5
START = 0.5  # the reference's probability of the losing answer


@lru_cache(maxsize=256)
def free_path(beta: float, contrary: int) -> np.ndarray:
    """DPO margins after the steps `SHOWN`, without a ball."""
    return _paths(beta)[:, CONTRARY.index(contrary)]


@lru_cache(maxsize=64)
def _paths(beta: float) -> np.ndarray:
    share = 1 - np.array(CONTRARY) / VOTES
    return unanimous_margins(LAST, 2 * beta**2 * ETA, share)[SHOWN]


def ipo_path(beta: float, contrary: int) -> np.ndarray:
    """beta times IPO's log-ratio, at tau = beta / 4: a geometric approach."""
    target = 2 * (1 - 2 * contrary / VOTES)
    return target * -np.expm1(SHOWN * np.log1p(-4 * ETA))


def loser(margin, beta):
    """The losing answer's probability at a margin."""
    return expit(-np.asarray(margin) / beta + logit(START))


@lru_cache(maxsize=512)
def curves(beta: float, contrary: int, B: float) -> tuple:
    """The marks of both panels that do not depend on the step."""
    free, squared = free_path(beta, contrary), ipo_path(beta, contrary)
    # Projected gradient descent in one dimension: the first step outside is set back to the end.
    ball = np.minimum(free, B)
    left = [marks.rule("edge of the ball", "bound", y=B, style="fine"),
            marks.line("DPO", "empirical", SHOWN, np.minimum(free, 2 * MARGIN)),
            marks.line("DPO in the ball", "bound", SHOWN, ball),
            marks.line("IPO", "predicted", SHOWN, squared)]
    right = [marks.line("DPO", "empirical", SHOWN, np.maximum(loser(free, beta), 1e-30)),
             marks.line("DPO in the ball", "bound", SHOWN, loser(ball, beta)),
             marks.line("IPO", "predicted", SHOWN, loser(squared, beta))]
    return tuple(left), tuple(right)


def frame(beta, steps, contrary, B, seed=0) -> Frame:
    """Margins, and the loser's probability, over gradient steps on twenty votes of one pair."""
    contrary, beta, B = int(contrary), float(f"{beta:.3g}"), float(B)
    left, right = curves(beta, contrary, B)
    at = int(np.searchsorted(SHOWN, steps))
    at = min(at, len(SHOWN) - 1)
    free, squared = free_path(beta, contrary)[at], ipo_path(beta, contrary)[at]
    ball = min(free, B)
    steps = int(SHOWN[at])
    here = marks.rule("here", "reference", x=steps, style="thin")
    one = [here, *left,
           marks.points("now", "optimum", [steps] * 3, [min(free, 2 * MARGIN), ball, squared],
                        size=7, style="strong"),
           marks.handle("step", "reference", "steps", steps, 0.25, axis="x")]
    two = [here, *right,
           marks.points("now", "optimum", [steps] * 3,
                        [max(float(loser(v, beta)), 1e-30) for v in (free, ball, squared)],
                        size=7, style="strong"),
           marks.handle("step", "reference", "steps", steps, 2 * P_LO, axis="x")]
    if contrary == 0:
        limit = ("No vote disagrees, so the DPO loss has no minimizer: the margin goes on like "
                 "log <i>t</i>, the loser's probability like <i>t</i> to the power −1/<i>β</i> = "
                 f"{number(-1 / beta)}, and no <i>β</i> stops it.")
        asked = np.inf
    else:
        asked = float(logit(1 - contrary / VOTES))
        limit = (f"With {contrary} of {VOTES} votes against, the DPO margin stops at "
                 f"{number(asked)} and the loser keeps {number(float(loser(asked, beta)))}.")
    if asked <= B:
        held = f"The ball, <i>B</i> = {number(B)}, is wider than that and changes nothing."
    else:
        held = (f"The ball stops it at <i>B</i> = {number(B)}, a number that no vote gave, "
                f"where the loser keeps {number(float(loser(B, beta)))}.")
    target = 2 * (1 - 2 * contrary / VOTES)
    say = [f"At <i>β</i> = {number(beta)} and <i>t</i> = {number(steps)} the margin of DPO is "
           f"{number(free)}, in the ball {number(ball)}, of IPO {number(squared)};",
           f"the loser's probability is {number(float(loser(free, beta)))}, "
           f"{number(float(loser(ball, beta)))} and {number(float(loser(squared, beta)))}.",
           limit, held,
           f"IPO with <i>τ</i> = <i>β</i>/4 asks for {number(target)} and keeps "
           f"{number(float(loser(target, beta)))}."]
    return Frame([one, two], say, [],
                 {"free": float(free), "ball": float(ball), "ipo": float(squared),
                  "steps": steps, "asked": asked, "target": target,
                  "loser": float(loser(free, beta))})


def margins_explorer(**values) -> Explorer:
    r"""Margins of DPO, DPO over a ball and IPO along gradient descent on twenty votes.

    Parameters
    ----------
    **values
        Start values: ``beta``, ``steps``, ``contrary`` (votes against), ``B`` (radius, for a
        feature difference of length 1).

    Returns
    -------
    Explorer
        Results ``dpo-unattained``, ``dpo-log-growth``, ``dpo-ball-margin`` and ``ipo-bounded``.
    """
    design = Design(
        id="margins", label="Margins of DPO, of DPO in a ball, and of IPO",
        controls=(
            slider("beta", "KL coefficient", float(f"{0.2**0.5:.12g}"), 0.1, 2.0, symbol="β", count=7,
                   scale="log", finer=1),
            slider("steps", "gradient steps", 1000, 1, LAST, symbol="t", count=6, scale="log",
                   integer=True, finer=5),
            choice("contrary", "votes against, of twenty", 0,
                   {0: "0", 1: "1", 2: "2", 5: "5"}),
            slider("B", "radius of the ball", 3.0, 1.0, 5.0, symbol="B", count=5, finer=2)),
        panels=(
            panel(axis("gradient steps <i>t</i>", 1, LAST, scale="log",
                       ticks=[(1, "1"), (1e2, "10²"), (1e4, "10⁴")]),
                  axis("margin <i>β</i> × log-ratio", 0, MARGIN),
                  "margin of the pair against gradient steps: DPO, DPO in the ball, and IPO",
                  aspect=0.85, least=250),
            panel(axis("gradient steps <i>t</i>", 1, LAST, scale="log",
                       ticks=[(1, "1"), (1e2, "10²"), (1e4, "10⁴")]),
                  axis("loser's probability", P_LO, P_HI, scale="log"),
                  "probability of the losing answer against gradient steps, on logarithmic axes",
                  aspect=0.85, least=250)),
        frame=frame,
        legend=(key("line", "empirical", "DPO, free logits"),
                key("line", "bound", "DPO in the ball"),
                key("line", "predicted", "IPO, <i>τ</i> = <i>β</i>/4")),
        api=("klrlhf.direct.unanimous_margins", "klrlhf.direct.dpo_limit",
             "klrlhf.direct.fit_ipo"))
    return Explorer(design, **values)
