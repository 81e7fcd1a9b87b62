r"""Checks of part II, item 2.1: shape of the loss, identification, sufficiency of win counts.

What lives here: reference formulas, row by row and independent of ``estimation``, and the checks.
What does not: existence (``part2_existence``) and the ball (``part2_ball``).
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.special import entr, expit, kl_div, logit

from klrlhf.bandit import Bandit
from klrlhf.estimation import hessian, negative_log_likelihood, score
from klrlhf.preferences import (
    Comparisons,
    all_pairs,
    preference_probability,
    sample_outcomes,
)
from klrlhf.results.registry import result


def softplus(v):
    """log(1 + e^v), for real or complex arguments (the complex step needs the latter)."""
    v = np.asarray(v)
    positive = np.real(v) > 0
    w = np.where(positive, -v, v)
    return np.where(positive, v, 0) + np.log1p(np.exp(w))


def row_loss(theta, z, sign):
    """The loss of single votes: theta (N, d), z (N, n, d), sign (N, n) in {-1, 1}."""
    return softplus(-sign * np.einsum("...d,...nd->...n", theta, z)).sum(axis=-1)


def row_gradient(theta, z, sign):
    """Its gradient, as the proof of ``bt-likelihood`` writes it, for real or complex theta."""
    u = np.einsum("...d,...nd->...n", theta, z)
    return np.einsum("...n,...nd->...d", 1 / (1 + np.exp(-u)) - (1 + sign) / 2, z)


def random_votes(rng, size, n=6, d=3):
    """Votes of mixed scale: theta (N, d), z (N, n, d) of random rank, signs (N, n)."""
    z = rng.standard_normal((size, n, d)) * 10.0 ** rng.uniform(-2, 1, (size, 1, 1))
    rank = rng.integers(1, d + 1, size)
    z = z * (np.arange(d) < rank[:, None])[:, None, :]
    rotation = np.linalg.qr(rng.standard_normal((size, d, d)))[0]
    z = np.einsum("Nij,Nnj->Nni", rotation, z)
    theta = rng.standard_normal((size, d)) * 10.0 ** rng.uniform(-2, 1, (size, 1))
    # Keep logits below 40, where 1 - sigma is still representable.
    u = np.abs(np.einsum("Nd,Nnd->Nn", theta, z)).max(axis=1)
    theta = theta * np.minimum(1.0, 40.0 / np.maximum(u, 1e-300))[:, None]
    kernel = np.where((np.arange(d) >= rank[:, None])[:, None, :], rotation, 0.0)
    return theta, z, rng.choice([-1.0, 1.0], (size, n)), kernel


def votes_as_counts(z, sign):
    """One vote per row as ``Comparisons``: every row is a pair of its own."""
    rows = np.arange(len(z))
    pairs = np.stack([rows, 0 * rows, 0 * rows + 1], axis=1)
    return Comparisons(pairs, z, np.ones(len(z)), (1 + sign) / 2)


@result(
    "bt-likelihood",
    part="II",
    item="2.1",
    kind="inequality",
    title="Shape of the Bradley-Terry loss",
    source="standard; this book",
)
def bt_likelihood(check):
    """Gradient and Hessian; convex; flat exactly along the complement of span z; curvature."""
    h = 1e-30
    for rng, size in check.batches(20_000, fast=2_000):
        theta, z, sign, kernel = random_votes(rng, size)
        length = np.linalg.norm(z, axis=-1)
        norms = length.sum(axis=1)
        steps = 1j * h * np.eye(3)
        gradient = row_gradient(theta, z, sign)
        complex_gradient = np.stack([row_loss(theta + e, z, sign).imag / h for e in steps], axis=-1)
        check.identity(
            "step 1: gradient", gradient, complex_gradient, scale=norms[:, None], tol=1e-13
        )
        u = np.einsum("Nd,Nnd->Nn", theta, z)
        slope = expit(u) * expit(-u)
        second = np.einsum("Nn,Nni,Nnj->Nij", slope, z, z)
        complex_second = np.stack(
            [row_gradient(theta + e, z, sign).imag / h for e in steps], axis=-1
        )
        scale = (slope * length**2).sum(axis=1)[:, None, None]
        check.identity("step 2: Hessian", second, complex_second, scale=scale, tol=1e-12)
        # Step 3: moves in the kernel change nothing; on the span the curvature is positive.
        v = np.einsum("Nij,Nj->Ni", kernel, rng.standard_normal((size, 3)) * 10)
        check.identity(
            "step 3: kernel, the loss is constant",
            row_loss(theta + v, z, sign),
            row_loss(theta, z, sign),
            scale=1 + norms * (1 + np.abs(v).sum(1)),
            tol=1e-13,
        )
        inside = np.einsum("Nn,Nnd->Nd", rng.standard_normal(sign.shape), z)
        inside /= np.linalg.norm(inside, axis=1, keepdims=True)
        seen = np.einsum("Nd,Nnd->Nn", inside, z)
        curvature = np.einsum("Ni,Nij,Nj->N", inside, second, inside)
        check.holds("step 3: kernel, curvature on the span", curvature > 0)
        # Step 4 at the boundary of the ball that just contains theta.
        B, L = np.linalg.norm(theta, axis=1), length.max(axis=1)
        gamma = 1 / (2 + np.exp(L * B) + np.exp(-L * B))
        check.inequality(
            "step 4: curvature from below", gamma * (seen**2).sum(1), curvature, tol=1e-9
        )
        check.inequality("step 4: curvature from above", curvature, (seen**2).sum(1) / 4, tol=1e-12)
        other = theta + rng.standard_normal(theta.shape) * B[:, None]
        weight = rng.random(size)
        blend = weight[:, None] * theta + (1 - weight)[:, None] * other
        chord = weight * row_loss(theta, z, sign) + (1 - weight) * row_loss(other, z, sign)
        check.inequality("claim: convex", row_loss(blend, z, sign), chord, tol=1e-12)
        for k in range(0, size, 50):
            data = votes_as_counts(z[k], sign[k])
            check.identity(
                "claim: the library's score",
                score(theta[k], data),
                gradient[k],
                scale=norms[k],
                tol=1e-13,
            )
            check.identity(
                "claim: the library's Hessian",
                hessian(theta[k], data),
                second[k],
                scale=scale[k],
                tol=1e-12,
            )
    # The lower curvature is attained: one vote, theta parallel to z, both at full length.
    for LB in np.linspace(0.1, 30, 60):
        L = 10.0 ** check.rng.uniform(-1, 1)
        unit = check.rng.standard_normal(3)
        unit /= np.linalg.norm(unit)
        second = hessian(LB / L * unit, votes_as_counts(L * unit[None], np.array([1.0])))
        check.identity(
            "step 4: curvature, attained",
            unit @ second @ unit,
            L**2 / (2 + np.exp(LB) + np.exp(-LB)),
            scale=L**2 / (2 + np.exp(LB) + np.exp(-LB)),
            tol=1e-11,
        )


def _closure(adjacent):
    """Reachability (N, K, K), every vertex reaching itself, by repeated squaring."""
    reach = adjacent | np.eye(adjacent.shape[-1], dtype=bool)
    for _ in range(int(np.ceil(np.log2(adjacent.shape[-1]))) + 1):
        reach = np.einsum("nij,njk->nik", reach.astype(int), reach.astype(int)) > 0
    return reach


@result(
    "bt-identification",
    part="II",
    item="2.1",
    kind="identity",
    title="What comparisons identify",
    source="standard; this book",
    depends=("bt-likelihood",),
)
def bt_identification(check):
    """The law of the outcomes knows theta exactly up to the complement of span z."""
    for rng, size in check.batches(20_000, fast=2_000):
        theta, z, _, kernel = random_votes(rng, size)
        scale = 10.0 ** rng.uniform(-2, 1, (size, 1))
        star = theta + scale * rng.standard_normal(theta.shape)
        # Logits below 8 keep logit(p) accurate in step 2.
        largest = np.abs(np.einsum("Nd,Nnd->Nn", star, z)).max(1)
        star = star * np.minimum(1, 8 / np.maximum(largest, 1e-300))[:, None]
        u, v = np.einsum("Nd,Nnd->Nn", star, z), np.einsum("Nd,Nnd->Nn", theta, z)
        p, q = expit(u), expit(v)
        expected = (p * softplus(-v) + expit(-u) * softplus(v)).sum(1)
        entropy = (entr(p) + entr(expit(-u))).sum(1)
        divergence = (kl_div(p, q) + kl_div(expit(-u), expit(-v))).sum(1)
        check.identity(
            "step 1: expected loss",
            expected - entropy,
            divergence,
            scale=expected + entropy,
            tol=1e-12,
        )
        flat = np.einsum("Nij,Nj->Ni", kernel, rng.standard_normal((size, 3)) * 10)
        moved = expit(np.einsum("Nd,Nnd->Nn", star + flat, z))
        size_of = 1 + np.linalg.norm(z, axis=-1) * np.linalg.norm(flat, axis=-1)[:, None]
        check.identity("claim: same law along the complement", moved, p, scale=size_of, tol=1e-13)
        combine = rng.standard_normal(p.shape)
        functional = np.einsum("Nn,Nnd->Nd", combine, z)
        check.identity(
            "step 2: functionals",
            (combine * logit(p)).sum(1),
            (functional * star).sum(1),
            scale=(np.abs(combine) * (1 + np.abs(u))).sum(1),
            tol=1e-11,
        )
        # A functional with a part outside the span can be moved at will without changing the law.
        outside = rng.standard_normal((size, 3))
        perp = np.einsum("Nij,Nkj,Nk->Ni", kernel, kernel, outside)
        squared = (perp**2).sum(1)
        free = squared > 1e-6
        target = rng.standard_normal(size) * 5
        t = (target - (outside * star).sum(1)) / np.where(free, squared, 1)
        reached = (outside * (star + t[:, None] * perp)).sum(1)
        check.identity(
            "step 2: any value outside the span",
            reached[free],
            target[free],
            scale=(1 + np.abs(t) * squared + np.abs(outside * star).sum(1))[free],
            tol=1e-10,
        )
        # Step 3: membership of e_a - e_a' in the span (by rank) against paths (by closure).
        K = int(rng.integers(2, 6))
        pairs = all_pairs(1, K)[:, 1:]
        edge = rng.random((size, len(pairs))) < rng.random((size, 1))
        basis = np.eye(K)[pairs[:, 0]] - np.eye(K)[pairs[:, 1]]
        wanted = basis[rng.integers(len(pairs), size=size)]
        rows = basis * edge[..., None]
        rank = np.linalg.matrix_rank(rows)
        more = np.linalg.matrix_rank(np.concatenate([rows, wanted[:, None]], axis=1))
        adjacent = np.zeros((size, K, K), bool)
        adjacent[:, pairs[:, 0], pairs[:, 1]] = edge
        reach = _closure(adjacent | adjacent.swapaxes(1, 2))
        joined = reach[np.arange(size), wanted.argmax(1), wanted.argmin(1)]
        check.holds("claim: paths (step 3)", (more == rank) == joined)


def _adaptive_histories(theta, z, steps, knowledge):
    """All histories of an adaptive rule with optional stopping, with K(h) and P(h).

    The rule prefers pairs whose first action lost last time and stops early after wins; the
    constants ``knowledge`` make it different for every instance.
    """
    T, winning, losing = len(z), expit(z @ theta), expit(-(z @ theta))
    done, alive = [], [((), 1.0, 1.0)]
    for i in range(steps + 1):
        new = []
        for history, chosen, full in alive:
            last_won = bool(history) and history[-1][1] == history[-1][2]
            stop = 1.0 if i == steps else (0.4 if last_won else 0.1)
            done.append((history, chosen * stop, full * stop))
            if i == steps:
                continue
            weight = knowledge[i] + np.array(
                [sum(1.0 for (t, y, flip) in history if t == s and y == flip) for s in range(T)]
            )
            law = (1 - stop) * weight / weight.sum()
            for t, flip, y in product(range(T), (0, 1), (0, 1)):
                # y says whether the first-shown action won; it is the second one if flipped.
                chance = winning[t] if y != flip else losing[t]
                new.append(
                    (history + ((t, y, flip),), chosen * law[t] / 2, full * law[t] / 2 * chance)
                )
        alive = new
    return done


@result(
    "win-count-sufficiency",
    part="II",
    item="2.1",
    kind="identity",
    title="Win counts are sufficient, also for adaptive logs",
    source="this book",
    depends=("bt-likelihood",),
)
def win_count_sufficiency(check):
    """The likelihood is a factor without theta times a function of counts and wins."""
    for rng, size in check.batches(12_000, fast=1_500, size=500):
        # Row by row against counts, pairs chosen adaptively, order of showing at random.
        T, n = 4, 30
        z = rng.standard_normal((size, T, 3)) * 10.0 ** rng.uniform(-1, 0.5, (size, 1, 1))
        star = rng.standard_normal((size, 3))
        win_rate = expit(np.einsum("Nd,NTd->NT", star, z))
        counts, wins = np.zeros((size, T)), np.zeros((size, T))
        rows, outcomes, every = np.empty((size, n, 3)), np.empty((size, n)), np.arange(size)
        for i in range(n):
            greed = (wins + 1) / (counts + 2) + 0.3 * rng.random((size, T))
            t, flip = greed.argmax(1), np.where(rng.random(size) < 0.5, -1.0, 1.0)
            rows[:, i] = flip[:, None] * z[every, t]
            first = np.where(flip > 0, win_rate[every, t], 1 - win_rate[every, t])
            outcomes[:, i] = np.where(rng.random(size) < first, 1.0, -1.0)
            counts[every, t] += 1
            wins[every, t] += (outcomes[:, i] * flip) > 0
        theta = rng.standard_normal((size, 3)) * 10.0 ** rng.uniform(-1, 1, (size, 1))
        by_row = row_loss(theta, rows, outcomes)
        u = np.einsum("Nd,NTd->NT", theta, z)
        by_count = (counts * softplus(u) - wins * u).sum(1)
        magnitude = (counts * (1 + np.abs(u))).sum(1)
        check.identity("claim: rows against counts", by_row, by_count, scale=magnitude, tol=1e-13)
        short = (counts * softplus(u)).sum(1) - (theta * np.einsum("NT,NTd->Nd", wins, z)).sum(1)
        check.identity("step 3: counts and sum of W z", short, by_row, scale=magnitude, tol=1e-13)
        gradient = np.einsum("NT,NTd->Nd", counts * expit(u) - wins, z)
        bulk = (counts[..., None] * np.abs(z)).sum(1)
        check.identity(
            "step 5: gradient from counts",
            gradient,
            row_gradient(theta, rows, outcomes),
            scale=1e-3 + bulk,
            tol=1e-12,
        )
        pairs = np.stack([np.arange(T), np.zeros(T, int), np.ones(T, int)], axis=1)
        for k in range(0, size, 50):
            data = Comparisons(pairs, z[k], counts[k], wins[k])
            check.identity(
                "step 5: the library's loss",
                negative_log_likelihood(theta[k], data),
                by_row[k],
                scale=magnitude[k],
                tol=1e-13,
            )
    for _ in range(check.choose(40, 4)):
        # Every history of a short adaptive log with optional stopping, exactly.
        rng = check.rng
        z, knowledge = rng.standard_normal((2, 2)), 0.2 + rng.random((4, 2))
        conditional = []
        for theta in rng.standard_normal((2, 2)) * 2:
            histories = _adaptive_histories(theta, z, 4, knowledge)
            u, table, keys = z @ theta, {}, []
            total = sum(full for _, _, full in histories)
            check.identity("step 2: chain rule, probabilities sum to one", total, 1.0, tol=1e-12)
            formula = np.empty(len(histories))
            for k, (history, chosen, full) in enumerate(histories):
                N, W = np.zeros(2), np.zeros(2)
                for t, y, flip in history:
                    N[t] += 1
                    W[t] += y != flip
                formula[k] = chosen * np.exp((W * u - N * softplus(u)).sum())
                keys.append((*N, *W))
                table[keys[-1]] = table.get(keys[-1], 0.0) + full
            full = np.array([h[2] for h in histories])
            check.identity("step 3: count", formula, full, scale=full, tol=1e-12)
            conditional.append(full / np.array([table[key] for key in keys]))
        check.identity("step 4: sufficiency", *conditional, tol=1e-12)
    # Step 1: votes drawn for (a', a) have the law of votes drawn for (a, a') with wins and losses
    # exchanged; both columns are sampled, and judged by the reward itself.
    arms = Bandit.random(check.rng, S=2, K=4, d=3)
    pairs = all_pairs(2, 4)
    reward = arms.phi @ arms.theta
    truth = expit(reward[pairs[:, 0], pairs[:, 1]] - reward[pairs[:, 0], pairs[:, 2]])
    reverse = arms.phi[pairs[:, 0], pairs[:, 2]] - arms.phi[pairs[:, 0], pairs[:, 1]]
    check.identity(
        "step 1: orientation", 1 - preference_probability(arms.theta, reverse), truth, tol=1e-15
    )
    n = check.choose(10**8, 10**6)
    share = sample_outcomes(arms, np.full(len(pairs), n), check.rng).wins / n
    shown_last = 1 - check.rng.binomial(n, preference_probability(arms.theta, reverse)) / n
    for seen in (share, shown_last):
        check.limit("step 1: orientation, sampled", seen, np.sqrt(truth * (1 - truth) / n), truth)
