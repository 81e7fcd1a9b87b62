r"""The bounds of online and hybrid learning.

What lives here: formulas with explicit constants.
What does not: the quantities that go into them (``_gshf``).
"""

from __future__ import annotations

import numpy as np

from .. import _validate as check
from ..bandit import Bandit
from ..numerics import sharp_hoeffding, sigmoid_slope
from ..preferences import _bandit

__all__ = [
    "required_reg",
    "required_reg_free",
    "information_bound",
    "water_level",
    "online_bound",
    "without_enhancer_bound",
    "free_exploration_bound",
    "free_regret_bound",
    "free_exploration_constant",
]

# The root x of (1 - e^{-x}) / x = 1/2 and 2 / x: the step of the adapted matrix Chernoff bound that
# leaves half of the expected matrix.
CHERNOFF_STEP = 1.5936242600400401
CHERNOFF_REG = 2.0 / CHERNOFF_STEP


def required_reg(L: float, d: int, delta: float) -> float:
    r"""The ridge of the online guarantee, :math:`(2/\xi_0)L^2\log(2d/\delta)`, :math:`2/\xi_0 = 1.255\ldots`.

    Parameters
    ----------
    L : float
        Largest feature difference, positive.
    d : int
        Number of features.
    delta : float
        Failure probability in (0, 1).

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument leaves its range.

    Notes
    -----
    Results ``adapted-matrix-chernoff`` and ``online-guarantee``.
    """
    L = check.number(check.positive(L, "L"), "L")
    delta = check.number(check.probability_level(delta), "delta")
    return CHERNOFF_REG * L**2 * float(np.log(2 * check.size(d, "d") / delta))


def required_reg_free(L: float, d: int, delta: float) -> float:
    r"""The ridge of free exploration, :math:`(1/\xi_0)L^2\log(d/\delta)`, :math:`1/\xi_0 = 0.6275\ldots`.

    Parameters
    ----------
    L : float
        Largest feature difference, positive.
    d : int
        Number of features.
    delta : float
        Failure probability in (0, 1), below ``d``.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If an argument leaves its range.

    Notes
    -----
    Result ``free-exploration``, part A.
    """
    L = check.number(check.positive(L, "L"), "L")
    delta = check.number(check.probability_level(delta), "delta")
    return L**2 * float(np.log(check.size(d, "d") / delta)) / CHERNOFF_STEP


def information_bound(d: int, n, L: float, reg: float) -> np.ndarray:
    r"""The largest information gain of ``n`` comparisons, :math:`d\log(1+nL^2/(d\,\mathrm{reg}))`.

    Parameters
    ----------
    d : int
        Number of features.
    n : array_like, shape (...)
        Comparisons (rounds times batch), nonnegative.
    L, reg : float
        Largest feature difference, nonnegative, and ridge, positive.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If an argument leaves its range.

    Notes
    -----
    Result ``elliptical-potential``.
    """
    d, n = check.size(d, "d"), check.nonnegative(n, "n")
    L = check.number(check.nonnegative(L, "L"), "L")
    return d * np.log1p(n * L**2 / (d * check.number(check.positive(reg, "reg"), "reg")))


def water_level(eigenvalues, budget) -> np.ndarray:
    r"""The level :math:`\nu` with :math:`\sum_j(\nu-w_j)_+=b`: water poured over eigenvalues.

    A matrix with eigenvalues :math:`w_j` to which a positive semidefinite one of trace at most
    :math:`b` is added gains at most :math:`\sum_j(\log(\nu/w_j))_+` in log-determinant.

    Parameters
    ----------
    eigenvalues : array_like, shape (..., d)
        Eigenvalues w of the start, positive, in any order.
    budget : array_like, shape (...)
        Trace b that may be added, nonnegative; its axes broadcast against the leading axes of
        ``eigenvalues``.

    Returns
    -------
    ndarray, shape (...)
        The least eigenvalue where the budget is 0.

    Raises
    ------
    ValueError
        If an argument leaves its range or the leading axes do not broadcast.

    Notes
    -----
    Result ``hybrid-information``.
    """
    w = check.finite(eigenvalues, "eigenvalues", ("eigenvalue",))
    check.positive(w, "eigenvalues")
    budget = check.nonnegative(budget, "budget")
    check.broadcast("eigenvalues", w.shape[:-1], "budget", budget.shape)
    w = np.sort(w, axis=-1)
    level = (budget[..., None] + np.cumsum(w, axis=-1)) / np.arange(1, w.shape[-1] + 1)
    # The last eigenvalue that is not above the level of those up to it; the first one never is.
    last = w.shape[-1] - 1 - (level >= w)[..., ::-1].argmax(axis=-1)
    return np.take_along_axis(level, last[..., None], axis=-1)[..., 0]


def online_bound(rho, information, rounds, batch) -> np.ndarray:
    r"""The bound :math:`\rho_T\sqrt{(2/m)(e^{I_T/T}-1)}` on the least certificate.

    Parameters
    ----------
    rho : array_like, shape (...)
        Radius of the last round, nonnegative.
    information : array_like, shape (...)
        Information gain :math:`I_T`, nonnegative; or a bound of it.
    rounds, batch : array_like, shape (...)
        T and m, positive.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If an argument leaves its range.

    Notes
    -----
    Results ``online-guarantee`` and ``hybrid-guarantee``.
    """
    rho, information = check.nonnegative(rho, "rho"), check.nonnegative(information, "information")
    rounds, batch = check.positive(rounds, "rounds"), check.positive(batch, "batch")
    with np.errstate(over="ignore"):
        return _product(rho, np.sqrt(2.0 / batch * np.expm1(information / rounds)))


def without_enhancer_bound(rho, start, information, rounds, batch) -> np.ndarray:
    r"""The bound of the variant without enhancer.

    .. math:: \rho_T\Big(\|E\phi(\pi^*)-E\phi(\pi_0)\|_{V^{-1}} + \sqrt{(2/m)(e^{2I_T/T}-1)}\Big)

    Parameters
    ----------
    rho : array_like, shape (...)
        Radius of the last round, nonnegative.
    start : array_like, shape (...)
        The norm, with V after half of the rounds; nonnegative.
    information, rounds, batch : array_like, shape (...)
        As in ``online_bound``.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If an argument leaves its range.

    Notes
    -----
    Result ``hybrid-without-enhancer``.
    """
    start = check.nonnegative(start, "start")
    second = online_bound(1.0, 2 * check.nonnegative(information, "information"), rounds, batch)
    return _product(check.nonnegative(rho, "rho"), start + second)


def _product(rho: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """rho times a factor that may have overflowed: 0 where rho is 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(rho == 0, 0.0, rho * factor)[()]


def free_exploration_bound(bandit: Bandit, rho, n) -> np.ndarray:
    r"""The bound :math:`e^{BL_0/\beta}\rho^2/(2\beta n)` of exploring with the reference alone.

    With ``n`` replaced by :math:`m(t-1)/2` it is the bound of round t of the pairs
    :math:`(\pi^1_t,\pi_0)`.

    Parameters
    ----------
    bandit : Bandit
        Its B, L0 and beta are used.
    rho : array_like, shape (...)
        Radius, nonnegative.
    n : array_like, shape (...)
        Comparisons, positive.

    Returns
    -------
    ndarray, shape (...)
        Infinite where the exponential overflows.

    Raises
    ------
    ValueError
        If an argument leaves its range.

    Notes
    -----
    Result ``free-exploration``.
    """
    rho, n = check.nonnegative(rho, "rho"), check.positive(n, "n")
    _bandit(bandit)
    with np.errstate(over="ignore"):
        return _product(rho**2, np.exp(bandit.B * bandit.L0 / bandit.beta)) / (2 * bandit.beta * n)


def free_regret_bound(bandit: Bandit, rho, rounds, batch) -> np.ndarray:
    r"""The bound of the regret of the pairs :math:`(\pi^1_t,\pi_0)`.

    .. math:: m\beta h(R/\beta) + e^{BL_0/\beta}\frac{\rho_T^2}\beta(1+\log T)

    Parameters
    ----------
    bandit : Bandit
        Its B, L0, R and beta are used.
    rho : array_like, shape (...)
        Radius of the last round, nonnegative.
    rounds, batch : array_like, shape (...)
        T and m, at least 1.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If an argument leaves its range.

    Notes
    -----
    Result ``free-exploration``, part B.
    """
    rho = check.nonnegative(rho, "rho")
    rounds = check.positive(rounds, "rounds", smallest=1.0)
    batch = check.positive(batch, "batch", smallest=1.0)
    beta = _bandit(bandit).beta
    with np.errstate(over="ignore"):
        price = np.exp(bandit.B * bandit.L0 / beta)
    first = batch * beta * sharp_hoeffding(bandit.R / beta)
    return first + _product(rho**2, price) / beta * (1 + np.log(rounds))


def free_exploration_constant(R, beta) -> np.ndarray:
    r"""The exact limit of :math:`n\,E[\text{gap}]` in the two-arm example, exponential in R / beta.

    .. math:: \frac{\cosh^2(R/(2\beta))}{4\beta\,\sigma'(R)}

    Parameters
    ----------
    R, beta : array_like, shape (...)
        Reward gap, nonnegative, and KL coefficient, positive.

    Returns
    -------
    ndarray, shape (...)
        Infinite where it overflows.

    Raises
    ------
    ValueError
        If an argument leaves its range.

    Notes
    -----
    Result ``free-exploration-price``.
    """
    R, beta = check.nonnegative(R, "R"), check.positive(beta, "beta")
    check.broadcast("R", R.shape, "beta", beta.shape)
    with np.errstate(over="ignore", divide="ignore"):
        return np.cosh(R / (2 * beta)) ** 2 / (4 * beta * sigmoid_slope(R))
