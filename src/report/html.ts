/**
 * A report as one page for a browser: words, tables and pictures, with nothing to load and no
 * script. It follows the reader's light or dark theme. PURE.
 */
import { element, escapeText } from "../base/markup.ts";
import { formatBytes, formatDuration } from "../base/units.ts";
import { causeWords } from "./cause-words.ts";
import type { Comparison } from "./compare.ts";
import type { Finding } from "./findings.ts";
import { causesPicture, demandsPicture, extentsPicture } from "./pictures.ts";
import { comparisonTable, describeReport, threeLines, toldFindings, type Verdict } from "./text.ts";

export function reportPage(verdict: Verdict): string {
  const { report, findings, comparison } = verdict;
  const title = `Restore of ${report.session}`;
  const body = [
    element("h1", {}, escapeText(title)),
    element(
      "p",
      { class: "muted" },
      escapeText(
        `${report.memory}, ${formatBytes(report.sizeBytes)}, connected ${report.connectedAt}`,
      ),
    ),
    ...threeLines(verdict).map((line) => element("p", { class: "answer" }, escapeText(line))),
    section("What was found", toldFindings(findings).map(findingBlock).join("\n")),
    ...(comparison === null ? [] : [comparisonSection(comparison)]),
    section("Where the time went", causesPicture(report)),
    ...(report.demands === null
      ? []
      : [section("When pages were asked for", demandsPicture(report.demands))]),
    section("What each stretch of memory has cost", extentsPicture(report)),
    section("The dearest pages", dearestTable(verdict)),
    section("All of it", element("pre", {}, escapeText(describeReport(verdict)))),
  ];
  return [
    "<!doctype html>",
    '<html lang="en">',
    "<head>",
    '<meta charset="utf-8"/>',
    '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
    element("meta", { "http-equiv": "Content-Security-Policy", content: POLICY }),
    element("title", {}, escapeText(title)),
    element("style", {}, STYLE),
    "</head>",
    "<body>",
    ...body,
    "</body>",
    "</html>",
    "",
  ].join("\n");
}

function section(title: string, content: string): string {
  return element(
    "section",
    {},
    `\n${element("h2", {}, escapeText(title))}\n${content || "<p>Nothing.</p>"}\n`,
  );
}

function findingBlock({ id, us, share, headline, evidence, advice }: Finding): string {
  const list = (items: readonly string[]): string =>
    element("ul", {}, items.map((each) => element("li", {}, escapeText(each))).join(""));
  const numbers = `${formatDuration(us)}, ${Math.round(share * 100)} % of the waiting`;
  return [
    element("h3", {}, escapeText(`${headline} (${id})`)),
    element("p", { class: "muted" }, escapeText(numbers)),
    list(evidence),
    element("p", {}, "What to change:"),
    list(advice),
  ].join("\n");
}

function comparisonSection(comparison: Comparison): string {
  const { title, summary, head, rows } = comparisonTable(comparison);
  return section(title, `${element("p", {}, escapeText(summary))}\n${table(head, rows)}`);
}

function dearestTable({ report }: Verdict): string {
  const head = ["page", "pages", "waited", "there after", "mostly", "bytes from"];
  const rows = report.dearest.map((each) => [
    String(each.page),
    String(each.pages),
    formatDuration(each.costUs),
    formatDuration(each.afterUs),
    causeWords[each.cause],
    each.source,
  ]);
  return table(head, rows);
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return "";
  const row = (name: "td" | "th", cells: readonly string[]): string =>
    element(
      "tr",
      {},
      cells.map((cell) => element(name, {}, escapeText(cell === "" ? "–" : cell))).join(""),
    );
  return element(
    "table",
    {},
    [row("th", head), ...rows.map((cells) => row("td", cells))].join("\n"),
  );
}

const POLICY = "default-src 'none'; style-src 'unsafe-inline'";

const STYLE =
  ":root{color-scheme:light dark;--ink:#1f2328;--page:#fff;--muted:#59636e;--line:#d9dee3;" +
  "--bar:#0064a8;--guest:#8c959f}" +
  "@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--page:#0d1117;--muted:#9198a1;" +
  "--line:#30363d;--bar:#5eb4f0;--guest:#6e7681}}" +
  "body{font:15px/1.5 system-ui,'Segoe UI','Noto Sans','DejaVu Sans',sans-serif;color:var(--ink);" +
  "background:var(--page);max-width:60rem;margin:2rem auto;padding:0 1rem}" +
  "h1{font-size:1.6rem}h2{font-size:1.2rem;border-bottom:1px solid var(--line)}h3{font-size:1rem}" +
  ".muted{color:var(--muted)}.answer{margin:.2rem 0;font-weight:600}" +
  "table{border-collapse:collapse}th,td{text-align:left;padding:.15rem .8rem .15rem 0;" +
  "border-bottom:1px solid var(--line)}pre{overflow-x:auto;font-size:13px}" +
  "svg{max-width:100%;height:auto}svg text{fill:var(--ink);font-size:13px}" +
  "svg .muted{fill:var(--muted)}svg .bar{fill:var(--bar)}svg .guest{fill:var(--guest)}" +
  "svg .grid{stroke:var(--line)}";
