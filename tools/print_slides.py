"""Print every deck to PDF, one slide a page: ``python tools/print_slides.py HTML OUTPUT [--notes]``.

Needs Playwright and Chromium or Chrome (``KLRLHF_BROWSER`` names another one).
"""
import argparse
import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """No log line per file."""

    def log_message(self, *args):
        pass


def print_decks(html, output, notes=False):
    """Write ``output/<part>/<chapter>.pdf`` for every deck below ``html/slides``."""
    decks = sorted((html / "slides").rglob("*.html"))
    browser_path = os.environ.get("KLRLHF_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not decks:
        raise SystemExit(f"no decks in {html / 'slides'}: run make slides first")
    if browser_path is None:
        raise SystemExit("printing needs Chromium or Chrome; set KLRLHF_BROWSER to its path")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    query = "?print-pdf" + ("&showNotes=separate-page" if notes else "")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        for deck in decks:
            name = deck.relative_to(html).as_posix()
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            page.goto(f"http://127.0.0.1:{server.server_port}/{name}{query}")
            page.wait_for_function("document.documentElement.dataset.deck === 'ready'", timeout=120_000)
            page.wait_for_selector(".pdf-page", state="attached", timeout=60_000)
            target = output / Path(name).relative_to("slides").with_suffix(".pdf")
            target.parent.mkdir(parents=True, exist_ok=True)
            page.pdf(path=str(target), prefer_css_page_size=True, print_background=True)
            page.close()
            print(target, flush=True)
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("html", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--notes", action="store_true", help="a page of notes after each slide")
    arguments = parser.parse_args()
    print_decks(arguments.html.resolve(), arguments.output, arguments.notes)
