"""Item 5.9: one response through the tree of tokens, with soft values and policy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from klrlhf.explore import marks
from klrlhf.explore.design import Design, Frame, axis, choice, key, number, panel, percent, slider
from klrlhf.explore.host import Explorer
from klrlhf.sequences import response_features, sequence_log_policy, soft_values, songs_model

RESPONSES = ("joy", "happy joy sweet", "sweet sleep", "sleep sleep sleep")
OTHERS = (0.5, -1.5, 1.0)  # length, repetition, alliteration
V_LO, V_HI = -1.5, 3.7
END = "end"
LEAVE, ARRIVE, BARS = 0.38, 0.67, 1.19  # where a branch starts and ends, and its bars stand


@lru_cache(maxsize=1)
def setting():
    """The book's language model and the features of its responses."""
    model = songs_model()
    return model, response_features(model)


@lru_cache(maxsize=256)
def solved(beta: float, joy: float):
    """Reward, soft values and laws of responses at one setting."""
    model, phi = setting()
    reward = phi @ np.array([OTHERS[0], joy, *OTHERS[1:]])
    soft = soft_values(reward, beta, model.log_tokens)
    return reward, soft, np.exp(sequence_log_policy(soft.log_tokens))


def steps(response: str):
    """Open prefixes on the way and the token taken at each, the end where it is free."""
    model, _ = setting()
    words = response.split()
    nodes = [model.node(words[:t]) for t in range(len(words) + 1)]
    taken = [model.words.index(word) for word in words]
    if len(words) < model.H:
        return nodes, taken + [model.W]
    return nodes[:-1], taken


def tree(x: int, response: str, soft):
    """The tokens that branch off the path: reference, policy, and the path itself."""
    model, _ = setting()
    nodes, taken = steps(response)
    p0, p = np.exp(model.log_tokens[x, nodes]), np.exp(soft.log_tokens[x, nodes])
    # Every frame has the same marks: positions that a short response lacks stay empty.
    shown = np.zeros((2, model.H, model.W + 1))  # beyond the end of the response: no bars
    shown[:, : len(taken)] = p0, p
    height = np.arange(model.W, -1, -1.0)
    at, way_x, way_y, edges_x, edges_y = height.mean(), [], [], [], []
    for t in range(model.H):
        there = t < len(taken)
        for y in height:
            edges_x += [t + LEAVE, t + ARRIVE, np.nan]
            edges_y += [at, y, np.nan] if there else [np.nan] * 3
        now = height[taken[t]] if there else np.nan
        way_x += [t + LEAVE, t + ARRIVE, np.nan]
        way_y += [at, now, np.nan]
        at = now
    out = [marks.line("branches", "reference", edges_x, edges_y, style="fine"),
           marks.line("path", "optimum", way_x, way_y, style="solid"),
           marks.labels("prompt", "optimum", [LEAVE - 0.04], [height.mean()],
                        [model.prompts[x]], dy=4, anchor="end", style="bold")]
    place = np.arange(model.H) + BARS
    for a, y in enumerate(height):
        base = y - 0.36
        for series, role, shift, row, style in (
                ("reference", "reference", 0.0, shown[0, :, a], "hatched"),
                ("policy", "empirical", 0.1, shown[1, :, a], "")):
            out.append(marks.bars(f"{series} {a}", role, place + shift, base + 0.8 * row, 0.08,
                                  base=base, style=style))
    names = np.array([*model.words, END])
    for series, role, style in (("words", "reference", ""), ("own words", "optimum", "bold")):
        chosen = np.zeros((model.H, model.W + 1), bool)
        for t, token in enumerate(taken):
            chosen[t] = (np.arange(model.W + 1) == token) == (series == "own words")
        out.append(marks.labels(
            series, role, np.repeat(np.arange(model.H) + ARRIVE + 0.02, model.W + 1),
            np.where(chosen, height, np.nan).ravel(), np.tile(names, model.H).tolist(), dy=4,
            anchor="start", style=style))
    return out, p0, p, taken


def frame(beta, joy, prompt, response, seed=0) -> Frame:
    """The path of one response: next-token laws, soft values, log-ratios."""
    beta, joy = float(beta), float(joy)
    model, _ = setting()
    x = model.prompts.index(prompt)
    reward, soft, law = solved(beta, joy)
    drawn, p0, p, taken = tree(x, response, soft)
    nodes = steps(response)[0]
    earned = float(reward[x, model.node(response)])
    values = np.append(soft.V[x, nodes], earned)
    ratios = beta * np.log([p[t, a] / p0[t, a] for t, a in enumerate(taken)])
    best = float(reward[x].max())
    mean = float(model.policy[x] @ reward[x])
    t, full = np.arange(model.H + 1), np.full(model.H + 1, np.nan)
    full[: len(values)] = values
    signed = [("+" if r >= 0 else "−") + number(abs(r), 2) for r in ratios]
    signed += [""] * (model.H - len(signed))
    words = [*response.split(), END][: len(taken)]
    right = [marks.rule("mean", "reference", y=mean, style="fine"),
             marks.rule("best", "optimum", y=best, style="fine"),
             marks.labels("ends", "reference", [3.95, 3.95], [mean, best],
                          ["mean of the reference", "best response"], dy=-4, anchor="end"),
             marks.line("soft value", "predicted", t, full, style="solid"),
             marks.points("prefixes", "predicted", t, full, size=7, style="strong"),
             marks.labels("changes", "predicted", t[1:], full[1:], signed, dy=16)]
    big = int(np.argmax(np.abs(ratios)))
    say = [
        f"After “{prompt}” the response “{response}” earns {number(earned)}; at <i>β</i> = "
        f"{number(beta)} the soft value of the prompt is {number(values[0])},",
        f"between the reference's mean {number(mean)} and the best response's {number(best)}.",
        "Its tokens' log-ratios times <i>β</i> are "
        + ", ".join(f"{number(r, 2)} ({w})" for r, w in zip(ratios, words, strict=True))
        + f": together {number(ratios.sum(), 3)}, what it earns less the soft value.",
        f"The largest in size is that of “{words[big]}”, which the policy takes "
        f"{percent(p[big, taken[big]])} of the time there, the reference {percent(p0[big, taken[big]])}.",
        f"As a whole the response has probability {percent(law[x, model.node(response)])},"
        f" under the reference {percent(model.policy[x, model.node(response)])}."]
    return Frame([drawn, right], say, [], {
        "values": values, "ratios": ratios, "earned": earned, "mean": mean, "best": best,
        "law": law[x, model.node(response)], "reference": model.policy[x, model.node(response)]})


def tokens_explorer(**values) -> Explorer:
    r"""A response through the tree of tokens: next-token laws and soft values at every prefix.

    Parameters
    ----------
    **values
        Start values: ``beta``, ``joy`` (weight of the favourite word), ``prompt``, ``response``.

    Returns
    -------
    Explorer
        Results ``soft-bellman`` and ``token-log-ratio``.
    """
    model, _ = setting()
    design = Design(
        id="tokens", label="The Gibbs policy, token by token",
        controls=(
            slider("beta", "KL coefficient", 0.5, 0.05, 5.0, symbol="β", count=7, scale="log"),
            slider("joy", "reward for the word joy", 1.0, 0.0, 2.0, count=3),
            choice("prompt", "prompt", "sleep", {p: p for p in model.prompts}),
            choice("response", "response", "happy joy sweet", {r: r for r in RESPONSES})),
        panels=(
            panel(axis("next token", 0.0, 3.4, bare=True,
                       ticks=[(0.9, "first"), (1.9, "second"), (2.9, "third")]),
                  axis("", -0.6, model.W + 0.6, hidden=True),
                  "the prefixes of the response, and at each the five next tokens with their "
                  "probability under the reference and under the Gibbs policy", aspect=0.66,
                  least=250, grow=1.25),
            panel(axis("tokens written", -0.1, 4.0, ticks=[0, 1, 2, 3]),
                  axis("soft value", V_LO, V_HI),
                  "the soft value of each prefix of the response, up to its reward",
                  aspect=0.8, least=250)),
        frame=frame,
        legend=(key("bars", "reference", "next token under <i>π</i><sub>0</sub>", "hatched"),
                key("bars", "empirical", "under the Gibbs policy"),
                key("line", "optimum", "the response", "solid"),
                key("dot", "predicted", "soft value, and its change by each token")),
        api=("klrlhf.sequences.soft_values", "klrlhf.sequences.songs_model"))
    return Explorer(design, **values)
