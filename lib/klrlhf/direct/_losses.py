r"""The loss of direct preference optimization, its gradient, and the shift of its pessimistic form.

For a pair ``(x, a1, a2)`` the *margin* of a policy is
:math:`m = \beta[\log\frac{\pi}{\pi_0}(a_1|x) - \log\frac{\pi}{\pi_0}(a_2|x)]`.
Losses are sums over all comparisons, as the Bradley-Terry likelihood of ``estimation``.

What lives here: margins, implicit rewards, losses, gradients with respect to logits.
What does not: minimizers (``_fits``).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from .. import _validate as check
from ..bandit import Bandit
from ..estimation import _comparisons
from ..offline._pessimism import _distances
from ..offline._steps import estimate
from ..preferences import Comparisons, _bandit, _pairs, all_pairs

__all__ = [
    "implicit_reward",
    "log_ratio_margin",
    "dpo_loss",
    "dpo_weights",
    "dpo_gradient",
    "pessimistic_shift",
]


def _checked(log_policy, pi0, beta):
    log_policy, pi0 = check.log_policy(log_policy), check.reference(pi0)
    beta = check.positive(beta, "beta")
    check.same_trailing("log_policy", log_policy, "pi0", pi0, 2)
    lead = check.broadcast("log_policy", log_policy.shape[:-2], "pi0", pi0.shape[:-2])
    check.broadcast("log_policy and pi0", lead, "beta", beta.shape)
    return log_policy, pi0, beta


def implicit_reward(log_policy, pi0, beta) -> np.ndarray:
    r"""The implicit reward of a policy, :math:`\beta\log\frac{\pi}{\pi_0}(a|x)`.

    Its Gibbs policy is the policy itself, and its log-partition function is 0.

    Parameters
    ----------
    log_policy : array_like, shape (..., S, K)
        Finite normalized log-probabilities.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    beta : array_like, shape (...)
        KL coefficients, positive.

    Returns
    -------
    ndarray, shape (..., S, K)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``dpo-change-of-variables``.
    """
    log_policy, pi0, beta = _checked(log_policy, pi0, beta)
    return beta[..., None, None] * (log_policy - np.log(pi0))


def log_ratio_margin(log_policy, pi0, pairs, beta) -> np.ndarray:
    r"""The margin :math:`m = \beta[\log\frac{\pi}{\pi_0}(a_1|x) - \log\frac{\pi}{\pi_0}(a_2|x)]`.

    Parameters
    ----------
    log_policy : array_like, shape (..., S, K)
        Finite normalized log-probabilities.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    pairs : array_like of int, shape (T, 3)
        Distinct rows ``(x, a1, a2)`` with ``a1 < a2``.
    beta : array_like, shape (...)
        KL coefficients, positive.

    Returns
    -------
    ndarray, shape (..., T)

    Raises
    ------
    ValueError
        If a hypothesis above is violated or a pair names an action that does not exist.

    Notes
    -----
    Result ``dpo-change-of-variables``.
    """
    log_policy, pi0, beta = _checked(log_policy, pi0, beta)
    x, first, second = _inside(_pairs(pairs), *pi0.shape[-2:]).T
    ratio = log_policy - np.log(pi0)
    return beta[..., None] * (ratio[..., x, first] - ratio[..., x, second])


def _inside(pairs: np.ndarray, S: int, K: int) -> np.ndarray:
    bad = (pairs[:, 0] >= S) | (pairs[:, 2] >= K)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"pairs must name the contexts and actions of pi0, shape {(S, K)}: "
            f"row {row} is {pairs[row].tolist()}"
        )
    return pairs


def _shifted_margin(log_policy, pi0, data, beta, shift):
    margin = log_ratio_margin(log_policy, pi0, _comparisons(data).pairs, beta)
    shift = check.finite(shift, "shift")
    if shift.ndim and shift.shape[-1] not in (1, margin.shape[-1]):
        raise ValueError(
            f"shift must have one entry per pair: {shift.shape}, {margin.shape[-1]} pairs"
        )
    shift_lead = shift.shape[:-1] if shift.ndim else ()
    lead = check.broadcast("the policies", margin.shape[:-1], "the comparisons",
                           data.counts.shape[:-1])
    check.broadcast("the policies and comparisons", lead, "shift", shift_lead)
    return margin + shift


def dpo_loss(log_policy, pi0, data: Comparisons, beta, shift=0.0) -> np.ndarray:
    r"""The loss of direct preference optimization, summed over all comparisons.

    .. math:: \mathcal L = -\sum_t\big[w_t\log\sigma(m_t+s_t)
              + (n_t-w_t)\log\sigma(-m_t-s_t)\big]

    Parameters
    ----------
    log_policy : array_like, shape (..., S, K)
        Finite normalized log-probabilities.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    data : Comparisons
        Win counts, shape (..., T).
    beta : array_like, shape (...)
        KL coefficients, positive.
    shift : array_like, shape (..., T) or scalar
        Added to each margin: 0 for DPO, ``pessimistic_shift`` for its pessimistic form.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Results ``dpo-is-plug-in`` and ``dpo-pessimistic``.
    """
    m = _shifted_margin(log_policy, pi0, data, beta, shift)
    return (data.wins * np.logaddexp(0, -m) + data.losses * np.logaddexp(0, m)).sum(axis=-1)


def dpo_weights(log_policy, pi0, data: Comparisons, beta, shift=0.0):
    r"""The weights :math:`\beta\sigma(-m)` of a win and :math:`\beta\sigma(m)` of a loss.

    They multiply the gradient of the log-probability ratio of one comparison: large where the
    policy ranks the pair wrongly.

    Parameters
    ----------
    log_policy, pi0, data, beta, shift
        As in ``dpo_loss``.

    Returns
    -------
    tuple of ndarray, shape (..., T)
        Weight of a win of ``a1``, and of a win of ``a2``.

    Raises
    ------
    ValueError
        If a hypothesis is violated; the message names the entry.

    Notes
    -----
    Result ``dpo-gradient``.
    """
    m = _shifted_margin(log_policy, pi0, data, beta, shift)
    beta = np.asarray(beta, float)[..., None]
    return beta * expit(-m), beta * expit(m)


def dpo_gradient(log_policy, pi0, data: Comparisons, beta, shift=0.0) -> np.ndarray:
    r"""The gradient of ``dpo_loss`` with respect to the logits of a softmax policy.

    The same numbers are its gradient with respect to the log-probabilities, taken as free.
    Each context sums to 0.

    Parameters
    ----------
    log_policy, pi0, data, beta, shift
        As in ``dpo_loss``.

    Returns
    -------
    ndarray, shape (..., S, K)

    Raises
    ------
    ValueError
        If a hypothesis is violated; the message names the entry.

    Notes
    -----
    Result ``dpo-gradient``.
    """
    win, loss = dpo_weights(log_policy, pi0, data, beta, shift)
    S, K = np.shape(pi0)[-2:]
    return _scatter(data.losses * loss - data.wins * win, data.pairs, S, K)


def _incidence(pairs: np.ndarray, S: int, K: int) -> np.ndarray:
    """Rows e_{a1} - e_{a2} of the pairs, shape (T, S K)."""
    incidence, rows = np.zeros((len(pairs), S * K)), np.arange(len(pairs))
    incidence[rows, pairs[:, 0] * K + pairs[:, 1]] = 1.0
    incidence[rows, pairs[:, 0] * K + pairs[:, 2]] = -1.0
    return incidence


def _scatter(per_pair: np.ndarray, pairs: np.ndarray, S: int, K: int) -> np.ndarray:
    """Sum of ``per_pair`` (e_{a1} - e_{a2}) over pairs, shape (..., S, K)."""
    return (per_pair @ _incidence(pairs, S, K)).reshape(*per_pair.shape[:-1], S, K)


def pessimistic_shift(bandit: Bandit, V, rho, nu, pairs=None) -> np.ndarray:
    r"""The shift :math:`\rho(\Gamma(x,a_1)-\Gamma(x,a_2))` of the pessimistic loss.

    Here :math:`\Gamma(x,a) = \|\phi(x,a)-\nu(x)\|_{V^{-1}}`.

    Parameters
    ----------
    bandit : Bandit
        Its ``theta`` is not used.
    V : array_like, shape (..., d, d)
        Design matrices.
    rho : array_like, shape (...)
        Radii, nonnegative.
    nu : array_like, shape (..., S, d)
        A reference vector per prompt, such as ``reference_means``.
    pairs : array_like of int, shape (T, 3), optional
        Default ``all_pairs(S, K)``.

    Returns
    -------
    ndarray, shape (..., T)

    Raises
    ------
    ValueError
        If an argument leaves its range or shapes do not match.

    Notes
    -----
    Result ``dpo-pessimistic``.
    """
    _, V, rho, lead = estimate(bandit, np.zeros(_bandit(bandit).d), V, rho)
    lengths, lead = _distances(bandit, V, nu, lead)
    pairs = all_pairs(bandit.S, bandit.K) if pairs is None else _pairs(pairs)
    x, first, second = _inside(pairs, bandit.S, bandit.K).T
    difference = lengths[..., x, first] - lengths[..., x, second]
    return np.broadcast_to(rho[..., None] * difference, (*lead, len(pairs)))
