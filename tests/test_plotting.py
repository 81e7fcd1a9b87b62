"""The palette keeps its promises: same roles in both themes, readable contrast, real sizes."""

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

from klrlhf import plotting  # noqa: E402

ROLES = ("empirical", "bound", "predicted", "pessimism-expected", "pessimism-pointwise", "online",
         "reference", "optimum")


@pytest.fixture(autouse=True)
def restored_style():
    import matplotlib.pyplot as plt

    with mpl.rc_context():
        yield
    plt.close("all")


def luminance(colour):
    channels = np.array([int(colour[i: i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, two):
    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_both_palettes_have_the_same_roles():
    assert set(plotting.PALETTE) == set(plotting.DARK_PALETTE)
    assert set(ROLES) <= set(plotting.PALETTE)
    assert set(plotting.LINESTYLES) == set(ROLES)


@pytest.mark.parametrize("palette", [plotting.PALETTE, plotting.DARK_PALETTE])
def test_curves_and_text_stand_out_from_the_paper(palette):
    for role in ROLES:
        assert contrast(palette[role], palette["paper"]) >= 3, role
    for role in ("ink", "muted"):
        assert contrast(palette[role], palette["paper"]) >= 4.5, role


def test_colour_is_never_the_only_cue():
    """Roles that share a line style are told apart by luminance or by where they stand."""
    dashed = [plotting.LINESTYLES[role] for role in ("empirical", "bound", "predicted",
                                                     "pessimism-expected", "pessimism-pointwise")]
    assert len({str(style) for style in dashed}) == 5


def test_figures_have_the_books_width():
    plotting.use_style()
    for width, inches in plotting.WIDTHS.items():
        fig, ax = plotting.figure(width, height=2.0)
        assert fig.get_size_inches().tolist() == [inches, 2.0]
        assert not ax.spines["top"].get_visible()
    fig, axes = plotting.figure(columns=2)
    assert len(axes) == 2


@pytest.mark.parametrize("options", [{"width": "wide"}, {"height": 0.0}, {"height": -1.0},
                                     {"height": float("nan")}])
def test_figures_refuse_other_sizes(options):
    with pytest.raises(ValueError, match="width|height"):
        plotting.figure(**options)


def test_style_draws_without_warnings(recwarn):
    plotting.use_style()
    fig, ax = plotting.figure()
    for role in ROLES:
        ax.plot([1, 10], [1, 2], color=plotting.PALETTE[role], linestyle=plotting.LINESTYLES[role])
    ax.set_xscale("log")
    ax.set_xlabel(r"$\beta$")
    fig.canvas.draw()
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]
