"""One matplotlib style for the whole book.

What lives here: the palette (colour carries meaning, always the same one, with a second cue) and
figure sizes. What does not: any particular figure; those are drawn in the chapters.
"""

from __future__ import annotations

__all__ = ["PALETTE", "DARK_PALETTE", "LINESTYLES", "use_style", "figure"]

PALETTE = {
    "empirical": "#0072B2",
    "bound": "#D55E00",
    "predicted": "#009E73",
    "pessimism-expected": "#B5518F",
    "pessimism-pointwise": "#B57A00",
    "online": "#2F8FC4",
    "reference": "#767676",
    "optimum": "#1B1B1B",
    "ink": "#1B1B1B",
    "muted": "#6B6B6B",
    "grid": "#DEDCD6",
    "paper": "#FFFFFF",
}
DARK_PALETTE = {
    "empirical": "#5AB4E5",
    "bound": "#FF8A47",
    "predicted": "#3FCFA0",
    "pessimism-expected": "#E59AC8",
    "pessimism-pointwise": "#F0B83C",
    "online": "#8CCBF0",
    "reference": "#A3A3A3",
    "optimum": "#ECECEC",
    "ink": "#ECECEC",
    "muted": "#A8A8A8",
    "grid": "#3A3D42",
    "paper": "#14181E",
}
LINESTYLES = {"empirical": "-", "bound": "--", "predicted": ":", "pessimism-expected": "-.",
              "pessimism-pointwise": (0, (6, 1.5, 1.5, 1.5, 1.5, 1.5)), "online": "-",
              "reference": "-", "optimum": "-"}
WIDTHS = {"text": 6.6, "half": 3.3}


def use_style() -> None:
    """Set the book's matplotlib style; every chapter calls it in its first cell.

    Figures are vector graphics with text as text, so that a dark page can recolour them.
    """
    import matplotlib as mpl

    mpl.rcParams.update({
        "svg.fonttype": "path",
        "svg.hashsalt": "klrlhf",
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "savefig.transparent": True,
        "savefig.bbox": "tight",
        "figure.figsize": (WIDTHS["text"], 3.4),
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": PALETTE["muted"],
        "axes.labelcolor": PALETTE["ink"],
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.prop_cycle": mpl.cycler(color=[PALETTE[k] for k in (
            "empirical", "bound", "predicted", "pessimism-expected", "pessimism-pointwise",
            "online", "reference")]),
        "grid.color": PALETTE["grid"],
        "grid.linewidth": 0.6,
        "xtick.color": PALETTE["muted"],
        "ytick.color": PALETTE["muted"],
        "xtick.labelcolor": PALETTE["ink"],
        "ytick.labelcolor": PALETTE["ink"],
        "text.color": PALETTE["ink"],
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "mathtext.fontset": "cm",
    })
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg")
    except ImportError:  # outside Jupyter there is no inline backend to configure
        pass


def figure(width: str = "text", height: float = 3.4, columns: int = 1, **kwargs):
    """A figure of the book's width.

    Parameters
    ----------
    width : {"text", "half"}
        Width of the column it stands in.
    height : float
        Height in inches, positive.
    columns : int
        Number of panels side by side.
    **kwargs
        Passed to ``matplotlib.pyplot.subplots``.

    Returns
    -------
    tuple
        Figure and axes, as ``matplotlib.pyplot.subplots`` gives them.

    Raises
    ------
    ValueError
        If ``width`` is unknown or ``height`` is not positive.
    """
    if not isinstance(width, str) or width not in WIDTHS:
        raise ValueError(f"width must be one of {sorted(WIDTHS)}: got {width!r}")
    if not isinstance(height, (int, float)) or not height > 0:
        raise ValueError(f"height must be a positive number: got {height!r}")
    import matplotlib.pyplot as plt

    return plt.subplots(1, columns, figsize=(WIDTHS[width], height), **kwargs)
