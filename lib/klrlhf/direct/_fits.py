r"""Minimizers of the DPO losses: in the Gibbs class of a linear reward, and in free logits.

In the Gibbs class over the ball the loss is the Bradley-Terry loss of the parameter, so the fit is
that of ``estimation``. In free logits it is the Bradley-Terry loss of one parameter per answer, and
its minimum exists only under Ford's condition.

What lives here: the fits and the path of gradient descent.
What does not: losses (``_losses``); what happens where no minimum exists (``_separation``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_softmax

from .. import _validate as check
from ..bandit import Bandit
from ..estimation import _comparisons, fit_mle, win_graph_strongly_connected
from ..offline._pessimism import pessimistic_pointwise
from ..policies import log_gibbs_policy
from ..preferences import Comparisons, _bandit
from ._losses import _incidence, _inside, dpo_loss, pessimistic_shift

__all__ = [
    "DPOFit",
    "fit_dpo",
    "fit_pessimistic_dpo",
    "SoftmaxFit",
    "fit_dpo_softmax",
    "gradient_step_size",
]


class DPOFit(NamedTuple):
    """A fit in the Gibbs class: log-policy, parameter, loss, and the Frank-Wolfe certificate."""

    log_policy: np.ndarray
    theta: np.ndarray
    loss: np.ndarray
    certificate: np.ndarray


def fit_dpo(bandit: Bandit, data: Comparisons) -> DPOFit:
    r"""DPO in the Gibbs class :math:`\{\mathrm{Gibbs}(\theta) : \|\theta\|\le B\}`.

    Parameters
    ----------
    bandit : Bandit
        Its ``theta`` is not used; its ``B`` is the radius of the class.
    data : Comparisons
        Win counts, shape (..., T), with the features of ``bandit``.

    Returns
    -------
    DPOFit
        ``log_policy`` (..., S, K) is the plug-in policy of ``fit_mle``.

    Raises
    ------
    ValueError
        If the features of ``data`` are not those of ``bandit``.

    Notes
    -----
    Result ``dpo-is-plug-in``.
    """
    _own(bandit, data)
    fit = fit_mle(data, bandit.B)
    log_policy = log_gibbs_policy(bandit.reward_of(fit.theta), bandit.beta, bandit.pi0)
    loss = dpo_loss(log_policy, bandit.pi0, data, bandit.beta)
    return DPOFit(log_policy, fit.theta, loss, fit.certificate)


def _own(bandit: Bandit, data: Comparisons) -> None:
    """The features of the comparisons are those of the instance."""
    _bandit(bandit)
    x, first, second = _inside(_comparisons(data).pairs, bandit.S, bandit.K).T
    z = bandit.phi[x, first] - bandit.phi[x, second]
    if z.shape != data.z.shape or not np.allclose(z, data.z, rtol=1e-9, atol=1e-12):
        raise ValueError("data must have the features of bandit: their z differ")


def fit_pessimistic_dpo(bandit: Bandit, data: Comparisons, V, rho, nu) -> DPOFit:
    r"""Pessimistic DPO in the class :math:`\{\mathrm{Gibbs}(r_\theta-\rho\Gamma)\}`.

    The loss is :math:`-\log\sigma(m + \rho(\Gamma_{\rm win}-\Gamma_{\rm lose}))`, summed.

    Parameters
    ----------
    bandit : Bandit
        Its ``theta`` is not used.
    data : Comparisons
        Win counts, shape (..., T).
    V : array_like, shape (..., d, d)
        Design matrices.
    rho : array_like, shape (...)
        Radii, nonnegative.
    nu : array_like, shape (..., S, d)
        A reference vector per prompt.

    Returns
    -------
    DPOFit
        ``log_policy`` is that of ``pessimistic_pointwise`` at the maximum likelihood estimate.

    Raises
    ------
    ValueError
        If an argument leaves its range or shapes do not match.

    Notes
    -----
    Result ``dpo-pessimistic``.
    """
    _own(bandit, data)
    fit = fit_mle(data, bandit.B)
    reward = pessimistic_pointwise(bandit, fit.theta, V, rho, nu).reward
    log_policy = log_gibbs_policy(reward, bandit.beta, bandit.pi0)
    shift = pessimistic_shift(bandit, V, rho, nu, data.pairs)
    loss = dpo_loss(log_policy, bandit.pi0, data, bandit.beta, shift)
    return DPOFit(log_policy, fit.theta, loss, fit.certificate)


class SoftmaxFit(NamedTuple):
    """A fit in free logits: log-policy, loss, whether a minimum exists, and the recorded path.

    ``steps`` (P,), ``path`` (P, ..., S, K) and ``losses`` (P, ...) are None for the exact fit.
    """

    log_policy: np.ndarray
    loss: np.ndarray
    attained: np.ndarray
    steps: np.ndarray | None
    path: np.ndarray | None
    losses: np.ndarray | None


def gradient_step_size(data: Comparisons, beta: float) -> np.ndarray:
    r"""A step size at which gradient descent on the logits never raises the loss.

    Along :math:`e_{a_1}-e_{a_2}` the loss of one comparison has curvature at most
    :math:`\beta^2/4`, so the Hessian is at most :math:`\beta^2/4` times the Laplacian of the
    counts, whose eigenvalues are at most twice its largest degree.

    Parameters
    ----------
    data : Comparisons
        Win counts, shape (..., T).
    beta : float
        KL coefficient, positive.

    Returns
    -------
    ndarray, shape (...)
        :math:`2/(\beta^2 D)` with the largest degree D (1 where there are no comparisons).

    Raises
    ------
    ValueError
        If ``beta`` is not positive.

    Notes
    -----
    Result ``dpo-descent``.
    """
    beta = check.number(check.positive(beta, "beta"), "beta")
    x, first, second = _comparisons(data).pairs.T
    S, K = int(x.max(initial=0)) + 1, int(second.max(initial=0)) + 1
    degree = np.zeros((len(x), S * K))
    degree[np.arange(len(x)), x * K + first] = 1.0
    degree[np.arange(len(x)), x * K + second] = 1.0
    largest = (data.counts @ degree).max(axis=-1, initial=0.0)
    return 2.0 / (beta**2 * np.maximum(largest, 1.0))


def fit_dpo_softmax(data: Comparisons, pi0, beta: float, steps=None, step_size=None,
                    shift=0.0) -> SoftmaxFit:
    r"""DPO over all policies with full support, in the logits of a softmax.

    Parameters
    ----------
    data : Comparisons
        Win counts, shape (..., T); their features are not used.
    pi0 : array_like, shape (S, K)
        Reference policy with full support; gradient descent starts here.
    beta : float
        KL coefficient, positive.
    steps : array_like of int, shape (P,), optional
        Run gradient descent and record the policy after these numbers of steps, increasing from 0
        on. Default: the exact minimizer, which must exist.
    step_size : float, optional
        Default ``gradient_step_size``, at which the loss never rises.
    shift : array_like, shape (..., T) or scalar
        As in ``dpo_loss``; gradient descent only.

    Returns
    -------
    SoftmaxFit
        Answers that no comparison connects keep their shares of ``pi0``.

    Raises
    ------
    ValueError
        If the exact minimizer is asked for and does not exist, because some win graph is not
        strongly connected; or if an argument leaves its range.

    Notes
    -----
    Results ``dpo-free-softmax`` and ``dpo-descent``.
    """
    pi0 = check.reference(pi0)
    if pi0.ndim != 2:
        raise ValueError(f"pi0 must have shape (S, K): got {pi0.shape}")
    beta = check.number(check.positive(beta, "beta"), "beta")
    _inside(_comparisons(data).pairs, *pi0.shape)
    attained = win_graph_strongly_connected(data)
    if steps is None:
        if np.any(np.asarray(shift) != 0):
            raise ValueError("shift must be 0 for the exact fit: give steps")
        if not attained.all():
            raise ValueError(
                "the DPO loss must have a minimum over all policies: the win graph of "
                f"{int((~attained).sum())} of {attained.size} data sets is not strongly connected "
                "(Ford's condition); give steps, or fit in the Gibbs class over the ball"
            )
        reward = _tabular_mle(data, *pi0.shape)
        log_policy = log_gibbs_policy(reward, beta, pi0)
        return SoftmaxFit(log_policy, dpo_loss(log_policy, pi0, data, beta), attained,
                          None, None, None)
    steps = _recorded(steps)
    size = gradient_step_size(data, beta) if step_size is None else np.broadcast_to(
        check.positive(step_size, "step_size"), data.counts.shape[:-1])
    lead, start = data.counts.shape[:-1], np.log(pi0)
    shift = check.finite(shift, "shift")
    if check.broadcast("shift", shift.shape, "the comparisons",
                       data.counts.shape) != data.counts.shape:
        raise ValueError(f"shift must not have more replicates than data: got {shift.shape}")
    pairs = _incidence(data.pairs, *pi0.shape)
    # The reference cancels in the start, so the moves of the logits alone make the margins.
    moved, path, done = np.zeros((*lead, pi0.size)), [], 0
    for target in steps:
        for _ in range(target - done):
            m = beta * (moved @ pairs.T) + shift
            pull = data.losses * expit(m) - data.wins * expit(-m)
            moved = moved - (beta * size)[..., None] * (pull @ pairs)
        done = target
        path.append(log_softmax(start + moved.reshape(*lead, *pi0.shape), axis=-1))
    path = np.stack(path)
    losses = np.stack([dpo_loss(p, pi0, data, beta, shift) for p in path])
    return SoftmaxFit(path[-1], losses[-1], attained, steps, path, losses)


def _recorded(steps) -> np.ndarray:
    steps = np.atleast_1d(np.asarray(steps))
    if steps.ndim != 1 or not len(steps) or steps.dtype.kind not in "iu":
        raise ValueError("steps must be whole numbers, shape (P,)")
    if (steps < 0).any() or (np.diff(steps) <= 0).any() or steps[-1] > 10**7:
        raise ValueError(f"steps must increase from 0 on, to at most 1e7: got {steps.tolist()}")
    return steps


def _tabular_mle(data: Comparisons, S: int, K: int) -> np.ndarray:
    """The unconstrained one-hot estimate, centred in each component, shape (..., S, K)."""
    one_hot = Comparisons(data.pairs, _incidence(data.pairs, S, K), data.counts, data.wins)
    B = 10.0 * np.sqrt(S * K)
    while True:
        # Strong connection bounds the estimate, so some ball holds it.
        fit = fit_mle(one_hot, B)
        if not fit.on_boundary.any():
            return fit.theta.reshape(*fit.theta.shape[:-1], S, K)
        B *= 4.0
