// Printing one page from the browser: light colours, everything unfolded, displays that fit the paper.
// (The PDF of the whole book has its own: tools/pdf.) What the style sheet can do, css/print.css does.
const COLUMN = 45; // width of a printed line in units of its type size, with usual margins
let restore = [];

function fitToPaper(box, article) {
  const parent = box.parentElement;
  const formula = box.firstElementChild;
  if (!formula || !parent.clientWidth) return;
  const screen = box.style.fontSize;
  restore.push(() => { box.style.fontSize = screen; });
  box.style.fontSize = "";
  const unit = parseFloat(getComputedStyle(parent).fontSize);
  const label = parent.querySelector(":scope > .eqno");
  const room = COLUMN * (parent.clientWidth / article.clientWidth) - (label ? label.offsetWidth / unit : 0);
  const width = formula.getBoundingClientRect().width / unit;
  if (width > room) box.style.fontSize = `${(room / width).toFixed(3)}em`;
}

addEventListener("beforeprint", () => {
  restore = [];
  const root = document.documentElement;
  const theme = root.dataset.theme;
  root.dataset.theme = "light";
  restore.push(() => { root.dataset.theme = theme; });
  for (const details of document.querySelectorAll(".bd-article details:not([open], .kl-check, .hide)")) {
    details.open = true;
    restore.push(() => { details.open = false; });
  }
  const article = document.querySelector(".bd-article");
  for (const box of article?.querySelectorAll("div.math > mjx-container[display]") ?? []) fitToPaper(box, article);
});

addEventListener("afterprint", () => {
  for (const undo of restore.reverse()) undo();
  restore = [];
});
