r"""The ball-Newton iteration on a log-partition function, the dual of option I pessimism.

It minimizes, for every replicate, over :math:`\|v\|\le1`

.. math:: F(v) = \beta\,E_{d_0}\log\sum_a e^{\ell(x,a) + \langle v, f(x,a)\rangle/\beta}
          + \langle v, e\rangle

with the steps of ``_ball_newton``: the model minimizer over the ball, damped by the same rule. That
rule asks that a change ``r`` of log-probabilities changes second derivatives by a factor of at most
``e^r``; here it holds because a third cumulant is at most range times variance.
A small ``beta`` makes F nearly piecewise linear, and damped steps slow; so beta is lowered to its
value in stages, each started at the last one's minimizer.

What lives here: the iteration on plain arrays, rows being replicates.
What does not: what F means, and coordinates in which the ellipsoid is a ball (``offline``).
"""

from __future__ import annotations

import numpy as np

from ._ball_newton import ball_step, damping

STEP_TOLERANCE = 1e-6
STAGE_TOLERANCE = 0.3
GAP_ROUNDING = 1e-15
PATIENCE = 20
# Curvature below this share of the largest is rounding: where a policy plays two answers only, the
# exact Hessian has rank one, and which side of zero the rest falls on depends on the machine.
FLAT = 1e-14
STAGE_FACTOR = 4.0


def without_noise(H, gradient, v, move):
    """Steps that leave flat directions alone, where such a step stays in the ball; else ``move``.

    Along a flat direction a Newton step is the quotient of two rounding errors: it may cross the
    whole ball, and its damping then holds back the directions that matter.
    """
    values, vectors = np.linalg.eigh(H)
    flat = values <= FLAT * values[:, -1:]
    along = (np.swapaxes(vectors, 1, 2) @ gradient[..., None])[..., 0]
    calm = -(vectors @ np.where(flat, 0.0, along / np.where(flat, 1.0, values))[..., None])[..., 0]
    stays = flat.any(axis=1) & (((v + calm) ** 2).sum(axis=1) <= 1.0)
    return np.where(stays[:, None], calm, move)


class LogPartitionProblem:
    """F for one set of prompts; rows are replicates.

    Parameters
    ----------
    d0 : ndarray, shape (S,)
    log_pi0 : ndarray, shape (S, K)
    reward : ndarray, shape (R, S, K)
        Rewards at the centre of the ball: ``ell = log_pi0 + reward / beta``.
    features : ndarray, shape (R, S, K, k)
        ``f``, in coordinates in which the ellipsoid is the unit ball: of the size of rewards.
    offset : ndarray, shape (R, k)
        ``e``.
    """

    def __init__(self, d0, log_pi0, reward, features, offset, beta):
        used = d0 > 0
        self.d0, self.log_pi0, self.beta = d0[used], log_pi0[used], beta
        self.reward, self.features = reward[:, used], features[:, used]
        self.offset = offset
        lengths = np.linalg.norm(self.features, axis=-1).max(axis=(1, 2), initial=0.0)
        self.spread = (self.reward.max(axis=-1) - self.reward.min(axis=-1)).max(axis=-1)
        self.lengths = np.maximum(lengths, np.linalg.norm(offset, axis=1))

    def policy(self, v, beta, rows):
        """The Gibbs policies at ``v``."""
        tilt = np.einsum("rsak,rk->rsa", self.features[rows], v)
        ell = self.log_pi0 + (self.reward[rows] + tilt) / beta
        ell -= ell.max(axis=-1, keepdims=True)
        weight = np.exp(ell, out=ell)
        weight /= weight.sum(axis=-1, keepdims=True)
        return weight

    def derivatives(self, v, beta, rows):
        """Gradient and Hessian of F at ``v``."""
        policy = self.policy(v, beta, rows)
        f = self.features[rows]
        mean = np.einsum("rsa,rsak->rsk", policy, f)
        centred = f - mean[:, :, None, :]
        weighted = (self.d0[:, None] * policy)[..., None] * centred
        R, k = v.shape
        H = np.swapaxes(weighted.reshape(R, -1, k), 1, 2) @ centred.reshape(R, -1, k) / beta
        return np.einsum("s,rsk->rk", self.d0, mean) + self.offset[rows], H

    def largest_change(self, move, beta, rows):
        """The largest change of a log-ratio of two probabilities."""
        change = np.einsum("rsak,rk->rsa", self.features[rows], move)
        return (change.max(axis=-1) - change.min(axis=-1)).max(axis=-1) / beta

    def levels(self) -> np.ndarray:
        """With how many stages before the last each row starts: none depends on its batch."""
        ratio = np.maximum((self.spread + self.lengths) / (2.0 * self.beta), 1.0)
        return np.ceil(np.log(ratio) / np.log(STAGE_FACTOR)).astype(int)

    def solve(self, max_iterations):
        """Minimizers (R, k), which rows have settled, and the number of steps."""
        R, k = self.offset.shape
        v, steps = np.zeros((R, k)), 0
        # Where the ball is a point there is nothing to do.
        settled = self.lengths == 0
        levels = self.levels()
        for level in range(levels.max(initial=0), -1, -1):
            beta, last = self.beta * STAGE_FACTOR**level, level == 0
            tolerance = STEP_TOLERANCE if last else STAGE_TOLERANCE
            rows = np.flatnonzero((self.lengths > 0) & (levels >= level))
            for step in range(max_iterations):
                if len(rows) == 0:
                    break
                gradient, H = self.derivatives(v[rows], beta, rows)
                if last and step > PATIENCE:
                    # At tiny beta, rounding of v alone keeps log-ratios moving. The duality gap
                    # bounds beta KL to the optimal policy: at its rounding level the search ends.
                    gap = (v[rows] * gradient).sum(axis=1) + np.linalg.norm(gradient, axis=1)
                    exact = gap <= GAP_ROUNDING * (self.lengths + self.spread)[rows]
                    settled[rows[exact]] = True
                    rows, gradient, H = rows[~exact], gradient[~exact], H[~exact]
                    if len(rows) == 0:
                        break
                move = ball_step(H, gradient, v[rows], 1.0)
                if last and step > PATIENCE:
                    move = without_noise(H, gradient, v[rows], move)
                r = self.largest_change(move, beta, rows)
                v[rows] += damping(r)[:, None] * move
                steps += 1
                if last:
                    settled[rows] = r <= tolerance
                rows = rows[r > tolerance]
        norm = np.linalg.norm(v, axis=1)
        v *= np.minimum(1.0, 1.0 / np.maximum(norm, 1e-300))[:, None]
        return v, settled, steps
