// The controls: native inputs with real values, units and symbols. A slider's own position is a
// step on the control's (linear or logarithmic) scale; the value shown and spoken is the real one.
import { element, number, plain, rich } from "./text.js";

let serial = 0;

export const toStep = (c, steps, value) =>
  c.scale === "log"
    ? (steps * Math.log(value / c.lo)) / Math.log(c.hi / c.lo)
    : (steps * (value - c.lo)) / (c.hi - c.lo);

export function toValue(c, steps, step) {
  const t = step / steps;
  const raw = c.scale === "log" ? c.lo * (c.hi / c.lo) ** t : c.lo + (c.hi - c.lo) * t;
  return c.integer ? Math.round(raw) : Number(raw.toPrecision(12));
}

/** How a control's value reads: "0.5", "1 000", "5 %", or the label of an option. */
export function spoken(c, value) {
  if (c.kind === "choice") return plain(c.options.find(o => o.value === value)?.label ?? value);
  if (c.unit === "%") return `${number(100 * value, c.digits)}\u202f%`;
  return number(value, c.digits) + (c.unit ? ` ${c.unit}` : "");
}

/** Build one control in `host`; `change(value)` is called for every move. Returns {show(value)}. */
export function makeControl(c, host, live, change) {
  return { range: makeRange, choice: makeChoice, count: makeCount }[c.kind](c, host, live, change);
}

function makeRange(c, host, live, change) {
  const id = `kl-control-${++serial}`;
  const steps = (c.count - 1) * (live && !c.integer ? c.finer : 1);
  const box = element("div", { class: "kl-control kl-range" }, host);
  const label = element("label", { for: id }, box);
  rich(
    element("span", { class: "kl-name" }, label),
    c.symbol ? `${c.label} <i>${c.symbol}</i>` : c.label,
  );
  const shown = element("span", { class: "kl-value", "aria-hidden": "true" }, label);
  const input = element(
    "input",
    {
      type: "range",
      id,
      name: c.name,
      min: 0,
      max: steps,
      step: 1,
      autocomplete: "off",
      "data-lm-suppress-shortcuts": "true",
    },
    box,
  );
  input.addEventListener("input", () => change(toValue(c, steps, Number(input.value))));
  return {
    show(value) {
      const step = Math.min(steps, Math.max(0, Math.round(toStep(c, steps, value))));
      if (Number(input.value) !== step) input.value = step;
      input.style.setProperty("--kl-fill", `${(100 * step) / steps}%`);
      input.dataset.value = value;
      shown.textContent = spoken(c, value);
      input.setAttribute("aria-valuetext", `${plain(c.symbol || c.label)} = ${spoken(c, value)}`);
    },
  };
}

function makeChoice(c, host, live, change) {
  const name = `kl-choice-${++serial}`;
  const box = element("fieldset", { class: "kl-control kl-choice" }, host);
  rich(element("legend", {}, box), c.symbol ? `${c.label} <i>${c.symbol}</i>` : c.label);
  const row = element("div", { class: "kl-options" }, box);
  const inputs = c.options.map(option => {
    const label = element("label", {}, row);
    const input = element(
      "input",
      {
        type: "radio",
        name,
        value: option.value,
        "data-control": c.name,
        "data-lm-suppress-shortcuts": "true",
      },
      label,
    );
    rich(element("span", {}, label), option.label);
    input.addEventListener("change", () => input.checked && change(option.value));
    return [input, option.value];
  });
  return {
    show(value) {
      for (const [input, own] of inputs) input.checked = own === value;
    },
  };
}

function makeCount(c, host, live, change) {
  const id = `kl-control-${++serial}`;
  const box = element("div", { class: "kl-control kl-count" }, host);
  rich(element("label", { for: id }, box), c.label);
  const row = element("span", { class: "kl-stepper" }, box);
  const step = (sign, text) => {
    const button = element(
      "button",
      {
        type: "button",
        text,
        "aria-label": `${sign > 0 ? "add" : "remove"} one: ${plain(c.label)}`,
      },
      row,
    );
    button.addEventListener("click", () => input.value !== "" && set(Number(input.value) + sign));
    return button;
  };
  const less = step(-1, "−");
  const input = element(
    "input",
    {
      type: "number",
      id,
      name: c.name,
      min: c.lo,
      max: c.hi,
      step: 1,
      inputmode: "numeric",
      autocomplete: "off",
      "data-lm-suppress-shortcuts": "true",
    },
    row,
  );
  const more = step(1, "+");
  const set = value => {
    const kept = Math.min(c.hi, Math.max(c.lo, Math.round(value)));
    if (Number.isFinite(kept)) change(kept);
  };
  input.addEventListener("input", () => input.value !== "" && set(Number(input.value)));
  return {
    show(value) {
      if (Number(input.value) !== value || input.value === "") input.value = value;
      input.dataset.value = value;
      less.disabled = value <= c.lo;
      more.disabled = value >= c.hi;
    },
  };
}
