// klrlhf.explore.likelihood.frame: the Bradley-Terry likelihood of three arms in the plane.
import { number, percent } from "./text.js";

const EDGE = 4.5,
  SIDE = 61;
const LEVELS = [-3, -2, -1, -0.5, -0.25, 0.25, 0.5, 1, 2, 3, 5, 8];
const R6 = Math.sqrt(6);
const PHI = [
  [Math.sqrt(3) / R6, 1 / R6],
  [-Math.sqrt(3) / R6, 1 / R6],
  [0, -2 / R6],
];
const PAIRS = [
  [0, 1],
  [0, 2],
  [1, 2],
];
const Z = PAIRS.map(([a, b]) => [PHI[a][0] - PHI[b][0], PHI[a][1] - PHI[b][1]]);
const UNIT = Math.hypot(...PHI[0]);
const NODES = PHI.map(p => p.map(v => (1.05 * v) / UNIT));
const RIM = PHI.map(p => p.map(v => (0.93 * EDGE * v) / UNIT));
const CIRCLE = Array.from({ length: 73 }, (_, k) => (2 * Math.PI * k) / 72);
const AXIS = Array.from({ length: SIDE }, (_, k) => -EDGE + (2 * EDGE * k) / (SIDE - 1));

const sigmoid = u => (u >= 0 ? 1 / (1 + Math.exp(-u)) : Math.exp(u) / (1 + Math.exp(u)));
const softplus = u => Math.log1p(Math.exp(u)); // for u <= 0
const margin = (theta, z) => theta[0] * z[0] + theta[1] * z[1];

const loss = (theta, wins, losses) =>
  Z.reduce((sum, z, t) => {
    if (wins[t] + losses[t] === 0) return sum;
    const u = margin(theta, z),
      low = softplus(-Math.abs(u)),
      high = low + Math.abs(u);
    return sum + wins[t] * (u > 0 ? low : high) + losses[t] * (u > 0 ? high : low);
  }, 0);

/** Minimizer of the loss plus (ridge/2)|theta|^2 by damped Newton steps. */
function newton(wins, losses, ridge, start = [0, 0]) {
  let [a, b] = start;
  for (let step = 0; step < 200; step++) {
    let ga = ridge * a,
      gb = ridge * b,
      haa = ridge,
      hab = 0,
      hbb = ridge;
    Z.forEach(([za, zb], t) => {
      const u = a * za + b * zb,
        p = sigmoid(u),
        q = sigmoid(-u);
      const residual = losses[t] * p - wins[t] * q,
        weight = (wins[t] + losses[t]) * p * q;
      ga += residual * za;
      gb += residual * zb;
      haa += weight * za * za;
      hab += weight * za * zb;
      hbb += weight * zb * zb;
    });
    const det = haa * hbb - hab * hab;
    const da = -(hbb * ga - hab * gb) / det,
      db = -(haa * gb - hab * ga) / det;
    const r = Math.max(...Z.map(([za, zb]) => Math.abs(da * za + db * zb)));
    const share = r < 1e-3 ? 1 : Math.log1p(r) / r;
    a += share * da;
    b += share * db;
    if (r < 1e-14) break;
  }
  return [a, b];
}

/** The ridge at which the minimizer has norm B, by bisection: the KKT multiplier of the ball. */
function onSphere(wins, losses, B) {
  let low = -45,
    high = 5,
    theta = [0, 0]; // exponents of the ridge
  for (let k = 0; k < 70; k++) {
    const middle = (low + high) / 2;
    theta = newton(wins, losses, Math.exp(middle), theta);
    if (Math.hypot(...theta) > B) low = middle;
    else high = middle;
  }
  const size = Math.hypot(...theta);
  return theta.map(v => (v * B) / size);
}

export function likelihood(values) {
  const B = values.B;
  const count = (a, b) => values[`w${a + 1}${b + 1}`];
  const wins = PAIRS.map(([a, b]) => count(a, b)),
    losses = PAIRS.map(([a, b]) => count(b, a));
  const n = wins.concat(losses).reduce((a, b) => a + b, 0);
  const beats = (a, b) =>
    count(a, b) > 0 ||
    [0, 1, 2].some(c => c !== a && c !== b && count(a, c) > 0 && count(c, b) > 0);
  const exists = PAIRS.every(
    ([a, b]) => (count(a, b) === 0 || beats(b, a)) && (count(b, a) === 0 || beats(a, b)),
  );
  const compared = PAIRS.map((_, t) => wins[t] + losses[t] > 0);
  const unique = exists && compared.filter(Boolean).length >= 2;
  const free = !exists ? [null, null] : unique ? newton(wins, losses, 0) : leastNorm(wins, losses);
  const inside = exists && Math.hypot(...free) <= B;
  const theta = inside
    ? free
    : unique || !exists
      ? onSphere(wins, losses, B)
      : free.map(v => (v * B) / Math.hypot(...free));
  const z = [];
  for (const y of AXIS) for (const x of AXIS) z.push(loss([x, y], wins, losses));
  const base = loss(theta, wins, losses);
  const cone = escape(wins, losses);
  const middle = cone.length ? (cone[0] + cone[cone.length - 1]) / 2 : null;
  const tip =
    middle === null
      ? [null, null]
      : [theta[0] + 1.5 * Math.cos(middle), theta[1] + 1.5 * Math.sin(middle)];
  const wedge = f => (cone.length > 1 ? [0, ...cone.map(a => 9 * f(a)), 0] : []);
  const mark = (kind, series, role, content, style) => ({
    kind,
    series,
    role,
    ...content,
    ...(style && { style }),
  });
  const field = levels => ({
    x: [-EDGE, EDGE],
    y: [-EDGE, EDGE],
    rows: SIDE,
    columns: SIDE,
    z,
    levels,
  });
  const text = (x, y, words, dx, dy, anchor) => ({ x, y, text: words, dx, dy, anchor });
  const left = [
    mark("shape", "escape cone", "bound", { x: wedge(Math.cos), y: wedge(Math.sin) }),
    mark("field", "contours", "reference", field(LEVELS.map(v => base + v))),
    mark("field", "level of the estimate", "empirical", field([base])),
    mark(
      "shape",
      "ball",
      "optimum",
      { x: CIRCLE.map(a => B * Math.cos(a)), y: CIRCLE.map(a => B * Math.sin(a)) },
      "outline",
    ),
    mark(
      "labels",
      "ball label",
      "optimum",
      text([B * Math.SQRT1_2], [-B * Math.SQRT1_2], ["‖<i>θ</i>‖ = <i>B</i>"], 4, 14, "start"),
    ),
    mark(
      "labels",
      "arms",
      "reference",
      text(
        RIM.map(p => p[0]),
        RIM.map(p => p[1]),
        [1, 2, 3].map(k => `arm ${k} better`),
        0,
        4,
        "middle",
      ),
    ),
    mark("arrow", "to infinity", "bound", {
      x0: theta[0],
      y0: theta[1],
      x1: tip[0],
      y1: tip[1],
      width: 2.5,
    }),
    mark(
      "points",
      "unconstrained MLE",
      "predicted",
      { x: [free[0]], y: [free[1]], size: 11 },
      "strong",
    ),
    mark("points", "ball MLE", "empirical", { x: [theta[0]], y: [theta[1]], size: 9 }, "strong"),
  ];
  const odds = Z.map(v => sigmoid(margin(theta, v)));
  const say = [
    status(n, exists, unique, inside, B, free, count),
    `The estimate gives ${PAIRS.map(([a, b], t) => `P(${a + 1} beats ${b + 1}) = ${percent(odds[t])}`).join(", ")}.`,
  ];
  return {
    marks: [left, graph(count, mark, text)],
    say,
    numbers: [],
    values: { theta, free, exists, z, base },
  };
}

function leastNorm(wins, losses) {
  const t = wins.findIndex((w, k) => w + losses[k] > 0);
  if (t < 0) return [0, 0];
  const size = Math.log(wins[t] / losses[t]) / (Z[t][0] ** 2 + Z[t][1] ** 2);
  return Z[t].map(v => v * size);
}

function escape(wins, losses) {
  const fine = [];
  let gains = false;
  for (let k = 0; k < 12; k++) {
    const u = Z.map(z => Math.cos((k * Math.PI) / 6) * z[0] + Math.sin((k * Math.PI) / 6) * z[1]);
    if (!u.every((v, t) => (wins[t] === 0 || v > -1e-9) && (losses[t] === 0 || v < 1e-9))) continue;
    fine.push(k);
    gains ||= u.some((v, t) => (wins[t] > 0 && v > 1e-9) || (losses[t] > 0 && v < -1e-9));
  }
  if (!gains) return [];
  let cut = 0;
  fine.forEach((k, i) => {
    if ((i + 1 < fine.length ? fine[i + 1] : fine[0] + 12) - k > 1) cut = (i + 1) % fine.length;
  });
  const ordered = [...fine.slice(cut), ...fine.slice(0, cut)];
  return ordered.map(k => ((ordered[0] + ((k - ordered[0] + 12) % 12)) * Math.PI) / 6);
}

function status(n, exists, unique, inside, B, free, count) {
  if (n === 0)
    return "No comparison yet: every <i>θ</i> fits equally well; the one of least norm is 0.";
  const total = `${n} comparison${n > 1 ? "s" : ""}.`;
  if (!exists) {
    const others = k => [0, 1, 2].filter(j => j !== k);
    const never = [0, 1, 2].filter(
      k => !others(k).some(j => count(k, j)) && others(k).some(j => count(j, k)),
    );
    const why = never.length === 1 ? ` (arm ${never[0] + 1} never wins)` : "";
    return `${total} Separable${why}: no unconstrained MLE. The likelihood rises for ever along the arrow, so over the ball the estimate sits on the edge, ‖<i>θ̂</i>‖ = <i>B</i> = ${number(B)}.`;
  }
  const size = number(Math.hypot(...free));
  if (!unique) {
    return (
      `${total} Attained but not unique: one arm is compared with nothing. The MLE of least norm has norm ${size}` +
      (inside
        ? `, inside the ball of radius ${number(B)}.`
        : `; the ball cuts it to <i>B</i> = ${number(B)}.`)
    );
  }
  const finite = `${total} Finite: every arm beats every other along some chain. The MLE has norm ${size}, `;
  return (
    finite +
    (inside
      ? `inside the ball of radius <i>B</i> = ${number(B)}.`
      : `outside the ball, so the constrained estimate sits on its edge, ‖<i>θ̂</i>‖ = <i>B</i> = ${number(B)}.`)
  );
}

function graph(count, mark, text) {
  const out = [];
  for (let a = 0; a < 3; a++) {
    for (let b = 0; b < 3; b++) {
      if (a === b) continue;
      const w = count(a, b);
      const step = [NODES[b][0] - NODES[a][0], NODES[b][1] - NODES[a][1]],
        size = Math.hypot(...step);
      const way = step.map(v => v / size),
        side = [-0.11 * way[1], 0.11 * way[0]];
      const from = [0, 1].map(i => NODES[a][i] + 0.3 * way[i] + side[i]);
      const to = [0, 1].map(i => NODES[b][i] - 0.3 * way[i] + side[i]);
      const spot = [0, 1].map(i => 0.6 * from[i] + 0.4 * to[i] + 1.6 * side[i]);
      out.push(
        mark("arrow", `${a + 1} beats ${b + 1}`, "empirical", {
          x0: w ? from[0] : null,
          y0: w ? from[1] : null,
          x1: w ? to[0] : null,
          y1: w ? to[1] : null,
          width: 1.2 + 0.5 * w,
        }),
      );
      out.push(
        mark(
          "labels",
          `wins ${a + 1} over ${b + 1}`,
          "empirical",
          text([w ? spot[0] : null], [spot[1]], [String(w)], 0, 4, "middle"),
        ),
      );
    }
  }
  out.push(
    mark(
      "points",
      "nodes",
      "reference",
      { x: NODES.map(p => p[0]), y: NODES.map(p => p[1]), size: 34 },
      "faint",
    ),
  );
  out.push(
    mark(
      "labels",
      "arm names",
      "optimum",
      text(
        NODES.map(p => p[0]),
        NODES.map(p => p[1]),
        ["1", "2", "3"],
        0,
        4.5,
        "middle",
      ),
      "bold",
    ),
  );
  return out;
}
