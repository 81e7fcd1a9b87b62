// The form of book/how-to-run: a hub's address and a chapter become an nbgitpuller link.
// https://nbgitpuller.readthedocs.io/en/latest/topic/url-options.html

// Throws when the address is not one of a hub.
function hubLink(address, { repository, branch, folder }, notebook) {
  const hub = new URL(address.includes("://") ? address : `https://${address}`);
  if (!/^https?:$/.test(hub.protocol) || !/^localhost$|[.:]/.test(hub.hostname)) {
    throw new TypeError(`${address} is not the address of a hub`);
  }
  // People copy the address from a page of the hub: /hub/home, /hub/login, /user/name/lab ...
  const base = hub.pathname.replace(/\/(hub|user)(\/.*)?$/, "").replace(/\/+$/, "");
  const query = new URLSearchParams({
    repo: repository, branch, urlpath: `lab/tree/${folder}/${notebook}`,
  });
  return `${hub.origin}${base}/hub/user-redirect/git-pull?${query}`;
}

for (const form of document.querySelectorAll("form.kl-hub")) {
  const settings = JSON.parse(form.dataset.hub);
  const [address, chapter, output, copy] =
    ["input", "select", "output", "button"].map((tag) => form.querySelector(tag));

  function update() {
    const text = address.value.trim();
    copy.hidden = true;
    address.removeAttribute("aria-invalid");
    if (!text) {
      output.textContent = "Type your hub's address.";
      return;
    }
    try {
      const link = document.createElement("a");
      link.href = link.textContent = hubLink(text, settings, chapter.value);
      link.rel = "noopener";
      output.replaceChildren(link);
      copy.hidden = !navigator.clipboard;
      copy.textContent = "Copy the link";
    } catch {
      address.setAttribute("aria-invalid", "true");
      output.textContent = "That is not a web address. It looks like https://hub.example.edu.";
    }
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", update);
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(output.textContent);
    copy.textContent = "Copied";
  });
  update();
}
