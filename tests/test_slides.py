"""The slide decks as files: what each must have, and that a statement is the book's own.

Run after ``make html``; these tests read ``_build/html`` and do not build it.
"""
import functools
import re
import sys
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from klbook.decks.plan import PlanError, entries, read_plan  # noqa: E402
from klbook.decks.source import HEAVY, PROVED, Book, chapter_names  # noqa: E402

NAMES = chapter_names(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))

pytestmark = pytest.mark.skipif(not (HTML / "index.html").exists(), reason="site not built: make html")


@functools.cache
def deck(name):
    text = (HTML / "slides" / f"{name}.html").read_text(encoding="utf-8")
    return BeautifulSoup(HEAVY.sub("", text), "html.parser")


@functools.cache
def book():
    return Book(HTML, NAMES)


def text_of(element):
    """All characters but spaces: cutting a statement may only change those between its blocks."""
    return "".join(element.get_text().split())


def test_every_chapter_has_a_deck_and_a_plan():
    assert len(NAMES) == 27
    for name in NAMES:
        assert (HTML / "slides" / f"{name}.html").is_file()
    written = {path.relative_to(ROOT / "book/teach/decks").with_suffix("").as_posix()
               for path in (ROOT / "book/teach/decks").rglob("*.yml")}
    assert written <= set(NAMES)


def test_list_of_decks_links_every_deck_with_its_number_of_slides():
    page = BeautifulSoup((HTML / "book/teach/slides.html").read_text(encoding="utf-8"), "html.parser")
    rows = {row.a["href"]: int(row.find_all("td")[-1].get_text()) for row in page.select(".kl-decks tbody tr")}
    assert rows == {f"../../slides/{name}.html": len(deck(name).select("section.kd-slide")) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_deck_has_its_parts(name):
    slides = deck(name).select("section.kd-slide")
    kinds = [slide["data-kind"] for slide in slides]
    assert kinds[0] == "title" and "explorer" in kinds and kinds[-1] == "remember"
    results = {box["data-label"] for kind in PROVED for box in deck(name).select(f".kd-statement.kd-{kind}")}
    assert len(results) >= 3
    noted = [slide for slide in slides if slide.select_one("aside.notes") and slide.aside.get_text(strip=True)]
    assert len(noted) >= len(slides) / 2
    assert all(slide.select_one("h1, h2").get_text(strip=True) for slide in slides)


@pytest.mark.parametrize("name", NAMES)
def test_statements_are_the_book_s(name):
    shown = {}
    for box in deck(name).select(".kd-statement[data-label]"):
        shown.setdefault(box["data-label"], []).append(box.select_one(".kd-content"))
    for label, parts in shown.items():
        item = book().find(label, name)
        whole = BeautifulSoup(str(item.element.find("section")), "html.parser")
        for mark in whole.select("a.headerlink"):
            mark.decompose()
        assert "".join(text_of(part) for part in parts) == text_of(whole), label


@pytest.mark.parametrize("name", NAMES)
def test_explorers_and_figures_are_the_book_s(name):
    deck_text = (HTML / "slides" / f"{name}.html").read_text(encoding="utf-8")
    pages = [(HTML / "book" / f"{other}.html").read_text(encoding="utf-8") for other in NAMES]
    data = re.findall(r'<script type="application/json">.*?</script>', deck_text, re.S)
    figures = re.findall(r'<svg class="kl-figure".*?</svg>', deck_text, re.S)
    assert data and all(any(part in page for page in pages) for part in data + figures)


@pytest.mark.parametrize("name", NAMES)
def test_deck_loads_only_local_files_that_exist_and_repeats_no_id(name):
    page = HTML / "slides" / f"{name}.html"
    tree = deck(name)
    loads = [e.get("src") or e.get("href") for e in tree.select("script[src], link[href]")]
    assert loads and all((page.parent / url).resolve().is_file() for url in loads)
    for link in tree.select("a[href]"):
        if not re.match(r"https?:", link["href"]):
            assert (page.parent / link["href"].split("#")[0]).resolve().is_file(), link["href"]
    ids = [element["id"] for element in tree.select("[id]")]
    assert len(ids) == len(set(ids))


def test_a_plan_with_a_missing_label_or_an_unknown_option_names_it(tmp_path):
    (tmp_path / "part1").mkdir()
    path = tmp_path / "part1" / "gibbs-policy.yml"
    for slides, word in (
        ("[gibbs-variationel]", "gibbs-variationel"),
        ("[{gibbs-variational: {lime: x}}]", "lime"),
        ("[{explore-tilt: {guess: x, optoins: [a]}}]", "optoins"),
        ("[{explore-tilt: {guess: x, options: [yes, b]}}]", "quotes"),
    ):
        path.write_text(f"slides: {slides}\n")
        plan = read_plan(tmp_path, "part1/gibbs-policy")
        with pytest.raises(PlanError, match=word):
            list(entries(plan["slides"], book(), "part1/gibbs-policy"))
    path.write_text("slides: []\n")
    with pytest.raises(PlanError, match="no slides"):
        read_plan(tmp_path, "part1/gibbs-policy")
