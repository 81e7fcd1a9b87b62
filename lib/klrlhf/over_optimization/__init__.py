r"""Over-optimization: gold reward along the path that optimizes a proxy.

The policies are :math:`\pi_\lambda\propto\pi_0e^{\lambda\hat r}`, made from an estimated reward
(the *proxy*) and judged by the true one (the *gold* reward). Path axes come last.

What lives here: the curves and their turning points (``_curve``), their beginning, best-of-n and
functional forms (``_forms``), and what a confidence ellipsoid guarantees (``_guarantee``).
What does not: the path of one reward (``values``), pessimistic policies (``offline``), data.
"""

from . import _curve, _forms, _guarantee
from ._curve import *  # noqa: F403
from ._forms import *  # noqa: F403
from ._guarantee import *  # noqa: F403

__all__ = [*_curve.__all__, *_forms.__all__, *_guarantee.__all__]
