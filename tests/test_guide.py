"""The instructor's guide: complete, consistent with the chapters, and strict about its files."""
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "book" / "teach" / "guide"
sys.path.insert(0, str(ROOT / "book" / "_ext"))
guide = pytest.importorskip("klbook.guide", reason="needs Sphinx")
FILES = sorted(GUIDE.rglob("*.yml"))
GOOD = yaml.safe_load((GUIDE / "part1" / "gibbs-policy.yml").read_text(encoding="utf-8"))


def listed_chapters():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    names = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [name.removeprefix("book/") for name in names if name.startswith("book/part")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_is_complete_and_its_chapter_exists(path):
    data = guide.load(path)
    name = path.relative_to(GUIDE).with_suffix("").as_posix()
    assert name in listed_chapters()
    assert data.get("goals") or len(guide.goals_of(ROOT / "book" / f"{name}.md")) >= 3
    assert len(data["mistakes"]) >= 2 and data["discuss"] and data["exam"]
    for entry in data["explorer"]:
        setting, sentence = guide.explorer_state(entry, name)
        assert len(sentence.split()) > 5
        assert "?" in entry["ask"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_guide_is_shown_on_a_page(path):
    name = path.relative_to(GUIDE).with_suffix("").as_posix()
    part = name.split("/")[0]
    assert f"{{chapter-guide}} {name}\n" in (ROOT / f"book/teach/guide-{part}.md").read_text(encoding="utf-8")


def written(tmp_path, **changes):
    data = {**yaml.safe_load(yaml.safe_dump(GOOD)), **changes}
    path = tmp_path / "part1" / "x.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({k: v for k, v in data.items() if v is not None}), encoding="utf-8")
    return path


@pytest.mark.parametrize("changes, message", [
    ({"board": None}, "missing"),
    ({"extra": [1]}, "unknown"),
    ({"mistakes": []}, "not empty"),
    ({"minutes": {"lecture": 75}}, "minutes must give"),
    ({"minutes": {"lecture": 60, "reading": 1, "exercises": 1}}, "board plan takes 75 minutes of 60"),
    ({"exam": [{"ask": "a", "answer": "b"}]}, "points"),
    ({"needs": ["see @[nothing]"]}, "no value 'nothing'"),
    ({"values": {**GOOD["values"], "idle": "1"}}, "never used"),
])
def test_a_bad_file_is_named(tmp_path, changes, message):
    with pytest.raises(guide.GuideError, match=message):
        guide.load(written(tmp_path, **changes))


@pytest.mark.parametrize("entry, message", [
    ({"id": "nothing"}, "no explorer"),
    ({"id": "tilt", "set": {"gamma": 1.0}}, "no control 'gamma'"),
    ({"id": "tilt", "set": {"beta": 1e9}}, "goes from"),
    ({"id": "frontier", "set": {"instance_name": "ugly"}}, "cannot be"),
])
def test_an_impossible_explorer_setting_is_named(entry, message):
    with pytest.raises(guide.GuideError, match=message):
        guide.explorer_state(entry, "here")


def test_values_are_computed(tmp_path):
    path = written(tmp_path, needs=["two is @[two]"], values={**GOOD["values"], "two": "1 + 1"})
    assert guide.load(path)["needs"] == ["two is 2"]


def test_the_semester_leaves_no_chapter_out():
    page = (ROOT / "book/teach/syllabus.md").read_text(encoding="utf-8")
    semester = page.split("## A semester")[1].split("\n## ")[0]
    assert [name for name in listed_chapters() if f"(../{name}.md)" not in semester] == []


def test_every_chapter_has_its_guide():
    assert [name for name in listed_chapters() if not (GUIDE / f"{name}.yml").exists()] == []
