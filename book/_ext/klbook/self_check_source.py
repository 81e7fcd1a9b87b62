"""The source of a ``{self-check}``: read it, refuse what is wrong, or turn it into plain Markdown.

It reads as text: a question, then options that each carry their own feedback.
The directive and its HTML live in ``self_check``.
"""
import importlib
import math
import re
from dataclasses import dataclass, field

OPTION = re.compile(r"- \[(?P<mark>[ xX])\] +")
CASE = re.compile(r"- (?:`(?P<value>[^`]+)`|(?P<word>right|otherwise))(?= *:|$)")
PYTHON = re.compile(r"\{py\}`([^`]+)`")
OPAQUE = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`", re.S)
FENCE = re.compile(r"^(?P<fence>`{3,}|:{3,})\{self-check\} *\n(?P<body>.*?)^(?P=fence) *$", re.M | re.S)
SETTING = re.compile(r":([\w-]+):(.*)")
NUMERIC = ("answer", "answer-python", "tolerance", "unit")


@dataclass
class Option:
    """One option, or one value that a reader may type (None: any other value)."""

    text: str
    feedback: str
    right: bool
    value: float | None = None
    line: int = 0


@dataclass
class Question:
    """A parsed self-check; ``kind`` is "one", "many" or "number"."""

    kind: str
    prompt: str
    options: list[Option] = field(default_factory=list)
    tolerance: float = 0.0
    unit: str = ""


def evaluate(expression, names):
    """The value of a Python expression; the error names the expression."""
    try:
        return eval(expression, names)
    except Exception as error:
        raise ValueError(f"cannot evaluate {expression!r}: {error}") from error


def namespace(setup):
    """What an expression may name: numpy, math, the library, and what the set-up line defines."""
    names = {"math": math, "np": importlib.import_module("numpy"), "klrlhf": importlib.import_module("klrlhf")}
    try:
        exec(setup, names)
    except Exception as error:
        raise ValueError(f"cannot run the set-up {setup!r}: {error}") from error
    return names


def number(expression, names, what):
    value = evaluate(str(expression), names)
    try:
        value = float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be one number, not {value!r}") from error
    if not math.isfinite(value):
        raise ValueError(f"{what} must be finite, not {value}")
    return value


def say(value):
    """A number in four digits, without an exponent unless it is very large or small."""
    if value == 0 or not 1e-4 <= abs(value) < 1e7:
        return f"{value:.4g}"
    text = f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def fill(text, names):
    """Replace ``{py}`expression | format``` by its value."""
    def shown(match):
        expression, _, form = match[1].rpartition(" | ")
        value = evaluate(expression or form, names)
        return format(value, form.strip()) if expression else say(value)
    return PYTHON.sub(shown, text)


def split_feedback(text):
    """Cut at the first colon that stands between spaces, outside math and code."""
    masked = OPAQUE.sub(lambda match: "x" * len(match[0]), text)
    cut = re.search(r"(?:^|\s):\s", masked + " ")
    return (text[:cut.start()].strip(), text[cut.end():].strip()) if cut else (text.strip(), "")


def items(lines, start):
    """Question text, then (match, text, line) for each list item that ``start`` opens."""
    prompt, found = [], []
    for count, line in enumerate(lines):
        match = start.match(line)
        if match:
            found.append([match, [line[match.end():]], count])
        elif not found:
            prompt.append(line)
        elif line.strip() and not line.startswith(" "):
            raise ValueError(f"after the first option, {line!r} neither opens an option nor is indented by two spaces")
        else:
            found[-1][1].append(line.strip())
    return "\n".join(prompt).strip(), [(match, "\n".join(text), count) for match, text, count in found]


def parse(lines, settings):
    """Read a self-check; ValueError says what is wrong with it.

    Parameters
    ----------
    lines : list of str
        The directive's content.
    settings : dict
        The directive's options.

    Returns
    -------
    Question
    """
    numeric = "answer" in settings or "answer-python" in settings
    names = namespace(settings.get("python", ""))
    lines = fill("\n".join(lines), names).split("\n")
    prompt, found = items(lines, CASE if numeric else OPTION)
    if not prompt:
        raise ValueError("the question is missing")
    question = (parse_number if numeric else parse_choice)(prompt, found, settings, names)
    for option in question.options:
        if not option.feedback:
            raise ValueError(f"option {option.text!r} has no feedback: write ' : ' and why after it")
    texts = [" ".join(option.text.split()) for option in question.options]
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice:
        raise ValueError(f"option {twice!r} stands twice")
    return question


def parse_choice(prompt, found, settings, names):
    extra = sorted(set(NUMERIC) & set(settings))
    if extra:
        raise ValueError(f"{', '.join(extra)} without an answer: give :answer: or :answer-python:")
    options = [Option(*split_feedback(text), match["mark"] in "xX", line=line) for match, text, line in found]
    right = sum(option.right for option in options)
    if len(options) < 2:
        raise ValueError("a question needs at least two options (lines that begin with '- [ ] ' or '- [x] ')")
    if not right:
        raise ValueError("no option is correct: mark one with '- [x] '")
    return Question("many" if right > 1 or "several" in settings else "one", prompt, options)


def parse_number(prompt, found, settings, names):
    if "answer" in settings and "answer-python" in settings:
        raise ValueError("give :answer: or :answer-python:, not both")
    if "tolerance" not in settings:
        raise ValueError("a numeric question needs a :tolerance:")
    given = settings.get("answer-python") or settings["answer"]
    answer, tolerance = number(given, names, "the answer"), number(settings["tolerance"], names, "the tolerance")
    if tolerance <= 0:
        raise ValueError(f"the tolerance must be positive, not {tolerance}")
    question = Question("number", prompt, [], tolerance, settings.get("unit", ""))
    for match, text, line in found:
        feedback = split_feedback(text)[1]
        if match["word"] == "right":
            option = Option(say(answer), feedback, True, answer, line)
        elif match["word"]:
            option = Option("otherwise", feedback, False, None, line)
        else:
            value = number(match["value"], names, "a wrong value")
            if abs(value - answer) <= tolerance:
                raise ValueError(f"wrong value {say(value)} lies within the tolerance {tolerance:g} of the answer {say(answer)}")
            near = [option for option in question.options
                    if option.value is not None and not option.right and abs(option.value - value) <= tolerance]
            if near:
                raise ValueError(f"wrong values {say(near[0].value)} and {say(value)} lie within one tolerance of each other")
            option = Option(say(value), feedback, False, value, line)
        question.options.append(option)
    if [o.right for o in question.options].count(True) != 1:
        raise ValueError("a numeric question needs exactly one line '- right : ...'")
    if [o.text for o in question.options].count("otherwise") != 1:
        raise ValueError("a numeric question needs exactly one line '- otherwise : ...' for any other value")
    return question


def split_settings(body):
    """The directive's options (``:name: value`` lines at its head) and its content."""
    lines, settings = body.rstrip("\n").split("\n"), {}
    while lines and (match := SETTING.fullmatch(lines[0])):
        settings[match[1]] = match[2].strip()
        lines.pop(0)
    return settings, lines


def markdown(question):
    """A question as a Markdown list, with the answers folded under it."""
    choice = question.kind != "number"
    out = ["**Check yourself.**", question.prompt, ""]
    out += [f"- {option.text}".replace("\n", "\n  ") for option in question.options if choice]
    out += ["", "<details><summary>Answers</summary>", ""]
    for option in question.options:
        word = "Any other value" if option.text == "otherwise" and not choice else option.text
        lead = f"{'✓' if option.right else '✗'} {word}"
        out.append(f"- **{lead}**: {option.feedback}".replace("\n", "\n  ") if not choice else
                   f"- {lead}\n{option.feedback}".replace("\n", "\n  "))
    return "\n".join([*out, "", "</details>"])


def as_markdown(text):
    """Every self-check of a Markdown cell as plain Markdown, for readers that lack the directive."""
    def plain(match):
        settings, lines = split_settings(match["body"])
        return markdown(parse(lines, settings))
    return FENCE.sub(plain, text)
