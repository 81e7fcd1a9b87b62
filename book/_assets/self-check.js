// Answers a self-check on its page. The feedback is already there, each in a native disclosure;
// this moves the chosen one into a live region beside its option. Nothing is stored or sent.

// What a reader may type: 0.5, 0,5, -1e-3, 1/3.
function toNumber(text) {
  const parts = text.trim().replace(",", ".").replace("\u2212", "-").split("/");
  if (parts.length > 2 || parts.some((part) => part.trim() === "")) return NaN;
  return parts.map(Number).reduce((top, bottom) => top / bottom);
}

function matching(options, value) {
  const within = (option) => "value" in option.dataset
    && Math.abs(value - Number(option.dataset.value)) <= Number(option.dataset.tolerance);
  return options.find((o) => o.dataset.right === "1" && within(o))
    ?? options.find(within) ?? options.find((o) => !("value" in o.dataset));
}

const counted = (n, thing) => `${n} ${thing}${n === 1 ? "" : "s"}`;

function prepare(root) {
  const options = [...root.querySelectorAll(".kl-option")];
  const typed = root.querySelector(".kl-self-check-number input");
  const outcome = root.querySelector(".kl-self-check-outcome");
  const all = root.querySelector("[data-do=all]");
  const checked = (option) => option.querySelector("input").checked;

  const put = (option, place) => {
    const feedback = option.querySelector(".kl-feedback");
    const target = option.querySelector(place);
    if (feedback.parentElement !== target) target.append(feedback);
  };
  const show = (chosen) => options.forEach((o) => put(o, chosen.includes(o) ? ".kl-verdict" : "details"));

  // A many-option answer is right when exactly the right options are chosen.
  function tally(chosen) {
    const wrong = chosen.filter((o) => o.dataset.right === "0").length;
    const missing = options.filter((o) => o.dataset.right === "1" && !chosen.includes(o)).length;
    if (wrong) return `Not yet: ${counted(wrong, "chosen option")} should not be.`;
    return missing ? `So far right, but ${counted(missing, "option")} still missing.` : "All found.";
  }

  function check() {
    let chosen;
    if (typed) {
      const value = toNumber(typed.value);
      chosen = Number.isNaN(value) ? [] : [matching(options, value)];
    } else {
      chosen = options.filter(checked);
    }
    chosen.forEach((o) => { if (!typed) o.dataset.tried = o.dataset.right; });
    show(chosen);
    const empty = typed ? "Type a number first, such as 0.25 or 1/4." : "Choose an option first.";
    const several = root.dataset.kind === "many";
    outcome.textContent = chosen.length ? (several ? tally(chosen) : "") : empty;
    const right = chosen.length > 0 && options.every(
      (o) => several ? checked(o) === (o.dataset.right === "1") : !chosen.includes(o) || o.dataset.right === "1");
    root.dataset.state = chosen.length ? (right ? "right" : "wrong") : "";
    all.hidden = !right || options.length === chosen.length;
  }

  root.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.target.tagName !== "INPUT") return;
    event.preventDefault();
    check();
  });
  root.querySelector("[data-do=check]").addEventListener("click", check);
  all.addEventListener("click", () => {
    show(options);
    all.hidden = true;
    root.querySelector("[data-do=check]").focus();
  });

  // On paper every feedback stands after the question, whatever was tried on screen.
  let before = [];
  addEventListener("beforeprint", () => {
    before = options.filter((o) => o.querySelector(".kl-verdict > .kl-feedback"));
    show([]);
    options.forEach((o) => { o.querySelector("details").open = true; });
  });
  addEventListener("afterprint", () => {
    options.forEach((o) => { o.querySelector("details").open = false; });
    show(before);
  });

  root.querySelector(".kl-self-check-actions").hidden = false;
  root.dataset.ready = "1";
}

document.querySelectorAll(".kl-self-check").forEach(prepare);
