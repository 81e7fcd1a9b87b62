"""The line under each result that says how it was checked, and the strictness behind it."""
import html

from docutils import nodes
from sphinx.util import logging

logger = logging.getLogger(__name__)

PROVED = {"theorem", "lemma", "proposition", "corollary"}
# sphinx-proof and sphinx-exercise give every body the same id, which a page may hold only once.
SHARED_IDS = {"proof-content", "exercise-content", "solution-content"}


def thousands(number):
    """20000 as "20 000", with a thin no-break space."""
    return f"{number:,}".replace(",", "\u202f")


def power(number):
    """A small number in words a reader can say: 3.2 × 10⁻¹⁴."""
    if number == 0:
        return "0"
    mantissa, exponent = f"{number:.1e}".split("e")
    if -3 <= int(exponent) <= 3:
        return f"{number:.3g}"
    digits = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{digits}"


def duration(seconds):
    return f"{seconds:.1f} s" if seconds >= 0.05 else "under 0.1 s"


def closeness(record):
    """The one number that says how tight the claim is, by kind."""
    if record["failure_upper"] is not None:
        return f"failure rate below {record['failure_upper']:.4f} where δ = {record['delta']:g} is allowed"
    if record["kind"] == "identity":
        return f"both sides agree to {power(record['worst_violation'] or 0)}"
    if record["tightest_ratio"] is not None:
        if record["kind"] == "rate":
            return f"simulated over predicted {record['tightest_ratio']:.4f}"
        return f"tightest ratio {record['tightest_ratio']:.4f}"
    if record["worst_violation"] is not None:
        return f"largest error {power(record['worst_violation'])}"
    return "passed"


def line(record):
    """The badge's one line."""
    mode = "" if record["mode"] == "full" else " (fast check)"
    tried = f"checked on {thousands(record['instances'])} instances{mode}"
    return f"{tried} · {closeness(record)} · {duration(record['seconds'])}"


def step_outcome(step):
    """What a step found, by its kind."""
    kind = step["kind"]
    if kind == "probability":
        return f"{thousands(step['failures'])} failures, rate below {step['failure_upper']:.4f} (δ = {step['delta']:g})"
    if "slope" in step:
        return f"slope {step['slope']:.3f} ± {step['slope_error']:.3f}, expected {step['expected']:g}"
    if kind == "attained":
        return f"{step['value']:.4g}, at least {step['floor']:g} wanted"
    if kind == "not vacuous":
        return f"bound down to {step['value']:.3g} of the trivial one"
    if kind == "fact":
        return "held every time" if step["passed"] else f"failed {step['worst_violation']:g} times"
    if kind == "rate":
        return f"within {100 * step['worst_violation']:.2g} % of the prediction"
    if kind == "identity":
        return f"agree to {power(step['worst_violation'])}"
    ratio = step["tightest_ratio"]
    searched = ", after a search for a violation" if step.get("searched") else ""
    return ("never violated" if ratio is None else f"tightest ratio {ratio:.4f}") + searched


def steps_table(record):
    rows = "".join(
        f"<tr><td>{html.escape(step['name'])}</td><td>{html.escape(step['kind'])}</td>"
        f"<td class='text-right'>{thousands(step['count'])}</td>"
        f"<td>{html.escape(step_outcome(step))}</td></tr>"
        for step in record["steps"]
    )
    return (
        "<div class='kl-scroll' tabindex='0' role='region' aria-label='Steps of the check'>"
        "<table class='kl-table'><thead><tr><th scope='col'>step</th><th scope='col'>kind</th>"
        "<th scope='col' class='text-right'>tried</th><th scope='col'>found</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def badge(record):
    """The line and, folded under it, the steps."""
    return (
        f"<details class='kl-check' data-result='{html.escape(record['id'])}' data-passed='{int(record['passed'])}'>"
        f"<summary>{html.escape(line(record))}</summary>"
        f"<p class='kl-summary'>{html.escape(record['summary'])}</p>"
        f"{steps_table(record)}</details>"
    )


def place(app, doctree, docname):
    """Print the badge under every proved statement of a page."""
    for section in doctree.findall(nodes.section):
        section["ids"] = [name for name in section["ids"] if name not in SHARED_IDS]
    for node in list(doctree.findall(nodes.Admonition)):
        if not hasattr(node, "attributes") or node.get("realtype") is None:
            continue
        record = app.klbook_records.get(node.get("label"))
        if node["realtype"] in PROVED and record:
            after = nodes.raw("", badge(record), format="html")
            node.parent.insert(node.parent.index(node) + 1, after)


def compare(app, env):
    """Every proved statement has a check, and every check has its statement."""
    statements = {
        label: entry for label, entry in getattr(env, "proof_list", {}).items()
        if entry["realtype"] in PROVED
    }
    for label, entry in statements.items():
        if label not in app.klbook_records:
            logger.warning("%s %r has no registered check", entry["realtype"], label,
                           location=entry["docname"])
    for id in app.klbook_records:
        if id not in statements:
            logger.warning("checked result %r is stated nowhere in the book", id)


def setup(app):
    app.connect("doctree-resolved", place)
    app.connect("env-check-consistency", compare)
