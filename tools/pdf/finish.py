"""What pypdf does after the print: page numbers, bookmarks, metadata."""
import re

from pypdf import PdfReader, PdfWriter
from pypdf.generic import BooleanObject, DictionaryObject, Fit, NameObject, TextStringObject

from . import document

# Formulas in titles are few and short; a bookmark is plain text.
SYMBOLS = {r"\beta": "β", r"\nu": "ν", r"\varepsilon": "ε", r"\sigma": "σ", r"\mathbb{E}": "E",
           r"\log": "log ", r"\hat r": "r̂", r"\cdot": "·", "^{LB}": "^(LB)", "^2": "²"}


def destinations(reader):
    """Where each named place is: index of the page, and height on it (None: the whole page)."""
    index = {page.indirect_reference.idnum: number for number, page in enumerate(reader.pages)}
    return {name.lstrip("/"): (index[place.raw_get("/Page").idnum], place.top)
            for name, place in reader.named_destinations.items()}


def plain(title):
    """A heading's text with its TeX replaced by characters."""
    def formula(match):
        text = match.group(1)
        for tex, character in SYMBOLS.items():
            text = text.replace(tex, character)
        return re.sub(r"[\\{}]", "", text).strip()

    return re.sub(r"\\\((.*?)\\\)", formula, title)


def finish(source, target, parts, headings, imprint):
    """Write ``target``: the printed file with bookmarks and metadata."""
    writer = PdfWriter(clone_from=str(source))
    places = destinations(PdfReader(str(source)))

    def bookmark(title, name, parent=None, **style):
        number, top = places[name]
        fit = Fit.fit() if top is None else Fit.xyz(left=0, top=float(top) + 8, zoom=None)
        return writer.add_outline_item(title=title, page_number=number, parent=parent, fit=fit,
                                       is_open=False, **style)

    bookmark("Contents", "contents")
    for part in parts:
        above = None
        if part.caption:
            above = bookmark(part.caption, document.place_of_part(part), bold=True)
        chapter = above
        for heading in (one for page in part.pages for one in headings if one["page"] == page.key):
            title = plain(heading["title"])
            if heading["level"] == 1:
                chapter = bookmark(title, heading["id"], above)
            elif heading["level"] == 2:
                bookmark(title, heading["id"], chapter)
    writer.add_metadata({
        "/Title": imprint.title,
        "/Author": ", ".join(imprint.authors),
        "/Subject": f"{imprint.subtitle}. Version {imprint.version}. CC BY 4.0.",
        "/Keywords": ", ".join(imprint.keywords),
    })
    root = writer.root_object
    root[NameObject("/Lang")] = TextStringObject("en")
    root[NameObject("/PageMode")] = NameObject("/UseOutlines")
    viewer = root.setdefault(NameObject("/ViewerPreferences"), DictionaryObject())
    viewer.get_object()[NameObject("/DisplayDocTitle")] = BooleanObject(True)
    writer.write(str(target))
