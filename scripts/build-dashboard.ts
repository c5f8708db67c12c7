/**
 * Makes the dashboard's page: one HTML file with its script and style inside, so that it needs
 * nothing but the daemon that hands it out. Part of `npm run build`.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { build } from "esbuild";

const root = resolve(import.meta.dirname, "../..");
const source = join(root, "dashboard");
const target = join(root, "dist", "dashboard", "index.html");

const { outputFiles } = await build({
  absWorkingDir: root,
  entryPoints: [join(source, "main.ts"), join(source, "style.css")],
  outdir: dirname(target),
  bundle: true,
  write: false,
  minify: true,
  format: "iife",
  target: ["chrome111", "firefox113", "safari16.4"],
  legalComments: "inline",
  logLevel: "warning",
});

function bundled(extension: string): string {
  return outputFiles.find(({ path }) => path.endsWith(extension))!.text;
}

/** What would end the element that the text stands in. */
function embedded(text: string, element: string): string {
  return text.replaceAll(`</${element}`, `<\\/${element}`);
}

const plotLicence = readFileSync(join(root, "node_modules/uplot/LICENSE"), "utf8");
const parts: Readonly<Record<string, string>> = {
  // The bundler keeps only comments that say they are to be kept; the licence does not.
  "<!-- licence -->": `<!--\nuPlot\n${plotLicence}-->`,
  "<!-- style -->": `<style>${embedded(bundled(".css"), "style")}</style>`,
  "<!-- script -->": `<script>${embedded(bundled(".js"), "script")}</script>`,
};
let page = readFileSync(join(source, "index.html"), "utf8");
for (const [place, text] of Object.entries(parts)) {
  if (!page.includes(place)) throw new Error(`dashboard/index.html has no ${place}`);
  page = page.replace(place, () => text);
}
mkdirSync(dirname(target), { recursive: true });
// A daemon may be reading it.
writeFileSync(`${target}.new`, page);
renameSync(`${target}.new`, target);
