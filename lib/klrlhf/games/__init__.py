"""Preference games: when a comparison need not come from a reward.

What lives here: preference matrices (``_preferences``), the regularized symmetric game and its Nash
policy (``_nash``), self-play mirror descent with its step sizes (``_self_play``), and learning the
game from counts of comparisons (``_learning``).
What does not: rewards and Bradley-Terry estimation (lower floors).
"""

from . import _learning, _nash, _preferences, _self_play
from ._learning import *  # noqa: F403
from ._nash import *  # noqa: F403
from ._preferences import *  # noqa: F403
from ._self_play import *  # noqa: F403

__all__ = [*_preferences.__all__, *_nash.__all__, *_self_play.__all__, *_learning.__all__]
