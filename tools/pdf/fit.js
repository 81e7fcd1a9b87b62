// Makes everything fit the column before it is printed, and lists what still does not.

const SMALLEST = 0.7; // of its size: a display any smaller is hard to read

// The column is known here and does not change, so each display is measured once.
function fitDisplays(report) {
  const boxes = [...document.querySelectorAll("div.math > mjx-container[display]")];
  const jobs = boxes.map((box) => {
    const parent = box.parentElement;
    const label = parent.querySelector(":scope > .eqno");
    return {
      box, label, parent,
      column: parent.clientWidth,
      taken: label ? label.getBoundingClientRect().width : 0,
      width: box.firstElementChild.getBoundingClientRect().width,
      size: parseFloat(getComputedStyle(box).fontSize),
    };
  });
  for (const { box, label, parent, column, taken, width, size } of jobs) {
    let ratio = (column - taken) / width;
    if (ratio >= 1) continue;
    // A very wide display gives its number a line of its own.
    if (label && ratio < SMALLEST) {
      parent.classList.add("kl-number-below");
      ratio = column / width;
    }
    if (ratio < 1) box.style.fontSize = `${size * ratio * 0.995}px`;
    if (ratio < SMALLEST) report.push(`display at ${Math.round(100 * ratio)} %: ${where(box)}`);
  }
}

function where(element) {
  const section = element.closest("section[id], article");
  const named = element.closest("[id]");
  return `${section?.id ?? "?"} / ${named?.id ?? ""} ${element.className ?? ""}`.trim();
}

// A formula in a line cannot break: one that is wider than its line shrinks.
function fitInline(report) {
  const jobs = [...document.querySelectorAll("mjx-container:not([display])")].map((box) => {
    const line = box.closest("p, li, td, th, dd, dt, figcaption, summary");
    return line && { box, room: line.clientWidth, width: box.getBoundingClientRect().width,
                     size: parseFloat(getComputedStyle(box).fontSize) };
  });
  for (const job of jobs) {
    if (!job || !job.room || job.width <= job.room) continue;
    const ratio = job.room / job.width;
    job.box.style.fontSize = `${job.size * ratio * 0.99}px`;
    if (ratio < SMALLEST) report.push(`inline formula at ${Math.round(100 * ratio)} %: ${where(job.box)}`);
  }
}

// A table that is still too wide is set smaller.
function fitTables(report) {
  for (const table of document.querySelectorAll("table")) {
    const room = table.parentElement.clientWidth;
    for (let step = 0; step < 6 && table.scrollWidth > room + 1; step += 1) {
      const size = parseFloat(getComputedStyle(table).fontSize);
      table.style.fontSize = `${size * Math.max(0.9, Math.min(0.97, room / table.scrollWidth))}px`;
    }
    if (table.scrollWidth > room + 1) report.push(`table too wide: ${where(table)}`);
  }
}

// A map of results that is a little too tall for a page shrinks; one that is much too tall stays on
// the web, because a drawing cut into strips shows nothing.
const PAGE = 215 / 25.4 * 96;

function fitMaps(addresses) {
  for (const map of document.querySelectorAll(".kl-graph")) {
    const ratio = PAGE / map.querySelector("svg").getBoundingClientRect().height;
    if (ratio > 0.6) {
      map.classList.add("kl-one-page");
      continue;
    }
    const site = addresses[map.closest("article").id];
    const note = document.createElement("p");
    const link = document.createElement("a");
    link.href = site;
    link.textContent = site;
    note.append("The map of all results does not fit on paper; this page on the web has it: ", link, ".");
    map.replaceWith(note);
  }
}

// A statement or a source of less than a quarter of a page is not worth breaking.
function markShort() {
  const boxes = document.querySelectorAll(".proof.admonition, .exercise.admonition, div.cell_input");
  const short = [...boxes].filter((box) => box.offsetHeight < 240);
  for (const box of short) box.classList.add("kl-short");
}

// addresses: where each page is on the web, by its key.
window.fitAll = (addresses) => {
  const report = [];
  fitMaps(addresses);
  fitTables(report);
  fitDisplays(report);
  fitInline(report);
  markShort();
  return report;
};

// Elements that stick out of the column; drawings clip themselves and are measured as a whole.
window.sticksOut = () => {
  const found = [];
  for (const article of document.querySelectorAll("article, .kl-front")) {
    const edge = article.getBoundingClientRect().right + 1;
    for (const element of article.querySelectorAll("*:not(svg *, mjx-container *)")) {
      if (element.getBoundingClientRect().right > edge) found.push(`${element.localName} ${where(element)}`);
    }
  }
  return found;
};
