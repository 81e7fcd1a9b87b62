"""Independent references for the tests: high precision, plain loops, no code of the library.

What lives here: formulas of the book written out with mpmath at 60 digits, and the extreme
instances that several test files share. What does not: tests.
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 60


def exact(array):
    """Nested lists of mpmath numbers with the exact values of a float array."""
    array = np.asarray(array, dtype=float)
    if array.ndim == 0:
        return mp.mpf(float(array))
    return [exact(part) for part in array]


def relative_error(value, truth) -> float:
    """``|value - truth| / |truth|``, computed in high precision."""
    value, truth = mp.mpf(float(value)), mp.mpf(truth)
    if truth == 0:
        return float(abs(value))
    return float(abs(value - truth) / abs(truth))


def hoeffding(t):
    """h(t) of the book's section on the sharp Hoeffding bound, as it is written there."""
    t = mp.mpf(float(t))
    if t == 0:
        return mp.mpf(0)
    half = t / 2
    return half * mp.coth(half) - 1 + mp.log(mp.sinh(half) / half)


def law(weights):
    """Normalize one context's probabilities exactly."""
    weights = exact(weights)
    total = mp.fsum(weights)
    return [w / total for w in weights]


def gibbs(reward, beta, pi0):
    """One context's Gibbs law: pi0(a) exp(r(a)/beta) / Z."""
    reward, beta, pi0 = exact(reward), mp.mpf(float(beta)), law(pi0)
    top = max(reward)
    weight = [p * mp.exp((r - top) / beta) for p, r in zip(pi0, reward, strict=True)]
    total = mp.fsum(weight)
    return [w / total for w in weight]


def log_partition(reward, beta, pi0):
    """log E_pi0 exp(r / beta) in one context."""
    reward, beta, pi0 = exact(reward), mp.mpf(float(beta)), law(pi0)
    top = max(reward)
    tilted = mp.fsum(p * mp.exp((r - top) / beta) for p, r in zip(pi0, reward, strict=True))
    return top / beta + mp.log(tilted)


def divergence(p, q):
    """KL(p || q) in one context; p and q are lists of mpmath numbers."""
    terms = [a * mp.log(a / b) for a, b in zip(p, q, strict=True) if a > 0]
    return mp.fsum(terms)


def mean_over_contexts(per_context, d0):
    """The average over contexts with exactly normalized weights."""
    return mp.fsum(w * v for w, v in zip(law(d0), per_context, strict=True) if w > 0)


def plug_in_gap(reward_hat, reward, beta, pi0, d0):
    """beta E KL(Gibbs(reward_hat) || Gibbs(reward)) for one instance (S, K)."""
    each = [divergence(gibbs(hat, beta, p), gibbs(r, beta, p))
            for hat, r, p in zip(reward_hat, reward, pi0, strict=True)]
    return mp.mpf(float(beta)) * mean_over_contexts(each, d0)


def suboptimality(policy, reward, beta, pi0, d0):
    """beta E KL(policy || Gibbs(reward)) for one instance (S, K)."""
    each = [divergence(law(p), gibbs(r, beta, q))
            for p, r, q in zip(policy, reward, pi0, strict=True)]
    return mp.mpf(float(beta)) * mean_over_contexts(each, d0)


def objective(policy, reward, beta, pi0, d0):
    """J(policy) by its definition, for one instance (S, K)."""
    each = []
    for p, r, q in zip(policy, reward, pi0, strict=True):
        p, r = law(p), exact(r)
        earned = mp.fsum(a * b for a, b in zip(p, r, strict=True))
        each.append(earned - mp.mpf(float(beta)) * divergence(p, law(q)))
    return mean_over_contexts(each, d0)


def random_instance(rng, S=3, K=4, *, beta=1.0, scale=1.0):
    """Plain arrays d0, pi0, reward of one instance with spread-out laws."""
    d0 = rng.dirichlet(np.ones(S))
    pi0 = rng.dirichlet(np.ones(K), size=S)
    return d0, pi0, scale * beta * rng.standard_normal((S, K))


def extreme_instances():
    """Named corners: (d0, pi0, reward, beta) where naive formulas overflow or lose digits."""
    rng = np.random.default_rng(20_240)
    d0, pi0, reward = random_instance(rng)
    point = np.array([1.0, 0.0, 0.0])
    rare = np.array([[1e-300, 0.5, 0.25, 0.25], [1.0, 1e-300, 1e-200, 1e-16],
                     [0.25, 0.25, 0.25, 0.25]])
    rare[1, 0] = 1.0 - 1e-16
    one = np.ones((3, 1))
    equal = np.full((3, 4), 7.25)
    return {
        "plain": (d0, pi0, reward, 1.0),
        "beta 1e-6": (d0, pi0, reward, 1e-6),
        "beta 1e6": (d0, pi0, reward, 1e6),
        "rewards 1e6": (d0, pi0, 1e6 * reward, 1.0),
        "rewards 1e6, beta 1e-6": (d0, pi0, 1e6 * reward, 1e-6),
        "rewards 1e6, beta 1e6": (d0, pi0, 1e6 * reward, 1e6),
        "shifted by 1e6, beta 1e-6": (d0, pi0, 2.0**20 + np.round(reward * 2**20) / 2**40, 1e-6),
        "pi0 1e-300": (d0, rare, reward, 0.5),
        "pi0 1e-300, best action": (d0, rare, np.array([[900.0, 0, 0, 0]] * 3), 1.0),
        "d0 one point": (point, pi0, reward, 0.5),
        "one action": (d0, one, reward[:, :1], 0.5),
        "equal rewards": (d0, pi0, equal, 0.01),
        "ties": (d0, pi0, np.round(reward), 0.1),
    }
