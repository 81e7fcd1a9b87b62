r"""Direct methods: policies fitted to comparisons without a separate reward model.

What lives here: the losses of DPO and their gradients (``_losses``), fits in the Gibbs class and
in free softmax logits (``_fits``), iterative DPO with practical enhancers (``_iterative``) and as
released (``_recipe``), IPO (``_ipo``) and separated comparisons (``_separation``).
What does not: the Bradley-Terry likelihood and its fit (``estimation``), which the Gibbs class
reuses, and the online loop (``online``).
"""

from . import _fits, _ipo, _iterative, _losses, _recipe, _separation
from ._fits import *  # noqa: F403
from ._ipo import *  # noqa: F403
from ._iterative import *  # noqa: F403
from ._losses import *  # noqa: F403
from ._recipe import *  # noqa: F403
from ._separation import *  # noqa: F403

__all__ = [*_losses.__all__, *_fits.__all__, *_iterative.__all__, *_recipe.__all__, *_ipo.__all__,
           *_separation.__all__]
