"""The book's own Sphinx extension, one concern per file.

assets      self-hosted MathJax, fonts and explorers; nothing is fetched from another host
palette     the library's palette as CSS variables; figures inlined so that they use it
address     where the repository and the site are, with a fork's overrides
proofs      ``{prf:proof}`` as a native disclosure that folds
ahead       the explorers' grids, computed beside the pages
records     the checks' records: the last full verification, or a fast run
guide       the instructor's guide, from one file per chapter
badges      the line under each result, and the strictness between book and registry
graph       layout and SVG of the dependency graph
index_page  the theorem index and the map of results
api         reference pages from the library's docstrings
self_check  ``{self-check}`` questions at the end of a section (their source: self_check_source)
lite_button the button that runs a chapter in the browser (published site only)
notebooks   each chapter as a clean ``.ipynb`` to download
plain_markdown  each chapter as a notebook that any Jupyter shows well
unglue      takes what only the site's build needs out of a chapter's cells
pdf_link    links to the whole book as one PDF, opened where there is one
release     version, date and authors, in the footer and for those below
cite        BibTeX of the book, a chapter, a result
metadata    description, social card, scholar tags and JSON-LD in each page's head
cards       the picture that a shared link shows
sitefiles   sitemap, robots.txt, 404 page, the root's redirect
redirects   addresses that moved
errata      the table of known errors
assignments student versions of the assignments, and the table that lists them
launch      Binder, Colab, and the links to edit a page and to report a problem
hub         a form that makes a link for a JupyterHub
decks       slides: one deck per chapter, made of the built pages
"""
from . import (
    address,
    ahead,
    api,
    assets,
    assignments,
    badges,
    cards,
    cite,
    decks,
    errata,
    guide,
    hub,
    index_page,
    launch,
    lite_button,
    metadata,
    notebooks,
    palette,
    pdf_link,
    plain_markdown,
    proofs,
    records,
    redirects,
    release,
    self_check,
    sitefiles,
)

MODULES = (
    address,
    ahead,
    assets,
    palette,
    records,
    proofs,
    badges,
    index_page,
    api,
    guide,
    self_check,
    notebooks,
    assignments,
    plain_markdown,
    lite_button,
    pdf_link,
    release,
    cite,
    metadata,
    cards,
    sitefiles,
    redirects,
    errata,
    launch,
    hub,
    decks,
)


def setup(app):
    for module in MODULES:
        module.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
