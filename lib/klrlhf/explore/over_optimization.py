"""Item 5.8: gold and proxy reward along the path of a fitted reward, and what is guaranteed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from klrlhf.bandit import Bandit
from klrlhf.experiments import fit_sweep
from klrlhf.explore import marks
from klrlhf.explore.design import (
    Design,
    Frame,
    axis,
    choice,
    key,
    number,
    panel,
    slider,
)
from klrlhf.explore.host import Explorer
from klrlhf.over_optimization import (
    covariance_sign_changes,
    guaranteed_curve,
    guaranteed_stopping,
    over_optimization_curve,
)

TRUTHS = {"bad": "a bad arm", "good": "the good arm"}
NS = (30, 100, 300, 1000, 10_000, 100_000)
COVERAGES = (0.01, 0.1, 1.0)
BETAS = (0.02, 2.0, 7)
LOGS, TURNS = 60, 2
KL_END = float(np.log(4))
GRID = np.sqrt(np.linspace(0, 1, 25))  # thinner where curves are straight


def _reward_fits(hidden: str, c: float, n: int, seed: int):
    bandit = Bandit.running_example(0.5, hidden)
    fits = fit_sweep(bandit, float(c), [int(n)], replicates=LOGS,
                     seed=np.random.default_rng([58, seed]))
    return bandit, fits.theta[0], fits.V[0], fits.rho[0]


@lru_cache(maxsize=512)
def log_path(hidden: str, c: float, n: int, seed: int = 0) -> dict:
    """One log's curves, where they turn, what is sure, and the mean gold curve of all logs."""
    bandit, theta, V, rho = _reward_fits(hidden, c, n, seed)
    proxies = bandit.reward_of(theta)
    span = np.maximum(np.ptp(proxies, axis=-1).max(-1), 1e-6)
    steps = np.concatenate([[0.0], np.geomspace(0.05, 400, 70)])
    many = over_optimization_curve(steps / span[:, None], bandit.reward, proxies, bandit.pi0,
                                   bandit.d0)
    kl = KL_END * GRID**2
    mean = np.mean([np.interp(kl, k, g) for k, g in zip(many.kl, many.gold, strict=True)], axis=0)
    # The first log whose gold reward turns, when there is one: the example that teaches.
    last = many.gold[:, -1]
    fall = many.gold.max(axis=1) - last
    turning = np.flatnonzero(fall > 0.01)
    one = int(turning[0]) if turning.size else 0
    turns = covariance_sign_changes(bandit.reward, proxies[one], bandit.pi0, bandit.d0, 300)
    sure = guaranteed_curve(many.inverse_temperature[one], bandit, theta[one], V[one], rho[one])
    stop = float(guaranteed_stopping(bandit, theta[one], V[one], rho[one], 80))
    return {"bandit": bandit, "proxy": proxies[one], "kl": many.kl[one],
            "lam": many.inverse_temperature[one], "gold": many.gold[one],
            "earned": many.proxy[one], "sure": sure.gain, "stop": stop, "turns": turns,
            "mean_kl": kl, "mean": mean, "share": turning.size / LOGS}


def _at(found: dict, lam: float) -> dict:
    bandit = found["bandit"]
    curve = over_optimization_curve([lam], bandit.reward, found["proxy"], bandit.pi0, bandit.d0)
    return {name: float(getattr(curve, name)[0])
            for name in ("gold", "proxy", "kl", "covariance", "variance")}


def _root(kl) -> np.ndarray:
    return np.sqrt(np.maximum(kl, 0.0))


@lru_cache(maxsize=512)
def curves(hidden: str, c: float, n: int, seed: int = 0) -> tuple:
    """The marks that do not depend on beta."""
    found = log_path(hidden, c, n, seed)
    ks = KL_END * GRID**2
    d = np.sqrt(ks)

    def along(values):
        return np.interp(ks, found["kl"], values)

    out = [marks.rule("reference", "reference", y=0.0, style="fine"),
           marks.line("mean gold", "reference", d, found["mean"], style="solid"),
           marks.line("proxy", "optimum", d, along(found["earned"]), style="dash"),
           marks.line("guaranteed", "bound", d, along(found["sure"])),
           marks.line("gold", "empirical", d, along(found["gold"]))]
    end = KL_END if not np.isfinite(found["stop"]) else _at(found, found["stop"])["kl"]
    edge = [0.0, float(np.sqrt(max(end, 0.0)))]
    spots = [_at(found, lam) for lam in found["turns"][:TURNS]]
    blank = [np.nan] * (TURNS - len(spots))
    return (marks.band("sure to rise", "predicted", edge, [-0.58] * 2, [-0.54] * 2), *out,
            marks.points("sign change", "bound", [_root(s["kl"]) for s in spots] + blank,
                         [s["gold"] for s in spots] + blank, size=9, style="strong")), end


@lru_cache(maxsize=512)
def knob_track(hidden: str, c: float, n: int, seed: int = 0) -> tuple:
    """Where the policy of each value of the slider lies on the gold curve."""
    lo, hi, count = BETAS
    betas = np.geomspace(lo, hi, 2 * count - 1)
    spots = [_at(log_path(hidden, c, n, seed), 1 / beta) for beta in betas]
    return [float(_root(s["kl"])) for s in spots], [s["gold"] for s in spots], betas


def frame(beta, c, n, hidden, seed=0) -> Frame:
    """Gold, proxy and guaranteed reward over the distance, with the policy at one beta."""
    c, n, beta = float(c), int(n), float(beta)
    found = log_path(hidden, c, n, seed)
    drawn, end = curves(hidden, c, n, seed)
    here = _at(found, 1 / beta)
    x = float(_root(here["kl"]))
    marked = [*drawn, marks.rule("here", "reference", x=x, style="thin"),
              marks.points("proxy here", "optimum", [x], [here["proxy"]], size=6, style="strong"),
              marks.handle("gold here", "empirical", "beta", x, here["gold"],
                           along=knob_track(hidden, c, n, seed))]
    slope = here["covariance"] / here["variance"] if here["variance"] > 0 else 0.0
    word = "rises" if here["covariance"] > 0 else "falls"
    first = (f"At <i>β</i> = {number(beta)} the policy has spent {number(here['kl'], 2)} nats: "
             f"proxy {number(here['proxy'], 2)}, gold {number(here['gold'], 2)}, and gold {word} "
             f"by {number(abs(slope), 2)} per unit of proxy.")
    if found["turns"].size:
        peak = _at(found, float(found["turns"][0]))
        second = (f"This log's covariance changes sign at {number(peak['kl'], 2)} nats "
                  f"(gold {number(peak['gold'], 2)}).")
    else:
        second = (f"This log's covariance keeps its sign (gold {number(found['gold'][-1], 2)} at "
                  f"the end).")
    sure = ("of no rise at all" if end <= 0
            else f"that gold rises over all {number(KL_END, 3)} nats" if end >= KL_END - 1e-6
            else f"that gold rises over the first {number(end, 2)} nats")
    third = (f"With <i>c</i> = {number(c)}, <i>n</i> = {number(n)} and {TRUTHS[hidden]} hidden, "
             f"the ellipsoid is sure {sure};")
    fourth = (f"gold ends more than 0.01 below its peak in {round(100 * found['share'])}\u202f% of "
              f"{LOGS} logs"
              f"{', of which the first is drawn' if found['share'] else ''}, and their mean gold "
              f"ends at {number(found['mean'][-1], 2)}.")
    return Frame([marked], [first, second, third, fourth], [],
                 {**here, "turns": found["turns"], "sure": end, "share": found["share"]})


def over_optimization_explorer(**values) -> Explorer:
    r"""Gold and proxy reward along the path of one log's proxy, with what its ellipsoid promises.

    Parameters
    ----------
    **values
        Start values: ``beta``, ``c`` (coverage), ``n`` (comparisons), ``hidden`` ("bad" or
        "good").

    Returns
    -------
    Explorer
        Results ``over-optimization``, ``proxy-error-frontier`` and ``gold-stopping``.
    """
    lo, hi, count = BETAS
    design = Design(
        id="over-optimization", label="Gold and proxy reward along the path of a proxy",
        controls=(
            slider("beta", "stop at the KL coefficient", 0.2, lo, hi, symbol="β", count=count,
                   scale="log", finer=4),
            slider("c", "coverage", 0.01, COVERAGES[0], COVERAGES[-1], symbol="c", count=3,
                   scale="log", finer=1),
            choice("n", "comparisons", 300, {m: f"{m:,}".replace(",", "\u2009") for m in NS},
                   symbol="n"),
            choice("hidden", "hidden from the log", "bad", TRUTHS)),
        panels=(panel(
            axis("distance √KL from the reference", 0, 1.2, ticks=[0, 0.3, 0.6, 0.9, 1.2]),
            axis("reward over the reference's", -0.6, 0.8),
            "gold reward, proxy reward and guaranteed gold reward of one log's path against the "
            "square root of the divergence, with the sign change of the covariance, the part where "
            "the rise is sure, and the mean gold reward of many logs", aspect=0.55, least=300),),
        frame=frame,
        legend=(key("line", "empirical", "gold, one log", "solid"),
                key("line", "optimum", "proxy, one log", "dash"),
                key("line", "bound", "guaranteed gold"),
                key("dot", "bound", "covariance changes sign"),
                key("band", "predicted", "gold is sure to rise"),
                key("line", "reference", "gold, mean of logs", "solid")),
        api=("klrlhf.over_optimization.over_optimization_curve",
             "klrlhf.over_optimization.covariance_sign_changes",
             "klrlhf.over_optimization.guaranteed_stopping"), resample=True)
    return Explorer(design, **values)
