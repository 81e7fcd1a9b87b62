"""What a page loads: everything from this site, and only what the page needs."""
import hashlib
import importlib
import os
import re
import shutil
from pathlib import Path

# Parts of MathJax that this site never asks for (its SVG output, Node entry point, other inputs).
MATHJAX_UNUSED = re.compile(
    r"(^|/)(mml-|mml3|node-main|.*svg|tex-full|sre/mathmaps/(?!base|en)|asciimath|all-packages|liteDOM)"
)
# Scripts the theme or Jupyter Book adds for features this book does not use.
UNUSED_SCRIPTS = ("thebe", "fontawesome", "require.js", "require.min.js", "html-manager")


def lib_folder(app):
    """Where the companion library's sources live."""
    return Path(app.srcdir) / "lib" / "klrlhf"


def lib_digest(folder):
    """Hash of every library source a notebook may import."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".py", ".js", ".css", ".json", ".csv"}:
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def prepare(app, config):
    """Point MathJax at this site, and tie cached outputs to the library's sources."""
    config.mathjax_path = "mathjax/tex-chtml.js"
    config.nb_ipywidgets_js = {}
    config.klbook_lib = lib_digest(lib_folder(app))
    # jupyter-cache keys on a notebook's cells; the library behind them may have changed too.
    caches = Path(app.outdir).parent / ".jupyter_cache"
    config.nb_execution_cache_path = str(caches / config.klbook_lib)
    if caches.is_dir():
        for old in caches.iterdir():
            if old.name != config.klbook_lib:
                shutil.rmtree(old, ignore_errors=True)
    # Explorers skip their static form under a Jupyter server; a build started from one is no such.
    os.environ.pop("JPY_SESSION_NAME", None)
    # A first import of matplotlib logs to stderr while it lists fonts, which would fail a cell.
    try:
        import matplotlib.font_manager  # noqa: F401
    except ImportError:
        pass


def copy_explorers(app):
    """Serve the explorers' modules from the library, where JupyterLab finds them too."""
    static = lib_folder(app) / "explore" / "static"
    if static.is_dir():
        target = Path(app.outdir) / "_static" / "explore"
        target.mkdir(parents=True, exist_ok=True)
        for path in static.iterdir():
            if path.suffix in {".js", ".css", ".map"}:
                shutil.copyfile(path, target / path.name)


def wanted(script, body):
    name = str(getattr(script, "filename", None) or script or "")
    attributes = getattr(script, "attributes", {}) or {}
    if any(word in name for word in UNUSED_SCRIPTS):
        return False
    if "THEBE_JS_URL" in (attributes.get("body") or ""):
        return False
    # A notebook that made a widget stores its state; without a live view it is dead weight.
    return "widget-state" not in (attributes.get("type") or "")


def page(app, pagename, templatename, context, doctree):
    """Filter the page's scripts; add the explorers' only where there is one."""
    # docutils calls the bibliography a list, but its entries have a role no list may hold.
    body = (context.get("body") or "").replace('<div role="list" class="citation-list">',
                                               '<div class="citation-list">')
    context["body"] = body
    context["script_files"][:] = [s for s in context["script_files"] if wanted(s, body)]
    context["css_files"][:] = [
        s for s in context["css_files"]
        if not any(word in str(getattr(s, "filename", s)) for word in ("thebe", "fonts.googleapis"))
    ]
    app.add_js_file("print.js", loading_method="defer")
    if "kl-explorer" in body:
        for path in sorted((lib_folder(app) / "explore" / "static").glob("*.css")):
            app.add_css_file(f"explore/{path.name}")
        app.add_js_file("explore/hydrate.js", type="module")
    if "math notranslate" in body or "kl-figure" in body:
        app.add_js_file("fit.js", loading_method="defer")


def copy_mathjax(app):
    package = importlib.import_module("sphinx-mathjax-offline")
    source = Path(package.__file__).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    for path in source.rglob("*"):
        name = path.relative_to(source)
        if path.is_file() and not MATHJAX_UNUSED.search(name.as_posix()):
            if not (target / name).exists():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / name)


def finish(app, exception):
    """Copy MathJax; drop the theme's icon script (the icons it draws are in its font)."""
    if exception or app.builder.format != "html":
        return
    copy_mathjax(app)
    script = re.compile(r'<script[^>]*src="[^"]*fontawesome\.js[^>]*></script>\s*')
    preload = re.compile(r'<link[^>]*rel="preload"[^>]*fontawesome\.js[^>]*>\s*')
    for path in Path(app.outdir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        clean = preload.sub("", script.sub("", text))
        if clean != text:
            path.write_text(clean, encoding="utf-8")


def setup(app):
    app.add_config_value("klbook_lib", "", "env")
    app.connect("config-inited", prepare, priority=100)
    app.connect("builder-inited", copy_explorers)
    app.connect("html-page-context", page, priority=900)
    app.connect("build-finished", finish)
