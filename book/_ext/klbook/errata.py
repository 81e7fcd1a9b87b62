"""``{errata}``: the table of known errors, from ``book/back/errata.yml``."""
from pathlib import Path

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

FILE = Path("book") / "back" / "errata.yml"
FIELDS = ("page", "said", "says", "found", "fixed")


def load(root):
    """Entries of the errata file, checked."""
    entries = yaml.safe_load((Path(root) / FILE).read_text(encoding="utf-8")) or []
    if not isinstance(entries, list):
        raise ValueError(f"{FILE} must be a list of entries")
    for place, entry in enumerate(entries, 1):
        missing = [name for name in FIELDS if not (isinstance(entry, dict) and entry.get(name))]
        if missing:
            raise ValueError(f"{FILE}, entry {place}: {', '.join(missing)} missing")
    return entries


class Errata(SphinxDirective):
    """A table with one row per error, or a sentence that none is known."""

    def run(self):
        self.env.note_dependency(str(Path(self.env.srcdir) / FILE))
        entries = load(self.env.srcdir)
        if not entries:
            return [nodes.paragraph("", nodes.Text("No error is known in a released version."))]
        lines = ["| where | it said | it says | found by | fixed in |", "|---|---|---|---|---|"]
        for entry in entries:
            page, _, anchor = entry["page"].partition("#")
            if page not in self.env.found_docs:
                raise ValueError(f"{FILE}: {page} is not a page of the book")
            where = f"{{doc}}`/{page}`" + (f" (`{anchor}`)" if anchor else "")
            cells = (where, *(" ".join(str(entry[name]).split()).replace("|", "\\|") for name in FIELDS[1:]))
            lines.append(f"| {' | '.join(cells)} |")
        box = nodes.container()
        self.state.nested_parse(StringList(lines, str(FILE)), self.content_offset, box)
        return box.children


def setup(app):
    app.add_directive("errata", Errata)
