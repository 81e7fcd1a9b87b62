"""Explorers on a page of their own: for a talk, for a course site, and for the browser tests."""

from __future__ import annotations

import shutil
from html import escape
from pathlib import Path

from klrlhf.explore.host import STATIC, Explorer
from klrlhf.explore.svg import _plain

PAGE = """<!doctype html>
<html lang="en" data-theme="{theme}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="explorer.css">
<style>
  html {{ --pst-color-background: #fff; color: #1b1b1b; }}
  html[data-theme="dark"] {{ --pst-color-background: #14181e; color: #ececec; }}
  body {{ font: 17px/1.6 Georgia, serif; max-width: 760px; margin: 1.5rem auto; padding: 0 1rem;
         background: var(--pst-color-background); }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
<script type="module" src="hydrate.js"></script>
</body>
</html>
"""


def write_page(folder, name: str, *explorers: Explorer, theme: str = "light") -> Path:
    """Write ``folder/name.html`` with the explorers, and the modules beside it.

    Browsers load modules only from a server: ``python -m http.server`` in the folder will do.

    Parameters
    ----------
    folder : path
        Made if it does not exist.
    name : str
        File name without ending.
    *explorers : Explorer
    theme : {"light", "dark"}

    Returns
    -------
    Path
        The page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in STATIC.iterdir():
        shutil.copy(path, folder)
    title = ", ".join(escape(_plain(e.design.label)) for e in explorers)
    page = folder / f"{name}.html"
    body = "\n".join(e.static_html() for e in explorers)
    page.write_text(PAGE.format(theme=theme, title=title, body=body), encoding="utf-8")
    return page
