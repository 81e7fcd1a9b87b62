"""Directives and roles in plain Markdown, with the book's own numbers."""
import importlib
import json
import re
import sys
import types
from pathlib import Path

import pytest

pytest.importorskip("jupytext")
ROOT = Path(__file__).resolve().parent.parent.parent
PLAIN = ROOT / "_build" / "plain"

# The package's own start imports Sphinx and every other module; this one needs neither.
package = types.ModuleType("klbook_alone")
package.__path__ = [str(ROOT / "book" / "_ext" / "klbook")]
sys.modules["klbook_alone"] = package
plain = importlib.import_module("klbook_alone.plain_markdown")

NUMBERS = plain.Numbers(
    named={"thm": ("Theorem 1.1", "A title"), "exr": ("Exercise 1.2", "(Try)")},
    equations={"eq-a": "1.3"}, figures={"fig-x": "Fig. 2"}, titles={"book/part2/there": "There"})
PAGE = '<span class="pasted-text">0.25</span> <span class="bibtex-citation" id="i">Gao <em>et al.</em> [<a>2023</a>]</span>'


def converted(text):
    return plain.Converter("book/part1/here", PAGE, NUMBERS).cell(text)


def test_a_statement_keeps_its_title_number_and_equations():
    text = converted("````{prf:theorem} A title\n:label: thm\n\nLet\n\n$$\nx = 1\n$$ (eq-a)\n\n```{math}\n:label: eq-a\ny\n```\n````\nAfter.")
    assert text.startswith("---\n\n**Theorem 1.1 (A title).**\n\nLet")
    assert "x = 1\n\\tag{1.3}\n$$" in text and "$$\ny\n\\tag{1.3}\n$$" in text
    assert text.endswith("---\n\nAfter.")


def test_roles_become_words():
    text = converted("By {prf:ref}`thm` and {eq}`eq-a`, {glue:text}`v:.2f` as {cite:t}`gao`; see {doc}`../part2/there`, {ref}`this <exr>`, {numref}`fig-x`.")
    assert text == "By Theorem 1.1 and (1.3), 0.25 as Gao et al. [2023]; see *There*, this, Fig. 2."


def test_exercises_and_solutions_over_several_cells():
    assert converted("```{exercise} Try\n:label: exr\n\nGo.\n```") == "**Exercise 1.2 (Try).**\n\nGo."
    assert converted("```{solution-start} exr\n:class: dropdown\n```\n\nSo.") == "**Solution of Exercise 1.2.**\n\nSo."
    assert converted("```{solution-end}\n```") == "∎"


@pytest.mark.parametrize("text", ["{prf:ref}`nowhere`", "{eq}`nowhere`", "```{tabs}\n```", "{unknown}`x`",
                                  "```{prf:proof}\nno end", "{glue:text}`a` {glue:text}`b`"])
def test_what_has_no_plain_form_is_refused(text):
    with pytest.raises(ValueError, match="book/part1/here: "):
        converted(text)


@pytest.mark.skipif(not PLAIN.is_dir(), reason="site not built: make html")
def test_no_chapter_of_the_book_keeps_markup():
    chapters = sorted(PLAIN.rglob("*.ipynb"))
    assert len(chapters) == len(list((ROOT / "book").glob("part*/*.md")))
    for path in chapters:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                left = re.findall(r"\{[\w:-]+\}`|^\s*(?:```|:::)\{?\w*|^\([\w-]+\)=", "".join(cell["source"]), re.M)
                assert left == [], f"{path}: {left}"
