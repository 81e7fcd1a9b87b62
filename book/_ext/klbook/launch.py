"""Ways out of a page: run it elsewhere, edit it, report a problem with it.

Binder opens the chapter's source, which ``binder/postBuild`` makes open as a notebook.
Colab cannot read that source: it opens the built notebook, from the branch that the publishing
workflow fills with ``_build/html/notebooks``.
"""
import html
import re
from pathlib import Path
from urllib.parse import quote, urlencode

from . import address
from .notebooks import is_notebook

NOTEBOOK_BRANCH = "notebooks"   # the branch that holds the built notebooks,
NOTEBOOK_FOLDER = "notebooks"   # and the folder in it
HOW_TO_RUN = "book/how-to-run"
OUTWARD = re.compile(r'<a href="(https?://[^"]*)" target="_blank"(?! rel)')


def binder(app, docname):
    """Binder: the book's environment, with the chapter open as a notebook in JupyterLab."""
    place = f"{address.repository_name(app)}/{quote(address.branch(app), safe='')}"
    return f"https://mybinder.org/v2/gh/{place}?urlpath={quote(f'lab/tree/{docname}.md')}"


def notebook_path(docname):
    """Path of a built notebook in its branch."""
    return f"{NOTEBOOK_FOLDER}/{docname}.ipynb"


def colab(app, docname):
    """Colab: the built notebook, whose first cell installs the library."""
    place = f"{address.repository_name(app)}/blob/{NOTEBOOK_BRANCH}/{notebook_path(docname)}"
    return f"https://colab.research.google.com/github/{quote(place)}"


def edit(app, docname):
    """The page's source in the editor of its repository."""
    return f"{address.repository(app)}/edit/{quote(f'{address.branch(app)}/{docname}.md')}"


def report(app, pagename, title):
    """The form of ``.github/ISSUE_TEMPLATE/problem.yml``, filled in with the page."""
    query = {"template": "problem.yml", "title": f"{title}: ",
             "page": f"{address.site(app)}{pagename}.html"}
    return f"{address.repository(app)}/issues/new?{urlencode(query, quote_via=quote)}"


def plain(title):
    """A page's title without its markup and formulas' delimiters."""
    text = html.unescape(re.sub(r"<[^>]+>", "", title or ""))
    return re.sub(r"\\[()]", "", text).strip()


def link(text, url, icon, tooltip, label):
    return {"type": "link", "text": text, "url": html.escape(url), "icon": icon,
            "tooltip": tooltip, "label": label}


def launch_menu(app, context, docname):
    return {"type": "group", "icon": "fas fa-rocket", "tooltip": "Run this chapter",
            "label": "launch-buttons", "buttons": [
                link("Binder", binder(app, docname), "fas fa-cloud",
                     "Run this chapter on mybinder.org", "launch-binder"),
                link("Colab", colab(app, docname), "fas fa-infinity",
                     "Run this chapter on Google Colab", "launch-colab"),
                link("Other ways", context["pathto"](HOW_TO_RUN), "fas fa-circle-question",
                     "Your own Jupyter, or your university's JupyterHub", "launch-other"),
            ]}


def page_menu(app, context, pagename, is_source):
    title = plain(context.get("title")) or pagename
    buttons = [link("Report a problem", report(app, pagename, title), "fas fa-flag",
                    "Say what is wrong with this page", "page-report")]
    if is_source:
        buttons.insert(0, link("Edit this page", edit(app, pagename), "fas fa-pencil",
                               "Change this page's source", "page-edit"))
    return {"type": "group", "icon": "fas fa-pencil", "tooltip": "Edit or report",
            "label": "page-buttons", "buttons": buttons}


def buttons(app, pagename, templatename, context, doctree):
    """Add both menus to the theme's buttons."""
    groups = context.get("header_buttons")
    if groups is None:
        return
    source = Path(app.srcdir) / f"{pagename}.md"
    groups.append(page_menu(app, context, pagename, source.is_file()))
    if is_notebook(source):
        groups.insert(0, launch_menu(app, context, pagename))


def finish(app, exception):
    """The theme's menus open other sites in a new tab: those get no handle on this one."""
    if exception or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        safe = OUTWARD.sub(r'<a href="\1" target="_blank" rel="noopener"', text)
        if safe != text:
            path.write_text(safe, encoding="utf-8")


def setup(app):
    app.connect("html-page-context", buttons, priority=902)
    app.connect("build-finished", finish)
