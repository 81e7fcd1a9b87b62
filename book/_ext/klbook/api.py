"""Reference pages from the library's own docstrings."""
import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)

# Packages documented as a whole, through the names they export.
PACKAGES = ("klrlhf.direct", "klrlhf.explore", "klrlhf.games", "klrlhf.mirror", "klrlhf.offline",
            "klrlhf.online", "klrlhf.over_optimization", "klrlhf.results", "klrlhf.sampling",
            "klrlhf.sequences")


def public_names(module):
    """What a module offers: its own public functions and classes, or what a package exports."""
    names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    values = {name: getattr(module, name) for name in names}
    return [
        name for name, value in values.items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and (module.__name__ in PACKAGES or value.__module__ == module.__name__)
    ]


class ApiModule(SphinxDirective):
    """``{api-module} klrlhf.values``: the module's docstring and its public names."""

    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        seen = getattr(self.env, "klbook_api", {})
        seen[name] = self.env.docname
        self.env.klbook_api = seen
        module = importlib.import_module(name)
        self.env.note_dependency(inspect.getsourcefile(module))
        lines = ["````{eval-rst}", f".. currentmodule:: {name}", ""]
        lines += (inspect.getdoc(module) or "").splitlines() + [""]
        for public in public_names(module):
            value = getattr(module, public)
            kind = "autoclass" if inspect.isclass(value) else "autofunction"
            lines += [f".. {kind}:: {name}.{public}"]
            if kind == "autoclass":
                lines += ["   :members:"]
            lines += [""]
        lines += ["````"]
        node = nodes.container(classes=["kl-api"])
        self.state.nested_parse(lines, self.content_offset, node)
        return [node]


def all_modules():
    """Every public module of the library, packages of PACKAGES as one."""
    package = importlib.import_module("klrlhf")
    names = [info.name for info in pkgutil.walk_packages(package.__path__, "klrlhf.")]
    return [
        name for name in names
        if not name.rsplit(".", 1)[1].startswith("_") and not name.startswith(tuple(f"{p}." for p in PACKAGES))
    ]


def compare(app, env):
    """No public module is left out of the reference."""
    listed = getattr(env, "klbook_api", {})
    if not listed:
        return
    for name in all_modules():
        module = importlib.import_module(name)
        if name not in listed and public_names(module):
            logger.warning("module %s is missing from the API reference", name)


def plain_reference(app, env, node, contnode):
    """A type or module that a docstring names without a page of its own stays plain text."""
    listed = set(getattr(env, "klbook_api", {}).values())
    if node.get("refdomain") == "py" and node.get("refdoc") in listed:
        return contnode
    return None


def prepare(app, config):
    lib = str(Path(app.srcdir) / "lib")
    if lib not in sys.path:
        sys.path.insert(0, lib)
    config.autodoc_typehints = "none"
    config.autodoc_member_order = "bysource"
    config.add_module_names = False
    config.napoleon_google_docstring = False
    config.napoleon_use_param = False
    config.napoleon_use_rtype = False
    config.napoleon_use_ivar = True


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.add_directive("api-module", ApiModule)
    app.connect("config-inited", prepare, priority=10)
    app.connect("missing-reference", plain_reference)
    app.connect("env-check-consistency", compare)
