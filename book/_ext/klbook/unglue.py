"""What only the build of this book needs, taken out of a chapter's cells.

A chapter hands numbers to its prose with ``glue``, which belongs to the site's build. A downloaded
notebook has the numbers themselves in its prose, so its code needs neither the calls nor the import.
"""
import ast
import json
import re
from pathlib import Path

ROLE = re.compile(r"\{glue:text\}`([^`]+)`")
GLUE = "glue"


def mentions(node, names):
    return any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(node))


def doomed(statements, names):
    """Statements to leave out: imports of glue, calls of it, and blocks that hold nothing else.

    A function that does nothing but hand over numbers goes too, and its name joins ``names``.
    """
    found = []
    for node in statements:
        if (isinstance(node, ast.ImportFrom) and node.module == "myst_nb"
                or isinstance(node, ast.Expr) and mentions(node, names)):
            found.append(node)
            continue
        body, other = getattr(node, "body", None), getattr(node, "orelse", None)
        if not isinstance(body, list):
            continue
        inner = doomed(body, names)
        if inner and len(inner) == len(body) and not other:
            found.append(node)
            names |= {node.name} if isinstance(node, ast.FunctionDef) else set()
        else:
            found += inner + doomed(other or [], names)
    return found


def without_glue(sources):
    """The code of a chapter's cells without glue; an empty string where nothing is left."""
    names, clean = {GLUE}, []
    for source in sources:
        if not any(name in source for name in names):
            clean.append(source)
            continue
        lines = source.splitlines()
        found = doomed(ast.parse(source).body, names)
        for node in sorted(found, key=lambda node: -node.lineno):
            del lines[node.lineno - 1:node.end_lineno]
        left = "\n".join(lines).strip("\n")
        rest = ast.parse(left)
        if mentions(rest, names):
            raise ValueError(f"glue cannot be taken out of this cell of a notebook:\n{source}")
        clean.append(left if rest.body else "")
    return clean


def numbers(app, docname):
    """What the last execution of a chapter handed to its prose: texts by name."""
    path = Path(app.outdir).parent / "jupyter_execute" / f"{docname}.glue.json"
    if not path.is_file():
        return {}
    glued = json.loads(path.read_text(encoding="utf-8"))
    return {name: output["data"]["text/plain"] for name, output in glued.items()}


def formatted(text, form):
    """A glued value as MyST-NB's ``{glue:text}`` prints it."""
    from myst_nb.core.variables import format_plain_text

    return format_plain_text(text, form or "s")


def prose(source, known):
    """Markdown with every glued number written out."""
    def write(match):
        name, _, form = match[1].partition(":")
        if name not in known:
            raise KeyError(f"the prose quotes {name!r}, which no cell handed over")
        return formatted(known[name], form)

    return ROLE.sub(write, source)
