"""The ways out of each page lead where they say: files of this repository and of the built site."""
import html
import json
import os
import re
import stat
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
# The repository that the pages name: the settings', or a fork's.
HOME = os.environ.get("BOOK_REPOSITORY") or os.environ.get("GITHUB_REPOSITORY") or \
    yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"].split("github.com/")[1]
BRANCH = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["branch"]
LINK = re.compile(r'<a href="([^"]*)" target="_blank"([^>]*?)\s+class="btn btn-sm btn-([\w-]+)')

pytestmark = pytest.mark.skipif(not (HTML / "index.html").exists(), reason="site not built: make html")


def listed_pages():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def runs(name):
    return "kernelspec" in (ROOT / f"{name}.md").read_text(encoding="utf-8")[:400]


PAGES = listed_pages()
CHAPTERS = [name for name in PAGES if runs(name)]
CELLS_OF_SITE_ONLY = ("glue(", "myst_nb")


def links(name):
    """The menus' links of a page by label: address, other attributes."""
    found = LINK.findall((HTML / f"{name}.html").read_text(encoding="utf-8"))
    return {label: (html.unescape(url), rest) for url, rest, label in found}


def notebook(name):
    return json.loads((HTML / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))


def source(cell):
    return cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])


def test_there_are_chapters():
    assert len(CHAPTERS) >= 28


@pytest.mark.parametrize("name", CHAPTERS)
def test_binder_opens_this_chapter_s_source(name):
    url = urlparse(links(name)["launch-binder"][0])
    assert (url.scheme, url.netloc) == ("https", "mybinder.org")
    assert url.path == f"/v2/gh/{HOME}/{BRANCH}"
    place = parse_qs(url.query)["urlpath"][0]
    assert place == f"lab/tree/{name}.md"
    assert (ROOT / place.removeprefix("lab/tree/")).is_file()


@pytest.mark.parametrize("name", CHAPTERS)
def test_colab_opens_this_chapter_s_built_notebook(name):
    url = urlparse(links(name)["launch-colab"][0])
    assert (url.scheme, url.netloc) == ("https", "colab.research.google.com")
    path = unquote(url.path).removeprefix(f"/github/{HOME}/blob/notebooks/")
    assert path == f"notebooks/{name}.ipynb"
    assert (HTML / path).is_file()


@pytest.mark.parametrize("name", PAGES)
def test_edit_link_leads_to_the_page_s_source(name):
    url, _ = links(name)["page-edit"]
    start = f"https://github.com/{HOME}/edit/{BRANCH}/"
    assert url == f"{start}{name}.md"
    assert (ROOT / url.removeprefix(start)).is_file()


@pytest.mark.parametrize("name", [*PAGES, "search", "genindex"])
def test_report_link_fills_in_the_form_with_the_page(name):
    url = urlparse(links(name)["page-report"][0])
    assert url.netloc + url.path == f"github.com/{HOME}/issues/new"
    query = {key: values[0] for key, values in parse_qs(url.query).items()}
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE" / query.pop("template")).read_text())
    fields = {field.get("id") for field in form["body"]}
    assert query["page"].startswith("https://") and query["page"].endswith(f"/{name}.html")
    assert len(query["title"]) > 3 and "<" not in query["title"]
    assert set(query) <= fields | {"title"}


@pytest.mark.parametrize("name", PAGES)
def test_other_sites_get_no_handle_on_the_page(name):
    for url, rest in links(name).values():
        assert not url.startswith("http") or 'rel="noopener"' in rest, url


@pytest.mark.parametrize("name", CHAPTERS)
def test_download_needs_only_its_library(name):
    cells = notebook(name)["cells"]
    code = [source(cell) for cell in cells if cell["cell_type"] == "code"]
    assert f"git+https://github.com/{HOME}@{BRANCH}" in code[0] and "klrlhf[plot,widgets]" in code[0]
    for text in code:
        assert not any(word in text for word in CELLS_OF_SITE_ONLY), text
    prose = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")
    assert "{glue:" not in prose


def test_glued_numbers_are_written_out():
    page = (HTML / "book/part1/gibbs-policy.html").read_text(encoding="utf-8")
    number = re.search(r'The median share explained is <span class="pasted-text">([^<]+)<', page)[1]
    prose = "".join(source(cell) for cell in notebook("book/part1/gibbs-policy")["cells"])
    assert f"The median share explained is {number} of the gap" in prose


def test_binder_s_files_say_what_binder_reads():
    """Binder runs ``pip install -r binder/requirements.txt`` and then ``binder/postBuild``."""
    folder = ROOT / "binder"
    assert (folder / "runtime.txt").read_text().strip() == "python-3.11"
    named = [line.removeprefix("-r ").strip() for line in (folder / "requirements.txt").read_text().split("\n")
             if line.startswith("-r ")]
    assert [(folder / name).resolve() for name in named] == [ROOT / "requirements.txt"]
    assert (folder / "postBuild").stat().st_mode & stat.S_IXUSR
    needed = (ROOT / "requirements.txt").read_text()
    assert all(f"\n{name}==" in needed for name in ("jupyterlab", "jupyterlab-myst", "jupytext"))


def test_hub_form_offers_each_chapter():
    page = (HTML / "book/how-to-run.html").read_text(encoding="utf-8")
    offered = re.findall(r'<option value="([^"]+)">', page)
    assert offered == [f"notebooks/{name}.ipynb" for name in CHAPTERS if name != "book/index"]
    assert all((HTML / path).is_file() for path in offered)
    assert not re.search(r"<form[^>]*\son\w+=", page)


def first_code(name):
    return next(source(cell) for cell in notebook(name)["cells"] if cell["cell_type"] == "code")


@pytest.mark.parametrize("missing", ["klrlhf", "anywidget"])
@pytest.mark.parametrize("on_colab", [True, False])
def test_first_cell_installs_on_colab_only(monkeypatch, missing, on_colab):
    """On Colab pip is asked for the library; elsewhere the cell stops and says what to ask for."""
    import importlib.util
    import sys

    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    asked, found = [], importlib.util.find_spec
    shell.register_magic_function(asked.append, magic_name="pip")
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *rest: None if name == missing else found(name, *rest))
    if on_colab:
        monkeypatch.setitem(sys.modules, "google.colab", object())
    result = shell.run_cell(first_code("book/part1/gibbs-policy"), store_history=False)
    line = f"klrlhf[plot,widgets] @ git+https://github.com/{HOME}@{BRANCH}"
    if on_colab:
        assert result.success and asked == [f'install --quiet "{line}"']
    else:
        assert asked == [] and isinstance(result.error_in_exec, ModuleNotFoundError)
        assert line in str(result.error_in_exec)


def test_first_cell_does_nothing_where_the_library_is():
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    asked = []
    shell.register_magic_function(asked.append, magic_name="pip")
    assert shell.run_cell(first_code("book/part1/gibbs-policy"), store_history=False).success
    assert asked == []
