r"""Best-of-n against others: the frontier, the win-rate frontier, a proxy reward, other rules.

What lives here: what best-of-n gives up at equal divergence, exactly and at worst, the largest win
rate that a divergence allows, the loss when a proxy ranks the draws, and the laws of other rules
that return one of n draws.
What does not: divergence and win rate of best-of-n itself (``_best_of_n``), and rejection sampling
as an algorithm (``_rejection``).
"""

from __future__ import annotations

import numpy as np

from .. import _validate as check
from ..numerics import expm1_minus
from ..policies import best_of_n_policy, expectation, variance
from ..values import expected_reward, kl_frontier
from ._best_of_n import (
    _ORDERS,
    _SERIES,
    _cells,
    _one_number_of_draws,
    best_of_n_bounds,
    best_of_n_kl,
)

__all__ = [
    "best_of_n_frontier_gap",
    "best_of_n_proxy_loss",
    "best_of_n_worst_frontier_gap",
    "largest_probability",
    "rso_single_policy",
    "selection_policy",
    "win_rate_frontier",
    "win_rate_frontier_bound",
]


def _uniform_path(lam: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One minus the mean, and KL from uniform, of the density prop. to ``e^(lam u)`` on [0, 1]."""
    near = lam < 0.5
    t = np.where(near, lam, 0.0)
    square = t * t
    # log(sinh x / x), x = lam / 2: mean - 1/2 is half its slope.
    half = np.zeros_like(t)
    loss = np.zeros_like(t)
    for k, c in zip(_ORDERS[:9], _SERIES[:9], strict=True):
        half += k * c * 4.0**-k * 2 * np.where(t > 0, square ** (k - 1), float(k == 1)) * t
        loss += c * (2 * k - 1) * 4.0**-k * square**k
    u = np.where(near, 1.0, lam)
    decay = -np.expm1(-u)
    miss = 1 / u - np.exp(-u) / decay
    far = u * (1 - miss) - u - np.log(decay) + np.log(u)
    return np.where(near, 0.5 - half, miss), np.where(near, loss, far)


def win_rate_frontier(kl):
    r"""The largest win rate against ``pi0`` (ties half) that a divergence allows to any policy.

    The frontier :math:`F_U` of a reward that is uniform on [0, 1] under the reference; on a finite
    set the true frontier lies below it.

    Parameters
    ----------
    kl : array_like, shape (...)
        Divergences in nats, from 0 to 700.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a divergence is negative or above 700.

    Notes
    -----
    Result ``win-rate-frontier``.
    """
    kl = check.nonnegative(kl, "kl", largest=700.0)
    # KL is about lam^2 / 24 at first and log(lam) - 1 at last; bisect on log(lam).
    low, high = np.full(kl.shape, -40.0), kl + 3.0
    for _ in range(70):
        middle = 0.5 * (low + high)
        short = _uniform_path(np.exp(middle))[1] < kl
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.where(kl == 0, 0.5, 1 - _uniform_path(np.exp(low))[0])[()]


def win_rate_frontier_bound(kl):
    r"""The closed bound :math:`\min(\frac12+\sqrt{k/6},\; 1-e^{-1-k})` of `win_rate_frontier`.

    Parameters
    ----------
    kl : array_like, shape (...)
        Divergences in nats, nonnegative.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a divergence is negative.

    Notes
    -----
    Result ``win-rate-frontier``.
    """
    kl = check.nonnegative(kl, "kl", largest=np.inf)
    return np.minimum(0.5 + np.sqrt(kl / 6), -np.expm1(-1 - kl))[()]


def largest_probability(kl, mass):
    r"""The largest probability that a policy within ``kl`` nats can give to an event.

    The upper solution :math:`P` of :math:`P\log\frac P\varepsilon
    + (1-P)\log\frac{1-P}{1-\varepsilon} = k`, or 1 if :math:`k\ge\log\frac1\varepsilon`.

    Parameters
    ----------
    kl : array_like, shape (...)
        Divergences in nats, nonnegative.
    mass : array_like, shape (...)
        Probabilities of the event under the reference, in (0, 1].

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If a divergence is negative or a mass leaves (0, 1].

    Notes
    -----
    The frontier of a reward that is 1 on the event and 0 elsewhere (``kl-frontier``).
    """
    kl = check.nonnegative(kl, "kl", largest=np.inf)
    mass = check.positive(mass, "mass")
    check._refuse("mass", "at most 1", mass, mass > 1)
    check.broadcast("kl", kl.shape, "mass", mass.shape)
    kl, mass = np.broadcast_arrays(kl, mass)
    room = -np.log(mass)
    inside = (kl > 0) & (kl < room)
    q, room = np.where(inside, mass, 0.5), np.where(inside, room, np.log(2.0))
    # Bisect on the logarithm of u = log(P / q): P may be tiny, and P - q tinier still.
    low, high = np.log(room) - 130.0, np.log(room)
    for _ in range(62):
        middle = 0.5 * (low + high)
        u = np.exp(middle)
        rest = np.log1p(-np.minimum(q * np.expm1(u) / (1 - q), 1 - 1e-16))
        spent = q * _cost(u) + (1 - q) * _cost(rest)
        low, high = np.where(spent < kl, middle, low), np.where(spent < kl, high, middle)
    found = np.minimum(q * np.exp(np.exp(low)), 1.0)
    return np.where(inside, found, np.where(kl > 0, 1.0, mass))[()]


def _cost(t: np.ndarray) -> np.ndarray:
    """``t e^t - e^t + 1``, nonnegative, without cancellation near 0."""
    near = np.abs(t) < 0.5
    small = np.where(near, t, 0.0)
    return np.where(near, np.exp(small) * expm1_minus(-small), (t - 1) * np.exp(t) + 1)


def best_of_n_worst_frontier_gap(n: int) -> tuple[float, float]:
    r"""The largest share of the reward range that best-of-n can give up at equal divergence.

    .. math:: \omega_n = \max_{0<\varepsilon<1}\big\{P_\varepsilon(\log n-\tfrac{n-1}n)
              - 1 + (1-\varepsilon)^n\big\},

    with :math:`P_\varepsilon(k)` of `largest_probability`.

    Parameters
    ----------
    n : int
        Number of draws, ``n >= 1``.

    Returns
    -------
    tuple of float
        :math:`\omega_n`, and the mass :math:`\varepsilon` of the best answers that comes closest.

    Raises
    ------
    ValueError
        If ``n`` is below 1.

    Notes
    -----
    Result ``best-of-n-frontier``.
    """
    n = _one_number_of_draws(n)
    kl = float(best_of_n_bounds(n).kl)
    if n == 1:
        return 0.0, 1.0
    low, high = np.log(1e-4 / n), 0.0
    for _ in range(12):
        logs = np.linspace(low, high, 65)[:-1]
        mass = np.exp(logs)
        gap = largest_probability(kl, mass) + np.expm1(n * np.log1p(-mass))
        best, step = int(gap.argmax()), logs[1] - logs[0]
        low, high = logs[best] - step, min(logs[best] + step, 0.0)
    return float(gap[best]), float(mass[best])


def best_of_n_frontier_gap(reward, pi0, d0, n: int):
    r"""The reward that best-of-n gives up against the best policy of the same divergence.

    Parameters
    ----------
    reward, pi0 : array_like, shape (..., S, K)
        Finite rewards and reference policies with full support.
    d0 : array_like, shape (..., S)
        Prompt distributions.
    n : int
        Number of draws, ``n >= 1``.

    Returns
    -------
    ndarray, shape (...)
        ``F(k) - E r`` at the divergence ``k`` of best-of-n, averaged over prompts; nonnegative.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``best-of-n-frontier``.
    """
    d0 = check.prompts(d0)
    kl = (d0 * best_of_n_kl(reward, pi0, n)).sum(axis=-1)
    top = kl_frontier(kl[..., None], reward, pi0, d0).reward[..., 0]
    return np.maximum(top - expected_reward(best_of_n_policy(reward, pi0, n), reward, d0), 0.0)


def best_of_n_proxy_loss(proxy, reward, pi0, n: int, p):
    r"""A bound of what best-of-n by a proxy loses to any policy with :math:`\pi\le\pi_0/p`.

    .. math:: (1-p)^{n-1}\big(E_\pi\hat r - E_{\pi_0}\hat r\big)
              + \Big(\sqrt{\tfrac1p - 1} + \tfrac{n-1}{\sqrt{2n-1}}\Big)
              \,\mathrm{sd}_{\pi_0}(r-\hat r)

    with the first bracket replaced by its largest value
    :math:`\min(\max\hat r-E_{\pi_0}\hat r,\ \sqrt{1/p-1}\,\mathrm{sd}_{\pi_0}(\hat r))`.

    Parameters
    ----------
    proxy, reward, pi0 : array_like, shape (..., S, K)
        The reward that ranks, the reward that counts, and reference policies with full support.
    n : int
        Number of draws, ``n >= 1``.
    p : array_like, shape (..., S), or a number
        Acceptance probabilities of the competitor, in (0, 1].

    Returns
    -------
    ndarray, shape (..., S)

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    Result ``best-of-n-proxy``.
    """
    n = _one_number_of_draws(n)
    proxy, reward = check.rewards(proxy, "proxy"), check.rewards(reward)
    pi0 = check.reference(pi0)
    check.same_trailing("proxy", proxy, "reward", reward, 2)
    check.same_trailing("reward", reward, "pi0", pi0, 2)
    check.broadcast("proxy", proxy.shape[:-2], "reward", reward.shape[:-2])
    p = check.positive(p, "p")
    check._refuse("p", "at most 1", p, p > 1)
    if p.ndim and p.shape[-1] != pi0.shape[-2]:
        raise ValueError(f"p must have one entry per context: {p.shape[-1]} entries, "
                         f"{pi0.shape[-2]} contexts")
    spread = np.sqrt(1 / p - 1)
    room = np.minimum(proxy.max(axis=-1) - expectation(pi0, proxy),
                      spread * np.sqrt(variance(pi0, proxy)))
    error = np.sqrt(variance(pi0, reward - proxy))
    return (1 - p) ** (n - 1) * room + (spread + (n - 1) / np.sqrt(2 * n - 1)) * error


def rso_single_policy(reward, beta, pi0, n: int):
    r"""The exact law of one answer of statistical rejection sampling with ``n`` draws.

    The draws are visited in order and the first accepted one is returned; draw i is accepted with
    probability :math:`e^{(r_i - \max_j r_j)/\beta}`, the maximum being that of the same n draws.

    Parameters
    ----------
    reward : array_like, shape (..., S, K)
        Finite rewards.
    beta : array_like, shape (...)
        KL coefficients, ``beta > 0``.
    pi0 : array_like, shape (..., S, K)
        Reference policies with full support.
    n : int
        Number of draws, ``n >= 1``.

    Returns
    -------
    ndarray, shape (..., S, K)
        A rule that returns one of n draws: between ``pi0`` (n = 1) and the Gibbs policy.

    Raises
    ------
    ValueError
        If a hypothesis above is violated; the message names the entry.

    Notes
    -----
    The law of ``rso_sample`` with ``size=1``. Condition on the maximum: with :math:`F` and
    :math:`G` the masses up to and below the level m and :math:`\rho` the probability that a draw
    below it is refused, the first acceptance at ``a`` has the probability
    :math:`\pi_0(a)t_m(a)\big(\frac{F^n-\rho^n}{F-\rho}-1\{r(a)<m\}\frac{G^n-\rho^n}{G-\rho}\big)`.
    """
    n = _one_number_of_draws(n)
    beta = check.positive(beta, "beta")
    below, tied, _, pi0 = _cells(reward, pi0)
    reward = np.broadcast_to(check.rewards(reward), pi0.shape)
    check.broadcast("reward and pi0", pi0.shape[:-2], "beta", beta.shape)
    # Axes: level (named by an action of it), action.
    drop = (reward[..., None, :] - reward[..., :, None]) / beta[..., None, None, None]
    accept = np.where(drop <= 0, np.exp(np.minimum(drop, 0.0)), 0.0)
    mass = np.where(drop <= 0, pi0[..., None, :], 0.0)
    taken, refused = mass * accept, (mass * (1 - accept)).sum(axis=-1)
    upper = below + tied
    at_once = _geometric_sum(upper, np.minimum(refused, upper), n)
    without = _geometric_sum(below, np.minimum(refused, below), n)
    chance = taken * (at_once[..., None] - np.where(drop < 0, without[..., None], 0.0))
    law = (chance * (pi0 / tied)[..., None]).sum(axis=-2)
    law = np.maximum(law, 0.0)
    return law / law.sum(axis=-1, keepdims=True)


def _geometric_sum(top, rest, n: int):
    """``(top^n - rest^n) / (top - rest)`` for ``0 <= rest <= top <= 1``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(top > 0, rest / np.where(top > 0, top, 1.0), 0.0)
        inside = -np.expm1(n * np.log(share)) / (1 - share)
        inside = np.where(share > 1 - 1e-12, float(n), inside)
        return np.where(top > 0, np.exp((n - 1) * np.log(np.where(top > 0, top, 1.0))) * inside,
                        float(n == 1))


def selection_policy(rule, pi0):
    r"""The law of the answer returned by any rule that picks one of ``n`` draws of ``pi0``.

    Parameters
    ----------
    rule : array_like, shape (..., K, ..., K, n)
        For every list of ``n`` draws (``n`` axes of size K) the probabilities of returning the
        first, ..., the n-th of them.
    pi0 : array_like, shape (..., K)
        Reference laws of one prompt, full support.

    Returns
    -------
    ndarray, shape (..., K)

    Raises
    ------
    ValueError
        If ``pi0`` or a row of ``rule`` is not a probability vector, or shapes do not match.

    Notes
    -----
    Results ``best-of-n-rules`` and ``best-of-n-kl``: KL at most ``log n - (n-1)/n`` whatever
    ``rule``.
    """
    pi0 = check.distribution(pi0, "pi0", ("action",), full_support=True)
    rule = check.distribution(rule, "rule", ("draw",))
    n, K = rule.shape[-1], pi0.shape[-1]
    if rule.ndim < n + 1 or rule.shape[-n - 1:-1] != (K,) * n:
        raise ValueError(f"rule must have {n} axes of size {K} before its last: got {rule.shape}")
    head = rule.ndim - n - 1
    check.broadcast("rule", rule.shape[:head], "pi0", pi0.shape[:-1])
    weight = np.ones(pi0.shape[:-1])
    for i in range(n):
        weight = weight[..., None] * pi0.reshape(pi0.shape[:-1] + (1,) * i + (K,))
    joint = rule * weight[..., None]
    law = 0.0
    for i in range(n):
        law = law + joint[..., i].sum(axis=tuple(j - n for j in range(n) if j != i))
    return law
