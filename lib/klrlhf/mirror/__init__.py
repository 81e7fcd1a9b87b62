r"""Policy mirror descent and its relatives, on the objective J in exact expectation.

.. math:: J(\pi) = E_{x\sim d_0}\big[E_\pi r - \beta\,\mathrm{KL}(\pi\|\pi_0)\big]

Policies are arrays of normalized log-probabilities ``(..., S, K)``; a path has one more axis in
front. What lives here: mirror descent (``_descent``), natural and vanilla policy gradient in softmax
logits (``_policy_gradient``), and the clipped surrogate (``_clipped``).
What does not: learning a reward, and sampling.
"""

from . import _clipped, _descent, _policy_gradient
from ._clipped import *  # noqa: F403
from ._descent import *  # noqa: F403
from ._policy_gradient import *  # noqa: F403

__all__ = [*_descent.__all__, *_policy_gradient.__all__, *_clipped.__all__]
