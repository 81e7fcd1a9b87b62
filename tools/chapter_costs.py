"""What a chapter costs to run: seconds of processor time and peak memory, each in a kernel of its own.

    python tools/chapter_costs.py [chapter ...]

Chapters are the notebooks of the built book (``make html``). Processor seconds hardly depend on
what else the machine does; wall-clock seconds do, so they are not printed.
"""
import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import nbformat
import psutil
from jupyter_client.manager import start_new_kernel

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "_build" / "html" / "notebooks"
# Run last in each kernel: what the process has used, by the system's own count.
COUNT = """
import json as _json, resource as _resource
_own = _resource.getrusage(_resource.RUSAGE_SELF)
_kids = _resource.getrusage(_resource.RUSAGE_CHILDREN)
print(_json.dumps({"cpu": _own.ru_utime + _own.ru_stime + _kids.ru_utime + _kids.ru_stime,
                   "memory": max(_own.ru_maxrss, _kids.ru_maxrss)}))
"""
OVERHEAD = 0.2  # of the memory of a machine: kept for the system and the hub


def chapters():
    """Names of all built notebooks, in the order of their folders."""
    return [str(path.relative_to(NOTEBOOKS).with_suffix("")) for path in sorted(NOTEBOOKS.rglob("*.ipynb"))]


def execute(client, code, timeout):
    """Run one cell; return what it printed, or raise with its error."""
    printed = []

    def listen(message):
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(code, timeout=timeout, output_hook=listen)
    if reply["content"]["status"] != "ok":
        raise RuntimeError(f"{reply['content'].get('ename')}: {reply['content'].get('evalue')}")
    return "".join(printed)


def cost(name, timeout=900):
    """Processor seconds and peak memory (MiB) of one chapter, from a cold kernel to its last cell."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(ROOT))
    try:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                execute(client, cell.source, timeout)
        used = json.loads(execute(client, COUNT, timeout).strip().splitlines()[-1])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return used["cpu"], used["memory"] / 1024


def server_memory():
    """Resident memory (MiB) of a JupyterLab server by itself: on a hub every student has one."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        homes = {f"JUPYTER_{kind}_DIR": f"{folder}/{kind.lower()}" for kind in ("CONFIG", "DATA", "RUNTIME")}
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1",
             "--IdentityProvider.token=", "--allow-root", f"--ServerApp.root_dir={folder}"],
            env={**os.environ, **homes}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/lab", timeout=5).close()
                    return psutil.Process(server.pid).memory_info().rss / 2**20
                except OSError:
                    time.sleep(0.5)
            raise RuntimeError("JupyterLab did not start")
        finally:
            server.terminate()
            server.wait(30)


def needs(students, memory, cpu, minutes):
    """Memory (GiB) and cores for a class that runs its heaviest chapter once within ``minutes``."""
    gib = students * memory / 1024 / (1 - OVERHEAD)
    cores = students * cpu / (60 * minutes)
    return gib, cores


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="such as book/part1/gibbs-policy; all without it")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    if not NOTEBOOKS.is_dir():
        sys.exit("no built notebooks: run make html first")
    rows = {}
    print(f"{'chapter':<36} {'cpu s':>7} {'peak MiB':>9}")
    for name in options.chapters or chapters():
        rows[name] = cost(name)
        print(f"{name:<36} {rows[name][0]:7.1f} {rows[name][1]:9.0f}", flush=True)
    cpu, memory = (max(row[k] for row in rows.values()) for k in (0, 1))
    print(f"{'largest':<36} {cpu:7.1f} {memory:9.0f}\n")
    server = server_memory()
    print(f"a JupyterLab server without a kernel: {server:.0f} MiB")
    for students in (30, 300):
        gib, cores = needs(students, memory + server, cpu, minutes=10)
        print(f"a class of {students}, all at the heaviest chapter within 10 minutes: "
              f"{gib:.0f} GiB of memory, {cores:.1f} cores")
    if options.json:
        options.json.write_text(json.dumps(
            {"server": round(server), "chapters": {
                name: {"cpu": round(c, 1), "memory": round(m)} for name, (c, m) in rows.items()}},
            indent=1) + "\n")


if __name__ == "__main__":
    main()
