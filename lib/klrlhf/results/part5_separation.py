r"""Checks of part V, item 5.2: DPO without a ball, and the displacement of likelihood.

What lives here: which actions vanish when the loss has no minimizer, how fast gradient descent
escapes, what the ball leaves, and when a step lowers the chosen answer.
What does not: IPO (``part5_ipo``) and DPO over the Gibbs class (``part5_dpo``).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit, logsumexp

from klrlhf.direct import (
    displaced_policies,
    displacement_slopes,
    dpo_limit,
    surviving_actions,
    unanimous_margin_bounds,
    unanimous_margins,
    vanishing_log_ratio,
)
from klrlhf.estimation import fit_mle, mle_exists, win_graph_strongly_connected
from klrlhf.preferences import Comparisons, all_pairs
from klrlhf.results.registry import result


def tabular(counts, wins, S, K):
    """Comparisons over all pairs with one-hot features."""
    pairs = all_pairs(S, K)
    eye = np.eye(S * K)
    z = eye[pairs[:, 0] * K + pairs[:, 1]] - eye[pairs[:, 0] * K + pairs[:, 2]]
    return Comparisons(pairs, z, counts, wins)


def random_votes(rng, size, S, K):
    """Few votes per pair, so that separated and contradicted logs both occur."""
    T = S * K * (K - 1) // 2
    counts = rng.integers(0, 4, (size, T)) * (rng.random((size, T)) < 0.7)
    lean = rng.choice([0.02, 0.5, 0.98], (size, T))
    return counts, rng.binomial(counts, lean)


def table_loss(s, data):
    """The loss of the implicit rewards s (..., S, K)."""
    x, first, second = data.pairs.T
    m = s[..., x, first] - s[..., x, second]
    return (data.wins * np.logaddexp(0, -m) + data.losses * np.logaddexp(0, m)).sum(-1)


def log_gibbs(s, beta, pi0):
    logits = np.log(pi0) + s / beta[..., None, None]
    return logits - logsumexp(logits, axis=-1, keepdims=True)


def closure(data, S, K):
    """Paths of wins by Warshall's loops, another algorithm than the library's squaring."""
    x, first, second = data.pairs.T
    reach = np.zeros((*data.counts.shape[:-1], S, K, K), bool)
    reach[..., x, first, second] = data.wins > 0
    reach[..., x, second, first] = data.losses > 0
    for k in range(K):
        reach |= reach[..., :, k, None] & reach[..., k, None, :]
    return reach | np.eye(K, dtype=bool)


def depths(reach):
    """Length of the longest chain of classes above each action."""
    strictly = reach & ~np.swapaxes(reach, -1, -2)  # a reaches b and not back
    depth = np.zeros(reach.shape[:-1])
    for _ in range(reach.shape[-1]):
        depth = np.where(strictly, depth[..., None] + 1, 0).max(axis=-2)
    return depth


@result("dpo-unattained", part="V", item="5.2", kind="inequality",
        title="DPO without a ball", source="this book; two actions: azar2024general",
        depends=("ford-strong-connectivity", "mle-infimum"))
def dpo_unattained(check):
    """Along minimizing sequences exactly the actions outside the top classes vanish."""
    S, K = 2, 4
    T = len(all_pairs(S, K))
    for rng, size in check.batches(10_000, fast=1_000, size=500):
        data = tabular(*random_votes(rng, size, S, K), S, K)
        pi0 = rng.dirichlet(np.ones(K) * rng.choice([0.3, 1.0, 5.0]), S) + 1e-6
        pi0 /= pi0.sum(-1, keepdims=True)
        x, first, second = data.pairs.T
        beta = 10.0 ** rng.uniform(-1.5, 1, size)
        s = rng.standard_normal((size, S, K)) * 10.0 ** rng.uniform(-1, 1.3, (size, 1, 1))
        log_policy = log_gibbs(s, beta, pi0)
        ratio = log_policy - np.log(pi0)
        m = beta[:, None] * (ratio[:, x, first] - ratio[:, x, second])
        check.identity("step 1: implicit rewards", m, s[:, x, first] - s[:, x, second],
                       scale=1 + np.abs(s).max() + 40 * beta[:, None])
        reach = closure(data, S, K)
        top = surviving_actions(data, S, K)
        check.holds("step 2: every prompt has a top class", top.any(-1))
        limit = dpo_limit(data, pi0, 0.5)
        check.holds("claim: attained iff strongly connected",
                    limit.attained == win_graph_strongly_connected(data))
        # A strict arrow (a beats b and b never reaches a): lower b and all that it reaches.
        strict = ((data.wins, first, second), (data.losses, second, first))
        for won, a, b in strict:
            crossing = (won > 0) & ~reach[:, x, b, a]
            lowered = -reach[:, x, b].astype(float)  # (size, T, K): -1 on what b reaches
            pairs_same = (x[:, None] == x)[None]
            up, down = lowered[:, :, first], lowered[:, :, second]
            monotone = (np.where(data.wins[:, None] > 0, up >= down, True)
                        & np.where(data.losses[:, None] > 0, down >= up, True)) | ~pairs_same
            gain = lowered[:, np.arange(T), a] - lowered[:, np.arange(T), b]
            check.holds("step 2: the lowering contradicts no vote",
                        monotone.all(-1) | ~crossing)
            check.holds("step 2: and agrees with the crossing vote", (gain == 1) | ~crossing)
        # Any policy: excess loss against the ratio of a crossing arrow.
        near = depths(reach)
        theta = limit.scores
        far = rng.choice([0.3, 3.0, 10.0], (size, 1, 1))
        guess = np.where(rng.random((size, 1, 1)) < 0.5, s, theta - far * near + 0.1 * s)
        excess = table_loss(guess, data) - limit.infimum
        check.inequality("step 3: the infimum is below", -excess, 0.0,
                         scale=1 + data.n, tol=1e-9)
        excess = np.maximum(excess, 1e-12 * (1 + data.n))
        for won, a, b in strict:
            crossing = (won > 0) & ~reach[:, x, b, a]
            margin = guess[:, x, a] - guess[:, x, b]
            bound = vanishing_log_ratio(excess[:, None], np.maximum(won, 1), 1.0)
            use = crossing & (excess[:, None] > 1e-6)
            check.inequality("claim: ratio against excess loss", np.exp(-margin[use]),
                             np.exp(np.minimum(bound, 700))[use], tol=1e-6)
        # Minimizing sequences: chosen masses of the top classes are reached.
        extra = rng.choice([0.0, 1.0, -4.0], (size, S, K))
        same = reach & np.swapaxes(reach, -1, -2)
        extra = np.where(same, extra[..., None, :], -np.inf).max(-1)  # one number per class
        seq = np.where(top, extra, 0.0) + theta - 60.0 * near
        check.inequality("step 4: the sequence minimizes", table_loss(seq, data),
                         limit.infimum, scale=1 + data.n, tol=1e-8)
        law = np.exp(log_gibbs(seq, np.full(size, 0.5), pi0))
        check.inequality("claim: the others vanish", np.where(top, 0, law).max(), 0.0,
                         scale=1, tol=1e-12)
        mass = np.where(top, limit.policy * np.exp(extra / 0.5), 0)
        check.identity("claim: top classes keep any shares", law,
                       mass / mass.sum(-1, keepdims=True), tol=1e-9)
        # The limit that the library returns: top classes in proportion to their reference mass.
        held = (same * limit.policy[..., None, :]).sum(-1)
        kept = (same * pi0[:, None, :]).sum(-1) / (top * pi0).sum(-1, keepdims=True)
        check.identity("claim: the returned limit", held, np.where(top, kept, 0.0), tol=1e-9)
    # In the classes an estimate exists (by linear programs), so the infimum is a minimum there.
    rng = check.rng
    data = tabular(*random_votes(rng, check.choose(300, 60), 1, K), 1, K)
    reach = closure(data, 1, K)[:, 0]
    x, first, second = data.pairs.T
    inside = (reach & np.swapaxes(reach, -1, -2))[:, first, second]
    check.holds("step 3: the votes inside classes have an estimate",
                mle_exists(Comparisons(data.pairs, data.z, data.counts * inside,
                                       data.wins * inside)))
    check.holds("claim: attained iff the linear program finds no direction",
                mle_exists(data) == ~((data.counts > 0) & ~inside).any(-1))
    # Neither beta nor the reference moves the infimum; the limit of a single winner is certain.
    two = tabular([5.0], [5.0], 1, 2)
    for beta in (0.01, 0.5, 50.0):
        for p in (0.001, 0.9):
            limit = dpo_limit(two, [[p, 1 - p]], beta)
            check.identity("claim: the limit ignores beta", limit.policy, [[1.0, 0.0]])
            check.identity("claim: the infimum ignores beta", limit.infimum, 0.0)
    # Two actions and one vote attain the ratio; more votes on other pairs only leave room.
    one = tabular([1.0, 3.0, 2.0], [1.0, 0.0, 1.0], 1, 3)  # 1 > 2, 3 > 1 thrice, 2 and 3: 1-1

    def attained(u):
        s = np.array([[0.0, *u]])
        data = tabular([1.0, 0.0, 0.0], [1.0, 0.0, 0.0], 1, 3)
        return np.exp(-(s[0, 0] - s[0, 1]) - vanishing_log_ratio(table_loss(s, data), 1.0, 1.0))

    best = check.search("claim: ratio against excess loss, searched", attained,
                        [[-1.0, 0.0], [-4.0, 1.0]])
    check.at_least("claim: the ratio is attained", best, 1 - 1e-9)
    check.holds("claim: contradicted votes keep everybody", surviving_actions(one, 1, 3))


@result("dpo-log-growth", part="V", item="5.2", kind="inequality",
        title="Unanimous votes: the margin grows like log t", source="this book",
        depends=("dpo-unattained",))
def dpo_log_growth(check):
    """Gradient descent from the reference has 1 + kappa t <= m + e^m <= 1 + kappa' t."""
    rng, steps = check.rng, check.choose(400, 150)
    # Gradient descent on free logits of four actions, one unanimous pair: steps of the proof.
    eta, beta, K = 0.7, 0.6, 4
    pi0 = rng.dirichlet(np.ones(K))
    logits, kappa = np.log(pi0), 2 * beta**2 * eta
    path = unanimous_margins(40, kappa)
    for m in path:
        log_policy = logits - logsumexp(logits)
        ratio = log_policy - np.log(pi0)
        check.identity("step 1: the recurrence", beta * (ratio[0] - ratio[1]), m)
        check.identity("claim: the ratio of the two", log_policy[1] - log_policy[0],
                       np.log(pi0[1] / pi0[0]) - m / beta, scale=10)
        push = beta * expit(-m)
        logits = logits + eta * np.array([push, -push, 0, 0])
    for rng, size in check.batches(10_000, fast=1_000):
        kappa = 10.0 ** rng.uniform(-4, 1.3, size)
        fast = kappa / 2 + np.expm1(kappa / 2)
        m = unanimous_margins(steps, kappa)
        level = m + np.exp(m)
        gain = np.diff(level, axis=0)
        check.inequality("step 2: a step gains at least kappa", kappa, gain, scale=level[1:],
                         tol=1e-12)
        check.inequality("step 3: and at most the first step's gain", gain, fast,
                         scale=level[1:], tol=1e-12)
        check.identity("step 3: the first step's gain", gain[0], fast, scale=level[1], tol=1e-12)
        p = 1 / (1 + np.exp(m[:-1]))
        y = kappa * p
        slope = (1 - np.expm1(y) / y) + (1 - p) / p * (np.exp(y) - np.expm1(y) / y)
        check.inequality("step 3: the gain rises with the losing probability", -slope, 0.0,
                         scale=np.exp(y) / p, tol=1e-9)
        t = np.arange(steps + 1)[:, None]
        low, high = unanimous_margin_bounds(t, kappa)
        check.inequality("claim: lower bound", low, m, scale=1e-9, tol=1e-10)
        check.inequality("claim: upper bound", m, high, scale=1e-9, tol=1e-10)
        check.inequality("claim: explicit lower bound", np.log1p(kappa * t / 2), m, scale=1e-9,
                         tol=1e-10)
        check.inequality("claim: explicit upper bound", m, np.log1p(fast * t), scale=1e-9,
                         tol=1e-10)
        check.identity("claim: equality on the right at the first step", m[1], high[1],
                       scale=m[1], tol=1e-10)
        check.inequality("claim: the explicit bound loses at most log 2", low,
                         np.log1p(kappa * t / 2) + np.log(2), tol=1e-10)
        # Steps of any size, down to rounding and up to where e^m overflows; t = 0 included.
        kappa = 10.0 ** rng.uniform(-20, 20, size)
        m, t = unanimous_margins(20, kappa), np.arange(21)[:, None]
        low, high = unanimous_margin_bounds(t, kappa)
        check.inequality("claim: lower bound, extreme steps", low, m, tol=1e-12)
        check.inequality("claim: upper bound, extreme steps", m, high, tol=1e-12)
        check.identity("claim: both start at the reference", low[0] + high[0], m[0])

    # Any margin and any step size: an optimizer looks for a gain outside [kappa, kappa'].
    def gain_at(m, kappa):
        delta = kappa * expit(-m)
        return delta + np.exp(m) * np.expm1(delta)

    starts = [[0.5, 0.0], [0.1, 2.0], [3.0, -3.0]]
    best = check.search("claim: largest gain, searched", lambda u: gain_at(
        abs(u[0]), np.exp(min(u[1], 3))) / (np.exp(min(u[1], 3)) / 2 + np.expm1(
            np.exp(min(u[1], 3)) / 2)), starts)
    check.at_least("claim: the largest gain is attained", best, 1 - 1e-6)
    check.search("claim: least gain, searched", lambda u: np.exp(min(u[1], 3)) / gain_at(
        min(abs(u[0]), 30), np.exp(min(u[1], 3))), starts)
    steps = check.choose(100_000, 20_000)
    kappa = np.array([0.2, 1.0, 5.0])
    last = unanimous_margins(steps, kappa)[-1]
    check.identity("claim: m - log(kappa t) tends to 0", last, np.log(kappa * steps),
                   tol=check.choose(1e-2, 2e-2))
    low, _ = unanimous_margin_bounds(steps, kappa)
    check.identity("claim: the rate on the left cannot be raised", last, low,
                   tol=check.choose(2e-3, 1e-2))


@result("dpo-ball-margin", part="V", item="5.2", kind="inequality",
        title="What the ball does", source="this book", depends=("ball-mle-exists",))
def dpo_ball_margin(check):
    """Over the ball no margin exceeds B |z|; one pair has exactly min(B |z|, |logit|)."""
    for rng, size in check.batches(10_000, fast=1_000, size=500):
        K, d = int(rng.integers(2, 5)), int(rng.integers(1, 4))
        phi = rng.standard_normal((1, K, d))
        pairs = all_pairs(1, K)
        z = phi[0, pairs[:, 1]] - phi[0, pairs[:, 2]]
        counts = rng.integers(0, 5, (size, len(pairs)))
        wins = rng.binomial(counts, rng.choice([0.0, 0.5, 1.0], (size, len(pairs))))
        B, beta = float(10.0 ** rng.uniform(-1, 1)), float(10.0 ** rng.uniform(-1, 1))
        theta = fit_mle(Comparisons(pairs, z, counts, wins), B).theta
        norm = np.linalg.norm(z, axis=1)
        check.inequality("claim: no margin exceeds B |z|", np.abs(theta @ z.T), B * norm,
                         tol=1e-9)
        pi0 = rng.dirichlet(np.ones(K), 1) + 1e-9
        pi0 /= pi0.sum()
        log_policy = log_gibbs(theta @ phi[0].T.reshape(d, K)[None], np.full(1, beta), pi0)[0]
        moved = log_policy - np.log(pi0)
        least = moved[:, pairs[:, 2]] - moved[:, pairs[:, 1]]
        check.identity("step 1: the margin", -beta * least, theta @ z.T,
                       scale=1 + beta * np.abs(log_policy).max() + np.abs(theta @ z.T))
        check.inequality("claim: ratios keep a floor", -least, B * norm / beta, tol=1e-9,
                         scale=1e-9)
    for n, k in ((5, 5), (5, 0), (20, 19), (20, 10), (1000, 999)):
        for B, z in ((0.5, 1.0), (2.0, 1.5), (4.0, 0.7)):
            data = Comparisons([[0, 0, 1]], [[z, 0.0]], [n], [k])
            with np.errstate(divide="ignore"):
                free = float(logit(k / n))
            u = np.linspace(-B * z, B * z, 4001)
            loss = k * np.logaddexp(0, -u) + (n - k) * np.logaddexp(0, u)
            check.identity("step 2: the nearest point of the interval", u[loss.argmin()],
                           np.clip(free, -B * z, B * z), tol=2 * B * z / 4000)
            check.identity("claim: one pair", fit_mle(data, B).theta[0] * z,
                           np.clip(free, -B * z, B * z), tol=1e-7)


@result("dpo-displacement", part="V", item="5.2", kind="inequality",
        title="When a step lowers the chosen answer",
        source="this book; phenomenon of razin2025unintentional", depends=())
def dpo_displacement(check):
    """The chosen log-probability is concave along the step, with slope <phi - E phi, z>."""
    for rng, size in check.batches(10_000, fast=1_000, size=250):
        K, d = int(rng.integers(3, 7)), int(rng.integers(1, 5))
        phi = rng.standard_normal((K, d)) * float(10.0 ** rng.uniform(-0.5, 0.5))
        phi += float(rng.choice([0.0, 3.0])) * rng.standard_normal(d)
        pi = rng.dirichlet(np.ones(K) * rng.choice([0.3, 1.0, 5.0]), size) + 1e-6
        pi /= pi.sum(-1, keepdims=True)
        z = phi[0] - phi[1]
        slope = displacement_slopes(phi, pi, 0, 1)
        c = phi @ z
        # Step 1: the gradient of the loss at w, by differences of its exact values.
        beta = float(10.0 ** rng.uniform(-1, 1))
        w, move = rng.standard_normal((2, d)) * 0.1
        h = 1e-4

        def loss(at, beta=beta, z=z):
            return np.logaddexp(0, -beta * at @ z)

        numeric = (loss(w + h * move) - loss(w - h * move)) / (2 * h)
        check.identity("step 1: the step is along z", -numeric,
                       beta * expit(-beta * w @ z) * (z @ move),
                       scale=1 + beta**3 * (z @ z) ** 1.5, tol=1e-6)
        s = np.sort(10.0 ** rng.uniform(-3, 1.5, (size, 3)), axis=1) / (1 + np.abs(c).max())
        walked = displaced_policies(phi, np.log(pi)[:, None], 0, 1, np.pad(s, ((0, 0), (1, 0))))
        gain = walked[:, 1:] - walked[:, :1]
        check.inequality("step 2: concave", gain[:, 0] / s[:, :1], slope,
                         scale=1e-3 * np.abs(c).max() + np.abs(slope), tol=1e-8)
        check.inequality("step 2: concave", gain[:, 2] / s[:, 2:], gain[:, 1] / s[:, 1:2],
                         scale=1e-3 / s[:, 1:2] + np.abs(slope), tol=1e-8)
        check.inequality("claim: at most slope times step", gain, s[..., None] * slope[:, None],
                         scale=1e-3 + np.abs(s[..., None] * slope[:, None]), tol=1e-8)
        falling = slope[:, 0] <= 0
        check.holds("claim: it falls for every step", (gain[:, :, 0] < 0) | ~falling[:, None])
        small = 1e-6 * np.abs(slope[:, 0]) / (1 + np.abs(c).max()) ** 2
        risen = displaced_policies(phi, np.log(pi), 0, 1, small)[:, 0] - np.log(pi[:, 0])
        told = np.abs(small * slope[:, 0]) > 1e-12
        check.holds("claim: otherwise it rises at first",
                    (risen > 0) | falling | ~told)
        check.identity("step 3: the pair's log-ratio", gain[..., 0] - gain[..., 1],
                       s * (z @ z), scale=1 + s * (z @ z))
        # Far along the ray the policy sits on the largest entries of c.
        order = np.sort(c)
        if order[-1] - order[-2] > 1e-3:
            far = 60 / (order[-1] - order[-2])
            end = np.exp(displaced_policies(phi, np.log(pi[0]), 0, 1, far))
            check.identity("claim: where the mass goes", end, np.eye(K)[c.argmax()], tol=1e-9)
        check.inequality("claim: never to the rejected", c[1], c[0] - z @ z, scale=1 + z @ z)
        # Free logits: the chosen one always rises.
        free = displacement_slopes(np.eye(K), pi, 0, 1)
        check.identity("claim: free logits", free[:, 0], 1 - pi[:, 0] + pi[:, 1])
    # Yes, No, Never with features 1, -1, -2 and s = log 2.
    example = displaced_policies([[1.0], [-1.0], [-2.0]], np.log(np.full(3, 1 / 3)), 1, 2,
                                 np.log(2.0))
    check.identity("claim: the example", np.exp(example), np.array([8, 2, 1]) / 11)

    # An optimizer looks for a rise above the tangent.
    def above(u):
        phi, start = np.reshape(u[:6], (3, 2)), u[6:9] - logsumexp(u[6:9])
        slope = displacement_slopes(phi, np.exp(start), 0, 1)[0]
        if slope <= 1e-3:
            return 0.0
        s = np.exp(np.clip(u[9], -6, 3)) / (1 + (phi**2).sum())
        return (displaced_policies(phi, start, 0, 1, s)[0] - start[0]) / (s * slope)

    check.search("claim: at most slope times step, searched", above,
                 check.rng.standard_normal((3, 10)), tol=1e-7)
    # Concavity is tight at the start.
    phi = np.array([[0.4, 1.0], [0.1, -0.3], [1.2, 0.5]])
    start = np.log([0.2, 0.3, 0.5])
    gain = displaced_policies(phi, start, 0, 1, 1e-5)[0] - start[0]
    slope = displacement_slopes(phi, np.exp(start), 0, 1)[0]
    check.at_least("claim: the slope is attained at the start",
                   1 - abs(gain / (1e-5 * slope) - 1), 1 - 1e-3)
