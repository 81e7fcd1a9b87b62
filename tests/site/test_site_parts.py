"""The steps of ``make site`` that need no browser: templates, settings, Pyodide's folder, wheels."""
import importlib
import json
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tools" / "site")]
build_site, lite, pyodide, wheels = map(
    importlib.import_module, ("build_site", "lite", "pyodide", "wheels"))


def test_templates_are_unwrapped_only_where_their_part_was_built(tmp_path):
    page = tmp_path / "deep" / "page.html"
    page.parent.mkdir()
    text = "".join(f'<template class="kl-site" data-needs="{part}"><b>{part}</b></template>' for part in ("lite", "pdf"))
    page.write_text(f"<p>{text}</p>")
    build_site.settle(tmp_path, {"pdf"})
    assert page.read_text() == "<p><b>pdf</b></p>"


@pytest.mark.parametrize("where, kept", [("public", "from a host"), ("site", "from here")])
def test_the_notice_beside_the_button_is_the_true_one(tmp_path, where, kept):
    page = tmp_path / "page.html"
    page.write_text('<template class="kl-site" data-needs="lite"><p>B<small data-python="public">from a host'
                    '</small><small data-python="site">from here</small></p></template>')
    build_site.settle(tmp_path, {"lite"}, where)
    assert page.read_text() == f'<p>B<small data-python="{where}">{kept}</small></p>'


def test_offline_settings_name_no_other_host():
    text = json.dumps(lite.settings(True, ["klrlhf-0.1.0-py3-none-any.whl"]))
    assert "//" not in text
    online = json.dumps(lite.settings(False, []))
    assert online.count("//") == 1 and pyodide.PUBLIC in online
    assert '"disablePyPIFallback": true' in text and '"disablePyPIFallback": true' in online


def test_the_notice_names_the_host_that_is_asked():
    source = (ROOT / "book" / "_ext" / "klbook" / "lite_button.py").read_text()
    assert f'HOST = "{pyodide.HOST}"' in source
    assert f"//{pyodide.HOST}/" in pyodide.PUBLIC and f"v{pyodide.VERSION}/" in pyodide.PUBLIC


@pytest.mark.parametrize("lock, problem", [
    (None, "not a Pyodide folder"),
    ({"info": {"version": "0.20.0"}, "packages": {}}, "version 0.20.0"),
    ({"info": {"version": pyodide.VERSION}, "packages": {}}, "has no package"),
])
def test_a_wrong_pyodide_folder_is_refused_with_the_reason(tmp_path, lock, problem):
    if lock:
        (tmp_path / "pyodide-lock.json").write_text(json.dumps(lock))
    with pytest.raises(SystemExit, match=problem):
        pyodide.copy(tmp_path, tmp_path / "copy")


def test_the_small_wheel_has_glue_and_a_font_list_that_names_shipped_fonts(tmp_path):
    with zipfile.ZipFile(wheels.write_company(tmp_path)) as archive:
        space = {}
        exec(archive.read("myst_nb/__init__.py"), space)
        assert space["glue"]("name", 3.0, display=False) is None and space["glued"] == {"name": 3.0}
        fonts = json.loads(archive.read("klrlhf_browser/fontlist.json"))
        assert fonts["_version"] == wheels.FONT_LIST_VERSION
        assert fonts["ttflist"] and all(f["fname"].startswith("fonts/ttf/") for f in fonts["ttflist"])
        compile(archive.read("klrlhf_browser/startup.py"), "startup.py", "exec")


def test_versions_of_the_widgets_agree_everywhere():
    def pins(name):
        lines = (ROOT / name).read_text().splitlines()
        return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))

    book, here, inside = pins("requirements.txt"), pins("requirements-lite.txt"), pins("requirements-lite-wheels.txt")
    for name in ("ipywidgets", "anywidget"):
        assert book[name] == here[name] == inside[name]
