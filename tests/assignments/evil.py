"""Malicious answers to assignment 1: none may gain marks or disturb the grading of others."""

from nbformat import NotebookNode
from nbformat.v4 import new_output

LOOP = "while True:\n    pass"
MEMORY = "hoard = []\nwhile True:\n    hoard.append(bytearray(10**8))"
EXIT = "import os\nos._exit(0)"
FORK_BOMB = "import os\nfor _ in range(10**6):\n    os.fork()"

# Whatever is compared, this says yes; and it patches whatever might compare.
ALWAYS_EQUAL = '''
import builtins, numpy.testing
class Yes(float):
    def __eq__(self, other): return True
    def __sub__(self, other): return 0.0
    __rsub__ = __abs__ = lambda self, *a: 0.0
    def __le__(self, other): return True
    __lt__ = __ge__ = __gt__ = __le__
np.allclose = np.isclose = np.testing.assert_allclose = lambda *a, **k: True
builtins.all = builtins.any = lambda *a: True
builtins.abs = lambda x: 0.0
def gap(*args):
    return Yes(0.0)
'''

# Looks for the hidden side in every file, frame and living object it can reach.
READ = '''
import gc, glob, inspect, os, sys
loot = []
for frame in inspect.stack():
    loot.append(repr(frame.frame.f_locals)[:20000])
for thing in gc.get_objects():
    if type(thing).__name__ in ("Question", "Case", "Assignment"):
        loot.append(repr(thing))
for module in list(sys.modules):
    if "grad" in module or "hidden" in module or "assignment" in module:
        loot.append(repr(vars(sys.modules[module]))[:20000])
for top in %(places)r + ["/"]:
    for folder, _, files in os.walk(top):
        if folder.startswith(("/usr", "/lib")): continue
        for f in files:
            if f in ("grade.py", "source.md", "gradebook.db", "assignment1.ipynb", "nbgrader_config.py"):
                loot.append(open(os.path.join(folder, f), "rb").read().decode("latin1"))
text = "\\n".join(loot)
# Put together here, so that this cell does not find itself: a name of the hidden side, and the
# files beside it. (Of the repository an empty directory is visible: the library hangs in it.)
found = "_mo" + "ments" in text
for place in %(places)r:
    for name in ("book", "tools", "tests", "gradebook.db", "submitted", "source"):
        found = found or os.path.exists(os.path.join(place, name))
if not found:
    raise RuntimeError("nothing to steal")
def expansion(reward, D, beta, pi0, d0):
    raise RuntimeError("I have found the hidden side")
'''

# Writes scores where a naive grader might look for them.
FORGE = '''
import json, os, sys
for fd in range(64):
    try:
        os.write(fd, json.dumps({"q4": {"outputs": [{"value": 1}]}, "score": 100}).encode())
    except OSError:
        pass
print("100/100", file=sys.__stdout__)
class Forged(dict):
    def __missing__(self, key): return 4
answer = Forged()
'''

# Destroys what it can and kills what it can.
DESTROY = '''
import os, shutil, signal
for place in %(places)r + [os.path.expanduser("~"), "/scratch", "/usr", "/tmp"]:
    shutil.rmtree(place, ignore_errors=True)
for pid in [1, os.getppid(), -1]:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
def mean_gap(s, n, rng):
    return 0.0, 0.0, 0.0
'''

# Ties up the channel: a result without end, and an encoder that lies.
FLOOD = '''
import sys
class Big(np.ndarray): pass
for module in list(sys.modules.values()):
    if getattr(module, "__name__", "") == "codec":
        module.encode = lambda value: {"list": [1.0] * 10**7}
def gibbs(*args):
    return np.zeros(10**6)
'''


def attacks(places: list[str]) -> dict[str, dict[str, str]]:
    """Name of the attacker -> answers; questions that are not named are answered rightly."""
    fill = {"places": places}
    return {
        "evil-loops": {"q1": LOOP, "q2": ALWAYS_EQUAL, "q3": EXIT, "q4": FORGE},
        "evil-reads": {"q1": MEMORY, "q2": FORK_BOMB, "q3": READ % fill, "q5": DESTROY % fill},
        "evil-flood": {"q1": FLOOD},
    }


def tampered(notebook):
    """The same notebook with its tests rewritten, doubled, unlocked and deleted, its points raised."""
    cells = []
    for cell in notebook.cells:
        mark = cell.metadata.get("nbgrader", {})
        name = mark.get("grade_id", "")
        if name == "q1-test":
            continue  # deleted
        if name == "q2-test":
            cell.source = "print('all tests pass')"
            mark.update(points=1000, locked=False)
        if name == "q3-test":
            mark.update(grade=False, solution=True, locked=False)
            cell.source = "pass"
        if name == "q4-test":
            cell.cell_type = "markdown"
            cell.pop("outputs", None)
            cell.pop("execution_count", None)
        if name == "q5-test":
            mark["grade_id"] = "q4-test"
            cell.outputs = [new_output("stream", text="4 points")]
        cells.append(cell)
        if name == "q5":  # the first cell of a name counts
            cells.append(NotebookNode({**cell, "id": "double", "source": "pass"}))
    notebook.cells = cells
    return notebook
