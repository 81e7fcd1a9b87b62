"""Every page, as a reader opens it: quiet console, no other host, fits a phone, passes axe."""
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent


def pages():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [f"{name}.html" for name in (toc["root"], *chapters)] + ["genindex.html", "search.html"]


PAGES = pages()
OVERFLOWING = """
() => [...document.querySelectorAll('body *')].filter(e => {
  if (e.ownerSVGElement) return false;  // clipped by its drawing
  const r = e.getBoundingClientRect();
  if (r.right <= innerWidth + 1 || r.width === 0) return false;
  for (let p = e.parentElement; p; p = p.parentElement) {
    const o = getComputedStyle(p);
    if (o.overflowX !== 'visible' || o.position === 'fixed') return false;
  }
  return getComputedStyle(e).position !== 'fixed';
}).slice(0, 5).map(e => e.tagName + '.' + e.className)
"""


def axe_source():
    spec = find_spec("axe_playwright_python")
    if spec is None:
        pytest.skip("axe-playwright-python is not installed")
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def axe():
    return axe_source()


@pytest.mark.parametrize("path", PAGES)
def test_page_is_quiet_and_local(visit, path):
    opened = visit(path)
    assert opened.errors == []
    assert opened.foreign == []


@pytest.mark.parametrize("path", PAGES)
def test_page_fits_a_phone(visit, path):
    opened = visit(path, width=390, height=844)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.page.evaluate(OVERFLOWING) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing_serious(visit, axe, path, scheme):
    opened = visit(path, scheme=scheme)
    page = opened.page
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    # What a reader can open must pass as well.
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    # A formula is a few thousand elements to axe, and none of them are ours: a word stands in for it.
    page.evaluate("document.querySelectorAll('mjx-container').forEach(m => m.replaceWith('formula'))")
    page.evaluate(axe)
    # Only colours depend on the theme.
    found = page.evaluate(
        """scheme => axe.run({exclude: [['svg.kl-figure']]}, {
             resultTypes: ['violations'],
             ...(scheme === 'dark' ? {runOnly: ['color-contrast', 'link-in-text-block']} : {}),
           })""", scheme)["violations"]
    bad = [
        {"id": v["id"], "impact": v["impact"], "nodes": [n["html"][:160] for n in v["nodes"][:3]],
         "count": len(v["nodes"])}
        for v in found if v["impact"] in ("serious", "critical")
    ]
    assert bad == [], json.dumps(bad, indent=1)


def test_theme_switch_changes_the_colours_of_figures(visit):
    colours = []
    for scheme in ("light", "dark"):
        page = visit("book/part1/temperature.html", scheme=scheme).page
        figure = page.locator("svg.kl-figure").first
        assert figure.count()
        colours.append(page.evaluate(
            "getComputedStyle(document.documentElement).getPropertyValue('--kl-empirical').trim()"))
    assert colours[0] != colours[1]


def test_proof_folds_by_keyboard(visit):
    page = visit("book/part1/gibbs-policy.html").page
    proof = page.locator("details.kl-proof").first
    assert proof.get_attribute("open") is None
    proof.locator("summary").focus()
    page.keyboard.press("Enter")
    assert proof.get_attribute("open") is not None
    assert proof.locator(".kl-proof-body").is_visible()


def test_proofs_print_unfolded(visit):
    page = visit("book/part1/gibbs-policy.html").page
    page.emulate_media(media="print")
    heights = page.evaluate(
        "[...document.querySelectorAll('details.kl-proof')].map(d => d.getBoundingClientRect().height)")
    assert heights and min(heights) > 60


def test_check_under_a_theorem_opens_to_its_steps(visit):
    page = visit("book/part1/gibbs-policy.html").page
    check = page.locator("#gibbs-variational + details.kl-check")
    assert "checked on" in check.locator("summary").inner_text()
    check.locator("summary").click()
    assert check.locator("tbody tr").count() >= 2


def test_pages_read_without_scripts(visit):
    page = visit("book/part1/gibbs-policy.html", java_script_enabled=False).page
    assert page.locator(".bd-article h1").is_visible()
    page.locator("details.kl-proof summary").first.click()
    assert page.locator("details.kl-proof .kl-proof-body").first.is_visible()
