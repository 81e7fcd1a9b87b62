// Starts a deck: typesets, makes every slide fit its canvas, then hands over to reveal.js.
const WIDTH = 1280;
const HEIGHT = 720;
// Of a slide's words, in px of the canvas: short statements are written large.
const SIZES = [38, 36, 34, 32, 30, 29, 28, 27, 26, 25, 24, 23, 22];
const ZOOMS = [1.6, 1.54, 1.48, 1.42, 1.36, 1.32, 1.28, 1.24, 1.2, 1.16];
const SMALL_ENOUGH = 28; // from here down a wide display may shrink further than its words
const root = document.documentElement;
const slides = [...document.querySelectorAll(".kd-slide")];
const frame = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));

/** Does what is in the body stick out of it? */
function sticksOut(slide) {
  const body = slide.querySelector(".kd-body");
  const inside = body.querySelector(".kl-body") || body;
  return (
    body.scrollHeight > body.clientHeight + 1 ||
    slide.scrollHeight > HEIGHT + 1 ||
    inside.scrollWidth > inside.clientWidth + 1
  );
}

function fitWords(slide) {
  const body = slide.querySelector(".kd-body");
  const first = ["statement", "proof", "exercise"].includes(slide.dataset.kind)
    ? SIZES[0]
    : parseFloat(getComputedStyle(body).fontSize);
  for (const size of SIZES.filter(s => s <= first)) {
    body.style.fontSize = `${size}px`;
    const shrunk = fitFormulas(body);
    if (!sticksOut(slide) && !(shrunk && size > SMALL_ENOUGH)) return;
  }
}

/** A display wider than its column shrinks; its number keeps its place. */
function fitFormulas(body) {
  let shrunk = false;
  for (const box of body.querySelectorAll("div.math > mjx-container[display]")) {
    box.style.fontSize = "";
    const parent = box.parentElement;
    const number = parent.querySelector(":scope > .eqno");
    const room = parent.clientWidth - (number ? number.offsetWidth + 24 : 0);
    const width = Math.max(box.firstElementChild.getBoundingClientRect().width, box.firstElementChild.scrollWidth);
    // A centred display leaves as much room on the left as its number takes on the right.
    const centred = parent.clientWidth - (number ? 2 * (number.offsetWidth + 24) : 0);
    if (width > centred) box.style.textAlign = "left";
    else box.style.textAlign = "";
    if (width > room + 1) {
      box.style.fontSize = `${(parseFloat(getComputedStyle(box).fontSize) * room) / width}px`;
      shrunk = true;
    }
  }
  // Inline math does not break either: a formula longer than a line shrinks to one.
  for (const box of body.querySelectorAll("mjx-container:not([display])")) {
    box.style.fontSize = "";
    const room = box.closest("p, li, figcaption")?.clientWidth;
    const width = box.getBoundingClientRect().width;
    if (room && width > room) {
      box.style.fontSize = `${(parseFloat(getComputedStyle(box).fontSize) * room) / width}px`;
      shrunk = true;
    }
  }
  return shrunk;
}

async function fitExplorers() {
  let open = slides.filter(s => s.dataset.kind === "explorer");
  for (const [figure, zooms] of [["100%", ZOOMS], ["88%", ZOOMS.slice(-4)], ["76%", ZOOMS.slice(-4)]]) {
    // The last resort: the name of a choice stands beside its options.
    if (figure === "76%") open.forEach(slide => slide.classList.add("kd-tight"));
    for (const zoom of zooms) {
      for (const slide of open) {
        slide.style.setProperty("--kd-zoom", zoom);
        slide.style.setProperty("--kd-figure", figure);
      }
      await frame();
      open = open.filter(sticksOut);
      if (!open.length) return;
    }
  }
}

/** Explorers hydrate from a module, which a browser may refuse to a page opened as a file. */
async function explorersReady() {
  const all = () => [...document.querySelectorAll(".kl-explorer")].every(e => e.dataset.ready === "1");
  const until = performance.now() + (location.protocol === "file:" ? 500 : 10000);
  while (!all() && performance.now() < until) await new Promise(done => setTimeout(done, 30));
}

// A slider keeps the arrow keys; a presenter's clicker (page keys) turns the page all the same.
addEventListener(
  "keydown",
  event => {
    if (!event.target.closest?.(".kl-explorer")) return;
    if (event.key === "PageDown" || event.key === "PageUp") {
      event.preventDefault(); // the slider's own big step; reveal.js, which ignores inputs, goes on
      event.target.blur();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      event.target.blur();
    }
  },
  true,
);

function toggleTheme() {
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
}

async function start() {
  if (new URLSearchParams(location.search).get("theme") === "dark") root.dataset.theme = "dark";
  await window.MathJax.startup.promise;
  await document.fonts.ready;
  await explorersReady();
  root.classList.add("kd-measuring");
  await frame();
  slides.filter(s => s.dataset.kind !== "explorer").forEach(fitWords);
  await fitExplorers();
  root.classList.remove("kd-measuring");
  await Reveal.initialize({
    width: WIDTH,
    height: HEIGHT,
    margin: 0,
    minScale: 0.1,
    maxScale: 4,
    center: false,
    hash: true,
    transition: "none",
    slideNumber: "c/t",
    controlsTutorial: false,
    pdfMaxPagesPerSlide: 1,
    pdfSeparateFragments: false,
    keyboard: { 68: toggleTheme },
    plugins: [RevealNotes],
  });
  root.dataset.deck = "ready";
}

start();
