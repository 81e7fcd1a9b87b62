"""Make the published site: the built book, with Python in the browser and what else is published.

``_build/site`` is a copy of ``_build/html`` and of the parts that were built. Pages hold, inside
``<template class="kl-site" data-needs="PART">``, what makes sense only where a part is there: it is
unwrapped if the part was built and removed if not. The site works from any sub-path of any host.
"""
import argparse
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).resolve().parent / "site"))

import lite
import pyodide

PART = re.compile(r'<template class="kl-site" data-needs="([\w-]+)">(.*?)</template>', re.DOTALL)
NOTICE = re.compile(r'<small data-python="(\w+)">.*?</small>', re.DOTALL)


def settle(site, parts, python_from="public"):
    """Unwrap what needs a part that was built, with the notice that is true; remove the rest."""
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        if "kl-site" in text:
            text = PART.sub(lambda m: m[2] if m[1] in parts else "", text)
            text = NOTICE.sub(lambda m: m[0] if m[1] == python_from else "", text)
            path.write_text(text, encoding="utf-8")


def add_pdf(site):
    """Copy the book as one PDF, if it was made."""
    made = ROOT / "_build" / "book.pdf"
    if not made.is_file():
        return False
    shutil.copy(made, site / "book.pdf")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html", help="the built book")
    parser.add_argument("--site", type=Path, default=ROOT / "_build" / "site", help="where to write")
    parser.add_argument("--lite-python", help="interpreter with requirements-lite.txt; without it, no notebooks")
    parser.add_argument("--pyodide", type=Path, help="a Pyodide folder to copy into the site (offline form)")
    options = parser.parse_args()
    options.html, options.site = options.html.resolve(), options.site.resolve()
    if not (options.html / "index.html").is_file():
        parser.error(f"{options.html} holds no built book: make html")
    shutil.rmtree(options.site, ignore_errors=True)
    shutil.copytree(options.html, options.site)
    parts = {"pdf"} if add_pdf(options.site) else set()
    if options.lite_python:
        # Not resolve(): the interpreter of a virtual environment is a link, and must stay one.
        python = str(Path(options.lite_python).absolute())
        lite.build(ROOT, options.html.parent / "plain", options.site, python,
                   options.pyodide and options.pyodide.resolve())
        parts.add("lite")
    settle(options.site, parts, "site" if options.pyodide else "public")
    shown = f"Python from {'the site itself' if options.pyodide else pyodide.HOST}" if "lite" in parts else "none"
    print(f"The site is in {options.site} (notebooks in the browser: {shown})")


if __name__ == "__main__":
    main()
