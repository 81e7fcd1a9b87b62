"""Chromium, the built site on a free local port, and a network that ends at 127.0.0.1."""
import functools
import http.server
import importlib
import os
import shutil
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HTML = ROOT / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser():
    named = os.environ.get("KLRLHF_BROWSER")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)


def give_up(reason):
    """Skip at home; fail where a browser is promised (CI)."""
    if os.environ.get("KLRLHF_REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


def pytest_configure(config):
    """Where a browser is promised, nothing that its tests need may be missing: no silent skip."""
    if not os.environ.get("KLRLHF_REQUIRE_BROWSER"):
        return
    needed = ("playwright.sync_api", "axe_playwright_python.sync_playwright", "anywidget",
              "nbformat", "jupyterlab")
    missing = [name for name in needed if not importable(name)]
    missing += [] if find_browser() else ["Chromium or Chrome"]
    missing += [] if (HTML / "index.html").exists() else ["the built site (make html)"]
    if missing:
        raise pytest.UsageError(f"the browser tests need {', '.join(missing)}")


def importable(name):
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


class Quiet(http.server.SimpleHTTPRequestHandler):
    """No log line per file."""

    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def site():
    """Address of the built site."""
    if not (HTML / "index.html").exists():
        give_up("site not built: make html")
    handler = functools.partial(Quiet, directory=str(HTML))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    """One headless Chromium per file: Playwright cannot start twice, and other files start their own."""
    path = find_browser()
    if path is None:
        give_up("no Chromium or Chrome on this machine")
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="browser tests are optional outside CI: needs playwright")
    with sync_api.sync_playwright() as playwright:
        instance = playwright.chromium.launch(
            executable_path=path,
            # Containers often run as root, without user namespaces and with a small /dev/shm.
            args=["--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        yield instance
        instance.close()


class Visit:
    """An open page, with every request it made and every error it printed."""

    def __init__(self, context, scripts=True):
        self.scripts = scripts
        self.page = context.new_page()
        self.requests, self.errors = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", self.listen)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("response", lambda r: self.errors.append(f"{r.status} {r.url}") if r.status >= 400 else None)

    def listen(self, message):
        if message.type == "error":
            self.errors.append(message.text)

    @property
    def foreign(self):
        local = ("http://127.0.0.1:", "data:", "blob:", "about:")
        return [url for url in self.requests if not url.startswith(local)]

    def settle(self):
        """Wait for fonts, math and explorers."""
        self.page.wait_for_load_state("load")
        if not self.scripts:
            return
        self.page.evaluate("document.fonts.ready")
        self.page.evaluate("window.MathJax?.startup?.promise")
        if self.page.locator(".kl-explorer").count():
            self.page.wait_for_function(
                "[...document.querySelectorAll('.kl-explorer')].every(e => e.dataset.ready === '1')"
            )


@pytest.fixture
def visit(browser, site):
    """``visit(path, width=..., scheme=...)`` opens a page of the site."""
    contexts = []

    def open_page(path, width=1280, height=900, scheme="light", **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **options
        )
        contexts.append(context)
        context.route("**/*", lambda route: route.continue_()
                      if route.request.url.startswith(site) else route.abort())
        opened = Visit(context, scripts=options.get("java_script_enabled", True))
        opened.page.goto(f"{site}/{path}")
        opened.settle()
        return opened

    yield open_page
    for context in contexts:
        context.close()
