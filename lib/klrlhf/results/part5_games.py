r"""Checks of part V, item 5.10: the regularized preference game and its Nash policy.

What lives here: random games whose Nash policy is known beforehand, the saddle point, how far it
lies from the reference, and exploitability.
What does not: self-play (``part5_self_play``), Gibbs policies and learning
(``part5_games_reward``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from klrlhf.games import (
    best_response,
    cyclic_preferences,
    exploitability,
    game_value,
    interaction,
    log_nash_policy,
    nash_kl_bound,
    rotation,
)
from klrlhf.numerics import sharp_hoeffding
from klrlhf.policies import kl_divergence, kl_divergence_from_logs
from klrlhf.results.instances import _dirichlet, random_policies
from klrlhf.results.registry import result


class Games(NamedTuple):
    """Preferences P, their A = P - 1/2, beta, reference, and the Nash policy that made it."""

    P: np.ndarray
    A: np.ndarray
    beta: np.ndarray
    pi0: np.ndarray
    nash: np.ndarray
    log_nash: np.ndarray


def antisymmetric(rng, size, S, K):
    """Payoffs in [-1/2, 1/2]: generic, deterministic, Bradley-Terry, transitive, weak."""
    A = np.triu(rng.uniform(-0.5, 0.5, (size, S, K, K)), 1)
    kind = rng.integers(0, 5, (size, 1, 1, 1))
    A = np.where(kind == 1, np.triu(np.sign(A)) / 2, A)
    r = 3 * rng.standard_normal((size, S, K))
    A = np.where(kind == 2, np.triu(np.tanh((r[..., :, None] - r[..., None, :]) / 2) / 2, 1), A)
    A = np.where(kind == 3, np.triu(np.full((K, K), 0.5), 1), A)
    A = np.where(kind == 4, 0.05 * A, A)
    return A - np.swapaxes(A, -1, -2)


def random_games(rng, size, K=None, S=None, lo=-1.5, hi=1.5):
    """Any policy is the Nash policy of one reference: pi0 = pi_N exp(-A pi_N / beta) / Z."""
    S = int(rng.integers(1, 4)) if S is None else S
    K = int(rng.integers(2, 7)) if K is None else K
    A, beta = antisymmetric(rng, size, S, K), 10.0 ** rng.uniform(lo, hi, size)
    nash = _dirichlet(rng, 10.0 ** rng.uniform(-0.5, 1.3, (size, 1, 1)), (size, S, K))
    nash = np.maximum(nash, 1e-30)
    nash = nash / nash.sum(axis=-1, keepdims=True)
    log_nash = np.log(nash) - logsumexp(np.log(nash), axis=-1, keepdims=True)
    logits = log_nash - np.einsum("nsab,nsb->nsa", A, nash) / beta[:, None, None]
    pi0 = np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))
    return Games(0.5 + A, A, beta, pi0 / pi0.sum(-1, keepdims=True), nash, log_nash)


@result("nash-unique", part="V", item="5.10", kind="identity",
        title="The regularized preference game has one Nash policy", source="this book",
        depends=("gibbs-variational",))
def nash_unique(check):
    """A fixed point of the best response exists; against it every policy loses beta KL exactly."""
    for rng, size in check.batches(12_000, fast=1_200, size=500):
        g = random_games(rng, size)
        S, K = g.nash.shape[1:]
        # Step 1 by a solver that does not know the answer.
        found = log_nash_policy(g.P, g.beta, g.pi0)
        check.identity("step 1: the fixed point found", np.exp(found), g.nash, tol=1e-8)
        check.identity("claim: fixed point", best_response(g.nash, g.P, g.beta, g.pi0), g.nash,
                       tol=1e-10)
        first, second = random_policies(rng, size, S, K), random_policies(rng, size, S, K)
        beta, kl = g.beta[:, None], [kl_divergence(p, g.nash) for p in (first, second)]
        bill = [kl_divergence(p, g.pi0) for p in (first, second, g.nash)]
        scale = 1 + beta * (kl[0] + kl[1] + sum(bill))
        against = [game_value(p, g.nash, g.P, g.beta, g.pi0) for p in (first, second)]
        check.identity("step 2: payoff against the fixed point", against[0],
                       0.5 - beta * kl[0], scale=scale, tol=1e-10)
        both = game_value(first, second, g.P, g.beta, g.pi0)
        back = game_value(second, first, g.P, g.beta, g.pi0)
        check.identity("step 3: constant sum", both + back, 1.0, scale=scale, tol=1e-10)
        ahead = game_value(g.nash, second, g.P, g.beta, g.pi0)
        check.identity("step 3: the other side", ahead, 0.5 + beta * kl[1], scale=scale, tol=1e-10)
        check.inequality("claim: saddle", against[0], np.minimum(ahead, 0.5), scale=scale,
                         tol=1e-10)
        check.identity("step 4: no other saddle", ahead - against[0], beta * (kl[0] + kl[1]),
                       scale=scale, tol=1e-10)
        d0 = random_policies(rng, size, 1, S)[:, 0]
        check.identity("claim: averaged over prompts", (d0 * against[0]).sum(-1),
                       0.5 - g.beta * (d0 * kl[0]).sum(-1), scale=scale.max(-1), tol=1e-10)
    P, pi0 = cyclic_preferences(), np.array([[0.6, 0.3, 0.1]])
    nash = np.exp(log_nash_policy(P, 0.1, pi0))

    def win(x):
        policy = np.exp(x - logsumexp(x))[None]
        return float(game_value(policy / policy.sum(), nash / nash.sum(), P, 0.1, pi0)[0]) / 0.5

    best = check.search("claim: nobody beats the Nash policy", win, [np.zeros(3), [2, 0, -1.0]])
    check.at_least("claim: a tie is reached", best, 1 - 1e-6)


def transitive(K):
    """Every action beats those after it, for certain: A = 1/2 above the diagonal."""
    upper = np.triu(np.full((K, K), 0.5), 1)
    return (upper - upper.T)[None]


@result("nash-kl-bound", part="V", item="5.10", kind="inequality",
        title="How far the Nash policy lies from the reference", source="this book",
        depends=("nash-unique", "hoeffding-kl"))
def nash_kl(check):
    """KL(pi_N || pi0) is at most log(sinh(rho / beta) / (rho / beta)), the best possible."""
    for rng, size in check.batches(20_000, fast=2_000):
        g = random_games(rng, size)
        K, beta = g.nash.shape[-1], g.beta[:, None]
        u = np.einsum("nsab,nsb->nsa", g.A, g.nash)
        rho = np.abs(g.A).max(axis=(-1, -2))
        log_pi0 = g.log_nash - u / beta[..., None]
        log_pi0 = log_pi0 - logsumexp(log_pi0, axis=-1, keepdims=True)
        kl = kl_divergence_from_logs(g.log_nash, log_pi0)
        exact = logsumexp(g.log_nash - u / beta[..., None], axis=-1)
        check.identity("step 1: the divergence", kl, exact, scale=1 + rho / beta, tol=1e-11)
        check.identity("step 1: mean zero", (g.nash * u).sum(-1), 0.0, tol=1e-13)
        s = rho * rng.uniform(-1, 1, rho.shape)
        over = u > s[..., None]
        mass = (g.nash * over).sum(-1)
        upper = (g.nash * np.where(over, u, 0.0)).sum(-1)
        check.inequality("step 2: an upper set", upper, rho * mass * (1 - mass), scale=1e-3 * rho)
        check.inequality("step 2: excess over a level", upper - s * mass,
                         (rho - s) ** 2 / (4 * rho), scale=1e-3 * rho)
        t = rho / beta
        bound = nash_kl_bound(g.beta[:, None], rho)
        check.inequality("step 3: convex order", np.exp(exact - rho / beta),
                         np.exp(bound - rho / beta), tol=1e-10)
        check.inequality("claim", kl, bound, scale=1e-4 * (1 + t), tol=1e-10)
        check.inequality("claim: simple form", bound, np.minimum(t**2 / 6, t), tol=1e-10)
        check.inequality("claim: below the span bound", bound, sharp_hoeffding(2 * t), tol=1e-9)
        if K == 2:
            check.inequality("claim: two actions", kl, sharp_hoeffding(t), scale=1e-4 * (1 + t),
                             tol=1e-10)
    # Attained: a transitive tournament with a uniform Nash policy; two actions with the right odds.
    t = np.array([0.2, 1.0, 5.0, 20.0])
    for K in (10, 1000):
        u = transitive(K)[0].mean(axis=1)
        exact = logsumexp(-2 * t[:, None] * u, axis=-1) - np.log(K)
        closed = (t + np.log(-np.expm1(-2 * t))
                  - (t / K + np.log(-np.expm1(-2 * t / K))) - np.log(K))
        check.identity("step 4: the tournament", exact, closed, scale=1 + t, tol=1e-10)
        check.inequality("claim: tournaments", exact, nash_kl_bound(1 / t, 1.0), tol=1e-10)
    check.at_least("claim: attained by long tournaments",
                   (exact / nash_kl_bound(1 / t, 1.0)).min(), 0.999)
    q = 1 / -np.expm1(-t) - 1 / t
    two = np.log(q * np.exp(-(1 - q) * t) + (1 - q) * np.exp(q * t))
    check.at_least("claim: attained by two actions", (two / sharp_hoeffding(t)).min(), 1 - 1e-9)


@result("nash-gap", part="V", item="5.10", kind="inequality",
        title="Exploitability and distance to the Nash policy", source="this book",
        depends=("nash-unique", "hoeffding-kl", "gibbs-variational"))
def nash_gap(check):
    """Exploitability is beta KL(pi || BR), and between beta and beta + kappa^2 / beta times KL."""
    for rng, size in check.batches(20_000, fast=2_000):
        g = random_games(rng, size)
        S, K = g.nash.shape[1:]
        near = g.log_nash + 10.0 ** rng.uniform(-3, 0.5, (size, 1, 1)) * rng.standard_normal(
            (size, S, K))
        log_policy = near - logsumexp(near, axis=-1, keepdims=True)
        policy = np.exp(log_policy)
        policy = policy / policy.sum(-1, keepdims=True)
        beta = g.beta[:, None]
        response = best_response(policy, g.P, g.beta, g.pi0)
        exploit = exploitability(policy, g.P, g.beta, g.pi0)
        kl, rest = kl_divergence(policy, g.nash), kl_divergence(g.nash, response)
        size_of = 1 + beta * (kl_divergence(policy, g.pi0) + kl_divergence(response, g.pi0))
        check.identity("step 1: the best response's gain",
                       game_value(response, policy, g.P, g.beta, g.pi0) - 0.5, exploit,
                       scale=size_of, tol=1e-10)
        check.identity("claim: exact", exploit, beta * (kl + rest),
                       scale=1e-6 * beta + exploit, tol=1e-7)
        v = policy - g.nash
        turned = np.einsum("nsab,nsb->nsa", g.A, v)
        span, norm = np.ptp(turned, axis=-1), np.abs(v).sum(-1)
        kappa = interaction(g.P)
        check.inequality("step 3: span of the best responses", rest, sharp_hoeffding(span / beta),
                         scale=1e-6, tol=1e-7)
        check.inequality("step 3: span", span, 2 * kappa * norm, scale=1e-6, tol=1e-7)
        check.inequality("step 4: Pinsker", norm**2, 2 * kl, scale=1e-6, tol=1e-7)
        check.inequality("claim: below", beta * kl, exploit, scale=1e-6 * beta, tol=1e-7)
        check.inequality("claim: above", exploit, (beta + kappa**2 / beta) * kl,
                         scale=1e-6 * (beta + kappa**2 / beta), tol=1e-7)
        check.inequality("claim: preferences", kappa, 0.5)
        u = np.einsum("nsab,nsb->nsa", g.A, g.nash)
        room = -beta[..., None] * np.log(g.pi0)
        check.inequality("step 6: without regularization", u, room, scale=1e-9 * (1 + room))
        best = np.einsum("nsab,nsb->nsa", g.A, policy).max(-1)
        rho, back = np.abs(g.A).max((-1, -2)), kl_divergence(g.nash, policy)
        check.inequality("claim: without regularization", best,
                         room.max(-1) + rho * np.sqrt(2 * np.minimum(kl, back)), scale=1e-6,
                         tol=1e-7)
        check.inequality("step 6: shift of the win rates", np.abs(turned).max(-1), rho * norm,
                         scale=1e-6, tol=1e-8)
    # A rare answer that beats everything: its win rate is all that the reference's price allows.
    p, cost = 0.01, 1e-3
    logits = np.array([np.log(p) - (1 - p) / 2 / cost, np.log1p(-p) + p / 2 / cost])
    check.at_least("step 6: attained", (1 - p) / 2 / (cost * (logsumexp(logits) - logits[0])), 0.97)
    # Close to the Nash policy the factor is exactly beta + omega^2 / beta in the worst direction.
    rng = check.rng
    g = random_games(rng, check.choose(300, 60), K=4, S=1, lo=-1, hi=0)
    q = np.sqrt(g.nash[:, 0])
    form = q[:, :, None] * g.A[:, 0] * q[:, None, :]
    lower = form - np.einsum("nab,nb->na", form, q)[:, :, None] * q[:, None, :]
    lower = lower - q[:, :, None] * np.einsum("na,nab->nb", q, lower)[:, None, :]
    _, _, right = np.linalg.svd(lower)
    delta = right[:, 0] / q
    policy = g.nash[:, 0] * (1 + 1e-4 * delta / np.abs(delta).max(1, keepdims=True))
    policy = (policy / policy.sum(1, keepdims=True))[:, None]
    ratio = (exploitability(policy, g.P, g.beta, g.pi0) / kl_divergence(policy, g.nash))[:, 0]
    omega = rotation(g.P, g.nash)[:, 0]
    check.limit("claim: local factor", ratio, 0.0, g.beta + omega**2 / g.beta, rtol=2e-3)
    check.inequality("step 5: rotation below interaction", omega, interaction(g.P)[:, 0])
