"""Landing page: drag rewards and beta, and watch pi0 tilt into the Gibbs policy."""

from __future__ import annotations

import numpy as np

from klrlhf.explore import marks
from klrlhf.explore.design import Design, Frame, axis, key, number, panel, percent, slider
from klrlhf.explore.host import Explorer
from klrlhf.policies import gibbs_policy, kl_divergence
from klrlhf.values import expected_reward, optimal_value

REWARD = 2.0  # rewards run from -REWARD to REWARD
PI0 = (0.4, 0.3, 0.2, 0.1)
START = (-0.6, 0.2, 0.5, 1.2)
ARMS = np.arange(1, len(PI0) + 1)


def frame(beta, seed=0, pi0=PI0, **rewards) -> Frame:
    """The Gibbs policy of four rewards at `beta`, and its value."""
    pi0 = np.asarray(pi0)
    r = np.array([rewards[f"r{k}"] for k in ARMS])
    policy = gibbs_policy(r[None], beta, pi0[None])
    mean = float(expected_reward(policy, r[None], np.ones(1)))
    kl = float(kl_divergence(policy, pi0[None])[0])
    value = float(optimal_value(r[None], beta, pi0[None], np.ones(1)))
    pi = policy[0]
    top = marks.bars("reward", "optimum", ARMS, r, 0.34, style="pale")
    knobs = [marks.handle(f"knob {k}", "optimum", f"r{k}", k, r[k - 1]) for k in ARMS]
    above = [marks.labels("reward value", "optimum", ARMS, np.maximum(r, 0),
                          [number(v, 2) for v in r], dy=-13)]
    lower = [
        marks.bars("reference policy", "reference", ARMS - 0.17, pi0, 0.3, style="hatched"),
        marks.bars("Gibbs policy", "empirical", ARMS + 0.17, pi, 0.3),
        marks.labels("probability", "empirical", ARMS + 0.03, pi,
                     [percent(p) for p in pi], dy=-6, anchor="start"),
    ]
    best = int(np.argmax(pi))
    say = [f"At <i>β</i> = {number(beta)} the Gibbs policy puts {percent(pi[best])} on arm "
           f"{best + 1}, where <i>π</i><sub>0</sub> puts {percent(pi0[best])}.",
           f"It earns E <i>r</i> = {number(mean)}, pays <i>β</i> KL = {number(beta * kl)}, "
           f"and keeps <i>J</i> = {number(value)}: no policy keeps more."]
    numbers = [("E <i>r</i>, earned", number(mean), "optimum"),
               ("KL(<i>π</i> ‖ <i>π</i><sub>0</sub>), nats", number(kl), "reference"),
               ("<i>J</i> = E <i>r</i> − <i>β</i> KL", number(value), "empirical")]
    return Frame([[marks.rule("zero", "reference", y=0, style="thin"), top, *above, *knobs], lower],
                 say, numbers, {"policy": pi, "kl": kl, "reward": mean, "value": value})


def tilt_explorer(**values) -> Explorer:
    r"""Drag four rewards and :math:`\beta`; see :math:`\pi_0` tilt into the Gibbs policy.

    Parameters
    ----------
    **values
        Start values: ``beta`` and the rewards ``r1`` ... ``r4``.

    Returns
    -------
    Explorer
        The result shown is the Gibbs variational principle (item 1.1 of the book).
    """
    arms = [(int(k), f"arm {k}") for k in ARMS]
    wide = (0.4, len(PI0) + 0.6)
    design = Design(
        id="tilt", label="The Gibbs policy of four rewards",
        controls=(
            slider("beta", "KL coefficient", 0.5, 0.05, 5.0, symbol="β", count=61, scale="log"),
            *(slider(f"r{k}", f"arm {k}", START[k - 1], -REWARD, REWARD, symbol=f"r<sub>{k}</sub>",
                     count=41, finer=5, group="rewards (or drag the knobs)") for k in ARMS)),
        panels=(
            panel(axis("", *wide, ticks=arms, bare=True), axis("reward <i>r</i>", -REWARD, REWARD),
                  "the reward of each arm, as bars with knobs", aspect=0.62, least=210),
            panel(axis("", *wide, ticks=arms, bare=True),
                  axis("probability", 0, 1, ticks=[(0, "0"), (0.5, "50 %"), (1, "100 %")]),
                  "reference policy and Gibbs policy, arm by arm", aspect=0.62, least=210)),
        frame=frame,
        legend=(key("bars", "reference", "reference policy <i>π</i><sub>0</sub>", "hatched"),
                key("bars", "empirical",
                    "Gibbs policy <i>π</i> ∝ <i>π</i><sub>0</sub> exp(<i>r</i>/<i>β</i>)")),
        api=("klrlhf.policies.gibbs_policy", "klrlhf.values.optimal_value"), twin="tilt")
    return Explorer(design, **values)
