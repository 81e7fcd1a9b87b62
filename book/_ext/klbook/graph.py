"""Which result rests on which, as SVG that links and scales.

``draw`` makes boxes with titles: one per result for the index page, one per chapter for the landing
page, there without the arrows that others imply (``reduced``).
"""
import html
import textwrap

BOX, HEIGHT, GAP, ROW, LABEL = 158, 46, 12, 84, 30
PER_ROW = 4


def depths(ids, depends):
    """Longest chain of dependencies inside a group, so that every edge points down."""
    known = {}

    def depth(id):
        if id not in known:
            inside = [other for other in depends[id] if other in ids]
            known[id] = 1 + max(map(depth, inside), default=-1)
        return known[id]

    return {id: depth(id) for id in ids}


def rows_of(group, depends):
    """A group's results in rows of at most PER_ROW, dependencies above dependents."""
    level = depths(set(group), depends)
    rows = []
    for value in sorted(set(level.values())):
        same = [id for id in group if level[id] == value]
        rows += [same[i:i + PER_ROW] for i in range(0, len(same), PER_ROW)]
    return rows


def place(groups, depends):
    """Positions of the boxes: groups from top to bottom, each row ordered under what it rests on."""
    position, bands, top = {}, [], 0
    width = PER_ROW * BOX + (PER_ROW - 1) * GAP
    for name, members in groups:
        rows = rows_of(members, depends)
        bands.append((name, top))
        top += LABEL
        for row in rows:
            def pull(id):
                above = [position[other][0] for other in depends[id] if other in position]
                return sum(above) / len(above) if above else (width - BOX) / 2
            ordered = sorted(row, key=lambda id: (pull(id), row.index(id)))
            span = len(row) * BOX + (len(row) - 1) * GAP
            # Rows lean towards what they rest on, inside the drawing.
            wish = sum(pull(id) for id in row) / len(row) + BOX / 2 - span / 2
            left = min(max(wish, 0), width - span)
            for index, id in enumerate(ordered):
                position[id] = (left + index * (BOX + GAP), top)
            top += ROW
        top += 6
    return position, bands, width, top - ROW + HEIGHT + 8


def wrapped(title):
    lines = textwrap.wrap(title, 22)
    if len(lines) > 2:
        lines = [lines[0], lines[1][:20].rstrip() + "…"]
    return lines


def node_svg(id, x, y, number, title, url):
    lines = wrapped(title)
    first = y + (31 if len(lines) == 1 else 27)
    words = "".join(
        f"<tspan x='{x + 10:.0f}' y='{first + 13 * i:.0f}'>{html.escape(line)}</tspan>"
        for i, line in enumerate(lines)
    )
    return (
        f"<a href='{html.escape(url)}' class='kl-node' data-id='{id}'>"
        f"<title>{html.escape(f'{number}: {title}')}</title>"
        f"<rect x='{x:.0f}' y='{y:.0f}' width='{BOX}' height='{HEIGHT}' rx='3'/>"
        f"<text class='kl-node-number' x='{x + 10:.0f}' y='{y + 14:.0f}'>{html.escape(number)}</text>"
        f"<text>{words}</text></a>"
    )


def edge_svg(source, target, start, end):
    x1, y1 = start[0] + BOX / 2, start[1] + HEIGHT
    x2, y2 = end[0] + BOX / 2, end[1]
    bend = max(18, (y2 - y1) * 0.45)
    return (
        f"<path class='kl-edge e-{source} e-{target}' "
        f"d='M{x1:.0f} {y1:.0f}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}'/>"
    )


def lit(ids):
    """Pointing at a result brings out its own edges (one CSS rule each, no script)."""
    return "".join(
        f".kl-graph:has(a[data-id='{id}']:is(:hover,:focus-visible)) .e-{id}"
        "{stroke:var(--kl-accent);stroke-width:2.2;opacity:1}"
        for id in ids
    )


def frame(ids, width, height, label, content):
    words = html.escape(label, quote=True)
    return (
        f"<div class='kl-graph' tabindex='0' role='region' aria-label='{words}'>"
        f"<style>{lit(ids)}</style>"
        f"<svg viewBox='-2 0 {width + 4:.0f} {height:.0f}' width='{width + 4:.0f}' role='group' "
        f"aria-label='{words}'>{content}</svg></div>"
    )


def draw(groups, depends, info, label):
    """Boxes with titles.

    groups: list of (name, ids) in reading order; depends: id -> ids; info: id -> (number, title, url).
    Ids become names of CSS classes.
    """
    known = {id for _, members in groups for id in members}
    depends = {id: [other for other in depends[id] if other in known] for id in known}
    position, bands, width, height = place(groups, depends)
    edges = "".join(
        edge_svg(other, id, position[other], position[id])
        for id in position for other in depends[id]
    )
    nodes = "".join(node_svg(id, *position[id], *info[id]) for _, members in groups for id in members)
    names = "".join(
        f"<text class='kl-part' x='0' y='{top + 18:.0f}'>{html.escape(name)}</text>"
        for name, top in bands
    )
    return frame(position, width, height, label, edges + names + nodes)


def reduced(depends):
    """Only the arrows that no longer way round implies; without cycles nothing else is lost."""
    reach = {}

    def above(id):
        if id not in reach:
            reach[id] = set()
            for other in depends[id]:
                reach[id] |= {other} | above(other)
        return reach[id]

    return {
        id: [other for other in others
             if not any(other in above(third) for third in others if third != other)]
        for id, others in depends.items()
    }
