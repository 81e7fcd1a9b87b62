"""The PDF of the book: every page number, link, label, proof and sentence is where it should be.

A few pages of the built site are printed, read back with pypdf, and compared with the site itself.
"""
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
# Two chapters with proofs, explorers and exercises, a page of tables, a page of generated headings.
PAGES = ("part1/gibbs-policy", "part2/confidence", "back/notation", "back/theorem-index")

pytestmark = pytest.mark.slow


def need(condition, reason):
    """Skip at home; fail where a browser is promised (CI)."""
    if condition:
        return
    if os.environ.get("KLRLHF_REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


def squeeze(text):
    """Letters and digits only: line breaks, hyphens and ligatures are the printer's business."""
    for ligature, letters in {"ﬁ": "fi", "ﬂ": "fl", "ﬀ": "ff", "ﬃ": "ffi", "ﬄ": "ffl"}.items():
        text = text.replace(ligature, letters)
    return re.sub(r"[\W_]+", "", text).lower()


class Printed:
    """The PDF, its text by page, and what did not fit."""

    def __init__(self, path, report):
        from pypdf import PdfReader

        self.path, self.report = path, report
        self.reader = PdfReader(str(path))
        self.text = [page.extract_text() for page in self.reader.pages]
        self.all = squeeze("\n".join(self.text))

    def places(self):
        """Page index of each named place, read without the tool's own reader."""
        index = {page.indirect_reference.idnum: number for number, page in enumerate(self.reader.pages)}
        return {name.lstrip("/"): index[place.raw_get("/Page").idnum]
                for name, place in self.reader.named_destinations.items()}


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    need((HTML / "index.html").exists(), "site not built: make html")
    pytest.importorskip("playwright.sync_api", reason="printing needs playwright")
    pytest.importorskip("pikepdf", reason="printing needs pikepdf")
    pytest.importorskip("pypdf", reason="reading the PDF needs pypdf")
    sys.path.insert(0, str(ROOT / "tools"))
    import make_pdf

    need(make_pdf.browser.find_browser(), "no Chromium or Chrome on this machine")
    target = tmp_path_factory.mktemp("print") / "book.pdf"
    _, report = make_pdf.make(HTML, target, only=PAGES)
    return Printed(target, report)


@pytest.fixture(scope="module", params=PAGES)
def article(request):
    """A page of the site as it was built, without what the PDF leaves out on purpose."""
    from bs4 import BeautifulSoup

    path = HTML / "book" / f"{request.param}.html"
    need(path.exists(), "site not built: make html")
    soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").select_one("article")
    for element in soup.select(".headerlink, script, details.hide.above-input, details.kl-check > :not(summary)"):
        element.decompose()
    return soup


def prose(element):
    """The longest run of words of an element that no formula interrupts."""
    runs = [squeeze(str(string)) for string in element.find_all(string=True)
            if not string.find_parent(class_="math") and not string.find_parent("svg")]
    return max(runs, key=len, default="")


def test_nothing_is_wider_than_the_column(printed):
    assert printed.report == []


def test_each_entry_of_the_contents_names_the_page_of_its_heading(printed):
    start, end = printed.places()["contents"], printed.places()["part-i"]
    lines = [re.fullmatch(r"(?:[\d.]+ )?(.*\w.*?) (\d+)", line)
             for page in printed.text[start:end] for line in page.splitlines()]
    entries = [(match.group(1), int(match.group(2))) for match in lines if match]
    assert len(entries) > 20
    for title, number in entries:
        assert squeeze(title) in squeeze(printed.text[number - 1]), f"{title!r} is not on page {number}"


def test_page_numbers_are_printed(printed):
    first = printed.places()["part1-gibbs-policy"]
    for index in range(first, first + 10):
        assert str(index + 1) in printed.text[index].splitlines(), f"page {index + 1} does not say so"


def test_every_internal_link_leads_to_a_place_in_the_book(printed):
    places, links = printed.places(), []
    for page in printed.reader.pages:
        for annotation in page.get("/Annots", []):
            annotation = annotation.get_object()
            action = annotation.get("/A", {})
            uri = str(action.get("/URI", ""))
            assert "book.invalid" not in uri and not uri.startswith("file:"), uri
            target = annotation.get("/Dest", action.get("/D"))
            if target is not None:
                links.append(str(target).lstrip("/"))
    assert len(links) > 80
    assert [name for name in links if name not in places] == []


def test_every_labelled_statement_is_there(printed, article):
    for label in article.select(".caption-number"):
        assert squeeze(label.get_text()) in printed.all, label.get_text()


def test_every_proof_is_unfolded(printed, article):
    for proof in article.select("details.kl-proof"):
        for paragraph in proof.select(".kl-proof-body > p"):
            assert prose(paragraph) in printed.all, paragraph.get_text()[:80]


def test_every_solution_is_unfolded(printed, article):
    for paragraph in article.select("div.solution section > p"):
        assert prose(paragraph) in printed.all, paragraph.get_text()[:80]


def test_every_check_has_its_line(printed, article):
    for check in article.select("details.kl-check > summary"):
        assert squeeze(check.get_text()) in printed.all, check.get_text()


def test_every_explorer_says_its_sentence(printed, article):
    for sentence in article.select(".kl-explorer .kl-say"):
        assert prose(sentence) in printed.all, sentence.get_text()


def test_every_equation_number_is_there(printed, article):
    for number in article.select(".eqno"):
        assert any(number.get_text(strip=True) in text for text in printed.text), number.get_text()


def test_no_text_starts_outside_the_paper(printed):
    width, height = (float(length) for length in printed.reader.pages[0].mediabox[2:])
    for index, page in enumerate(printed.reader.pages):
        def visit(text, user, matrix, *_, index=index):
            x, y = user[0] * matrix[4] + user[2] * matrix[5] + user[4], user[1] * matrix[4] + user[3] * matrix[5] + user[5]
            if text.strip():
                assert 0 <= x <= width and 0 <= y <= height, (index + 1, text, x, y)

        page.extract_text(visitor_text=visit)


def test_every_font_is_embedded(printed):
    seen = 0
    for page in printed.reader.pages:
        for font in page["/Resources"].get("/Font", {}).values():
            font = font.get_object()
            seen += 1
            if font["/Subtype"] == "/Type3":
                continue  # its glyphs are drawings inside the file
            inner = font["/DescendantFonts"][0].get_object() if "/DescendantFonts" in font else font
            descriptor = inner["/FontDescriptor"].get_object()
            assert any(f"/FontFile{suffix}" in descriptor for suffix in ("", "2", "3")), font["/BaseFont"]
    assert seen


def test_bookmarks_and_metadata(printed):
    def flat(items):
        for item in items:
            yield from flat(item) if isinstance(item, list) else [item]

    marks = {item.title: printed.reader.get_destination_page_number(item) for item in flat(printed.reader.outline)}
    places = printed.places()
    assert marks["1. The Gibbs policy"] == places["part1-gibbs-policy"]
    assert marks["1.6. Exercises"] == places["part1-gibbs-policy--exercises"]
    information = printed.reader.metadata
    assert information.title and information.author and information.subject and information["/Keywords"]
    root = printed.reader.trailer["/Root"]
    assert root["/Lang"] == "en"
    assert root["/MarkInfo"]["/Marked"]
    assert root["/PageMode"] == "/UseOutlines"
