"""Print the built site as one PDF: ``make pdf``.

Chromium prints the whole book twice: once to learn on which page each heading falls,
and once more with these numbers in the table of contents.
"""
import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from pdf import browser, contents, document, finish

ROOT = Path(__file__).resolve().parent.parent


def tell(text):
    print(text, flush=True)


def make(html, target, paper="a4", only=(), say=tell):
    """Write the PDF of the site in ``html`` to ``target``; returns (pages, what does not fit).

    Parameters
    ----------
    html : path
        The built site.
    target : path
        The PDF to write.
    paper : {"a4", "letter"}
        Size of the paper.
    only : sequence of str
        Print only the pages whose path contains one of these words; all by default.
    say : callable
        Told what happens.
    """
    start = time.monotonic()

    def note(text):
        say(f"{time.monotonic() - start:6.0f} s  {text}")

    parts = contents.parts(html)
    if only:
        parts = contents.select(parts, only)
    pages = [page for part in parts for page in part.pages]
    imprint = contents.imprint(ROOT, html)
    sheets, math = contents.styles_and_math(html, pages)
    text = document.build(parts, imprint, sheets, math, paper)
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "first.pdf"), Path(folder, "second.pdf")
        with browser.opened(html, text, paper) as page:
            headings = browser.assemble(page, pages, imprint.site)
            note(f"{len(pages)} pages of the site in one document")
            report = browser.typeset(page, pages, imprint.site)
            note("formulas set")
            for line in report:
                say(f"          {line}")
            browser.print_to(page, first, tagged=False)
            places = finish.places_in(first)
            note("printed once, to number the contents")
            page.evaluate("numbers => fillContents(numbers)", {name: at + 1 for name, (at, _) in places.items()})
            browser.print_to(page, second)
            note("printed")
        again = finish.places_in(second)
        moved = [name for name in places if again[name][0] != places[name][0]]
        if moved:
            raise RuntimeError(f"numbering the contents moved {len(moved)} headings, {moved[0]} first")
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        count = finish.finish(second, target, parts, headings, imprint)
    note(f"{target}: {count} pages, {Path(target).stat().st_size / 1e6:.1f} MB")
    return count, report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html", help="the built site")
    parser.add_argument("--output", type=Path, default=ROOT / "_build" / "book.pdf")
    parser.add_argument("--paper", choices=sorted(document.SIZES), default="a4")
    parser.add_argument("--only", nargs="*", default=(), help="print only pages whose path contains one of these")
    options = parser.parse_args()
    make(options.html, options.output, options.paper, options.only)


if __name__ == "__main__":
    main()
