"""Item 2.1: the Bradley-Terry likelihood of three arms, from separable to finite."""

from __future__ import annotations

import numpy as np

from klrlhf.bandit import Bandit
from klrlhf.estimation import fit_mle, mle_exists, negative_log_likelihood
from klrlhf.explore import marks
from klrlhf.explore.design import Design, Frame, axis, counter, key, number, panel, percent, slider
from klrlhf.explore.host import Explorer
from klrlhf.preferences import Comparisons, all_pairs, pair_features, preference_probability

EDGE, SIDE = 4.5, 61  # the plane shown, and the field's grid
MOST = 6  # of each count
LEVELS = np.array([-3, -2, -1, -0.5, -0.25, 0.25, 0.5, 1, 2, 3, 5, 8])
FAR = 40.0  # a ball that holds every finite MLE of counts up to MOST
# Rewards of three arms matter up to a constant: one-hot features in the plane of sum zero.
PHI = np.array([[3**0.5, 1.0], [-(3**0.5), 1.0], [0.0, -2.0]]) / 6**0.5
PAIRS = all_pairs(1, 3)
Z = pair_features(PHI[None], PAIRS)
WINS = ("w12", "w13", "w23")
LOSSES = ("w21", "w31", "w32")
START = {"w12": 2, "w21": 1, "w13": 1, "w31": 0, "w23": 1, "w32": 0}
NODES = 1.05 * PHI / np.linalg.norm(PHI[0])
CIRCLE = np.linspace(0, 2 * np.pi, 73)
AXIS = np.linspace(-EDGE, EDGE, SIDE)
PLANE = np.stack(np.meshgrid(AXIS, AXIS), axis=-1)


def comparisons(counts: dict) -> Comparisons:
    """The six counts as the library's data."""
    wins = np.array([counts[k] for k in WINS], dtype=float)
    losses = np.array([counts[k] for k in LOSSES], dtype=float)
    return Comparisons(PAIRS, Z, wins + losses, wins)


def bandit() -> Bandit:
    """The three-arm instance whose parameter is estimated."""
    return Bandit(np.ones(1), np.full((1, 3), 1 / 3), PHI[None], np.zeros(2), 1.0, B=FAR)


def escape(data: Comparisons) -> np.ndarray:
    """Angles (multiples of 30 degrees) of the directions that no outcome speaks against.

    All comparisons lie at multiples of 60 degrees, so the cone's edges are among these angles.
    """
    angles = np.arange(12) * np.pi / 6
    u = np.stack([np.cos(angles), np.sin(angles)], axis=-1) @ Z.T
    fits = ((data.wins == 0) | (u > -1e-9)) & ((data.losses == 0) | (u < 1e-9))
    gains = ((data.wins > 0) & (u > 1e-9)) | ((data.losses > 0) & (u < -1e-9))
    fine = np.flatnonzero(fits.all(axis=-1))
    if not gains[fine].any():
        return np.array([])
    # A cone of directions is an interval: start after the gap, so that angles ascend.
    gap = np.flatnonzero(np.diff(fine, append=fine[0] + 12) > 1)
    ordered = np.roll(fine, -(gap[-1] + 1)) if gap.size else fine
    return (ordered[0] + (ordered - ordered[0]) % 12) * np.pi / 6


def frame(B, seed=0, **counts) -> Frame:
    """Contours, ball and estimate for six counts."""
    data = comparisons(counts)
    n = int(data.n)
    exists = bool(mle_exists(data))
    theta = fit_mle(data, B).theta
    free = fit_mle(data, FAR).theta if exists else np.full(2, np.nan)
    unique = exists and int((data.counts > 0).sum()) >= 2
    z = negative_log_likelihood(PLANE, data)
    base = float(negative_log_likelihood(theta, data))
    cone = escape(data)
    middle = (cone[0] + cone[-1]) / 2 if cone.size else np.nan
    way = np.array([np.cos(middle), np.sin(middle)])
    wedge = np.concatenate([[0], 9 * np.cos(cone), [0]]), np.concatenate([[0], 9 * np.sin(cone),
                                                                          [0]])
    inside = exists and np.linalg.norm(free) <= B
    rim = 0.93 * EDGE * PHI / np.linalg.norm(PHI[0])
    left = [
        marks.shape("escape cone", "bound", *(wedge if cone.size > 1 else ([], []))),
        marks.field("contours", "reference", [-EDGE, EDGE], [-EDGE, EDGE], z, base + LEVELS),
        marks.field("level of the estimate", "empirical", [-EDGE, EDGE], [-EDGE, EDGE], z, [base]),
        marks.shape("ball", "optimum", B * np.cos(CIRCLE), B * np.sin(CIRCLE), style="outline"),
        marks.labels("ball label", "optimum", [B * np.sqrt(0.5)], [-B * np.sqrt(0.5)],
                     ["‖<i>θ</i>‖ = <i>B</i>"], dx=4, dy=14, anchor="start"),
        marks.labels("arms", "reference", rim[:, 0], rim[:, 1],
                     [f"arm {k} better" for k in (1, 2, 3)], dy=4),
        marks.arrow("to infinity", "bound", theta, theta + 1.5 * way, width=2.5),
        marks.points("unconstrained MLE", "predicted", [free[0]], [free[1]], size=11,
                     style="strong"),
        marks.points("ball MLE", "empirical", [theta[0]], [theta[1]], size=9, style="strong"),
    ]
    say = [_status(n, exists, unique, inside, B, theta, free, counts)]
    duels = zip(((1, 2), (1, 3), (2, 3)), preference_probability(theta, Z), strict=True)
    say.append("The estimate gives "
               + ", ".join(f"P({a} beats {b}) = {percent(p)}" for (a, b), p in duels) + ".")
    return Frame([left, _graph(counts)], say, [],
                 {"theta": theta, "free": free, "exists": exists, "z": z.ravel(), "base": base})


def _status(n, exists, unique, inside, B, theta, free, counts) -> str:
    if n == 0:
        return "No comparison yet: every <i>θ</i> fits equally well; the one of least norm is 0."
    total = f"{n} comparison{'s' if n > 1 else ''}."
    if not exists:
        never = [k for k in (1, 2, 3) if not any(counts[f"w{k}{j}"] for j in (1, 2, 3) if j != k)
                 and any(counts[f"w{j}{k}"] for j in (1, 2, 3) if j != k)]
        why = f" (arm {never[0]} never wins)" if len(never) == 1 else ""
        return (f"{total} Separable{why}: no unconstrained MLE. The likelihood rises for ever "
                "along the arrow, so over the ball the estimate sits on the edge, "
                f"‖<i>θ̂</i>‖ = <i>B</i> = {number(B)}.")
    size = number(np.linalg.norm(free))
    if not unique:
        return (f"{total} Attained but not unique: one arm is compared with nothing. "
                f"The MLE of least norm has norm {size}"
                + (f", inside the ball of radius {number(B)}." if inside else
                   f"; the ball cuts it to <i>B</i> = {number(B)}."))
    if inside:
        return (f"{total} Finite: every arm beats every other along some chain. "
                f"The MLE has norm {size}, inside the ball of radius <i>B</i> = {number(B)}.")
    return (f"{total} Finite: every arm beats every other along some chain. The MLE has norm "
            f"{size}, outside the ball, so the constrained estimate sits on its edge, "
            f"‖<i>θ̂</i>‖ = <i>B</i> = {number(B)}.")


def _graph(counts: dict) -> list:
    """The win graph: an arrow from winner to loser for every kind of outcome seen."""
    out = []
    for a in range(3):
        for b in range(3):
            if a == b:
                continue
            w = counts[f"w{a + 1}{b + 1}"]
            way = (NODES[b] - NODES[a]) / np.linalg.norm(NODES[b] - NODES[a])
            side = 0.11 * np.array([-way[1], way[0]])
            ends = (NODES[a] + 0.3 * way + side, NODES[b] - 0.3 * way + side)
            seen = ends if w else ((None, None), (None, None))
            spot = 0.6 * ends[0] + 0.4 * ends[1] + 1.6 * side
            out.append(marks.arrow(f"{a + 1} beats {b + 1}", "empirical", *seen,
                                   width=1.2 + 0.5 * w))
            out.append(marks.labels(f"wins {a + 1} over {b + 1}", "empirical",
                                    [spot[0] if w else np.nan], [spot[1]], [str(w)], dy=4))
    out.append(marks.points("nodes", "reference", NODES[:, 0], NODES[:, 1], size=34,
                            style="faint"))
    out.append(marks.labels("arm names", "optimum", NODES[:, 0], NODES[:, 1], ["1", "2", "3"],
                            dy=4.5, style="bold"))
    return out


def likelihood_explorer(**values) -> Explorer:
    """Add wins and losses one by one; watch the MLE come back from infinity.

    Parameters
    ----------
    **values
        Start values: the counts ``w12`` (wins of arm 1 over arm 2), ``w21``, ..., and ``B``.

    Returns
    -------
    Explorer
        Results ``bt-likelihood`` and ``mle-existence``.
    """
    group = "who beat whom, how often"
    pairs = [f"w{a}{b}" for a, b in ((1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2))]
    hidden = {"hidden": True}
    design = Design(
        id="likelihood", label="The likelihood of three arms",
        controls=(
            *(counter(w, f"{w[1]} beat {w[2]}", START[w], 0, MOST, group=group) for w in pairs),
            slider("B", "radius of the ball", 2.0, 0.5, 4.0, symbol="B", count=36)),
        panels=(
            panel(axis("", -EDGE, EDGE, **hidden), axis("", -EDGE, EDGE, **hidden),
                  "contours of the likelihood over the plane of the three rewards, the ball of "
                  "radius B and the estimates", equal=True, grow=1.25, right=12),
            panel(axis("", -1.6, 1.6, **hidden), axis("", -1.55, 1.25, **hidden),
                  "the win graph: an arrow from winner to loser", equal=True, right=12)),
        frame=frame,
        legend=(key("dot", "empirical", "MLE over the ball"),
                key("dot", "predicted", "unconstrained MLE"),
                key("arrow", "bound", "the likelihood rises for ever"),
                key("line", "reference", "level lines", "thin")),
        api=("klrlhf.estimation.fit_mle", "klrlhf.estimation.mle_exists"), twin="likelihood")
    return Explorer(design, **values)
