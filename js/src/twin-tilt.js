// klrlhf.explore.tilt.frame: the Gibbs policy of four rewards.
import { number, percent } from "./text.js";

const PI0 = [0.4, 0.3, 0.2, 0.1];
const ARMS = [1, 2, 3, 4];
const total = values => values.reduce((a, b) => a + b, 0);

export function tilt(values) {
  const beta = values.beta;
  const r = ARMS.map(k => values[`r${k}`]);
  const top = Math.max(...r.map(v => v / beta));
  const weight = r.map((v, k) => PI0[k] * Math.exp(v / beta - top));
  const z = total(weight);
  const pi = weight.map(w => w / z);
  const mean = total(pi.map((p, k) => p * r[k]));
  const value = beta * (top + Math.log(z));
  // p log(p/q) - p + q is a sum of non-negative terms: accurate when the policies are close
  const kl = total(
    pi.map((p, k) => {
      const ratio = (p - PI0[k]) / PI0[k];
      return p > 0 ? p * Math.log1p(ratio) - p + PI0[k] : PI0[k];
    }),
  );
  const best = pi.indexOf(Math.max(...pi));
  const shift = by => ARMS.map(k => k + by);
  const mark = (kind, series, role, content, style) => ({
    kind,
    series,
    role,
    ...content,
    ...(style && { style }),
  });
  const upper = [
    mark("rule", "zero", "reference", { x: null, y: 0 }, "thin"),
    mark("bars", "reward", "optimum", { x: ARMS, y: r, width: 0.34, base: 0 }, "pale"),
    mark("labels", "reward value", "optimum", {
      x: ARMS,
      y: r.map(v => Math.max(v, 0)),
      text: r.map(v => number(v, 2)),
      dx: 0,
      dy: -13,
      anchor: "middle",
    }),
    ...ARMS.map(k =>
      mark("handle", `knob ${k}`, "optimum", { x: k, y: r[k - 1], control: `r${k}`, axis: "y" }),
    ),
  ];
  const lower = [
    mark(
      "bars",
      "reference policy",
      "reference",
      { x: shift(-0.17), y: PI0, width: 0.3, base: 0 },
      "hatched",
    ),
    mark("bars", "Gibbs policy", "empirical", { x: shift(0.17), y: pi, width: 0.3, base: 0 }),
    mark("labels", "probability", "empirical", {
      x: shift(0.03),
      y: pi,
      text: pi.map(p => percent(p)),
      dx: 0,
      dy: -6,
      anchor: "start",
    }),
  ];
  const say = [
    `At <i>β</i> = ${number(beta)} the Gibbs policy puts ${percent(pi[best])} on arm ${best + 1}, ` +
      `where <i>π</i><sub>0</sub> puts ${percent(PI0[best])}.`,
    `It earns E <i>r</i> = ${number(mean)}, pays <i>β</i> KL = ${number(beta * kl)}, ` +
      `and keeps <i>J</i> = ${number(value)}: no policy keeps more.`,
  ];
  const numbers = [
    ["E <i>r</i>, earned", number(mean), "optimum"],
    ["KL(<i>π</i> ‖ <i>π</i><sub>0</sub>), nats", number(kl), "reference"],
    ["<i>J</i> = E <i>r</i> − <i>β</i> KL", number(value), "empirical"],
  ];
  return { marks: [upper, lower], say, numbers, values: { policy: pi, kl, reward: mean, value } };
}
