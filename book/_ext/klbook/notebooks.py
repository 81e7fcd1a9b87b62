"""Each executable chapter as a clean ``.ipynb``, offered beside the source download.

A download runs wherever its library is. Its first cell does nothing there; on Colab it installs the
library, and elsewhere it stops and says what to install. What only the site's build needs is gone.
"""
from pathlib import Path

import jupytext
import nbformat

from . import address, unglue
from .self_check_source import as_markdown

FOLDER = "notebooks"
SETUP = """\
# The book's library: on Colab this cell installs it, elsewhere it says how to.
import importlib.util
import sys

library = "klrlhf[plot,widgets] @ git+{repository}@{branch}"
needed = ("klrlhf", "anywidget", "matplotlib")
if not all(map(importlib.util.find_spec, needed)):
    if "google.colab" in sys.modules:
        %pip install --quiet "{{library}}"
    else:
        raise ModuleNotFoundError(f'run  %pip install "{{library}}"  and then this cell again')"""


def is_notebook(path):
    """Whether a source is a text notebook: its front matter names a kernel."""
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8")
    return text.startswith("---") and "kernelspec" in text.split("---", 2)[1]


def setup_cell(app):
    """The first cell of a download; the tag lets other hosts put their own in its place."""
    source = SETUP.format(repository=address.repository(app), branch=address.branch(app))
    return nbformat.v4.new_code_cell(source, metadata={"tags": ["setup"]})


def convert(app, docname):
    """A chapter as a notebook without outputs, its glued numbers written out."""
    source = Path(app.env.doc2path(docname)).read_text(encoding="utf-8")
    notebook = jupytext.reads(source, fmt="md:myst")
    notebook.metadata.pop("jupytext", None)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, text in zip(code, unglue.without_glue([c.source for c in code]), strict=True):
        cell.source = text
    known = unglue.numbers(app, docname)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = unglue.prose(as_markdown(cell.source), known)
    cells = [cell for cell in notebook.cells if cell.source]
    first = next(at for at, cell in enumerate(cells) if cell.cell_type == "code")
    notebook.cells = [*cells[:first], setup_cell(app), *cells[first:]]
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"  # fixed, so that the same source gives the same file
    return notebook


def write(app, exception):
    """Convert every chapter with a kernel."""
    if exception or app.builder.format != "html":
        return
    for docname in app.env.all_docs:
        if is_notebook(Path(app.env.doc2path(docname))):
            target = Path(app.outdir) / FOLDER / f"{docname}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(convert(app, docname), target)


def button(app, pagename, templatename, context, doctree):
    """Add the notebook to the theme's download menu."""
    if not is_notebook(Path(app.srcdir) / f"{pagename}.md"):
        return
    entry = {
        "type": "link",
        "url": context["pathto"](f"{FOLDER}/{pagename}.ipynb", 1),
        "text": ".ipynb",
        "tooltip": "Download this chapter as a Jupyter notebook",
        "icon": "fas fa-file-code",
        "label": "download-notebook-button",
    }
    for group in context.get("header_buttons", []):
        if group.get("label") == "download-buttons":
            group["buttons"].insert(0, entry)
            return


def setup(app):
    app.connect("html-page-context", button, priority=901)
    app.connect("build-finished", write)
