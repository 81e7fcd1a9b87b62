"""Chapters as notebooks that any Jupyter shows well: MyST directives and roles in plain Markdown.

JupyterLite and Colab know nothing of this book's theorems, labels, citations and glued numbers (and
jupyterlab-myst, which knows theorems, numbers them per notebook and knows neither the bibliography,
nor another chapter's labels, nor glue). Here each becomes bold labels and words, with the title and
number that the book gives it, taken from the built pages. The code cells stay as they are.
"""
import html
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import jupytext
import nbformat

from .notebooks import is_notebook
from .self_check_source import as_markdown

FOLDER = "plain"  # beside the built pages, not among them
TITLE = re.compile(
    r'<div class="[^"]*\badmonition" id="([\w-]+)">\s*<p class="admonition-title">'
    r'<span class="caption-number">\s*(.*?)\s*</span>(.*?)</p>', re.DOTALL)
EQUATION = re.compile(r'<span class="eqno">\(([^()<]+)\)<a class="headerlink" href="#equation-([\w-]+)"')
FIGURE = re.compile(r'<figure[^>]* id="([\w-]+)".*?<span class="caption-number">\s*(.*?)\s*</span>', re.DOTALL)
TABLE = re.compile(r'<table[^>]* id="([\w-]+)">\s*<caption><span class="caption-number">\s*(.*?)\s*</span>', re.DOTALL)
HEADING = re.compile(r"<h1>(.*?)</h1>", re.DOTALL)
GLUED = re.compile(r'<span class="pasted-(?:text|inline)">(.*?)</span>', re.DOTALL)
CITED = re.compile(r'<span class="bibtex-citation"[^>]*>(.*?)</span>', re.DOTALL)

FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|:{3,})\{(?P<name>[\w:-]+)\}[ \t]*(?P<argument>.*)$")
OPTION = re.compile(r"^[ \t]*:([\w-]+):[ \t]*(.*)$")
ROLE = re.compile(r"\{([\w:]+)\}`([^`]*)`")
DISPLAY = re.compile(r"^(?P<indent>[ \t]*)\$\$[ \t]*\((?P<label>[\w-]+)\)[ \t]*$", re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)[^)\s]*\.md(?:#[^)]*)?\)")
TARGET = re.compile(r"^\([\w-]+\)=[ \t]*\n", re.MULTILINE)


@dataclass
class Numbers:
    """What the book calls its numbered things, by label, and its pages, by document name."""

    named: dict = field(default_factory=dict)  # label: ("Theorem 1.1", "Gibbs variational principle")
    equations: dict = field(default_factory=dict)
    figures: dict = field(default_factory=dict)
    titles: dict = field(default_factory=dict)


def words(markup):
    """The text of a piece of a built page; formulas in dollars."""
    text = html.unescape(re.sub(r"<[^>]+>", "", markup)).replace("#", "")
    return " ".join(re.sub(r"\\\((.*?)\\\)", r"$\1$", text).split())


def read_numbers(folder, docnames):
    """Collect the labels of all built pages."""
    numbers = Numbers()
    for docname in docnames:
        page = (Path(folder) / f"{docname}.html").read_text(encoding="utf-8")
        for label, number, title in TITLE.findall(page):
            numbers.named[label] = (words(number), words(title))
        numbers.equations.update((label, number) for number, label in EQUATION.findall(page))
        numbers.figures.update((label, words(number)) for label, number in FIGURE.findall(page))
        numbers.figures.update((label, words(number)) for label, number in TABLE.findall(page))
        if heading := HEADING.search(page):
            numbers.titles[docname] = re.sub(r"^[\d.]+ ", "", words(heading[1]))
    return numbers


class Converter:
    """Rewrites the Markdown of one chapter; values come from its built page, in their order."""

    def __init__(self, docname, page, numbers):
        self.docname, self.numbers = docname, numbers
        self.glued = [words(value) for value in GLUED.findall(page)]
        self.cited = [words(value) for value in CITED.findall(page)]

    def problem(self, what):
        return ValueError(f"{self.docname}: {what}")

    def take(self, values, role):
        if not values:
            raise self.problem(f"more {{{role}}} in the source than values in its page")
        return values.pop(0)

    def cell(self, source):
        """One Markdown cell."""
        text = TARGET.sub("", self.directives(source.split("\n")))
        text = DISPLAY.sub(lambda m: f"{m['indent']}\\tag{{{self.equation(m['label'])}}}\n{m['indent']}$$", text)
        text = LINK.sub(r"*\1*", text)
        return re.sub(r"\n{3,}", "\n\n", ROLE.sub(self.role, text)).strip("\n")

    def equation(self, label):
        if label.lower() not in self.numbers.equations:  # docutils writes ids in lower case
            raise self.problem(f"no equation {label!r} in the book")
        return self.numbers.equations[label.lower()]

    def named(self, label):
        if label not in self.numbers.named:
            raise self.problem(f"no numbered statement or exercise {label!r} in the book")
        return self.numbers.named[label]

    def role(self, match):
        """A role in words."""
        role, content = match.groups()
        said, _, target = content.rstrip(">").rpartition("<")
        target, said = (target or content).strip(), said.strip()
        if role == "eq":
            return f"({self.equation(target)})"
        if role.startswith("glue:"):
            return self.take(self.glued, role)
        if role.startswith("cite"):
            return self.take(self.cited, role)
        if role == "doc":
            path = (Path("/") / Path(self.docname).parent / target).as_posix()
            parts = []
            for part in path.split("/"):
                parts = parts[:-1] if part == ".." else parts + ([part] if part else [])
            return f"*{said or self.numbers.titles['/'.join(parts)]}*"
        if role in ("prf:ref", "ref", "numref"):
            if target in self.numbers.figures:
                return said or self.numbers.figures[target]
            number, title = self.named(target)
            return said or number or title
        raise self.problem(f"no plain form of the role {{{role}}}")

    def directives(self, lines):
        """Replace every directive by its heading and its content, from the outside in."""
        result, at = [], 0
        while at < len(lines):
            opening = FENCE.match(lines[at])
            if not opening:
                result.append(lines[at])
                at += 1
                continue
            closing = re.compile(rf"^[ \t]*{opening['fence'][0]}{{{len(opening['fence'])},}}[ \t]*$")
            end = next((i for i in range(at + 1, len(lines)) if closing.match(lines[i])), None)
            if end is None:
                raise self.problem(f"{lines[at]!r} is not closed")
            result.append(self.directive(opening, lines[at + 1:end]))
            at = end + 1
        return "\n".join(result)

    def directive(self, opening, lines):
        options = {}
        while lines and (option := OPTION.match(lines[0])):
            options[option[1]] = option[2].strip()
            lines = lines[1:]
        name, argument, indent = opening["name"], opening["argument"].strip(), opening["indent"]
        if name == "math":
            tag = f"\n{indent}\\tag{{{self.equation(options['label'])}}}" if "label" in options else ""
            body = "\n".join(line for line in lines if line.strip())
            return f"{indent}$$\n{body}{tag}\n{indent}$$"
        if name == "csv-table":
            return f"*{self.numbers.figures.get(options.get('name'), '')} {argument} (The table is in the book.)*"
        body = self.directives(lines).strip("\n")
        if name == "solution-end":
            return "∎"
        if name in ("solution", "solution-start"):
            heading = f"**Solution of {self.named(argument)[0]}.**"
        elif name == "prf:proof":
            heading = "**Proof.**"
        elif name == "exercise" or name.startswith("prf:"):
            number, title = self.named(options["label"])
            title = title.strip("()") if name == "exercise" else title
            heading = f"**{number}" + (f" ({title}).**" if title else ".**")
        elif name in ("admonition", "note", "tip", "warning"):
            heading = f"**{(argument or name.capitalize()).rstrip('.?')}{'?' if argument.endswith('?') else '.'}**"
        else:
            raise self.problem(f"no plain form of the directive {{{name}}}")
        if name.startswith("prf:") and name != "prf:proof":  # a statement stands between two rules
            return f"\n---\n\n{heading}\n\n{body}\n\n---\n"
        end = "\n\n∎" if name in ("solution", "prf:proof") else ""
        return f"\n{heading}\n\n{body}{end}\n"


def caption(cell):
    """Name and words of the figure that a code cell draws, as its metadata has them."""
    figure = (cell.metadata.get("mystnb") or {}).get("figure") or {}
    return figure.get("name"), " ".join((figure.get("caption") or "").split())


def convert(text, docname, page, numbers):
    """A chapter as a notebook with plain Markdown.

    Parameters
    ----------
    text : str
        The chapter's source, a MyST notebook.
    docname : str
        Its document name.
    page : str
        Its built page.
    numbers : Numbers
        Labels of the whole book, see ``read_numbers``.

    Returns
    -------
    nbformat.NotebookNode
        The notebook, without outputs.

    Raises
    ------
    ValueError
        If something in the text has no plain form, or its page has fewer or more values.
    """
    source = jupytext.reads(text, fmt="md:myst")
    converter = Converter(docname, page, numbers)
    notebook = nbformat.v4.new_notebook(metadata=source.metadata)
    notebook.metadata.pop("jupytext", None)
    for cell in source.cells:
        if cell.cell_type == "markdown":
            if plain := converter.cell(as_markdown(cell.source)):
                notebook.cells.append(nbformat.v4.new_markdown_cell(plain))
            continue
        notebook.cells.append(nbformat.v4.new_code_cell(cell.source, metadata={
            key: value for key, value in cell.metadata.items() if key == "tags"}))
        name, said = caption(cell)
        if said:
            number = numbers.figures.get(name, "Figure")
            notebook.cells.append(nbformat.v4.new_markdown_cell(f"**{number}.** {converter.cell(said)}"))
    for kind in ("glued", "cited"):
        if left := getattr(converter, kind):
            raise ValueError(f"{docname}: {len(left)} {kind} values of its page are not in its source")
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index}"
    return notebook


def is_chapter(docname):
    """The chapters of the parts; the pages before and behind them are for reading."""
    return re.match(r"book/part\d+/", docname) is not None


def write(app, exception):
    """Write every chapter beside the built pages."""
    if exception or app.builder.format != "html":
        return
    numbers = read_numbers(app.outdir, app.env.all_docs)
    for docname in sorted(app.env.all_docs):
        source = Path(app.env.doc2path(docname))
        if is_chapter(docname) and source.suffix == ".md" and is_notebook(source):
            page = (Path(app.outdir) / f"{docname}.html").read_text(encoding="utf-8")
            notebook = convert(source.read_text(encoding="utf-8"), docname, page, numbers)
            target = Path(app.outdir).parent / FOLDER / f"{docname}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def setup(app):
    app.connect("build-finished", write)
