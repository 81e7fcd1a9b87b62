"""What a deck may show: the labelled items of the built chapter pages.

A slide never holds a copy of a statement, an equation, a figure or an explorer: it takes the
element from the page that the book shows, by its label.
"""
import copy
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from posixpath import relpath

from bs4 import BeautifulSoup

PROVED = ("theorem", "lemma", "proposition", "corollary")
STATED = (*PROVED, "definition", "algorithm", "remark", "example", "assumption")
# Drawings and data make nine tenths of a page and hold no label: they are parsed as empty stubs.
HEAVY = re.compile(
    r'<svg\b(?:(?!<svg\b).)*?</svg>|<script type="application/json">.*?</script>', re.S)
STUB = re.compile(r'<kl-stub n="(\d+)"></kl-stub>')


@dataclass
class Item:
    """One labelled thing of a page."""

    label: str
    kind: str
    element: object
    page: object
    title: str = ""
    number: str = ""
    section: object = None
    check: str = ""
    proof: object = None

    @property
    def address(self):
        """Where the item stands in the book, from the root of the site."""
        return f"{self.page.address}#{self.element.get('id') or self.section.get('id')}"


@dataclass
class Chapter:
    """A built page: its hook, its goals and its items in the order of the page."""

    name: str
    address: str
    title: str
    number: str
    hook: list
    goals: object
    items: dict = field(default_factory=dict)
    exercises: list = field(default_factory=list)
    heavy: list = field(default_factory=list)
    settings: str = ""

    def html(self, element):
        """The element as HTML, drawings put back; links lead into the book, ids stay there."""
        element = copy.copy(element)
        for part in (element, *element.find_all(True)):
            part.attrs.pop("id", None)
        for link in element.select("a.headerlink"):
            link.decompose()
        for link in element.select("a[href]"):
            link["href"] = self.link(link["href"])
        return STUB.sub(lambda m: self.heavy[int(m[1])], str(element))

    def link(self, href):
        if re.match(r"[a-z]+:|//", href):
            return href
        path, _, fragment = href.partition("#")
        here = PurePosixPath(self.address)
        target = (here.parent / path).as_posix() if path else self.address
        deck = PurePosixPath("slides") / PurePosixPath(self.name).parent
        return relpath(target, deck.as_posix()) + (f"#{fragment}" if fragment else "")


def words(element, inside=()):
    """Text of an element without link marks and without what ``inside`` selects."""
    element = copy.copy(element)
    for part in element.select(", ".join(("a.headerlink", "span.section-number", *inside))):
        part.decompose()
    return " ".join(element.get_text().split())


def inner(element, skip=()):
    """The element's content as HTML, without what ``skip`` selects."""
    element = copy.copy(element)
    for part in element.select(", ".join(("a.headerlink", "span.section-number", *skip))):
        part.decompose()
    return element.decode_contents().strip()


def read_chapter(html, name):
    """Read ``book/<name>.html`` below the folder of the built site."""
    address = f"book/{name}.html"
    text = (Path(html) / address).read_text(encoding="utf-8")
    settings = re.search(r"<script>window\.MathJax = (.*?)</script>", text, re.S)
    text = text[text.index("<article"):text.index("</article>")]
    heavy = []

    def stub(match):
        heavy.append(match[0])
        return f'<kl-stub n="{len(heavy) - 1}"></kl-stub>'

    tree = BeautifulSoup(HEAVY.sub(stub, text), "html.parser")
    heading = tree.h1
    number = heading.select_one(".section-number")
    hook, goals = [], None
    for element in heading.find_next_siblings():
        if element.name == "p" and element.strong and "be able to do" in element.get_text():
            goals = element.find_next_sibling("ul")
            break
        if element.name == "section":
            break
        if element.name == "p":
            hook.append(element)
    chapter = Chapter(
        name=name, address=address, title=inner(heading),
        number=number.get_text().strip(" .") if number else "",
        hook=hook, goals=goals, heavy=heavy,
        settings=settings[1] if settings else "{}",
    )
    for element in tree.find_all(True):
        collect(chapter, element)
    return chapter


def collect(chapter, element):
    """Enter the element into the chapter if a deck could show it."""
    classes = element.get("class") or []
    item = None
    if element.name == "div" and "proof" in classes:
        kind = next(name for name in STATED if name in classes)
        label, caption = element["id"], element.select_one(".admonition-title")
        number = words(caption.select_one(".caption-number"))
        title = inner(caption, skip=(".caption-number",)).strip()
        item = Item(label, kind, element, chapter, title, number)
        after = element.find_next_sibling()
        if after is not None and "kl-check" in (after.get("class") or []):
            item.check = words(after.summary)
            after = after.find_next_sibling()
        if after is not None and "kl-proof" in (after.get("class") or []):
            item.proof = after.select_one(".kl-proof-body")
    elif "kl-explorer" in classes:
        label = f"explore-{element['data-explorer']}"  # some explorers share a theorem's name
        item = Item(label, "explorer", element, chapter, element.get("aria-label", ""))
    elif element.name == "figure" and element.get("id"):
        caption = element.select_one(".caption-number")
        item = Item(element["id"], "figure", element, chapter,
                    number=words(caption) if caption else "")
    elif element.name == "div" and (element.get("id") or "").startswith("equation-"):
        item = Item(element["id"].removeprefix("equation-"), "equation", element, chapter,
                    number=words(element.select_one(".eqno")))
    elif element.name == "div" and "exercise" in classes:
        caption = element.select_one(".admonition-title")
        number = words(caption.select_one(".caption-number"))
        title = inner(caption, skip=(".caption-number",)).strip().strip("()")
        item = Item(element["id"], "exercise", element, chapter, title, number)
        chapter.exercises.append(item)
    if item:
        item.section = element.find_parent("section", id=True)
        chapter.items.setdefault(item.label, item)


class Book:
    """Chapters by name, read when they are asked for, and items by their label."""

    def __init__(self, html, names):
        self.html, self.names, self.chapters = Path(html), list(names), {}

    def chapter(self, name):
        if name not in self.chapters:
            self.chapters[name] = read_chapter(self.html, name)
        return self.chapters[name]

    def find(self, label, name):
        """The item of this label: first in chapter ``name``, then anywhere in the book."""
        for other in (name, *self.names):
            if label in self.chapter(other).items:
                return self.chapter(other).items[label]
        raise KeyError(f"the plan of deck {name} names {label!r}, which no chapter of the book has")


def chapter_names(toc):
    """Names such as ``part1/gibbs-policy`` in the order of the table of contents."""
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [name.removeprefix("book/") for name in files if re.match(r"book/part\d/", name)]
