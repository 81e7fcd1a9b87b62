"""The links to the whole book as a PDF: written on every page, inert until the PDF is there."""
import re
from pathlib import Path
from posixpath import join, normpath

import pytest

HTML = Path(__file__).resolve().parent.parent / "_build" / "html"
PAGES = sorted(HTML.glob("book/**/*.html"))
TEMPLATE = re.compile(r'<template class="kl-site" data-needs="pdf">(.*?)</template>', re.DOTALL)


def links(text):
    return [address for address in re.findall(r'href="([^"]*)"', text) if address.endswith("book.pdf")]


@pytest.mark.skipif(not PAGES, reason="site not built: make html")
def test_every_page_offers_the_book_inert_and_with_the_right_address():
    without = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(HTML).as_posix()
        inert = [address for inner in TEMPLATE.findall(text) for address in links(inner)]
        assert all(normpath(join("/" + name, "..", address)) == "/book.pdf" for address in inert), name
        assert links(TEMPLATE.sub("", text)) == [], f"{name} links to a PDF that may not be there"
        if "dropdown-download-buttons" in text and not inert:
            without.append(name)
    assert without == []


@pytest.mark.skipif(not PAGES, reason="site not built: make html")
def test_the_landing_page_offers_the_book():
    text = (HTML / "book" / "index.html").read_text(encoding="utf-8")
    article = text[text.index("<article") : text.index("</article>")]
    assert [links(inner) for inner in TEMPLATE.findall(article)] == [["../book.pdf"]]


@pytest.mark.skipif(not PAGES, reason="site not built: make html")
def test_printing_one_page_is_called_so():
    text = PAGES[0].read_text(encoding="utf-8")
    button = re.search(r"<button[^>]*window\.print\(\)[^>]*>.*?</button>", text, re.DOTALL)
    assert "Print this page" in button.group()
