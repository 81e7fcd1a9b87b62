"""Typical wrong answers to assignment 5: (question, cell, words of the message)."""

_DPO = '''
def dpo(logits, pi0, pairs, counts, wins, beta):
    a, b = pairs.T
    ratio = special.log_softmax(logits) %s
    m = beta * (ratio[a] - ratio[b])
    loss = wins @ np.logaddexp(0, -m) + (counts - wins) @ np.logaddexp(0, m)
    pull = %s (counts * special.expit(m) - wins)
    gradient = np.zeros(len(logits))
    np.add.at(gradient, a, pull)
    np.add.at(gradient, b, -pull)
    return loss, gradient
'''
NO_REFERENCE = _DPO % ("", "beta *")
NO_BETA = _DPO % ("- np.log(pi0)", "1 *")

NO_REFUSAL = '''
def chain(beta, pi0, wins, losses):
    with np.errstate(all="ignore"):
        score = -np.concatenate([[0.0], np.cumsum(np.log(wins / losses))]) / beta
    return special.softmax(score + np.log(pi0))
'''

TIMES_BETA = '''
def chain(beta, pi0, wins, losses):
    if ((wins == 0) | (losses == 0)).any():
        raise ValueError("no minimum")
    score = -np.concatenate([[0.0], np.cumsum(np.log(wins / losses))]) * beta
    return special.softmax(score + np.log(pi0))
'''

ORDER_OF_TIES = '''
def best_of_n(reward, pi0, n):
    order = np.argsort(reward, kind="stable")
    top = np.cumsum(pi0[order])
    law = np.zeros(len(pi0))
    law[order] = top**n - (top - pi0[order]) ** n
    return law
'''

QUOTED_KL = '''
def kl(reward, pi0, n):
    return np.log(n) - (n - 1) / n
'''

OTHER_DIRECTION = '''
def kl(reward, pi0, n):
    below = (pi0 * (reward[None, :] < reward[:, None])).sum(axis=1)
    tied = (pi0 * (reward[None, :] == reward[:, None])).sum(axis=1)
    law = pi0 / tied * ((below + tied) ** n - below**n)
    return float((pi0 * np.log(pi0 / np.maximum(law, 1e-300))).sum())
'''

LINEAR = '''
def rejection(reward, beta, pi0, size, rng):
    accept = (reward - reward.min()) / np.ptp(reward)
    block = rng.choice(len(pi0), size=50 * size, p=pi0)
    kept = np.flatnonzero(rng.random(50 * size) < accept[block])[:size]
    return block[kept], int(kept[-1]) + 1
'''

ACCEPTED_ONLY = '''
def rejection(reward, beta, pi0, size, rng):
    best = special.softmax(reward / beta + np.log(pi0))
    return rng.choice(len(pi0), size=size, p=best), size
'''

WRONG = [
    ("q1", NO_REFERENCE, "not policies with the reference"),
    ("q1", NO_BETA, "misses a factor"),
    ("q2", NO_REFUSAL, "refused with a ValueError"),
    ("q2", TIMES_BETA, "role of beta"),
    ("q3", ORDER_OF_TIES, "right without ties"),
    ("q4", QUOTED_KL, "that is the bound"),
    ("q4", OTHER_DIRECTION, "other direction"),
    ("q5", LINEAR, "law of the Gibbs policy"),
    ("q5", ACCEPTED_ONLY, "rejected draws count"),
]
