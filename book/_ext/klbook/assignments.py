"""The assignments on the site: student versions to download, and the table that lists them.

The table's numbers come from the assignments themselves, so they cannot go stale.
"""
import sys
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

FOLDER = "assignments"
TOOLS = Path(__file__).resolve().parents[3] / "tools"


def _package():
    """The grading package, which lives beside the book."""
    if str(TOOLS) not in sys.path:
        sys.path.append(str(TOOLS))
    from grading import __main__ as commands
    from grading import questions

    return commands, questions


class Table(SphinxDirective):
    """``{assignments}``: one row per assignment, with points, hours and downloads."""

    def run(self):
        _, questions = _package()
        up = "../" * self.env.docname.count("/")
        rows = []
        for name in questions.names():
            a = questions.load(name)
            self.env.note_dependency(str(a.folder / "grade.py"))
            kinds = f"{sum(q.points for q in a.questions.values())} + {sum(a.written.values())}"
            href = f"{up}{FOLDER}/{name}"
            rows.append(
                f"<tr><td>{name.removeprefix('assignment')}</td><td>{escape(a.title)}</td>"
                f"<td>{escape(a.about['chapters'])}</td><td>{kinds}</td><td>{a.about['hours']}</td>"
                f'<td><a href="{href}.zip" download>zip</a></td></tr>')
        head = ("number", "asks about", "chapters", "points: graded by program + by a person",
                "hours", "student version")
        cells = "".join(f"<th>{h}</th>" for h in head)
        html = (f'<div class="pst-scrollable-table-container"><table class="table">'
                f"<thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>")
        return [nodes.raw("", html, format="html")]


def write(app, exception):
    """Put the student versions beside the pages."""
    if exception or app.builder.format != "html":
        return
    commands, _ = _package()
    commands.release(Path(app.outdir) / FOLDER)


def setup(app):
    app.add_directive("assignments", Table)
    app.connect("build-finished", write)
