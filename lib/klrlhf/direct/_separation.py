r"""What DPO does where no minimizer exists, and where a gradient step moves the mass.

The win graph has an arrow from the winner to the loser of every vote. Actions that reach each
other form a class; a class that no arrow enters from outside is a top class.

What lives here: which actions vanish, the limit of the fitted policies, the speed of the escape,
and the displacement of likelihood by shared features.
What does not: losses and fits that do have a minimizer (``_losses``, ``_fits``, ``_ipo``), and the
existence of the Bradley-Terry estimate (``estimation``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logsumexp, wrightomega

from .. import _validate as check
from ..estimation import fit_mle, negative_log_likelihood
from ..preferences import Comparisons
from ._ipo import _comparisons, _matrix, _reaches

__all__ = [
    "DPOLimit",
    "displaced_policies",
    "displacement_slopes",
    "dpo_limit",
    "surviving_actions",
    "unanimous_margin_bounds",
    "unanimous_margins",
    "vanishing_log_ratio",
]


def _win_reach(data: Comparisons, S: int, K: int) -> np.ndarray:
    """``reach[..., x, a, b]``: a directed path of wins leads from a to b."""
    won = _matrix(data.wins, data.pairs, S, K) > 0
    lost = _matrix(data.losses, data.pairs, S, K) > 0
    return _reaches(won | np.swapaxes(lost, -1, -2))


def surviving_actions(data: Comparisons, S: int, K: int) -> np.ndarray:
    r"""Which actions lie in a top class of the win graph.

    All others lose all probability along every sequence of policies whose DPO loss tends to its
    infimum, for every reference and every :math:`\beta`.

    Parameters
    ----------
    data : Comparisons
        Win counts, shape (..., T).
    S, K : int
        Numbers of contexts and actions.

    Returns
    -------
    ndarray of bool, shape (..., S, K)
        True also for actions that were never compared.

    Raises
    ------
    ValueError
        If the comparisons name a context or an action beyond ``S`` and ``K``.

    Notes
    -----
    Result ``dpo-unattained``.
    """
    S, K = check.size(S, "S"), check.size(K, "K", least=2)
    reach = _win_reach(_comparisons(data, S, K), S, K)
    # a survives iff it reaches everyone that reaches it.
    return (~np.swapaxes(reach, -1, -2) | reach).all(axis=-1)


@dataclass(frozen=True, eq=False)
class DPOLimit:
    r"""Where minimizing sequences of the DPO loss lead.

    Attributes
    ----------
    policy : ndarray, shape (..., S, K)
        The limit; zero on vanishing actions. Within a top class it is the Gibbs policy of the
        Bradley-Terry fit of the votes inside the class.
    survives : ndarray of bool, shape (..., S, K)
        Members of top classes.
    unique : ndarray of bool, shape (..., S)
        Whether the context has one top class. With several, minimizing sequences may share the
        mass among them in any way; ``policy`` shares it in proportion to the reference mass.
    attained : ndarray of bool, shape (...)
        Whether the infimum is attained.
    infimum : ndarray, shape (...)
        The infimum of the loss; it depends neither on beta nor on the reference.
    scores : ndarray, shape (..., S, K)
        Implicit rewards :math:`\beta\log\pi/\pi_0` of the fits inside the classes; every class
        keeps its reference mass.
    """

    policy: np.ndarray
    survives: np.ndarray
    unique: np.ndarray
    attained: np.ndarray
    infimum: np.ndarray
    scores: np.ndarray


def dpo_limit(data: Comparisons, pi0, beta) -> DPOLimit:
    r"""The limit of policies whose DPO loss tends to its infimum over all policies.

    Parameters
    ----------
    data : Comparisons
        Win counts, shape (..., T); features are not used.
    pi0 : array_like, shape (S, K)
        Reference policy with full support.
    beta : float
        KL coefficient, positive.

    Returns
    -------
    DPOLimit

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``dpo-unattained``. Where the infimum is attained, all actions survive and ``policy`` is
    a minimizer.
    """
    pi0, beta = check.reference(pi0), check.number(check.positive(beta, "beta"), "beta")
    if pi0.ndim != 2:
        raise ValueError(f"pi0 must have shape (S, K): got {pi0.shape}")
    S, K = pi0.shape
    reach = _win_reach(_comparisons(data, S, K), S, K)
    same = reach & np.swapaxes(reach, -1, -2)
    survives = (~np.swapaxes(reach, -1, -2) | reach).all(axis=-1)
    x, first, second = data.pairs.T
    # Only votes inside a class leave a finite margin; the others are fitted perfectly.
    inside = np.where(same[..., x, first, second], 1.0, 0.0)
    z = np.zeros((len(x), S * K))
    z[np.arange(len(x)), x * K + first] = 1.0
    z[np.arange(len(x)), x * K + second] = -1.0
    kept = Comparisons(data.pairs, z, data.counts * inside, data.wins * inside)
    B = 8.0
    fit = fit_mle(kept, B)
    while fit.on_boundary.any():
        B *= 4
        fit = fit_mle(kept, B)
    theta = fit.theta.reshape(*fit.theta.shape[:-1], S, K)
    log_mass = np.where(same, np.log(pi0)[:, None, :], -np.inf)
    shift = logsumexp(log_mass + theta[..., None, :] / beta, axis=-1) - logsumexp(log_mass, axis=-1)
    scores = theta - beta * shift
    log_policy = np.where(survives, np.log(pi0) + scores / beta, -np.inf)
    policy = np.exp(log_policy - logsumexp(log_policy, axis=-1, keepdims=True))
    tops = np.where(survives, 1.0 / same.sum(axis=-1), 0.0).sum(axis=-1)
    crossing = (data.counts > 0) & (inside == 0)
    return DPOLimit(policy, survives, np.rint(tops) == 1, ~crossing.any(axis=-1),
                    negative_log_likelihood(fit.theta, kept), scores)


def vanishing_log_ratio(excess, wins, beta) -> np.ndarray:
    r"""Logarithm of the bound on :math:`\frac{\pi(a')/\pi(a)}{\pi_0(a')/\pi_0(a)}`.

    If ``a`` beat ``a'`` in ``wins`` votes, never reaches back (no path of wins leads from ``a'`` to
    ``a``), and the loss of :math:`\pi` is within ``excess`` of the infimum, the ratio is at most
    :math:`(e^{\varepsilon/N} - 1)^{1/\beta}`.

    Parameters
    ----------
    excess : array_like, shape (...)
        Excess loss, positive.
    wins : array_like, shape (...)
        Number N of votes of ``a`` over ``a'``, positive.
    beta : array_like, shape (...)
        KL coefficients, positive.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If an argument is not positive.

    Notes
    -----
    Result ``dpo-unattained``, part 4; equality if all votes are those of ``a`` over ``a'``.
    """
    excess, wins = check.positive(excess, "excess"), check.positive(wins, "wins")
    beta = check.positive(beta, "beta")
    share = excess / wins
    # log(e^y - 1) without overflow at large y and without cancellation at small y.
    return np.where(share > 30, share, np.log(np.expm1(np.minimum(share, 30.0)))) / beta


def unanimous_margins(steps: int, kappa, share=1.0) -> np.ndarray:
    r"""Margins of gradient descent on the mean DPO loss of one pair, from margin 0.

    .. math:: m_{t+1} = m_t + \kappa\,(p - \sigma(m_t)), \qquad \kappa = 2\beta^2\eta

    Parameters
    ----------
    steps : int
        Number of steps.
    kappa : array_like, shape (...)
        Step size in the unit of the margin, positive.
    share : array_like, shape (...)
        Share p of the votes that ``a1`` won, in [0, 1]; 1 is unanimity.

    Returns
    -------
    ndarray, shape (steps + 1, ...)

    Raises
    ------
    ValueError
        If ``kappa`` is not positive or ``share`` leaves [0, 1].

    Notes
    -----
    Result ``dpo-log-growth``.
    """
    steps, kappa = check.count(steps, "steps"), check.positive(kappa, "kappa")
    share = check.nonnegative(share, "share")
    if (share > 1).any():
        raise ValueError(f"share must lie in [0, 1]: got {share.max()}")
    shape = check.broadcast("kappa", kappa.shape, "share", share.shape)
    path = np.zeros((steps + 1, *shape))
    for t in range(steps):
        # p - sigma(m), without cancellation where the votes are unanimous.
        m = path[t]
        path[t + 1] = m + kappa * (share * expit(-m) - (1 - share) * expit(m))
    return path


def unanimous_margin_bounds(t, kappa) -> tuple[np.ndarray, np.ndarray]:
    r"""Bounds of the margin after t steps on unanimous votes: solutions of a scalar equation.

    The margin lies between the solutions of :math:`m + e^m = 1 + \kappa t` and
    :math:`m + e^m = 1 + (\kappa/2 + e^{\kappa/2} - 1)\,t`.

    Parameters
    ----------
    t : array_like, shape (...)
        Numbers of steps.
    kappa : array_like, shape (...)
        Step sizes, positive.

    Returns
    -------
    lower, upper : ndarray, shape (...)

    Raises
    ------
    ValueError
        If ``t`` is negative or ``kappa`` not positive.

    Notes
    -----
    Result ``dpo-log-growth``.
    """
    t, kappa = check.nonnegative(t, "t"), check.positive(kappa, "kappa")
    check.broadcast("t", t.shape, "kappa", kappa.shape)
    # The logarithm of e^(kappa/2) + kappa/2 - 1, which overflows for large kappa.
    half = kappa / 2
    small = np.minimum(half, 50.0)
    fast = np.where(half > 50, half, np.log(small + np.expm1(small)))
    with np.errstate(divide="ignore"):
        log_t = np.log(t)
    return _growth(np.log(kappa) + log_t), _growth(fast + log_t)


def _growth(log_gain: np.ndarray) -> np.ndarray:
    """The solution m of m + e^m = 1 + e^log_gain, accurate where the gain is tiny or huge."""
    gain = np.exp(np.minimum(log_gain, 40.0))
    # w = e^m solves w + log w = X, which is Wright's omega function; Newton's steps polish.
    m = np.log(wrightomega(1 + gain))
    for _ in range(2):
        m = m - (m + np.expm1(m) - gain) / (1 + np.exp(m))
    return np.where(log_gain > 40, log_gain, m)


def _step_direction(phi, chosen: int, rejected: int):
    phi = check.finite(phi, "phi", ("action", "feature"))
    if phi.ndim != 2:
        raise ValueError(f"phi must have shape (K, d): got {phi.shape}")
    for name, a in (("chosen", chosen), ("rejected", rejected)):
        if check.count(a, name) >= len(phi):
            raise ValueError(f"{name} must be one of the {len(phi)} actions: got {a}")
    if chosen == rejected:
        raise ValueError(f"chosen and rejected must differ: got {chosen} twice")
    return phi @ (phi[chosen] - phi[rejected])


def displacement_slopes(phi, policy, chosen: int, rejected: int) -> np.ndarray:
    r"""How the log-probabilities start to move in a DPO step on one preference.

    .. math:: \frac{d}{ds}\log\pi_s(a)\Big|_{s=0}
              = \langle\phi_a - E_\pi\phi,\ \phi_{\text{chosen}} - \phi_{\text{rejected}}\rangle

    Parameters
    ----------
    phi : array_like, shape (K, d)
        Features of the actions of one prompt; the logits are linear in them.
    policy : array_like, shape (..., K)
        Current policies.
    chosen, rejected : int
        The preference.

    Returns
    -------
    ndarray, shape (..., K)
        The chosen action's own probability falls for every step size iff its entry is at most 0
        (and the entries are not all 0).

    Raises
    ------
    ValueError
        If a shape does not match or an action does not exist.

    Notes
    -----
    Result ``dpo-displacement``.
    """
    c = _step_direction(phi, chosen, rejected)
    policy = check.distribution(policy, "policy", ("action",))
    if policy.shape[-1] != len(c):
        raise ValueError(f"policy must have {len(c)} actions: got shape {policy.shape}")
    return c - (policy * c).sum(axis=-1, keepdims=True)


def displaced_policies(phi, log_policy, chosen: int, rejected: int, s) -> np.ndarray:
    r"""Log-policies on the ray that DPO steps on one preference follow.

    Parameters
    ----------
    phi : array_like, shape (K, d)
        Features of the actions of one prompt.
    log_policy : array_like, shape (..., K)
        Log-probabilities at the start, finite.
    chosen, rejected : int
        The preference.
    s : array_like, shape (...)
        Distances along :math:`\phi_{\text{chosen}} - \phi_{\text{rejected}}`; one step of size eta
        from margin m adds :math:`\eta\beta\sigma(-m)`.

    Returns
    -------
    ndarray, shape (..., K)

    Raises
    ------
    ValueError
        If a shape does not match or an action does not exist.

    Notes
    -----
    Result ``dpo-displacement``.
    """
    c = _step_direction(phi, chosen, rejected)
    log_policy = check.finite(log_policy, "log_policy", ("action",))
    if log_policy.shape[-1] != len(c):
        raise ValueError(f"log_policy must have {len(c)} actions: got shape {log_policy.shape}")
    s = check.finite(s, "s")
    check.broadcast("log_policy", log_policy.shape[:-1], "s", s.shape)
    logits = log_policy + s[..., None] * c
    return logits - logsumexp(logits, axis=-1, keepdims=True)
