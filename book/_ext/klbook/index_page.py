"""The theorem index and the map of results: what is stated, on what it rests, how it was checked."""
import html
import re

from docutils import nodes
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from . import graph
from .badges import PROVED, closeness, thousands

logger = logging.getLogger(__name__)


class results_placeholder(nodes.General, nodes.Element):
    """Filled in when every page and number is known."""


class TheoremIndex(SphinxDirective):
    """``{theorem-index}``: every result with link, source, kind, dependencies and check."""

    def run(self):
        self.env.klbook_index_docs = getattr(self.env, "klbook_index_docs", set()) | {self.env.docname}
        return [results_placeholder(what="index")]


class MapOfResults(TheoremIndex):
    """``{map-of-results}``: which chapter's results rest on which other chapter's."""

    def run(self):
        super().run()
        return [results_placeholder(what="map")]


def always_again(app, env, added, changed, removed):
    """These pages quote numbers that other pages decide."""
    return [name for name in getattr(env, "klbook_index_docs", set()) if name in env.found_docs]


class Book:
    """What the index needs to know about the book, seen from one page."""

    def __init__(self, app, docname):
        self.app, self.env, self.docname = app, app.env, docname
        self.records = app.klbook_records
        self.places = {
            label: entry for label, entry in getattr(app.env, "proof_list", {}).items()
            if entry["realtype"] in PROVED and label in self.records
        }

    def number(self, id):
        entry = self.places[id]
        numbers = self.env.toc_fignumbers.get(entry["docname"], {}).get(entry["countertype"], {})
        digits = ".".join(map(str, numbers.get(id, ())))
        return f"{entry['realtype'].title()} {digits}".strip()

    def url(self, id):
        return self.app.builder.get_relative_uri(self.docname, self.places[id]["docname"]) + f"#{id}"

    def link(self, id, words=None):
        if id not in self.places:
            return html.escape(id)
        return f"<a href='{html.escape(self.url(id))}'>{html.escape(words or self.number(id))}</a>"

    def groups(self):
        """Results by chapter, in the order in which a reader meets them."""
        found = {}
        for id in self.places:
            found.setdefault(self.places[id]["docname"], []).append(id)
        order = {name: i for i, name in enumerate(reading_order(self.env))}
        result = []
        for docname in sorted(found, key=lambda name: order.get(name, 999)):
            ids = sorted(found[docname], key=lambda id: digits(self.number(id)))
            result.append((docname, self.env.titles[docname].astext(), ids))
        return result

    def source(self, text, id):
        """A record's source, with its citation keys as links to the bibliography."""
        entries = {citation.key: citation for citation in self.env.get_domain("cite").citations}

        def link(match):
            citation = entries.get(match.group(0))
            if citation is None:
                logger.warning("the source of result %r cites %r, which the bibliography lacks",
                               id, match.group(0))
                return match.group(0)
            uri = self.app.builder.get_relative_uri(self.docname, citation.bibliography_key.docname)
            return f"<a href='{uri}#{citation.citation_id}'>{html.escape(authors(citation.entry))}</a>"

        return re.sub(r"\b[a-z]+\d{4}[a-z]*\b", link, html.escape(text))


def reading_order(env):
    seen, order = set(), []

    def visit(name):
        if name in seen:
            return
        seen.add(name)
        order.append(name)
        for child in env.toctree_includes.get(name, []):
            visit(child)

    visit(env.config.root_doc)
    return order


def digits(number):
    return [int(part) for part in re.findall(r"\d+", number)]


def authors(entry):
    """"Xiong et al. 2024" from a bibliography entry."""
    names = [" ".join(person.last_names) for person in entry.persons.get("author", [])]
    names = [re.sub(r"[{}\\'\"]", "", name) for name in names] or ["?"]
    who = " and ".join(names) if len(names) <= 2 else f"{names[0]} et al."
    return f"{who} {entry.fields.get('year', '')}".strip()


def row(book, id):
    record = book.records[id]
    rests = ", ".join(book.link(other) for other in record["depends"]) or "–"
    return (
        f"<tr id='check-{id}'><th scope='row'>{book.link(id)}<br>{html.escape(record['title'])}</th>"
        f"<td>{book.source(record['source'], id)}</td><td>{record['kind']}</td><td>{rests}</td>"
        f"<td class='text-right'>{thousands(record['instances'])}</td>"
        f"<td>{html.escape(closeness(record))}</td>"
        f"<td class='text-right'>{record['seconds']:.1f}</td></tr>"
    )


def table(book, name, ids):
    head = "".join(f"<th scope='col'{c}>{t}</th>" for t, c in (
        ("result", ""), ("source", ""), ("kind", ""), ("rests on", ""),
        ("tried", " class='text-right'"), ("how close", ""), ("s", " class='text-right'")))
    rows = "".join(row(book, id) for id in ids)
    return (
        f"<h2>{html.escape(name)}</h2>"
        f"<div class='kl-scroll' tabindex='0' role='region' aria-label='Results of {html.escape(name)}'>"
        f"<table class='kl-table kl-index'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def drawing(book):
    label = "Map of results: each arrow leads from a result to one that rests on it"
    groups = [(title, ids) for _, title, ids in book.groups()]
    info = {id: (book.number(id), book.records[id]["title"], book.url(id)) for id in book.places}
    depends = {id: list(book.records[id]["depends"]) for id in book.places}
    return graph.draw(groups, depends, info, label)


def parts(env):
    """Captions of the table of contents, each with its pages."""
    root = env.get_doctree(env.config.root_doc)
    return [(tree["caption"], list(tree["includefiles"])) for tree in root.findall(addnodes.toctree)
            if tree.get("caption")]


def drawing_of_chapters(book):
    label = "Map of chapters: each arrow leads to a chapter whose proofs use results of an earlier one"
    chapter = {id: entry["docname"] for id, entry in book.places.items()}
    key = {name: name.replace("/", "-") for name in chapter.values()}
    depends, info, earlier = {}, {}, set()
    for name, title, ids in book.groups():
        used = {chapter[other] for id in ids for other in book.records[id]["depends"]
                if other in chapter}
        depends[key[name]] = sorted(key[other] for other in used & earlier)
        earlier.add(name)
        number = book.env.toc_secnumbers.get(name, {}).get("", ())
        results = "1 result" if len(ids) == 1 else f"{len(ids)} results"
        info[key[name]] = (f"{'.'.join(map(str, number))}, {results}", title,
                           book.app.builder.get_relative_uri(book.docname, name))
    groups = [(caption, [key[name] for name in pages if name in key])
              for caption, pages in parts(book.env)]
    return graph.draw([group for group in groups if group[1]], graph.reduced(depends), info, label)


def totals(book):
    records = [book.records[id] for id in book.places]
    tried = sum(record["instances"] for record in records)
    steps = sum(len(record["steps"]) for record in records)
    seconds = sum(record["seconds"] for record in records)
    mode = "in full" if all(record["mode"] == "full" for record in records) else "on the fast subset"
    return (
        f"<p>Results: {len(records)}. Steps of their proofs: {steps}. Instances: {thousands(tried)}. "
        f"Checked {mode}, in {seconds:.0f} s on one core.</p>"
    )


def fill(app, doctree, docname):
    placeholders = list(doctree.findall(results_placeholder))
    if not placeholders:
        return
    book = Book(app, docname)
    for node in placeholders:
        if node["what"] == "map":
            content = drawing_of_chapters(book)
        else:
            content = totals(book) + drawing(book) + "".join(
                table(book, title, ids) for _, title, ids in book.groups())
        node.replace_self(nodes.raw("", content, format="html"))


def setup(app):
    app.add_directive("theorem-index", TheoremIndex)
    app.add_directive("map-of-results", MapOfResults)
    app.add_node(results_placeholder)
    app.connect("env-get-outdated", always_again)
    app.connect("doctree-resolved", fill)
