"""The button that opens a chapter as a notebook in the reader's browser, and what it will download.

It makes sense only in the published site: ``tools/build_site.py`` unwraps the template where the
notebooks were built, with the line that says where Python comes from, and removes it elsewhere.
"""
from pathlib import Path

from .notebooks import is_notebook
from .plain_markdown import is_chapter

HOST = "cdn.jsdelivr.net"
ICON = ('<svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true" focusable="false">'
        '<path d="M4 2.5v11l9-5.5z" fill="currentColor"/></svg>')


def markup(address):
    """The button with its two possible notices; ``tools/build_site.py`` keeps the one that is true."""
    online = (f"The button downloads Python (about 50 MB, once) from a public host, {HOST}; "
              "this page asks that host for nothing before you press it.")
    offline = "The button loads Python (about 50 MB, once) from this site; no other host is asked."
    notices = "".join(f'<small data-python="{where}">{words} It takes about a minute to start.</small>'
                      for where, words in (("public", online), ("site", offline)))
    return ('<template class="kl-site" data-needs="lite"><p class="kl-lite">'
            f'<a class="kl-run-in-browser" href="{address}" target="_blank" rel="noopener">'
            f'{ICON}Run this chapter in the browser</a>{notices}</p></template>')


def button(app, pagename, templatename, context, doctree):
    """Put the button under the title of every chapter with a kernel."""
    source = Path(app.srcdir) / f"{pagename}.md"
    body = context.get("body") or ""
    if app.builder.format != "html" or not is_chapter(pagename) or not is_notebook(source) or "</h1>" not in body:
        return
    address = context["pathto"]("lite/notebooks/index.html", 1) + f"?path={pagename}.ipynb"
    context["body"] = body.replace("</h1>", "</h1>\n" + markup(address), 1)


def setup(app):
    app.connect("html-page-context", button, priority=902)
