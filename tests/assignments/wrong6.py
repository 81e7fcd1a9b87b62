"""Typical wrong answers to assignment 6: (question, cell, words of the message)."""

PROXY_SLOPE = '''
def gold_slope(lam, proxy, gold, pi0, d0):
    law = special.softmax(lam * proxy + np.log(pi0), axis=1)
    c = proxy - (law * proxy).sum(axis=1, keepdims=True)
    return d0 @ (law * c**2).sum(axis=1)
'''

AT_THE_START = '''
def gold_slope(lam, proxy, gold, pi0, d0):
    c = proxy - (pi0 * proxy).sum(axis=1, keepdims=True)
    return d0 @ (pi0 * c * gold).sum(axis=1)
'''

MEAN_OF_LOG = '''
def soft(reward, beta, tokens):
    V = np.asarray(reward, dtype=float)
    for law in tokens[::-1]:
        Q = V
        V = (law * Q).sum(axis=-1)
    return float(V), special.softmax(Q / beta + np.log(tokens[0]))
'''

BEST_RESPONSE_BELOW = '''
def soft(reward, beta, tokens):
    V = np.asarray(reward, dtype=float)
    for law in tokens[::-1]:
        Q, V = V, V.max(axis=-1)
    return float(V), special.softmax(Q / beta + np.log(tokens[0]))
'''

TRANSPOSED = '''
def exploitability(policy, P, beta, pi0):
    log_best = special.log_softmax(P.T @ policy / beta + np.log(pi0))
    return beta * (special.xlogy(policy, policy) - policy * log_best).sum()
'''

OTHER_KL = '''
def exploitability(policy, P, beta, pi0):
    best = special.softmax(P @ policy / beta + np.log(pi0))
    return beta * (best * np.log(best / policy)).sum()
'''

PROXY_PEAK = '''
_law = special.softmax(50 * mine["proxy"] + np.log(mine["pi0"]), axis=1)
answer = {"lam": 50.0, "gold": float(mine["d0"] @ (_law * mine["gold"]).sum(axis=1))}
'''

PROXY_GAIN = '''
def gain(s, runs, rng):
    gold, pi0, d0 = mine["gold"], mine["pi0"], mine["d0"]
    proxy = gold + s * rng.normal(size=(runs, *gold.shape))
    law = special.softmax(mine["lam"] * proxy + np.log(pi0), axis=-1)
    gains = ((law - pi0) * proxy).sum(axis=-1) @ d0
    half = 1.96 * gains.std() / np.sqrt(runs)
    return gains.mean(), gains.mean() - half, gains.mean() + half
'''

WRONG = [
    ("q1", PROXY_SLOPE, "how fast the proxy rises"),
    ("q1", AT_THE_START, "along the path"),
    ("q2", MEAN_OF_LOG, "not the logarithm of a mean"),
    ("q2", BEST_RESPONSE_BELOW, "penalty is lost"),
    ("q3", TRANSPOSED, "changed places"),
    ("q3", OTHER_KL, "which policy averages"),
    ("q4", PROXY_PEAK, "not at its highest"),
    ("q5", PROXY_GAIN, "something else"),
]
