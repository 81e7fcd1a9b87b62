"""Addresses that moved: a small page, or an anchor, that leads to the new place."""
import html
import os
from pathlib import Path

import yaml

from . import address

FILE = Path("book") / "redirects.yml"


def load(root):
    """``book/redirects.yml`` as a dictionary, old address to new."""
    moved = yaml.safe_load((Path(root) / FILE).read_text(encoding="utf-8")) or {}
    if not isinstance(moved, dict):
        raise ValueError(f"{FILE} must map old addresses to new ones, one per line")
    for old, new in moved.items():
        if not isinstance(old, str) or not isinstance(new, str) or not new:
            raise ValueError(f"{FILE}: {old!r} and {new!r} must both be addresses such as book/part1/page")
        if new in moved:
            raise ValueError(f"{FILE}: {old} leads to {new}, which moved itself: "
                             f"write {old}: {moved[new]}")
    return moved


def split(address):
    page, _, anchor = address.partition("#")
    return page, anchor


def check(moved, exists):
    """Refuse a redirect from a page that is still there, or to one that is not."""
    for old, new in moved.items():
        page, anchor = split(old)
        if not anchor and exists(page):
            raise ValueError(f"{FILE}: {page} is still a page of the book, so it cannot redirect")
        if not exists(split(new)[0]):
            raise ValueError(f"{FILE}: {old} leads to {new}, which is not a page of the book")


def href(start, target, app):
    """Relative link from one page to an address of another."""
    page, anchor = split(target)
    uri = os.path.relpath(app.builder.get_target_uri(page), os.path.dirname(start) or ".")
    return uri + (f"#{anchor}" if anchor else "")


def page_that_moved(app, old, new, anchors):
    """The page left behind; a script keeps the anchor of the link, a reader without one follows it."""
    here = f"{old}.html"
    static = os.path.relpath("_static/moved.js", os.path.dirname(here) or ".")
    link = html.escape(href(here, new, app))
    page, anchor = split(new)
    whole = html.escape(address.site(app) + app.builder.get_target_uri(page))
    title = html.escape(app.env.titles[page].astext())
    others = "".join(
        f'<li><a data-anchor="{html.escape(name)}" href="{html.escape(href(here, target, app))}">'
        f"{html.escape(name)}</a></li>" for name, target in anchors.items())
    others = f"<p>Parts that went elsewhere:</p><ul>{others}</ul>" if others else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />\n'
        f'<title>Moved: {title}</title>\n<link rel="canonical" href="{whole}" />\n'
        f'<script src="{static}" defer></script>\n'
        f'<noscript><meta http-equiv="refresh" content="0; url={link}" /></noscript>\n</head>\n'
        f'<body><p>This page moved to <a id="moved-to" href="{link}">{title}</a>.</p>{others}</body>\n</html>\n')


def anchors_of(moved, page):
    """Anchors of one page that moved, each with its new address."""
    return {split(old)[1]: new for old, new in moved.items() if split(old)[0] == page and split(old)[1]}


def write(app, exception):
    """Write a page for each page that moved."""
    if exception or app.builder.format != "html":
        return
    moved = load(app.srcdir)
    check(moved, app.env.all_docs.__contains__)
    for old, new in moved.items():
        page, anchor = split(old)
        if not anchor:
            target = Path(app.outdir) / f"{page}.html"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(page_that_moved(app, page, new, anchors_of(moved, page)), encoding="utf-8")


def leave_anchors(app, pagename, templatename, context, doctree):
    """On a page that is still there, keep the anchors that left it, each with a link."""
    if doctree is None:
        return
    items = []
    for anchor, new in anchors_of(load(app.srcdir), pagename).items():
        link = html.escape(context["pathto"](split(new)[0]) + (f"#{split(new)[1]}" if split(new)[1] else ""))
        items.append(f'<li id="{html.escape(anchor)}"><code>{html.escape(anchor)}</code> moved to '
                     f'<a href="{link}">{html.escape(app.env.titles[split(new)[0]].astext())}</a></li>')
    if items:
        context["body"] += f'<ul class="kl-moved">{"".join(items)}</ul>'


def settle(app, config):
    """Write the pages again when an anchor moves."""
    config.klbook_moved = repr(load(app.srcdir))


def setup(app):
    app.add_config_value("klbook_moved", "", "html")
    app.connect("config-inited", settle)
    app.connect("html-page-context", leave_anchors, priority=860)
    # Early: what reads every built page comes later.
    app.connect("build-finished", write, priority=300)
