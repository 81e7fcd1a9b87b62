"""Item 2.2: the cloud of estimates, the confidence ellipsoid, and how often it fails."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.stats import beta as beta_law
from scipy.stats import chi2

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
from klrlhf.explore.design import Design, Frame, axis, choice, key, number, panel, percent, slider
from klrlhf.explore.host import Explorer
from klrlhf.preferences import coverage_design, sample_comparisons, sample_outcomes

REG = 0.01
REPLICATES, SHOWN = 1000, 60
EDGE = 45.0  # of the plane shown, in units of 1 / sqrt(n)
CIRCLE = np.linspace(0, 2 * np.pi, 721)
ROUND = np.stack([np.cos(CIRCLE), np.sin(CIRCLE)], axis=-1)
LEVELS = np.concatenate([np.linspace(0.005, 0.9, 24), np.linspace(0.92, 0.999, 9)])


@lru_cache(maxsize=1)
def normal() -> np.ndarray:
    """A fixed sample of the limit law."""
    return np.random.default_rng(7).standard_normal((20_000, 2))


def predicted_errors(information, V) -> np.ndarray:
    """Errors in the norm of V when theta_hat is normal with covariance I^{-1}, in order."""
    error = normal() @ np.linalg.inv(np.linalg.cholesky(information))
    return np.sort(np.sqrt(((error @ np.linalg.cholesky(V)) ** 2).sum(axis=-1)))


def upper_quantile(ordered, delta) -> float:
    """The (1 - delta) quantile of values in order."""
    return float(ordered[min(int((1 - delta) * ordered.size), ordered.size - 1)])


@lru_cache(maxsize=256)
def experiment(B: float, n: int, c: float, seed: int = 0) -> dict:
    """Estimates of `REPLICATES` data sets over one fixed design of `n` comparisons."""
    bandit = Bandit.running_example().with_(B=B)
    rng = np.random.default_rng([22, seed, n, int(100 * c)])
    counts = sample_comparisons(bandit, n, coverage_design(bandit, c), rng).counts
    data = sample_outcomes(bandit, counts, rng, replicates=REPLICATES)
    theta = fit_mle(data, B).theta
    one = sample_outcomes(bandit, counts, rng)  # radii and matrices depend on the counts only
    V = design_matrix(one, REG)
    seen = max(float(one.n), 1.0)
    information = fisher_information(bandit.theta, one.z, counts / seen) * seen
    error, errors = theta - bandit.theta, parameter_error(theta, bandit.theta, V)
    # A short narrow log may say nothing about arms 3 and 4: the Fisher ellipse is then a strip.
    lame = np.linalg.matrix_rank(information, hermitian=True) < 2
    information = information + 1e-9 * seen * np.eye(2) if lame else information
    return {
        "data": one, "V": V, "information": information,
        # {u: u'Mu = radius^2} is M^{-1/2} times the circle of that radius
        "root": np.sqrt(n) * np.linalg.inv(np.linalg.cholesky(V).T),
        "Fisher root": np.sqrt(n) * np.linalg.inv(np.linalg.cholesky(information).T),
        "gamma": least_curvature(bandit.L, B),
        "error": errors,
        "fisher": np.einsum("ri,ij,rj->r", error, information, error),
        "predicted": np.full(1, np.inf) if lame else predicted_errors(information, V),
        "curve": marks.line("error", "empirical", np.quantile(errors, LEVELS), LEVELS),
        "cloud": _cloud(np.sqrt(n) * error[:SHOWN]),
        "ball": marks.ellipse("ball", "optimum", -np.sqrt(n) * bandit.theta,
                              np.sqrt(n) * np.eye(2), B, style="ball"),
        # the largest ||theta - theta*||_V within the ball is attained on its edge
        "ball reach": float(parameter_error(B * ROUND, bandit.theta, V).max()),
    }


def _cloud(shown) -> dict:
    """Sorted by the first coordinate: neighbours then differ little, and pack well."""
    return marks.points("estimates", "empirical", *shown[np.argsort(shown[:, 0])].T, size=4.5)


def failure_limit(failures: int, trials: int) -> float:
    """Clopper-Pearson upper limit at 99 %."""
    return 1.0 if failures == trials else float(beta_law.ppf(0.99, failures + 1,
                                                             trials - failures))


def frame(B, c, n, delta, seed=0) -> Frame:
    """The cloud of estimates with three ellipses, and the law of the error."""
    run = experiment(B, n, c, seed)
    score = score_bound_fixed(run["data"], REG, delta)
    rho = {form: float(confidence_radius(score, run["gamma"], REG, B, form=form))
           for form in ("sharp", "usual")}
    level = float(chi2.ppf(1 - delta, 2))
    predicted = upper_quantile(run["predicted"], delta)

    left = [
        marks.ellipse("usual ellipse", "bound", (0, 0), run["root"], rho["usual"], style="usual"),
        marks.ellipse("sharp ellipse", "bound", (0, 0), run["root"], rho["sharp"]),
        run["ball"],
        run["cloud"],
        marks.ellipse("Fisher ellipse", "predicted", (0, 0), run["Fisher root"], level**0.5,
                      style="outline"),
        marks.points("true parameter", "optimum", [0], [0], size=8, style="strong"),
        marks.labels("true label", "optimum", [0], [0], ["<i>θ</i>*"], dx=8, dy=-7,
                     anchor="start"),
    ]
    right = [
        marks.rule("level", "reference", y=1 - delta, style="fine"),
        marks.labels("level label", "reference", [0.5], [1 - delta], ["1 − <i>δ</i>"], dx=4,
                     dy=14, anchor="start"),
        run["curve"],
        marks.rule("Fisher radius", "predicted", x=predicted),
        marks.rule("sharp radius", "bound", x=rho["sharp"]),
        marks.rule("usual radius", "bound", x=rho["usual"], style="usual"),
    ]
    out = int(np.sum(run["error"] > rho["sharp"]))
    outside = int(np.sum(run["fisher"] > level))
    vacuous = run["ball reach"] <= rho["sharp"]
    say = [
        f"The sharp radius is <i>ρ</i> = {number(rho['sharp'])}, the usual one "
        f"{number(rho['usual'])}; the Fisher prediction is {number(predicted)}.",
        f"{out} of {REPLICATES} estimates left the sharp ellipsoid: a failure rate of at most "
        f"{percent(failure_limit(out, REPLICATES))} (99 % confidence), where <i>δ</i> = "
        f"{percent(delta)} was allowed.",
        f"{outside} left the Fisher ellipse ({percent(outside / REPLICATES)}).",
        "The sharp ellipsoid holds the whole ball: it says nothing yet." if vacuous else
        "The sharp ellipsoid cuts the ball: it says something."]
    return Frame([left, right], say, [], {"rho": rho, "predicted": predicted, "failures": out,
                                          "outside": outside, "vacuous": vacuous})


def confidence_explorer(**values) -> Explorer:
    """A cloud of ball-constrained MLEs with its sharp, usual and Fisher ellipses.

    Parameters
    ----------
    **values
        Start values: ``B``, ``c`` (coverage: 0.1, 0.3 or 1), ``n``, ``delta``
        (0.01, 0.05, 0.1 or 0.2).

    Returns
    -------
    Explorer
        Results ``confidence-ellipsoid`` and ``radius-fixed-design``.
    """
    root = "√<i>n</i> (<i>θ̂</i> − <i>θ</i>*)"
    design = Design(
        id="confidence", label="Confidence ellipsoids of the ball-constrained MLE",
        controls=(
            slider("B", "radius of the ball", 2.0, 1.0, 3.0, symbol="B", count=9),
            choice("c", "coverage", 1.0, {0.1: "0.1", 0.3: "0.3", 1.0: "1"}, symbol="c"),
            slider("n", "comparisons", 100, 10, 10_000, symbol="n", count=7, scale="log",
                   integer=True),
            choice("delta", "allowed failure rate", 0.05,
                   {0.01: "1 %", 0.05: "5 %", 0.1: "10 %", 0.2: "20 %"}, symbol="δ")),
        panels=(
            panel(axis(f"{root}, arms 1 and 2", -EDGE, EDGE), axis("arms 3 and 4", -EDGE, EDGE),
                  "estimates around the true parameter, in units of one over root n, with the "
                  "sharp, the usual and the Fisher ellipse", equal=True, grow=1.15),
            panel(axis("error ‖<i>θ̂</i> − <i>θ</i>*‖<sub><i>V</i></sub>", 0.5, 100, scale="log"),
                  axis("share of estimates", 0, 1), "distribution of the error with the three "
                  "radii", aspect=1.1)),
        frame=frame,
        legend=(key("points", "empirical", f"{REPLICATES} estimates ({SHOWN} shown)"),
                key("line", "bound", "sharp <i>ρ</i>"),
                key("line", "bound", "usual <i>ρ</i>", "usual"),
                key("line", "predicted", "Fisher"),
                key("line", "optimum", "ball ‖<i>θ</i>‖ ≤ <i>B</i>", "thin")),
        api=("klrlhf.confidence.confidence_radius", "klrlhf.estimation.fit_mle"), resample=True)
    return Explorer(design, **values)
