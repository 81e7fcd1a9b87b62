// Tiny text helpers: <i>, <sub>, <sup> in labels (HTML or SVG), and numbers for people.
export const SVG = "http://www.w3.org/2000/svg";

export function element(tag, attributes = {}, parent = null) {
  const node =
    attributes.xmlns === SVG || SVG_TAGS.has(tag)
      ? document.createElementNS(SVG, tag)
      : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") node.textContent = value;
    else if (key !== "xmlns" && value !== null && value !== undefined)
      node.setAttribute(key, value);
  }
  if (parent) parent.append(node);
  return node;
}
const SVG_TAGS = new Set([
  "svg",
  "g",
  "path",
  "line",
  "rect",
  "circle",
  "text",
  "tspan",
  "defs",
  "clipPath",
  "pattern",
  "marker",
]);

const PART = /<(i|sub|sup|b)>(.*?)<\/\1>/gs;

/** Replace the content of `node` by `markup`; unchanged text touches nothing. */
export function rich(node, markup) {
  if (node.klMarkup === markup) return;
  node.klMarkup = markup;
  const svg = node.namespaceURI === SVG;
  const pieces = [];
  if (svg) svgPieces(String(markup), {}, pieces);
  else htmlPieces(String(markup), pieces);
  node.replaceChildren(...pieces);
}

export function plain(markup) {
  let text = String(markup),
    previous;
  do {
    previous = text;
    text = text.replace(PART, "$2");
  } while (text !== previous);
  return text;
}

function split(markup, onText, onTag) {
  let last = 0;
  for (const match of markup.matchAll(PART)) {
    if (match.index > last) onText(markup.slice(last, match.index));
    onTag(match[1], match[2]);
    last = match.index + match[0].length;
  }
  if (last < markup.length) onText(markup.slice(last));
}

function htmlPieces(markup, out) {
  split(
    markup,
    text => out.push(document.createTextNode(text)),
    (tag, inner) => {
      const node = document.createElement(tag);
      const children = [];
      htmlPieces(inner, children);
      node.append(...children);
      out.push(node);
    },
  );
}

// SVG has no <sub>: shift with dy, and shift back on the piece that follows.
function svgPieces(markup, style, out, state = { back: 0 }) {
  const push = (text, own, shift) => {
    const span = element("tspan", { text });
    if (own.i) span.setAttribute("font-style", "italic");
    if (own.b) span.setAttribute("font-weight", "600");
    if (shift) span.setAttribute("font-size", "72%");
    const dy = shift + state.back;
    if (dy) span.setAttribute("dy", `${dy}`);
    state.back = -shift;
    out.push(span);
  };
  split(
    markup,
    text => push(text, style, style.shift || 0),
    (tag, inner) => {
      const next = { ...style };
      if (tag === "sub") next.shift = 4;
      else if (tag === "sup") next.shift = -5;
      else next[tag] = true;
      svgPieces(inner, next, out, state);
    },
  );
}

const SUPERSCRIPT = {
  "-": "⁻",
  0: "⁰",
  1: "¹",
  2: "²",
  3: "³",
  4: "⁴",
  5: "⁵",
  6: "⁶",
  7: "⁷",
  8: "⁸",
  9: "⁹",
};
const raised = k => [...String(k)].map(c => SUPERSCRIPT[c]).join("");

/** A value with `digits` significant digits; 12 000 with a thin space; minus as a minus sign. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  let text;
  if (size >= 1e6 || size < 1e-3) {
    const k = Math.floor(Math.log10(size) + 1e-9);
    const head = Number((size / 10 ** k).toPrecision(digits));
    text = head === 1 ? `10${raised(k)}` : `${head}·10${raised(k)}`;
  } else if (size >= 1e4) {
    text = String(Math.round(Number(size.toPrecision(digits)))).replace(/\B(?=(\d{3})+$)/g, " ");
  } else text = String(Number(size.toPrecision(digits)));
  return (value < 0 ? "−" : "") + text;
}

/** A share as a percentage; nothing short of 1 is called 100 %. */
export function percent(share) {
  if (share >= 0.9995 && share < 1) return "> 99.9\u202f%";
  return `${number(100 * share, share >= 0.995 ? 3 : 2)}\u202f%`;
}

/** Label of a tick on a logarithmic axis. */
export function powerLabel(value) {
  const k = Math.round(Math.log10(value));
  if (Math.abs(Math.log10(value) - k) > 1e-6) return "";
  return k >= -2 && k <= 3 ? number(value) : `10${raised(k)}`;
}
