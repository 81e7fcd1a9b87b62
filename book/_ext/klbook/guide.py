"""The instructor's guide: one YAML file per chapter, laid out as a page section.

``{chapter-guide} part1/gibbs-policy`` reads ``book/teach/guide/part1/gibbs-policy.yml``. What the
chapter itself says (its goals, its results, its explorers) is taken from the chapter, and what the
guide computes is computed at build: a setting of an explorer is followed by the sentence that the
explorer shows there, and ``@[name]`` in a text is a value of the file's own ``values``.
"""
import re
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

FIELDS = {"minutes": dict, "needs": list, "goals": list, "board": list, "explorer": list, "mistakes": list,
          "discuss": list, "exam": list, "values": dict}
REQUIRED = set(FIELDS) - {"values", "goals"}
MINUTES = {"lecture", "reading", "exercises"}
ENTRIES = {"board": {"minutes", "do"}, "explorer": {"id", "ask", "answer", "set"}, "mistakes": {"wrong", "right"},
           "discuss": {"ask", "answer"}, "exam": {"ask", "answer", "points"}}
OPTIONAL = {"explorer": {"set"}}
GOALS = re.compile(r"\*\*What you will be able to do\*\*\n\n((?:- .*\n(?:  .*\n)*)+)")


class GuideError(ExtensionError):
    """The guide's file is not what this page can show."""


def load(path):
    """Read and check one file of the guide."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    where = f"{path.parent.name}/{path.name}"
    unknown, missing = set(data) - set(FIELDS), REQUIRED - set(data)
    if unknown or missing:
        raise GuideError(f"{where}: unknown {sorted(unknown)}, missing {sorted(missing)}")
    for name, kind in FIELDS.items():
        if name in data and (not isinstance(data[name], kind) or not data[name]):
            raise GuideError(f"{where}: {name} must be a {kind.__name__} that is not empty")
    if set(data["minutes"]) != MINUTES:
        raise GuideError(f"{where}: minutes must give {sorted(MINUTES)}")
    for name, keys in ENTRIES.items():
        for entry in data[name]:
            gone = keys - set(entry) - OPTIONAL.get(name, set())
            if gone or set(entry) - keys:
                raise GuideError(f"{where}: an entry of {name} must have {sorted(keys)}, has {sorted(entry)}")
    planned = sum(entry["minutes"] for entry in data["board"])
    if planned != data["minutes"]["lecture"]:
        raise GuideError(f"{where}: the board plan takes {planned} minutes of {data['minutes']['lecture']}")
    return substitute(data, where)


def substitute(data, where):
    """Put the computed values into every text."""
    values = dict(data.pop("values", {}))
    space = {}
    exec(values.pop("setup", ""), space)
    computed = {name: str(eval(expression, space)) for name, expression in values.items()}
    used = set()

    def fill(item):
        if isinstance(item, dict):
            return {key: fill(value) for key, value in item.items()}
        if isinstance(item, list):
            return [fill(value) for value in item]
        if not isinstance(item, str):
            return item

        def value(match):
            if match[1] not in computed:
                raise GuideError(f"{where}: no value {match[1]!r}")
            used.add(match[1])
            return computed[match[1]]

        return re.sub(r"@\[([\w-]+)\]", value, item)

    data = fill(data)
    if set(computed) - used:
        raise GuideError(f"{where}: values never used: {sorted(set(computed) - used)}")
    return data


def goals_of(chapter):
    """The chapter's own list of what its reader will be able to do."""
    found = GOALS.search(chapter.read_text(encoding="utf-8"))
    return found[1].rstrip().splitlines() if found else []


def explorer_state(entry, where):
    """The setting that the guide asks for, checked, and the sentence that the explorer shows there."""
    from klrlhf import explore
    from klrlhf.explore.svg import _plain

    designs = {factory: getattr(explore, factory)() for factory in explore.FACTORIES
               if factory == entry["id"].replace("-", "_") + "_explorer"}
    if not designs:
        raise GuideError(f"{where}: no explorer {entry['id']!r}")
    design = next(iter(designs.values())).design
    controls = {control.name: control for control in design.controls}
    values = {name: control.value for name, control in controls.items()}
    told = []
    for name, value in entry.get("set", {}).items():
        control = controls.get(name)
        if control is None:
            raise GuideError(f"{where}: explorer {entry['id']} has no control {name!r}, but {sorted(controls)}")
        if control.kind == "choice" and value not in [option for option, _ in control.options]:
            raise GuideError(f"{where}: {name} of {entry['id']} cannot be {value!r}")
        if control.kind != "choice" and not control.lo <= value <= control.hi:
            raise GuideError(f"{where}: {name} of {entry['id']} goes from {control.lo} to {control.hi}")
        shown = dict(control.options)[value] if control.kind == "choice" else f"{value:g}"
        told.append(f"{_plain(control.label)}: {_plain(shown)}")
        values[name] = value
    return "; ".join(told), _plain(design.frame(seed=0, **values).say)


def answer(text, title="Answer"):
    return [f"::::{{dropdown}} {title}", *text.splitlines(), "::::", ""]


def layout(name, data, goals, where):
    """The guide of one chapter as MyST lines."""
    minutes = data["minutes"]
    lines = [f"{{doc}}`Read the chapter </book/{name}>`. "
             f"Lecture {minutes['lecture']} min, reading {minutes['reading']} min, "
             f"exercises {minutes['exercises']} min.", ""]
    lines += ["**Before this chapter**", ""] + [f"- {line}" for line in data["needs"]] + [""]
    lines += ["**Goals**", ""] + (data.get("goals") and [f"- {g}" for g in data["goals"]] or goals) + [""]
    lines += ["**Board plan**", "", "| min | on the board |", "|---:|---|"]
    lines += [f"| {entry['minutes']} | {' '.join(entry['do'].split())} |" for entry in data["board"]] + [""]
    for entry in data["explorer"]:
        setting, sentence = explorer_state(entry, where)
        lines += [f"**Show the explorer** *{entry['id'].replace('-', ' ')}*"
                  + (f" at {setting}" if setting else " as it opens") + ".", "",
                  f"Ask, and let everyone commit to a guess first: {entry['ask'].strip()}", ""]
        lines += answer(f"{entry['answer'].strip()}\n\nThe explorer says: “{sentence}”", "What happens")
    lines += ["**What students get wrong**", ""]
    for entry in data["mistakes"]:
        lines += [f"- *{entry['wrong'].strip()}*", *(f"  {line}" for line in entry["right"].strip().splitlines())]
    lines += ["", "**To discuss**", ""]
    for entry in data["discuss"]:
        lines += [entry["ask"].strip(), "", *answer(entry["answer"].strip(), "What to listen for")]
    lines += ["**Exam questions**", ""]
    for number, entry in enumerate(data["exam"], 1):
        lines += [f"{number}\\. ({entry['points']} points) {entry['ask'].strip()}", ""]
        lines += answer(entry["answer"].strip(), "Model answer")
    return lines


class ChapterGuide(SphinxDirective):
    """``{chapter-guide} part1/gibbs-policy``."""

    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        root = Path(self.env.srcdir)
        path, chapter = root / "book/teach/guide" / f"{name}.yml", root / "book" / f"{name}.md"
        for file in (path, chapter):
            self.env.note_dependency(str(file))
            if not file.exists():
                raise self.error(f"no file {file.relative_to(root)}")
        goals = goals_of(chapter)
        try:
            lines = layout(name, load(path), goals, name)
        except GuideError as error:
            raise self.error(str(error)) from error
        node = nodes.container(classes=["kl-guide"])
        self.state.nested_parse(lines, self.content_offset, node)
        return [node]


def setup(app):
    app.add_directive("chapter-guide", ChapterGuide)
