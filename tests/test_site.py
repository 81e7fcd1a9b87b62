"""The built site, checked as files: pages, links, results, weight, downloads.

Run after ``make html``; these tests read ``_build/html`` and do not build it.
"""
import functools
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
PROVED = {"theorem", "lemma", "proposition", "corollary"}

pytestmark = pytest.mark.skipif(not (HTML / "index.html").exists(), reason="site not built: make html")


def listed_pages():
    """Document names in the table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [toc["root"], *chapters]


PAGES = listed_pages()


class Page(HTMLParser):
    """Collects what the tests ask about a page."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.path, self.links, self.loads, self.ids = path, [], [], set()
        self.repeated = set()
        self.statements, self.badges = {}, {}
        self.source = path.read_text(encoding="utf-8")
        # What only the published site shows (tools/build_site.py) leads to what only it has.
        self.feed(re.sub(r'<template class="kl-site".*?</template>', "", self.source, flags=re.DOTALL))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        classes = set((attributes.get("class") or "").split())
        if "id" in attributes:
            if attributes["id"] in self.ids:
                self.repeated.add(attributes["id"])
            self.ids.add(attributes["id"])
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag in {"script", "img", "iframe", "source", "video"} and attributes.get("src"):
            self.loads.append(attributes["src"])
        if tag == "link" and attributes.get("rel") in {"stylesheet", "icon", "preload", "preconnect"}:
            self.loads.append(attributes["href"])
        if "proof" in classes and classes & PROVED:
            self.statements[attributes.get("id")] = classes & PROVED
        if "kl-check" in classes:
            self.badges[attributes["data-result"]] = attributes["data-passed"]


@functools.cache
def parsed(path):
    return Page(path)


@functools.cache
def packed_size(path):
    return len(gzip.compress(path.read_bytes(), 6))


@pytest.fixture(scope="module")
def pages():
    return {name: parsed(HTML / f"{name}.html") for name in PAGES}


@pytest.mark.parametrize("name", PAGES)
def test_page_exists(name):
    assert (HTML / f"{name}.html").is_file()


@pytest.mark.parametrize("name", PAGES)
def test_page_loads_nothing_from_another_host(pages, name):
    foreign = [url for url in pages[name].loads if urlparse(url).netloc or url.startswith("//")]
    assert foreign == []


@pytest.mark.parametrize("name", PAGES)
def test_page_loads_only_files_that_exist(pages, name):
    page = pages[name]
    missing = [
        url for url in page.loads
        if not url.startswith("data:") and not (page.path.parent / unquote(urlparse(url).path)).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("name", PAGES)
def test_internal_links_lead_somewhere(pages, name):
    page, broken = pages[name], []
    for link in sorted(set(page.links)):
        url = urlparse(link)
        if url.scheme or url.netloc:
            continue
        target = (page.path.parent / unquote(url.path)).resolve() if url.path else page.path
        if not target.exists():
            broken.append(link)
        elif url.fragment and target.suffix == ".html":
            if unquote(url.fragment) not in parsed(target).ids:
                broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", PAGES)
def test_ids_are_unique(pages, name):
    assert pages[name].repeated == set()


@pytest.mark.parametrize("name", PAGES)
def test_no_failed_cell_and_no_leftover_markup(pages, name):
    source = pages[name].source
    assert "Traceback (most recent call last)" not in source
    assert "data-mime-type=\"application/vnd.jupyter.stderr\"" not in source
    assert "```{" not in source and ":::{" not in source
    body = re.sub(r"<(script|style|pre|code)\b.*?</\1>", "", source, flags=re.S)
    body = re.sub(r"<[^>]+>", "", body)
    assert re.findall(r"\{(?:prf:ref|glue:\w+|eq|ref|cite|numref)\}`", body) == []


def test_every_result_has_its_statement_and_its_passing_badge(pages):
    from klrlhf.results.registry import all_results

    stated = {id for page in pages.values() for id in page.statements}
    badges = {id: passed for page in pages.values() for id, passed in page.badges.items()}
    registered = set(all_results())
    assert stated == registered
    assert set(badges) == registered
    assert set(badges.values()) == {"1"}


def test_theorem_index_lists_and_links_every_result(pages):
    from klrlhf.results.registry import all_results

    page = pages["book/back/theorem-index"]
    for id in all_results():
        assert f"check-{id}" in page.ids
        assert any(link.endswith(f"#{id}") for link in page.links)
        assert f"data-id='{id}'" in page.source


@pytest.mark.parametrize("name", PAGES)
def test_notebook_download_is_clean(name):
    source = ROOT / f"{name}.md"
    if not source.read_text(encoding="utf-8").startswith("---"):
        pytest.skip("not a notebook")
    notebook = json.loads((HTML / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] for cell in code)
    assert f"notebooks/{name}.ipynb" in (HTML / f"{name}.html").read_text() or \
        f"{Path(name).name}.ipynb" in (HTML / f"{name}.html").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_page_weight(pages, name):
    """First load under 900 kB gzipped with math (fonts and scripts as they are sent)."""
    page = pages[name]
    files = {page.path} | {
        (page.path.parent / unquote(urlparse(url).path)).resolve()
        for url in page.loads if not url.startswith("data:")
    }
    weight = sum(packed_size(file) for file in files if file.is_file())
    assert weight < 900_000


def test_mathjax_and_fonts_are_local():
    static = HTML / "_static"
    assert (static / "mathjax" / "tex-chtml.js").is_file()
    assert list((static / "mathjax").rglob("*.woff"))
    assert (static / "fonts" / "newsreader.woff2").is_file()
    for sheet in (static / "css").glob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8"))


def test_palette_of_the_page_is_the_library_s():
    from klrlhf.plotting import DARK_PALETTE, PALETTE

    sheet = (HTML / "_static" / "css" / "palette.css").read_text()
    for role in ("empirical", "bound", "predicted", "online"):
        assert f"--kl-{role}: {PALETTE[role]};" in sheet
        assert f"--kl-{role}: {DARK_PALETTE[role]};" in sheet


@pytest.mark.parametrize("name", PAGES)
def test_figures_have_words_and_follow_the_theme(pages, name):
    for tag in re.findall(r"<svg class=\"kl-figure\"[^>]*>", pages[name].source):
        label = re.search(r'aria-label="([^"]*)"', tag).group(1)
        assert len(label.split()) >= 3, f"figure without an alternative text: {label!r}"
