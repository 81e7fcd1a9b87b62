"""The library's palette as CSS variables, and figures that use them."""
import html
import re
import sys
from pathlib import Path

# Surfaces belong to the site (css/tokens.css); every role comes from the library's palette.
SURFACES = {"ink", "muted", "grid", "paper"}
TOKEN = {"grid": "rule"}


def palettes(app):
    """The library's light and dark palettes (the library need not be installed)."""
    lib = str(Path(app.srcdir) / "lib")
    if lib not in sys.path:
        sys.path.insert(0, lib)
    from klrlhf.plotting import DARK_PALETTE, PALETTE

    return PALETTE, DARK_PALETTE


def variables(palette):
    return "".join(f"  --kl-{role}: {colour};\n" for role, colour in palette.items() if role not in SURFACES)


def stylesheet(app):
    light, dark = palettes(app)
    return (
        "/* Written from klrlhf.plotting at build. */\n"
        f'html,\nhtml[data-theme="light"] {{\n{variables(light)}}}\n'
        f'html[data-theme="dark"] {{\n{variables(dark)}}}\n'
    )


def write_stylesheet(app):
    if app.builder.format != "html":
        return
    target = Path(app.outdir) / "_static" / "css" / "palette.css"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(stylesheet(app), encoding="utf-8")


def recolour(svg, palette):
    """Put the page's colour variables where the palette's colours stand."""
    for role, colour in palette.items():
        svg = re.sub(rf"{colour}(?![0-9a-f])", f"var(--kl-{TOKEN.get(role, role)})", svg, flags=re.I)
    return re.sub(r"(fill|stroke): *(?:#000000|black)\b", r"\1: var(--kl-ink)", svg)


def inline_svg(svg, name, alt, palette):
    """A matplotlib figure as part of the page: its colours follow the theme."""
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.S)
    # Two figures on a page must not share ids (clip paths, glyphs).
    prefix = f"f{name[:8]}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}", svg)
    # matplotlib colours a shape without a fill black through the SVG default.
    svg = recolour(svg, palette)
    label = html.escape(html.unescape(alt), quote=True)
    svg = svg.replace("<svg", f'<svg class="kl-figure" role="img" aria-label="{label}"', 1)
    return f'<span class="kl-figure-box">{svg}</span>'


def inline_figures(app, pagename, templatename, context, doctree):
    """Replace ``<img src="...svg">`` of executed cells by the figure itself."""
    body = context.get("body")
    if not body or ".svg" not in body:
        return
    files = {name: path for path, name in app.builder.images.items() if name.endswith(".svg")}
    palette, _ = palettes(app)

    def replace(match):
        tag = match.group(0)
        source = re.search(r'src="[^"]*?([^"/]+\.svg)"', tag)
        path = files.get(source.group(1)) if source else None
        if path is None or "jupyter_execute" not in path:
            return tag
        alt = re.search(r'alt="([^"]*)"', tag)
        words = alt.group(1) if alt else ""
        if not words or words.endswith(".svg"):
            words = "figure"
        text = (Path(app.srcdir) / path).read_text(encoding="utf-8")
        return inline_svg(text, source.group(1), words, palette)

    context["body"] = re.sub(r"<img\b[^>]*>", replace, body)


def setup(app):
    app.connect("builder-inited", write_stylesheet)
    app.connect("html-page-context", inline_figures, priority=800)
