// Builds lib/klrlhf/explore/static/{explorer,hydrate}.js from src/, and stamps them with a hash of
// their source that tests/test_explore.py recomputes (so the test needs no Node).
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "..", "lib", "klrlhf", "explore", "static");

// The lock file names versions and checksums, not the host they came from.
const lock = JSON.parse(readFileSync(join(here, "package-lock.json"), "utf8"));
for (const entry of Object.values(lock.packages)) delete entry.resolved;
writeFileSync(join(here, "package-lock.json"), `${JSON.stringify(lock, null, 2)}\n`);

const hash = createHash("sha256");
const sources = readdirSync(join(here, "src"))
  .filter(f => f.endsWith(".js"))
  .sort()
  .map(f => `src/${f}`);
for (const file of [...sources, "package.json"])
  hash
    .update(file)
    .update("\0")
    .update(readFileSync(join(here, file)))
    .update("\0");
const stamp = hash.digest("hex");

const common = {
  bundle: true,
  format: "esm",
  minify: true,
  target: "es2020",
  charset: "utf8",
  legalComments: "none",
};
const banner = {
  js: `/* built from js/src, sha256 ${stamp}; uses d3-scale and d3-shape (ISC, Copyright 2010-2023 Mike Bostock) */`,
};
await build({
  ...common,
  banner,
  entryPoints: [join(here, "src/explorer.js")],
  outfile: join(out, "explorer.js"),
});
await build({
  ...common,
  banner,
  entryPoints: [join(here, "src/hydrate.js")],
  outfile: join(out, "hydrate.js"),
  plugins: [
    {
      name: "one-explorer",
      setup(b) {
        b.onResolve({ filter: /^\.\/explorer\.js$/ }, () => ({
          path: "./explorer.js",
          external: true,
        }));
      },
    },
  ],
});
