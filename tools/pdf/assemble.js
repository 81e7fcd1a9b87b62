// Puts every page of the site into one document, so that one print keeps every link between them.
// Run in an empty page of the site's origin; tools/pdf/browser.py hands over the list of pages.

// An element's id in the one document: ids repeat from page to page, so each gets its page's key.
const full = (key, id) => `${key}--${id}`;

function targetOf(url, keys, here, site) {
  const page = keys[url.pathname];
  if (page === undefined) return site + url.pathname.slice(1) + url.search + url.hash;
  return "#" + (url.hash ? full(page, decodeURIComponent(url.hash.slice(1))) : page);
}

function rewriteLinks(article, page, keys, site) {
  for (const link of article.querySelectorAll("a")) {
    const name = link.hasAttribute("href") ? "href" : "xlink:href";
    const value = link.getAttribute(name);
    if (!value) continue;
    const url = new URL(value, location.origin + page.path);
    if (url.origin !== location.origin) continue;
    link.setAttribute(name, targetOf(url, keys, page, site));
    link.removeAttribute("target");
  }
  for (const image of article.querySelectorAll("img[src]")) {
    image.setAttribute("src", new URL(image.getAttribute("src"), location.origin + page.path).href);
    image.removeAttribute("loading");
  }
}

function prefixIds(article, key) {
  for (const element of article.querySelectorAll("[id]")) element.id = full(key, element.id);
  for (const name of ["aria-labelledby", "aria-describedby", "for"]) {
    for (const element of article.querySelectorAll(`[${name}]`)) {
      const ids = element.getAttribute(name).split(/\s+/);
      element.setAttribute(name, ids.map((id) => full(key, id)).join(" "));
    }
  }
  // Inside drawings: url(#id) in any attribute, and references to shapes.
  for (const element of article.querySelectorAll("svg *")) {
    for (const { name, value } of [...element.attributes]) {
      if (value.includes("url(#")) {
        element.setAttribute(name, value.replaceAll("url(#", `url(#${key}--`));
      } else if (/^(xlink:)?href$/.test(name) && value.startsWith("#") && element.localName !== "a") {
        element.setAttribute(name, "#" + full(key, value.slice(1)));
      }
    }
  }
  for (const style of article.querySelectorAll("svg style")) {
    style.textContent = style.textContent.replaceAll("url(#", `url(#${key}--`);
  }
}

// What a reader of paper cannot use.
const DROPPED = "script, template, button, .headerlink, .kl-graph > style, .kl-body, input, "
  + ".prev-next-footer, .kl-print-not, details.kl-check > :not(summary)";

function clean(article) {
  for (const element of article.querySelectorAll(DROPPED)) element.remove();
  // A source that the page hides stays out; the box that held it goes too.
  for (const cell of article.querySelectorAll("details.hide.above-input")) cell.remove();
  // A named tuple documents each field with its place, which says nothing.
  for (const field of article.querySelectorAll("dl.py > dd")) {
    if (/^\s*Alias for field number \d+\s*$/.test(field.textContent)) field.parentElement.remove();
  }
  for (const details of article.querySelectorAll("details")) details.open = true;
  for (const box of article.querySelectorAll(".toggle, .toggle-hidden, .dropdown")) {
    box.classList.remove("toggle", "toggle-hidden", "dropdown");
  }
}

async function load(page) {
  const response = await fetch(page.path);
  if (!response.ok) throw new Error(`${page.path}: ${response.status}`);
  const article = new DOMParser().parseFromString(await response.text(), "text/html")
    .querySelector("article.bd-article");
  if (!article) throw new Error(`${page.path} has no article`);
  return document.adoptNode(article);
}

// One line of the contents: number, title with its formulas, and room for the page's number.
function entry(heading, id, level) {
  const line = document.createElement("a");
  line.className = `kl-entry kl-level-${level}`;
  line.href = "#" + id;
  const copy = heading.cloneNode(true);
  const number = copy.querySelector(".section-number");
  const title = document.createElement("span");
  title.className = "kl-entry-title";
  const place = document.createElement("span");
  place.className = "kl-entry-page";
  place.textContent = "000"; // as much room as the number will take
  if (number) {
    number.textContent = number.textContent.trim().replace(/\.$/, "");
    number.className = "kl-entry-number";
    line.append(number);
  }
  title.append(...copy.childNodes);
  line.append(title, place);
  return line;
}

// pages: [{key, path}]; site: the published site's address, for links that leave the book.
// Returns the headings in order; the contents on the page list the first two levels.
window.assemble = async (pages, site) => {
  const keys = Object.fromEntries(pages.map(({ key, path }) => [path, key]));
  const headings = [];
  // All at once: a document that grows while it is shown is laid out again and again.
  const articles = await Promise.all(pages.map(load));
  for (const [index, page] of pages.entries()) {
    const article = articles[index];
    clean(article);
    rewriteLinks(article, page, keys, site);
    prefixIds(article, page.key);
    article.id = page.key;
    article.style.page = page.key;
    document.getElementById(`place-${page.key}`).replaceWith(article);
    const lines = document.getElementById(`contents-${page.key}`);
    for (const heading of article.querySelectorAll("section[id] > :is(h1, h2, h3)")) {
      const level = Number(heading.localName[1]);
      const section = heading.parentElement;
      // Generated headings may share a section (the theorem index): each needs a place of its own.
      const owner = section.querySelector(":scope > :is(h1, h2, h3)") === heading ? section : heading;
      owner.id ||= full(page.key, `heading-${headings.length}`);
      const id = level === 1 ? page.key : owner.id;
      const number = heading.querySelector(".section-number");
      const title = heading.textContent.trim().replace(/\s+/g, " ");
      headings.push({ page: page.key, level, id, title, number: number?.textContent.trim() ?? "" });
      if (level <= 2) lines.append(entry(heading, id, level));
    }
  }
  return headings;
};

// Every link inside the document must lead somewhere.
window.broken = () => [...new Set([...document.querySelectorAll("a[href^='#']")]
  .map((link) => link.getAttribute("href").slice(1))
  .filter((id) => !document.getElementById(id)))];

// ids of equal name would make a link lead to the wrong place.
window.repeated = () => {
  const seen = new Set();
  return [...document.querySelectorAll("[id]")].map((e) => e.id)
    .filter((id) => seen.size === seen.add(id).size);
};

window.fillContents = (numbers) => {
  for (const line of document.querySelectorAll(".kl-entry")) {
    line.querySelector(".kl-entry-page").textContent = numbers[line.getAttribute("href").slice(1)];
  }
};
