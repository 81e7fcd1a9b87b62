"""A book of four pages, built with the extension's publishing parts in a second."""
import importlib.util
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTENSION = ROOT / "book" / "_ext"
PARTS = ("address", "release", "cite", "metadata", "cards", "sitefiles", "redirects", "errata")
CONF = """
import sys
sys.path[:0] = [{extension!r}, {lib!r}]
html_title = "A small book"
extensions = ["myst_parser", {parts}]
myst_enable_extensions = ["dollarmath"]
root_doc = "book/index"
html_theme = "basic"
html_theme_options = {{}}
html_copy_source = False
html_baseurl = {address!r}
exclude_patterns = ["_build"]
html_static_path = ["book/_assets"]


def setup(app):
    app.config.html_theme_options["repository_url"] = "https://example.org/a/b"
    app.klbook_records = {{}}
"""
PAGES = {
    "book/index": "# A small book\n\nIt has two chapters.\n\n"
                  "```{toctree}\n:caption: First\n:numbered:\n\nfirst/one\nfirst/two\n```\n\n"
                  "```{toctree}\n:caption: Back\n\nback/cite\nback/changelog\n```\n",
    "book/first/one": "# One & \"only\"\n\nThe price $\\beta$ is `1 < 2`. "
                      "The sum $\\sum_{i=1}^n x_i$ is left out. It ends here.\n\n(kept)=\n## Kept\n\nText.\n",
    "book/first/two": "# Two\n\nThe second page.\n\n(new-label)=\n## New\n\nText.\n",
    "book/back/cite": "# Cite\n\n```{cite-book}\n```\n",
    "book/back/changelog": "# Versions\n\n```{errata}\n```\n",
}


def load_tool(name):
    """A script of ``tools/`` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def extension(name):
    """A module of the book's extension."""
    if str(EXTENSION) not in sys.path:
        sys.path.insert(0, str(EXTENSION))
    return importlib.import_module(f"klbook.{name}")


def make(folder, address="https://example.org/", redirects="{}", errata="[]"):
    """Write and build the small book; return the folder of its site."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    folder = Path(folder)
    for name, text in PAGES.items():
        path = folder / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assets = folder / "book" / "_assets"
    shutil.copytree(ROOT / "book" / "_assets", assets, dirs_exist_ok=True)
    for name in ("CITATION.cff", "pyproject.toml"):
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "book" / "redirects.yml").write_text(redirects)
    (folder / "book" / "back" / "errata.yml").write_text(errata)
    parts = ", ".join(f'"klbook.{part}"' for part in PARTS)
    (folder / "conf.py").write_text(CONF.format(
        extension=str(EXTENSION), lib=str(ROOT / "lib"), parts=parts, address=address))
    out = folder / "_build" / "html"
    before = list(sys.path)
    try:
        with docutils_namespace():
            app = Sphinx(folder, folder, out, folder / "_build" / ".doctrees", "html",
                         status=None, warning=sys.stderr, warningiserror=False)
            app.build()
    finally:
        sys.path[:] = before
    return out
