"""The wheels that the browser's Python gets from the site itself, not from a package index."""
import base64
import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

# Chapters glue numbers into their text; a notebook in a browser has no such text to fill.
GLUE = '''"""Stands in for MyST-NB where a chapter runs as a notebook: `glue` keeps the value, silently."""

glued = {}


def glue(name, variable, display=True):
    """Remember a value under a name."""
    glued[name] = variable
'''
NAME, VERSION = "klrlhf_browser", "0.1"
FONT_LIST_VERSION = 330  # of the matplotlib in Pyodide; another version ignores the file
# The kernel runs this file once, before the notebook's first cell.
STARTUP = f"/lib/python3.12/site-packages/{NAME}/startup.py"
STARTUP_SOURCE = '''"""Runs when the kernel starts, while the reader still reads the chapter's first lines."""


def prepare():
    import shutil
    from importlib.util import find_spec
    from pathlib import Path

    # Pyodide's matplotlib comes with a list of fonts that it then refuses; it would read every
    # font file, for seconds, and print a warning into the chapter's first cell.
    target = Path(find_spec("matplotlib").origin).parent / "fontlist.json"
    shutil.copyfile(Path(find_spec("klrlhf_browser").origin).parent / "fontlist.json", target)
    # The slow imports of every chapter, done before its first cell asks for them.
    import anywidget  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import scipy.optimize  # noqa: F401
    import scipy.stats  # noqa: F401

    import klrlhf  # noqa: F401


prepare()
del prepare
'''


def font_list():
    """matplotlib's font cache for the fonts it ships, in the form that Pyodide's matplotlib reads."""
    from matplotlib import font_manager, get_data_path

    fonts = Path(get_data_path())
    manager = font_manager.FontManager.__new__(font_manager.FontManager)
    manager.__dict__.update(font_manager.fontManager.__dict__)
    for kind in ("ttflist", "afmlist"):
        ours = (f for f in getattr(manager, kind) if Path(f.fname).is_relative_to(fonts))
        setattr(manager, kind, sorted(ours, key=lambda f: f.fname))
    manager._version = FONT_LIST_VERSION
    return json.dumps(manager, cls=font_manager._JSONEncoder)


def write_company(folder):
    """Write the small wheel that makes a chapter feel at home: ``myst_nb.glue``, fonts, start-up."""
    info = f"{NAME}-{VERSION}.dist-info"
    files = {
        "myst_nb/__init__.py": GLUE,
        f"{NAME}/__init__.py": '"""What a chapter of the book needs of its kernel in the browser."""\n',
        f"{NAME}/startup.py": STARTUP_SOURCE,
        f"{NAME}/fontlist.json": font_list(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: klrlhf\nRoot-Is-Purelib: true\n"
                         "Tag: py3-none-any\n",
    }
    record = [f"{name},sha256={digest(text.encode())},{len(text.encode())}"
              for name, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    target = folder / f"{NAME}-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            # A fixed date keeps the wheel, and so the site, the same from build to build.
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), text)
    return target


def digest(data):
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def build_library(root, folder, python):
    """Build the wheel of ``klrlhf`` from the sources as they are now, in a copy of them."""
    copy = folder.parent / "library-source"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    shutil.copytree(root / "lib", copy / "lib", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    subprocess.run([python, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps",
                    "--no-build-isolation", "--wheel-dir", str(folder), str(copy)], check=True)


def download(requirements, folder, python):
    """Fetch the pinned pure wheels once; ``pip`` would pick compiled ones for this machine."""
    stamp = folder / ".wanted"
    wanted = requirements.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run([python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
                    "--no-deps", "--only-binary=:all:", "--platform", "any", "--python-version", "312",
                    "--dest", str(folder), "--requirement", str(requirements)], check=True)
    stamp.write_text(wanted, encoding="utf-8")


def collect(root, work, python):
    """Every wheel for ``lite/pypi``, in one folder: the vendored ones and the library's, fresh."""
    vendored, target = work / "vendored", work / "wheels"
    download(root / "requirements-lite-wheels.txt", vendored, python)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for wheel in sorted(Path(vendored).glob("*.whl")):
        shutil.copy(wheel, target)
    write_company(target)
    build_library(root, target, python)
    return target
