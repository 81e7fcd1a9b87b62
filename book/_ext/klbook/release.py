"""Which book this is: version, authors and date, from ``pyproject.toml`` and ``CITATION.cff``.

The footer of each page says the version and the day of the commit that was built.
"""
import datetime
import html
import os
import subprocess
import tomllib
from pathlib import Path

import yaml

CHANGELOG = "book/back/changelog"


def git(root, *words):
    """What a git command printed, or nothing outside a repository."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def citation(root):
    """``CITATION.cff`` as a dictionary, after checking what the book relies on."""
    path = Path(root) / "CITATION.cff"
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    book = data.get("preferred-citation") or {}
    for place, entry, wanted in (
            ("CITATION.cff", data, ("title", "version", "date-released", "authors", "url")),
            ("preferred-citation in CITATION.cff", book, ("type", "title", "authors", "year"))):
        missing = [key for key in wanted if not entry.get(key)]
        if missing:
            raise ValueError(f"{place} lacks {', '.join(missing)}")
    return data


def version(root):
    """The version in ``pyproject.toml``; ``CITATION.cff`` must say the same."""
    project = tomllib.loads((Path(root) / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = str(citation(root)["version"])
    if cited != project["version"]:
        raise ValueError(
            f"pyproject.toml says version {project['version']}, CITATION.cff says {cited}: "
            "change CITATION.cff (and date-released) with the version")
    return project["version"]


def build_date(root):
    """Day of the built commit; ``SOURCE_DATE_EPOCH`` wins, the release date is the last resort."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch:
        return datetime.datetime.fromtimestamp(int(epoch), datetime.UTC).date().isoformat()
    return git(root, "log", "-1", "--format=%cs") or str(citation(root)["date-released"])


def settle(app, config):
    root = Path(app.srcdir)
    config.version = config.release = version(root)
    # A new day or a new citation writes the pages again (it reads none of them again).
    config.klbook_release = f"{config.release} of {build_date(root)}"
    config.klbook_citation = repr(citation(root))


def footer(app, pagename, templatename, context, doctree):
    """Add version and date to the footer, with a link to the changelog."""
    number, day = app.config.klbook_release.split(" of ")
    link = html.escape(context["pathto"](CHANGELOG))
    context["theme_extra_footer"] = (context.get("theme_extra_footer") or "") + (
        f'\n<p class="kl-version"><a href="{link}">Version {html.escape(number)}</a>, '
        f'<time datetime="{day}">{day}</time></p>')


def setup(app):
    app.add_config_value("klbook_release", "", "html")
    app.add_config_value("klbook_citation", "", "html")
    app.connect("config-inited", settle, priority=60)
    app.connect("html-page-context", footer)
