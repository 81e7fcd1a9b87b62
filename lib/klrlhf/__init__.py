"""klrlhf: the companion library of the book on the theory of RLHF.

Floors, each importing only from below: ``numerics``, ``policies``, ``values``, ``bandit``;
``preferences``, ``estimation``, ``confidence``, ``coverage``; ``offline``, ``online``,
``direct``, ``sampling``, ``mirror``, ``over_optimization``, ``sequences``, ``games``,
``three_arms``, ``experiments``; ``results`` (checked statements), ``explore`` (explorers) and
``plotting``, which need the extras.
Names up to ``online`` are exported here; the later families are imported from their modules.
"""

from . import (
    bandit,
    confidence,
    coverage,
    estimation,
    numerics,
    offline,
    online,
    policies,
    preferences,
    values,
)
from .bandit import *  # noqa: F403
from .confidence import *  # noqa: F403
from .coverage import *  # noqa: F403
from .estimation import *  # noqa: F403
from .numerics import *  # noqa: F403
from .offline import *  # noqa: F403
from .online import *  # noqa: F403
from .policies import *  # noqa: F403
from .preferences import *  # noqa: F403
from .values import *  # noqa: F403

__version__ = "0.1.0"
__all__ = [
    *numerics.__all__,
    *policies.__all__,
    *values.__all__,
    *bandit.__all__,
    *preferences.__all__,
    *estimation.__all__,
    *confidence.__all__,
    *coverage.__all__,
    *offline.__all__,
    *online.__all__,
]
