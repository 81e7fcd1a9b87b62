"""The same explorers with a kernel: JupyterLab, one notebook, keys and mouse."""

import importlib.util
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

sync_api = pytest.importorskip("playwright.sync_api")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("anywidget")

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome")
                 if (path := shutil.which(name))), None)
pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
              pytest.mark.skipif(importlib.util.find_spec("jupyterlab") is None,
                                 reason="needs JupyterLab")]
CELLS = ["from klrlhf.explore import frontier_explorer, likelihood_explorer\n"
         "frontier = frontier_explorer()\nfrontier",
         "likelihood = likelihood_explorer()\nlikelihood",
         "frontier.beta = 0.3333\nlikelihood.w32 = 2"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab server of its own: its folders, its port, no token, stopped at the end."""
    folder = tmp_path_factory.mktemp("lab")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(book, folder / "live.ipynb")
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


def test_live_in_jupyterlab(lab):
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking",
                                            "--disable-component-update"])
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        elsewhere = []
        page.on("request", lambda r: r.url.startswith(("http:", "https:"))
                and not r.url.startswith(lab) and elsewhere.append(r.url))
        page.goto(f"{lab}/lab/tree/live.ipynb?reset")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=120_000)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']",
                               timeout=120_000, state="attached")

        def run(cell):
            page.locator(".jp-Notebook .jp-CodeCell .cm-content").nth(cell).click()
            page.keyboard.press("Control+Enter")

        def body(name):
            return page.locator(f".kl-explorer[data-explorer='{name}'][data-ready='1']")

        frontier = body("frontier")
        for _ in range(8):  # a request made before the kernel's socket is open is lost
            run(0)
            try:
                frontier.wait_for(timeout=15_000)
                break
            except sync_api.TimeoutError:
                pass
        assert frontier.get_attribute("data-mode") == "live"
        assert frontier.locator(".kl-mode").inner_text() == "live"
        say = frontier.locator(".kl-say")
        curve = frontier.locator("path[data-series='tangent']")

        def changes(act, words=True):
            before = (say.inner_text(), curve.get_attribute("d"))
            start = time.perf_counter()
            act()
            deadline = start + 30
            while time.perf_counter() < deadline:
                now = (say.inner_text(), curve.get_attribute("d"))
                if now[1] != before[1] and (now[0] != before[0] or not words):
                    return time.perf_counter() - start
                time.sleep(0.01)
            pytest.fail("no answer from the kernel")

        slider = frontier.locator("input[type=range]")
        slider.focus()
        changes(lambda: page.keyboard.press("ArrowRight"))
        # a live slider stops between the static page's grid points
        value = float(slider.get_attribute("data-value"))
        assert 0.5 < value < 0.5 * 100 ** (1 / 60)
        times = [changes(lambda: [page.keyboard.press("ArrowRight") for _ in range(8)])
                 for _ in range(5)]
        print(f"live round trips: {[f'{1000 * t:.0f} ms' for t in times]}")
        assert min(times) < 5
        box = slider.bounding_box()
        changes(lambda: page.mouse.click(box["x"] + 0.2 * box["width"],
                                         box["y"] + box["height"] / 2))
        cloud = frontier.locator("path[data-series='random policies']")
        before = cloud.get_attribute("d")
        frontier.locator("text=resample").click()
        page.wait_for_function("([node, d]) => node.getAttribute('d') !== d",
                               arg=[cloud.element_handle(), before])

        run(1)
        likelihood = body("likelihood")
        likelihood.wait_for(timeout=60_000)
        likelihood.locator(".kl-count button:last-child").nth(3).click()
        page.wait_for_function("n => n.innerText.includes('Finite')",
                               arg=likelihood.locator(".kl-say").element_handle())

        # Python moves the sliders too
        run(2)
        page.wait_for_function("n => n.innerText.includes('0.333')",
                               arg=say.element_handle(), timeout=30_000)
        assert re.search(r"0\.333", frontier.locator(".kl-value").first.inner_text())
        assert likelihood.locator("input[name=w32]").input_value() == "2"
        assert not elsewhere
        shots = os.environ.get("KLRLHF_SHOTS")
        if shots:
            page.screenshot(path=f"{shots}/live.png")
        browser.close()
