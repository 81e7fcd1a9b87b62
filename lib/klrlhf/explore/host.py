"""The Explorer: one object for the static page, the live kernel and print.

In Jupyter it is an :class:`anywidget.AnyWidget`: a move of a control runs the frame function in
Python. Its ``text/html`` form, which the book's pages use, holds the same function's frames on a
grid and the start frame as SVG. The same ES module draws both.
"""

from __future__ import annotations

import json
import os
import sys
from html import escape
from pathlib import Path

import anywidget
import traitlets

from klrlhf.explore import svg
from klrlhf.explore.cache import cached
from klrlhf.explore.design import Design, Frame
from klrlhf.explore.pack import pack_frames

STATIC = Path(__file__).parent / "static"


def _has_live_page() -> bool:
    """Whether a page with a kernel shows the widget: its grid would cost seconds for nothing.

    So it is in the browser's own Python, and in a notebook opened through a Jupyter server; not in
    the kernel that runs a notebook for the book.
    """
    return sys.platform == "emscripten" or "JPY_SESSION_NAME" in os.environ


class Explorer(anywidget.AnyWidget):
    """A figure with controls, drawn from one Python function.

    Each control is a trait: ``explorer.beta = 0.3`` moves the slider, ``explorer.observe(f,
    "beta")`` and ``ipywidgets.jslink`` work as with any widget.

    Parameters
    ----------
    design : Design
        Controls, panels and the frame function.
    **values
        Start values of controls, when they differ from the design's.

    Raises
    ------
    ValueError
        If `values` names a control that the design does not have.
    """

    _esm = (STATIC / "explorer.js").read_text(encoding="utf-8")
    _css = (STATIC / "explorer.css").read_text(encoding="utf-8")
    mode = traitlets.Unicode("live").tag(sync=True)
    spec = traitlets.Dict().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)
    seed = traitlets.Int(0).tag(sync=True)

    def __init__(self, design: Design, **values):
        unknown = set(values) - set(design.starts())
        if unknown:
            raise ValueError(f"{design.id} has no control named {sorted(unknown)}; "
                             f"it has {sorted(design.starts())}")
        self.design = design
        starts = {**design.starts(), **values}
        spec = design.as_json()
        for control in spec["controls"]:
            control["value"] = starts[control["name"]]
        kinds = {c.name: traitlets.Any if c.kind == "choice" else
                 traitlets.Int if c.integer else traitlets.Float for c in design.controls}
        self.add_traits(**{name: kinds[name](value).tag(sync=True)
                           for name, value in starts.items()})
        self._shown = (starts, 0)
        self._result = design.frame(seed=0, **starts)
        super().__init__(spec=spec, frame=self._result.as_json())
        self.observe(self._recompute, names=[*starts, "seed"])

    def compute(self, seed: int = 0, **values) -> Frame:
        """The frame for the given control values; the others keep their current ones."""
        return self.design.frame(seed=seed, **{**self.settings(), **values})

    def settings(self) -> dict:
        """The current value of every control."""
        return {c.name: getattr(self, c.name) for c in self.design.controls}

    @property
    def values(self) -> dict:
        """The named results behind the current frame."""
        return self._result.values

    def _recompute(self, _change) -> None:
        wanted = (self.settings(), self.seed)
        if wanted == self._shown:  # a reset moves several traits but needs one frame
            return
        self._shown = wanted
        self._result = self.design.frame(seed=self.seed, **wanted[0])
        self.frame = self._result.as_json()

    def static_html(self) -> str:
        """The explorer for a page without a kernel."""
        state: dict = {"spec": self.spec}
        if not self.design.twin:
            state["pack"] = cached(self.design, pack_frames)
        data = json.dumps(state, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
        wide, narrow = svg.room_for_controls(self.design)
        return (f'<div class="kl-explorer" data-explorer="{self.design.id}" role="group" '
                f'aria-label="{escape(svg._plain(self.design.label))}" '
                f'style="--kl-wide:{wide}px;--kl-narrow:{narrow}px">'
                f'<div class="kl-fallback">{svg.figure(self.design, self._result)}</div>'
                f'<script type="application/json">{data}</script></div>')

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        data["text/plain"] = svg._plain(f"{self.design.label}: {self._result.say}")
        if not _has_live_page():
            data["text/html"] = self.static_html()
        return data, metadata
