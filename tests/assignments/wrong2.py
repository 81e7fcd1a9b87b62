"""Typical wrong answers to assignment 2: (question, cell, words of the message)."""

SIGN = '''
def loss_gradient(theta, z, counts, wins):
    u = z @ theta
    loss = wins @ np.logaddexp(0, -u) + (counts - wins) @ np.logaddexp(0, u)
    return loss, (wins - counts * special.expit(u)) @ z
'''

UNSTABLE = '''
def loss_gradient(theta, z, counts, wins):
    p = 1 / (1 + np.exp(-z @ theta))
    return -(wins @ np.log(p) + (counts - wins) @ np.log(1 - p)), (counts * p - wins) @ z
'''

NO_BALL = '''
def fit(z, counts, wins, B):
    def loss(t):
        u = z @ t
        return wins @ np.logaddexp(0, -u) + (counts - wins) @ np.logaddexp(0, u)
    return optimize.minimize(loss, np.zeros(z.shape[1])).x
'''

COIN_FLIPS = '''
def asymptotic_sd(theta, z, design, u, n):
    return np.sqrt(u @ np.linalg.solve((z.T * design / 4) @ z, u) / n)
'''

VARIANCE = '''
def asymptotic_sd(theta, z, design, u, n):
    p = special.expit(z @ theta)
    return u @ np.linalg.solve((z.T * (design * p * (1 - p))) @ z, u) / n
'''

USUAL_RADIUS = '''
_pairs = np.array([(t, 0, 1) for t in range(len(mine["z"]))])
_data = klrlhf.Comparisons(_pairs, mine["z"], mine["counts"], mine["wins"])
_bound = klrlhf.score_bound_fixed(_data, mine["reg"], mine["delta"])
_gamma = klrlhf.least_curvature(mine["L"], mine["B"])
answer = {"score_bound": float(_bound), "radius": float(
    klrlhf.confidence_radius(_bound, _gamma, mine["reg"], mine["B"], form="usual"))}
'''

WALD_LIMITS = '''
def misses(n, runs, rng):
    k = int(rng.binomial(runs, 0.1))
    p = k / runs
    half = 1.96 * np.sqrt(p * (1 - p) / runs)
    return k, p - half, p + half
'''

WRONG = [
    ("q1", SIGN, "points downhill"),
    ("q1", UNSTABLE, "not finite"),
    ("q2", NO_BALL, "must lie in the ball"),
    ("q3", COIN_FLIPS, "coin flip"),
    ("q3", VARIANCE, "variance"),
    ("q4", USUAL_RADIUS, "comparing values"),
    ("q5", WALD_LIMITS, "not the exact"),
]
