r"""Language models small enough to enumerate: responses are sequences of tokens, and all are known.

A ``LanguageModel`` is a tree of prefixes with the reference's token law at each; its policy over
whole responses is an ordinary array ``(S, K)``, on which everything else in the library runs.

What lives here: the tree and its soft values (``_tree``), rewards paid token by token
(``_rewards``), models fitted to a text (``_model``), classes with shared logits (``_shared``).
What does not: learning from comparisons, which does not know that an action is a sequence.
"""

from . import _model, _rewards, _shared, _tree
from ._model import *  # noqa: F403
from ._rewards import *  # noqa: F403
from ._shared import *  # noqa: F403
from ._tree import *  # noqa: F403

__all__ = [*_tree.__all__, *_rewards.__all__, *_model.__all__, *_shared.__all__]
