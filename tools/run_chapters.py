"""Run chapters top to bottom as their readers do, and print what each took.

``--in lite`` runs them in the browser's own Python, from the built site (``make site PYODIDE=folder``):
presses the chapter's button, chooses Run All Cells, moves a slider of each explorer.
"""
import argparse
import shutil
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).resolve().parent / "site"))

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ROW = "{:<36} {:>8} {:>8} {:>8} {:>9} {:>6} {:>7} {:>9}  {}"


def chapters():
    """Document names of the chapters in the table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [c["file"] for part in toc["parts"] for c in part["chapters"] if "/part" in c["file"]]


def run_in_lite(browser, base, docname, patience):
    """One chapter in a fresh browser profile; a row of the table and whether it passed."""
    import in_lite

    chapter, answers, problem = in_lite.Chapter(browser, base, docname), [], ""
    state = {"cells": 0, "errors": [], "explorers": []}
    try:
        chapter.open(patience)
        state = chapter.run_all(patience)
        problem = " ".join(state["errors"])
        if not problem:
            state = chapter.settled()
            answers = [chapter.move(i)[2] for i in range(len(state["explorers"]))]
            if any(e["mode"] != "live" for e in state["explorers"]):
                problem = "an explorer is not live"
    except Exception as error:  # a table of all chapters is worth more than a stop at the first
        problem = f"{type(error).__name__}: {error}"
    problem = problem or "".join(f"asked {url} " for url in chapter.elsewhere)
    times = chapter.times
    slowest = sorted(getattr(chapter, "slow", {}).items(), key=lambda item: -item[1])[:2]
    chapter.close()
    remark = " ".join(problem.split())[:300] or "slowest cells: " + ", ".join(f"[{n}] {s} s" for n, s in slowest)
    row = ROW.format(docname.removeprefix("book/"), *(times.get(k, "-") for k in (
        "notebook", "first cell", "first plot", "chapter")), state["cells"], len(state["errors"]),
        max(answers, default="-"), remark)
    return row, not problem


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chapters", nargs="*", help="document names; all chapters if none is given")
    parser.add_argument("--in", dest="place", choices=["lite"], default="lite")
    parser.add_argument("--site", type=Path, default=ROOT / "_build" / "site")
    parser.add_argument("--browser", default=next(filter(None, map(shutil.which, BROWSERS)), None))
    parser.add_argument("--patience", type=int, default=900, help="seconds for one chapter")
    options = parser.parse_args()
    if not (options.site / "lite" / "pyodide" / "pyodide.js").is_file():
        parser.error("the site has no Python of its own: make site PYODIDE=folder")
    if options.browser is None:
        parser.error("no Chromium or Chrome found: --browser")
    import in_lite
    from playwright.sync_api import sync_playwright

    names = options.chapters or chapters()
    unknown = [name for name in names if not (options.site / f"{name}.html").is_file()]
    if unknown:
        parser.error(f"no such chapter in the site: {', '.join(unknown)}")
    print("seconds since the button was pressed; 'answer' is the slowest explorer's after a move")
    print(ROW.format("chapter", "notebook", "1st cell", "1st plot", "whole", "cells", "errors", "answer", ""))
    good = 0
    with in_lite.served(options.site.resolve()) as base, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.browser, args=in_lite.ARGUMENTS)
        for name in names:
            row, passed = run_in_lite(browser, base, name, options.patience)
            good += passed
            print(row, flush=True)
        browser.close()
    print(f"{good} of {len(names)} chapters ran without an error")
    return good != len(names)


if __name__ == "__main__":
    sys.exit(main())
