"""From a plan to slides: each function below makes the slides of one kind of item."""
import copy
import html
import re
from dataclasses import dataclass
from functools import cache

from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from .fit import cut
from .plan import entries
from .source import inner, words

STEP = re.compile(r"(?:Step|Steps|Part)\s[\d–\-, and]+", re.I)


@dataclass
class Slide:
    """One slide: what is projected, and what the lecturer says."""

    kind: str
    head: str
    body: str
    notes: str = ""
    label: str = ""
    kicker: str = ""


@cache
def markdown():
    return MarkdownIt("js-default", {"html": False}).use(dollarmath_plugin, renderer=formula)


def formula(content, options):
    content = html.escape(content.strip(), quote=False)
    if options.get("display_mode"):
        return f'<div class="math notranslate nohighlight">\\[{content}\\]</div>'
    return f'<span class="math notranslate nohighlight">\\({content}\\)</span>'


def inline(text):
    """A plan's words: Markdown with ``$math$``, on one line."""
    return markdown().renderInline(" ".join(str(text).split()))


def spoken(text):
    """Notes as paragraphs: plain words, so that the speaker's window needs no typesetting."""
    if not text:
        return ""
    return "".join(f"<p>{html.escape(' '.join(part.split()))}</p>"
                   for part in re.split(r"\n\s*\n", str(text).strip()))


def bullets(points, kind="ul"):
    return f"<{kind} class='kd-points'>" + "".join(f"<li>{inline(p)}</li>" for p in points) + f"</{kind}>"


def plain_sentences(elements, limit=5):
    """Sentences of the book around an item that can be said aloud: those without a formula."""
    said = []
    for element in elements:
        source = element.decode_contents()
        for sentence in re.split(r"(?<=[.?!])\s*\n", source):
            if 'class="math' not in sentence and "code-cell" not in sentence:
                sentence = html.unescape(re.sub(r"<[^>]+>", "", sentence))
                said.append(" ".join(sentence.split()))
    return " ".join(said[:limit])


def prose_around(item):
    """The paragraph before an item and the one after it (and after its proof)."""
    before = item.element.find_previous_sibling()
    after = item.element.find_next_sibling()
    while after is not None and after.name == "details":
        after = after.find_next_sibling()
    return plain_sentences([e for e in (before, after) if e is not None and e.name == "p"])


def kicker(item):
    """Section of the chapter, in small above the heading."""
    heading = item.section.find(["h1", "h2", "h3"])
    number = heading.select_one(".section-number")
    mark = number.get_text().strip(" .") if number else ""
    return f"{mark}&ensp;{inner(heading)}" if heading.name != "h1" else inner(heading)


def opening(chapter, options):
    """Title slide, and what one will be able to do."""
    line = inline(options["line"]) if options.get("line") else first_sentence(chapter)
    notes = spoken(options.get("notes")) or spoken(plain_sentences(chapter.hook, 8))
    # A balanced heading must not break inside "plug-in".
    title = re.sub(r"\w+(?:-\w+)+", r"<span class='kd-word'>\g<0></span>", chapter.title) \
        if "<" not in chapter.title else chapter.title
    yield Slide("title", title, f"<p class='kd-line'>{line}</p>", notes, "title",
                f"Chapter {chapter.number}")
    if chapter.goals is not None:
        yield Slide("goals", "What you will be able to do", chapter.html(chapter.goals),
                    spoken(options.get("goals_notes")
                           or "These are the goals of the lecture. Come back to them at the end."), "goals")


def first_sentence(chapter):
    """The question a chapter opens with (its first line in the source)."""
    if not chapter.hook:
        return ""
    sentences = re.split(r"(?<=[.?!])\s*\n", chapter.hook[0].decode_contents().strip())
    return chapter.html(fragment(" ".join(sentences[:2])))


def statement(item, options):
    """A definition, result, remark or algorithm, in as many slides as it needs; then its proof."""
    chapter = item.page
    content = item.element.find("section")
    parts = cut(content, options.get("parts"))
    line = inline(options["line"]) if options.get("line") else ""
    for index, blocks in enumerate(parts, start=1):
        of = f" <span class='kd-part'>{index} of {len(parts)}</span>" if len(parts) > 1 else ""
        title = f" {item.title}" if line else ""  # else it is the slide's heading
        name = f"<p class='kd-name'><b>{item.number}</b>{title}{of}</p>"
        body = "".join(chapter.html(block) for block in blocks)
        check = ""
        if item.check and index == len(parts):
            check = f"<p class='kd-check'><span aria-hidden='true'>✓</span> {html.escape(item.check)}</p>"
        box = f"<div class='kd-statement kd-{item.kind}' data-label='{item.label}'>{name}" \
              f"<div class='kd-content'>{body}</div></div>{check}"
        notes = spoken(options.get("notes")) or spoken(prose_around(item))
        yield Slide("statement", line or item.title or item.number, box, notes if index == 1 else "",
                    item.label if index == 1 else f"{item.label}-{index}", kicker(item))
    proof = options.get("proof", {})
    if item.proof is not None and proof is not False:
        yield proof_slide(item, proof)


def proof_slide(item, options):
    """The idea of a proof in the book's words, and the titles of its steps."""
    chapter = item.page
    body = []
    paragraphs = item.proof.find_all("p", recursive=False)
    idea = next((p for p in paragraphs if p.strong and words(p.strong).startswith("Idea")), None)
    if options.get("points"):
        body.append(bullets(options["points"]))
    else:
        if idea is not None:
            text = chapter.html(idea).replace("<strong>Idea.</strong>", "", 1)
            body.append(f"<div class='kd-idea'>{text}</div>")
        steps = [step_title(p) for p in paragraphs]
        steps = [chapter.html(s).replace("strong>", "span>").replace("em>", "span>") for s in steps if s is not None]
        if len(steps) > 1:
            many = " kd-many" if len(steps) > 5 else ""
            body.append(f"<ol class='kd-steps{many}'>" + "".join(f"<li>{s}</li>" for s in steps) + "</ol>")
    if options.get("key"):
        key = chapter.items.get(options["key"])
        if key is None or key.kind != "equation":
            raise KeyError(f"the proof of {item.label} has no equation {options['key']!r}")
        body.append(f"<div class='kd-key'>{chapter.html(key.element)}</div>")
    notes = spoken(options.get("notes"))
    if not notes and idea is not None:
        notes = spoken(plain_sentences([idea]).removeprefix("Idea.").strip()
                       or f"Say the idea first; the full proof of {item.number} is in the book.")
    head = inline(options["line"]) if options.get("line") else "Why it is true"
    return Slide("proof", head, "".join(body), notes, f"{item.label}-proof",
                 f"Proof of {item.number}")


def step_title(paragraph):
    """The head of a proof's step (in bold, or slanted) without its number, or None."""
    head = paragraph.find(["strong", "em"])
    if head is None or not STEP.match(words(head)) or not words(paragraph).startswith(words(head)):
        return None
    title = copy.copy(head)
    first = title.find(string=True)
    rest = re.sub(rf"^{STEP.pattern}\s*[:.,]?\s*", "", str(first), flags=re.I)
    rest = re.sub(r"^\(([^()]*)\)(?=\.?$)", r"\1", rest)  # "(gradient)."
    if not rest.strip(" .") and len(title.contents) == 1:
        return None
    first.replace_with(rest)
    last = title.find_all(string=True)[-1]
    last.replace_with(re.sub(r"[.:]$", "", str(last)))
    return title


def figure(item, options):
    """A figure as large as it goes, with the first sentence of its caption."""
    chapter = item.page
    box = item.element.select_one(".kl-figure-box, img, svg, kl-stub")
    caption = item.element.select_one(".caption-text")
    sentences = re.split(r"(?<=[.?!])\s*\n", caption.decode_contents().strip()) if caption else [""]
    short, rest = sentences[0], sentences[1:]
    drawing = chapter.html(box)
    legend = fragment(short) if caption else None
    points = bullets(options["points"]) if options.get("points") else ""
    body = f"<figure class='kd-figure'>{drawing}<figcaption>{chapter.html(legend) if legend else ''}" \
           f"</figcaption></figure>{points}"
    said = spoken(options.get("notes")) or spoken(
        plain_sentences([fragment("\n".join(rest))]) if rest else prose_around(item))
    head = inline(options["line"]) if options.get("line") else kicker(item)
    return Slide("figure", head, body, said, item.label, item.number)


def fragment(content):
    """A piece of a page's HTML as an element."""
    return BeautifulSoup(f"<span>{content}</span>", "html.parser").span


def equation(item, options):
    chapter = item.page
    points = bullets(options["points"]) if options.get("points") else ""
    head = inline(options["line"]) if options.get("line") else kicker(item)
    body = f"<div class='kd-key'>{chapter.html(item.element)}</div>{points}"
    return Slide("equation", head, body, spoken(options.get("notes")) or spoken(prose_around(item)),
                 item.label, kicker(item))


def explorer(item, options):
    """A question to commit to, then the explorer that answers it."""
    question = options.get("guess")
    if question:
        choices = options.get("options") or []
        body = f"<p class='kd-question'>{inline(question)}</p>"
        body += bullets(choices, "ol") if choices else ""
        yield Slide("guess", "Commit to a guess first", body,
                    spoken(options.get("guess_notes")
                           or "Let everybody write an answer down before you touch the slider. Ask for a show of hands."),
                    f"{item.label}-guess", "Before you look")
    head = inline(options["line"]) if options.get("line") else html.escape(item.title)
    markup = item.page.html(item.element)
    one = " kd-one" if markup.count('class="kl-panel"') == 1 else ""
    yield Slide("explorer", head, f"<div class='kd-explorer{one}'>{markup}</div>",
                spoken(options.get("notes")) or spoken(
                    "Move one slider at a time, and let the audience say what will happen before you do. "
                    + prose_around(item)),
                item.label)


def exercise(item, options):
    content = item.element.find("section")
    body = "".join(item.page.html(block) for [block] in [[b] for b in content.find_all(True, recursive=False)])
    name = f"<p class='kd-name'><b>{item.number}</b> {item.title}</p>"
    head = inline(options["line"]) if options.get("line") else "Try it"
    return Slide("exercise", head, f"<div class='kd-statement kd-exercise'>{name}"
                 f"<div class='kd-content'>{body}</div></div>",
                 spoken(options.get("notes")) or spoken("The solution is hidden in the book; give them time."),
                 item.label, "Exercise")


def closing(chapter, options):
    """Exercises to take home, and what to remember."""
    if chapter.exercises:
        rows = "".join(f"<li><b>{e.number.removeprefix('Exercise ')}</b> {e.title}</li>" for e in chapter.exercises)
        yield Slide("exercises", "Exercises", f"<ul class='kd-exercises'>{rows}</ul>",
                    spoken("Every exercise has a hidden solution in the book. At least one asks for the flaw in "
                           "a plausible false statement; do that one in class if there is time."), "exercises")
    points = options.get("points")
    if points:
        yield Slide("remember", "What to remember", bullets(points), spoken(options.get("notes")), "remember")
    elif chapter.goals is not None:
        yield Slide("remember", "You can now", chapter.html(chapter.goals),
                    spoken("Go through the goals once more, and ask which of them is still open."), "remember")


def text(options, book, name):
    points = bullets(options["points"]) if options.get("points") else ""
    shown = ""
    if options.get("show"):
        item = book.find(options["show"], name)
        shown = f"<div class='kd-key'>{item.page.html(item.element)}</div>"
    return Slide("text", inline(options.get("line", "")), shown + points, spoken(options.get("notes")),
                 "", "")


def make_slides(book, name, plan):
    """The slides of a chapter's deck in order, and the names of the chapters they are taken from."""
    chapter = book.chapter(name)
    made, pages = list(opening(chapter, plan["opening"])), {name}
    for item, options in entries(plan["slides"], book, name):
        if item is None:
            made.append(text(options, book, name))
            continue
        pages.add(item.page.name)
        if item.kind in MAKERS:
            result = MAKERS[item.kind](item, options)
            made.extend([result] if isinstance(result, Slide) else result)
        else:
            made.extend(statement(item, options))
    made.extend(closing(chapter, plan["remember"]))
    return made, sorted(pages)


MAKERS = {"figure": figure, "equation": equation, "explorer": explorer, "exercise": exercise}
