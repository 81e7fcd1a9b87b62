r"""Log-space helpers: the numerical ground floor.

What lives here: scalar functions evaluated without overflow or cancellation (the logistic function,
the sharp Hoeffding function :math:`h`, Kullback-Leibler divergence as a sum of nonnegative terms).
What does not: anything that knows about policies, prompts or rewards.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logsumexp

from . import _validate as check

__all__ = [
    "sharp_hoeffding",
    "sigmoid",
    "log_sigmoid",
    "sigmoid_slope",
    "log_mean_exp",
    "expm1_minus",
    "log_ratio_excess",
    "bregman_kl_terms",
]

# h(t) = sum_k (1 + 1/(2k)) B_2k t^2k / (2k)! near 0, because (t/2) coth(t/2) - 1 is the sum of
# B_2k t^2k / (2k)! and log(sinh(t/2) / (t/2)) that of B_2k t^2k / (2k (2k)!).
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)


def _hoeffding_series(square: np.ndarray) -> np.ndarray:
    total, power, factorial = np.zeros_like(square), np.ones_like(square), 1.0
    for k, bernoulli in enumerate(_BERNOULLI, start=1):
        power = power * square
        factorial *= (2 * k - 1) * (2 * k)
        total = total + (1 + 1 / (2 * k)) * bernoulli / factorial * power
    return total


def sharp_hoeffding(t):
    r"""The sharp Hoeffding function in KL form.

    .. math:: h(t) = \tfrac t2 \coth \tfrac t2 - 1 + \log\frac{\sinh(t/2)}{t/2}, \qquad h(0) = 0,

    It is the largest :math:`\mathrm{KL}(P\|Q)` when :math:`\log dP/dQ` has span at most ``t``.

    Parameters
    ----------
    t : array_like, shape (...)
        Spans, ``t >= 0``.

    Returns
    -------
    ndarray, shape (...)
        ``h(t)``, with relative error near 1e-15 from ``t = 1e-150`` up to ``t = 1e300``.

    Raises
    ------
    ValueError
        If ``t`` is negative or not finite.

    Notes
    -----
    Result ``hoeffding-kl`` of the book.
    """
    t = check.nonnegative(t, "t", largest=np.inf)
    small = t < 0.7
    series = _hoeffding_series(np.where(small, t, 0.0) ** 2)
    # Below the switch the closed form cancels; above it exp(-t) cannot overflow.
    u = np.where(small, 1.0, t)
    decay = np.exp(-u)
    closed = u - 1.0 - np.log(u) + u * decay / -np.expm1(-u) + np.log1p(-decay)
    return np.where(small, series, closed)[()]


def sigmoid(t):
    r"""The logistic function :math:`\sigma(t) = 1/(1+e^{-t})`.

    Parameters
    ----------
    t : array_like, shape (...)
        Any finite numbers.

    Returns
    -------
    ndarray, shape (...)
        Values in [0, 1].

    Raises
    ------
    ValueError
        If ``t`` is not finite.
    """
    return expit(check.finite(t, "t", largest=np.inf))


def log_sigmoid(t):
    r"""The logarithm of the logistic function, :math:`\log\sigma(t) = -\log(1+e^{-t})`.

    Parameters
    ----------
    t : array_like, shape (...)
        Any finite numbers.

    Returns
    -------
    ndarray, shape (...)
        Values at most 0; linear in ``t`` far below 0, never ``-inf``.

    Raises
    ------
    ValueError
        If ``t`` is not finite.
    """
    return -np.logaddexp(0.0, -check.finite(t, "t", largest=np.inf))


def sigmoid_slope(t):
    r"""The derivative :math:`\sigma'(t) = \sigma(t)\sigma(-t) = 1/(2 + e^{t} + e^{-t})`.

    Parameters
    ----------
    t : array_like, shape (...)
        Any finite numbers.

    Returns
    -------
    ndarray, shape (...)
        Values in (0, 1/4]; 0 only where :math:`e^{-|t|}` underflows.

    Raises
    ------
    ValueError
        If ``t`` is not finite.
    """
    decay = np.exp(-np.abs(check.finite(t, "t", largest=np.inf)))
    return decay / (1.0 + decay) ** 2


def log_mean_exp(values, log_weights, axis: int = -1):
    r"""The log-mean-exp :math:`\log \sum_i w_i e^{v_i}` without overflow.

    Parameters
    ----------
    values : array_like, shape (...)
        Exponents, finite.
    log_weights : array_like, shape (...)
        Logarithms of the weights; ``-inf`` stands for weight 0.
    axis : int
        The axis to sum over, not empty.

    Returns
    -------
    ndarray
        The result, with ``axis`` removed; ``-inf`` where all weights are 0.

    Raises
    ------
    ValueError
        If ``values`` are not finite, ``log_weights`` hold NaN or ``+inf``, or there is no such
        axis.
    """
    values = check.finite(values, "values")
    log_weights = check.as_float(log_weights, "log_weights")
    if np.isnan(log_weights).any() or (log_weights > check.LARGEST).any():
        raise ValueError("log_weights must hold logarithms: no NaN, no +inf")
    shape = check.broadcast("values", values.shape, "log_weights", log_weights.shape)
    whole = isinstance(axis, (int, np.integer)) and not isinstance(axis, bool)
    if not whole or not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis must be one of the {len(shape)} axes of the terms: got {axis!r}")
    if shape[axis] == 0:
        raise ValueError(f"values must not be empty: axis {axis} of {shape} has no entry")
    return logsumexp(values + log_weights, axis=axis)


def expm1_minus(t):
    r"""The remainder :math:`e^{t} - 1 - t \ge 0`, accurate near 0.

    Parameters
    ----------
    t : array_like, shape (...)
        Any numbers below the overflow of ``exp``.

    Returns
    -------
    ndarray, shape (...)
        ``exp(t) - 1 - t`` to relative accuracy near 1e-15; ``inf`` where ``exp(t)`` overflows.

    Raises
    ------
    ValueError
        If ``t`` is not finite.
    """
    return _expm1_minus(check.finite(t, "t", largest=np.inf))


def _expm1_minus(t: np.ndarray) -> np.ndarray:
    small = np.abs(t) < 0.5
    u = np.where(small, t, 0.0)
    # Horner form of sum_{k>=2} u^k / k!; the term after u^17 is below 1e-19 relative at |u| = 1/2.
    total = np.zeros_like(u)
    for k in range(17, 1, -1):
        total = (1.0 + total) * u / k
    with np.errstate(over="ignore"):
        return np.where(small, total * u, np.expm1(t) - t)[()]


def log_ratio_excess(u):
    r"""The nonnegative summand :math:`u + e^{-u} - 1` of a Kullback-Leibler divergence.

    For laws with :math:`u = \log(p/q)` one has
    :math:`\mathrm{KL}(p\|q) = \sum_a p_a (u_a + e^{-u_a} - 1)`: every term is nonnegative,
    so nothing cancels when ``p`` is close to ``q``.

    Parameters
    ----------
    u : array_like, shape (...)
        Log-ratios.

    Returns
    -------
    ndarray, shape (...)
        Nonnegative numbers.

    Raises
    ------
    ValueError
        If ``u`` is not finite.
    """
    return _expm1_minus(-check.finite(u, "u", largest=np.inf))


def bregman_kl_terms(log_p, log_q):
    r"""Terms :math:`p\log(p/q) - p + q \ge 0` whose sum over a law is :math:`\mathrm{KL}(p\|q)`.

    Parameters
    ----------
    log_p, log_q : array_like, shape (...)
        Logarithms of two laws; ``-inf`` stands for probability 0.

    Returns
    -------
    ndarray, shape (...)
        Nonnegative terms; ``inf`` where ``p > 0 = q``.

    Raises
    ------
    ValueError
        If an entry is NaN or above 0.
    """
    log_p, log_q = check.as_float(log_p, "log_p"), check.as_float(log_q, "log_q")
    for name, array in (("log_p", log_p), ("log_q", log_q)):
        if np.isnan(array).any() or (array > check.POLICY_TOLERANCE).any():
            raise ValueError(f"{name} must hold logarithms of probabilities: no NaN, none above 0")
    check.broadcast("log_p", log_p.shape, "log_q", log_q.shape)
    return _bregman_kl_terms(log_p, log_q)


def _bregman_kl_terms(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    log_p, log_q = np.broadcast_arrays(log_p, log_q)
    p, q = np.exp(log_p), np.exp(log_q)
    dead = np.isneginf(log_p)
    with np.errstate(invalid="ignore"):
        u = np.where(dead, 0.0, np.where(np.isneginf(log_q), np.inf, log_p - log_q))
    near = np.abs(u) < 1.0
    close = p * _expm1_minus(-np.where(near, u, 0.0))
    with np.errstate(invalid="ignore"):
        far = np.where(dead, q, p * np.where(near, 0.0, u) - p + q)
    # p = 0 by underflow contributes nothing beyond q, unless q is exactly 0.
    far = np.where((p == 0) & ~dead & np.isfinite(u), q, far)
    far = np.where(np.isposinf(u), np.inf, far)
    return np.where(near & ~dead, close, far)
