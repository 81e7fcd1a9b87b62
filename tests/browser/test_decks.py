"""Every slide of every deck, as it is projected: it fits, it can be read, it is quiet and local."""
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
DECKS = [chapter["file"].replace("book/", "slides/") + ".html"
         for part in TOC["parts"] for chapter in part["chapters"] if chapter["file"].startswith("book/part")]

# What sticks out of a slide of 1280 x 720, and words too small for the back row.
# Indices, and letters inside a formula, may be smaller than the words around them.
MEASURE = """
() => {
  const slide = Reveal.getCurrentSlide(), body = slide.querySelector('.kd-body'), bad = [];
  if (slide.scrollHeight > 721) bad.push(`slide is ${slide.scrollHeight} high`);
  if (body.scrollHeight > body.clientHeight + 1) bad.push(`body ${body.scrollHeight} > ${body.clientHeight}`);
  const words = document.createTreeWalker(slide, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const node = words.currentNode, box = node.parentElement;
    if (!node.data.trim() || box.closest('aside, script, style, mjx-container, .kl-fallback, svg.kl-figure')) continue;
    if (!box.getClientRects().length) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const at = range.getBoundingClientRect();
    if (at.width && (at.bottom > 722 || at.right > 1281 || at.left < -1)) bad.push(`outside: ${node.data.slice(0, 30)}`);
    if (box.closest('sub, sup, tspan')) continue;
    const size = parseFloat(getComputedStyle(box).fontSize) * (box.currentCSSZoom || 1);
    if (size < (box.closest('svg') ? 16 : 20) - 0.1) bad.push(`${size.toFixed(1)} px: ${node.data.slice(0, 30)}`);
  }
  for (const formula of slide.querySelectorAll('.kd-body mjx-container')) {
    if (formula.getBoundingClientRect().right > 1281) bad.push('formula outside');
    if (parseFloat(getComputedStyle(formula).fontSize) < 20) bad.push('small formula');
  }
  return bad.map(what => `${slide.id}: ${what}`);
}
"""


def open_deck(visit, path, query="", **options):
    opened = visit(path + query, width=1280, height=720, **options)
    opened.page.wait_for_function("document.documentElement.dataset.deck === 'ready'", timeout=120_000)
    return opened


@pytest.mark.parametrize("path", DECKS)
def test_every_slide_fits_and_can_be_read(visit, path):
    opened = open_deck(visit, path)
    page, bad = opened.page, []
    for index in range(page.evaluate("Reveal.getTotalSlides()")):
        page.evaluate("index => Reveal.slide(index)", index)
        # An explorer draws anew once it has a width.
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        bad += page.evaluate(MEASURE)
    assert bad == []
    assert opened.errors == []
    assert opened.foreign == []


def test_arrow_keys_turn_the_slides_and_a_slider_keeps_them(visit):
    page = open_deck(visit, DECKS[0]).page
    page.keyboard.press("ArrowRight")
    assert page.evaluate("Reveal.getIndices().h") == 1
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("Reveal.getIndices().h") == 0
    page.evaluate("location.hash = '#/explore-tilt'")
    page.wait_for_function("Reveal.getCurrentSlide().id === 'explore-tilt'")
    slide = page.locator("section#explore-tilt")
    say, slider = slide.locator(".kl-say[role=status]"), slide.locator("input[type=range]").first
    here, before, value = page.evaluate("Reveal.getIndices().h"), say.inner_text(), slider.input_value()
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() != value
    assert say.inner_text() != before
    assert page.evaluate("Reveal.getIndices().h") == here
    page.keyboard.press("PageDown")  # what a presenter's clicker sends
    assert page.evaluate("Reveal.getIndices().h") == here + 1


def test_every_explorer_of_a_deck_answers_to_its_slider(visit):
    for path in DECKS[1::9]:
        page = open_deck(visit, path).page
        labels = page.evaluate(
            "Reveal.getSlides().filter(s => s.dataset.kind === 'explorer').map(s => s.id)")
        assert labels
        for label in labels:
            page.evaluate("label => { location.hash = '#/' + label; }", label)
            page.wait_for_function("label => Reveal.getCurrentSlide().id === label", arg=label)
            explorer = page.locator(f"section#{label}")
            before = explorer.locator(".kl-say[role=status]").inner_text()
            for slider in explorer.locator("input[type=range]").all():
                slider.focus()
                page.keyboard.press("ArrowRight")
            assert explorer.locator(".kl-say[role=status]").inner_text() != before, (path, label)


def test_notes_stay_off_the_screen_and_open_in_the_speaker_view(visit):
    opened = open_deck(visit, DECKS[0])
    page = opened.page
    assert not page.locator("aside.notes").first.is_visible()
    with page.context.expect_page() as popup:
        page.keyboard.press("s")
    speaker = popup.value
    speaker.wait_for_function("document.querySelector('.speaker-controls-notes .value')?.innerText.length > 20",
                              timeout=60_000)
    assert "hard" in speaker.locator(".speaker-controls-notes .value").inner_text()
    assert opened.foreign == []


def test_dark_slides_follow_the_palette_of_the_book(visit):
    page = open_deck(visit, DECKS[0]).page
    paper = "getComputedStyle(document.querySelector('.reveal-viewport')).backgroundColor"
    light = page.evaluate(paper)
    page.keyboard.press("d")
    assert page.evaluate(paper) != light
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_deck_prints_one_slide_a_page(visit):
    page = open_deck(visit, DECKS[0], query="?print-pdf").page
    page.wait_for_selector(".pdf-page", state="attached")
    slides = page.locator("section.kd-slide").count()
    assert page.locator(".pdf-page").count() == slides
    # A slide keeps its margins on paper.
    edges = page.evaluate("[...document.querySelectorAll('.kd-slide h2')].map(h => "
                          "h.getBoundingClientRect().left - h.closest('.pdf-page').getBoundingClientRect().left)")
    assert min(edges) >= 40
    pdf = page.pdf(prefer_css_page_size=True, print_background=True)
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") == slides
