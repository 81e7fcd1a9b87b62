"""Drive a chapter in the browser's own Python as a reader does, and say what it showed and when.

The network ends at 127.0.0.1: the site under test must have been built with ``PYODIDE=folder``.
"""
import functools
import http.server
import threading
import time
from contextlib import contextmanager

ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
BUTTON = "a.kl-run-in-browser"
READY = ".jp-NotebookPanel .jp-Notebook .jp-CodeCell"
# What a cell shows while it waits or runs, and what it shows once it is done.
STATE = """() => {
  const cells = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')]
    .filter(cell => cell.querySelector('.cm-content')?.textContent.trim());
  const prompt = cell => cell.querySelector('.jp-InputPrompt')?.textContent.trim() ?? '';
  return {
    cells: cells.length,
    done: cells.filter(cell => /^\\[\\d+\\]:?$/.test(prompt(cell))).length,
    prompts: cells.map(prompt),
    errors: [...document.querySelectorAll('.jp-Notebook .jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"], .jp-Notebook .jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]')]
      .map(output => output.textContent),
    images: document.querySelectorAll('.jp-Notebook .jp-OutputArea-output :is(img, svg):not(.kl-explorer *)').length,
    explorers: [...document.querySelectorAll('.jp-Notebook .kl-explorer')]
      .map(e => ({name: e.dataset.explorer, ready: e.dataset.ready ?? '', mode: e.dataset.mode ?? ''})),
  };
}"""


@contextmanager
def served(site, under="a/sub-path"):
    """Serve a folder below a sub-path of a host that has nothing else, as a project page does."""
    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def translate_path(self, path):
            if not path.startswith(f"/{under}/"):
                return str(site / "no such file")
            return super().translate_path(path[len(under) + 1:])

        def log_message(self, *args):
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            pass  # a closed tab drops its downloads

    server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{under}"
    finally:
        server.shutdown()
        server.server_close()


class Chapter:
    """A chapter's page, then its notebook: every request and every script error is kept."""

    def __init__(self, browser, base, docname):
        self.base, self.docname = base, docname
        self.context = browser.new_context(viewport={"width": 1280, "height": 1000})
        self.elsewhere, self.failed, self.errors, self.loaded = [], [], [], []
        self.context.on("request", self.note)
        self.context.on("response", lambda r: r.status >= 400 and self.failed.append(f"{r.status} {r.url}"))
        self.context.set_default_timeout(120_000)  # a page with much mathematics on a busy machine
        self.page = self.context.new_page()
        self.times = {}

    def note(self, request):
        self.loaded.append(request.url)
        if request.url.startswith(("http:", "https:")) and not request.url.startswith(self.base):
            self.elsewhere.append(request.url)

    def mark(self, name):
        self.times.setdefault(name, round(time.perf_counter() - self.start, 1))

    def open(self, patience=300):
        """Open the chapter, press its button, wait for the notebook."""
        self.page.goto(f"{self.base}/{self.docname}.html")
        self.page.evaluate("window.MathJax?.startup?.promise")  # formulas move the button
        self.start = time.perf_counter()
        with self.context.expect_page() as opened:
            self.page.locator(BUTTON).first.click()
        self.page = opened.value
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.wait_for_selector(READY, timeout=patience * 1000)
        self.mark("notebook")
        self.page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']",
                                    state="attached", timeout=patience * 1000)
        return self

    def run_all(self, patience=900):
        """Choose Run All Cells; wait until every cell has its number or one has failed."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.slow, seen, last = {}, 0, time.perf_counter()
        deadline = last + patience
        while True:
            state = self.page.evaluate(STATE)
            now = time.perf_counter()
            if state["done"] > seen:
                if seen:  # before the first cell ends the kernel boots
                    self.slow[state["done"]] = round((now - last) / (state["done"] - seen), 1)
                seen, last = state["done"], now
                self.mark("first cell")
            if state["images"]:
                self.mark("first plot")
            if state["errors"] or state["done"] == state["cells"]:
                self.mark("chapter")
                return state
            if now > deadline:
                raise TimeoutError(f"{self.docname}: {state['done']} of {state['cells']} cells after {patience} s")
            time.sleep(0.25)

    def settled(self, patience=60):
        """The state once every explorer of the notebook answers."""
        deadline = time.perf_counter() + patience
        while True:
            state = self.page.evaluate(STATE)
            waiting = [e["name"] for e in state["explorers"] if e["ready"] != "1"]
            if not waiting:
                return state
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{self.docname}: explorers that do not answer: {waiting}")
            time.sleep(0.25)

    def move(self, index=0, patience=60):
        """Move a slider of an explorer by keyboard; the sentence before and after, and the seconds."""
        root = self.page.locator(".jp-Notebook .kl-explorer").nth(index)
        slider = root.locator("input[type=range]").first
        root.scroll_into_view_if_needed()
        before = (root.locator(".kl-say").inner_text(), root.locator(".kl-figure").inner_html())
        start = time.perf_counter()
        at_end = slider.input_value() == slider.get_attribute("max")
        slider.focus()
        for _ in range(3):
            self.page.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
        while time.perf_counter() < start + patience:
            after = (root.locator(".kl-say").inner_text(), root.locator(".kl-figure").inner_html())
            if after[0] != before[0] and after[1] != before[1]:
                return before[0], after[0], round(time.perf_counter() - start, 2)
            time.sleep(0.02)
        raise TimeoutError(f"{self.docname}: the explorer did not answer to its slider")

    def close(self):
        self.context.close()
