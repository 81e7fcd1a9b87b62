"""JupyterLite inside the site: chapters as notebooks, with the Python that runs in the reader's browser.

The result is plain files under ``lite/`` and works from any sub-path: every address is relative.
"""
import json
import os
import shutil
import subprocess
from pathlib import Path

import pyodide
import wheels

KERNEL = "@jupyterlite/pyodide-kernel-extension:kernel"
# A worker's relative addresses start at its script, lite/extensions/<scope>/<name>/static/.
FROM_WORKER = "../../../../pypi/"
# Not needed here: offline files shared with the kernel, and extensions of the build's environment.
DISABLED = ["@jupyterlite/application-extension:service-worker-manager", "jupyterlab-jupytext"]


def settings(offline, wheel_names):
    """The site's ``jupyter-lite.json``."""
    return {
        "jupyter-lite-schema-version": 0,
        "jupyter-config-data": {
            "appName": "The theory of RLHF",
            "disabledExtensions": DISABLED,
            "litePluginSettings": {KERNEL: {
                "pyodideUrl": "./pyodide/pyodide.js" if offline else pyodide.PUBLIC,
                # The library and its company are installed while Pyodide boots, so a notebook
                # needs no install cell and its first cell can be the chapter's own.
                "loadPyodideOptions": {
                    "env": {"PYTHONSTARTUP": wheels.STARTUP},
                    "packages": pyodide.PACKAGES + [FROM_WORKER + name for name in wheel_names]},
                # Nothing is ever looked up in a package index.
                "disablePyPIFallback": True,
            }},
        },
    }


def notebooks(source, target):
    """Copy the chapters' notebooks, each told to use the kernel that lives in the page."""
    for path in sorted(source.rglob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["metadata"]["kernelspec"] = {
            "name": "python", "display_name": "Python (Pyodide)", "language": "python"}
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(json.dumps(notebook, ensure_ascii=False, indent=1), encoding="utf-8")


def build(root, chapters, site, python, pyodide_folder=None):
    """Build ``site/lite``.

    Parameters
    ----------
    root : Path
        The repository.
    chapters : Path
        Folder of the notebooks (``klbook.plain_markdown`` writes it).
    site : Path
        The site under construction.
    python : str
        The interpreter of the JupyterLite environment.
    pyodide_folder : Path, optional
        A Pyodide distribution to copy into the site; without it the reader's browser loads the
        public release, when the reader asks for it.
    """
    work = root / "_build" / "lite"
    contents, source = work / "contents", work / "source"
    for folder in (contents, source):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    collected = wheels.collect(root, work, python)
    names = sorted(path.name for path in collected.glob("*.whl"))
    if not any(chapters.rglob("*.ipynb")):
        raise SystemExit(f"{chapters} holds no notebooks: make html")
    notebooks(chapters, contents)
    (source / "jupyter-lite.json").write_text(
        json.dumps(settings(pyodide_folder is not None, names), indent=1), encoding="utf-8")
    shutil.copytree(collected, source / "pypi")
    # Every cell stays in the page, so that the browser's own search finds it. The theme stays light:
    # the book's figures are drawn for paper and have no ground of their own.
    (source / "overrides.json").write_text(json.dumps({
        "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    }), encoding="utf-8")
    (source / "jupyter_lite_config.json").write_text(json.dumps({
        "LiteBuildConfig": {"contents": [str(contents)], "output_dir": str(site / "lite"),
                            "apps": ["notebooks"], "no_sourcemaps": True,
                            "no_unused_shared_packages": True}}), encoding="utf-8")
    # The build reads the user's Jupyter folders otherwise, with whatever extensions are there.
    environment = {**os.environ, "JUPYTER_NO_CONFIG": "1"}
    done = subprocess.run(
        [python, "-m", "jupyterlite_core", "build", "--lite-dir", str(source)],
        cwd=source, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"jupyter lite build failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    trim(site / "lite")
    if pyodide_folder is not None:
        pyodide.copy(Path(pyodide_folder), site / "lite" / "pyodide")


def trim(lite):
    """Drop the source maps that extensions bring."""
    for path in lite.rglob("*.map"):
        path.unlink()
