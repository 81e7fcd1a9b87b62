"""``{self-check}``: a short question at the end of a section, answered in the page.

The HTML holds every feedback in a native disclosure, so that it works without scripts;
``self-check.js`` puts a "Check" button in their place. Nothing is stored and nothing is sent.
"""
import html
import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from .self_check_source import parse

MARKS = {True: ("✓", "Right."), False: ("✗", "No.")}
INPUTS = {"one": "radio", "many": "checkbox"}


class self_check(nodes.General, nodes.Element):
    """A question with its options."""


class self_check_prompt(nodes.General, nodes.Element):
    """The question itself."""


class self_check_option(nodes.General, nodes.Element):
    """One option: its text, then its feedback."""


class self_check_text(nodes.General, nodes.TextElement):
    """What the reader chooses."""


class self_check_feedback(nodes.General, nodes.Element):
    """What the reader learns from the choice."""


class SelfCheck(SphinxDirective):
    """One or several correct options, or a number."""

    has_content = True
    option_spec = {
        "answer": directives.unchanged_required, "answer-python": directives.unchanged_required,
        "tolerance": directives.unchanged_required, "unit": directives.unchanged_required,
        "python": directives.unchanged_required, "several": directives.flag,
    }

    def run(self):
        try:
            question = parse(list(self.content), self.options)
        except ValueError as error:
            raise self.error(f"self-check: {error}") from error
        count = self.env.new_serialno("self-check") + 1
        name = f"self-check-{self.env.docname.replace('/', '-')}-{count}"
        node = self_check(ids=[name], kind=question.kind, tolerance=question.tolerance)
        self.set_source_info(node)
        node += self.blocks(self_check_prompt(name=name, kind=question.kind, unit=question.unit), question.prompt, 0)
        for index, option in enumerate(question.options, 1):
            entry = self_check_option(name=name, index=index, kind=question.kind, right=option.right,
                                      value=option.value, shown=option.text)
            if question.kind != "number":
                text = self_check_text()
                children, messages = self.state.inline_text(option.text, self.lineno + option.line)
                text.extend(children + messages)
                entry += text
            entry += self.blocks(self_check_feedback(right=option.right), option.feedback, option.line)
            node += entry
        return [node]

    def blocks(self, node, text, line):
        """Parse Markdown into a node."""
        self.state.nested_parse(StringList(text.split("\n")), self.content_offset + line, node)
        return node


def visit_self_check(self, node):
    name = node["ids"][0]
    self.body.append(
        f'<div class="kl-self-check" id="{name}" data-kind="{node["kind"]}">'
        f'<fieldset aria-labelledby="{name}-label {name}-prompt">'
        f'<legend id="{name}-label">Check yourself</legend>'
        f'<a class="headerlink" href="#{name}" title="Link to this question">#</a>\n')


def depart_self_check(self, node):
    self.body.append(
        '<p class="kl-self-check-actions" hidden><button type="button" data-do="check">Check</button> '
        '<button type="button" data-do="all" hidden>Show all feedback</button></p>'
        '<p class="kl-self-check-outcome" role="status"></p></fieldset></div>\n')


def visit_prompt(self, node):
    self.body.append(f'<div class="kl-self-check-prompt" id="{node["name"]}-prompt">')


def depart_prompt(self, node):
    hint = '<p class="kl-self-check-hint">More than one may be right.</p>' if node["kind"] == "many" else ""
    self.body.append(f"{hint}</div>\n")
    if node["kind"] == "number":
        name, unit = node["name"], html.escape(node["unit"])
        self.body.append(
            f'<p class="kl-self-check-number"><label for="{name}-value">Your answer</label> '
            f'<input type="text" id="{name}-value" inputmode="text" autocomplete="off" size="10">'
            + (f" <span>{unit}</span>" if unit else "") + "</p>\n")


def summary(node):
    """What the closed feedback says where there are no scripts."""
    if node["kind"] != "number":
        return f"Is it ({letter(node)})?"
    if node["right"]:
        return "The answer"
    return "Another value?" if node["value"] is None else f"If you found {node['shown']}"


def letter(node):
    return chr(ord("a") + node["index"] - 1)


def visit_option(self, node):
    value = "" if node["value"] is None else f' data-value="{node["value"]!r}"'
    tolerance = f' data-tolerance="{node.parent["tolerance"]!r}"' if node["kind"] == "number" else ""
    self.body.append(f'<div class="kl-option" data-right="{int(node["right"])}"{value}{tolerance}>')


def visit_text(self, node):
    entry = node.parent
    self.body.append(
        f'<label><input type="{INPUTS[entry["kind"]]}" name="{entry["name"]}" value="{letter(entry)}">'
        f'<span class="kl-letter">({letter(entry)})</span> <span class="kl-option-text">')


def visit_feedback(self, node):
    mark, word = MARKS[node["right"]]
    entry = node.parent
    # On paper the feedbacks stand together after the question, so each says whose it is.
    whose, found = f"({letter(entry)}) ", ""
    if entry["kind"] == "number":
        whose = html.escape(summary(entry).removeprefix("If you found ")) + " "
        if node["right"]:
            whose, found = "", f" ({html.escape(entry['shown'])})"
    self.body.append(
        '<div class="kl-verdict" role="status"></div>'
        f"<details><summary>{html.escape(summary(entry))}</summary>"
        f'<div class="kl-feedback" data-right="{int(node["right"])}">'
        f'<p class="kl-mark"><span aria-hidden="true">{mark}</span> <span class="kl-whose">{whose}</span>{word}{found}</p>')


def page(app, pagename, templatename, context, doctree):
    """Load the style and the script only where there is a question."""
    if 'class="kl-self-check"' in (context.get("body") or ""):
        app.add_css_file("css/self-check.css")
        app.add_js_file("self-check.js", type="module")


def find_library(app):
    """Expressions may use the library, which need not be installed."""
    lib = str(Path(app.srcdir) / "lib")
    if Path(lib).is_dir() and lib not in sys.path:
        sys.path.insert(0, lib)


def close(tag):
    return lambda self, node: self.body.append(tag)


def setup(app):
    app.add_directive("self-check", SelfCheck)
    app.add_node(self_check, html=(visit_self_check, depart_self_check))
    app.add_node(self_check_prompt, html=(visit_prompt, depart_prompt))
    app.add_node(self_check_option, html=(visit_option, close("</div>\n")))
    app.add_node(self_check_text, html=(visit_text, close("</span></label>\n")))
    app.add_node(self_check_feedback, html=(visit_feedback, close("</div></details>\n")))
    app.connect("builder-inited", find_library)
    app.connect("html-page-context", page, priority=902)
