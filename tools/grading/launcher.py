"""Runs answers inside the wall. Started by ``sandbox``; reads a job, writes outputs.

This process is the grader's own: it hides the file system, loads the libraries, and forks once per
question. Only the fork, after it has given up its rights, runs a student's code.
It never sees an expected value: those stay in the process that started it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1, 2, 4, 32, 4096, 16384, 1 << 18)
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SCRATCH = "scratch"
LARGEST_RESULT = 32 * 2**20


def _libc():
    return ctypes.CDLL(None, use_errno=True)


def _mount(source, target, kind, flags, data=None):
    def text(s):
        return s.encode() if s is not None else None

    if _libc().mount(text(source), text(target), text(kind), flags, text(data)):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {target}: {os.strerror(number)}")


def hide_files(root: str, keep: list[str]) -> None:
    """Make ``root`` the whole file system, with nothing in it but ``keep``, read-only."""
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=755")
    for path in keep:
        inside = root + path
        if os.path.islink(path):  # /lib -> usr/lib: the same link inside
            os.symlink(os.readlink(path), inside)
            continue
        if os.path.isdir(path):
            os.makedirs(inside, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(inside), exist_ok=True)
            open(inside, "w").close()
        _mount(path, inside, None, MS_BIND | MS_REC)
        if not path.startswith("/dev/"):
            _mount(None, inside, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID)
    for name in ("old", SCRATCH):
        os.mkdir(f"{root}/{name}")
    os.chdir(root)
    libc = _libc()
    if libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"old"):
        raise OSError(ctypes.get_errno(), "pivot_root")
    os.chdir("/")
    if libc.umount2(b"/old", 2):
        raise OSError(ctypes.get_errno(), "umount")
    os.rmdir("/old")
    # The tree itself becomes read-only; a small scratch directory is left.
    _mount("tmpfs", f"/{SCRATCH}", "tmpfs", MS_NOSUID | MS_NODEV, "size=16m,mode=1777")
    _mount(None, "/", None, MS_REMOUNT | MS_RDONLY | MS_NOSUID)


def _give_up_rights(user: int | None) -> None:
    """Another user where that is possible, no capabilities, and no way back."""
    libc = _libc()
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def _limit(seconds: float, memory: int) -> None:
    cpu = int(seconds) + 1
    for name, value in (("CPU", cpu), ("AS", memory), ("FSIZE", 8 * 2**20), ("NOFILE", 64),
                        ("CORE", 0), ("NPROC", 1)):
        kind = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(kind, (value, value))


class _Blocked:
    """Refuses to import the library where a question is about writing it oneself."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError(f"{name} is not available in this question: use NumPy and SciPy")
        return None


def _where(error: BaseException) -> str:
    """The line of the answer at which an exception came up."""
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == "<answer>"]
    return f" (line {lines[-1].lineno} of your cell)" if lines else ""


def answer(task: dict) -> dict:
    """Run one question's code and calls; what it returns is JSON."""
    from codec import decode, encode

    if task["blocked"]:
        for name in [n for n in sys.modules if n.split(".")[0] in task["blocked"]]:
            del sys.modules[name]
        sys.meta_path.insert(0, _Blocked(task["blocked"]))
    space = {"__name__": "__main__"}
    try:
        for name, value in task["names"].items():
            space[name] = decode(value, trusted=True)
        exec(task["setup"], space)
        exec(compile(task["code"], "<answer>", "exec"), space)
    except BaseException as error:
        return {"error": type(error).__name__, "message": str(error)[:300] + _where(error)}
    outputs = []
    for call in task["calls"]:
        if call["name"] not in space:
            return {"error": "NameError", "message": f"your cell does not define {call['name']}"}
        value = space[call["name"]]
        try:
            if call["args"] is not None:
                value = value(*[decode(a, trusted=True) for a in call["args"]])
            outputs.append({"value": encode(value)})
        except BaseException as error:
            outputs.append({"error": type(error).__name__,
                            "message": str(error)[:300] + _where(error)})
    return {"outputs": outputs}


def _in_fork(task: dict, pipe: int, user: int | None, home: str) -> None:
    """The only place where a student's code runs."""
    os.setsid()
    os.chdir(home)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, pipe)
    os.closerange(pipe + 1, 4096)
    os.environ.clear()
    os.environ.update(HOME=home, TMPDIR=home, PATH="", LANG="C.UTF-8")
    _limit(task["seconds"], task["memory"])
    _give_up_rights(user)
    try:
        text = json.dumps(answer(task)).encode()
    except BaseException as error:
        text = json.dumps({"error": type(error).__name__, "message": str(error)[:300]}).encode()
    with os.fdopen(pipe, "wb") as out:
        out.write(text)


def run_task(task: dict, user: int | None) -> dict:
    """Fork, wait no longer than allowed, and return what came through the pipe."""
    scratch = f"/{SCRATCH}" if os.getpid() == 1 else None
    home = tempfile.mkdtemp(prefix="answer-", dir=scratch)
    try:
        if user is not None:
            os.chown(home, user, user)
        return _fork_and_wait(task, user, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _fork_and_wait(task: dict, user: int | None, home: str) -> dict:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _in_fork(task, writing, user, home)
        finally:
            os._exit(0)
    os.close(writing)
    # Loops meet the limit of CPU time; this one is for code that sleeps, on a busy machine too.
    deadline, parts, size = time.monotonic() + 4 * task["seconds"] + 20, [], 0
    status = None
    while time.monotonic() < deadline and size <= LARGEST_RESULT:
        ready, _, _ = select.select([reading], [], [], 0.05)
        if ready:
            part = os.read(reading, 2**16)
            if not part:
                break
            parts.append(part)
            size += len(part)
        elif status is None:
            done, status = os.waitpid(child, os.WNOHANG)
            status = status if done else None
        else:
            break
    # A fork cannot outlive its question: inside the wall nothing else runs.
    for kill in (lambda: os.killpg(child, signal.SIGKILL),
                 lambda: os.kill(-1, signal.SIGKILL) if os.getpid() == 1 else None):
        try:
            kill()
        except (ProcessLookupError, PermissionError):
            pass
    if status is None:
        _, status = os.waitpid(child, 0)
    os.close(reading)
    try:
        return json.loads(b"".join(parts)) if size <= LARGEST_RESULT else {"error": "TooLarge"}
    except ValueError:
        pass
    if time.monotonic() >= deadline or os.WIFSIGNALED(status) and os.WTERMSIG(status) in (
            signal.SIGXCPU, signal.SIGKILL):
        return {"error": "Timeout"}
    return {"error": "Died"}


def main() -> None:
    """Read the job from standard input and write one JSON object to standard output."""
    job = json.load(sys.stdin)
    sys.path[:0] = job["path"]
    out = os.dup(1)
    os.dup2(2, 1)
    import codec  # noqa: F401  (before its directory disappears)
    import numpy  # noqa: F401
    import scipy.optimize
    import scipy.special
    import scipy.stats  # noqa: F401

    import klrlhf  # noqa: F401

    sys.path.remove(os.path.dirname(os.path.abspath(__file__)))
    if job["root"]:
        hide_files(job["root"], job["keep"])
    results = {name: run_task(task, job["user"]) for name, task in job["tasks"].items()}
    with os.fdopen(out, "w") as stream:
        json.dump(results, stream)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
