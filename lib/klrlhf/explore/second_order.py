"""Item 1.5: the exact plug-in gap against its three bounds, over range / beta."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from klrlhf.explore import marks
from klrlhf.explore.design import Design, Frame, axis, choice, key, number, panel, percent, slider
from klrlhf.explore.host import Explorer
from klrlhf.numerics import sharp_hoeffding
from klrlhf.values import plug_in_suboptimality

LO, HI = 0.1, 10**1.5  # 12 steps a decade
FLOOR, CEILING = 1e-4, 100.0
CLOUD = 300
CURVE = np.geomspace(LO, HI, 61)
MASS = np.linspace(0, 1, 81)


@lru_cache(maxsize=16)
def cloud(K: int, seed: int) -> tuple:
    """Random (r*, r_hat, pi0) with `K` arms: gap/beta over range/beta as a mark; largest gap/h."""
    rng = np.random.default_rng([15, seed, K])
    t = np.exp(rng.uniform(np.log(LO), np.log(HI), CLOUD))
    pi0 = rng.gamma(rng.choice([0.3, 1.0, 5.0], size=(CLOUD, 1, 1)), size=(CLOUD, 1, K)) + 1e-9
    pi0 /= pi0.sum(axis=-1, keepdims=True)
    # Errors at the two ends of the range are the worst; mix them with errors spread inside it.
    shape = rng.random((CLOUD, 1, K)) ** rng.choice([0.2, 1.0, 3.0], size=(CLOUD, 1, 1))
    shape -= shape.min(axis=-1, keepdims=True)
    shape /= shape.max(axis=-1, keepdims=True)
    reward = rng.standard_normal((CLOUD, 1, K))
    error = t[:, None, None] * shape
    gap = plug_in_suboptimality(reward - error, reward, 1.0, pi0, np.ones(1))
    mark = marks.points("random instances", "reference", t, gap, size=4)
    return mark, float(np.max(gap / sharp_hoeffding(t)))


BOUNDS = (
    marks.line("linear bound", "pess2", CURVE, CURVE),
    marks.line("quadratic bound", "predicted", CURVE, CURVE**2 / 8),
    marks.line("h-bound", "bound", CURVE, sharp_hoeffding(CURVE)),
)


def two_arm_gap(t, mass):
    """Gap/beta of two arms when r_hat errs by `t` beta on one arm, which pi_hat plays `mass`.

    The gap depends on the plug-in policy and D alone, so r_hat = 0 and pi0 = pi_hat will do.
    """
    mass = np.clip(np.asarray(mass, dtype=float), 1e-12, 1 - 1e-12)
    pi0 = np.stack([mass, 1 - mass], axis=-1)[..., None, :]
    difference = np.array([1.0, 0.0]) * np.asarray(t, dtype=float)[..., None, None]
    return plug_in_suboptimality(np.zeros_like(pi0), difference, 1.0, pi0, np.ones(1))


@lru_cache(maxsize=256)
def profile_of(t):
    """The two-arm gap over all masses, relative to h."""
    return marks.line("two-arm gap", "empirical", MASS, two_arm_gap(t, MASS) / sharp_hoeffding(t))


@lru_cache(maxsize=4096)
def one_gap(t, mass) -> float:
    """The two-arm gap at one mass."""
    return float(two_arm_gap(t, mass))


def frame(t, mass, K, seed=0) -> Frame:
    """The bounds at range/beta = `t`, a two-arm instance, and random instances with `K` arms."""
    h, quadratic = float(sharp_hoeffding(t)), t * t / 8
    scatter, ratio = cloud(K, seed)
    gap = one_gap(t, mass)
    left = [
        scatter,
        *BOUNDS,
        marks.rule("here", "reference", x=t, style="thin"),
        marks.points("h here", "bound", [t], [h], size=9, style="strong"),
        marks.points("gap", "empirical", [t], [max(gap, 1e-9)], size=9, style="strong"),
    ]
    right = [
        marks.rule("h-bound here", "bound", y=1),
        marks.rule("quadratic here", "predicted", y=quadratic / h if quadratic < 1.6 * h else None),
        profile_of(t),
        marks.handle("two-arm instance", "empirical", "mass", mass, gap / h, axis="x"),
    ]
    say = [f"At range(<i>D</i>)/<i>β</i> = {number(t)} the gap is at most <i>β h</i> = "
           f"{number(h)}\u00a0<i>β</i>; "
           f"the quadratic bound allows {number(quadratic)}\u00a0<i>β</i>, "
           f"the linear one {number(t)}\u00a0<i>β</i>.",
           f"Two arms with <i>π̂</i>(underrated) = {number(mass)} lose {number(gap)}\u00a0<i>β</i>, "
           f"{percent(gap / h)} of that.",
           f"The worst of {CLOUD} random instances with {K} arms comes to {percent(ratio)} of its "
           "<i>h</i>-bound."]
    return Frame([left, right], say, [], {"h": h, "gap": gap, "ratio": ratio})


def second_order_explorer(**values) -> Explorer:
    r"""The plug-in gap against :math:`h(t)`, :math:`t^2/8` and :math:`t`.

    Parameters
    ----------
    **values
        Start values: ``t`` (range over beta), ``mass`` (of the plug-in policy on the underrated
        arm), ``K`` (arms of the random instances: 2, 3, 5 or 10).

    Returns
    -------
    Explorer
        Result ``second-order-gap``.
    """
    design = Design(
        id="second-order", label="The plug-in gap against its bounds",
        controls=(
            slider("t", "size of the error, range(<i>D</i>)/<i>β</i>", 10**0.5, LO, HI, count=31,
                   scale="log"),
            slider("mass", "<i>π̂</i>(underrated arm)", 0.5, 0.02, 0.98, count=25, finer=4),
            choice("K", "arms of the random instances", 3, {k: str(k) for k in (2, 3, 5, 10)})),
        panels=(
            panel(axis("range(<i>D</i>)/<i>β</i>", LO, HI, scale="log",
                       ticks=[0.1, 0.3, 1, 3, 10, 30]),
                  axis("gap/<i>β</i>", FLOOR, CEILING, scale="log"),
                  "gap over beta against range over beta: random instances under three bounds",
                  aspect=0.86, least=260, grow=1.15),
            panel(axis("<i>π̂</i>(underrated arm)", 0, 1), axis("gap / (<i>β h</i>)", 0, 1.6),
                  "gap of two arms relative to the h-bound, against the plug-in policy's mass "
                  "on the underrated arm", aspect=1.0, least=260)),
        frame=frame,
        legend=(key("line", "bound", "<i>h</i>(<i>t</i>)"),
                key("line", "predicted", "<i>t</i>²/8"), key("line", "pess2", "<i>t</i>"),
                key("line", "empirical", "two arms, exact"),
                key("points", "reference", "random instances, exact")),
        api=("klrlhf.values.plug_in_suboptimality", "klrlhf.numerics.sharp_hoeffding"),
        resample=True)
    return Explorer(design, **values)
