"""What the built site says about itself: metadata, cards, citations, sitemap, addresses."""
import html
import json
import re
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from pybtex.database import parse_string

from small_book import load_tool

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
CHAPTERS = [chapter["file"] for part in TOC["parts"] if part.get("numbered")
            for chapter in part["chapters"]]
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]

built = pytest.mark.skipif(not (HTML / "index.html").exists(), reason="site not built: make html")


def read(name):
    return (HTML / f"{name}.html").read_text(encoding="utf-8")


def tags(source):
    """Meta tags of a page: name or property to its contents, in order."""
    found = {}
    for tag in re.findall(r"<meta [^>]*>", source.split("</head>")[0]):
        key = re.search(r'(?:name|property)="([^"]*)"', tag)
        content = re.search(r'content="([^"]*)"', tag)
        if key and content:
            found.setdefault(key.group(1), []).append(html.unescape(content.group(1)))
    return found


def site():
    """The address that this build was made for."""
    landing = re.search(r'rel="canonical" href="([^"]*)"', read(TOC["root"])).group(1)
    return landing.removesuffix(f"{TOC['root']}.html")


def entries(source):
    """BibTeX entries printed on a page."""
    blocks = re.findall(r'class="highlight-bibtex[^"]*">(.*?)</pre>', source, re.S)
    text = html.unescape(re.sub(r"<[^>]+>", "", "\n".join(blocks)))
    return parse_string(text, "bibtex").entries


def unbraced(text):
    return text.replace("{", "").replace("}", "").replace("\\", "")


@built
@pytest.mark.parametrize("name", PAGES)
def test_page_describes_itself(name):
    found = tags(read(name))
    assert {len(found[key]) for key in ("description", "og:title", "og:url", "og:image")} == {1}
    words = found["description"][0]
    assert 40 <= len(words) <= 300 and "\\" not in words and "$" not in words
    assert found["og:description"] == found["twitter:description"] == [words]
    assert found["og:url"] == [f"{site()}{name}.html"]
    heading = re.search(r"<h1>(.*?)(?:<a|</h1>)", read(name), re.S).group(1)
    heading = html.unescape(re.sub(r'<span class="section-number">.*?</span>|<[^>]+>', "", heading))
    if name != TOC["root"]:
        assert found["og:title"] == [heading.strip()]


@built
def test_descriptions_differ():
    words = [tags(read(name))["description"][0] for name in PAGES]
    assert len(set(words)) == len(words)


@built
@pytest.mark.parametrize("name", PAGES)
def test_card_exists_and_is_small(name):
    from PIL import Image

    address = tags(read(name))["og:image"][0]
    assert address.startswith(site())
    path = HTML / address.removeprefix(site())
    with Image.open(path) as card:
        assert card.size == (1200, 630)
        assert len(card.convert("RGB").getcolors(1 << 20)) > 10, "an empty card"
    assert path.stat().st_size < 40_000


@built
def test_each_page_has_a_card_of_its_own():
    cards = {(HTML / tags(read(name))["og:image"][0].removeprefix(site())).read_bytes() for name in PAGES}
    assert len(cards) == len(PAGES)


@built
@pytest.mark.parametrize("name", [TOC["root"], *CHAPTERS])
def test_scholar_tags_agree_with_the_citation_file(name):
    found = tags(read(name))
    book = CITATION["preferred-citation"]
    assert found["citation_author"] == [person["name"] for person in book["authors"]]
    assert found["citation_publication_date"] == [str(CITATION["date-released"]).replace("-", "/")]
    assert found["citation_title"] == found["og:title"]
    assert found.get("citation_inbook_title") == (None if name == TOC["root"] else [book["title"]])
    assert found["citation_public_url"] == found["og:url"]


@built
@pytest.mark.parametrize("name", [TOC["root"], *CHAPTERS])
def test_linked_data_is_a_book_and_its_chapters(name):
    script = re.search(r'<script type="application/ld\+json">(.*?)</script>', read(name), re.S)
    record = json.loads(script.group(1))
    title = CITATION["preferred-citation"]["title"]
    if name == TOC["root"]:
        assert (record["@type"], record["name"]) == ("Book", title)
    else:
        assert (record["@type"], record["isPartOf"]["name"]) == ("Chapter", title)
        assert record["position"] == str(CHAPTERS.index(name) + 1)


@built
def test_bibtex_of_the_book_is_the_citation_file():
    book = CITATION["preferred-citation"]
    found = [entry for entry in entries(read("book/back/cite")).values() if entry.type == "book"]
    assert len(found) == 1
    fields = found[0].fields
    assert unbraced(fields["title"]) == book["title"]
    assert [unbraced(str(person)) for person in found[0].persons["author"]] == \
        [person["name"] for person in book["authors"]]
    assert fields["year"] == str(book["year"])
    assert fields["note"] == f"Version {CITATION['version']}"
    assert fields["url"] == site()


@built
@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_ends_with_its_own_entry(name):
    found = entries(read(name))
    assert len(found) == 1
    (key, entry), = found.items()
    assert key.endswith(name.rsplit("/", 1)[-1])
    assert [unbraced(entry.fields["title"])] == tags(read(name))["og:title"]
    assert entry.fields["url"] == f"{site()}{name}.html"
    assert entry.fields["chapter"] == str(CHAPTERS.index(name) + 1)
    assert unbraced(entry.fields["booktitle"]) == CITATION["preferred-citation"]["title"]


@built
def test_single_result_is_cited_by_its_number():
    page = html.unescape(re.sub(r"<[^>]+>", "", read("book/back/cite")))
    number = re.search(r'id="gibbs-variational">\s*<p class="admonition-title"><span class="caption-number">'
                       r"(\w+ [\d.]+)", read("book/part1/gibbs-policy")).group(1)
    assert f"\\cite[{number.replace(' ', '~')}]{{klrlhf2026-gibbs-policy}}" in page


def test_one_version_everywhere():
    import klrlhf

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert klrlhf.__version__ == project["version"] == str(CITATION["version"])
    assert str(CITATION["preferred-citation"]["version"]) == project["version"]
    changes = (ROOT / "book/back/changelog.md").read_text()
    first = re.search(r"^## (\S+) \((\S+)\)$", changes, re.M)
    assert first.groups() == (project["version"], str(CITATION["date-released"]))


def test_citation_file_names_the_book_s_home():
    assert CITATION["url"] == CONFIG["html"]["baseurl"]
    assert CITATION["repository-code"] == CONFIG["repository"]["url"]


@built
@pytest.mark.parametrize("name", PAGES)
def test_footer_says_the_version_and_links_to_the_changes(name):
    found = re.search(r'<p class="kl-version"><a href="([^"]*)">Version ([^<]*)</a>, '
                      r'<time datetime="(\d{4}-\d\d-\d\d)">\3</time>', read(name))
    assert found.group(2) == str(CITATION["version"])
    target = (HTML / f"{name}.html").parent / found.group(1).partition("#")[0]
    assert found.group(1) == "#" or target.resolve() == HTML / "book/back/changelog.html"


@built
def test_sitemap_lists_exactly_the_listed_pages():
    space = "{http://www.sitemaps.org/schemas/sitemap/0.9}"
    root = ElementTree.parse(HTML / "sitemap.xml").getroot()
    assert root.tag == f"{space}urlset"
    assert [url.find(f"{space}loc").text for url in root] == [f"{site()}{name}.html" for name in PAGES]
    days = [url.find(f"{space}lastmod") for url in root]
    assert all(day is None or re.fullmatch(r"\d{4}-\d\d-\d\d", day.text) for day in days)
    assert f"Sitemap: {site()}sitemap.xml" in (HTML / "robots.txt").read_text()
    assert (HTML / ".nojekyll").exists()


@built
def test_root_leads_to_the_landing_page_and_carries_its_card():
    source = (HTML / "index.html").read_text()
    assert f'url={TOC["root"]}.html"' in source
    assert tags(source)["og:image"] == tags(read(TOC["root"]))["og:image"]


def workflows():
    return {path.name: path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")}


def test_workflows_call_targets_that_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    used = {name: re.findall(r"\bmake ([a-z]+)", text) for name, text in workflows().items()}
    assert sum(map(len, used.values())) >= 3
    assert {target for names in used.values() for target in names} <= targets


def test_workflows_ask_for_no_more_than_they_need():
    for name, text in workflows().items():
        flow = yaml.safe_load(text)
        assert flow["permissions"] == {"contents": "read"}, name
        for job in flow["jobs"].values():
            for step in job.get("steps", []):
                assert re.fullmatch(r"[\w./-]+@v\d+", step.get("uses", "a@v1")), step


@built
def test_404_page_names_the_book_and_lists_its_pages():
    source = html.unescape((HTML / "404.html").read_text())
    base = re.sub(r"^\w+://[^/]+", "", site())
    assert f'<a href="{base}{TOC["root"]}.html">{CONFIG["title"]}</a>' in source
    for name in PAGES:
        assert f'href="{base}{name}.html"' in source


@built
def test_every_published_address_still_leads_somewhere():
    published = load_tool("published")
    moved = yaml.safe_load((ROOT / "book" / "redirects.yml").read_text()) or {}
    old = published.remembered()
    assert len(old) > 400
    missing = published.lost(old, HTML, moved)
    assert not missing, published.advice(missing)
