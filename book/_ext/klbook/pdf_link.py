"""Links to the book as one PDF: on the landing page and in every page's download menu.

The PDF is made from the finished site (``make pdf``), so only the published site has it.
Here the links are written inert, in a ``<template>`` that ``make site`` opens or removes.
"""
import re
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

FILE = "book.pdf"
LABEL = "download-book-pdf-button"
OPEN = '<template class="kl-site" data-needs="pdf">'
CLOSE = "</template>"


def address(docname):
    """The PDF's address as a page sees it."""
    return "../" * docname.count("/") + FILE


class PdfLink(SphinxDirective):
    """``{pdf-link}``: a line that offers the PDF; its content is the text before the link."""

    has_content = True

    def run(self):
        text = " ".join(self.content) or "Or take"
        return [nodes.raw("", f'{OPEN}<p class="kl-pdf-link">{text} <a class="reference external" href="{address(self.env.docname)}">'
                              f"the whole book as a PDF</a>.</p>{CLOSE}", format="html")]


def menu(app, pagename, templatename, context, doctree):
    """Offer the book in the download menu, and call the theme's printing button what it does."""
    for group in context.get("header_buttons", []):
        if group.get("label") != "download-buttons":
            continue
        for button in group["buttons"]:
            if button.get("label") == "download-pdf-button":
                button.update(text="Print this page", tooltip="Print this page, or save it as a PDF",
                              icon="fas fa-print")
        group["buttons"].append({
            "type": "link",
            "url": address(pagename),
            "text": "Whole book (.pdf)",
            "tooltip": "Download the whole book as one PDF",
            "icon": "fas fa-file-pdf",
            "label": LABEL,
        })


def wrap(app, exception):
    """Make the menu's entry inert until there is a PDF."""
    if exception or app.builder.format != "html":
        return
    # A page that was not written again keeps its wrapped entry: hence the look behind.
    entry = re.compile(rf'(?<!data-needs="pdf">)<li>\s*<a [^>]*{LABEL}.*?</li>', re.DOTALL)
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        clean = entry.sub(lambda match: OPEN + match.group() + CLOSE, text)
        if clean != text:
            path.write_text(clean, encoding="utf-8")


def setup(app):
    app.add_directive("pdf-link", PdfLink)
    app.connect("html-page-context", menu, priority=902)
    app.connect("build-finished", wrap, priority=600)
