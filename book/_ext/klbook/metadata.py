"""What other programs read about a page: description, social card, scholar tags, JSON-LD."""
import html
import json
import re

from docutils import nodes

from . import address, cards, cite
from .release import citation

# Enough for one-line math in an opening paragraph; a sentence with more of it is left out.
TEX = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "varepsilon": "ε", "eta": "η",
    "theta": "θ", "lambda": "λ", "mu": "μ", "nu": "ν", "pi": "π", "rho": "ρ", "sigma": "σ",
    "phi": "φ", "chi": "χ", "log": "log ", "exp": "exp ", "infty": "∞", "propto": " ∝ ",
    "le": " ≤ ", "ge": " ≥ ", "to": " → ", "cdot": "·", "times": "×", "ldots": "…",
}
LENGTH = 200


def readable(tex):
    """Short inline TeX as plain text, or None when it does not fit on a line of text."""
    text = re.sub(r"\\([a-zA-Z]+) ?", lambda m: TEX.get(m.group(1), m.group(0)), tex)
    text = re.sub(r"\{,\}|\\[,;! ]", "", text)
    text = re.sub(r"_(\w)", r"\1", text).replace("^*", "*")
    return None if re.search(r"[\\^_{}]", text) else " ".join(text.split())


def plain(node):
    """Text of a paragraph; a formula that cannot be written as text leaves a NUL behind."""
    if isinstance(node, nodes.math):
        return readable(node.astext()) or "\0"
    if isinstance(node, nodes.Text):
        return str(node)
    if isinstance(node, (nodes.footnote_reference, nodes.raw, nodes.image)):
        return ""
    return "".join(plain(child) for child in node.children)


def sentences(doctree):
    """Sentences of the page's opening: a run without math that plain text cannot show."""
    begun = False
    for paragraph in opening(doctree):
        text = " ".join(plain(paragraph).split())
        for sentence in re.split(r"(?<=[.?!])\s+(?=[A-Z])", text):
            if "\0" not in sentence and sentence.endswith((".", "?", "!")):
                begun = True
                yield sentence
            elif begun:
                return


def opening(doctree):
    """Paragraphs between the title and the first section."""
    page = next(iter(doctree.findall(nodes.section)), None)
    for child in page.children if page else ():
        if isinstance(child, nodes.section):
            return
        if isinstance(child, nodes.paragraph):
            yield child


def description(doctree, fallback):
    """The page's first sentences, at most about 200 characters, never cut inside a sentence."""
    text = ""
    for sentence in sentences(doctree):
        longer = f"{text} {sentence}".strip()
        if text and len(longer) > LENGTH:
            break
        text = longer
    if not text:
        return fallback
    return text if len(text) <= 300 else text[:text.rindex(" ", 0, 297)].rstrip(",;:") + " …"


def tag(kind, name, content):
    return f'<meta {kind}="{name}" content="{html.escape(str(content), quote=True)}" />'


def social(title, words, url, image, site, is_root):
    """Open Graph and Twitter card."""
    alt = f"Card with the title: {title}"
    pairs = [("og:type", "website" if is_root else "article"), ("og:site_name", site),
             ("og:title", title), ("og:description", words), ("og:url", url), ("og:image", image),
             ("og:image:type", "image/png"), ("og:image:width", cards.SIZE[0]),
             ("og:image:height", cards.SIZE[1]), ("og:image:alt", alt), ("og:locale", "en")]
    twitter = [("twitter:card", "summary_large_image"), ("twitter:title", title),
               ("twitter:description", words), ("twitter:image", image), ("twitter:image:alt", alt)]
    return [tag("property", *pair) for pair in pairs] + [tag("name", *pair) for pair in twitter]


def scholar(title, data, url, whole):
    """Highwire tags, which scholarly search engines read."""
    book = data["preferred-citation"]
    pairs = [("citation_title", title)]
    pairs += [("citation_author", name) for name in cite.plain_names(book["authors"])]
    pairs += [("citation_publication_date", str(data["date-released"]).replace("-", "/"))]
    if whole != title:
        pairs += [("citation_inbook_title", whole)]
    pairs += [("citation_public_url", url), ("citation_language", "en")]
    return [tag("name", *pair) for pair in pairs]


def pdf(home):
    """Where the whole book is as a PDF; only a site that was published with one unwraps this."""
    return f'<template class="kl-site" data-needs="pdf">{tag("name", "citation_pdf_url", home + "book.pdf")}</template>'


def linked_data(title, words, url, image, data, whole, home, number):
    """schema.org's Book and Chapter; data, not a script that runs."""
    book = data["preferred-citation"]
    person = [{"@type": "Person" if entry.get("family-names") else "Organization", "name": name}
              for entry, name in zip(book["authors"], cite.plain_names(book["authors"]), strict=True)]
    common = {"author": person, "inLanguage": "en", "isAccessibleForFree": True,
              "license": "https://creativecommons.org/licenses/by/4.0/",
              "datePublished": str(data["date-released"]), "version": str(data["version"])}
    if number is None:
        record = {"@type": "Book", "name": whole, "url": home, "description": words, "image": image}
    else:
        record = {"@type": "Chapter", "name": title, "position": number, "url": url,
                  "description": words, "image": image,
                  "isPartOf": {"@type": "Book", "name": whole, "url": home}}
    text = json.dumps({"@context": "https://schema.org", **record, **common}, ensure_ascii=False)
    # "</" would end the element early.
    return '<script type="application/ld+json">' + text.replace("</", "<\\/") + "</script>"


def own_description(metatags):
    """A description that the page's author wrote (``myst: html_meta``), if any."""
    found = re.search(r'<meta content="([^"]*)" name="description"|'
                      r'<meta name="description" content="([^"]*)"', metatags)
    return html.unescape(found.group(1) or found.group(2)) if found else None


def page(app, pagename, templatename, context, doctree):
    """Write the tags of one page."""
    if doctree is None:
        return
    data = citation(app.srcdir)
    whole = data["preferred-citation"]["title"]
    is_root = pagename == app.config.root_doc
    title = whole if is_root else app.env.titles[pagename].astext()
    given = own_description(context.get("metatags") or "")
    words = given or description(doctree, f"{title}: a page of the book “{whole}”.")
    url, home = cite.page_url(app, pagename), address.site(app)
    image = home + cards.name(pagename)
    lines = [] if given else [tag("name", "description", words)]
    lines += social(title, words, url, image, whole, is_root)
    number = cite.chapters(app).get(pagename)
    if is_root or number:
        lines += scholar(title, data, url, whole) + ([pdf(home)] if is_root else [])
        lines.append(linked_data(title, words, url, image, data, whole, home, number))
    context["metatags"] = (context.get("metatags") or "") + "\n".join(("", *lines, ""))


def setup(app):
    app.connect("html-page-context", page, priority=700)
