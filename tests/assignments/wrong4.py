"""Typical wrong answers to assignment 4: (question, cell, words of the message)."""

TOO_LATE = '''
def increments(V0, Z):
    V, out = np.array(V0, dtype=float), []
    for z in Z:
        V = V + np.outer(z, z)
        out.append(np.log1p(z @ np.linalg.solve(V, z)))
    return np.array(out)
'''

QUOTED = '''
def potential_constant(cap):
    return 2.0
'''

LOOSE = '''
def potential_constant(cap):
    return 1 + cap
'''

NO_CONDITION = '''
def choose(candidates, main, V, rho, phi, beta, d0):
    f = lambda p: np.einsum("s,...sk,skd->...d", d0, p, phi)
    u = f(candidates) - f(main)
    gamma = np.sqrt(np.maximum(np.einsum("nd,de,ne->n", u, np.linalg.inv(V), u), 0.0))
    return int(gamma.argmax()), gamma.max()
'''

SWAPPED_KL = '''
def choose(candidates, main, V, rho, phi, beta, d0):
    f = lambda p: np.einsum("s,...sk,skd->...d", d0, p, phi)
    u = f(candidates) - f(main)
    gamma = np.sqrt(np.maximum(np.einsum("nd,de,ne->n", u, np.linalg.inv(V), u), 0.0))
    kl = (main * np.log(main / candidates)).sum(axis=-1) @ d0
    index = int(np.where(beta * kl <= rho * gamma + 1e-12, gamma, -1.0).argmax())
    return index, gamma[index]
'''

WRONG_COMPETITOR = '''
def regret(policies, batch, reward, beta, pi0, d0):
    kl = (policies * np.log(policies / pi0)).sum(axis=-1)
    value = ((policies * reward).sum(axis=-1) - beta * kl) @ d0
    return batch * (d0 @ (pi0 * reward).sum(axis=1) - value).sum(axis=1).cumsum()
'''

NO_BATCH = '''
def regret(policies, batch, reward, beta, pi0, d0):
    log_best = special.log_softmax(reward / beta + np.log(pi0), axis=-1)
    gap = beta * (special.xlogy(policies, policies) - policies * log_best).sum(axis=-1) @ d0
    return gap.sum(axis=1).cumsum()
'''

TOO_NARROW = '''
def advantage(rounds, batch, runs, rng):
    bandit = klrlhf.Bandit(*(mine[k] for k in ("d0", "pi0", "phi", "theta", "beta", "B")))
    online = klrlhf.online_gshf(bandit, rounds, batch, rng, reg=mine["reg"],
                                enhancer=klrlhf.reference_enhancer, replicates=runs).gap[-1]
    data = klrlhf.sample_comparisons(bandit, (rounds - 1) * batch,
                                     klrlhf.coverage_design(bandit, mine["coverage"]), rng, runs)
    offline = bandit.plug_in_gap(klrlhf.fit_mle(data, bandit.B).theta)
    mean = offline.mean() - online.mean()
    half = 1.96 * (offline.std() + online.std()) / runs
    return mean, mean - half, mean + half
'''

WRONG = [
    ("q1", TOO_LATE, "before its comparison"),
    ("q2", QUOTED, "one cap"),
    ("q2", LOOSE, "a smaller one will do"),
    ("q3", NO_CONDITION, "cannot be the best policy"),
    ("q3", SWAPPED_KL, "which policy averages"),
    ("q4", WRONG_COMPETITOR, "wrong policy"),
    ("q4", NO_BATCH, "whole batch"),
    ("q5", TOO_NARROW, "narrower"),
]
