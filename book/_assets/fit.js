// A display that is a little too wide shrinks to fit, down to SMALLEST; wider ones scroll in their box.
// Inline math cannot break: a formula wider than its line scrolls in place.
const SMALLEST = 0.8;

function fitDisplays() {
  for (const box of document.querySelectorAll("div.math > mjx-container[display]")) {
    const parent = box.parentElement;
    if (!parent.clientWidth) continue;
    box.style.fontSize = "";
    const label = parent.querySelector(":scope > .eqno");
    const room = parent.clientWidth - (label ? label.offsetWidth : 0);
    const ratio = room / box.firstElementChild.getBoundingClientRect().width;
    if (ratio < 1) {
      const size = parseFloat(getComputedStyle(box).fontSize);
      box.style.fontSize = `${size * Math.max(ratio * 0.995, SMALLEST)}px`;
    }
  }
}

function markInline() {
  for (const box of document.querySelectorAll("mjx-container:not([display])")) {
    box.classList.remove("kl-wide");
    const line = box.closest("p, li, td, dd, figcaption, summary, .kl-option-text");
    if (line && box.getBoundingClientRect().width > line.clientWidth) box.classList.add("kl-wide");
  }
}

// On a phone a figure keeps a readable size and scrolls; a box that scrolls must take the focus.
function markFigures() {
  for (const box of document.querySelectorAll(".kl-figure-box")) {
    if (box.scrollWidth > box.clientWidth + 1) {
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", "figure, scrolls sideways");
    } else {
      for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
    }
  }
}

function fit() {
  fitDisplays();
  markInline();
  markFigures();
}

addEventListener("load", () => {
  markFigures();
  window.MathJax?.startup?.promise?.then(fit);
});
addEventListener("resize", fit);
// What sits in a closed proof has no width until it opens.
document.addEventListener("toggle", fit, true);
