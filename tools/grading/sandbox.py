"""Builds the wall around students' code and reports how good it is on this machine.

``full``     own mount, process, network and IPC namespaces; of the file system only Python and the
             libraries, read-only, and an empty /tmp; no capabilities; another user when root.
``user``     no namespaces (a container that forbids them), but another user: the grader's own
             files are safe where their permissions say so.
``process``  the grader's own user: limits of time and memory, nothing more.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMESPACES = ["--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child"]
# A user that nobody else is; a number needs no entry in the table of users.
STRANGER = 61_813
LEVEL = "KLRLHF_SANDBOX"


def _libraries() -> list[str]:
    """Directories that answers may import from."""
    import klrlhf

    own = [str(Path(klrlhf.__file__).resolve().parents[1])]
    site = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return own + sorted(site - set(own))


def _kept() -> list[str]:
    """What stays visible: Python, shared libraries, the packages."""
    python = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"),
              sysconfig.get_config_var("LIBDIR")]
    system = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo",
              "/dev/null", "/dev/urandom"]
    packages = _libraries()
    # Of the library's home only the package itself: beside it are tests and chapters.
    packages[0] = str(Path(packages[0]) / "klrlhf")
    kept, seen = [], []
    for path in sorted([*system, *python, *packages], key=len):
        if os.path.islink(path) and path in system:
            kept.append(path)
            continue
        real = os.path.realpath(path)
        if os.path.exists(real) and not any(real == s or real.startswith(s + "/") for s in seen):
            seen.append(real)
            kept.append(real)
    return kept


def _prefix(level: str) -> list[str]:
    if level != "full":
        return []
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [shutil.which("unshare"), *user, *NAMESPACES]


@functools.cache
def level() -> str:
    """The best wall this machine allows; the environment's KLRLHF_SANDBOX may ask for less.

    ``process`` protects nobody's files, so it is never chosen, only asked for.
    """
    asked = os.environ.get(LEVEL, "full")
    if asked not in ("full", "user", "process"):
        raise ValueError(f"{LEVEL} must be full, user or process: got {asked!r}")
    candidates = ["process"] if asked == "process" else ["full", "user"]
    probe = {"q": {"code": "x = 1",
                   "setup": "import timeit, numpy, scipy.integrate",
                   "names": {}, "seconds": 10,
                   "memory": 2**31, "blocked": [], "calls": [{"name": "x", "args": None}]}}
    for name in candidates[candidates.index(asked):]:
        if name == "full" and not shutil.which("unshare") or name == "user" and os.geteuid() != 0:
            continue
        try:
            if _launch(probe, name, 120)["q"].get("outputs"):
                return name
        except (OSError, ValueError, KeyError, subprocess.SubprocessError):
            continue
    raise RuntimeError(
        "no wall around students' code works here: namespaces are forbidden (unshare), and the "
        "Python in use is not readable for another user. Grade in a virtual machine or a "
        f"container made for it, and set {LEVEL}=process there: nothing else protects your files"
    )


def _launch(tasks: dict, name: str, wall: float) -> dict:
    root = tempfile.mkdtemp(prefix="klrlhf-wall-") if name == "full" else None
    user = STRANGER if os.geteuid() == 0 and name != "process" else None
    job = {"tasks": tasks, "root": root, "keep": _kept() if root else [], "user": user,
           "path": _libraries()}
    environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8",
                   "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"}
    command = [*_prefix(name), sys.executable, "-I", "-S", str(HERE / "launcher.py")]
    try:
        done = subprocess.run(command, input=json.dumps(job), text=True, capture_output=True,
                              timeout=wall, env=environment, cwd="/")
    finally:
        if root:
            shutil.rmtree(root, ignore_errors=True)
    if done.returncode:
        raise subprocess.SubprocessError(done.stderr[-2000:])
    return json.loads(done.stdout)


def run(tasks: dict) -> dict:
    """Run tasks (name -> code, calls, limits) of one student; returns name -> result.

    Whatever the code does, every task gets a result; see ``launcher.run_task`` for its forms.
    """
    wall = 120 + sum(4 * t["seconds"] + 25 for t in tasks.values())
    try:
        results = _launch(tasks, level(), wall)
    except (subprocess.SubprocessError, ValueError):
        # At the weakest level an answer can kill the launcher: then each question stands alone.
        results = {}
        for name, task in tasks.items():
            try:
                results.update(_launch({name: task}, level(), wall))
            except (subprocess.SubprocessError, ValueError):
                results[name] = {"error": "Died"}
    return {name: results.get(name, {"error": "Died"}) for name in tasks}


if __name__ == "__main__":
    print(level())
