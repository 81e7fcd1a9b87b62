"""Menus by keyboard, the form for a hub, and a chapter in JupyterLab at its link's path."""
import html
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CHAPTER = "book/part1/gibbs-policy"
sys.path.insert(0, str(ROOT / "tools"))
pytest.importorskip("playwright.sync_api", reason="browser tests are optional outside CI: needs playwright")

import lab as jupyter


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("label, words", [("launch-buttons", ["Binder", "Colab", "Other ways"]),
                                          ("page-buttons", ["Edit this page", "Report a problem"])])
def test_a_menu_opens_and_closes_by_keyboard(visit, label, words, width):
    page = visit(f"{CHAPTER}.html", width=width, height=844).page
    menu = page.locator(f".dropdown-{label} >> visible=true").first
    button = menu.locator("button")
    button.focus()
    page.keyboard.press("Enter")
    items = menu.locator(".dropdown-menu a")
    items.first.wait_for(state="visible")
    assert [text.strip() for text in items.all_inner_texts()] == words
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.innerText").strip() == words[0]
    box = menu.locator(".dropdown-menu").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    page.keyboard.press("Escape")
    items.first.wait_for(state="hidden")
    assert button.evaluate("b => b === document.activeElement")


@pytest.mark.parametrize("typed, start", [
    ("https://hub.example.edu", "https://hub.example.edu/hub/user-redirect/git-pull"),
    ("hub.example.edu/hub/home", "https://hub.example.edu/hub/user-redirect/git-pull"),
    ("https://example.edu/jupyter/user/ann/lab", "https://example.edu/jupyter/hub/user-redirect/git-pull"),
])
def test_the_form_makes_a_link_for_a_hub(visit, typed, start):
    opened = visit("book/how-to-run.html")
    page = opened.page
    page.get_by_label("Address of your hub").fill(typed)
    page.get_by_label("Chapter").select_option(label="The Gibbs policy")
    link = page.locator(".kl-hub output a")
    url = urlparse(link.get_attribute("href"))
    query = {key: values[0] for key, values in parse_qs(url.query).items()}
    assert f"{url.scheme}://{url.netloc}{url.path}" == start
    assert query["branch"] == "notebooks"
    name = query["repo"].rsplit("/", 1)[1]
    assert query["urlpath"] == f"lab/tree/{name}/notebooks/{CHAPTER}.ipynb"
    assert opened.foreign == [] and opened.errors == []


@pytest.mark.parametrize("typed", ["my hub", "ftp://hub.example.edu", "hub"])
def test_the_form_refuses_what_is_no_address(visit, typed):
    page = visit("book/how-to-run.html").page
    field = page.get_by_label("Address of your hub")
    field.fill(typed)
    assert page.locator(".kl-hub output a").count() == 0
    assert field.get_attribute("aria-invalid") == "true"
    assert "not a web address" in page.locator(".kl-hub output").inner_text()


@pytest.mark.slow
def test_a_chapter_opens_as_a_notebook_at_its_link_s_path(browser, site, tmp_path):
    """The path of the Binder link, in a real JupyterLab with what ``binder/postBuild`` sets up."""
    needed = ("jupyterlab", "jupyterlab_myst", "jupytext")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    page = (ROOT / f"_build/html/{CHAPTER}.html").read_text(encoding="utf-8")
    link = urlparse(html.unescape(re.search(r'href="(https://mybinder\.org[^"]*)"', page)[1]))
    urlpath = parse_qs(link.query)["urlpath"][0]
    home, programs = tmp_path / "home", Path(sys.executable).parent
    variables = jupyter.environment(home, [programs], PYTHONPATH=str(ROOT / "lib"))
    setting = next(line for line in (ROOT / "binder/postBuild").read_text().splitlines()
                   if line.startswith("jupytext-config"))
    jupyter.keep_cells_in_page(home / ".jupyter")
    subprocess.run(setting.split(), env=variables, check=True)
    command = [sys.executable, "-m", "jupyterlab"]
    root = tmp_path / "repository"  # a copy: JupyterLab saves what it has open
    (root / CHAPTER).parent.mkdir(parents=True)
    shutil.copy(ROOT / f"{CHAPTER}.md", root / f"{CHAPTER}.md")
    with jupyter.server(command, root, variables, tmp_path / "server.log") as base:
        context = browser.new_context(viewport={"width": 1280, "height": 1400})
        chapter = jupyter.Chapter(context.new_page(), base, urlpath)
        chapter.wait()
        opened = chapter.seen()
        assert opened["notebook"] == 1 and opened["text"] == 0
        stated, explorers = jupyter.promised((ROOT / f"{CHAPTER}.md").read_text(encoding="utf-8"))
        chapter.run(explorers)
        ran = chapter.seen()
        assert ran["errors"] == [] and chapter.foreign == []
        assert ran["proofs"] == stated > 10
        assert ran["live"] == explorers == chapter.explorer_answers() == 1
        context.close()
