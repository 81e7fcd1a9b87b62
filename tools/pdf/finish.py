"""What happens after the print: page numbers, bookmarks, metadata, packing."""
import re

import pikepdf

from . import document

# Formulas in titles are few and short; a bookmark is plain text.
SYMBOLS = {r"\beta": "β", r"\nu": "ν", r"\varepsilon": "ε", r"\sigma": "σ", r"\mathbb{E}": "E",
           r"\log": "log ", r"\hat r": "r̂", r"\cdot": "·", "^{LB}": "^(LB)", "^2": "²"}


def destinations(pdf):
    """Where each named place is: index of the page, and height on it (None: the whole page)."""
    index = {page.objgen: number for number, page in enumerate(pdf.pages)}
    found = {}
    for name, place in pdf.Root.get("/Dests", {}).items():
        place = place.D if isinstance(place, pikepdf.Dictionary) else place
        top = float(place[3]) if len(place) > 3 and place[1] == "/XYZ" else None
        found[name.lstrip("/")] = (index[place[0].objgen], top)
    return found


def places_in(path):
    """``destinations`` of a file."""
    with pikepdf.open(path) as pdf:
        return destinations(pdf)


def plain(title):
    """A heading's text with its TeX replaced by characters."""
    def formula(match):
        text = match.group(1)
        for tex, character in SYMBOLS.items():
            text = text.replace(tex, character)
        return re.sub(r"[\\{}]", "", text).strip()

    return re.sub(r"\\\((.*?)\\\)", formula, title)


def outline(parts, headings, places):
    """Bookmarks: parts, chapters, sections."""
    def bookmark(title, name):
        number, top = places[name]
        item = (pikepdf.OutlineItem(title, number) if top is None else
                pikepdf.OutlineItem(title, number, "XYZ", left=0, top=top + 8))
        item.is_closed = True
        return item

    items = [bookmark("Contents", "contents")]
    for part in parts:
        chapters = items
        if part.caption:
            items.append(bookmark(part.caption, document.place_of_part(part)))
            chapters = items[-1].children
        for heading in (one for page in part.pages for one in headings if one["page"] == page.key):
            if heading["level"] == 1:
                chapters.append(bookmark(plain(heading["title"]), heading["id"]))
            elif heading["level"] == 2:
                chapters[-1].children.append(bookmark(plain(heading["title"]), heading["id"]))
    return items


def finish(source, target, parts, headings, imprint):
    """Write ``target``: the printed file with bookmarks and metadata, packed; returns its pages."""
    with pikepdf.open(source) as pdf:
        with pdf.open_outline() as marks:
            marks.root[:] = outline(parts, headings, destinations(pdf))
        pdf.docinfo["/Title"] = imprint.title
        pdf.docinfo["/Author"] = ", ".join(imprint.authors)
        pdf.docinfo["/Subject"] = f"{imprint.subtitle}. Version {imprint.version}. CC BY 4.0."
        pdf.docinfo["/Keywords"] = ", ".join(imprint.keywords)
        pdf.Root.Lang = pikepdf.String("en")
        pdf.Root.PageMode = pikepdf.Name.UseOutlines
        preferences = pdf.Root.get("/ViewerPreferences", pikepdf.Dictionary())
        preferences.DisplayDocTitle = True
        pdf.Root.ViewerPreferences = preferences
        # The structure tree is most of the file until it is packed.
        pdf.save(target, object_stream_mode=pikepdf.ObjectStreamMode.generate, compress_streams=True)
        return len(pdf.pages)
