r"""Iterative DPO: the online algorithm with inexact fits, inexact policies and any enhancer.

Each round fits DPO to all comparisons so far, plays a policy near the fitted one, asks an enhancer
for the other answer, and collects a batch of comparisons of the two.

What lives here: the loop, its history, and the exact enhancer of a played policy that is not the
fitted one.
What does not: enhancers of practice (``online``) and the authors' released recipe (``_recipe``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import _validate as check
from ..bandit import Bandit
from ..confidence import (
    confidence_radius,
    design_matrix,
    least_curvature,
    score_bound_adaptive,
)
from ..coverage import _over_prompts
from ..estimation import fit_mle, frank_wolfe_gap, score
from ..offline._plug_in import WorstLoss
from ..offline._steps import estimate, sphere_points
from ..online._enhancer import COARSE, ROOT_STEPS, Enhanced, _directions, _Tilts, uncertainty
from ..policies import feature_mean, kl_divergence, kl_divergence_from_logs, log_gibbs_policy
from ..preferences import Comparisons, _bandit, _replicate_shape, policy_design, sample_comparisons
from ..values import _average

__all__ = ["IterativeHistory", "iterative_dpo", "inexact_enhancer", "dpo_steps"]

ANGLES = 64


class _PlayedTilts(_Tilts):
    """Tilts of the fitted policy, with uncertainty measured from the policy that is played."""

    def __init__(self, bandit: Bandit, theta_hat, V, played, epsilon):
        super().__init__(bandit, theta_hat, V)
        centre = np.einsum("...sk,...skd->...sd", played, self.features)
        self.features = self.features - centre[..., None, :]
        self.epsilon = epsilon

    def farthest(self, v, rho, tolerance=1e-12):
        """In {beta KL(. || pi^1) <= rho <v, .> + epsilon}: as in the class above.

        The set is never empty: the played policy is in it. So the slack along the tilt, largest at
        kappa = rho / beta, is nonnegative there, up to rounding.
        """
        def slack(gain, divergence):
            return rho * gain + self.epsilon - self.beta * divergence

        scores = self.along(v)
        ends, far, paid = self.face(scores)
        whole = slack(far, paid) >= 0
        low = np.broadcast_to(rho / self.beta, far.shape).copy()
        high = 2.0 * np.maximum(low, 1e-6)
        for _ in range(200):
            _, gain, divergence = self.tilted(scores, high)
            short = ~whole & (slack(gain, divergence) > 0) & (high < 1e200)
            if not short.any():
                break
            low, high = np.where(short, high, low), np.where(short, 2 * high, high)
        for _ in range(ROOT_STEPS):
            middle = 0.5 * (low + high)
            _, gain, divergence = self.tilted(scores, middle)
            inside = slack(gain, divergence) >= 0
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
            if ((high - low) <= tolerance * high).all():
                break
        policy = np.where(whole[..., None, None], ends, self.tilted(scores, low)[0])
        upper = np.where(whole, far, self.tilted(scores, high)[1])
        return policy, upper


def inexact_enhancer(bandit: Bandit, theta_hat, V, rho, played, *, angles: int = 48,
                     polish: int = 20) -> Enhanced:
    r"""The most uncertain policy relative to a played policy that is not the fitted one.

    Maximizes :math:`\tilde\Gamma(\pi) = \|E\phi(\pi)-E\phi(\tilde\pi)\|_{V^{-1}}` over
    :math:`\tilde\Pi = \{\beta E\,\mathrm{KL}(\pi\|\pi^1) \le \rho\tilde\Gamma(\pi)+\varepsilon\}`
    with :math:`\pi^1 = \mathrm{Gibbs}(\hat\theta)` and
    :math:`\varepsilon = \beta E\,\mathrm{KL}(\tilde\pi\|\pi^1)`. With the fitted policy itself
    it is ``exact_enhancer``.

    Parameters
    ----------
    bandit, theta_hat, V, rho, angles, polish
        As in ``exact_enhancer``.
    played : array_like, shape (..., S, K)
        The policy that is played.

    Returns
    -------
    Enhanced
        ``uncertainty`` is relative to ``played``; ``upper`` bounds its maximum where features span
        at most two dimensions, and is infinite beyond.

    Raises
    ------
    ValueError
        As ``exact_enhancer``; also if ``played`` is not a policy of the instance.

    Notes
    -----
    Result ``online-inexact``.
    """
    theta_hat, V, rho, lead = estimate(bandit, theta_hat, V, rho)
    angles = check.size(angles, "angles", least=8, most=10**5)
    polish = check.count(polish, "polish", largest=10**6)
    played = bandit._policy(played)
    lead = check.broadcast("the estimates", lead, "played", played.shape[:-2])
    rho = np.broadcast_to(rho, lead)
    played = np.broadcast_to(played, (*lead, bandit.S, bandit.K))
    tilts = _PlayedTilts(bandit, theta_hat, V, played,
                         policy_distance(bandit, played, theta_hat))
    if tilts.k == 0:
        return Enhanced(played.copy(), np.zeros(lead), np.zeros(lead))
    v = sphere_points(tilts.k, angles).reshape(-1, *([1] * len(lead)), tilts.k)
    v = np.broadcast_to(v, (len(v), *lead, tilts.k))
    policy, gain = tilts.farthest(v, rho, 1e-12 if tilts.k == 1 else COARSE)
    upper = np.full(lead, np.inf)
    if tilts.k == 1:
        upper = gain.max(axis=0)
    elif tilts.k == 2:
        widen = 1.0 / np.cos(np.pi / len(v))
        upper = widen * tilts.farthest(v, rho * widen, COARSE)[1].max(axis=0)
    best = gain.argmax(axis=0)[None, ..., None]
    v, policy = np.take_along_axis(v, best, axis=0), np.take_along_axis(
        policy, best[..., None], axis=0)
    found = np.linalg.norm(tilts.difference(policy), axis=-1)
    for _ in range(polish if tilts.k > 1 else 0):
        v = _directions(tilts.difference(policy), v)
        other, _ = tilts.farthest(v, rho)
        longer = np.linalg.norm(tilts.difference(other), axis=-1)
        better = longer > found
        policy = np.where(better[..., None, None], other, policy)
        settled = (np.where(better, longer, found) <= found * (1 + 1e-9)).all()
        found = np.where(better, longer, found)
        if settled:
            break
    return Enhanced(policy[0], found[0], np.maximum(upper, found[0]))


def policy_distance(bandit: Bandit, played, theta_hat) -> np.ndarray:
    r"""The inexactness: beta times the mean divergence of ``played`` from Gibbs(theta_hat)."""
    log_main = log_gibbs_policy(bandit.reward_of(theta_hat), bandit.beta, bandit.pi0)
    with np.errstate(divide="ignore"):
        log_played = np.log(played)
    return bandit.beta * _average(kl_divergence_from_logs(log_played, log_main), bandit.d0)


def dpo_steps(theta, data: Comparisons, B: float, steps: int) -> np.ndarray:
    r"""Projected gradient steps on the DPO loss in the Gibbs class over the ball.

    The step is one over :math:`\frac14\lambda_{\max}(\sum_t n_tz_tz_t^\top)`, a bound of the
    curvature, so the loss never rises.

    Parameters
    ----------
    theta : array_like, shape (..., d)
        Start, in the ball.
    data : Comparisons
        Win counts, shape (..., T).
    B : float
        Radius of the ball, positive.
    steps : int
        Number of steps, nonnegative.

    Returns
    -------
    ndarray, shape (..., d)

    Raises
    ------
    ValueError
        If ``B`` is not positive, the start is outside the ball, or shapes do not match.

    Notes
    -----
    Result ``dpo-inexact``, part 3: ``frank_wolfe_gap`` of what it returns enters the radius.
    """
    B, steps = check.number(check.positive(B, "B"), "B"), check.count(steps, "steps")
    theta = check.finite(theta, "theta", ("feature",))
    longest = float(np.linalg.norm(theta, axis=-1).max(initial=0.0))
    if longest > B * (1 + 1e-9):
        raise ValueError(f"theta must start in the ball of radius {B:g}: its norm is {longest:g}")
    top = np.linalg.eigvalsh(design_matrix(data, 0.0))[..., -1] / 4.0
    size = 1.0 / np.maximum(top, 1e-12)
    for _ in range(steps):
        theta = theta - size[..., None] * score(theta, data)
        length = np.linalg.norm(theta, axis=-1, keepdims=True)
        theta = theta * np.minimum(1.0, B / np.maximum(length, 1e-300))
    return theta


@dataclass(frozen=True, eq=False)
class IterativeHistory:
    r"""What a run of ``iterative_dpo`` did, round by round; rounds are the first axis.

    Attributes
    ----------
    bandit : Bandit
    batch : int
        Comparisons per round, m.
    reg, delta : float
        Ridge of V, and failure probability of the whole run.
    theta : ndarray, shape (T, ..., d)
        Fitted parameters, in the ball.
    fit_gap : ndarray, shape (T, ...)
        Largest Frank-Wolfe gap so far, 0 for exact fits; it enters ``rho``.
    V : ndarray, shape (T, ..., d, d)
        Design matrices before each round.
    rho : ndarray, shape (T, ...)
        Radii, at level delta / 2, for all rounds at once.
    main, played, enhanced : ndarray, shape (T, ..., S, K)
        Fitted policy, the policy that is played in its place, and the enhancer's.
    epsilon : ndarray, shape (T, ...)
        :math:`\beta E\,\mathrm{KL}` of the played policy from the fitted one.
    uncertainty : ndarray, shape (T, ...)
        :math:`\tilde\Gamma_t` of the enhancer's policy, relative to the played one.
    certificate : ndarray, shape (T, ...)
        A computable bound of the gap of ``played`` on the event.
    gap, kl : ndarray, shape (T, ...)
        True gap of ``played``, and its divergence from the reference.
    information : ndarray, shape (T, ...)
        :math:`I_t = \log\det W_{t+1} - \log\det W_1`, round t included.
    data : Comparisons
        All comparisons.
    """

    bandit: Bandit
    batch: int
    reg: float
    delta: float
    theta: np.ndarray
    fit_gap: np.ndarray
    V: np.ndarray
    rho: np.ndarray
    main: np.ndarray
    played: np.ndarray
    enhanced: np.ndarray
    epsilon: np.ndarray
    uncertainty: np.ndarray
    certificate: np.ndarray
    gap: np.ndarray
    kl: np.ndarray
    information: np.ndarray
    data: Comparisons

    @property
    def rounds(self) -> int:
        """Number of rounds, T."""
        return len(self.rho)

    @property
    def best_round(self) -> np.ndarray:
        """The round with the least certificate, shape (...)."""
        return self.certificate.argmin(axis=0)

    @property
    def best_policy(self) -> np.ndarray:
        """The played policy of that round, shape (..., S, K)."""
        return np.take_along_axis(self.played, self.best_round[None, ..., None, None], axis=0)[0]


PER_ROUND = ("theta", "fit_gap", "V", "rho", "main", "played", "enhanced", "epsilon",
             "uncertainty", "certificate", "gap", "kl", "information")


def iterative_dpo(bandit: Bandit, rounds: int, batch: int, rng, *, reg: float,
                  delta: float = 0.05, enhancer: Callable | None = None,
                  gradient_steps: int | None = None, play: Callable | None = None,
                  replicates=None) -> IterativeHistory:
    r"""Iterative DPO, with a certificate that accounts for every inexactness.

    Parameters
    ----------
    bandit : Bandit
        The instance; its parameter only answers comparisons and measures gaps.
    rounds, batch : int
        Rounds T and comparisons per round m, at least 1.
    rng : numpy.random.Generator or int
        Source of randomness.
    reg : float
        Ridge of V, positive and fixed beforehand; ``required_reg`` gives the theorem's.
    delta : float
        Failure probability in (0, 1).
    enhancer : callable, optional
        ``enhancer(bandit, theta_hat, V, rho) -> Enhanced``; default ``inexact_enhancer`` of the
        played policy.
    gradient_steps : int, optional
        Fit by this number of ``dpo_steps`` from the last round's parameter; default exact.
    play : callable, optional
        ``play(bandit, theta_hat) -> policies`` (..., S, K) that are played in the place of the
        fitted ones; default the fitted ones.
    replicates : int or tuple of int, optional
        Leading axes of independent runs.

    Returns
    -------
    IterativeHistory

    Raises
    ------
    ValueError
        If an argument leaves its range, or ``play`` does not return policies.

    Notes
    -----
    Result ``online-inexact``. With exact fits and no ``play`` it is ``online_gshf``.
    """
    rng, rounds = check.generator(rng), check.size(rounds, "rounds")
    batch = check.size(batch, "batch")
    reg = check.number(check.positive(reg, "reg"), "reg")
    delta = check.number(check.probability_level(delta), "delta")
    for name, rule in (("enhancer", enhancer), ("play", play)):
        if rule is not None and not callable(rule):
            raise ValueError(f"{name} must be callable: got {type(rule).__name__}")
    if gradient_steps is not None:
        gradient_steps = check.count(gradient_steps, "gradient_steps", largest=10**7)
    data = Comparisons.empty(_bandit(bandit), _replicate_shape(replicates) or ())
    lead = data.counts.shape[:-1]
    W = np.broadcast_to(reg * np.eye(bandit.d), (*lead, bandit.d, bandit.d)).copy()
    gamma = least_curvature(bandit.L, bandit.B)
    theta, fit_gap, information = np.zeros((*lead, bandit.d)), np.zeros(lead), np.zeros(lead)
    records: dict[str, list] = {name: [] for name in PER_ROUND}
    for _ in range(rounds):
        if gradient_steps is None:
            theta = fit_mle(data, bandit.B).theta
        else:
            theta = dpo_steps(theta, data, bandit.B, gradient_steps)
            fit_gap = np.maximum(fit_gap, frank_wolfe_gap(theta, data, bandit.B))
        V = design_matrix(data, reg)
        rho = confidence_radius(score_bound_adaptive(data, reg, delta / 2), gamma, reg, bandit.B,
                                certificate=fit_gap)
        main = bandit.gibbs(theta)
        played = main if play is None else np.broadcast_to(
            bandit._policy(play(bandit, theta)), main.shape)
        epsilon = policy_distance(bandit, played, theta) if play is not None else np.zeros(lead)
        away = uncertainty(bandit, played, main, V)
        if enhancer is None:
            second = inexact_enhancer(bandit, theta, V, rho, played)
            bound = rho * second.upper + epsilon
        else:
            second = enhancer(bandit, theta, V, rho)
            bound = np.where(np.isfinite(second.upper), rho * (second.upper + away) + epsilon,
                             np.inf)
        worst = WorstLoss(bandit, theta, V, rho, lead).upper(ANGLES) + rho * away + epsilon
        z = _over_prompts(feature_mean(second.policy, bandit.phi)
                          - feature_mean(played, bandit.phi), bandit.d0)
        gained = batch * (z * np.linalg.solve(W, z[..., None])[..., 0]).sum(axis=-1)
        information = information + np.log1p(gained)
        W = W + batch * z[..., :, None] * z[..., None, :]
        gap = bandit.plug_in_gap(theta) if play is None else bandit.gap(played)
        values = (theta, fit_gap, V, rho, main, played, second.policy, epsilon,
                  uncertainty(bandit, second.policy, played, V), np.minimum(bound, worst),
                  gap, _average(kl_divergence(played, bandit.pi0), bandit.d0), information)
        for name, value in zip(PER_ROUND, values, strict=True):
            records[name].append(value)
        data = data + sample_comparisons(
            bandit, batch, policy_design(bandit.d0, played, second.policy), rng)
    return IterativeHistory(bandit=bandit, batch=batch, reg=reg, delta=delta, data=data,
                            **{name: np.stack(values) for name, values in records.items()})
