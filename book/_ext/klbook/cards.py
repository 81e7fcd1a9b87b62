"""The picture that a link to a page shows elsewhere: one small card per page.

A card has the page's title and part over the book's emblem, the frontier of reward against KL
with a tangent; the tangent moves along the frontier from the first page to the last.
"""
import hashlib
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from . import address, palette
from .index_page import parts, reading_order

FOLDER = "cards"
SIZE = (1200, 630)
SCALE = 2  # the emblem is drawn larger and reduced, which smooths its lines
PAPER, MUTED, RULE = "#fdfcf9", "#5c5a54", "#ddd9ce"
SHADES = 12  # steps from paper to each colour
# The emblem's box on the card, and the chart's within it.
EMBLEM = (600, 130, 1200, 560)
LEFT, TOP, RIGHT, BOTTOM = 90, 60, 530, 400


def name(pagename):
    """The card's address within the site."""
    return f"{FOLDER}/{pagename.replace('/', '-')}.png"


def frontier():
    """KL and mean reward of four arms at prices from infinity down, scaled to the unit square."""
    reward = np.array([1.0, 0.75, 0.3, 0.0])
    slope = np.concatenate([[0.0], np.geomspace(0.05, 60, 200)])
    weight = np.exp(slope[:, None] * (reward - 1))
    policy = weight / weight.sum(axis=1, keepdims=True)
    divergence = (policy * np.log(np.maximum(policy, 1e-300) * 4)).sum(axis=1)
    value = policy @ reward
    return divergence / divergence[-1], (value - value[0]) / (value[-1] - value[0])


def dashes(draw, start, end, colour, width, on=34, off=26):
    """A dashed line with round ends."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    length = np.hypot(*(end - start))
    along = (end - start) / length
    for place in np.arange(0, length, on + off):
        first, last = start + along * place, start + along * min(place + on, length)
        draw.line([*first, *last], fill=colour, width=width)


def emblem(colours, position):
    """Frontier, tangent and touching point; ``position`` runs from 0 to 1 through the book."""
    width, height = EMBLEM[2] - EMBLEM[0], EMBLEM[3] - EMBLEM[1]
    image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    draw = ImageDraw.Draw(image)
    across, up = frontier()
    x = SCALE * (LEFT + (RIGHT - LEFT) * across)
    y = SCALE * (BOTTOM - (BOTTOM - TOP) * up)
    ink = {role: colours[role] for role in ("empirical", "bound")}
    draw.line([SCALE * LEFT, SCALE * TOP, SCALE * LEFT, SCALE * BOTTOM, SCALE * RIGHT, SCALE * BOTTOM],
              fill=RULE, width=3 * SCALE)
    draw.line(list(zip(x, y, strict=True)), fill=ink["empirical"], width=9 * SCALE, joint="curve")
    at = int(np.searchsorted(across, 0.12 + 0.6 * position))
    direction = np.array([x[at + 1] - x[at - 1], y[at + 1] - y[at - 1]])
    direction /= np.hypot(*direction)
    touch, reach = np.array([x[at], y[at]]), 190 * SCALE
    dashes(draw, touch - direction * reach, touch + direction * reach, ink["bound"], 6 * SCALE)
    radius = 13 * SCALE
    draw.ellipse([*(touch - radius), *(touch + radius)], fill=ink["bound"])
    return image.reduce(SCALE)


def wrapped(words, font, width):
    """Lines of at most ``width`` pixels."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def face(fonts, size, weight, italic=False):
    font = ImageFont.truetype(str(fonts / f"newsreader{'-italic' * italic}.woff2"), size)
    font.set_variation_by_axes([weight])
    return font


def write_title(draw, fonts, title, colour):
    """The title, as large as four lines allow, set from the middle of the card's height."""
    for size in (76, 66, 58, 50):
        font = face(fonts, size, 600)
        lines = wrapped(title, font, 560)
        if len(lines) <= 4 and max(map(font.getlength, lines)) <= 580:
            break
    leading = int(1.14 * size)
    top = 320 - leading * len(lines) / 2
    for place, line in enumerate(lines):
        draw.text((70, top + leading * place), line, fill=colour, font=font)


def few_colours(image, colours):
    """The same image on a palette of the blends of paper and each colour, for a small file."""
    paper = np.array(ImageColor.getrgb(PAPER))
    share = np.linspace(0, 1, SHADES)[:, None]
    table = np.concatenate([paper + share * (np.array(ImageColor.getrgb(colour)) - paper)
                            for colour in colours]).round().astype(np.uint8)
    swatch = Image.new("P", (1, 1))
    swatch.putpalette(table.tobytes())
    return image.quantize(palette=swatch, dither=Image.Dither.NONE)


def draw_card(title, above, below, position, colours, fonts):
    """One card as an image with few colours."""
    image = Image.new("RGB", SIZE, PAPER)
    image.paste(emblem(colours, position), EMBLEM[:2])
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0, SIZE[0], 12], fill=colours["empirical"])
    write_title(draw, fonts, title, colours["ink"])
    draw.text((70, 78), above, fill=MUTED, font=face(fonts, 32, 400, italic=True))
    draw.text((70, 536), below, fill=MUTED, font=face(fonts, 30, 500))
    return few_colours(image, (colours["ink"], MUTED, RULE, colours["empirical"], colours["bound"]))


def captions(app):
    """For each page, the line above its title: part and chapter number."""
    found = {}
    for caption, names in parts(app.env):
        for pagename in names:
            number = app.env.toc_secnumbers.get(pagename, {}).get("", ())
            digits = ".".join(map(str, number))
            found[pagename] = f"{caption}, chapter {digits}" if digits else caption
    return found


def write(app, exception):
    """Draw what is new, take the rest from the cache, and drop what no page needs."""
    if exception or app.builder.format != "html":
        return
    fonts = Path(app.srcdir) / "book" / "_assets" / "fonts"
    colours, _ = palette.palettes(app)
    cache = Path(app.outdir).parent / ".cards"
    target = Path(app.outdir) / FOLDER
    for folder in (cache, target):
        folder.mkdir(parents=True, exist_ok=True)
    program = hashlib.sha256(Path(__file__).read_bytes() + repr(sorted(colours.items())).encode())
    order, above, used, drawn = reading_order(app.env), captions(app), set(), set()
    for place, pagename in enumerate(order):
        title = app.env.titles[pagename].astext()
        facts = (title, above.get(pagename, "An executable textbook"), short_address(app),
                 round(place / max(1, len(order) - 1), 3))
        digest = program.copy()
        digest.update(repr(facts).encode())
        stored = cache / f"{digest.hexdigest()[:24]}.png"
        if not stored.exists():
            draw_card(*facts, colours, fonts).save(stored, optimize=True)
        used.add(stored.name)
        drawn.add(Path(name(pagename)).name)
        shutil.copyfile(stored, Path(app.outdir) / name(pagename))
    for folder, wanted in ((cache, used), (target, drawn)):
        for path in folder.glob("*.png"):
            if path.name not in wanted:
                path.unlink()


def short_address(app):
    return address.site(app).split("://", 1)[-1].rstrip("/")


def setup(app):
    # Early: what reads every built page comes later.
    app.connect("build-finished", write, priority=300)
