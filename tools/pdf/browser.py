"""Chromium puts the pages together, sets the formulas, makes everything fit, and prints."""
import mimetypes
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
ORIGIN = "http://book.invalid"  # never looked up: every answer comes from the built site
DOCUMENT = "/whole-book.html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Width of the text column: what the page's margins in book.css leave of A4 (210 - 2 x 24 mm).
COLUMN_MM = {"a4": 162.0, "letter": 215.9 - 48.0}


def find_browser():
    """Path of Chromium or Chrome, or None for the one that Playwright installed."""
    named = os.environ.get("KLRLHF_BROWSER")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)


def serve(page, html, document):
    """Answer the page's requests from the built site's folder; nothing else is reached."""
    root = Path(html).resolve()

    def answer(route):
        path = unquote(urlsplit(route.request.url).path)
        if path == DOCUMENT:
            return route.fulfill(body=document, content_type="text/html; charset=utf-8")
        file = (root / path.lstrip("/")).resolve()
        if not route.request.url.startswith(ORIGIN) or root not in file.parents or not file.is_file():
            return route.abort()
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return route.fulfill(body=file.read_bytes(), content_type=kind)

    page.route("**/*", answer)


@contextmanager
def opened(html, document, paper):
    """The document in a page that is as wide as the printed column."""
    with sync_playwright() as playwright:
        # Containers often run as root, without user namespaces and with a small /dev/shm.
        browser = playwright.chromium.launch(
            executable_path=find_browser(),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--js-flags=--max-old-space-size=8192"])
        width = round(COLUMN_MM[paper] / 25.4 * 96)
        page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme="light")
        page.set_default_timeout(0)
        page.emulate_media(media="print")
        serve(page, html, document)
        page.goto(ORIGIN + DOCUMENT)
        for script in ("assemble.js", "fit.js"):
            page.add_script_tag(content=(HERE / script).read_text(encoding="utf-8"))
        yield page
        browser.close()


def assemble(page, pages, site):
    """Fill in the pages; every link inside the book must lead somewhere."""
    listing = [{"key": one.key, "path": "/" + one.path} for one in pages]
    headings = page.evaluate("([pages, site]) => assemble(pages, site)", [listing, site])
    for name, what in (("broken", "links that lead nowhere"), ("repeated", "ids that repeat")):
        found = page.evaluate(f"{name}()")
        if found:
            raise ValueError(f"{len(found)} {what}: {', '.join(found[:10])}")
    return headings


def typeset(page, pages, site):
    """Set every formula and shrink what is too wide; returns what could not be helped."""
    page.evaluate("MathJax.startup.promise.then(() => MathJax.typesetPromise())")
    failed = page.evaluate(
        "[...document.querySelectorAll('mjx-merror, [data-mjx-error]')].map(e => e.getAttribute('data-mjx-error') || e.textContent)")
    if failed:
        raise ValueError(f"{len(failed)} formulas could not be set: {'; '.join(failed[:5])}")
    page.evaluate("document.fonts.ready.then(() => true)")
    report = page.evaluate("addresses => fitAll(addresses)", {one.key: site + one.path for one in pages})
    return report + [f"sticks out: {what}" for what in page.evaluate("sticksOut()")]


def print_to(page, path, tagged=True):
    page.pdf(path=str(path), prefer_css_page_size=True, print_background=True, tagged=tagged)
