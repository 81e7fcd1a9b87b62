"""Which Pyodide the browser loads: the pinned public release, or a folder copied into the site."""
import json
import shutil

VERSION = "0.27.7"
PUBLIC = f"https://cdn.jsdelivr.net/pyodide/v{VERSION}/full/pyodide.js"
HOST = "cdn.jsdelivr.net"

# What a chapter imports, and what the kernel asks for at its start. Naming them lets Pyodide
# download them side by side while it boots, instead of one after the other at the first import.
PACKAGES = ["micropip", "numpy", "scipy", "matplotlib", "ipython", "jedi", "sqlite3", "ssl"]
RUNTIME = ["pyodide.js", "pyodide.mjs", "pyodide.asm.js", "pyodide.asm.wasm", "python_stdlib.zip"]


def needed(lock):
    """The packages above with everything they depend on, by their names in the lock file."""
    packages, found, waiting = lock["packages"], set(), list(PACKAGES)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name not in packages:
            raise SystemExit(f"this Pyodide has no package {name!r}: a full distribution is needed")
        if name not in found:
            found.add(name)
            waiting.extend(packages[name]["depends"])
    return found


def copy(source, target):
    """Copy the runtime and the needed packages of a Pyodide folder, and a lock file of those only."""
    if not (source / "pyodide-lock.json").is_file():
        raise SystemExit(f"PYODIDE={source}: not a Pyodide folder (no pyodide-lock.json in it)")
    lock = json.loads((source / "pyodide-lock.json").read_text(encoding="utf-8"))
    found = lock["info"]["version"]
    if found.split(".")[:2] != VERSION.split(".")[:2]:
        raise SystemExit(f"PYODIDE={source}: version {found}, but the kernel needs {VERSION}")
    names = needed(lock)
    lock["packages"] = {name: entry for name, entry in lock["packages"].items() if name in names}
    target.mkdir(parents=True, exist_ok=True)
    for name in RUNTIME + [entry["file_name"] for entry in lock["packages"].values()]:
        if not (source / name).is_file():
            raise SystemExit(f"PYODIDE={source}: {name} is missing")
        shutil.copy(source / name, target / name)
    (target / "pyodide-lock.json").write_text(json.dumps(lock), encoding="utf-8")
