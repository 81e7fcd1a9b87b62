"""BibTeX for the book, a chapter or a result, made from ``CITATION.cff``."""
import html

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from . import address
from .index_page import Book, parts
from .release import citation

KEY = "klrlhf"


class cite_placeholder(nodes.General, nodes.Element):
    """Filled in when titles and numbers are known."""


class CiteBook(SphinxDirective):
    """``{cite-book}``: the BibTeX entry of the whole book."""

    def run(self):
        return [cite_placeholder(what="book")]


class CiteResult(SphinxDirective):
    """``{cite-result} label``: the entry of a result's chapter, and how to name the result."""

    required_arguments = 1

    def run(self):
        self.env.klbook_index_docs = getattr(self.env, "klbook_index_docs", set()) | {self.env.docname}
        return [cite_placeholder(what="result", label=self.arguments[0], line=self.lineno)]


def author_names(people):
    """Authors of a CFF list as BibTeX names; a group keeps its braces."""
    names = []
    for person in people:
        if person.get("name"):
            names.append("{" + person["name"] + "}")
        else:
            family = " ".join(filter(None, (person.get("name-particle"), person.get("family-names"))))
            names.append(", ".join(filter(None, (family, person.get("name-suffix"),
                                                 person.get("given-names")))))
    return " and ".join(names)


def plain_names(people):
    """The same authors, as a person would write them."""
    return [person.get("name") or
            " ".join(filter(None, (person.get("given-names"), person.get("name-particle"),
                                   person.get("family-names"), person.get("name-suffix"))))
            for person in people]


def escaped(text):
    """A title whose capitals BibTeX styles leave alone, with TeX's own characters escaped."""
    for sign in "&%#_":
        text = text.replace(sign, "\\" + sign)
    return "{" + text + "}"


def book_key(data):
    return f"{KEY}{data['preferred-citation']['year']}"


def book_fields(data, url):
    book = data["preferred-citation"]
    return {"year": str(book["year"]), "note": f"Version {data['version']}", "url": url}


def written(key, kind, fields):
    """One entry as BibTeX source, one field per line."""
    body = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return f"@{kind}{{{key},\n{body}}}\n"


def book_entry(data, url):
    """BibTeX of the whole book."""
    book = data["preferred-citation"]
    return written(book_key(data), "book", {
        "author": author_names(book["authors"]), "title": escaped(book["title"]),
        **book_fields(data, url)})


def chapter_key(data, docname):
    return f"{book_key(data)}-{docname.rsplit('/', 1)[-1]}"


def chapter_entry(data, docname, title, number, url):
    """BibTeX of one chapter, as a part of the book."""
    book = data["preferred-citation"]
    return written(chapter_key(data, docname), "incollection", {
        "author": author_names(book["authors"]), "title": escaped(title), "chapter": number,
        "booktitle": escaped(book["title"]), **book_fields(data, url)})


def chapters(app):
    """Numbered pages: docname to chapter number; asked for once all pages are read."""
    if not hasattr(app, "klbook_chapters"):
        numbers = app.env.toc_secnumbers
        app.klbook_chapters = {name: ".".join(map(str, numbers[name][""]))
                               for _, names in parts(app.env) for name in names
                               if numbers.get(name, {}).get("")}
    return app.klbook_chapters


def page_url(app, docname):
    return address.site(app) + app.builder.get_target_uri(docname)


def entry_of_chapter(app, docname):
    return chapter_entry(citation(app.srcdir), docname, app.env.titles[docname].astext(),
                         chapters(app)[docname], page_url(app, docname))


def fill(app, doctree, docname):
    """Replace the directives by their entries."""
    for node in list(doctree.findall(cite_placeholder)):
        data = citation(app.srcdir)
        if node["what"] == "book":
            words, text = "", book_entry(data, address.site(app))
        else:
            book, label = Book(app, docname), node["label"]
            if label not in book.places:
                raise ValueError(f"{docname}, line {node['line']}: no result has the label {label!r}")
            place = book.places[label]["docname"]
            text = entry_of_chapter(app, place)
            words = f"\\cite[{book.number(label).replace(' ', '~')}]{{{chapter_key(data, place)}}}\n"
        blocks = [nodes.literal_block(code, code, language=language)
                  for code, language in ((words, "latex"), (text, "bibtex")) if code]
        node.replace_self(blocks)


def fold(app, pagename, templatename, context, doctree):
    """End each chapter with its own entry, folded."""
    if doctree is None or pagename not in chapters(app):
        return
    code = app.builder.highlighter.highlight_block(entry_of_chapter(app, pagename), "bibtex")
    more = html.escape(context["pathto"]("book/back/cite"))
    context["body"] += (
        '<details class="kl-cite"><summary>Cite this chapter</summary>'
        f'<div class="highlight-bibtex notranslate">{code}</div>'
        f'<p><a href="{more}">How to cite the book or a single result</a></p></details>')


def setup(app):
    app.add_directive("cite-book", CiteBook)
    app.add_directive("cite-result", CiteResult)
    app.add_node(cite_placeholder)
    app.connect("doctree-resolved", fill)
    app.add_css_file("css/publish.css", priority=850)
    app.connect("html-page-context", fold, priority=850)
