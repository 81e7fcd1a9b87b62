"""A deck as one page of the site: reveal.js, the book's palette, math and explorers."""
import html
import json
import re
from string import Template

PAGE = Template("""<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title: slides</title>
<meta name="klbook-deck" content="$record">
<link rel="icon" href="$up/_static/favicon.svg">
<link rel="stylesheet" href="$up/_static/slides/reveal.css">
<link rel="stylesheet" href="$up/_static/explore/explorer.css">
<link rel="stylesheet" href="$up/_static/css/palette.css">
<link rel="stylesheet" href="$up/_static/css/tokens.css">
<link rel="stylesheet" href="$up/_static/slides/deck.css">
</head>
<body class="tex2jax_ignore mathjax_ignore">
<div class="reveal"><div class="slides">
$slides
</div></div>
<script>window.MathJax = Object.assign($settings, {chtml: {matchFontHeight: false, scale: 1.04}});</script>
<script src="$up/_static/slides/reveal.js"></script>
<script src="$up/_static/slides/notes.js"></script>
<script defer src="$up/_static/mathjax/tex-chtml.js"></script>
<script type="module" src="$up/_static/explore/hydrate.js"></script>
<script defer src="$up/_static/slides/deck.js"></script>
</body>
</html>
""")


def section(chapter, slide):
    identity = f' id="{slide.label}"' if slide.label else ""
    above = f"<p class='kd-kicker'>{slide.kicker}</p>" if slide.kicker else ""
    heading = "h1" if slide.kind == "title" else "h2"
    notes = f"<aside class='notes'>{slide.notes}</aside>" if slide.notes else ""
    foot = "" if slide.kind == "title" else f"<p class='kd-foot'>{chapter.number}&ensp;{chapter.title}</p>"
    return (f'<section class="kd-slide kd-kind-{slide.kind}" data-kind="{slide.kind}"{identity}>'
            f"<header>{above}<{heading}>{slide.head}</{heading}></header>"
            f"<div class='kd-body'>{slide.body}</div>{foot}{notes}</section>")


def deck_page(chapter, slides, record):
    """The whole page of a deck; ``record`` is kept in its head."""
    up = "../" * (chapter.name.count("/") + 1)
    back = f"{up}{chapter.address}"
    sections = [section(chapter, slide) for slide in slides]
    sections[0] = sections[0].replace(
        "</section>", f"<p class='kd-source'>The theory of RLHF, proved and run · "
        f"<a href='{back}'>chapter {chapter.number} of the book</a></p></section>")
    return PAGE.substitute(
        title=html.escape(record["title"]), up=up.rstrip("/"), slides="\n".join(sections),
        settings=chapter.settings, record=html.escape(json.dumps(record), quote=True))


def read_record(page):
    """What a deck's head says about it, or None."""
    if not page.exists():
        return None
    with page.open(encoding="utf-8") as file:
        found = re.search(r'<meta name="klbook-deck" content="([^"]*)">', file.read(4000))
    return json.loads(html.unescape(found[1])) if found else None


def fill_list(page, records):
    """Write the list of all decks into the page "Slides"."""
    if not page.exists():
        return
    rows = "".join(
        f"<tr><td>{r['number']}</td><td><a href='../../slides/{name}.html'>{html.escape(r['title'])}</a></td>"
        f"<td class='text-right'>{r['slides']}</td></tr>" for name, r in records.items())
    table = ("<table class='kl-table kl-decks'><thead><tr><th scope='col'></th><th scope='col'>deck</th>"
             f"<th scope='col' class='text-right'>slides</th></tr></thead><tbody>{rows}</tbody></table>")
    text = page.read_text(encoding="utf-8")
    filled = re.sub(r"<!-- decks -->.*?<!-- end of decks -->",
                    lambda _: f"<!-- decks -->{table}<!-- end of decks -->", text, flags=re.S)
    if filled != text:
        page.write_text(filled, encoding="utf-8")
