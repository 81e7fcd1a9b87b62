r"""Checks of the chapter "Temperature, frontier, budget", first half: the path and the frontier.

What lives here: item 1.2. Derivatives are taken by complex steps,
:math:`f'(t)=\mathrm{Im} f(t+ih)/h` with :math:`h=10^{-30}`, on functions written out from the
definitions: exact to rounding.
What does not: worst cases over instances (``part1_budget``).
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax, xlogy

from klrlhf.policies import (
    gibbs_policy,
    kl_divergence,
    kl_divergence_from_logs,
    log_gibbs_policy,
    variance,
)
from klrlhf.results.instances import random_instances, random_policies, two_point_instances
from klrlhf.results.part1_gibbs import any_policies, average
from klrlhf.results.registry import result
from klrlhf.values import (
    expected_kl,
    expected_reward,
    kl_frontier,
    kl_max,
    temperature_path,
)

STEP = 1e-30


class Path:
    """A, mean reward, KL and variance from the definitions; lam may be complex (for steps)."""

    def __init__(self, lam, reward, pi0, d0):
        lam = np.asarray(lam)[..., None, None]
        top = reward.max(axis=-1, keepdims=True)
        weight = pi0 * np.exp(lam * (reward - top))
        z = weight.sum(axis=-1, keepdims=True)
        self.policy = weight / z
        log_z = np.log(z)[..., 0] + (lam * top)[..., 0]
        mean = (self.policy * reward).sum(axis=-1)
        self.A, self.mean = average(d0, log_z), average(d0, mean)
        self.variance = average(d0, (self.policy * (reward - mean[..., None]) ** 2).sum(axis=-1))
        log_ratio = lam * (reward - top) - np.log(z)
        self.kl = average(d0, (self.policy * log_ratio).sum(axis=-1))


def path_instances(rng, size):
    """Random instances that are not flat, in units where the widest prompt has range 1."""
    inst = random_instances(rng, size)
    flat = widest(inst) == 0
    ramp = np.broadcast_to(np.linspace(0.0, 1.0, inst.reward.shape[-1]), inst.reward.shape)
    reward = np.where(flat[:, None, None], ramp, inst.reward)
    unit = widest(inst._replace(reward=reward))[:, None]
    # Prompts that never occur may hold anything; keep them in the same units.
    unit = np.where(inst.d0 > 0, unit, np.maximum(unit, np.ptp(reward, axis=-1)))
    return inst._replace(reward=reward / unit[..., None]), 10.0 ** rng.uniform(-2, 1.3, size)


def widest(inst):
    """R: the largest range over prompts that occur."""
    return np.where(inst.d0 > 0, np.ptp(inst.reward, axis=-1), 0.0).max(axis=-1)


@result("temperature-path", part="I", item="1.2", kind="identity", title="Temperature path",
        source="exponential families, classical", depends=("gibbs-variational",))
def temperature_path_check(check):
    """Along the path the reward grows by the variance, the KL by lambda times it."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    for rng, size in check.batches(20_000, fast=2_000):
        inst, lam = path_instances(rng, size)
        arrays = inst.reward, inst.pi0, inst.d0
        here, above = Path(lam, *arrays), Path(lam + 1j * STEP, *arrays)
        R = widest(inst)
        slope_r = above.mean.imag / STEP
        check.identity("step 1: A' is the mean", above.A.imag / STEP, here.mean,
                       scale=R + abs(here.mean))
        check.identity("step 1: covariance with any function",
                       *_covariance_sides(rng, inst, here, above), scale=(10 * R)[:, None])
        check.identity("claim: d reward / d lambda is the variance", slope_r, here.variance,
                       scale=R**2)
        lib = temperature_path(lam[:, None], *arrays)
        size_k = 1 + lam * (R + np.abs(inst.reward).max(axis=(-1, -2)))
        check.identity("step 2: KL is lambda A' - A", here.kl, lam * here.mean - here.A,
                       scale=size_k)
        check.identity("claim: the library's variance", lib.variance[:, 0], here.variance,
                       scale=R**2)
        check.identity("claim: the library's KL", lib.kl[:, 0], here.kl, scale=size_k)
        check.identity("claim: d KL / d lambda is lambda times the variance",
                       above.kl.imag / STEP, lam * here.variance,
                       scale=R + lam * R**2 + abs(here.mean))
        # k(lambda) = int_0^lambda s v(s) ds, by composite Gauss quadrature.
        pieces = np.linspace(0, 1, 13)
        s = (pieces[:-1, None] + np.diff(pieces)[:, None] * (nodes + 1) / 2).ravel()
        w = (np.diff(pieces)[:, None] * weights / 2).ravel()
        few = slice(0, 100)
        inner = temperature_path(lam[few, None] * s, *(a[few] for a in arrays)).variance
        check.identity("step 2: KL is the integral of s v(s)", lib.kl[few, 0],
                       lam[few] ** 2 * (w * s * inner).sum(axis=-1), scale=1e-3 + lib.kl[few, 0],
                       tol=1e-8)
        later = temperature_path((lam * (1 + rng.random(size)))[:, None], *arrays)
        check.inequality("step 3: reward increases", lib.reward[:, 0], later.reward[:, 0], scale=R)
        check.inequality("step 3: KL increases", lib.kl[:, 0], later.kl[:, 0], scale=1.0)
        check.holds("step 3: the variance is positive", here.variance > 0)
        _ends(check, inst, lam, lib, R)


def _covariance_sides(rng, inst, here, above):
    f = rng.standard_normal(inst.reward.shape)
    slope = (above.policy * f).sum(axis=-1).imag / STEP
    p, r = here.policy, inst.reward
    centred = r - (p * r).sum(axis=-1, keepdims=True)
    return slope, (p * f * centred).sum(axis=-1)


def _ends(check, inst, lam, lib, R):
    arrays = inst.reward, inst.pi0, inst.d0
    start = temperature_path(np.zeros((len(lam), 1)), *arrays)
    v0 = start.variance[:, 0]
    grown, seen = lib.reward[:, 0] - start.reward[:, 0], lam * R < 2
    quotients = {"reward": grown / (lam * v0), "KL": lib.kl[:, 0] / (lam**2 * v0 / 2)}
    for name, quotient in quotients.items():
        # Starts with a tiny variance lose the digits of a difference of means: look at the others.
        told = seen & (lam * v0 > 1e-7 * R)
        check.inequality(f"step 4: the first {name} is right up to exp(lambda R)",
                         np.abs(np.log(np.where(told, quotient, 1.0))), lam * R, scale=1e-3)
    best = inst.reward == inst.reward.max(axis=-1, keepdims=True)
    p = np.where(best, inst.pi0, 0).sum(axis=-1)
    off = np.where(best, 0, inst.pi0).sum(axis=-1)
    shortfall = inst.reward.max(axis=-1, keepdims=True) - inst.reward
    drop = np.where(best, np.inf, shortfall).min(axis=-1)
    at = Path(lam, *arrays).policy
    check.inequality("step 5: mass off the best answers", np.where(best, 0, at).sum(axis=-1),
                     off / p * np.exp(-lam[:, None] * np.minimum(drop, 1e6)))
    end = temperature_path(np.full((len(lam), 1), 1e12), *arrays)
    clear = (np.where(inst.d0 > 0, drop, np.inf) > 1e-9).all(axis=-1)
    ceiling = kl_max(*arrays)
    check.identity("claim: KL tends to KL_max", np.where(clear, end.kl[:, 0], ceiling), ceiling,
                   scale=1 + ceiling)
    top = average(inst.d0, inst.reward.max(axis=-1))
    check.identity("claim: reward tends to the maximum",
                   np.where(clear, end.reward[:, 0], top), top, scale=R + abs(top))
    # The optimal value is beta A(1/beta), differentiated by a complex step in beta.
    beta = 1 / lam + 1j * STEP
    slope = (beta * Path(1 / beta, *arrays).A).imag / STEP
    check.identity("step 6: the value's slope is minus the KL", slope, -lib.kl[:, 0],
                   scale=1 + lam * (R + np.abs(inst.reward).max(axis=(-1, -2))))


@result("kl-frontier", part="I", item="1.2", kind="inequality", title="The frontier",
        source="convex duality, classical",
        depends=("gibbs-variational", "objective-strictly-concave", "temperature-path"))
def kl_frontier_check(check):
    """The path is the whole frontier: concave, slope beta, flat from KL_max; none lies above."""
    for rng, size in check.batches(12_000, fast=1_000, size=500):
        inst, lam = path_instances(rng, size)
        arrays = inst.reward, inst.pi0, inst.d0
        R, start = widest(inst), average(inst.d0, (inst.pi0 * inst.reward).sum(axis=-1))
        ceiling = kl_max(*arrays)
        policy = any_policies(rng, inst)
        near = gibbs_policy(inst.reward, 1 / lam, inst.pi0)
        blend = 10.0 ** rng.uniform(-4, 0, (size, 1, 1))
        blended = (1 - blend) * near + blend * policy
        policy = np.where(rng.random((size, 1, 1)) < 0.5, policy, blended)
        earned, spent = expected_reward(policy, inst.reward, inst.d0), expected_kl(
            policy, inst.pi0, inst.d0)
        line = spent / lam + Path(lam, *arrays).A / lam
        tilt = average(inst.d0, kl_divergence(policy, near)) / lam
        check.identity("step 1: distance to the tangent of slope beta", line - earned, tilt,
                       scale=R + np.abs(inst.reward).max(axis=(-1, -2)) + (1 + spent) / lam)
        # Divergences below 1e-6 are left out: the gain there is a difference of equal numbers.
        visible = spent > 1e-6
        frontier = kl_frontier(spent[:, None], *arrays)
        check.inequality("claim: no policy lies above", np.where(visible, earned - start, 0.0),
                         frontier.reward[:, 0] - start, scale=R, tol=1e-10)
        # Uniqueness: what a policy misses is beta times its divergence from the maximizer.
        price = frontier.beta[:, 0]
        inside = visible & (spent < 0.999 * ceiling) & np.isfinite(price) & (price > 0)
        log_best = log_gibbs_policy(inst.reward, np.where(inside, price, 1.0), inst.pi0)
        with np.errstate(divide="ignore"):
            apart = average(inst.d0, kl_divergence_from_logs(np.log(policy), log_best))
        missed = frontier.reward[:, 0] - earned
        check.identity("step 3: the maximizer is unique", np.where(inside, missed, 0.0),
                       np.where(inside, price * apart, 0.0), tol=1e-9,
                       scale=R + np.where(inside, price, 0.0) * (apart + 1e-6))
        _frontier_shape(check, rng, inst, ceiling, R)
    _ends_of_the_slope(check)
    _search_above(check)
    _solve_independently(check)


def _frontier_shape(check, rng, inst, ceiling, R):
    arrays, size = (inst.reward, inst.pi0, inst.d0), len(R)
    share = rng.uniform(0.02, 0.9, (size, 2))
    two = kl_frontier(ceiling[:, None] * share, *arrays)
    k, beta = two.kl[:, 0], two.beta[:, 0]
    told = ceiling > 1e-4
    on_path = gibbs_policy(inst.reward, np.where(beta > 0, beta, 1.0), inst.pi0)
    check.identity("step 3: the path spends the budget",
                   np.where(told, expected_kl(on_path, inst.pi0, inst.d0), 0),
                   np.where(told, k, 0), scale=1 + ceiling, tol=1e-9)
    check.identity("claim: F is the reward on the path",
                   np.where(told, expected_reward(on_path, inst.reward, inst.d0), 0),
                   np.where(told, two.reward[:, 0], 0), scale=R, tol=1e-9)
    w = rng.random(size)
    middle = kl_frontier((w * two.kl[:, 0] + (1 - w) * two.kl[:, 1])[:, None], *arrays).reward[:, 0]
    check.inequality("claim: concave", w * two.reward[:, 0] + (1 - w) * two.reward[:, 1], middle,
                     scale=R, tol=1e-10)
    check.identity("claim: dual formula", np.where(told, _dual(k, *arrays), 0),
                   np.where(told, two.reward[:, 0], 0), scale=R, tol=1e-7)
    # The rest costs four frontiers more: a fifth of the instances will do.
    few = slice(0, size // 5)
    arrays, ceiling, R = tuple(a[few] for a in arrays), ceiling[few], R[few]
    flat = kl_frontier((ceiling * (1 + rng.random(len(R))))[:, None], *arrays)
    top = average(arrays[2], arrays[0].max(axis=-1))
    check.identity("step 4: flat from KL_max on", flat.reward[:, 0], top, scale=R + abs(top))
    _touching_lines(check, rng, arrays, ceiling, R)
    _slopes(check, rng, arrays, ceiling, R)


def _touching_lines(check, rng, arrays, ceiling, R):
    """The line of slope beta' is above F(k) by beta' KL(pi_lambda(k) || pi_beta'), never touching.

    The one exception is beta' = beta(k); at 0 and from KL_max on there is none.
    """
    reward, pi0, d0 = arrays
    at = kl_frontier((ceiling * rng.uniform(0.1, 0.8, len(R)))[:, None], *arrays)
    k, F, beta = at.kl[:, 0], at.reward[:, 0], np.where(at.beta[:, 0] > 0, at.beta[:, 0], 1.0)
    told = (ceiling > 1e-2) & (k * beta > 1e-3 * R)
    for factor in (0.5, 0.9, 1.1, 2.0):
        line = factor * beta * (k + Path(1 / (factor * beta), *arrays).A)
        check.holds("step 5: attained only at beta(k)", (line - F > 1e-9 * R) | ~told)
    start, top = average(d0, (pi0 * reward).sum(axis=-1)), average(d0, reward.max(axis=-1))
    spread = Path(np.zeros(len(R)), *arrays).variance
    for price in (0.05 * R, 0.5 * R, 5.0 * R):
        height = price * Path(1 / price, *arrays).A
        beyond = height + 1.01 * price * ceiling - top
        check.holds("step 5: not attained from KL_max on", (beyond > 1e-9 * R) | (ceiling < 1e-3))
        check.holds("step 5: not attained at zero",
                    (height - start > 1e-9 * R) | (spread < 1e-4 * R**2))


def _dual(k, reward, pi0, d0):
    """min over beta of beta k + beta A(1/beta), by golden section on log beta."""
    shift = average(d0, (pi0 * reward).sum(axis=-1))
    centred = reward - reward.max(axis=-1, keepdims=True)
    top = average(d0, reward.max(axis=-1))

    def dual(log_beta):
        lam = np.exp(-log_beta)
        weight = pi0 * np.exp(np.maximum(lam[:, None, None] * centred, -700))
        return (k + average(d0, np.log(weight.sum(axis=-1)))) / lam

    low, high = np.full(len(k), -35.0), np.full(len(k), 25.0)
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(110):
        a, b = high - golden * (high - low), low + golden * (high - low)
        left = dual(a) < dual(b)
        low, high = np.where(left, low, a), np.where(left, b, high)
    return np.maximum(top + dual((low + high) / 2), shift)


def _slopes(check, rng, arrays, ceiling, R):
    """F' = beta and F'' = -1/(lambda^3 v) by finite differences through the library's frontier."""
    k = ceiling * rng.uniform(0.1, 0.8, len(R))
    step = 1e-3 * k
    three = kl_frontier(np.stack([k - step, k, k + step], axis=-1), *arrays)
    lam = 1 / np.where(three.beta[:, 1] > 0, three.beta[:, 1], 1.0)
    at = temperature_path(lam[:, None], *arrays)
    bend = -1 / (lam**3 * np.maximum(at.variance[:, 0], 1e-300))
    # Where the path turns within the step, or rewards differ by rounding, differences see noise.
    told = (ceiling > 1e-2) & (np.abs(bend) * k < 5 / lam) & (k / lam > 1e-3 * R)
    slope = (three.reward[:, 2] - three.reward[:, 0]) / (2 * step)
    second = (three.reward[:, 2] - 2 * three.reward[:, 1] + three.reward[:, 0]) / step**2
    check.identity("step 6: F' is beta", np.where(told, slope * lam, 1.0), 1.0, tol=3e-5)
    check.identity("step 6: F'' is -1/(lambda^3 v)", np.where(told, second / bend, 1.0), 1.0,
                   tol=1e-3)


def _ends_of_the_slope(check):
    """F'(0+) is infinite and F'(KL_max-) is zero, on three-action instances of range 1."""
    rng = np.random.default_rng(8)
    pi0, reward = rng.dirichlet(np.full(3, 2.0), (40, 1)), rng.random((40, 1, 3))
    reward = (reward - reward.min(axis=-1, keepdims=True)) / np.ptp(
        reward, axis=-1, keepdims=True)
    arrays = reward, pi0, np.ones((40, 1))
    spread = Path(np.zeros(40), *arrays).variance
    for lam in (1e-1, 1e-2, 1e-3):
        # k = lambda^2 v(0) / 2 is spent at an inverse temperature within e^{+-lambda} of lambda.
        beta = kl_frontier((lam**2 * spread / 2)[:, None], *arrays).beta[:, 0]
        check.inequality("step 6: F' grows like 1/lambda at zero", np.abs(np.log(beta * lam)), lam)
    left = 10.0 ** -np.arange(2.0, 10.0)
    slopes = kl_frontier(kl_max(*arrays)[:, None] * (1 - left), *arrays).beta
    check.holds("step 6: F' falls towards KL_max", np.diff(slopes, axis=-1) < 0)
    # k' = lambda v and v <= C e^{-lambda g}: the slope falls like 1/log(1/left).
    check.inequality("step 6: F' tends to zero at KL_max", slopes[:, -1], 0.1)


def _solve_independently(check):
    """A general solver for the constrained problem, from two starts: same value, same policy."""
    rng = np.random.default_rng(9)
    value_error, policy_error = [], []
    for _ in range(check.choose(12, 3)):
        reward, pi0 = rng.random((2, 3)), rng.dirichlet(np.full(3, 2.0), 2)
        d0 = rng.dirichlet(np.full(2, 2.0))
        k = kl_max(reward, pi0, d0) * rng.uniform(0.1, 0.8)

        def room(x, pi0=pi0, d0=d0, k=k):
            policy = x.reshape(2, 3)
            return k - d0 @ xlogy(policy, policy / pi0).sum(axis=-1)

        rules = [{"type": "eq", "fun": lambda x: x.reshape(2, 3).sum(axis=-1) - 1},
                 {"type": "ineq", "fun": room}]
        best = kl_frontier(k, reward, pi0, d0)
        target = gibbs_policy(reward, best.beta[0], pi0)
        for start in (pi0, 0.5 * pi0 + 0.5 / 3):
            found = minimize(lambda x, r=reward, d0=d0: -d0 @ (x.reshape(2, 3) * r).sum(axis=-1),
                             start.ravel(), method="SLSQP", bounds=[(1e-9, 1.0)] * 6,
                             constraints=rules, options={"ftol": 1e-14, "maxiter": 500})
            value_error.append(-found.fun - best.reward[0])
            policy_error.append(np.abs(found.x.reshape(2, 3) - target).max())
    check.identity("claim: a general solver finds F(k)", value_error, 0.0, tol=1e-6)
    check.identity("claim: it finds the policy of the path", policy_error, 0.0, tol=1e-3)


def _search_above(check):
    """An optimizer that knows only policies looks for one above the frontier."""
    rng, d0 = np.random.default_rng(5), np.ones(1)
    for _ in range(check.choose(4, 1)):
        reward, pi0 = rng.standard_normal((1, 3)), rng.dirichlet(np.ones(3), 1)
        start = (pi0 * reward).sum()

        def ratio(x, reward=reward, pi0=pi0, start=start):
            policy = softmax(x)[None, :]
            spent = expected_kl(policy, pi0, d0)
            if spent < 1e-6:
                return 0.0
            best = kl_frontier(spent, reward, pi0, d0).reward[0] - start
            return (expected_reward(policy, reward, d0) - start) / best if best > 0 else 0.0

        check.search("claim: no policy above, searched", ratio,
                     [np.log(pi0[0]) + 0.3 * np.arange(pi0.shape[-1])], maxiter=150)


@result("frontier-square-root", part="I", item="1.2", kind="inequality", title="Square-root law",
        source="mroueh2024information (sub-Gaussian form); this book",
        depends=("temperature-path", "kl-frontier"))
def frontier_square_root(check):
    """The reward gained with k nats is at most sqrt(k E R_x^2 / 2), and sqrt(2 v(0) k) at first."""
    for rng, size in check.batches(12_000, fast=1_000, size=500):
        inst, lam = path_instances(rng, size)
        if rng.random() < 0.3:
            two = two_point_instances(rng, size)
            inst = two._replace(reward=two.reward / np.ptp(two.reward, axis=-1, keepdims=True))
        arrays = inst.reward, inst.pi0, inst.d0
        ranges = np.ptp(inst.reward, axis=-1)
        square, R = average(inst.d0, ranges**2), widest(inst)
        law = random_policies(rng, *inst.reward.shape)
        check.inequality("step 1: variance at most R^2/4", variance(law, inst.reward),
                         ranges**2 / 4)
        start = Path(np.zeros(size), *arrays)
        check.inequality("step 2: Hoeffding's lemma", Path(lam, *arrays).A - lam * start.mean,
                         lam**2 * square / 8, scale=1e-3 * lam * (R + abs(start.mean)) + 1e-5)
        k = kl_max(*arrays) * 10.0 ** rng.uniform(-3, 0.3, size)
        gain = kl_frontier(k[:, None], *arrays).reward[:, 0] - start.mean
        check.inequality("claim", gain, np.sqrt(k * square / 2), scale=R, tol=1e-10)
        # On the path both k and the gain carry a factor within exp(+-lambda R).
        small = 10.0 ** rng.uniform(-4, 0, size) / R
        at = temperature_path(small[:, None], *arrays)
        told = small * start.variance > 1e-8 * R
        quotient = (at.reward[:, 0] - start.mean) / np.sqrt(2 * start.variance * at.kl[:, 0])
        check.inequality("claim: local law up to exp(3 lambda R / 2)",
                         np.abs(np.log(np.where(told, quotient, 1.0))), 1.5 * small * R, scale=1e-3)

    def ratio(x):
        p = 0.5 + 0.49 * np.tanh(x[0])
        lam = 10.0 ** (-2 + 1.5 * np.tanh(x[1]))
        path = temperature_path(lam, [[1.0, 0.0]], [[p, 1 - p]], [1.0])
        return (path.reward[0] - p) / np.sqrt(path.kl[0] / 2)

    best = check.search("claim: search", ratio, [[0.5, 0.5], [-1.0, 0.0]], tol=1e-7)
    check.at_least("claim: nearly attained", best, 0.999)
