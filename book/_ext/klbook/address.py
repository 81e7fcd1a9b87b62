"""Where the book lives: its repository, its branch and its site, said once in ``_config.yml``.

A fork need not edit anything: its publishing workflow sets ``GITHUB_REPOSITORY`` (GitHub does) or
``BOOK_REPOSITORY`` ("owner/name"), and ``BOOK_URL`` where the site is not on GitHub Pages.
"""
import os


def settle(app, config):
    """Let the environment override the addresses of ``_config.yml``."""
    options = config.html_theme_options
    name = os.environ.get("BOOK_REPOSITORY") or os.environ.get("GITHUB_REPOSITORY")
    if name:
        owner, _, project = name.partition("/")
        if not project:
            raise ValueError(f"BOOK_REPOSITORY must read owner/name, not {name!r}")
        options["repository_url"] = f"https://github.com/{name}"
        config.html_baseurl = f"https://{owner.lower()}.github.io/{project}/"
    if os.environ.get("BOOK_URL"):
        config.html_baseurl = os.environ["BOOK_URL"]
    if not config.html_baseurl.endswith("/"):
        config.html_baseurl += "/"


def repository(app):
    """Address of the repository, without a slash at the end."""
    return app.config.html_theme_options["repository_url"].rstrip("/")


def repository_name(app):
    """The repository as ``owner/name``."""
    return "/".join(repository(app).split("/")[-2:])


def branch(app):
    """The branch that the links of a page point at."""
    return app.config.html_theme_options.get("repository_branch") or "main"


def site(app):
    """Address of the published site, with a slash at the end."""
    return app.config.html_baseurl


def setup(app):
    app.connect("config-inited", settle, priority=50)
