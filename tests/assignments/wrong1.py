"""Typical wrong answers to assignment 1: (question, cell, words of the message)."""

UNNORMALIZED = '''
def gibbs(reward, beta, pi0):
    return pi0 * np.exp((reward - reward.max(axis=-1, keepdims=True)) / beta)
'''

OVERFLOW = '''
def gibbs(reward, beta, pi0):
    weight = pi0 * np.exp(reward / beta)
    return weight / weight.sum(axis=-1, keepdims=True)
'''

NO_REFERENCE = '''
def gibbs(reward, beta, pi0):
    return special.softmax(reward / beta, axis=-1)
'''

SWAPPED_KL = '''
def gap(policy, reward, beta, pi0, d0):
    best = special.softmax(
        (reward - reward.max(axis=-1, keepdims=True)) / beta + np.log(pi0), axis=-1)
    return beta * (d0 @ (best * (np.log(best) - np.log(policy))).sum(axis=-1))
'''

WRONG_POLICY = '''
def gap(policy, reward, beta, pi0, d0):
    kl = (special.xlogy(policy, policy) - special.xlogy(policy, pi0)).sum(axis=-1)
    value = d0 @ ((policy * reward).sum(axis=-1) - beta * kl)
    return abs(d0 @ (pi0 * reward).sum(axis=-1) - value)
'''

SUBTRACTION = '''
def gap(policy, reward, beta, pi0, d0):
    kl = (special.xlogy(policy, policy) - special.xlogy(policy, pi0)).sum(axis=-1)
    value = d0 @ ((policy * reward).sum(axis=-1) - beta * kl)
    return beta * (d0 @ special.logsumexp(reward / beta, b=pi0, axis=-1)) - value
'''

OTHER_KL_THIRD = '''
def expansion(reward, D, beta, pi0, d0):
    best = special.softmax(reward / beta + np.log(pi0), axis=-1)
    c = D - (best * D).sum(axis=-1, keepdims=True)
    return d0 @ (best * c**2).sum(axis=-1) / (2 * beta), d0 @ (best * c**3).sum(axis=-1) / (6 * beta**2)
'''

UNDER_REFERENCE = '''
def expansion(reward, D, beta, pi0, d0):
    c = D - (pi0 * D).sum(axis=-1, keepdims=True)
    return d0 @ (pi0 * c**2).sum(axis=-1) / (2 * beta), d0 @ (pi0 * c**3).sum(axis=-1) / (3 * beta**2)
'''

OTHER_STUDENT = 'answer = {"beta": 0.5, "reward": 0.1}'

SPREAD_NOT_ERROR = '''
def mean_gap(s, n, rng):
    noisy = mine["reward"] + s * rng.normal(size=(n, *mine["reward"].shape))
    gaps = klrlhf.plug_in_suboptimality(noisy, mine["reward"], mine["beta"], mine["pi0"], mine["d0"])
    return gaps.mean(), gaps.mean() - 1.96 * gaps.std(), gaps.mean() + 1.96 * gaps.std()
'''

ONE_GENERATOR = '''
def mean_gap(s, n, rng):
    rng = np.random.default_rng(0)
    noisy = mine["reward"] + s * rng.normal(size=(n, *mine["reward"].shape))
    gaps = klrlhf.plug_in_suboptimality(noisy, mine["reward"], mine["beta"], mine["pi0"], mine["d0"])
    half = 1.96 * gaps.std() / np.sqrt(n)
    return gaps.mean(), gaps.mean() - half, gaps.mean() + half
'''

WRONG = [
    ("q1", UNNORMALIZED, "does not sum to one"),
    ("q1", OVERFLOW, "not finite"),
    ("q1", NO_REFERENCE, "does not depend on the reference"),
    ("q2", SWAPPED_KL, "not finite"),
    ("q2", WRONG_POLICY, "another policy"),
    ("q2", SUBTRACTION, "close to the optimum"),
    ("q3", OTHER_KL_THIRD, "second order only"),
    ("q3", UNDER_REFERENCE, "wrong policy"),
    ("q4", OTHER_STUDENT, "not the budget"),
    ("q5", SPREAD_NOT_ERROR, "much wider"),
    ("q5", ONE_GENERATOR, "draw from rng"),
]
