"""Every explorer in Chromium: every control by mouse and keyboard, two widths, two themes."""

import functools
import http.server
import json
import random
import re
import shutil
import threading

import pytest

OPTIONAL = "browser tests are optional outside CI, where this is a failure: needs "
sync_api = pytest.importorskip("playwright.sync_api", reason=OPTIONAL + "playwright")
pytest.importorskip("anywidget", reason=OPTIONAL + "anywidget")

from klrlhf import explore
from klrlhf.explore.standalone import write_page

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome")
                 if (path := shutil.which(name))), None)
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
WIDTHS = (1280, 390)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explorers")
    widgets = {name: getattr(explore, name)() for name in explore.FACTORIES}
    for name, widget in widgets.items():
        write_page(folder, name, widget)
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", widgets
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(site, browser):
    """Opens an explorer's page; fails on console errors and on requests to other hosts."""
    base, _ = site
    contexts, problems = [], []

    def opened(name, width=1280, theme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 1000}, **options)
        contexts.append(context)

        def check(route):
            if route.request.url.startswith((base, "data:")):
                route.continue_()
            else:
                problems.append(route.request.url)
                route.abort()

        context.route("**/*", check)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda m: m.type == "error" and problems.append(m.text))
        page.goto(f"{base}/{name}.html")
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        if options.get("java_script_enabled", True):
            page.wait_for_selector(".kl-explorer[data-ready='1']", timeout=20_000)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not problems


def picture(page):
    """All curves as one text."""
    return page.evaluate("""() => [...document.querySelectorAll('.kl-body [data-series]')].map(
        n => n.dataset.series + ':' + (n.getAttribute('d') ?? n.getAttribute('transform') ?? '')
             + [...n.querySelectorAll("text:not([display='none'])")].map(
                 c => c.getAttribute('x') + c.textContent)).join('|')""")


def sentence(page):
    return page.inner_text(".kl-say[role=status]")


def seen(page):
    return picture(page), sentence(page)


def assert_moved(before, after, what):
    assert before[0] != after[0], f"{what}: no curve changed"
    assert before[1] != after[1], f"{what}: the sentence did not change"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", explore.FACTORIES)
def test_every_control_by_mouse_and_keyboard(open_page, site, name, width):
    page = open_page(name, width, theme="dark" if width == 390 else "light")
    start = seen(page)
    axes = page.inner_html(".kl-axes")
    for slider in page.query_selector_all(".kl-body input[type=range]"):
        what = f"{name} {slider.get_attribute('name')}"
        page.click("text=reset")
        spoken = slider.get_attribute("aria-valuetext")
        before = seen(page)
        slider.focus()
        at_the_end = slider.input_value() == slider.get_attribute("max")
        for _ in range(3):
            page.keyboard.press("ArrowLeft" if at_the_end else "ArrowRight")
        assert slider.get_attribute("aria-valuetext") != spoken, what
        assert_moved(before, seen(page), f"{what} by keyboard")
        if at_the_end:
            page.click("text=reset")
        before = seen(page)
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        x, y = box["x"] + 0.85 * box["width"], box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.12 * box["width"], y, steps=4)
        page.mouse.up()
        assert_moved(before, seen(page), f"{what} by mouse")
    page.click("text=reset")
    assert seen(page) == start, "reset"
    for row in page.query_selector_all(".kl-options"):
        radios = row.query_selector_all("input")
        what = f"{name} {radios[0].get_attribute('data-control')}"
        other = next(r for r in radios if not r.is_checked())
        before = seen(page)
        other.click()
        assert_moved(before, seen(page), f"{what} by mouse")
        before = seen(page)
        page.keyboard.press("ArrowRight")
        assert_moved(before, seen(page), f"{what} by keyboard")
    page.click("text=reset")
    assert seen(page) == start, "reset"
    for counter in page.query_selector_all(".kl-count"):
        field = counter.query_selector("input")
        what = f"{name} {field.get_attribute('name')}"
        page.click("text=reset")
        before = seen(page)
        counter.query_selector("button:last-child").click()
        assert_moved(before, seen(page), f"{what} by mouse")
        before = seen(page)
        field.focus()
        page.keyboard.press("ArrowUp")
        assert_moved(before, seen(page), f"{what} by keyboard")
    assert page.inner_html(".kl-axes") == axes, "the axes jumped"
    page.click("text=reset")
    assert seen(page) == start, "reset"
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width, f"the page is {wide} px wide"


@pytest.mark.parametrize("name", ["tilt_explorer", "frontier_explorer", "second_order_explorer",
                                  "plug_in_failure_explorer"])
def test_knobs_follow_the_pointer(open_page, name):
    page = open_page(name)
    for knob in page.query_selector_all(".kl-body .kl-handle"):
        knob.scroll_into_view_if_needed()
        before = seen(page)
        control = f".kl-body input[name={knob.get_attribute('data-control')}]"
        value = page.get_attribute(control, "data-value")
        box = knob.query_selector(".kl-knob").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 60, y - 35, steps=5)
        page.mouse.up()
        assert_moved(before, seen(page), name)
        assert page.get_attribute(control, "data-value") != value
        after = seen(page)
        page.mouse.move(x, y + 50, steps=3)
        assert seen(page) == after, "the knob follows a pointer that let go"


def test_knobs_follow_a_finger(open_page):
    page = open_page("tilt_explorer", 390, has_touch=True)
    knob = page.query_selector(".kl-body .kl-handle")
    knob.scroll_into_view_if_needed()
    before, scrolled = seen(page), page.evaluate("window.scrollY")
    box = knob.query_selector(".kl-knob").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.context.new_cdp_session(page)

    def touch(kind, points):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", [{"x": x, "y": y}])
    for step in range(1, 6):
        touch("touchMove", [{"x": x, "y": y - 12 * step}])
    touch("touchEnd", [])
    assert_moved(before, seen(page), "tilt by finger")
    assert page.evaluate("window.scrollY") == scrolled, "dragging a knob scrolled the page"


@pytest.mark.parametrize("name", explore.FACTORIES)
def test_static_frames_are_the_python_frames(open_page, site, name):
    """Random control settings: what the page draws is what the Python function computes."""
    widget = site[1][name]
    page = open_page(name)
    rng = random.Random(5)
    twin = bool(widget.design.twin)
    for _ in range(40 if twin else 12):
        values = {c.name: rng.choice(c.grid()) for c in widget.design.controls}
        if twin:  # a twin answers between grid points too
            values.update({c.name: rng.uniform(c.lo, c.hi) for c in widget.design.controls
                           if c.kind == "range"})
        browser_frame = page.evaluate("""async ([id, values]) => {
            const { makeModel } = await import('./hydrate.js');
            const text = document.querySelector('.kl-explorer script').textContent;
            const model = makeModel(JSON.parse(text));
            for (const [name, value] of Object.entries(values)) model.set(name, value);
            model.save_changes();
            return model.get('frame');
        }""", [name, values])
        frame = widget.design.frame(seed=0, **values)
        assert browser_frame["say"] == list(frame.parts), values
        assert browser_frame["numbers"] == [list(entry) for entry in frame.numbers]
        if twin:
            for key, value in frame.values.items():
                assert_close(browser_frame["values"][key], value, 1e-9, f"{key} at {values}")
        for panel, ours, theirs in zip(widget.design.panels, frame.marks, browser_frame["marks"],
                                       strict=True):
            assert [m["series"] for m in ours] == [m["series"] for m in theirs]
            for mine, yours in zip(ours, theirs, strict=True):
                assert mine.keys() == yours.keys()
                compare_mark(panel, mine, yours, exact=twin)


def assert_close(got, expected, tolerance, what):
    import numpy as np

    expected = np.asarray(expected, dtype=float)
    got = np.array([np.nan if v is None else v for v in np.ravel(np.array(got, dtype=object))],
                   dtype=float)
    size = np.nanmax(np.abs(expected), initial=0.0, where=np.isfinite(expected)) or 1.0
    assert np.allclose(got, expected.ravel(), rtol=0, atol=tolerance * size, equal_nan=True), what


def compare_mark(panel, mine, yours, exact):
    for key, value in mine.items():
        if key in ("x", "x0", "x1", "y", "y0", "y1", "lo", "hi"):
            axis = panel["x" if key[0] == "x" else "y"]
            lo, hi = axis["domain"]
            pairs = zip(as_list(value), as_list(yours[key]), strict=True)
            for a, b in pairs:
                if a is None or b is None:
                    assert (a is None or (axis["scale"] == "log" and a <= 0)) and b is None, key
                elif axis["scale"] == "log":
                    if lo / 10 < a < hi * 10:
                        assert abs(a / b - 1) < 0.01, (mine["series"], key)
                elif abs(a) < 2 * max(abs(lo), abs(hi)):
                    share = 1e-4 if exact else 1e-3
                    assert abs(a - b) < share * (hi - lo), (mine["series"], key)
        elif mine["kind"] == "cells" and key == "z":  # whole numbers survive packing
            assert value == yours[key], mine["series"]
        elif key not in ("z", "levels", "along"):
            assert value == yours[key] or abs(value - yours[key]) < 1e-3, (mine["series"], key)


def as_list(value):
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("name", explore.FACTORIES)
def test_assistive_tools(open_page, name):
    page = open_page(name)
    assert page.get_attribute(".kl-explorer", "aria-label")
    for node in page.query_selector_all(".kl-body input"):
        labels = node.evaluate("n => [...n.labels].map(l => l.innerText).join('')")
        assert labels.strip(), "an input without a label"
        assert node.get_attribute("data-lm-suppress-shortcuts") == "true"
    for slider in page.query_selector_all(".kl-body input[type=range]"):
        assert re.search(r"\S = \S", slider.get_attribute("aria-valuetext"))
    for svg in page.query_selector_all(".kl-body svg.kl-svg"):
        assert svg.get_attribute("role") == "img" and svg.get_attribute("aria-label")
    assert re.search(r"\d", sentence(page))
    series = page.evaluate("""() => [...document.querySelectorAll('.kl-body path[data-series]')]
        .map(n => n.dataset.series)""")
    assert len(series) > 2 and all(series)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", explore.FACTORIES)
def test_axe_finds_nothing_serious(open_page, name, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=OPTIONAL + "axe")
    page = open_page(name, theme=theme)
    found = axe.Axe().run(page).response["violations"]
    serious = [(v["id"], v["nodes"][0]["html"][:120]) for v in found
               if v["impact"] in ("serious", "critical")]
    assert not serious


@pytest.mark.parametrize("name", explore.FACTORIES)
def test_without_javascript(open_page, name):
    page = open_page(name, 390, java_script_enabled=False)
    for svg in page.query_selector_all(".kl-fallback svg.kl-svg"):
        box = svg.bounding_box()
        assert box["width"] > 200 and box["x"] + box["width"] <= 390
    assert re.search(r"\d", page.inner_text(".kl-fallback .kl-say"))


@pytest.mark.parametrize("name", explore.FACTORIES)
def test_on_paper(open_page, name):
    page = open_page(name)
    words = sentence(page)
    assert not page.is_visible(".kl-fallback")
    page.emulate_media(media="print")
    assert page.is_visible(".kl-fallback") and not page.is_visible(".kl-body")
    normal = functools.partial(re.sub, r"\s+", " ")
    assert normal(page.inner_text(".kl-fallback .kl-say")) == normal(words)


def test_links_to_the_function_in_the_book(open_page, site):
    page = open_page("frontier_explorer")
    assert page.query_selector(".kl-api a") is None
    source = page.content()
    assert "klrlhf.values.kl_frontier" in json.dumps(source)
    page.evaluate("""() => {
        document.documentElement.dataset.content_root = '../';
        const root = document.querySelector('.kl-explorer');
        root.querySelector('.kl-body').parentNode.remove();
        delete root.dataset.ready;
    }""")
    page.evaluate("""async () => (await import('./hydrate.js')).hydrate(
        document.querySelector('.kl-explorer'))""")
    link = page.get_attribute(".kl-api a", "href")
    assert link == "../back/api.html#klrlhf.values.kl_frontier"
