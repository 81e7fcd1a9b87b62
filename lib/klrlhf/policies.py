r"""Policies as arrays ``(..., S, K)``, and what is read off them.

What lives here: Gibbs policies in log space, divergences between policies, moments under a policy,
and the reference constructions (uniform, mixture, greedy, best-of-n).
What does not: values of policies under the objective (``values``) and learning (higher floors).
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from . import _validate as check
from .numerics import _bregman_kl_terms

__all__ = [
    "log_gibbs_policy",
    "gibbs_policy",
    "log_partition",
    "kl_divergence",
    "kl_divergence_from_logs",
    "chi2_divergence",
    "expectation",
    "variance",
    "feature_mean",
    "feature_covariance",
    "uniform_policy",
    "mixture_policy",
    "greedy_policy",
    "best_of_n_policy",
]


def _tilt_inputs(reward, beta, pi0):
    """Validated ``max r``, ``(r - max r) / beta`` and ``log pi0``, replicate axes broadcasting."""
    reward, pi0 = check.rewards(reward), check.reference(pi0)
    beta = check.positive(beta, "beta")
    check.same_trailing("reward", reward, "pi0", pi0, 2)
    lead = check.broadcast("reward", reward.shape[:-2], "pi0", pi0.shape[:-2])
    check.broadcast("reward and pi0", lead, "beta", beta.shape)
    # Subtract before dividing: the difference of two near rewards is exact, that of two huge
    # quotients is not.
    top = reward.max(axis=-1, keepdims=True)
    return top[..., 0], (reward - top) / beta[..., None, None], np.log(pi0), beta


def log_gibbs_policy(reward, beta, pi0):
    r"""The logarithm of the Gibbs policy, :math:`\log\pi_0 + r/\beta - \log Z_r(x)`.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.

    Returns
    -------
    ndarray, shape (..., S, K)
        Log-probabilities, exact where the probability itself underflows.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``gibbs-variational``.
    """
    _, exponent, log_pi0, _ = _tilt_inputs(reward, beta, pi0)
    logits = log_pi0 + exponent
    return logits - logsumexp(logits, axis=-1, keepdims=True)


def gibbs_policy(reward, beta, pi0):
    r"""The Gibbs policy :math:`\pi_r(a|x) = \pi_0(a|x)\, e^{r(x,a)/\beta} / Z_r(x)`.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.

    Returns
    -------
    ndarray, shape (..., S, K)
        The maximizer of ``E_pi r - beta KL(pi || pi0)`` in each context.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``gibbs-variational``.
    """
    policy = np.exp(log_gibbs_policy(reward, beta, pi0))
    # Rounding leaves sums at 1 +- 1e-15 times the size of the logits; renormalize once.
    return policy / policy.sum(axis=-1, keepdims=True)


def log_partition(reward, beta, pi0):
    r"""The log-partition function :math:`\log Z_r(x) = \log E_{a\sim\pi_0} e^{r(x,a)/\beta}`.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.

    Returns
    -------
    ndarray, shape (..., S)
        One number per context.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.
    """
    top, exponent, log_pi0, beta = _tilt_inputs(reward, beta, pi0)
    return top / beta[..., None] + logsumexp(log_pi0 + exponent, axis=-1)


def _log(policy: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(policy)


def kl_divergence(p, q):
    r"""Kullback-Leibler divergence :math:`\mathrm{KL}(p(\cdot|x)\,\|\,q(\cdot|x))` per context.

    Summed from nonnegative terms, so it keeps its relative accuracy when ``p`` is close to ``q``.

    Parameters
    ----------
    p, q : array_like, shape (..., S, K)
        Policies; zeros are allowed.

    Returns
    -------
    ndarray, shape (..., S)
        Divergences in [0, inf]; ``inf`` where ``p`` puts mass outside the support of ``q``.

    Raises
    ------
    ValueError
        If an argument is not a policy, or shapes do not match.
    """
    p, q = check.policy(p, "p"), check.policy(q, "q")
    check.same_trailing("p", p, "q", q, 2)
    return _bregman_kl_terms(_log(p), _log(q)).sum(axis=-1)


def kl_divergence_from_logs(log_p, log_q):
    r"""Kullback-Leibler divergence from log-probabilities, per context.

    Use it where probabilities underflow, as Gibbs policies do at small beta.

    Parameters
    ----------
    log_p, log_q : array_like, shape (..., K)
        Normalized log-probabilities along the last axis; ``-inf`` stands for 0.

    Returns
    -------
    ndarray, shape (...)
        Divergences in [0, inf].

    Raises
    ------
    ValueError
        If an entry is NaN or above 0, a law does not sum to one, or shapes do not match.
    """
    laws = []
    for name, log_law in (("log_p", log_p), ("log_q", log_q)):
        log_law = check.as_float(log_law, name)
        if log_law.ndim < 1 or log_law.shape[-1] == 0:
            raise ValueError(f"{name} must have at least one entry along its last axis")
        if np.isnan(log_law).any() or (log_law > check.POLICY_TOLERANCE).any():
            raise ValueError(f"{name} must hold logarithms of probabilities: no NaN, none above 0")
        total = logsumexp(log_law, axis=-1)
        if np.any(np.abs(total) > check.POLICY_TOLERANCE):
            worst = float(np.exp(np.ravel(total)[np.argmax(np.abs(np.ravel(total)))]))
            raise ValueError(f"{name} must be normalized: a law sums to {worst!r}")
        laws.append(log_law)
    check.same_trailing("log_p", laws[0], "log_q", laws[1], 1)
    return _bregman_kl_terms(laws[0], laws[1]).sum(axis=-1)


def chi2_divergence(p, q):
    r"""Chi-squared divergence :math:`\chi^2(p\|q) = \sum_a (p_a - q_a)^2 / q_a` per context.

    Parameters
    ----------
    p, q : array_like, shape (..., S, K)
        Policies; zeros are allowed.

    Returns
    -------
    ndarray, shape (..., S)
        Divergences in [0, inf]; ``inf`` where ``p`` puts mass outside the support of ``q``, and
        where the divergence overflows (``q`` below 1e-308).

    Raises
    ------
    ValueError
        If an argument is not a policy, or shapes do not match.
    """
    p, q = check.policy(p, "p"), check.policy(q, "q")
    check.same_trailing("p", p, "q", q, 2)
    p, q = np.broadcast_arrays(p, q)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # (p - q) * ((p - q) / q) cannot underflow to a false zero as (p - q)^2 / q can.
        terms = (p - q) * ((p - q) / q)
    return np.where((p == 0) & (q == 0), 0.0, terms).sum(axis=-1)


def expectation(policy, f):
    r"""The mean :math:`E_{a\sim\pi(\cdot|x)} f(x,a)` per context.

    Parameters
    ----------
    policy : array_like, shape (..., S, K)
        Policies.
    f : array_like, shape (..., S, K)
        Finite functions.

    Returns
    -------
    ndarray, shape (..., S)

    Raises
    ------
    ValueError
        If ``policy`` is not a policy, ``f`` is not finite, or shapes do not match.
    """
    policy, f = check.policy(policy), check.rewards(f, "f")
    check.same_trailing("policy", policy, "f", f, 2)
    return (policy * f).sum(axis=-1)


def variance(policy, f):
    r"""The variance :math:`\mathrm{Var}_{a\sim\pi(\cdot|x)} f(x,a)` per context.

    Parameters
    ----------
    policy : array_like, shape (..., S, K)
        Policies.
    f : array_like, shape (..., S, K)
        Finite functions; a shift per context changes nothing.

    Returns
    -------
    ndarray, shape (..., S)

    Raises
    ------
    ValueError
        If ``policy`` is not a policy, ``f`` is not finite, or shapes do not match.
    """
    policy, f = check.policy(policy), check.rewards(f, "f")
    check.same_trailing("policy", policy, "f", f, 2)
    policy, f = np.broadcast_arrays(policy, f)
    # Measured from the likeliest action the mean is small where the variance is.
    anchor = policy.argmax(axis=-1)[..., None]
    centred = f - np.take_along_axis(f, anchor, axis=-1)
    centred = centred - (policy * centred).sum(axis=-1, keepdims=True)
    return (policy * centred**2).sum(axis=-1)


def _features(phi, policy: np.ndarray) -> np.ndarray:
    phi = check.finite(phi, "phi", ("context", "action", "feature"))
    if phi.ndim != 3:
        raise ValueError(f"phi must have shape (S, K, d): got {phi.shape}")
    if policy.shape[-2:] != phi.shape[:2]:
        raise ValueError(
            f"policy and phi must agree in contexts and actions: {policy.shape} and {phi.shape}"
        )
    return phi


def feature_mean(policy, phi):
    r"""The mean feature :math:`\phi(x,\pi) = E_{a\sim\pi(\cdot|x)}\phi(x,a)` per context.

    Parameters
    ----------
    policy : array_like, shape (..., S, K)
        Policies.
    phi : array_like, shape (S, K, d)
        Features.

    Returns
    -------
    ndarray, shape (..., S, d)

    Raises
    ------
    ValueError
        If ``policy`` is not a policy or shapes do not match.
    """
    policy = check.policy(policy)
    phi = _features(phi, policy)
    return np.einsum("...sk,skd->...sd", policy, phi)


def feature_covariance(policy, phi):
    r"""The covariance :math:`\mathrm{Cov}_{a\sim\pi(\cdot|x)}\phi(x,a)` per context.

    Parameters
    ----------
    policy : array_like, shape (..., S, K)
        Policies.
    phi : array_like, shape (S, K, d)
        Features.

    Returns
    -------
    ndarray, shape (..., S, d, d)

    Raises
    ------
    ValueError
        If ``policy`` is not a policy or shapes do not match.
    """
    policy = check.policy(policy)
    phi = _features(phi, policy)
    centred = phi - np.einsum("...sk,skd->...sd", policy, phi)[..., None, :]
    return np.einsum("...sk,...skd,...ske->...sde", policy, centred, centred, optimize=True)


def uniform_policy(S: int, K: int):
    """The uniform policy.

    Parameters
    ----------
    S, K : int
        Numbers of contexts and actions, at least 1.

    Returns
    -------
    ndarray, shape (S, K)

    Raises
    ------
    ValueError
        If ``S`` or ``K`` is below 1.
    """
    S, K = check.size(S, "S"), check.size(K, "K")
    return np.full((S, K), 1.0 / K)


def mixture_policy(c, first, second):
    r"""The mixture :math:`c\,\pi_1 + (1-c)\,\pi_2`.

    Parameters
    ----------
    c : array_like, shape (...)
        Weights of the first policy in [0, 1].
    first, second : array_like, shape (..., S, K)
        Policies.

    Returns
    -------
    ndarray, shape (..., S, K)

    Raises
    ------
    ValueError
        If ``c`` leaves [0, 1], an argument is not a policy, or shapes do not match.
    """
    c = check.nonnegative(c, "c")
    if (c > 1).any():
        raise ValueError(f"c must lie in [0, 1]: got {c.max()}")
    first, second = check.policy(first, "first"), check.policy(second, "second")
    check.same_trailing("first", first, "second", second, 2)
    lead = check.broadcast("first", first.shape[:-2], "second", second.shape[:-2])
    check.broadcast("first and second", lead, "c", c.shape)
    c = c[..., None, None]
    return c * first + (1 - c) * second


def greedy_policy(reward, pi0):
    r"""The limit of the Gibbs policy as :math:`\beta\to0`: ``pi0`` restricted to the best actions.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.

    Returns
    -------
    ndarray, shape (..., S, K)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``temperature-path``: the limit of the path at infinite inverse temperature.
    """
    reward, pi0 = check.rewards(reward), check.reference(pi0)
    check.same_trailing("reward", reward, "pi0", pi0, 2)
    best = np.where(reward == reward.max(axis=-1, keepdims=True), pi0, 0.0)
    return best / best.sum(axis=-1, keepdims=True)


def best_of_n_policy(reward, pi0, n: int):
    r"""The exact law of best-of-n: draw ``n`` actions from ``pi0``, keep one of highest reward.

    Ties are broken uniformly among the draws, so tied actions share their mass in proportion
    to ``pi0``: :math:`\pi(a) = \frac{\pi_0(a)}{\pi_0(r=r(a))}
    \big(\pi_0(r\le r(a))^n - \pi_0(r<r(a))^n\big)`.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    n : int
        Number of draws, ``n >= 1``.

    Returns
    -------
    ndarray, shape (..., S, K)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.
    """
    reward, pi0 = check.rewards(reward), check.reference(pi0)
    check.same_trailing("reward", reward, "pi0", pi0, 2)
    n = check.count(n)
    if n < 1:
        raise ValueError(f"n must be at least 1: got {n}")
    reward, pi0 = np.broadcast_arrays(reward, pi0)
    below = reward[..., None, :] < reward[..., :, None]
    tied = reward[..., None, :] == reward[..., :, None]
    mass_below = np.where(below, pi0[..., None, :], 0.0).sum(axis=-1)
    mass_tied = np.where(tied, pi0[..., None, :], 0.0).sum(axis=-1)
    above = np.where(~(below | tied), pi0[..., None, :], 0.0).sum(axis=-1)
    # Differences of powers through log1p/expm1: F^n - G^n = F^n (1 - (1 - tied/F)^n).
    with np.errstate(divide="ignore"):
        log_f = np.where(above < 0.5, np.log1p(-np.minimum(above, 1.0)),
                         np.log(mass_below + mass_tied))
        share = -np.expm1(n * np.log1p(-np.minimum(mass_tied / (mass_below + mass_tied), 1.0)))
    policy = pi0 / mass_tied * np.exp(n * log_f) * share
    return policy / policy.sum(axis=-1, keepdims=True)
