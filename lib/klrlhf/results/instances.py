r"""Random and extreme finite instances for the checks.

What lives here: batches of instances as plain arrays with one leading replicate axis, mixing generic
draws with the corners where inequalities are tight or code breaks (tiny probabilities, two-point
laws, huge and tiny spans, contexts of probability 0).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Instances", "random_instances", "random_policies", "two_point_instances"]


class Instances(NamedTuple):
    """Arrays with leading axis N: prompts, references, true and estimated rewards, beta."""

    d0: np.ndarray
    pi0: np.ndarray
    reward: np.ndarray
    reward_hat: np.ndarray
    beta: np.ndarray


def _dirichlet(rng, concentration, shape) -> np.ndarray:
    """Dirichlet draws in log space, so that tiny concentrations keep full support."""
    # log Gamma(a) = log Gamma(a + 1) + log(U) / a in law.
    log_gamma = np.log(rng.standard_gamma(concentration + 1.0, shape)) + np.log(
        rng.random(shape)) / concentration
    log_gamma = np.maximum(log_gamma - log_gamma.max(axis=-1, keepdims=True), -200.0)
    weight = np.exp(log_gamma)
    return weight / weight.sum(axis=-1, keepdims=True)


def random_policies(rng, size: int, S: int, K: int) -> np.ndarray:
    """Policies of shape (size, S, K): spread, concentrated, nearly deterministic."""
    concentration = 10.0 ** rng.uniform(-1.3, 1.3, (size, 1, 1))
    return _dirichlet(rng, concentration, (size, S, K))


def random_instances(rng, size: int, S: int | None = None, K: int | None = None) -> Instances:
    """``size`` instances with a common ``S`` in 1..4 and ``K`` in 2..6 unless given."""
    S = int(rng.integers(1, 5)) if S is None else S
    K = int(rng.integers(2, 7)) if K is None else K
    pi0 = random_policies(rng, size, S, K)
    d0 = _dirichlet(rng, 10.0 ** rng.uniform(-1.0, 1.0, (size, 1)), (size, S))
    if S > 1:
        # Contexts that never occur must not matter.
        never = (rng.random((size, S)) < 0.05) & (np.arange(S) > 0)
        d0 = np.where(never, 0.0, d0)
        d0 = d0 / d0.sum(axis=-1, keepdims=True)
    beta = 10.0 ** rng.uniform(-2.0, 2.0, size)
    span = 10.0 ** rng.uniform(-3.0, 1.3, (size, 1, 1)) * beta[:, None, None]
    reward = span * rng.standard_normal((size, S, K))
    # Two-valued rewards and exact ties are where several bounds are tight.
    coarse = rng.random((size, 1, 1)) < 0.3
    reward = np.where(coarse, span * (rng.random((size, S, K)) < 0.5), reward)
    error = 10.0 ** rng.uniform(-3.0, 1.0, (size, 1, 1)) * beta[:, None, None]
    noise = np.where(rng.random((size, 1, 1)) < 0.3,
                     (rng.random((size, S, K)) < 0.5).astype(float),
                     rng.standard_normal((size, S, K)))
    return Instances(d0, pi0, reward, reward + error * noise, beta)


def two_point_instances(rng, size: int) -> Instances:
    """One context, two actions: the extremal family of sections 1.3 and 1.5."""
    low = 10.0 ** rng.uniform(-6, -0.31, size)
    pi0 = np.stack([low, 1 - low], axis=-1)[:, None, :]
    pi0 = np.where((rng.random(size) < 0.5)[:, None, None], pi0, pi0[..., ::-1])
    beta = 10.0 ** rng.uniform(-2, 2, size)
    gap = beta * 10.0 ** rng.uniform(-3, 1.5, size)
    zero = np.zeros(size)
    reward = np.stack([zero, gap], axis=-1)[:, None, :]
    shift = beta * 10.0 ** rng.uniform(-3, 1.5, size) * rng.choice([-1, 1], size)
    reward_hat = reward + np.stack([zero, shift], axis=-1)[:, None, :]
    return Instances(np.ones((size, 1)), pi0, reward, reward_hat, beta)
