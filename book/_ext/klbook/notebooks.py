"""Each executable chapter as a clean ``.ipynb``, offered beside the source download."""
from pathlib import Path

import jupytext
import nbformat

from .self_check_source import as_markdown

FOLDER = "notebooks"


def is_notebook(path):
    text = path.read_text(encoding="utf-8")
    return text.startswith("---") and "kernelspec" in text.split("---", 2)[1]


def write(app, exception):
    """Convert every chapter with a kernel; a fixed cell id keeps the files reproducible."""
    if exception or app.builder.format != "html":
        return
    for docname in app.env.all_docs:
        source = Path(app.env.doc2path(docname))
        if source.suffix != ".md" or not is_notebook(source):
            continue
        notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="md:myst")
        notebook.metadata.pop("jupytext", None)
        for index, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{index}"
            if cell.cell_type == "markdown":
                cell.source = as_markdown(cell.source)
        target = Path(app.outdir) / FOLDER / f"{docname}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)


def button(app, pagename, templatename, context, doctree):
    """Add the notebook to the theme's download menu."""
    source = Path(app.srcdir) / f"{pagename}.md"
    if not source.exists() or not is_notebook(source):
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
