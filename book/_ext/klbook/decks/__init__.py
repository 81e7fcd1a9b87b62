"""Slides: one deck per chapter, made of the built chapter page.

source  the labelled items of a built page
plan    which items a deck shows, with the lecturer's words
fit     where a long statement is cut
slides  from a plan to slides
write   a deck as a page of the site
"""
import hashlib
import re
from pathlib import Path

import yaml

from .plan import default_plan, read_plan
from .slides import make_slides
from .source import Book, chapter_names
from .write import deck_page, fill_list, read_record

FOLDER = "slides"
PLANS = Path("book") / "teach" / "decks"
LIST = Path("book") / "teach" / "slides.html"


def build_decks(root, html):
    """Write every deck below ``html`` that is not up to date; the book's pages must be there.

    Parameters
    ----------
    root : path
        Folder of the book's sources (``_toc.yml``, the plans).
    html : path
        Folder of the built site.

    Returns
    -------
    dict
        By chapter name: title and number of the chapter, number of slides, and what the deck is made of.
    """
    root, html = Path(root), Path(html)
    names = chapter_names(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8")))
    missing = [name for name in names if not (html / "book" / f"{name}.html").exists()]
    if missing:
        raise FileNotFoundError(f"no built page of {missing[0]} in {html}: build the book first")
    book, records = Book(html, names), {}
    for name in names:
        target = html / FOLDER / f"{name}.html"
        record = read_record(target)
        if record is None or record["digest"] != digest(root, html, name, record["pages"]):
            record = build_deck(book, root, name, target)
        records[name] = record
    fill_list(html / LIST, records)
    return records


def build_deck(book, root, name, target):
    """Write one deck and return its record."""
    chapter = book.chapter(name)
    plan = read_plan(root / PLANS, name) or default_plan(chapter)
    slides, pages = make_slides(book, name, plan)
    record = {
        "title": re.sub(r"<[^>]+>", "", chapter.title).replace("&amp;", "&"),
        "number": chapter.number,
        "slides": len(slides),
        "pages": pages,
        "digest": digest(root, book.html, name, pages),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(deck_page(chapter, slides, record), encoding="utf-8")
    return record


def digest(root, html, name, pages):
    """Hash of all that a deck is made of: pages of the book, its plan, this code."""
    plan = root / PLANS / f"{name}.yml"
    files = [html / "book" / f"{page}.html" for page in pages]
    files += [plan] if plan.exists() else []
    files += sorted(Path(__file__).parent.glob("*.py"))
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes() if file.exists() else b"")
    return found.hexdigest()[:16]


def finish(app, exception):
    """The decks are pages of the site, so that the list of them never holds a dead link."""
    if exception is None and app.builder.format == "html":
        build_decks(app.srcdir, app.outdir)


def setup(app):
    app.connect("build-finished", finish, priority=700)
