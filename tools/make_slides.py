"""Write the slide decks into a built site: ``python tools/make_slides.py [_build/html]``.

The book's build does the same at its end; this is for trying a plan without building the book.
"""
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from klbook.decks import build_decks  # noqa: E402


def main():
    html = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_build" / "html"
    start = time.perf_counter()
    records = build_decks(ROOT, html)
    for name, record in records.items():
        print(f"{record['slides']:4d} slides  {html / 'slides' / name}.html")
    total = sum(record["slides"] for record in records.values())
    print(f"{total} slides in {len(records)} decks, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
