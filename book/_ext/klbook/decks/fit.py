"""Where a long statement is cut, so that every part can be read from the back row."""
import copy
import itertools
import math
import re

LINE = 76  # characters on a line of a statement in the size it starts at
ROOM = 14.0  # lines of a statement on one slide


def spread(tex):
    """Roughly how many characters wide a formula is."""
    tex = re.sub(r"\\(?:begin|end)\{[a-z*]+\}|\\(?:left|right|[bB]igg?[lr]?|,|;|!|quad|qquad)(?![a-zA-Z])", "", tex)
    tex = re.sub(r"\\(?:mathbb|mathrm|mathcal|text|operatorname|widehat|hat|sqrt|frac)", "", tex)
    tex = re.sub(r"\\[a-zA-Z]+", "x", tex)
    return len(re.sub(r"[{}^_\s$&\\]", "", tex))


def lines(element):
    """Roughly how many lines an element takes on a slide."""
    if element.name in ("ol", "ul"):
        return sum(lines(child) for child in element.find_all("li", recursive=False))
    displays = element.select("div.math") if element.name != "div" else [element]
    high = 0.0
    for display in displays:
        for row in display.get_text().split("\\\\"):
            high += 1.9 if re.search(r"\\frac|\\sum|\\int|\\max|\\sup|\\underbrace", row) else 1.35
        high += 0.8
    if element in displays:
        return high
    text = copy.copy(element)
    for display in text.select("div.math"):
        display.decompose()
    for formula in text.select("span.math"):
        formula.string = "m" * int(0.9 * spread(formula.get_text()))
    length = len(" ".join(text.get_text().split()))
    pieces = max(1, len(displays))
    return high + 0.35 + max(pieces, -(-length // LINE))


def atoms(content):
    """The pieces between which a statement may be cut: its blocks, and the items of its lists."""
    for child in content.find_all(True, recursive=False):
        if child.name in ("ol", "ul"):
            first = int(child.get("start", 1))
            for index, item in enumerate(child.find_all("li", recursive=False)):
                yield (child, first + index), item
        else:
            yield None, child


def join(pieces):
    """Blocks again: list items that follow each other share a list that keeps its numbers."""
    blocks, open_list, of = [], None, None
    for origin, piece in pieces:
        if origin is None:
            blocks.append(copy.copy(piece))
            open_list = None
            continue
        parent, number = origin
        if open_list is None or of is not parent:
            open_list, of = copy.copy(parent), parent
            open_list.clear()
            if parent.name == "ol" and number > 1:
                open_list["start"] = str(number)
            blocks.append(open_list)
        open_list.append(copy.copy(piece))
    return blocks


def units(content):
    """Pieces that must stay together: a display with the words that lead to it, a lead with what it leads to."""
    groups, held = [], []
    for origin, piece in atoms(content):
        high = lines(piece)
        if piece.name == "div" and not held and groups:
            groups[-1].append((origin, piece, high))
            continue
        held.append((origin, piece, high))
        leads = piece.name == "p" and (len(piece.get_text()) < 60 or piece.get_text().rstrip().endswith(":"))
        if not leads:
            groups.append(held)
            held = []
    return groups + ([held] if held else [])


def cut(content, parts=None):
    """Cut a statement's content into as few parts as fit, so that the highest part is as low as can be.

    Returns
    -------
    list of list of Tag
        The blocks of each part.
    """
    groups = units(content)
    heights = [sum(high for *_, high in group) for group in groups]
    parts = min(parts or max(1, math.ceil(sum(heights) / ROOM)), len(groups))

    def highest(cuts):
        edges = (0, *cuts, len(groups))
        return max(sum(heights[a:b]) for a, b in itertools.pairwise(edges))

    best = min(itertools.combinations(range(1, len(groups)), parts - 1), key=highest)
    edges = (0, *best, len(groups))
    return [join((origin, piece) for group in groups[a:b] for origin, piece, _ in group)
            for a, b in itertools.pairwise(edges)]
