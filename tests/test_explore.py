"""The explorers in Python: frames against closed forms, packing, cache, and the widget."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("anywidget")

from klrlhf import explore
from klrlhf.bandit import Bandit
from klrlhf.explore import cache, frontier, likelihood, second_order, svg
from klrlhf.explore.design import number, percent, slider
from klrlhf.explore.host import STATIC
from klrlhf.explore.pack import pack_frames
from klrlhf.explore.tilt import tilt_explorer

JS = Path(__file__).parents[1] / "js"


@pytest.fixture(scope="module")
def widgets():
    return {name: getattr(explore, name)() for name in explore.FACTORIES}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setenv("KLRLHF_CACHE", str(tmp_path_factory.getbasetemp() / "explore-cache"))


# ---- the built bundle --------------------------------------------------------------------------


@pytest.mark.skipif(not JS.exists(), reason="installed without its source")
@pytest.mark.parametrize("name", ["explorer.js", "hydrate.js"])
def test_bundle_matches_its_source(name):
    """js/build.mjs stamps the bundle with this hash; after a change, run it (npm run build)."""
    digest = hashlib.sha256()
    for path in [*sorted((JS / "src").glob("*.js")), JS / "package.json"]:
        label = path.relative_to(JS).as_posix()
        digest.update(label.encode() + b"\0" + path.read_bytes() + b"\0")
    stamp = re.search(r"sha256 ([0-9a-f]{64})", (STATIC / name).read_text(encoding="utf-8"))
    assert stamp.group(1) == digest.hexdigest()


@pytest.mark.skipif(not JS.exists(), reason="installed without its source")
def test_lock_file_pins_versions_and_names_no_host():
    lock = (JS / "package-lock.json").read_text(encoding="utf-8")
    assert "resolved" not in lock and "integrity" in lock
    wanted = json.loads((JS / "package.json").read_text(encoding="utf-8"))
    for version in {**wanted["dependencies"], **wanted["devDependencies"]}.values():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)


def test_nothing_is_fetched():
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn|@import|url\(\s*['\"]?(?!#)", text), path.name


def zipped(data: bytes) -> int:
    return len(gzip.compress(data))


def test_page_weight(widgets):
    modules = sum(zipped(path.read_bytes()) for path in STATIC.iterdir())
    assert zipped((STATIC / "explorer.js").read_bytes()) < 22_000
    for name, widget in widgets.items():
        assert modules + zipped(widget.static_html().encode()) < 60_000, name


# ---- frames against closed forms ---------------------------------------------------------------


def test_tilt_is_the_gibbs_policy():
    rewards = {"r1": 0.3, "r2": -1.0, "r3": 1.7, "r4": 0.0}
    values = tilt_explorer().compute(beta=0.7, **rewards).values
    weight = np.array([0.4, 0.3, 0.2, 0.1]) * np.exp(np.array(list(rewards.values())) / 0.7)
    assert np.allclose(values["policy"], weight / weight.sum(), rtol=1e-13)
    assert np.isclose(values["value"], 0.7 * np.log(weight.sum()), rtol=1e-13)
    assert np.isclose(values["value"], values["reward"] - 0.7 * values["kl"], rtol=1e-12)


@pytest.mark.parametrize("name", frontier.INSTANCES)
@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0])
def test_frontier_tangent_touches_and_stays_above(name, beta):
    frame = frontier.frame(beta, name)
    bandit = frontier.instance(name).with_(beta=beta)
    assert np.isclose(frame.values["value"], bandit.optimal_value, rtol=1e-10, atol=1e-13)
    curve = next(m for m in frame.marks[0] if m["series"] == "frontier")
    line = frame.values["value"] + beta * np.array(curve["x"])
    assert np.all(np.array(curve["y"]) <= line + 1e-5)
    assert frame.values["above"] == 0


def test_frontier_resampling_changes_the_cloud_only():
    first, second = frontier.frame(0.5, "bad", seed=0), frontier.frame(0.5, "bad", seed=1)
    changed = [a["series"] for a, b in zip(first.marks[0], second.marks[0], strict=True) if a != b]
    assert changed == ["random policies"]


@pytest.mark.parametrize("t", [0.1, 1.0, 5.0, 30.0])
def test_two_arms_attain_the_h_bound(t):
    h = (t / 2) / np.tanh(t / 2) - 1 + np.log(np.sinh(t / 2) / (t / 2))
    # KL(pi_hat || pi*) for two arms with odds shifted by e^t, maximized over pi_hat
    mass = np.linspace(0.001, 0.999, 4001)
    log_z = np.log1p(mass * np.expm1(t))
    assert np.isclose((log_z - mass * t).max(), h, rtol=1e-3)
    gaps = second_order.two_arm_gap(t, mass)
    assert np.allclose(gaps, log_z - mass * t, rtol=1e-9, atol=1e-12)
    assert second_order.frame(t, 0.5, 3).values["ratio"] <= 1 + 1e-12


def test_likelihood_of_one_pair_has_its_closed_form():
    none = {f"w{a}{b}": 0 for a in (1, 2, 3) for b in (1, 2, 3) if a != b}
    frame = likelihood.frame(4.0, **{**none, "w12": 3, "w21": 1})
    theta = frame.values["theta"]
    assert np.isclose(theta @ likelihood.Z[0], np.log(3), rtol=1e-8)
    assert np.isclose(np.linalg.norm(theta), np.log(3) / np.linalg.norm(likelihood.Z[0]))
    assert "not unique" in frame.say


@pytest.mark.parametrize("seed", range(40))
def test_escape_cone_says_what_existence_says(seed):
    rng = np.random.default_rng(seed)
    pairs = [f"w{a}{b}" for a in (1, 2, 3) for b in (1, 2, 3) if a != b]
    counts = {k: int(v) for k, v in zip(pairs, rng.integers(0, 3, 6) * rng.integers(0, 2, 6),
                                        strict=True)}
    frame = likelihood.frame(2.0, **counts)
    angles = likelihood.escape(likelihood.comparisons(counts))
    assert (angles.size == 0) == frame.values["exists"]
    if angles.size:  # from any point the likelihood does not fall along the middle of the cone
        middle = (angles[0] + angles[-1]) / 2
        steps = np.linspace(0, 30, 50)[:, None] * [np.cos(middle), np.sin(middle)]
        path = likelihood.negative_log_likelihood(frame.values["theta"] + steps,
                                                  likelihood.comparisons(counts))
        assert np.all(np.diff(path) <= 1e-12)
        assert "Separable" in frame.say


def test_confidence_frame_counts_failures(widgets):
    values = widgets["confidence_explorer"].compute(B=1.5, n=1000, c=1.0, delta=0.1).values
    assert values["failures"] == 0
    assert values["rho"]["sharp"] < values["rho"]["usual"] < 2.01 * values["rho"]["sharp"]
    assert 0.02 < values["outside"] / 1000 < 0.2


def test_radius_price_grows_like_the_curvature(widgets):
    compute = widgets["radius_cost_explorer"].compute
    low, high = (compute(LB=LB, n=10_000, place="centre").values for LB in (1.0, 4.0))
    curvature = np.cosh(2.0) ** 2 / np.cosh(0.5) ** 2
    assert np.isclose(high["sharp"] / low["sharp"], curvature, rtol=0.02)
    assert np.isclose(high["measured"] / low["measured"], 1, rtol=0.02)
    assert abs(low["measured"] / low["predicted"] - 1) < 0.15


# ---- designs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", explore.FACTORIES)
def test_design(widgets, name):
    design = widgets[name].design
    assert sum(not c.group for c in design.controls) <= 4
    for control in design.controls:
        assert any(value == pytest.approx(control.value, rel=1e-11)
                   if isinstance(value, float) else value == control.value
                   for value in control.grid()), f"{control.name} does not start on its grid"
    for path in design.api:
        module, function = path.rsplit(".", 1)
        assert callable(getattr(__import__(module, fromlist=[function]), function))
    frame = widgets[name].compute()
    text = json.dumps(frame.as_json())
    assert "NaN" not in text and "Infinity" not in text
    assert re.search(r"\d", frame.say)
    assert all(mark["role"] and mark["series"] for panel in frame.marks for mark in panel)


@pytest.mark.parametrize("name", explore.FACTORIES)
def test_fallback_draws_every_curve(widgets, name):
    widget = widgets[name]
    drawing = svg.figure(widget.design, widget.compute())
    assert drawing.count("<svg class=\"kl-svg\"") == len(widget.design.panels)
    coordinates = " ".join(re.findall(r' (?:d|x|y|cx|cy|width|height)="([^"]*)"', drawing))
    assert not re.search("nan|None|inf", coordinates)
    curves = [m for p in widget.compute().marks for m in p
              if m["kind"] not in ("labels", "handle")]
    assert drawing.count('<path class="kl-mark') == len(curves)


def test_slider_grid_is_even_on_its_scale():
    control = slider("beta", "KL", 0.5, 0.05, 5.0, count=61, scale="log")
    assert control.grid()[0] == 0.05 and control.grid()[-1] == 5.0
    assert np.allclose(np.diff(np.log(control.grid())), np.log(100) / 60)
    assert 0.5 in control.grid()


@pytest.mark.parametrize("value, text", [
    (0.5, "0.5"), (1234.5, "1230"), (12345, "12\u2009300"), (1e6, "10⁶"), (2.5e-4, "2.5·10⁻⁴"),
    (-0.25, "−0.25"), (0, "0"), (float("nan"), "–"), (0.125, "0.125"), (2.345e7, "2.35·10⁷")])
def test_numbers_for_people(value, text):
    assert number(value) == text


def test_no_share_is_rounded_up_to_everything():
    assert percent(1.0) == "100\u202f%"
    assert percent(0.9999) == "> 99.9\u202f%"
    assert percent(0.125) == "13\u202f%"


# ---- packing and cache -------------------------------------------------------------------------


def unpacked(pack, design, **values):
    """An independent reader of the packed form; js/src/pack.js is the other."""
    grids = {c.name: c.grid() for c in design.controls}
    index = {name: grids[name].index(values[name]) for name in pack["axes"]}

    def cell(column):
        at = 0
        for a in column["on"]:
            name = pack["axes"][a]
            at = at * len(grids[name]) + index[name]
        row = column["rows"][column["index"][at] if "index" in column else at]
        if column["as"] == "text":
            which, *parts = row
            return re.sub("\u0001", lambda _: parts.pop(0), column["texts"][which])
        if column["as"] == "plain":
            return row
        whole = row if isinstance(row, list) else [row]
        out, last = [], 0
        for k in whole:
            last = last if k is None else last + k
            place = column["from"] + last * column["step"]
            out.append(None if k is None else 10**place if column["log"] else place)
        return out if isinstance(row, list) else out[0]

    def fill(node):
        if isinstance(node, list):
            return [fill(v) for v in node]
        if isinstance(node, dict):
            return cell(pack["columns"][node["$"]]) if "$" in node else \
                {k: fill(v) for k, v in node.items()}
        return node

    return fill(pack["template"])


def test_packed_frames_are_the_frames(widgets):
    design = widgets["frontier_explorer"].design
    pack = pack_frames(design)
    beta = design.controls[0].grid()
    for values in ({"beta": beta[7], "instance_name": "tied"},
                   {"beta": beta[55], "instance_name": "good"}):
        ours, theirs = design.frame(**values).as_json(), unpacked(pack, design, **values)
        assert theirs["say"] == ours["say"]
        for mine, yours in zip(ours["marks"][0], theirs["marks"][0], strict=True):
            assert mine.keys() == yours.keys()
            for key in ("x", "y", "hi"):
                if key in mine and mine[key] is not None:
                    assert np.allclose(np.array(mine[key], dtype=float),
                                       np.array(yours[key], dtype=float), atol=2e-3)


def test_cache_is_keyed_by_design_and_state(tmp_path, monkeypatch, widgets):
    monkeypatch.setenv("KLRLHF_CACHE", str(tmp_path))
    calls = []

    def compute(design):
        calls.append(design.state)
        return {"answer": len(calls)}

    from dataclasses import replace
    design = widgets["tilt_explorer"].design
    assert cache.cached(design, compute) == cache.cached(design, compute) == {"answer": 1}
    assert cache.cached(replace(design, state=(1.0,)), compute) == {"answer": 2}
    for path in tmp_path.iterdir():
        path.write_text("broken")
    assert cache.cached(design, compute) == {"answer": 3}


def test_unwritable_cache_only_costs_time(tmp_path, monkeypatch, widgets):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KLRLHF_CACHE", str(tmp_path / "file" / "below"))
    assert cache.cached(widgets["tilt_explorer"].design, lambda _: {"a": 1}) == {"a": 1}


# ---- the widget --------------------------------------------------------------------------------


def test_moving_a_trait_recomputes():
    widget = explore.frontier_explorer(beta=1.0)
    seen = []
    widget.observe(lambda change: seen.append(change["new"]), "beta")
    before = widget.frame
    widget.beta = 0.777  # between grid points
    assert seen == [0.777] and widget.frame != before
    assert np.isclose(widget.values["value"],
                      Bandit.running_example(beta=0.777).optimal_value, rtol=1e-10)
    assert widget.settings() == {"beta": 0.777, "instance_name": "bad"}
    before = widget.frame
    widget.seed += 1
    assert widget.frame != before


def test_composes_with_other_widgets():
    import ipywidgets

    first, second = explore.frontier_explorer(), tilt_explorer()
    ipywidgets.link((first, "beta"), (second, "beta"))
    first.beta = 2.0
    assert second.beta == 2.0 and "= 2 " in second.compute().say
    assert isinstance(ipywidgets.VBox([first, second]), ipywidgets.Widget)


def test_unknown_control_is_refused():
    with pytest.raises(ValueError, match="no control named.*'eta'"):
        explore.frontier_explorer(eta=1.0)


@pytest.mark.parametrize("name", explore.FACTORIES)
def test_mime_bundle(widgets, name):
    data, _ = widgets[name]._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert re.search(r"\d", data["text/plain"]) and "<" not in data["text/plain"]
    html = data["text/html"]
    assert html.startswith('<div class="kl-explorer" data-explorer=')
    state = json.loads(re.search(r'<script type="application/json">(.*)</script>', html, re.S)[1])
    assert ("pack" in state) != bool(state["spec"]["twin"])


def test_no_grid_where_a_kernel_answers(widgets, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "some/notebook.md")
    data, _ = widgets["confidence_explorer"]._repr_mimebundle_()
    assert "text/html" not in data and "application/vnd.jupyter.widget-view+json" in data


def test_start_values_reach_the_page():
    html = explore.frontier_explorer(beta=5.0).static_html()
    state = json.loads(re.search(r'<script type="application/json">(.*)</script>', html, re.S)[1])
    assert state["spec"]["controls"][0]["value"] == 5.0
    assert "At <i>β</i>\u00a0=\u00a05 " in html.replace(" = ", "\u00a0=\u00a0")


def test_every_factory_is_exported():
    assert set(explore.FACTORIES) <= set(explore.__all__) <= set(dir(explore))
    with pytest.raises(AttributeError):
        _ = explore.nothing
