"""Item 5.9: responses are sequences. The chain rule, soft values, token rewards, and length."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from klrlhf.policies import kl_divergence_from_logs, log_gibbs_policy, log_partition
from klrlhf.results.instances import random_policies
from klrlhf.results.registry import result
from klrlhf.sequences import (
    length_normalized_policy,
    log_reach,
    parents,
    sequence_log_policy,
    shaped_reward,
    soft_values,
    token_kl,
    token_log_policy,
    token_log_ratio,
    token_soft_values,
    tokens_spent,
    total_reward,
    tree_sizes,
)

TREES = ((1, 1), (1, 4), (1, 9), (2, 2), (2, 4), (3, 1), (3, 3), (4, 2), (6, 1))


def random_tokens(rng, size, S, M, W):
    """Log token policies of all kinds, with every probability positive."""
    return np.log(random_policies(rng, size, S * M, W + 1)).reshape(size, S, M, W + 1)


def with_zeros(rng, log_pi):
    """The same policies with some tokens never taken; the likeliest one stays."""
    cut = (rng.random(log_pi.shape) < 0.4) & (log_pi < log_pi.max(-1, keepdims=True))
    log_pi = np.where(cut, -np.inf, log_pi)
    return log_pi - logsumexp(log_pi, axis=-1, keepdims=True)


def random_tree(rng, size):
    """A tree, a reference and another token policy on it, beta, and rewards of all spans."""
    W, H = TREES[rng.integers(len(TREES))]
    S, (K, M) = int(rng.integers(1, 3)), tree_sizes(W, H)
    beta = 10.0 ** rng.uniform(-2, 2, size)
    span = beta[:, None, None] * 10.0 ** rng.uniform(-3, 1.5, (size, 1, 1))
    reward = span * rng.standard_normal((size, S, K))
    coarse = rng.random((size, 1, 1)) < 0.3
    reward = np.where(coarse, span * (rng.random((size, S, K)) < 0.3), reward)
    return (W, H, K, M), random_tokens(rng, size, S, M, W), random_tokens(rng, size, S, M, W), \
        beta, reward


def ancestors(W, H):
    """(K, K) array: does node i lie on the path to node k (itself included)?"""
    K, up = tree_sizes(W, H)[0], parents(W, H)
    on = np.eye(K, dtype=bool)
    for k in range(1, K):
        on[:, k] |= on[:, up[k]]
    return on


def along(values, W, H):
    """Values of the tokens of every response: (..., K, H + 1), zero where it has ended."""
    K, M = tree_sizes(W, H)
    up = parents(W, H)
    out = np.zeros((*values.shape[:-2], K, H + 1))
    for k in range(K):
        node, step = k, 0
        if k < M:
            out[..., k, 0], step = values[..., k, W], 1
        while node > 0:
            out[..., k, step] = values[..., up[node], node - W * up[node] - 1]
            node, step = up[node], step + 1
    return out


@result("kl-chain-rule", part="V", item="5.9", kind="identity",
        title="The divergence of sequences, token by token", source="textbook chain rule",
        depends=())
def kl_chain_rule(check):
    """The divergence of two laws of responses is the expected sum of the divergences of tokens."""
    for rng, size in check.batches(10_000, fast=1_000, size=250):
        (W, H, K, M), log_q, log_p, _, _ = random_tree(rng, size)
        whole_p, whole_q = sequence_log_policy(log_p), sequence_log_policy(log_q)
        ratio = log_p - log_q
        big = 1 + np.abs(log_p).max((-1, -2)) + np.abs(log_q).max((-1, -2))
        check.identity("step 1: the log-ratio adds up", whole_p - whole_q,
                       along(ratio, W, H).sum(-1), scale=(H + 1) * big[..., None])
        on = ancestors(W, H)[:M]
        P = np.exp(whole_p)
        reach = np.exp(log_reach(log_p))[..., :M]
        check.identity("step 2: passing through a prefix", reach,
                       np.einsum("nsk,mk->nsm", P, on), scale=1.0)
        # The mean log-ratio of the next token, over the responses that pass through the prefix.
        steps = along(ratio, W, H)
        depth = on.sum(0)  # number of open prefixes on the way
        mean = np.zeros_like(reach)
        for m in range(M):
            below = np.flatnonzero(on[m])
            # `along` lists tokens from the last one back.
            place = depth[below] - depth[m]
            mean[..., m] = (P[..., below] * steps[..., below, place]).sum(-1)
        divergence = token_kl(log_p, log_q)
        check.identity("step 3: given the prefix", mean, reach * divergence,
                       scale=big[..., None])
        check.identity("claim: divergence", kl_divergence_from_logs(whole_p, whole_q),
                       (reach * divergence).sum(-1), scale=(H + 1) * big)
        weight = rng.standard_normal(divergence.shape)
        weighted = along(weight[..., None] * ratio, W, H).sum(-1)
        check.identity("claim: weights known at the prefix", (P * weighted).sum(-1),
                       (reach * weight * divergence).sum(-1), scale=5 * (H + 1) * big)
        check.inequality("claim: no token costs less than nothing", 0.0, divergence, scale=1e-12)
        # A policy with zeros: some prefixes are never reached.
        zero = with_zeros(rng, log_p)
        passing = np.exp(log_reach(zero))[..., :M]
        check.identity("claim: zeros allowed", kl_divergence_from_logs(
            sequence_log_policy(zero), whole_q), (passing * token_kl(zero, log_q)).sum(-1),
            scale=(H + 1) * big)
    # A weight that looks ahead, one over the length, breaks both: here the "penalty" is negative.
    q, p = np.log([[[0.5, 0.5], [0.5, 0.5]]]), np.log([[[0.6, 0.4], [0.5, 0.5]]])
    length = tokens_spent(1, 2)
    ratio = sequence_log_policy(p) - sequence_log_policy(q)
    forward = (np.exp(sequence_log_policy(p)) * ratio / length).sum()
    check.identity("remark: one over the length looks ahead", float(forward),
                   0.3 * np.log(1.2) - 0.4 * np.log(1.25))  # negative


@result("soft-bellman", part="V", item="5.9", kind="identity",
        title="The Gibbs policy is the soft-optimal policy of the token problem",
        source="todorov2009efficient; this book's form",
        depends=("gibbs-variational", "value-decomposition", "kl-chain-rule"))
def soft_bellman(check):
    """Backward recursion gives the Gibbs policy's tokens, its value at every prefix, the gap."""
    for rng, size in check.batches(10_000, fast=1_000, size=250):
        (W, H, K, M), log_p0, log_pi, beta, reward = random_tree(rng, size)
        soft, b = soft_values(reward, beta, log_p0), beta[:, None, None]
        whole0 = sequence_log_policy(log_p0)
        pi0 = np.exp(whole0)
        pi0 = pi0 / pi0.sum(-1, keepdims=True)
        big = (H + 1) * (1 + np.abs(log_p0).max((-1, -2))[..., None]
                         + np.abs(log_pi).max((-1, -2))[..., None])  # before any zeros
        size_r = np.abs(reward).max(-1, keepdims=True) + b * big
        on = ancestors(W, H)
        # The law of the response given the prefix, by plain summation.
        given = whole0[..., None, :] - log_reach(log_p0)[..., None]
        tilt = np.where(on, given + (reward / b)[..., None, :], -np.inf)
        direct = b * logsumexp(tilt, axis=-1)
        check.identity("step 1: backward induction", soft.V, direct, scale=size_r)
        star = log_gibbs_policy(reward, beta, pi0)
        check.identity("step 2: the product telescopes", sequence_log_policy(soft.log_tokens),
                       whole0 + (reward - soft.V[..., :1]) / b, scale=size_r / b)
        check.identity("claim: the law of responses is Gibbs", sequence_log_policy(
            soft.log_tokens), star, scale=size_r / b)
        check.identity("claim: soft value of the prompt", soft.V[..., 0],
                       beta[:, None] * log_partition(reward, beta, pi0), scale=size_r[..., 0])
        check.identity("claim: tokens are conditional laws", soft.log_tokens,
                       token_log_policy(star, W), scale=(size_r / b)[..., None])
        # Any policy, from any prefix: its own value by its own recursion.
        log_pi = with_zeros(rng, log_pi) if rng.random() < 0.4 else log_pi
        values, later = policy_values(reward, beta, log_pi, log_p0, W, H)
        behind = policy_values(0 * reward, beta, log_pi, soft.log_tokens, W, H)[0]
        check.identity("step 3: the gap at every prefix", soft.V[..., :M] - values[..., :M],
                       -behind[..., :M], scale=size_r)
        check.inequality("claim: optimal from every prefix", values, soft.V, scale=size_r)
        passing = np.exp(log_reach(log_pi))[..., :M]
        gap = (b * passing * token_kl(log_pi, soft.log_tokens)).sum(-1)
        check.identity("claim: the gap adds up token by token", gap, beta[:, None]
                       * kl_divergence_from_logs(sequence_log_policy(log_pi), star),
                       scale=size_r[..., 0])
        check.identity("step 3: at the prompt", soft.V[..., 0] - values[..., 0], gap,
                       scale=size_r[..., 0])


def policy_values(reward, beta, log_pi, log_p0, W, H):
    """E_pi[r - beta log(pi/pi0) | prefix], level by level."""
    K, M = tree_sizes(W, H)
    V, p = np.array(reward), np.exp(log_pi)
    cost = beta[:, None, None, None] * (np.where(p > 0, log_pi, log_p0) - log_p0)
    for m in range(M - 1, -1, -1):
        below = np.concatenate([V[..., W * m + 1: W * m + 1 + W], reward[..., m: m + 1]], axis=-1)
        V[..., m] = (p[..., m, :] * (below - cost[..., m, :])).sum(-1)
    return V, cost


@result("token-log-ratio", part="V", item="5.9", kind="identity",
        title="What the log-ratio of a token is",
        source="rafailov2024from, ng1999policy; exact form: this book", depends=("soft-bellman",))
def token_log_ratio_result(check):
    """The log-ratio is the advantage; token rewards are identified up to a potential only."""
    for rng, size in check.batches(10_000, fast=1_000, size=250):
        (W, H, K, M), log_p0, log_pi, beta, reward = random_tree(rng, size)
        S, b = reward.shape[1], beta[:, None, None]
        big = (H + 1) * (1 + np.abs(log_p0).max((-1, -2))[..., None]
                         + np.abs(log_pi).max((-1, -2))[..., None])
        span = np.abs(reward).max(-1, keepdims=True)
        scale = span + b * big
        # Whole responses: the log-ratio is Q - V, whatever constant the prompt adds.
        moved = reward + span * rng.standard_normal((size, S, 1))
        soft = soft_values(moved, beta, log_p0)
        ratio = token_log_ratio(soft.log_tokens, log_p0, beta)
        check.identity("step 1: advantage", ratio, soft.Q - soft.V[..., :M, None],
                       scale=4 * scale[..., None])
        check.identity("claim: it is the change of the soft value", total_reward(ratio),
                       moved - soft.V[..., :1], scale=4 * scale)
        # Token rewards: shaping moves the soft values and nothing else.
        rho = span[..., None] * rng.standard_normal((size, S, M, W + 1))
        first = token_soft_values(rho, beta, log_p0)
        phi = span * rng.standard_normal((size, S, M))
        other = shaped_reward(rho, phi)
        second = token_soft_values(other, beta, log_p0)
        large = (H + 1) * (5 * span + b * big)
        check.identity("step 2: V moves by the potential", second.V[..., :M],
                       first.V[..., :M] - phi, scale=large)
        check.identity("claim: shaping keeps the policy", second.log_tokens, first.log_tokens,
                       scale=(large / b)[..., None])
        check.identity("step 2: sums move by the prompt's potential", total_reward(other),
                       total_reward(rho) - phi[..., :1], scale=large)
        check.identity("step 3: paid at the end or on the way", sequence_log_policy(
            first.log_tokens), sequence_log_policy(
                soft_values(total_reward(rho), beta, log_p0).log_tokens), scale=large / b)
        # Conversely: two rewards with one optimal policy differ by the potential V - V'.
        sums = total_reward(rho)
        late = np.zeros_like(rho)  # the same sums, all paid with the last token
        late[..., W] = sums[..., :M]
        leaves = np.arange(M, K)
        late[..., parents(W, H)[leaves], (leaves - 1) % W] = sums[..., M:]
        third = token_soft_values(late, beta, log_p0)
        check.identity("claim: equal policies differ by a potential",
                       shaped_reward(rho, first.V[..., :M] - third.V[..., :M]), late,
                       scale=large[..., None])
        # The one member of each class whose soft values vanish is the log-ratio.
        own = token_log_ratio(log_pi, log_p0, beta)
        none = token_soft_values(own, beta, log_p0)
        check.identity("claim: soft values of the log-ratio vanish", none.V, 0.0, scale=large)
        check.identity("claim: and its policy is the one given", none.log_tokens, log_pi,
                       scale=(large / b)[..., None])
        check.identity("step 4: shaped by V itself", shaped_reward(rho, first.V[..., :M]),
                       token_log_ratio(first.log_tokens, log_p0, beta), scale=large[..., None])
    # Dimensions: token rewards, potentials, and what comparisons of responses can tell.
    for W, H in TREES:
        K, M = tree_sizes(W, H)
        rows = total_reward(np.eye(M * (W + 1)).reshape(-1, 1, M, W + 1))[:, 0].T
        told = np.linalg.matrix_rank(rows - rows[:1])
        check.holds("step 5: dimensions", [told == K - 1, M * (W + 1) - told == M])


@result("length-normalization", part="V", item="5.9", kind="identity",
        title="A penalty per token gives every length its own temperature", source="this book",
        depends=())
def length_normalization(check):
    """Maximizers of the length-normalized objective and loss, and what they do to length."""
    for rng, size in check.batches(10_000, fast=1_000, size=250):
        (W, H, K, M), log_p0, log_pi, beta, reward = random_tree(rng, size)
        length, b = tokens_spent(W, H).astype(float), beta[:, None, None]
        pi0 = np.exp(sequence_log_policy(log_p0))
        # Rewards of moderate span: the formulas below use probabilities, not their logarithms.
        span = 20 * b / (np.abs(reward).max(-1, keepdims=True) + 20 * b)
        reward, pi0 = reward * span, np.maximum(pi0, 1e-12)
        pi0 = pi0 / pi0.sum(-1, keepdims=True)
        pi = np.maximum(np.exp(sequence_log_policy(log_pi)), 1e-12)
        pi = pi / pi.sum(-1, keepdims=True)
        scale = 50 * b[..., 0] * (H + 2)

        def objective(p):
            return (p * (reward - b * np.log(p / pi0) / length)).sum(-1)

        best = length_normalized_policy(reward, beta, pi0, length, 1.0)
        constant = reward - b * (np.log(best / pi0) + 1) / length
        check.identity("step 1: stationary", constant, constant[..., :1], scale=scale[..., None],
                       tol=1e-8)
        check.identity("step 2: the gap is a weighted divergence", objective(best) - objective(pi),
                       (b * (pi * np.log(pi / best) - pi + best) / length).sum(-1), scale=scale,
                       tol=1e-9)
        check.inequality("claim: maximizer", objective(pi), objective(best), scale=scale, tol=1e-9)
        # DPO: every margin equals its reward difference.
        margin = length_normalized_policy(reward, beta, pi0, length)
        implied = b * np.log(margin / pi0) / length - reward
        check.identity("step 3: the margins", implied, implied[..., :1], scale=scale[..., None],
                       tol=1e-8)

        def other(p):
            return (p * reward - b * (p * np.log(p / pi0) - p + pi0) / length).sum(-1)

        check.identity("step 3: its own objective", other(margin) - other(pi),
                       (b * (pi * np.log(pi / margin) - pi + margin) / length).sum(-1),
                       scale=scale, tol=1e-9)
        check.inequality("claim: the margins' policy maximizes it", other(pi), other(margin),
                         scale=scale, tol=1e-9)
        # A constant reward: DPO keeps the reference, the penalty makes responses longer.
        flat = np.broadcast_to(reward[..., :1], reward.shape)
        check.identity("claim: DPO keeps the reference", length_normalized_policy(
            flat, beta, pi0, length), pi0, scale=1.0, tol=1e-8)
        longer = length_normalized_policy(flat, beta, pi0, length, 1.0)
        m = ((np.log(longer / pi0) + 1) / length)[..., 0]
        check.inequality("step 4: the tilt favours length", 0.0, m, scale=1e-9)
        check.inequality("claim: responses get longer", (pi0 * length).sum(-1),
                         (longer * length).sum(-1), scale=1e-9, tol=1e-8)
        paid = (longer * np.log(longer / pi0) / length).sum(-1)
        check.inequality("claim: the penalty is not positive", paid, 0.0, scale=1.0, tol=1e-8)
        even = length_normalized_policy(reward, beta, pi0, np.full(K, 3.0), 1.0)
        check.identity("claim: equal lengths, one temperature", even, np.exp(
            log_gibbs_policy(3 * reward, beta, pi0)), scale=1.0, tol=1e-8)
    pi0, length = np.array([[0.5, 0.5]]), np.array([1.0, 8.0])
    longer = length_normalized_policy(np.zeros((1, 2)), 1.0, pi0, length, 1.0)
    # With t = e^m the sum to one reads t + t^8 = 2e, and the longer one has t^8 / (2e).
    t = 2 * np.e * float(longer[0, 0])
    check.identity("remark: how much longer", float(longer[0, 1]), t**8 / (2 * np.e), tol=1e-9)


@result("length-limit", part="V", item="5.9", kind="identity",
        title="Responses must end at a bounded length", source="this book",
        depends=("soft-bellman",))
def length_limit(check):
    """A reward c per word: the soft value converges or grows by a factor x per word of limit."""
    for rng, size in check.batches(10_000, fast=1_000, size=250):
        H = int(rng.choice([1, 2, 5, 20, 60]))
        q = rng.uniform(0.02, 0.98, size)
        x = np.exp(rng.uniform(-1.5, 1.5, size))
        x = np.where(rng.random(size) < 0.1, 1.0, x)
        beta = 10.0 ** rng.uniform(-1, 1, size)
        c = beta * np.log(x / (1 - q))
        tokens = np.log(np.stack([1 - q, q], axis=-1))[:, None, None, :]
        tokens = np.broadcast_to(tokens, (size, 1, H, 2))
        reward = c[:, None, None] * np.arange(H + 1)
        soft = soft_values(reward, beta, tokens)
        closed = np.log(q * geometric(x, H) + x**H)
        scale = beta * (1 + np.abs(np.log(x)) * H + np.abs(np.log(x / (1 - q))) * H)
        check.identity("step 1: geometric series", soft.V[:, 0, 0], beta * closed, scale=scale,
                       tol=1e-10)
        # At each prefix of j words: j words are paid, H - j remain.
        left = H - np.arange(H + 1)
        ladder = beta[:, None] * np.log(q[:, None] * geometric(x[:, None], left)
                                        + x[:, None] ** left) + c[:, None] * np.arange(H + 1)
        check.identity("step 1: at every prefix", soft.V[:, 0], ladder, scale=scale[:, None],
                       tol=1e-10)
        full = np.exp(sequence_log_policy(soft.log_tokens)[:, 0, -1])
        check.identity("claim: mass at the limit", full, x**H / (q * geometric(x, H) + x**H),
                       scale=1.0, tol=1e-9)
        above = x > 1
        floor = (x - 1) / (x - 1 + q)
        check.inequality("claim: above one the limit keeps its share", floor[above], full[above],
                         scale=1e-9)
        check.inequality("claim: above one it decays to that share geometrically",
                         (full - floor)[above], (q / (x - 1 + q) * x ** (-float(H)))[above],
                         scale=1.0, tol=1e-12)
        least = np.minimum(1.0, q / (1 - np.where(x < 1, x, 0.0)))
        check.inequality("claim: below one the limit is forgotten", full[x < 1],
                         (x**H / least)[x < 1], scale=1e-12)
        check.identity("claim: at one", full[x == 1], 1 / (1 + q * H)[x == 1], scale=1.0, tol=1e-9)
        below = x < 1
        ceiling = q / (1 - np.where(below, x, 0.0))
        error = np.abs(np.exp(soft.V[:, 0, 0] / beta) - ceiling)
        check.identity("claim: below one it converges", error[below],
                       (np.abs(1 - ceiling) * x**H)[below], scale=(1 + ceiling)[below], tol=1e-9)
        # No limit at all and reward zero: other solutions of the recursion, which never end.
        C, T = 10.0 ** rng.uniform(-2, 2, size), 12
        t = np.arange(T + 1)
        v = 1 + C[:, None] * (1 - q[:, None]) ** -t
        check.identity("step 2: a false solution", v[:, :-1], q[:, None] + (1 - q[:, None])
                       * v[:, 1:], scale=v[:, 1:])
        stay = (1 - q[:, None]) * v[:, 1:] / v[:, :-1]
        check.identity("claim: its policy ends with probability below one", stay.prod(-1),
                       ((1 - q) ** T + C) / (1 + C), scale=1.0)


def geometric(x, n):
    """1 + x + ... + x^(n-1), accurate near x = 1."""
    x, n = np.broadcast_arrays(np.asarray(x, float), np.asarray(n, float))
    t = np.log(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(t == 0, n, np.expm1(n * t) / np.expm1(t))
