r"""Sampling a Gibbs policy from draws of the reference, and what the shortcuts sample instead.

What lives here: rejection sampling (``_rejection``), also with an estimated maximum
(``_estimated_maximum``) and as published (``_rso``), its multi-step form (``_multistep``), and
the divergences and win rates of best-of-n (``_best_of_n``, ``_best_of_n_frontier``). The exact
law of best-of-n is ``klrlhf.policies.best_of_n_policy``.
What does not: learning a reward, and policies as arrays (``policies``).
"""

from . import (
    _best_of_n,
    _best_of_n_frontier,
    _estimated_maximum,
    _multistep,
    _rejection,
    _rso,
)
from ._best_of_n import *  # noqa: F403
from ._best_of_n_frontier import *  # noqa: F403
from ._estimated_maximum import *  # noqa: F403
from ._multistep import *  # noqa: F403
from ._rejection import *  # noqa: F403
from ._rso import *  # noqa: F403

__all__ = [*_rejection.__all__, *_estimated_maximum.__all__, *_rso.__all__, *_multistep.__all__,
           *_best_of_n.__all__, *_best_of_n_frontier.__all__]
