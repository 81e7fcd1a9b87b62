r"""Bradley-Terry comparisons, kept as win counts per distinct triple.

Data format: a *pair* is a row ``(x, a1, a2)`` with ``a1 < a2``; ``z = phi(x,a1) - phi(x,a2)``;
``counts[..., t]`` is how often pair ``t`` was compared and ``wins[..., t]`` how often ``a1`` won.
The counts are sufficient for the parameter (result ``win-count-sufficiency``), so the cost of a fit
does not grow with the number of comparisons.
A *design* is an array ``(..., T)`` of probabilities over pairs; mass missing from 1 is the
probability of comparing an action with itself, which says nothing.

What lives here: pairs, designs, sampling.
What does not: fitting (``estimation``) and radii (``confidence``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from . import _validate as check
from .bandit import Bandit

__all__ = [
    "all_pairs",
    "pair_features",
    "preference_probability",
    "policy_design",
    "coverage_design",
    "Comparisons",
    "sample_comparisons",
    "sample_outcomes",
    "sample_adaptive",
]


def all_pairs(S: int, K: int) -> np.ndarray:
    """All distinct pairs, context by context.

    Parameters
    ----------
    S, K : int
        Numbers of contexts and actions; ``S >= 1``, ``K >= 2``.

    Returns
    -------
    ndarray of int, shape (S K (K-1) / 2, 3)
        Rows ``(x, a1, a2)`` with ``a1 < a2``.

    Raises
    ------
    ValueError
        If ``S < 1`` or ``K < 2``.
    """
    S, K = check.size(S, "S"), check.size(K, "K", least=2)
    first, second = np.triu_indices(K, 1)
    context = np.repeat(np.arange(S), len(first))
    return np.stack([context, np.tile(first, S), np.tile(second, S)], axis=1)


def pair_features(phi, pairs) -> np.ndarray:
    r"""Feature differences :math:`z = \phi(x,a_1) - \phi(x,a_2)`.

    Parameters
    ----------
    phi : array_like, shape (S, K, d)
        Features.
    pairs : array_like of int, shape (T, 3)
        Rows ``(x, a1, a2)``.

    Returns
    -------
    ndarray, shape (T, d)

    Raises
    ------
    ValueError
        If a row points outside ``phi``.
    """
    phi = check.finite(phi, "phi", ("context", "action", "feature"))
    if phi.ndim != 3:
        raise ValueError(f"phi must have shape (S, K, d): got {phi.shape}")
    pairs = _pairs(pairs)
    for column, size, name in ((0, phi.shape[0], "context"), (1, phi.shape[1], "action"),
                               (2, phi.shape[1], "action")):
        bad = pairs[:, column] >= size
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"pairs must name existing {name}s: row {row} is {pairs[row].tolist()}"
            )
    return phi[pairs[:, 0], pairs[:, 1]] - phi[pairs[:, 0], pairs[:, 2]]


def _pairs(pairs) -> np.ndarray:
    try:
        pairs = np.asarray(pairs)
    except ValueError as error:
        raise ValueError("pairs must be whole numbers of shape (T, 3)") from error
    if pairs.ndim != 2 or pairs.shape[1] != 3 or pairs.dtype.kind not in "iu":
        raise ValueError(f"pairs must be whole numbers of shape (T, 3): got shape {pairs.shape}")
    bad = (pairs < 0).any(axis=1) | (pairs[:, 1] >= pairs[:, 2])
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"each pair must be (x, a1, a2) with 0 <= a1 < a2: row {row} is {pairs[row].tolist()}"
        )
    keys = {tuple(row) for row in pairs.tolist()}
    if len(keys) < len(pairs):
        raise ValueError("pairs must be distinct: merge repeated rows into one count")
    return pairs


def preference_probability(theta, z) -> np.ndarray:
    r"""Bradley-Terry probability :math:`P(a_1 \succ a_2) = \sigma(\langle\theta, z\rangle)`.

    Parameters
    ----------
    theta : array_like, shape (..., d)
        Parameters.
    z : array_like, shape (T, d)
        Feature differences.

    Returns
    -------
    ndarray, shape (..., T)

    Raises
    ------
    ValueError
        If an entry is not finite or shapes do not match.
    """
    theta = check.finite(theta, "theta", ("feature",))
    z = check.finite(z, "z", ("pair", "feature"))
    if z.ndim != 2 or theta.shape[-1] != z.shape[-1]:
        raise ValueError(f"theta and z must agree in features: shapes {theta.shape} and {z.shape}")
    return expit(theta @ z.T)


def _bandit(bandit) -> Bandit:
    if not isinstance(bandit, Bandit):
        raise ValueError(f"bandit must be a Bandit: got {type(bandit).__name__}")
    return bandit


def _design(design, T: int, name: str = "design") -> np.ndarray:
    """Nonnegative probabilities over pairs with total at most one."""
    design = check.finite(design, name, ("pair",))
    if design.shape[-1] != T:
        raise ValueError(
            f"{name} must have one probability per pair: {design.shape[-1]} for {T} pairs"
        )
    if (design < 0).any():
        index = tuple(np.argwhere(design < 0)[0])
        raise ValueError(f"{name} must be nonnegative: pair {index[-1]} has {design[index]}")
    total = design.sum(axis=-1)
    if np.any(total > 1 + check.POLICY_TOLERANCE):
        raise ValueError(
            f"{name} must not sum to more than one: it sums to {float(np.max(total))!r}"
        )
    return design


def policy_design(d0, mu1, mu2) -> np.ndarray:
    r"""The law of the unordered pair when :math:`x\sim d_0, a_1\sim\mu_1, a_2\sim\mu_2`.

    Parameters
    ----------
    d0 : array_like, shape (..., S)
        Prompt distributions.
    mu1, mu2 : array_like, shape (..., S, K)
        Policies of the two sides.

    Returns
    -------
    ndarray, shape (..., S K (K-1) / 2)
        Probabilities over ``all_pairs(S, K)``; they miss 1 by the chance of a self-comparison.

    Raises
    ------
    ValueError
        If an argument is not a distribution or shapes do not match.
    """
    d0, mu1, mu2 = check.prompts(d0), check.policy(mu1, "mu1"), check.policy(mu2, "mu2")
    check.same_trailing("mu1", mu1, "mu2", mu2, 2)
    S, K = mu1.shape[-2:]
    if d0.shape[-1] != S:
        raise ValueError(
            f"d0 must have one entry per context: {d0.shape[-1]} entries, {S} contexts"
        )
    x, first, second = all_pairs(S, K).T
    meet = mu1[..., x, first] * mu2[..., x, second] + mu1[..., x, second] * mu2[..., x, first]
    check.broadcast("the policies", meet.shape[:-1], "d0", d0.shape[:-1])
    return d0[..., x] * meet


def coverage_design(bandit: Bandit, c: float) -> np.ndarray:
    r"""The running example's log: with probability ``c`` a uniform pair, else arms 1 and 2.

    Parameters
    ----------
    bandit : Bandit
        An instance with at least two actions.
    c : float
        Coverage in [0, 1].

    Returns
    -------
    ndarray, shape (T,)
        Probabilities over ``all_pairs(S, K)``, prompts drawn from ``d0``.

    Raises
    ------
    ValueError
        If ``c`` leaves [0, 1].
    """
    _bandit(bandit)
    c = check.number(check.nonnegative(c, "c"), "c")
    if c > 1:
        raise ValueError(f"c must lie in [0, 1]: got {c}")
    x, first, second = all_pairs(bandit.S, bandit.K).T
    narrow = ((first == 0) & (second == 1)).astype(float)
    wide = 2.0 / (bandit.K * (bandit.K - 1))
    return bandit.d0[x] * (c * wide + (1 - c) * narrow)


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Win counts per distinct pair, with leading replicate axes.

    Parameters
    ----------
    pairs : array_like of int, shape (T, 3)
        Distinct rows ``(x, a1, a2)`` with ``a1 < a2``.
    z : array_like, shape (T, d)
        Feature differences of the pairs.
    counts : array_like, shape (..., T)
        Numbers of comparisons, nonnegative whole numbers.
    wins : array_like, shape (..., T)
        Numbers won by ``a1``; between 0 and ``counts``. Half wins are allowed for ties.

    Raises
    ------
    ValueError
        If a hypothesis is violated; the message names it and the offending entry.
    """

    pairs: np.ndarray
    z: np.ndarray
    counts: np.ndarray
    wins: np.ndarray

    def __post_init__(self):
        pairs = _pairs(self.pairs)
        z = check.finite(self.z, "z", ("pair", "feature"))
        if z.ndim != 2 or len(z) != len(pairs):
            raise ValueError(f"z must have one row per pair: {z.shape} for {len(pairs)} pairs")
        counts = check.finite(self.counts, "counts", ("pair",))
        wins = check.finite(self.wins, "wins", ("pair",))
        if counts.shape[-1] != len(pairs):
            raise ValueError(
                f"counts must have one entry per pair: {counts.shape}, {len(pairs)} pairs"
            )
        check.same_trailing("counts", counts, "wins", wins, 1)
        counts, wins = np.broadcast_arrays(counts, wins)
        for name, bad in ((f"counts must be whole numbers from 0 to {check.MOST_COMPARISONS:g}",
                           (counts < 0) | (counts != np.floor(counts))
                           | (counts > check.MOST_COMPARISONS)),
                          ("wins must lie between 0 and counts", (wins < 0) | (wins > counts)),
                          ("wins must be whole or half numbers", 2 * wins != np.floor(2 * wins))):
            if bad.any():
                index = tuple(np.argwhere(bad)[0])
                raise ValueError(
                    f"{name}: pair {index[-1]} has {wins[index]} wins in {counts[index]}"
                )
        for name, array in (("pairs", pairs), ("z", z), ("counts", counts), ("wins", wins)):
            array = np.array(array)
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def _trusted(cls, pairs, z, counts, wins) -> Comparisons:
        """Skip the checks for data that this module made itself."""
        made = object.__new__(cls)
        for name, array in (("pairs", pairs), ("z", z), ("counts", counts), ("wins", wins)):
            array.setflags(write=False)
            object.__setattr__(made, name, array)
        return made

    @classmethod
    def empty(cls, bandit: Bandit, replicates: int | tuple[int, ...] = ()) -> Comparisons:
        """No comparisons yet, over all pairs of ``bandit``."""
        pairs = all_pairs(_bandit(bandit).S, bandit.K)
        zero = np.zeros((*(_replicate_shape(replicates) or ()), len(pairs)))
        return cls(pairs, pair_features(bandit.phi, pairs), zero, zero)

    @property
    def n(self) -> np.ndarray:
        """Numbers of informative comparisons, shape (...)."""
        return self.counts.sum(axis=-1)

    @property
    def losses(self) -> np.ndarray:
        """Numbers won by ``a2``, shape (..., T)."""
        return self.counts - self.wins

    def __add__(self, other: Comparisons) -> Comparisons:
        if not isinstance(other, Comparisons):
            return NotImplemented
        if not (np.array_equal(self.pairs, other.pairs) and np.array_equal(self.z, other.z)):
            raise ValueError("comparisons can be added only over the same pairs and features")
        check.broadcast("the first", self.counts.shape, "the second", other.counts.shape)
        return Comparisons._trusted(
            self.pairs, self.z, self.counts + other.counts, self.wins + other.wins
        )


def _replicate_shape(replicates) -> tuple[int, ...] | None:
    if replicates is None:
        return None
    if isinstance(replicates, (tuple, list)):
        return tuple(check.count(r, "replicates") for r in replicates)
    return (check.count(replicates, "replicates"),)


def _draw_wins(counts: np.ndarray, probability: np.ndarray, rng) -> np.ndarray:
    return rng.binomial(counts.astype(np.int64), probability).astype(float)


def sample_outcomes(bandit: Bandit, counts, rng, replicates=None) -> Comparisons:
    r"""Outcomes of a design fixed in advance: pair ``t`` is compared ``counts[t]`` times.

    Parameters
    ----------
    bandit : Bandit
        The instance; pairs are ``all_pairs(S, K)``.
    counts : array_like, shape (..., T)
        Whole numbers, at most 1e15 each.
    rng : numpy.random.Generator or int
        Source of randomness.
    replicates : int or tuple of int, optional
        Leading axes to add by independent repetition.

    Returns
    -------
    Comparisons

    Raises
    ------
    ValueError
        If counts are negative, fractional, too large or of the wrong shape.
    """
    rng, lead = check.generator(rng), _replicate_shape(replicates)
    pairs = all_pairs(_bandit(bandit).S, bandit.K)
    z = pair_features(bandit.phi, pairs)
    counts = check.finite(counts, "counts", ("pair",))
    if counts.shape[-1] != len(pairs):
        raise ValueError(
            f"counts must have one entry per pair: {counts.shape}, {len(pairs)} pairs"
        )
    bad = (counts < 0) | (counts != np.floor(counts)) | (counts > check.MOST_COMPARISONS)
    if bad.any():
        index = tuple(np.argwhere(bad)[0])
        raise ValueError(
            f"counts must be whole numbers from 0 to {check.MOST_COMPARISONS:g}: "
            f"pair {index[-1]} has {counts[index]}"
        )
    if lead is not None:
        counts = np.broadcast_to(counts, lead + counts.shape)
    wins = _draw_wins(counts, preference_probability(bandit.theta, z), rng)
    return Comparisons._trusted(pairs, z, np.array(counts), wins)


def sample_comparisons(bandit: Bandit, n: int, design, rng, replicates=None) -> Comparisons:
    r"""``n`` independent comparisons from a design, straight into win counts.

    The cost depends on the number of pairs, not on ``n``.

    Parameters
    ----------
    bandit : Bandit
        The instance; pairs are ``all_pairs(S, K)``.
    n : int
        Number of comparisons, ``0 <= n <= 1e15``, self-comparisons included.
    design : array_like, shape (..., T)
        Probabilities over pairs.
    rng : numpy.random.Generator or int
        Source of randomness.
    replicates : int or tuple of int, optional
        Leading axes to add by independent repetition.

    Returns
    -------
    Comparisons

    Raises
    ------
    ValueError
        If ``n`` is negative or fractional, or ``design`` is not a design over the pairs.

    Notes
    -----
    Result ``win-count-sufficiency``.
    """
    rng, lead, n = check.generator(rng), _replicate_shape(replicates), check.count(n)
    pairs = all_pairs(_bandit(bandit).S, bandit.K)
    z = pair_features(bandit.phi, pairs)
    design = _design(design, len(pairs))
    counts = _draw_counts(n, design, rng, lead)
    wins = _draw_wins(counts, preference_probability(bandit.theta, z), rng)
    return Comparisons._trusted(pairs, z, counts, wins)


def _draw_counts(n: int, design: np.ndarray, rng, lead: tuple[int, ...] | None) -> np.ndarray:
    self_compared = np.maximum(1.0 - design.sum(axis=-1, keepdims=True), 0.0)
    law = np.concatenate([design, self_compared], axis=-1)
    law = law / law.sum(axis=-1, keepdims=True)
    size = None if lead is None else lead + law.shape[:-1]
    return rng.multinomial(n, law, size=size)[..., :-1].astype(float)


def sample_adaptive(bandit: Bandit, rule: Callable[[Comparisons, int], np.ndarray], rounds: int,
                    batch: int, rng, replicates=None) -> Comparisons:
    r"""Adaptive sampling: each round's design may depend on all outcomes before it.

    Parameters
    ----------
    bandit : Bandit
        The instance; pairs are ``all_pairs(S, K)``.
    rule : callable
        ``rule(data, round)`` returns the design, shape (..., T), of round ``round = 0, 1, ...``
        given the comparisons so far.
    rounds, batch : int
        Number of rounds and of comparisons in each, nonnegative.
    rng : numpy.random.Generator or int
        Source of randomness.
    replicates : int or tuple of int, optional
        Leading axes: independent repetitions run side by side.

    Returns
    -------
    Comparisons
        All rounds together.

    Raises
    ------
    ValueError
        If a number is negative or ``rule`` does not return a design.
    """
    if not callable(rule):
        raise ValueError(f"rule must be callable: got {type(rule).__name__}")
    rng, lead = check.generator(rng), _replicate_shape(replicates) or ()
    rounds, batch = check.count(rounds, "rounds"), check.count(batch, "batch")
    data = Comparisons.empty(bandit, lead)
    probability = preference_probability(bandit.theta, data.z)
    for t in range(rounds):
        design = _design(rule(data, t), len(data.pairs), f"the design of round {t}")
        if check.broadcast("the design", design.shape[:-1], "the replicates", lead) != lead:
            raise ValueError(
                f"the design of round {t} has more replicates than the data: "
                f"{design.shape[:-1]} and {lead}"
            )
        counts = _draw_counts(batch, np.broadcast_to(design, lead + design.shape[-1:]), rng, None)
        wins = _draw_wins(counts, probability, rng)
        data = data + Comparisons._trusted(data.pairs, data.z, counts, wins)
    return data
