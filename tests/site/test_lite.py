"""Chapters in the browser's own Python, as a reader starts them: from a sub-path, with no network.

Needs ``make site PYODIDE=folder``. At home the test is skipped without it; where ``KLRLHF_PYODIDE``
and ``KLRLHF_REQUIRE_BROWSER`` promise the folder and a browser, it fails.
"""
import importlib
import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = ROOT / "_build" / "site"
sys.path.insert(0, str(ROOT / "tools" / "site"))
in_lite = importlib.import_module("in_lite")

pytestmark = [pytest.mark.slow, pytest.mark.lite]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHAPTERS = ["book/part1/temperature", "book/part3/coverage"]


def give_up(reason):
    promised = os.environ.get("KLRLHF_PYODIDE") and os.environ.get("KLRLHF_REQUIRE_BROWSER")
    (pytest.fail if promised else pytest.skip)(reason)


@pytest.fixture(scope="module")
def base():
    """Address of the site, below a sub-path."""
    if not (SITE / "lite" / "pyodide" / "pyodide.js").is_file():
        give_up("no site with its own Python: make site PYODIDE=folder")
    with in_lite.served(SITE) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("KLRLHF_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        give_up("no Chromium or Chrome on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=path, args=in_lite.ARGUMENTS)
        yield instance
        instance.close()


@pytest.mark.parametrize("docname", CHAPTERS)
def test_chapter_runs_top_to_bottom_and_its_explorers_recompute(browser, base, docname):
    chapter = in_lite.Chapter(browser, base, docname)
    try:
        state = chapter.open().run_all()
        assert state["errors"] == []
        assert state["done"] == state["cells"] > 5
        assert state["images"] >= 1
        state = chapter.settled()
        assert [e["mode"] for e in state["explorers"]] == ["live"] * len(state["explorers"]) != []
        for index in range(len(state["explorers"])):
            before, after, _ = chapter.move(index)
            assert before != after
        assert chapter.elsewhere == []
        assert chapter.errors == []
        text = chapter.page.locator(".jp-Notebook").inner_text()
        assert "{prf:" not in text and "{glue:" not in text
    finally:
        chapter.close()


def test_the_button_says_what_it_downloads_and_the_page_downloads_nothing(browser, base):
    chapter = in_lite.Chapter(browser, base, CHAPTERS[0])
    try:
        chapter.page.goto(f"{base}/{CHAPTERS[0]}.html")
        chapter.page.wait_for_load_state("load")
        note = chapter.page.locator(".kl-lite")
        assert note.locator(in_lite.BUTTON).is_visible()
        assert "downloads Python" in note.inner_text() or "loads Python" in note.inner_text()
        assert not [url for url in chapter.loaded if "/lite/" in url or "pyodide" in url]
    finally:
        chapter.close()


def test_every_chapter_of_the_site_has_a_button_that_leads_to_its_notebook():
    if not (SITE / "lite").is_dir():
        pytest.skip("no site with notebooks: make site")
    chapters = sorted((ROOT / "book").glob("part*/*.md"))
    assert chapters
    for source in chapters:
        name = source.relative_to(ROOT).with_suffix("").as_posix()
        page = (SITE / f"{name}.html").read_text(encoding="utf-8")
        assert f'href="../../lite/notebooks/index.html?path={name}.ipynb"' in page
        assert '<template class="kl-site"' not in page
        assert (SITE / "lite" / "files" / f"{name}.ipynb").is_file()
