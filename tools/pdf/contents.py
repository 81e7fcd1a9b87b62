"""What is in the book, read from the built site and the project's own records."""
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin

from bs4 import BeautifulSoup

LANDING = "book/index.html"


@dataclass(frozen=True)
class Page:
    """One page of the site: its path from the site's root, its title in the menu, a key for ids."""

    path: str
    title: str

    @property
    def key(self):
        stem = self.path.removesuffix(".html").removeprefix("book/")
        return re.sub(r"[^a-z0-9]+", "-", stem.lower())


@dataclass
class Part:
    """A part of the book; a caption like "I. Foundations" earns a title page."""

    caption: str
    pages: list = field(default_factory=list)

    @property
    def numeral(self):
        match = re.match(r"([IVX]+)\.\s+", self.caption)
        return match.group(1) if match else ""

    @property
    def name(self):
        return re.sub(r"^[IVX]+\.\s+", "", self.caption)


@dataclass(frozen=True)
class Imprint:
    """What the title page and the page behind it say."""

    title: str
    subtitle: str
    authors: list
    version: str
    date: str
    site: str
    repository: str
    keywords: list
    bibtex: str


def parts(html):
    """The parts of the book in the order of the site's menu; the landing page comes first."""
    landing = Path(html) / LANDING
    if not landing.exists():
        raise FileNotFoundError(f"no built site in {html}: run `make html` first")
    soup = BeautifulSoup(landing.read_text(encoding="utf-8"), "html.parser")
    menu = soup.select_one("nav.bd-links .bd-toc-item")
    if menu is None:
        raise ValueError(f"{landing} has no menu to read the table of contents from")
    found = [Part("", [Page(LANDING, soup.select_one("article h1").find(string=True).strip())])]
    for element in menu.find_all(["p", "a"]):
        if element.name == "p" and "caption" in element.get("class", []):
            found.append(Part(" ".join(element.get_text().split())))
        elif element.name == "a" and "internal" in element.get("class", []):
            path = urljoin("/" + LANDING, element["href"]).split("#")[0].lstrip("/")
            if path in {"", LANDING} or "caption-text" in element.get("class", []):
                continue
            found[-1].pages.append(Page(path, " ".join(element.get_text().split())))
    return [part for part in found if part.pages]


def select(found, wanted):
    """The parts with only the pages whose path contains one of the words in ``wanted``."""
    kept = [Part(part.caption, [page for page in part.pages if any(word in page.path for word in wanted)])
            for part in found]
    kept = [part for part in kept if part.pages]
    if not kept:
        raise ValueError(f"no page of the book matches {', '.join(wanted)}")
    return kept


def imprint(root, html):
    """Title, authors, version and addresses, from where the project says them once."""
    sys.path.insert(0, str(root / "book" / "_ext"))
    from klbook import cite, release

    data = release.citation(root)
    title, _, subtitle = data["preferred-citation"]["title"].partition(": ")
    landing = BeautifulSoup((Path(html) / LANDING).read_text(encoding="utf-8"), "html.parser")
    canonical = landing.select_one("link[rel=canonical]")
    site = canonical["href"].removesuffix(LANDING) if canonical else data["url"]
    return Imprint(
        title, subtitle[:1].upper() + subtitle[1:], cite.plain_names(data["preferred-citation"]["authors"]),
        release.version(root), release.build_date(root), site, data["repository-code"],
        data.get("keywords", []), cite.book_entry(data, site).strip())


def styles_and_math(html, pages):
    """The style sheets of these pages, in order and without repeats, and MathJax's settings."""
    sheets, math = [], {}
    for page in pages:
        text = (Path(html) / page.path).read_text(encoding="utf-8")
        head = text[: text.index("</head>")]
        for tag in re.findall(r"<link[^>]*>", head):
            address = re.search(r'href="([^"]*\.css[^"]*)"', tag)
            if address and "stylesheet" in tag:
                sheet = urljoin("/" + page.path, address.group(1))
                if sheet not in sheets:
                    sheets.append(sheet)
        settings = re.search(r"window\.MathJax = (\{.*?\})</script>", head)
        if settings:
            math = json.loads(settings.group(1))
    # The book's own sheets are the last word on every page; keep it so here.
    return sorted(sheets, key=lambda sheet: "/_static/css/" in sheet), math
