"""The one HTML document of the book, with a place for each page of the site."""
import html
import json
from pathlib import Path

HERE = Path(__file__).parent
SIZES = {"a4": "A4", "letter": "letter"}


def escape(text):
    return html.escape(text, quote=True)


def css_string(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def page_styles(parts, imprint, paper):
    """One page style for each chapter: that is how the head of a page knows where it is."""
    rules = [f"@page {{ size: {SIZES[paper]}; }}"]
    small = "font: italic 9pt Newsreader, serif; color: #55534e; vertical-align: bottom; padding-bottom: 5mm;"
    for part in parts:
        for page in part.pages:
            left = part.caption if part.numeral else imprint.title if page.title != imprint.title else ""
            rules.append(f"@page {page.key} {{ @top-left {{ content: {css_string(left)}; {small} }} "
                         f"@top-right {{ content: {css_string(page.title)}; {small} }} }}")
    return "\n".join(rules)


def front(imprint):
    """Title page, and behind it the licence, the version and how to cite."""
    authors = ", ".join(imprint.authors)
    return f"""
<section class="kl-front kl-plain kl-title-page">
  <img src="/_static/logo.svg" alt="">
  <h1>{escape(imprint.title)}</h1>
  <p class="kl-subtitle">{escape(imprint.subtitle)}</p>
  <p class="kl-authors">{escape(authors)}</p>
  <p class="kl-edition">Version {escape(imprint.version)}, {escape(imprint.date)}</p>
</section>
<section class="kl-front kl-plain kl-imprint">
  <p>{escape(imprint.title)}. {escape(imprint.subtitle)}.<br>Version {escape(imprint.version)}, {escape(imprint.date)}.</p>
  <p>The text and the figures are licensed under the
  <a href="https://creativecommons.org/licenses/by/4.0/">Creative Commons Attribution 4.0 International licence</a>:
  you may copy, change and share them, also commercially, if you name the authors and say what you changed.
  The code is under the MIT licence.</p>
  <p>The book on the web has the same text, with explorers that move and notebooks that run:
  <a href="{escape(imprint.site)}">{escape(imprint.site)}</a>.
  Its sources and its library: <a href="{escape(imprint.repository)}">{escape(imprint.repository)}</a>.</p>
  <p>Under each numbered result a line says what a program tried when this edition was made.
  An explorer is printed as it is when the page opens, with the sentence that it says there.</p>
  <p>How to cite:</p>
  <pre>{escape(imprint.bibtex)}</pre>
</section>"""


def place_of_part(part):
    """The id where a part begins: its title page, or its first page."""
    return f"part-{part.numeral.lower()}" if part.numeral else part.pages[0].key


def contents_pages(parts):
    blocks = []
    for part in parts:
        link = f'<a href="#{place_of_part(part)}">{escape(part.caption)}</a>'
        heading = f'<p class="kl-contents-part">{link}</p>' if part.caption else ""
        blocks.append(heading + "".join(f'<div id="contents-{page.key}"></div>' for page in part.pages))
    return ('<section class="kl-front kl-plain kl-contents" id="contents"><h1><a href="#contents">Contents</a></h1>'
            + "".join(blocks) + "</section>")


def part_page(part):
    chapters = "".join(f'<p><a href="#{page.key}">{escape(page.title)}</a></p>' for page in part.pages)
    return (f'<section class="kl-front kl-plain kl-part-page" id="{place_of_part(part)}">'
            f'<p class="kl-part-number">Part {part.numeral}</p><h1>{escape(part.name)}</h1>{chapters}</section>')


def build(parts, imprint, sheets, math, paper):
    """The document before the pages are in it."""
    math = json.loads(json.dumps(math))
    math.setdefault("startup", {})["typeset"] = False
    # The hidden copy for screen readers would only repeat every formula in the PDF's text.
    math.setdefault("options", {})["enableAssistiveMml"] = False
    math["options"]["menuOptions"] = {"settings": {"assistiveMml": False}}
    body = [front(imprint), contents_pages(parts)]
    for part in parts:
        if part.numeral:
            body.append(part_page(part))
        body += [f'<div id="place-{page.key}"></div>' for page in part.pages]
    links = "\n".join(f'<link rel="stylesheet" href="{escape(sheet)}">' for sheet in sheets)
    style = (HERE / "book.css").read_text(encoding="utf-8") + page_styles(parts, imprint, paper)
    return f"""<!DOCTYPE html>
<html lang="en" data-theme="light" data-mode="light">
<head>
<meta charset="utf-8">
<title>{escape(imprint.title)}</title>
{links}
<style>{style}</style>
<script>window.MathJax = {json.dumps(math)};</script>
<script defer src="/_static/mathjax/tex-chtml.js"></script>
</head>
<body class="kl-book">
{"".join(body)}
</body>
</html>"""
