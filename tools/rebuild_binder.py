#!/usr/bin/env python3
"""Rebuild Binder's environment from the repository's files, and run each chapter in it.

What repo2docker does with this repository, step by step, without a container: a clone of HEAD, a
Python of the version in ``binder/runtime.txt``, the packages of repo2docker's own base
(``--bare`` leaves them out), ``pip install -r binder/requirements.txt`` at the repository's root,
then ``binder/postBuild``, with a HOME of its own. Then a Jupyter server starts there as in Binder
(``jupyter notebook``), and Chromium opens each chapter at the path in its page's Binder link, as
built in ``_build/html``. Browser and server talk only to 127.0.0.1.

    python tools/rebuild_binder.py                      # all chapters
    python tools/rebuild_binder.py --chapters dpo hybrid
    python tools/rebuild_binder.py --keep /tmp/binder   # build once, use again
"""
import argparse
import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import lab
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What repo2docker 2026.4.0 installs before anything of ours, for Python 3.11 (its environment lock).
BASE = ["ipykernel==7.0.1", "ipywidgets==8.1.7", "jupyter-offlinenotebook==0.3.2",
        "jupyter-resource-usage==1.2.0", "jupyter-server==2.17.0", "jupyterhub==5.4.0",
        "jupyterlab==4.4.9", "notebook==7.4.7"]
COLUMNS = ("chapter", "opens as", "statements", "cells", "explorers", "seconds", "errors",
           "asked")


def python_of(runtime):
    """The interpreter that runtime.txt asks for, or this one with a word about it."""
    version = runtime.read_text(encoding="utf-8").strip().removeprefix("python-")
    found = shutil.which(f"python{version}")
    if found is None:
        print(f"python{version} of runtime.txt is not on this machine: using {sys.version.split()[0]}")
    return found or sys.executable


def say(*command, **options):
    print("$", " ".join(map(str, command)), flush=True)
    return subprocess.run([str(part) for part in command], check=True, **options)


def build(folder, bare):
    """Repository, environment and home in ``folder``, in the order of repo2docker's Dockerfile."""
    home, venv = folder / "home", folder / "venv"
    repository = home / "book"
    home.mkdir(parents=True)
    say("git", "clone", "--quiet", "--no-hardlinks", ROOT, repository)
    say(python_of(repository / "binder" / "runtime.txt"), "-m", "venv", venv)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    if not bare:
        say(*pip, *BASE)
    say(*pip, "-r", "binder/requirements.txt", cwd=repository)
    # postBuild runs with the environment first on PATH; pip keeps the settings of this machine.
    variables = lab.environment(home, [venv / "bin"])
    variables |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    config = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "pip" / "pip.conf"
    if config.is_file():
        variables["PIP_CONFIG_FILE"] = str(config)
    say("./binder/postBuild", cwd=repository, env=variables)
    lab.keep_cells_in_page(home / ".jupyter")


def targets(chosen):
    """``(chapter, path in JupyterLab)`` as the pages' Binder links say."""
    found = []
    for page in sorted(PAGES.glob("book/**/*.html")):
        link = re.search(r'href="(https://mybinder\.org/v2/gh/[^"]*)"', page.read_text(encoding="utf-8"))
        if link:
            path = parse_qs(urlparse(html.unescape(link[1])).query)["urlpath"][0]
            name = page.relative_to(PAGES).with_suffix("").as_posix()
            if not chosen or {name, page.stem} & set(chosen):
                found.append((name, path))
    if not found:
        raise SystemExit(f"no page in {PAGES} with a Binder link for {chosen or 'any chapter'}: make html")
    return found


def try_chapter(context, base, repository, name, urlpath):
    """Open, run and look at one chapter: a row of the table, and whether all is well."""
    source = (repository / f"{name}.md").read_text(encoding="utf-8")
    statements, explorers = lab.promised(source)
    cells = len(re.findall(r"^`{3,}\{code-cell\}", source, re.M))
    page = context.new_page()
    seconds, moved, trouble = 0.0, 0, []
    try:
        chapter = lab.Chapter(page, base, urlpath)
        chapter.wait()
        seconds = chapter.run(explorers)
        moved = chapter.explorer_answers()
    except (PlaywrightError, RuntimeError) as error:
        trouble.append(str(error).splitlines()[0])
    seen = chapter.seen()
    trouble += seen["errors"] + [f"request to {url}" for url in chapter.foreign]
    kind = "notebook" if seen["notebook"] and not seen["text"] else "text"
    fine = (kind == "notebook" and not trouble and seen["cells"] == cells
            and seen["proofs"] == statements and seen["live"] == moved == explorers)
    close(page, base)
    return fine, (name.removeprefix("book/"), kind, f"{seen['proofs']} of {statements}",
                  f"{seen['cells']} of {cells}", f"{seen['live']} of {explorers}", f"{seconds:.0f}",
                  "; ".join(trouble) or "none", "; ".join(chapter.dialogs) or "none")


def close(page, base):
    """End the chapter's kernel: on a small machine thirty would not fit."""
    for session in page.request.get(f"{base}/api/sessions").json():
        token = next((c["value"] for c in page.context.cookies() if c["name"] == "_xsrf"), "")
        page.request.delete(f"{base}/api/sessions/{session['id']}", headers={"X-XSRFToken": token})
    page.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chapters", nargs="+", metavar="NAME", help="only these, e.g. dpo hybrid")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="build there, or use what is there")
    parser.add_argument("--bare", action="store_true", help="without the packages of Binder's base")
    options = parser.parse_args()
    chosen = targets(options.chapters)
    browser_path = os.environ.get("KLRLHF_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        raise SystemExit("this script needs Chromium or Chrome")
    folder = (options.keep or Path(tempfile.mkdtemp(prefix="binder-"))).resolve()
    start = time.perf_counter()
    if not (folder / "home" / ".jupyter").is_dir():
        build(folder, options.bare)
        print(f"environment built in {time.perf_counter() - start:.0f} s", flush=True)
    programs = folder / "venv" / "bin"
    command = [programs / "jupyter", "lab" if options.bare else "notebook"]
    repository, good = folder / "home" / "book", 0
    with (lab.server(map(str, command), repository, lab.environment(folder / "home", [programs]),
                     folder / "server.log") as base, sync_playwright() as playwright):
        browser = playwright.chromium.launch(executable_path=browser_path, args=lab.BROWSER_ARGUMENTS)
        context = browser.new_context(viewport={"width": 1280, "height": 1400})
        print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
        for name, urlpath in chosen:
            fine, row = try_chapter(context, base, repository, name, urlpath)
            good += fine
            print("| " + " | ".join(row) + " |" + ("" if fine else "  <- wrong"), flush=True)
        browser.close()
    if options.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{good} of {len(chosen)} chapters open as notebooks and run.")
    return 0 if good == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
