"""Addresses that moved, the 404 page, errata and versions, on a book of four pages."""
import re

import pytest

from small_book import ROOT, extension, load_tool, make

SITE = "https://example.org/deep/site/"
MOVED = """
book/first/old: book/first/two
book/first/old#gone: book/first/one#kept
book/first/one#left: book/first/two#new-label
"""
ERRATA = "- {page: 'book/first/one#kept', said: 'a $x$ b', says: c, found: a reader, fixed: 0.1.1}\n"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make(tmp_path_factory.mktemp("book"), SITE, MOVED, ERRATA)


def test_moved_page_says_where_it_went(small):
    source = (small / "book/first/old.html").read_text()
    assert f'rel="canonical" href="{SITE}book/first/two.html"' in source
    assert '<meta http-equiv="refresh" content="0; url=two.html" />' in source
    assert '<a id="moved-to" href="two.html">Two</a>' in source
    script = re.search(r'<script src="([^"]*)"', source).group(1)
    assert (small / "book/first" / script).resolve().is_file()


def test_moved_anchor_stays_on_its_old_page(small):
    source = (small / "book/first/one.html").read_text()
    assert re.search(r'<li id="left">.*?<a href="two.html#new-label">Two</a>', source)
    assert (small / "book/first/two.html").read_text().count('id="new-label"') == 1


def test_published_list_accepts_what_moved_and_names_what_was_lost(small):
    published, redirects = load_tool("published"), extension("redirects")
    moved = redirects.load(small.parent.parent)
    old = ["book/first/one", "book/first/one#kept", "book/first/one#left", "book/first/old",
           "book/first/old#gone", "book/first/old#new-label"]
    assert published.lost(old, small, moved) == []
    lost = published.lost([*old, "book/first/one#never", "book/gone", "book/first/old#x"], small, moved)
    assert lost == ["book/first/one#never", "book/gone", "book/first/old#x"]
    words = published.advice(lost)
    assert "book/redirects.yml" in words and "book/gone: <" in words


@pytest.mark.parametrize("text, complaint", [
    ("book/first/one: book/first/two", "still a page"),
    ("book/old: book/none", "not a page of the book"),
    ("book/a: book/b\nbook/b: book/first/one", "which moved itself"),
    ("- book/a", "must map"),
    ("book/a: 3", "must both be addresses"),
])
def test_bad_redirects_are_refused(tmp_path, text, complaint):
    redirects = extension("redirects")
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "redirects.yml").write_text(text)
    pages = {"book/first/one", "book/first/two"}
    with pytest.raises(ValueError, match=complaint):
        redirects.check(redirects.load(tmp_path), pages.__contains__)


def test_404_page_starts_every_address_at_the_root_of_the_site(small):
    source = (small / "404.html").read_text()
    addresses = re.findall(r'(?:href|action|src)="([^"]*)"', source)
    assert len(addresses) >= 6
    for address in addresses:
        assert address.startswith("/deep/site/")
        assert (small / address.removeprefix("/deep/site/")).is_file()
    assert not re.search(r"PREFIX|HOME|TITLE|CONTENTS", source)
    assert "<script" not in source and "<link" not in source


def test_description_ends_before_the_first_formula_that_text_cannot_show(small):
    source = (small / "book/first/one.html").read_text()
    assert 'name="description" content="The price β is 1 &lt; 2."' in source
    assert 'property="og:title" content="One &amp; “only”"' in source


def test_pdf_is_named_only_where_it_is_published(small):
    source = (small / "book/index.html").read_text().split("</head>")[0]
    wrapped = re.search(r'<template class="kl-site" data-needs="pdf">(.*?)</template>', source).group(1)
    assert wrapped == f'<meta name="citation_pdf_url" content="{SITE}book.pdf" />'
    assert source.count("citation_pdf_url") == 1
    assert "citation_pdf_url" not in (small / "book/first/one.html").read_text()


def test_errata_make_a_table_with_links(small):
    source = (small / "book/back/changelog.html").read_text()
    assert '<a class="reference internal" href="../first/one.html">' in source
    assert "a reader" in source and "No error is known" not in source


def test_no_errata_make_a_sentence(tmp_path):
    source = (make(tmp_path) / "book/back/changelog.html").read_text()
    assert "No error is known" in source and "<table" not in source


def test_incomplete_erratum_is_refused(tmp_path):
    (tmp_path / "book/back").mkdir(parents=True)
    (tmp_path / "book/back/errata.yml").write_text("- {page: book/index, said: a}\n")
    with pytest.raises(ValueError, match="entry 1: says, found, fixed missing"):
        extension("errata").load(tmp_path)


def test_versions_that_disagree_are_refused(tmp_path):
    for name in ("CITATION.cff", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    assert extension("release").version(tmp_path)
    path = tmp_path / "CITATION.cff"
    path.write_text(re.sub(r"^version: .*$", "version: 9.9.9", path.read_text(), flags=re.M))
    with pytest.raises(ValueError, match="CITATION.cff says 9.9.9"):
        extension("release").version(tmp_path)


def test_citation_file_without_authors_is_refused(tmp_path):
    path = tmp_path / "CITATION.cff"
    path.write_text((ROOT / "CITATION.cff").read_text().replace("authors:", "writers:"))
    with pytest.raises(ValueError, match="lacks authors"):
        extension("release").citation(tmp_path)


def test_build_date_follows_source_date_epoch(monkeypatch, tmp_path):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert extension("release").build_date(tmp_path) == "1970-01-02"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    (tmp_path / "CITATION.cff").write_text((ROOT / "CITATION.cff").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", extension("release").build_date(tmp_path))


def test_names_of_people_and_groups_become_bibtex():
    people = [{"family-names": "Neumann", "name-particle": "von", "given-names": "John"},
              {"name": "The group"}]
    assert extension("cite").author_names(people) == "von Neumann, John and {The group}"
    assert extension("cite").plain_names(people) == ["John von Neumann", "The group"]
