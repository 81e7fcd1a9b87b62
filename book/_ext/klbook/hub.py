"""``{hub-link}``: a form where a teacher types a hub's address and gets a link for students.

The form is filled in here and works in the page alone (``book/_assets/hub.js``): nothing is sent.
"""
import html
import json
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

from . import address
from .launch import NOTEBOOK_BRANCH, notebook_path
from .notebooks import is_notebook

FORM = """
<form class="kl-hub" data-hub="{settings}">
  <label for="kl-hub-address">Address of your hub</label>
  <input id="kl-hub-address" type="url" placeholder="https://hub.example.edu" autocomplete="off" spellcheck="false">
  <label for="kl-hub-chapter">Chapter</label>
  <select id="kl-hub-chapter">{options}</select>
  <label for="kl-hub-link">Link for your students</label>
  <output id="kl-hub-link" for="kl-hub-address kl-hub-chapter">Type your hub's address.</output>
  <button type="button" class="btn btn-sm btn-outline-secondary" hidden>Copy the link</button>
  <noscript>This form needs JavaScript; the text below says how to write the link by hand.</noscript>
</form>
"""


class hub_placeholder(nodes.General, nodes.Element):
    """Filled in when the titles of all chapters are known."""


class HubLink(SphinxDirective):
    """The form."""

    def run(self):
        return [hub_placeholder()]


def chapters(app):
    """Executable pages in the order of the table of contents, with their titles."""
    env, order = app.env, []
    for tree in env.get_doctree(app.config.root_doc).findall(addnodes.toctree):
        order += tree["includefiles"]
    return [(name, env.titles[name].astext()) for name in order
            if is_notebook(Path(env.doc2path(name)))]


def form(app):
    settings = {"repository": address.repository(app), "branch": NOTEBOOK_BRANCH,
                "folder": address.repository_name(app).split("/")[1]}
    options = "".join(f'<option value="{html.escape(notebook_path(name))}">{html.escape(title)}</option>'
                      for name, title in chapters(app))
    return FORM.format(settings=html.escape(json.dumps(settings)), options=options)


def fill(app, doctree, docname):
    for node in list(doctree.findall(hub_placeholder)):
        node.replace_self(nodes.raw("", form(app), format="html"))


def script(app, pagename, templatename, context, doctree):
    if "kl-hub" in (context.get("body") or ""):
        app.add_js_file("hub.js", loading_method="defer")
        app.add_css_file("css/hub.css")


def setup(app):
    app.add_node(hub_placeholder)
    app.add_directive("hub-link", HubLink)
    app.connect("doctree-resolved", fill)
    app.connect("html-page-context", script, priority=903)
