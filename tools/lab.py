"""A JupyterLab of its own, and a chapter opened in it and run as a reader would.

Used by ``tools/rebuild_binder.py`` (Binder's environment) and by the browser tests (this one).
"""
import contextlib
import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Error as PlaywrightError

# The server and the browser talk to each other and to nobody else.
BROWSER_ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking",
                     "--disable-component-update",
                     "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
RAN = r"""() => {
  const cells = [...document.querySelectorAll('.jp-NotebookPanel .jp-CodeCell')];
  return cells.length > 0 && cells.every(cell =>
    /\[\d+\]/.test(cell.querySelector('.jp-InputPrompt').textContent));
}"""
SEEN = r"""() => {
  const count = selector => document.querySelectorAll('.jp-NotebookPanel ' + selector).length;
  return {
    notebook: count('.jp-Notebook'),
    text: document.querySelectorAll('.jp-FileEditor, .jp-MarkdownViewer').length,
    cells: count('.jp-CodeCell'),
    proofs: count('aside.myst-proof'),
    explorers: count('.kl-explorer'),
    live: count('.kl-explorer[data-mode="live"][data-ready="1"]'),
    errors: [...document.querySelectorAll('.jp-NotebookPanel [data-mime-type$=".error"], '
             + '.jp-NotebookPanel [data-mime-type$=".stderr"]')]
            .map(e => e.innerText.trim().split('\n').pop()),
  };
}"""


def promised(source):
    """How many statements and explorers a chapter's source has: ``(proofs, explorers)``."""
    return (len(re.findall(r"^`{3,}\{prf:", source, re.M)),
            len(re.findall(r"^(?:\w+ = )?\w+_explorer\(", source, re.M)))


def environment(home, path=(), **extra):
    """Variables of a process that reads nobody's settings: its own HOME and Jupyter folders."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("JUPYTER", "JPY_", "IPYTHON", "PYTHON", "VIRTUAL_ENV", "XDG_"))}
    kept["PATH"] = os.pathsep.join([*map(str, path), kept["PATH"]])
    return {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", "JUPYTER_NO_CONFIG": "", **extra}


def keep_cells_in_page(config):
    """Lab takes cells out of view out of the page; a setting of the user keeps them."""
    folder = Path(config) / "lab/user-settings/@jupyterlab"
    for name, value in (("notebook-extension/tracker", {"windowingMode": "none"}),
                        ("apputils-extension/notification", {"fetchNews": "false"})):
        path = folder / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")


@contextlib.contextmanager
def server(command, root, variables, log):
    """Start ``command`` (a Jupyter server) in ``root`` on a free port; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(log, "w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [*command, "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
             "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=",
             "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url="],
            cwd=root, env=variables, stdout=stream, stderr=subprocess.STDOUT)
        try:
            base = f"http://127.0.0.1:{port}"
            for _ in range(240):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{base}/api", timeout=2).close()
                    break
                if process.poll() is not None:
                    break
                time.sleep(0.5)
            else:
                process.terminate()
            if process.poll() is not None:
                raise RuntimeError(f"the server did not start:\n{Path(log).read_text()[-3000:]}")
            yield base
        finally:
            process.terminate()
            process.wait(60)


class Chapter:
    """A chapter in the browser, opened at ``urlpath`` of a Jupyter server."""

    def __init__(self, page, base, urlpath):
        self.page, self.base, self.foreign, self.dialogs = page, base, [], []
        page.set_default_timeout(180_000)  # a busy machine is slow, not broken
        page.on("request", lambda request: self.note(request.url))
        dialog = page.locator("dialog.jp-Dialog")
        page.add_locator_handler(dialog, self.answer)
        separator = "&" if "?" in urlpath else "?"
        page.goto(f"{base}/{urlpath}{separator}reset")

    def note(self, url):
        if url.startswith(("http", "ws")) and not re.match(r"(http|ws)://127\.0\.0\.1[:/]", url):
            self.foreign.append(url)

    def answer(self, dialog):
        """Answer a question of JupyterLab with its default, and keep it for the report."""
        self.dialogs.append(" ".join(dialog.first.locator(".jp-Dialog-header").inner_text().split()))
        dialog.first.locator(".jp-mod-accept").click()

    def wait(self):
        """Until the file is open, and as a notebook its kernel is idle."""
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell, .jp-FileEditor, .jp-MarkdownViewer",
                                    timeout=120_000)
        if self.page.locator(".jp-Notebook").count():
            self.page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']",
                                        timeout=120_000, state="attached")

    def run(self, explorers, seconds=600):
        """Run > Run All Cells, until each cell has its number and all explorers are there."""
        before = time.perf_counter()
        for _ in range(4):  # a request made before the kernel's socket is open is lost
            self.page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
            self.page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
            with contextlib.suppress(PlaywrightError):
                self.page.wait_for_selector(".jp-CodeCell .jp-InputPrompt:text-matches('\\\\[(\\\\*|\\\\d+)\\\\]')",
                                            timeout=20_000, state="attached")
                break
        self.page.wait_for_function(RAN, timeout=1000 * seconds)
        with contextlib.suppress(PlaywrightError):  # what is missing shows in what is seen
            self.page.wait_for_function(
                "n => document.querySelectorAll('.kl-explorer[data-ready=\"1\"]').length >= n",
                arg=explorers, timeout=60_000)
        return time.perf_counter() - before

    def seen(self):
        return self.page.evaluate(SEEN)

    def explorer_answers(self):
        """Move each explorer's first slider by key; the kernel's new sentence must appear."""
        moved = 0
        for root in self.page.locator(".kl-explorer").all():
            say, slider = root.locator(".kl-say"), root.locator("input[type=range]").first
            before = say.inner_text()
            slider.focus()
            at_the_end = slider.input_value() == slider.get_attribute("max")
            slider.press("ArrowLeft" if at_the_end else "ArrowRight")
            self.page.wait_for_function("([node, text]) => node.innerText !== text",
                                        arg=[say.element_handle(), before], timeout=60_000)
            moved += 1
        return moved
