"""The same explorers with a kernel: JupyterLab, one server, one notebook, keys and mouse.

All explorers of the book stand in one notebook. What a page shows after a move is compared with
what the explorer's Python function returns in this process.
"""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

OPTIONAL = "browser tests are optional outside CI, where this is a failure: needs "
sync_api = pytest.importorskip("playwright.sync_api", reason=OPTIONAL + "playwright")
nbformat = pytest.importorskip("nbformat", reason=OPTIONAL + "nbformat")
pytest.importorskip("anywidget", reason=OPTIONAL + "anywidget")

from klrlhf import explore
from klrlhf.explore.svg import _plain

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome")
                 if (path := shutil.which(name))), None)
pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
              pytest.mark.skipif(importlib.util.find_spec("jupyterlab") is None,
                                 reason="needs JupyterLab")]
CELLS = ["from IPython.display import display\n"
         "from klrlhf import explore\n"
         "shown = {name: getattr(explore, name)() for name in explore.FACTORIES}\n"
         "for explorer in shown.values():\n    display(explorer)",
         "shown['frontier_explorer'].beta = 0.3333\n"
         "shown['likelihood_explorer'].w32 = 2"]
PATIENCE = 30.0  # seconds for one answer of the kernel, on a busy machine


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab server of its own: its folders, its port, no token, stopped at the end."""
    folder = tmp_path_factory.mktemp("lab")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(book, folder / "live.ipynb")
    # Keep every cell in the page: a long notebook would otherwise hold only what is in view.
    settings = folder / "config/lab/user-settings/@jupyterlab/notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    library = str(Path(__file__).parents[2] / "lib")
    environment = {**os.environ, "PYTHONPATH": library, "OMP_NUM_THREADS": "1",
                   **{f"JUPYTER_{kind}_DIR": str(folder / kind.lower())
                      for kind in ("CONFIG", "DATA", "RUNTIME")}}
    with open(folder / "server.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1",
             "--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={folder}",
             "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
             "--LabApp.news_url=", "--allow-root"],
            env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            base = f"http://127.0.0.1:{port}"
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{base}/api", timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.5)
            else:
                pytest.fail((folder / "server.log").read_text()[-2000:])
            yield base
        finally:
            server.terminate()
            server.wait(30)


class Notebook:
    """The open notebook, with every request to elsewhere and every error of a script."""

    def __init__(self, page, base):
        self.page, self.elsewhere, self.errors = page, [], []
        page.on("request", lambda r: r.url.startswith(("http:", "https:"))
                and not r.url.startswith(base) and self.elsewhere.append(r.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def run(self, cell):
        self.page.locator(".jp-Notebook .jp-CodeCell .cm-content").nth(cell).click()
        self.page.keyboard.press("Control+Enter")

    def body(self, name):
        return self.page.locator(f".kl-explorer[data-explorer='{name}'][data-ready='1']")


@pytest.fixture(scope="module")
def notebook(lab):
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking",
                                            "--disable-component-update"])
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        opened = Notebook(page, lab)
        page.goto(f"{lab}/lab/tree/live.ipynb?reset")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']",
                               timeout=120_000, state="attached")
        everything = page.locator(".kl-explorer[data-ready='1']")
        for _ in range(8):  # a request made before the kernel's socket is open is lost
            opened.run(0)
            try:
                everything.nth(len(explore.FACTORIES) - 1).wait_for(timeout=30_000)
                break
            except sync_api.TimeoutError:
                pass
        yield opened
        assert not opened.elsewhere
        assert not opened.errors
        shots = os.environ.get("KLRLHF_SHOTS")
        if shots:
            page.screenshot(path=f"{shots}/live.png")
        browser.close()


class Live:
    """One explorer of the notebook beside the same explorer in this process."""

    def __init__(self, notebook, factory):
        self.design = getattr(explore, factory)().design
        self.page, self.root = notebook.page, notebook.body(self.design.id)
        self.root.wait_for(timeout=60_000)

    def settings(self):
        """What the controls of the page say."""
        values = {}
        for control in self.design.controls:
            if control.kind == "choice":
                chosen = self.root.locator(f"input[data-control='{control.name}']:checked")
                text = chosen.get_attribute("value")
                values[control.name] = next(v for v, _ in control.options if spelled(v) == text)
            else:
                field = self.root.locator(f"input[name='{control.name}']")
                value = float(field.get_attribute("data-value"))
                values[control.name] = int(value) if value.is_integer() and (
                    control.integer or control.kind == "count") else value
        return values

    def sentence(self):
        return squeezed(self.root.locator(".kl-say").inner_text())

    def curves(self):
        return self.root.locator(".kl-figure").inner_html()

    def move(self, control):
        """One move of one control, by mouse; a slider lands between the static grid's points."""
        if control.kind == "choice":
            self.root.locator(f"input[data-control='{control.name}']:not(:checked)").first.click()
        elif control.kind == "count":
            box = self.root.locator(".kl-count", has=self.page.locator(
                f"input[name='{control.name}']"))
            at = int(box.locator("input").get_attribute("data-value"))
            box.locator("button").nth(1 if at < control.hi else 0).click()
        else:
            slider = self.root.locator(f"input[name='{control.name}']")
            slider.scroll_into_view_if_needed()
            box = slider.bounding_box()
            steps = int(slider.get_attribute("max"))
            reach = 0.13 if steps > 8 else 0.47  # a slider of few steps snaps back otherwise
            share = 0.5 - reach if int(slider.input_value()) / steps > 0.5 else 0.5 + reach
            self.page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)

    def answered(self, before):
        """Wait until the page shows what Python computes for the controls as they now stand."""
        deadline = time.perf_counter() + PATIENCE
        while (now := self.settings()) == before:
            assert time.perf_counter() < deadline, "the control did not move"
        expected = squeezed(_plain(self.design.frame(seed=0, **now).say))
        while self.sentence() != expected:
            assert time.perf_counter() < deadline, f"{self.sentence()!r}, not {expected!r}"
            time.sleep(0.01)
        return now


def spelled(value):
    """An option's value as the browser writes it into an attribute."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def squeezed(text):
    return re.sub(r"\s+", " ", text).strip()


@pytest.mark.parametrize("factory", explore.FACTORIES)
def test_every_control_asks_python(notebook, factory):
    live = Live(notebook, factory)
    assert live.root.get_attribute("data-mode") == "live"
    assert live.root.locator(".kl-mode").inner_text() == "live"
    for control in live.design.controls:
        settings, curves = live.settings(), live.curves()
        live.move(control)
        now = live.answered(settings)
        changed = {name for name in now if now[name] != settings[name]}
        assert changed == {control.name}
        assert live.curves() != curves, f"{control.name}: no curve changed"
        if control.kind == "range" and not control.integer and control.finer > 1:
            if now[control.name] in control.grid():  # one more step, by key, leaves the grid
                slider = live.root.locator(f"input[name='{control.name}']")
                slider.focus()
                at_the_end = slider.input_value() == slider.get_attribute("max")
                notebook.page.keyboard.press("ArrowLeft" if at_the_end else "ArrowRight")
                now = live.answered(now)
            assert now[control.name] not in control.grid()


def test_a_slider_by_key_mouse_and_resampling(notebook):
    page, frontier = notebook.page, notebook.body("frontier")
    frontier.locator("text=reset").click()
    slider, say = frontier.locator("input[type=range]"), frontier.locator(".kl-say")
    page.wait_for_function("n => n.dataset.value === '0.5'", arg=slider.element_handle())
    curve = frontier.locator("path[data-series='tangent']")

    def changes(act):
        before = (say.inner_text(), curve.get_attribute("d"))
        start = time.perf_counter()
        act()
        while time.perf_counter() < start + PATIENCE:
            now = (say.inner_text(), curve.get_attribute("d"))
            if now[1] != before[1] and now[0] != before[0]:
                return time.perf_counter() - start
            time.sleep(0.01)
        pytest.fail("no answer from the kernel")

    time.sleep(0.2)  # the answer to the reset
    slider.focus()
    changes(lambda: page.keyboard.press("ArrowRight"))
    # a live slider stops between the static page's grid points
    value = float(slider.get_attribute("data-value"))
    assert 0.5 < value < 0.5 * 100 ** (1 / 60)
    times = [changes(lambda: [page.keyboard.press("ArrowRight") for _ in range(8)])
             for _ in range(5)]
    print(f"live round trips: {[f'{1000 * t:.0f} ms' for t in times]}")
    assert min(times) < 5
    cloud = frontier.locator("path[data-series='random policies']")
    before = cloud.get_attribute("d")
    frontier.locator("text=resample").click()
    page.wait_for_function("([node, d]) => node.getAttribute('d') !== d",
                           arg=[cloud.element_handle(), before])


def test_python_moves_the_sliders_too(notebook):
    frontier, likelihood = notebook.body("frontier"), notebook.body("likelihood")
    notebook.run(1)
    notebook.page.wait_for_function(
        "n => n.innerText.includes('0.333')",
        arg=frontier.locator(".kl-say").element_handle(), timeout=30_000)
    assert re.search(r"0\.333", frontier.locator(".kl-value").first.inner_text())
    assert likelihood.locator("input[name=w32]").input_value() == "2"
