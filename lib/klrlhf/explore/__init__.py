"""Explorers: figures with controls that answer in a static page, in a live kernel, and in print.

``Explorer`` is the host (:mod:`klrlhf.explore.host`), ``Design`` and ``Frame`` say what an
explorer is made of (:mod:`klrlhf.explore.design`), and each factory below lives in a file of its
own. Needs the optional packages of ``klrlhf[widgets]`` (anywidget).
"""

from importlib import import_module

_HOMES = {
    "Explorer": "host", "Design": "design", "Frame": "design",
    "tilt_explorer": "tilt",
    "frontier_explorer": "frontier",
    "second_order_explorer": "second_order",
    "likelihood_explorer": "likelihood",
    "confidence_explorer": "confidence",
    "radius_cost_explorer": "radius_cost",
    "offline_explorer": "offline",
    "plug_in_failure_explorer": "plug_in_failure",
    "coverage_explorer": "coverage",
    "pessimism_explorer": "pessimism",
    "tradeoff_explorer": "tradeoff",
    "enhancer_explorer": "enhancer",
    "potential_explorer": "potential",
    "online_explorer": "online",
    "hybrid_explorer": "hybrid",
    "free_exploration_explorer": "free_exploration",
    "dpo_explorer": "dpo",
    "margins_explorer": "margins",
    "rejection_explorer": "rejection",
    "best_of_n_explorer": "best_of_n",
    "mirror_explorer": "mirror",
    "over_optimization_explorer": "over_optimization",
    "tokens_explorer": "tokens",
    "games_explorer": "games",
}
FACTORIES = tuple(name for name in _HOMES if name.endswith("_explorer"))
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *_HOMES])
