"""``{prf:proof}`` as a native disclosure: folds without JavaScript, prints unfolded."""
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective


class proof_disclosure(nodes.General, nodes.Element):
    """A proof: a summary, then the body."""


class proof_summary(nodes.General, nodes.TextElement):
    """The word "Proof" and, if given, whose proof it is."""


class FoldingProof(SphinxDirective):
    """Replaces sphinx-proof's directive; an optional argument says what is proved."""

    has_content = True
    optional_arguments = 1
    final_argument_whitespace = True
    option_spec = {"class": directives.class_option, "open": directives.flag}

    def run(self):
        node = proof_disclosure(classes=["kl-proof", *self.options.get("class", [])])
        node["open"] = "open" in self.options
        self.set_source_info(node)
        summary, messages = proof_summary(), []
        if self.arguments:
            title, messages = self.state.inline_text(self.arguments[0], self.lineno)
            summary.extend(title)
        body = nodes.container(classes=["kl-proof-body"])
        self.state.nested_parse(self.content, self.content_offset, body)
        node += summary
        node += body
        return [node, *messages]


def visit_proof(self, node):
    attributes = {"open": "open"} if node["open"] else {}
    self.body.append(self.starttag(node, "details", **attributes))


def depart_proof(self, node):
    self.body.append("</details>\n")


def visit_summary(self, node):
    self.body.append('<summary><span class="kl-proof-word">Proof</span> <span class="kl-proof-of">')


def depart_summary(self, node):
    self.body.append("</span></summary>\n")


def setup(app):
    app.setup_extension("sphinx_proof")
    app.add_node(proof_disclosure, html=(visit_proof, depart_proof))
    app.add_node(proof_summary, html=(visit_summary, depart_summary))
    app.add_directive_to_domain("prf", "proof", FoldingProof, override=True)
