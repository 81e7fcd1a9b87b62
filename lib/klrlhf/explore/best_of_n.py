"""Item 5.5: best-of-n, statistical rejection sampling and Gibbs in the KL-reward plane."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from klrlhf.explore import marks
from klrlhf.explore.design import Design, Frame, axis, choice, key, number, panel, slider
from klrlhf.explore.host import Explorer
from klrlhf.policies import best_of_n_policy, gibbs_policy, kl_divergence
from klrlhf.sampling import (
    acceptance_probability,
    best_of_n_bounds,
    best_of_n_kl,
    best_of_n_win_rate,
    rso_single_policy,
)
from klrlhf.values import kl_frontier

DRAWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)
N_LO, N_HI, N_COUNT = 2, 256, 15
BETA_LO, BETA_HI, BETA_COUNT = 0.02, 2.0, 21
KL_END, ANSWERS = 4.2, 64
INSTANCES = {"even": "even rewards", "tail": "long tail", "rare": "one good answer"}
TIES = {"broken": "tiny differences", "kept": "exact ties"}
D0 = np.ones(1)


@lru_cache(maxsize=8)
def instance(name: str, ties: str) -> tuple:
    """Reward in [0, 1] and reference of one prompt; ties are exact or broken by tiny amounts."""
    if name == "rare":
        # Cells shrink towards the top, so that the ranking of near-ties costs what it can.
        edges = np.concatenate([1 - np.geomspace(1.0, 0.02, 40), [1.0]])
        mass = np.diff(edges)
        level = np.append(np.zeros(mass.size - 1), 1.0)
    else:
        mass = np.full(ANSWERS, 1 / ANSWERS)
        level = ((np.arange(ANSWERS) // 8) / 7) ** (1 if name == "even" else 6)
    size = 1e-6 if ties == "broken" else 0.0
    reward = (level + size * np.arange(mass.size) / mass.size) / (1 + size)
    return reward[None], (mass / mass.sum())[None]


@lru_cache(maxsize=8)
def backdrop(name: str, ties: str) -> dict:
    """What depends on the instance alone: frontier and the points of best-of-n."""
    reward, pi0 = instance(name, ties)
    x = np.linspace(0, 1, 61) ** 2 * KL_END
    laws = [best_of_n_policy(reward, pi0, n) for n in DRAWS]
    return {"x": x, "frontier": kl_frontier(x, reward, pi0, D0).reward,
            "kl": [float(best_of_n_kl(reward, pi0, n)[0]) for n in DRAWS],
            "reward": [float((q * reward).sum()) for q in laws]}


@lru_cache(maxsize=4096)
def rejection(name: str, ties: str, n: int, beta: float) -> tuple:
    """Divergence and reward of rejection sampling with the maximum of its n draws."""
    reward, pi0 = instance(name, ties)
    law = rso_single_policy(reward, beta, pi0, n)
    return float(kl_divergence(law, pi0)[0]), float((law * reward).sum())


@lru_cache(maxsize=1024)
def tilted(name: str, ties: str, beta: float) -> tuple:
    """Divergence and reward of the Gibbs policy, and its mean number of draws by rejection."""
    reward, pi0 = instance(name, ties)
    law = gibbs_policy(reward, beta, pi0)
    return (float(kl_divergence(law, pi0)[0]), float((law * reward).sum()),
            1 / float(acceptance_probability(reward, beta, pi0)[0]))


@lru_cache(maxsize=256)
def best_of(name: str, ties: str, n: int) -> tuple:
    """Divergence, reward and win rate of best-of-n, and the frontier at its divergence."""
    reward, pi0 = instance(name, ties)
    kl = best_of_n_kl(reward, pi0, n)
    return (float(kl[0]), float((best_of_n_policy(reward, pi0, n) * reward).sum()),
            float(best_of_n_win_rate(reward, pi0, n).rate[0]),
            float(kl_frontier(kl, reward, pi0, D0).reward[0]))


@lru_cache(maxsize=256)
def rejection_path(name: str, ties: str, n: int) -> tuple:
    """Statistical rejection sampling with n draws, over beta."""
    betas = np.geomspace(BETA_LO, BETA_HI, BETA_COUNT)
    pairs = [rejection(name, ties, n, float(f"{b:.12g}")) for b in betas]
    return tuple(zip(*pairs, strict=True))


def frame(beta, n, instance_name, ties, seed=0) -> Frame:
    """The plane: frontier, best-of-n for every n, and the three methods at `beta` and `n`."""
    beta, n = float(f"{float(beta):.12g}"), int(n)
    back = backdrop(instance_name, ties)
    *best, wins, top = best_of(instance_name, ties, n)
    *gibbs, mean = tilted(instance_name, ties, beta)
    rso = rejection(instance_name, ties, n, beta)
    cap = float(best_of_n_bounds(n).kl)
    lost = top - best[1] if top - best[1] > 1e-9 else 0.0
    shown = [
        marks.rule("cap", "bound", x=cap, style="thin"),
        marks.labels("cap label", "bound", [cap], [0.05], ["log <i>n</i> − (<i>n</i> − 1)/<i>n</i>"],
                     dx=5, dy=0, anchor="start"),
        marks.line("frontier", "optimum", back["x"], back["frontier"]),
        marks.points("all n", "online", back["kl"], back["reward"], size=5),
        marks.line("RSO over beta", "reference", *rejection_path(instance_name, ties, n)),
        marks.line("distance", "bound", [best[0], best[0]], [best[1], top]),
        marks.points("RSO", "reference", [rso[0]], [rso[1]], size=9, style="strong"),
        marks.points("Gibbs", "empirical", [gibbs[0]], [gibbs[1]], size=9, style="strong"),
        marks.points("best-of-n", "online", [best[0]], [best[1]], size=10, style="strong"),
    ]
    kind = {"even": "Eight groups of eight answers, evenly spaced rewards",
            "tail": "Eight groups of eight answers, rewards that rise like a sixth power",
            "rare": "One good answer of mass 0.02, the others worthless"}[instance_name]
    tie = "tiny differences inside a group" if ties == "broken" else "exact ties"
    say = [
        f"{kind} ({tie}).",
        f"Best-of-{n} has KL = {number(best[0])} of at most {number(cap)}, "
        f"wins {number(wins)} of at most {number(n / (n + 1))}, earns {number(best[1])} and gives "
        f"up {number(lost, 2)} against the frontier.",
        f"The Gibbs policy at <i>β</i> = {number(beta)} earns {number(gibbs[1])} for "
        f"{number(gibbs[0])} nats and costs {number(mean)} draws on average by exact rejection;",
        f"rejection with the maximum of {n} draws earns {number(rso[1])} for "
        f"{number(rso[0])} nats."]
    return Frame([shown], say, [], {"best": best, "gibbs": gibbs, "rso": rso, "cap": cap,
                                    "top": top, "wins": wins, "draws": mean, "lost": lost})


def best_of_n_explorer(**values) -> Explorer:
    """Best-of-n, statistical rejection sampling and Gibbs against the KL-reward frontier.

    Parameters
    ----------
    **values
        Start values: ``beta``, ``n`` (draws), ``instance_name`` ("even", "tail" or "rare") and
        ``ties`` ("broken" or "kept").

    Returns
    -------
    Explorer
        Results ``best-of-n-kl``, ``best-of-n-frontier`` and ``best-of-n-competitor``.
    """
    design = Design(
        id="best-of-n", label="Best-of-n in the KL-reward plane",
        controls=(
            slider("beta", "KL coefficient", 0.2, BETA_LO, BETA_HI, symbol="β", count=BETA_COUNT,
                   scale="log"),
            slider("n", "draws", 4, N_LO, N_HI, symbol="n", count=N_COUNT, scale="log",
                   integer=True, finer=1),
            choice("instance_name", "instance", "even", INSTANCES),
            choice("ties", "ties", "broken", TIES)),
        panels=(panel(axis("KL(<i>π</i> ‖ <i>π</i><sub>0</sub>), nats", -0.1, KL_END,
                           ticks=[0, 1, 2, 3, 4]),
                      axis("expected reward E <i>r</i>", -0.04, 1.06),
                      "expected reward against KL divergence: the frontier, the points of "
                      "best-of-n, a curve of statistical rejection sampling, and the Gibbs policy",
                      aspect=0.55, least=240),),
        frame=frame,
        legend=(key("line", "optimum", "frontier"),
                key("dot", "online", "best-of-<i>n</i>; small: other <i>n</i>"),
                key("dot", "empirical", "Gibbs policy, exact rejection"),
                key("dot", "reference", "rejection, maximum of the same <i>n</i> draws"),
                key("line", "bound", "given up by best-of-<i>n</i>")),
        api=("klrlhf.policies.best_of_n_policy", "klrlhf.sampling.best_of_n_frontier_gap",
             "klrlhf.sampling.rso_single_policy"))
    return Explorer(design, **values)
