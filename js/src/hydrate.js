// Static pages: a small host that runs the explorers' module without a kernel.
import { unpack } from "./pack.js";
import { twins } from "./twins.js";
import explorer from "./explorer.js";

export { twins };

export function makeModel(state) {
  const { spec, pack } = state;
  const values = { mode: "static", spec, seed: 0 };
  for (const c of spec.controls) values[c.name] = c.value;
  const listeners = {};
  const tell = key => (listeners[`change:${key}`] || []).forEach(f => f());
  const book = pack ? unpack(pack, spec.controls) : null;
  const twin = spec.twin ? twins[spec.twin] : null;
  const compute = () => {
    if (twin) return twin(values, spec);
    for (const [name, value] of Object.entries(book.settle(values))) {
      if (values[name] !== value) {
        values[name] = value;
        tell(name);
      }
    }
    return book.frame(values);
  };
  values.frame = compute();
  return {
    get: key => values[key],
    set(key, value) {
      if (values[key] !== value) {
        values[key] = value;
        tell(key);
      }
    },
    save_changes() {
      values.frame = compute();
      tell("frame");
    },
    send() {},
    on: (event, f) => (listeners[event] ||= []).push(f),
    off: (event, f) => {
      listeners[event] = (listeners[event] || []).filter(g => g !== f);
    },
  };
}

export function hydrate(root) {
  if (root.dataset.ready || root.dataset.mode === "live") return;
  const state = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const host = element("div");
  root.append(host);
  try {
    explorer.render({ model: makeModel(state), el: host });
    root.querySelector(".kl-fallback")?.classList.add("kl-print");
  } catch (error) {
    host.remove();
    console.error("explorer", root.dataset.explorer, error);
  }
}

const element = tag => document.createElement(tag);
document.querySelectorAll(".kl-explorer").forEach(hydrate);
