"""Old and wrong addresses, as a reader meets them on a static host under a sub-path."""
import functools
import http.server
import sys
import threading
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent))
from small_book import make

BASE = "/deep/site/"
MOVED = """
book/first/old: book/first/two
book/first/old#gone: book/first/one#kept
"""


class Host(http.server.SimpleHTTPRequestHandler):
    """Serves the site under a sub-path, and its 404 page for every other address there."""

    def translate_path(self, path):
        return super().translate_path("/" + path.removeprefix(BASE))

    def send_error(self, code, *words):
        body = (Path(self.directory) / "404.html").read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self):
        # What a careful host sends: no script in a page's text runs.
        self.send_header("Content-Security-Policy", "default-src 'none'; script-src 'self'; "
                         "style-src 'self' 'unsafe-inline'; img-src 'self'; form-action 'self'")
        super().end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    site = make(tmp_path_factory.mktemp("book"), f"http://127.0.0.1{BASE}", MOVED)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Host, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{BASE}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_page(browser, host):
    contexts = []

    def visit(path, **options):
        contexts.append(browser.new_context(**options))
        # The small book takes MathJax from another host, which nobody needs here.
        contexts[-1].route("**/*", lambda route: route.continue_()
                           if route.request.url.startswith(host) else route.abort())
        page = contexts[-1].new_page()
        return page, page.goto(host + path)

    yield visit
    for context in contexts:
        context.close()


@pytest.mark.parametrize("old, new", [
    ("book/first/old.html", "book/first/two.html"),
    ("book/first/old.html#new-label", "book/first/two.html#new-label"),
    ("book/first/old.html#gone", "book/first/one.html#kept"),
])
def test_old_link_arrives_at_the_new_place(open_page, host, old, new):
    page, _ = open_page(old)
    page.wait_for_url(host + new, timeout=60_000)
    if "#" in new:
        assert page.locator("#" + new.split("#")[1]).count() == 1


def test_old_link_arrives_without_scripts(open_page, host):
    page, _ = open_page("book/first/old.html", java_script_enabled=False)
    page.wait_for_url(host + "book/first/two.html", timeout=60_000)


def test_wrong_address_at_any_depth_leads_back_into_the_book(open_page, host):
    page, answer = open_page("book/no/such/page/at/all.html", viewport={"width": 390, "height": 844})
    assert answer.status == 404
    assert page.locator("h1").inner_text() == "There is no page at this address"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for link in page.eval_on_selector_all("a", "links => links.map(link => link.href)"):
        assert page.request.get(link).status == 200, link
    page.get_by_role("link", name="2. Two").click()
    page.wait_for_url(host + "book/first/two.html", timeout=60_000)


def test_wrong_address_offers_a_search(open_page, host):
    page, _ = open_page("nowhere")
    page.get_by_role("searchbox").fill("second")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url(host + "search.html?q=second", timeout=60_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_404_page_passes_axe(open_page, scheme):
    from test_pages import axe_source

    page, _ = open_page("nowhere", color_scheme=scheme)
    page.evaluate(axe_source())
    found = page.evaluate("axe.run()")["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
