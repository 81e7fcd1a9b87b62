"""The addresses a reader may have linked to: pages, and numbered statements on them.

``book/published-pages.txt`` remembers every address that a release published. It only grows:
an address that goes away needs a line in ``book/redirects.yml``, and a test watches over that.

Run after a build, on a release: ``make published``.
"""
import argparse
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "book" / "published-pages.txt"
REDIRECTS = ROOT / "book" / "redirects.yml"
HEAD = """\
# Every page and every labelled statement that a release has published, one address per line.
# Written by `make published`; never remove a line. When an address goes away, say in
# book/redirects.yml where it went.
"""
# A label of its author's, not a number that Sphinx made up.
STATEMENT = re.compile(r'<div class="(?:proof|exercise) [^"]*" id="([a-z][a-z0-9-]*[a-z][a-z0-9-]*)"')


def toc_pages(root=ROOT):
    """Pages of the table of contents, in order."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def current(html):
    """Addresses in the built site."""
    found = []
    for page in toc_pages():
        found.append(page)
        text = (html / f"{page}.html").read_text(encoding="utf-8")
        found += [f"{page}#{label}" for label in STATEMENT.findall(text)]
    return found


def remembered(path=LIST):
    """Addresses of earlier releases."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def leads_somewhere(html, address):
    """Whether the built site has this page, and on it this anchor."""
    page, _, anchor = address.partition("#")
    path = html / f"{page}.html"
    if not path.exists():
        return False
    return not anchor or re.search(rf'\bid=["\']{re.escape(anchor)}["\']', path.read_text(encoding="utf-8"))


def lost(old, html, moved):
    """Addresses that were published and lead nowhere in the built site, redirects included.

    An anchor of a page that moved is looked for on the new page, unless it has a line of its own.
    """
    missing = []
    for address in old:
        page, _, anchor = address.partition("#")
        goes = moved.get(address)
        if goes is None and anchor and page in moved:
            goes = f"{moved[page].partition('#')[0]}#{anchor}"
        if not leads_somewhere(html, goes or address):
            missing.append(address)
    return missing


def advice(missing):
    """What an author reads when addresses were lost."""
    lines = "\n".join(f"  {address}: <its new address, or that of the page that replaces it>"
                      for address in missing)
    return ("These addresses were published and no longer lead anywhere. "
            f"Add to book/redirects.yml:\n{lines}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html")
    arguments = parser.parse_args()
    if not (arguments.html / "index.html").exists():
        sys.exit(f"no site in {arguments.html}: run make html first")
    old, now = remembered(), current(arguments.html)
    moved = yaml.safe_load(REDIRECTS.read_text(encoding="utf-8")) or {}
    missing = lost(old, arguments.html, moved)
    if missing:
        sys.exit(advice(missing))
    addresses = list(dict.fromkeys([*now, *old]))
    LIST.write_text(HEAD + "".join(f"{address}\n" for address in addresses), encoding="utf-8")
    print(f"{len(addresses)} addresses, {len(set(now) - set(old))} of them new")


if __name__ == "__main__":
    main()
