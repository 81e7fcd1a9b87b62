r"""The finite instance: a frozen, validated KL-regularized contextual bandit with linear rewards.

What lives here: ``Bandit``, its exact values, and the book's standard instances.
What does not: formulas on plain arrays (``values``, ``policies``) and data (``preferences``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from . import _validate as check
from . import values
from .policies import feature_mean, gibbs_policy, uniform_policy

__all__ = ["Bandit"]

NORM_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Bandit:
    r"""A finite instance :math:`(d_0, \pi_0, \phi, \theta^*, \beta)` with a bound ``B``.

    Parameters
    ----------
    d0 : array_like, shape (S,)
        Prompt distribution.
    pi0 : array_like, shape (S, K)
        Reference policy with full support.
    phi : array_like, shape (S, K, d)
        Features; the reward is :math:`r(x,a) = \langle\theta^*,\phi(x,a)\rangle`.
    theta : array_like, shape (d,)
        The true parameter :math:`\theta^*`.
    beta : float
        KL coefficient, ``beta > 0``.
    B : float, optional
        Known bound, :math:`\|\theta^*\|\le B`; default the norm of ``theta`` (1 if that is 0).

    Raises
    ------
    ValueError
        If a hypothesis is violated; the message names it and the offending entry.
    """

    d0: np.ndarray
    pi0: np.ndarray
    phi: np.ndarray
    theta: np.ndarray
    beta: float
    B: float | None = None
    reward: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        d0, pi0 = check.prompts(self.d0), check.reference(self.pi0)
        phi = check.finite(self.phi, "phi", ("context", "action", "feature"))
        theta = check.finite(self.theta, "theta", ("feature",))
        given = (("d0", d0, 1), ("pi0", pi0, 2), ("phi", phi, 3), ("theta", theta, 1))
        for name, array, axes in given:
            if array.ndim != axes:
                raise ValueError(
                    f"{name} of one instance must have {axes} axes: got shape {array.shape}"
                )
        if d0.shape != pi0.shape[:1]:
            raise ValueError(
                f"d0 and pi0 must agree in contexts: shapes {d0.shape} and {pi0.shape}"
            )
        if phi.shape[:2] != pi0.shape:
            raise ValueError(
                "phi and pi0 must agree in contexts and actions: "
                f"shapes {phi.shape} and {pi0.shape}"
            )
        if theta.shape != phi.shape[2:]:
            raise ValueError(
                f"theta and phi must agree in features: shapes {theta.shape} and {phi.shape}"
            )
        beta = check.number(check.positive(self.beta, "beta"), "beta")
        norm = float(np.linalg.norm(theta))
        bound = norm or 1.0
        if self.B is not None:
            bound = check.number(check.positive(self.B, "B"), "B")
        if norm > bound * (1 + NORM_TOLERANCE):
            raise ValueError(
                f"theta must lie in the ball of radius B: norm {norm!r} > B = {bound!r}"
            )
        reward = phi @ theta
        check.finite(reward, "the reward <theta, phi>", ("context", "action"))
        settled = {"d0": d0, "pi0": pi0, "phi": phi, "theta": theta, "reward": reward}
        for name, array in settled.items():
            array = np.array(array)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "beta", beta)
        object.__setattr__(self, "B", bound)

    # -- sizes -----------------------------------------------------------------------------------

    @property
    def S(self) -> int:
        """Number of contexts."""
        return self.phi.shape[0]

    @property
    def K(self) -> int:
        """Number of actions."""
        return self.phi.shape[1]

    @property
    def d(self) -> int:
        """Number of features."""
        return self.phi.shape[2]

    @property
    def L(self) -> float:
        r"""The largest feature difference :math:`\max\|\phi(x,a)-\phi(x,a')\|`."""
        difference = self.phi[:, :, None, :] - self.phi[:, None, :, :]
        return float(np.linalg.norm(difference, axis=-1).max())

    @property
    def L0(self) -> float:
        r"""The largest distance from the reference, :math:`\max\|\phi(x,a)-\phi(x,\pi_0)\|`."""
        centred = self.phi - feature_mean(self.pi0, self.phi)[:, None, :]
        return float(np.linalg.norm(centred, axis=-1).max())

    @property
    def R_x(self) -> np.ndarray:
        """Range of the reward in each context, shape (S,)."""
        return self.reward.max(axis=-1) - self.reward.min(axis=-1)

    @property
    def R(self) -> float:
        """Largest range of the reward over contexts."""
        return float(self.R_x.max())

    # -- exact values ----------------------------------------------------------------------------

    @property
    def optimal_policy(self) -> np.ndarray:
        r"""The Gibbs policy :math:`\pi^*` of the true reward, shape (S, K)."""
        return gibbs_policy(self.reward, self.beta, self.pi0)

    @property
    def optimal_value(self) -> float:
        r""":math:`J(\pi^*) = \beta E_{d_0}\log E_{\pi_0}e^{r/\beta}`."""
        return float(values.optimal_value(self.reward, self.beta, self.pi0, self.d0))

    @property
    def kl_max(self) -> float:
        """The divergence from which on the frontier is flat."""
        return float(values.kl_max(self.reward, self.pi0, self.d0))

    def _policy(self, policy) -> np.ndarray:
        policy = check.policy(policy)
        if policy.shape[-2:] != self.pi0.shape:
            raise ValueError(
                f"policy must have shape (..., {self.S}, {self.K}): got {policy.shape}"
            )
        return policy

    def _parameter(self, theta) -> np.ndarray:
        theta = check.finite(theta, "theta", ("feature",))
        if theta.shape[-1] != self.d:
            raise ValueError(f"theta must have {self.d} features: got shape {theta.shape}")
        return theta

    def value(self, policy) -> np.ndarray:
        """J of policies (..., S, K); see ``klrlhf.values.value``."""
        return values.value(self._policy(policy), self.reward, self.beta, self.pi0, self.d0)

    def expected_reward(self, policy) -> np.ndarray:
        """Expected true reward of policies (..., S, K)."""
        return values.expected_reward(self._policy(policy), self.reward, self.d0)

    def kl(self, policy) -> np.ndarray:
        """Expected divergence of policies (..., S, K) from the reference."""
        return values.expected_kl(self._policy(policy), self.pi0, self.d0)

    def gap(self, policy) -> np.ndarray:
        """J(pi*) - J(pi) of policies (..., S, K); see ``klrlhf.values.suboptimality``."""
        return values.suboptimality(
            self._policy(policy), self.reward, self.beta, self.pi0, self.d0
        )

    def reward_of(self, theta) -> np.ndarray:
        """Rewards <theta, phi> of parameters (..., d), shape (..., S, K)."""
        return np.einsum("skd,...d->...sk", self.phi, self._parameter(theta))

    def gibbs(self, theta) -> np.ndarray:
        """Gibbs policies of parameters (..., d), shape (..., S, K)."""
        return gibbs_policy(self.reward_of(theta), self.beta, self.pi0)

    def plug_in_gap(self, theta_hat) -> np.ndarray:
        r"""The gap of Gibbs(theta_hat), from the parameter error, accurate however small.

        Parameters
        ----------
        theta_hat : array_like, shape (..., d)
            Estimates.

        Returns
        -------
        ndarray, shape (...)
        """
        theta_hat = self._parameter(theta_hat)
        return values._gap_from_difference(
            self.reward_of(theta_hat - self.theta), self.reward_of(theta_hat), self.reward,
            self.beta, self.pi0, self.d0
        )

    def frontier(self, kl) -> values.KLFrontier:
        """Best expected reward at each KL budget; see ``klrlhf.values.kl_frontier``."""
        return values.kl_frontier(kl, self.reward, self.pi0, self.d0)

    def with_(self, **changes) -> Bandit:
        """A copy with some of ``d0, pi0, phi, theta, beta, B`` replaced, validated again."""
        allowed = {"d0", "pi0", "phi", "theta", "beta", "B"}
        unknown = set(changes) - allowed
        if unknown:
            raise ValueError(
                f"a Bandit has no {', '.join(sorted(unknown))}: choose from {sorted(allowed)}"
            )
        return replace(self, **changes)

    # -- standard instances ----------------------------------------------------------------------

    @classmethod
    def running_example(cls, beta: float = 0.5, hidden: str = "bad") -> Bandit:
        r"""The running example: 3 prompts, 4 actions, 2 features.

        Features :math:`\kappa_x\{(.5,0),(-.5,0),(0,.5),(0,-.5)\}` with strengths
        :math:`\kappa=(.5,.75,1)`, uniform prompts and reference, ``B = 2``.

        Parameters
        ----------
        beta : float
            KL coefficient, ``beta > 0``.
        hidden : {"bad", "good"}
            "bad": theta* = (1, 0), the rarely compared arms 3 and 4 are mediocre;
            "good": theta* = (.5, 1.5), arm 3 is best.

        Returns
        -------
        Bandit

        Raises
        ------
        ValueError
            If ``hidden`` is neither "bad" nor "good", or ``beta`` is not positive.
        """
        parameters = {"bad": (1.0, 0.0), "good": (0.5, 1.5)}
        if not isinstance(hidden, str) or hidden not in parameters:
            raise ValueError(f"hidden must be 'bad' or 'good': got {hidden!r}")
        shape = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])
        phi = np.array([0.5, 0.75, 1.0])[:, None, None] * shape
        return cls(np.full(3, 1 / 3), uniform_policy(3, 4), phi, parameters[hidden], beta, B=2.0)

    @classmethod
    def random(cls, rng, S: int = 3, K: int = 4, d: int = 2, beta: float = 1.0,
               B: float = 2.0) -> Bandit:
        """A random instance: Dirichlet laws, Gaussian features, theta* uniform in the ball.

        Parameters
        ----------
        rng : numpy.random.Generator or int
            Source of randomness.
        S, K, d : int
            Numbers of contexts, actions, features, at least 1.
        beta, B : float
            KL coefficient and norm bound, positive.

        Returns
        -------
        Bandit

        Raises
        ------
        ValueError
            If a size is below 1 or ``beta`` or ``B`` is not positive.
        """
        rng = check.generator(rng)
        S, K, d = check.size(S, "S"), check.size(K, "K"), check.size(d, "d")
        B = check.number(check.positive(B, "B"), "B")
        direction = rng.standard_normal(d)
        theta = B * rng.random() ** (1 / d) * direction / np.linalg.norm(direction)
        d0 = rng.dirichlet(np.ones(S))
        pi0 = rng.dirichlet(np.ones(K), size=S)
        return cls(d0, pi0, rng.standard_normal((S, K, d)) / np.sqrt(d), theta, beta, B=B)

    @classmethod
    def tabular(cls, reward, beta: float, pi0=None, d0=None, B: float | None = None) -> Bandit:
        """An instance with one-hot features: one parameter per context and action.

        Parameters
        ----------
        reward : array_like, shape (S, K)
            Rewards; ``theta`` is the flattened table.
        beta : float
            KL coefficient, ``beta > 0``.
        pi0 : array_like, shape (S, K), optional
            Reference policy, default uniform.
        d0 : array_like, shape (S,), optional
            Prompt distribution, default uniform.
        B : float, optional
            Norm bound, default the norm of the table.

        Returns
        -------
        Bandit

        Raises
        ------
        ValueError
            If a hypothesis is violated; the message names it.
        """
        reward = check.rewards(reward)
        if reward.ndim != 2:
            raise ValueError(f"reward of one instance must have shape (S, K): got {reward.shape}")
        S, K = reward.shape
        phi = np.eye(S * K).reshape(S, K, S * K)
        pi0 = uniform_policy(S, K) if pi0 is None else pi0
        d0 = np.full(S, 1 / S) if d0 is None else d0
        return cls(d0, pi0, phi, reward.ravel(), beta, B=B)

    @classmethod
    def three_arms(cls, gap: float = 1.0, beta: float = 0.5, B: float = 2.0) -> Bandit:
        """Three arms, one context: arms 1 and 2 equal, arm 3 worse by ``gap``; rewards sum to 0.

        Parameters
        ----------
        gap : float
            r(1) - r(3) = r(2) - r(3), nonnegative.
        beta, B : float
            KL coefficient and norm bound, positive.

        Returns
        -------
        Bandit

        Raises
        ------
        ValueError
            If ``gap`` is negative or the rewards leave the ball of radius ``B``.

        Notes
        -----
        The instance of result ``plug-in-failure``.
        """
        gap = check.number(check.nonnegative(gap, "gap"), "gap")
        return cls.tabular([[gap / 3, gap / 3, -2 * gap / 3]], beta, B=B)
