"""What a published site has beside its pages: sitemap, robots.txt, 404 page, a root that redirects."""
import html
import re
from pathlib import Path
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from . import address
from .index_page import parts, reading_order
from .release import git

NOT_FOUND = Path(__file__).with_name("404.html")


def listed(app):
    """The pages of the table of contents, in reading order."""
    return reading_order(app.env)


def changed(app):
    """Day of each source's last commit; nothing where history is missing or cut short."""
    root = app.srcdir
    if git(root, "rev-parse", "--is-shallow-repository") != "false":
        return {}
    days, day = {}, ""
    # One line "@day" per commit, then the files it touched, newest commit first.
    for line in git(root, "log", "--format=@%cs", "--name-only", "--", "book").splitlines():
        if line.startswith("@"):
            day = line[1:]
        elif line:
            days.setdefault(line, day)
    return days


def sitemap(app):
    """The listed pages as a sitemap."""
    days, entries = changed(app), []
    for docname in listed(app):
        source = Path(app.env.doc2path(docname)).relative_to(app.srcdir).as_posix()
        day = f"<lastmod>{days[source]}</lastmod>" if source in days else ""
        url = escape(address.site(app) + app.builder.get_target_uri(docname))
        entries.append(f"  <url><loc>{url}</loc>{day}</url>\n")
    return ('<?xml version="1.0" encoding="UTF-8"?>\n'
            '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
            + "".join(entries) + "</urlset>\n")


def robots(app):
    return f"User-agent: *\nAllow: /\n\nSitemap: {address.site(app)}sitemap.xml\n"


def contents(app, prefix):
    """The table of contents as nested lists of links that start with ``prefix``."""
    items = []
    for caption, names in parts(app.env):
        links = "".join(
            f'<li><a href="{prefix}{app.builder.get_target_uri(name)}">'
            f"{html.escape(numbered(app, name))}</a></li>" for name in names)
        items.append(f"<section><h2>{html.escape(caption)}</h2><ul>{links}</ul></section>")
    return "\n".join(items)


def numbered(app, docname):
    number = app.env.toc_secnumbers.get(docname, {}).get("", ())
    title = app.env.titles[docname].astext()
    return f"{'.'.join(map(str, number))}. {title}" if number else title


def not_found(app):
    """The 404 page.

    A host answers with it at any depth, so every address in it starts at the site's root,
    and its style is in it.
    """
    prefix = html.escape(urlsplit(address.site(app)).path or "/")
    text = NOT_FOUND.read_text(encoding="utf-8")
    return (text.replace("PREFIX", prefix)
            .replace("HOME", prefix + app.builder.get_target_uri(app.config.root_doc))
            .replace("TITLE", html.escape(app.config.html_title))
            .replace("CONTENTS", contents(app, prefix)))


def front(app):
    """The root of the site: leads to the landing page, and carries its card for shared links."""
    landing = app.builder.get_target_uri(app.config.root_doc)
    page = (Path(app.outdir) / landing).read_text(encoding="utf-8")
    wanted = ('property="og:', 'name="twitter:', 'name="description"', 'rel="canonical"')
    lines = [line.strip() for line in page.splitlines() if any(word in line for word in wanted)]
    title = html.escape(app.config.html_title)
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n<title>{title}</title>\n'
            f'<meta http-equiv="refresh" content="0; url={landing}" />\n' + "\n".join(lines)
            + f'\n</head>\n<body><p><a href="{landing}">{title}</a></p></body>\n</html>\n')


def write(app, exception):
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    files = {"sitemap.xml": sitemap, "robots.txt": robots, "404.html": not_found, "index.html": front}
    for name, make in files.items():
        (out / name).write_text(make(app), encoding="utf-8")
    # GitHub Pages would otherwise drop every folder whose name starts with an underscore.
    (out / ".nojekyll").write_text("")


def spare_own_links(app, config):
    """``make linkcheck`` asks other sites only: this one may not be published yet."""
    own = (address.site(app), address.repository(app))
    config.linkcheck_ignore = [*config.linkcheck_ignore, *(re.escape(place) + ".*" for place in own)]


def setup(app):
    app.connect("config-inited", spare_own_links, priority=60)
    # Early: what reads every built page comes later.
    app.connect("build-finished", write, priority=300)
