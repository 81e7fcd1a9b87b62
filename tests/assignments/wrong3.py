"""Typical wrong answers to assignment 3: (question, cell, words of the message)."""

OPTIMIST = '''
def pessimistic_value(policy, theta_hat, V, rho, nu, phi, beta, pi0, d0):
    u = d0 @ np.einsum("sk,skd->sd", policy, phi) - nu
    kl = d0 @ (policy * np.log(policy / pi0)).sum(axis=1)
    return theta_hat @ u + rho * np.sqrt(u @ np.linalg.solve(V, u)) - beta * kl
'''

WRONG_NORM = '''
def pessimistic_value(policy, theta_hat, V, rho, nu, phi, beta, pi0, d0):
    u = d0 @ np.einsum("sk,skd->sd", policy, phi) - nu
    kl = d0 @ (policy * np.log(policy / pi0)).sum(axis=1)
    return theta_hat @ u - rho * np.sqrt(u @ V @ u) - beta * kl
'''

PLUG_IN = '''
def cautious(theta_hat, V, rho, nu, phi, beta, pi0):
    return special.softmax(phi @ theta_hat / beta + np.log(pi0), axis=1)
'''

BONUS = '''
def cautious(theta_hat, V, rho, nu, phi, beta, pi0):
    u = phi - nu[:, None]
    size = np.sqrt(np.einsum("skd,de,ske->sk", u, np.linalg.inv(V), u))
    return special.softmax((phi @ theta_hat + rho * size) / beta + np.log(pi0), axis=1)
'''

OTHER_OPTION = '''
def best_in_expectation(theta_hat, V, rho, nu, phi, beta, pi0, d0):
    u = phi - np.einsum("sk,skd->sd", pi0, phi)[:, None]
    size = np.sqrt(np.einsum("skd,de,ske->sk", u, np.linalg.inv(V), u))
    return special.softmax((phi @ theta_hat - rho * size) / beta + np.log(pi0), axis=1)
'''

PLUG_IN_AGAIN = '''
def best_in_expectation(theta_hat, V, rho, nu, phi, beta, pi0, d0):
    return special.softmax(phi @ theta_hat / beta + np.log(pi0), axis=1)
'''

QUADRATIC = '''
def certificate(V, rho, phi, beta, d0):
    u = phi[:, :, None] - phi[:, None]
    width = np.sqrt(np.einsum("sabd,de,sabe->sab", u, np.linalg.inv(V), u)).max(axis=(1, 2))
    return d0 @ width**2 * rho**2 / (8 * beta)
'''

OTHER_WAY_ROUND = '''
def difference(c, n, runs, rng):
    bandit = klrlhf.Bandit(*(mine[k] for k in ("d0", "pi0", "phi", "theta", "beta", "B")))
    data = klrlhf.sample_comparisons(bandit, n, klrlhf.coverage_design(bandit, c), rng, runs)
    theta_hat = klrlhf.fit_mle(data, bandit.B).theta
    safe = klrlhf.pessimistic_pointwise(bandit, theta_hat, klrlhf.design_matrix(data, mine["reg"]),
                                        mine["rho"], klrlhf.reference_means(bandit)).policy
    d = bandit.gap(safe) - bandit.plug_in_gap(theta_hat)
    half = 1.96 * d.std() / np.sqrt(runs)
    return d.mean(), d.mean() - half, d.mean() + half
'''

WRONG = [
    ("q1", OPTIMIST, "best case"),
    ("q1", WRONG_NORM, "uncertain direction"),
    ("q2", PLUG_IN, "plug-in policy"),
    ("q2", BONUS, "optimistic"),
    ("q3", OTHER_OPTION, "answer by answer"),
    ("q3", PLUG_IN_AGAIN, "plug-in policy"),
    ("q4", QUADRATIC, "quadratic bound"),
    ("q5", OTHER_WAY_ROUND, "something else"),
]
