"""Plans: which items a deck shows, in which order, with the lecturer's words.

A plan is ``book/teach/decks/<part>/<chapter>.yml``.  Its format is described on the page "Slides".
Where there is none, ``default_plan`` shows every definition, result, figure and explorer.
"""
from pathlib import Path

import yaml

from .source import PROVED

TOP = {"opening", "slides", "remember"}
OPTIONS = {
    "stated": {"line", "notes", "proof", "parts"},
    "proof": {"line", "points", "key", "notes"},
    "figure": {"line", "notes", "points"},
    "equation": {"line", "notes", "points"},
    "explorer": {"line", "notes", "guess", "options", "guess_notes"},
    "exercise": {"line", "notes"},
    "text": {"line", "points", "show", "notes"},
    "opening": {"line", "notes", "goals_notes"},
    "remember": {"points", "notes"},
}
SHOWN = (*PROVED, "definition", "figure", "explorer")


class PlanError(ValueError):
    """A plan that cannot be followed."""


def demand(given, allowed, where):
    """Refuse options that nothing would read."""
    if not isinstance(given, dict):
        raise PlanError(f"{where}: expected a mapping, got {given!r}")
    unknown = sorted(set(given) - allowed)
    if unknown:
        raise PlanError(f"{where}: unknown option {unknown[0]!r}; known are {', '.join(sorted(allowed))}")
    return given


def check_words(options, where):
    """YAML reads a bare yes or no as a truth value, and a colon as a mapping: ask for quotes."""
    for name in ("line", "notes", "guess", "guess_notes"):
        if not isinstance(options.get(name, ""), str):
            raise PlanError(f"{where}: {name} is no text but {options[name]!r}; put it in quotes")
    for name in ("options", "points"):
        for entry in options.get(name) or []:
            if not isinstance(entry, str):
                raise PlanError(f"{where}: {entry!r} in {name} is no text; put it in quotes")


def family(kind):
    return kind if kind in OPTIONS else "stated"


def entries(given, book, name):
    """``(item or None, options)`` for each line of a plan's list of slides."""
    for number, entry in enumerate(given, start=1):
        where = f"deck {name}, slide {number}"
        if isinstance(entry, str):
            entry = {entry: {}}
        if not isinstance(entry, dict) or len(entry) != 1:
            raise PlanError(f"{where}: expected one label, got {entry!r}")
        [(label, options)] = entry.items()
        if options is None or isinstance(options, str):
            options = {"line": options} if options else {}
        if label == "text":
            check_words(demand(options, OPTIONS["text"], where), where)
            yield None, options
            continue
        try:
            item = book.find(label, name)
        except KeyError as error:
            raise PlanError(error.args[0]) from None
        options = demand(options, OPTIONS[family(item.kind)], f"{where} ({label})")
        check_words(options, f"{where} ({label})")
        if options.get("proof"):
            proof = options["proof"]
            options = {**options, "proof": {"notes": proof} if isinstance(proof, str) else
                       demand(proof, OPTIONS["proof"], f"{where} ({label}, proof)")}
        yield item, options


def read_plan(folder, name):
    """The plan of a chapter, or None where nobody has written one."""
    path = Path(folder) / f"{name}.yml"
    if not path.exists():
        return None
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise PlanError(f"deck {name}: {path} is no valid YAML: {error}") from None
    demand(plan, TOP, f"deck {name}")
    for part in ("opening", "remember"):
        options = demand(plan.setdefault(part, {}), OPTIONS[part], f"deck {name}, {part}")
        check_words(options, f"deck {name}, {part}")
    if not plan.get("slides"):
        raise PlanError(f"deck {name}: the plan lists no slides")
    return plan


def default_plan(chapter):
    """Everything a chapter states, draws and lets one explore, in its own order."""
    labels = [item.label for item in chapter.items.values() if item.kind in SHOWN]
    return {"opening": {}, "slides": labels, "remember": {}}
