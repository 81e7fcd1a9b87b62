r"""The regularized preference game and its Nash policy.

Player one plays :math:`\pi`, player two :math:`\pi'`; player one receives
:math:`M(\pi,\pi') - \beta\,\mathrm{KL}(\pi\|\pi_0) + \beta\,\mathrm{KL}(\pi'\|\pi_0)`.

What lives here: the value, best responses, the Nash policy by Newton's method, exploitability.
What does not: self-play (``_self_play``), an independent way to the same policy.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from .. import _validate as check
from ..policies import gibbs_policy, kl_divergence, kl_divergence_from_logs, log_gibbs_policy
from ._preferences import payoff_matrix, same_game, win_rates

__all__ = [
    "game_value",
    "best_response",
    "log_nash_policy",
    "nash_policy",
    "exploitability",
    "nash_kl_bound",
]

MOST_ITERATIONS = 200


def game_inputs(P, beta, pi0):
    """Validated payoff, its antisymmetric part, beta and reference, broadcasting."""
    (P, A), pi0 = payoff_matrix(P), check.reference(pi0)
    beta = check.positive(beta, "beta")
    same_game(P, pi0, "pi0")
    lead = check.broadcast("P", P.shape[:-3], "pi0", pi0.shape[:-2])
    check.broadcast("P and pi0", lead, "beta", beta.shape)
    return P, A, beta, pi0


def game_value(policy, opponent, P, beta, pi0):
    r"""What ``policy`` receives against ``opponent`` in the regularized game.

    .. math:: P(\pi\succ\pi') - \beta\,\mathrm{KL}(\pi\|\pi_0) + \beta\,\mathrm{KL}(\pi'\|\pi_0)

    Parameters
    ----------
    policy, opponent : array_like, shape (..., S, K)
        Policies.
    P : array_like, shape (..., S, K, K)
        Preference matrix or payoff.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.

    Returns
    -------
    ndarray, shape (..., S)
        One number per prompt; the value of the game is the payoff of an action against itself.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``nash-unique``.
    """
    P, _, beta, pi0 = game_inputs(P, beta, pi0)
    policy, rates = check.policy(policy), win_rates(P, opponent)
    check.same_trailing("policy", policy, "opponent", rates, 2)
    bill = kl_divergence(opponent, pi0) - kl_divergence(policy, pi0)
    return (policy * rates).sum(axis=-1) + beta[..., None] * bill


def best_response(opponent, P, beta, pi0):
    r"""The best response :math:`\pi_0 \exp(P(\cdot\succ\pi')/\beta)/Z`, a Gibbs policy.

    Parameters
    ----------
    opponent : array_like, shape (..., S, K)
        Policies to respond to.
    P : array_like, shape (..., S, K, K)
        Preference matrix or payoff.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
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
    Results ``gibbs-variational`` and ``nash-unique``.
    """
    P, _, beta, pi0 = game_inputs(P, beta, pi0)
    return gibbs_policy(win_rates(P, opponent), beta, pi0)


def _newton(A, inverse, log_pi0, logits):
    """Newton's method for ``logits = log pi0 + A softmax(logits) inverse`` in N games at once.

    The Jacobian ``I - inverse A D`` has eigenvalues ``1 - i omega``: it is never singular, so
    damped steps reach the only solution from any start.
    """
    K = A.shape[-1]

    def residual(logits):
        logits = logits - logsumexp(logits, axis=-1, keepdims=True)
        policy = np.exp(logits)
        rates = np.einsum("nab,nb->na", A, policy)
        error = logits - log_pi0 - inverse[:, None] * rates
        return logits, policy, error - error.mean(axis=-1, keepdims=True)

    logits, policy, error = residual(logits)
    size = np.abs(error).max(axis=-1)
    room = 2e-14 * (1 + np.abs(log_pi0).max(axis=-1) + inverse * np.abs(A).max(axis=(1, 2)))
    for _ in range(MOST_ITERATIONS):
        unsettled = size > room
        if not unsettled.any():
            break
        D = policy[:, :, None] * (np.eye(K) - policy[:, None, :])
        jacobian = np.eye(K) - inverse[:, None, None] * (A @ D)
        step = np.linalg.solve(jacobian, -error[..., None])[..., 0]
        length, waiting = np.ones(len(A)), unsettled.copy()
        for _ in range(40):
            new_logits, new_policy, new_error = residual(logits + length[:, None] * step)
            new_size = np.abs(new_error).max(axis=-1)
            better = waiting & (new_size <= (1 - 0.1 * length) * size)
            logits[better], policy[better] = new_logits[better], new_policy[better]
            error[better], size[better] = new_error[better], new_size[better]
            waiting &= ~better
            if not waiting.any():
                break
            length = np.where(waiting, length / 2, length)
        if (waiting == unsettled).all():
            break  # rounding error: no step improves any game
    return logits, size, room


def log_nash_policy(P, beta, pi0):
    r"""The logarithm of the Nash policy of the regularized game.

    Newton's method on the fixed point, at a sequence of falling temperatures so that each solution
    starts the next.

    Parameters
    ----------
    P : array_like, shape (..., S, K, K)
        Preference matrix, or any payoff with ``P + P'`` constant.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.

    Returns
    -------
    ndarray, shape (..., S, K)
        Log-probabilities.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.
    RuntimeError
        If the fixed point is not reached to 1e-9 (``beta`` far below the payoff's rounding error).

    Notes
    -----
    Result ``nash-unique``.
    """
    _, A, beta, pi0 = game_inputs(P, beta, pi0)
    lead = np.broadcast_shapes(A.shape[:-3], pi0.shape[:-2], beta.shape)
    S, K = pi0.shape[-2:]
    A = np.broadcast_to(A, (*lead, S, K, K)).reshape(-1, K, K)
    log_pi0 = np.broadcast_to(np.log(pi0), (*lead, S, K)).reshape(-1, K)
    inverse = np.broadcast_to(1 / beta[..., None], (*lead, S)).reshape(-1)
    strength = inverse * np.abs(A).max(axis=(1, 2), initial=0.0)
    stages = max(int(np.ceil(np.log2(max(float(strength.max(initial=0.0)), 1.0)))), 0)
    logits = log_pi0.copy()
    for stage in range(stages, -1, -1):
        # A game with strength below 2^(stages - stage) is at its own temperature already.
        now = np.minimum(inverse, inverse * 2.0 ** (stages - stage) / np.maximum(strength, 1e-300))
        logits, size, room = _newton(A, now, log_pi0, logits)
    if (size > np.maximum(1e5 * room, 1e-9)).any():
        raise RuntimeError(f"the Nash policy was not reached: residual {size.max():.2g}")
    return logits.reshape(*lead, S, K)


def nash_policy(P, beta, pi0):
    r"""The Nash policy :math:`\pi_N = \pi_0 \exp(P(\cdot\succ\pi_N)/\beta)/Z`.

    Parameters
    ----------
    P : array_like, shape (..., S, K, K)
        Preference matrix, or any payoff with ``P + P'`` constant.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.

    Returns
    -------
    ndarray, shape (..., S, K)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.
    RuntimeError
        If the fixed point is not reached to 1e-9.

    Notes
    -----
    Result ``nash-unique``.
    """
    policy = np.exp(log_nash_policy(P, beta, pi0))
    return policy / policy.sum(axis=-1, keepdims=True)


def exploitability(policy, P, beta, pi0):
    r"""What the best response gains over the value of the game.

    .. math:: \mathcal{E}(\pi) = \beta\,\mathrm{KL}(\pi\|\mathrm{BR}(\pi))

    Half of the duality gap; 0 for the Nash policy only.

    Parameters
    ----------
    policy : array_like, shape (..., S, K)
        Policies.
    P : array_like, shape (..., S, K, K)
        Preference matrix or payoff.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.

    Returns
    -------
    ndarray, shape (..., S)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``nash-gap``.
    """
    P, _, beta, pi0 = game_inputs(P, beta, pi0)
    policy = check.policy(policy)
    response = log_gibbs_policy(win_rates(P, policy), beta, pi0)
    with np.errstate(divide="ignore"):
        log_policy = np.log(policy)
    log_policy = log_policy - logsumexp(log_policy, axis=-1, keepdims=True)
    return beta[..., None] * kl_divergence_from_logs(log_policy, response)


def nash_kl_bound(beta, largest=0.5):
    r"""The bound of the divergence of the Nash policy from the reference.

    .. math:: \mathrm{KL}(\pi_N\|\pi_0) \le \log\frac{\sinh t}{t}, \qquad t = \|A\|/\beta

    Parameters
    ----------
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    largest : array_like, shape (...)
        :math:`\|A\| = \max|M(a,b) - M(b,a)|/2`, the largest payoff above the value; 1/2 for
        preferences.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If ``beta`` is not positive or ``largest`` is negative.

    Notes
    -----
    Result ``nash-kl-bound``.
    """
    beta, largest = check.positive(beta, "beta"), check.nonnegative(largest, "largest")
    check.broadcast("beta", beta.shape, "largest", largest.shape)
    t = largest / beta
    small = t < 0.3
    u = np.where(small, t, 0.0) ** 2
    series = (u / 6 - u**2 / 180 + u**3 / 2835 - u**4 / 37800 + u**5 / 467775
              - 691 * u**6 / 3831077250)
    v = np.where(small, 1.0, t)
    closed = v + np.log1p(-np.exp(-2 * v)) - np.log(2 * v)
    return np.where(small, series, closed)[()]
