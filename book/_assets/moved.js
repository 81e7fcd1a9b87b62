// On the page that a moved page left behind: go to the new address and keep the link's anchor.
const anchor = decodeURIComponent(location.hash.slice(1));
const links = [...document.querySelectorAll("a[data-anchor]")];
const special = links.find((link) => link.dataset.anchor === anchor);
const target = new URL((special ?? document.getElementById("moved-to")).href);
if (!special && anchor && !target.hash) target.hash = anchor;
location.replace(target);
