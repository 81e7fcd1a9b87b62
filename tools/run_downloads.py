#!/usr/bin/env python3
"""Run every notebook that the site offers for download, in a bare environment.

The environment has ``requirements.txt`` and the library, installed from this repository with the
extras that the notebooks' own first cell names. Neither the book's extension nor the sources
are on its path, and each notebook runs in a folder of its own that holds nothing else.
``--lean`` leaves out requirements.txt: Jupyter's kernel and the library only, as on Colab.

    python tools/run_downloads.py                  # all notebooks of _build/html/notebooks
    python tools/run_downloads.py --notebooks dpo
"""
import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "_build" / "html" / "notebooks"
EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
notebook = nbformat.read(sys.argv[1], as_version=4)
try:
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
except CellExecutionError as error:
    raise SystemExit(f"{error.ename}: {error.evalue}")
loud = [o.text for c in notebook.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
sys.exit(f"stderr: {loud[0][:200]}" if loud else 0)
"""


def install(venv, lean):
    """A bare environment: the requirements, and the library under its extras."""
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    needed = ["nbclient", "ipykernel"] if lean else ["-r", ROOT / "requirements.txt"]
    with tempfile.TemporaryDirectory() as folder:  # a build in the repository would leave files there
        clone = Path(folder) / "source"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        subprocess.run([*pip, *needed, f"klrlhf[plot,widgets] @ {clone.as_uri()}"], check=True)


def first_cell(venv, notebook):
    """Whether the first cell of a notebook stops where the library is not installed."""
    script = ("import nbformat, sys; n = nbformat.read(sys.argv[1], 4); "
              "print(next(c.source for c in n.cells if c.cell_type == 'code'))")
    source = subprocess.run([venv / "bin" / "python", "-c", script, notebook], check=True,
                            capture_output=True, text=True).stdout
    done = subprocess.run(["python3", "-I", "-S", "-c", re.sub(r"^( *)%pip.*", r"\1pass", source, flags=re.M)],
                          capture_output=True, text=True)
    return "klrlhf[plot,widgets] @ git+https://" in done.stderr and done.returncode == 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--notebooks", nargs="+", metavar="NAME", help="only these, e.g. dpo hybrid")
    parser.add_argument("--lean", action="store_true", help="without requirements.txt, as on Colab")
    parser.add_argument("--venv", type=Path, help="build the environment there, or use what is there")
    options = parser.parse_args()
    chosen = [path for path in sorted(NOTEBOOKS.rglob("*.ipynb"))
              if not options.notebooks or path.stem in options.notebooks]
    if not chosen:
        raise SystemExit(f"no such notebook in {NOTEBOOKS}: make html")
    with tempfile.TemporaryDirectory() as folder:
        venv = (options.venv or Path(folder) / "venv").resolve()
        if not venv.is_dir():
            install(venv, options.lean)
        if not first_cell(venv, chosen[0]):
            raise SystemExit("without its library a notebook's first cell must stop and name the line")
        variables = {"HOME": folder, "PATH": f"{venv / 'bin'}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        failed = 0
        print("| notebook | seconds | errors |\n|---|---|---|", flush=True)
        for path in chosen:
            with tempfile.TemporaryDirectory() as empty:
                start = time.perf_counter()
                done = subprocess.run([venv / "bin" / "python", "-c", EXECUTE, path], cwd=empty,
                                      env=variables, capture_output=True, text=True)
            words = "none" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]
            failed += done.returncode != 0
            print(f"| {path.relative_to(NOTEBOOKS).with_suffix('')} | {time.perf_counter() - start:.0f} "
                  f"| {words} |", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} notebooks run.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
