"""Slider to paint: how long every explorer takes to answer, in Chromium, at 1x and 6x CPU.

Each range input is moved 60 times through its steps (counters are pressed 12 times). A move is
timed from just before its `input` event to the first frame painted after the curves changed.
Needs playwright and a Chromium; prints a Markdown table.
"""

import argparse
import functools
import gzip
import http.server
import shutil
import tempfile
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

from klrlhf import explore
from klrlhf.explore.standalone import write_page

MEASURE = """async () => {
  const root = document.querySelector('.kl-explorer');
  const change = [], paint = [];
  const painted = () => new Promise(done => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => done(performance.now());
    channel.port2.postMessage(0);
  }));
  const timed = async act => {
    await new Promise(done => setTimeout(done, 30 + 17 * Math.random()));
    const start = performance.now();
    act();
    change.push(performance.now() - start);
    paint.push(await painted() - start);
  };
  const ranges = [...root.querySelectorAll('.kl-body input[type=range]')];
  const each = Math.ceil(60 / Math.max(1, ranges.length));
  for (const input of ranges) {
    const steps = Number(input.max);
    for (let k = 0; k < each; k++) {
      const next = (Number(input.value) + 1 + (k * 7) % Math.max(1, steps - 1)) % (steps + 1);
      const moved = new Event('input', {bubbles: true});
      await timed(() => { input.value = next; input.dispatchEvent(moved); });
    }
  }
  for (const button of root.querySelectorAll('.kl-stepper button'))
    for (let k = 0; k < 6; k++) if (!button.disabled) await timed(() => button.click());
  return { change, paint };
}"""


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slowdown", type=float, nargs="+", default=[1, 6])
    options = parser.parse_args()
    chromium = next((p for name in ("chromium", "chromium-browser", "google-chrome")
                     if (p := shutil.which(name))), None)
    if chromium is None:
        raise SystemExit("no Chromium found")
    with tempfile.TemporaryDirectory() as folder:
        weight = {}
        for name in explore.FACTORIES:
            page = write_page(folder, name, getattr(explore, name)())
            weight[name] = len(gzip.compress(page.read_bytes()))
        modules = sum(len(gzip.compress(p.read_bytes())) for p in Path(folder).glob("*.[jc]s*"))
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        heads = [f"{kind} {slow:g}x" for slow in options.slowdown for kind in ("change", "paint")]
        print("Slider to paint, ms, median / p95 "
              f"(modules and style: {modules / 1000:.1f} kB gzip, once per page)\n")
        print(f"| explorer | moves | {' | '.join(heads)} | page, kB gzip |")
        print("|---" * (len(heads) + 3) + "|")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-background-networking",
                                                "--disable-component-update"])
            for name in explore.FACTORIES:
                cells = []
                for slow in options.slowdown:
                    page = browser.new_page(viewport={"width": 1280, "height": 1000})
                    page.goto(f"http://127.0.0.1:{server.server_port}/{name}.html")
                    page.wait_for_selector(".kl-explorer[data-ready='1']")
                    session = page.context.new_cdp_session(page)
                    session.send("Emulation.setCPUThrottlingRate", {"rate": slow})
                    times = page.evaluate(MEASURE)
                    cells += [f"{quantile(t, 0.5):.1f} / {quantile(t, 0.95):.1f}"
                              for t in (times["change"], times["paint"])]
                    page.close()
                short = name.removesuffix("_explorer").replace("_", " ")
                print(f"| {short} | {len(times['paint'])} | {' | '.join(cells)} "
                      f"| {weight[name] / 1000:.1f} |")
            browser.close()
        server.shutdown()


if __name__ == "__main__":
    main()
