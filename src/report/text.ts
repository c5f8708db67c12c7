/**
 * A report as people read it on a terminal: three lines that answer (how long, where it went, what
 * to change), then tables. PURE.
 */
import { formatBytes, formatDuration } from "../base/units.ts";
import { causeWords } from "./cause-words.ts";
import type { Comparison } from "./compare.ts";
import type { Finding } from "./findings.ts";
import { type RestoreReport, reportCauses } from "./restore-report.ts";

/** What is said of one restore. */
export interface Verdict {
  readonly report: RestoreReport;
  /** The dearest first. */
  readonly findings: readonly Finding[];
  readonly comparison: Comparison | null;
}

const BAR_CHARACTERS = 24;
const TOLD_PAGES = 8;
const TOLD_FINDINGS = 3;
const TOLD_SHARE = 0.05;
/** Reports may be files of anybody: nothing in them steers a terminal. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const CONTROL = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/g;

/** Also with a unit: `12 ms`, `95 %`, `3 ms more`. */
const NUMBER = /^\d[\d.]*( (?:%|µs|ms|s)( more| less)?)?$/;

export function describeReport(verdict: Verdict): string {
  const { report, comparison } = verdict;
  const sections = [
    ["", ...threeLines(verdict)],
    comparison === null ? [] : comparisonLines(comparison),
    ...toldFindings(verdict.findings).map(findingLines),
    ["Where the time went", ...causeLines(report)],
    prefaultLines(report),
    dearestLines(report),
    supplyLines(report),
    ["The restore", ...align(restoreRows(report))],
  ];
  const text = sections
    .filter((lines) => lines.length > 0)
    .map(([title, ...lines]) => `${title === "" ? "" : `${title}\n`}${lines.join("\n")}\n`)
    .join("\n");
  return text.replace(CONTROL, "?");
}

/** How long; where it went; what to change. One line each. */
export function threeLines({ report, findings }: Verdict): string[] {
  const { session, wallUs, waitedUs, state } = report;
  const first = findings[0];
  const still = state === "restoring" ? ", and its restore is not over" : "";
  const [most, ...others] = findings.filter(({ id }) => id !== "not-memory");
  const more = others.slice(0, 2).map(({ id, us }) => `${formatDuration(us)} ${id}`);
  const then = more.length === 0 ? "" : `; then ${more.join(", ")}`;
  const where =
    first === undefined || most === undefined
      ? "nowhere worth a word"
      : first === most
        ? `${formatDuration(most.us)} (${percent(most.share)}) ${most.id}: ${most.headline}${then}`
        : `${first.headline}; most of it, ${formatDuration(most.us)}, ${most.id}${then}`;
  return [
    `How long:       VM ${session} waited ${formatDuration(waitedUs)} of the ` +
      `${formatDuration(wallUs)} from its connection to the last fault seen${still}.`,
    `Where it went:  ${where}.`,
    `What to change: ${first?.advice[0] ?? "Nothing."}`,
  ];
}

/** Those that matter; what the rest was is in the table of causes. */
export function toldFindings(findings: readonly Finding[]): readonly Finding[] {
  const isTold = ({ id, share }: Finding): boolean => id === "not-memory" || share >= TOLD_SHARE;
  return findings.filter(isTold).slice(0, TOLD_FINDINGS);
}

function comparisonLines(comparison: Comparison): string[] {
  const { title, summary, head, rows } = comparisonTable(comparison);
  return [title, `  ${summary}`, ...align([head, ...rows])];
}

/** What is told of two restores side by side. */
export function comparisonTable(comparison: Comparison): {
  readonly title: string;
  readonly summary: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
} {
  const { session, connectedAt, waitedBeforeUs, waitedDifferenceUs, changes, main } = comparison;
  const other = comparison.isSameMemory ? "" : " (of another memory)";
  return {
    title: `Compared with ${session} of ${connectedAt}${other}`,
    summary:
      `it waited ${signed(waitedDifferenceUs)} (${formatDuration(waitedBeforeUs)} then)` +
      (main === null ? "" : `; most of it by: ${causeWords[main.cause]}`),
    head: ["cause", "then", "now", "more"],
    rows: changes.map(({ cause, beforeUs, nowUs, differenceUs }) => [
      causeWords[cause],
      formatDuration(beforeUs),
      formatDuration(nowUs),
      signed(differenceUs),
    ]),
  };
}

function findingLines({ id, us, share, headline, evidence, advice }: Finding): string[] {
  return [
    `${id}: ${formatDuration(us)}, ${percent(share)} of the waiting. ${headline}.`,
    ...evidence.map((each) => `  - ${each}`),
    ...advice.map((each) => `  → ${each}`),
  ];
}

function causeLines({ causes, wallUs }: RestoreReport): string[] {
  const spent = reportCauses
    .filter((cause) => causes[cause] > 0)
    .sort((left, right) => causes[right] - causes[left]);
  const most = Math.max(1, ...spent.map((cause) => causes[cause]));
  const rows = spent.map((cause) => [
    causeWords[cause],
    formatDuration(causes[cause]),
    percent(wallUs === 0 ? 0 : causes[cause] / wallUs),
    "█".repeat(Math.round((causes[cause] / most) * BAR_CHARACTERS)),
  ]);
  return align([...rows, ["all of it", formatDuration(wallUs), "", ""]]);
}

function prefaultLines({ prefault, pageSizeBytes }: RestoreReport): string[] {
  if (prefault === null) return ["Installed ahead", "  nothing"];
  const { mode, state, usedPages, wastedPages, savedUs } = prefault;
  const pages = (count: number): string => `${count} pages, ${formatBytes(count * pageSizeBytes)}`;
  return [
    `Installed ahead (${mode}, ${state})`,
    ...align([
      ["planned", pages(prefault.plannedPages)],
      ["installed", pages(prefault.prefaultedPages)],
      ["used", usedPages === null ? "unknown" : pages(usedPages)],
      ["for nothing", wastedPages === null ? "unknown" : pages(wastedPages)],
      ["asked for before its turn", pages(prefault.latePages)],
      ["asked for, not planned", pages(prefault.unplannedPages)],
      ["waiting saved", savedUs === null ? "unknown" : formatDuration(savedUs)],
    ]),
  ];
}

function dearestLines({ dearest }: RestoreReport): string[] {
  if (dearest.length === 0) return [];
  const rows = dearest
    .slice(0, TOLD_PAGES)
    .map((each) => [
      String(each.page),
      String(each.pages),
      formatDuration(each.costUs),
      formatDuration(each.afterUs),
      causeWords[each.cause],
      each.source,
    ]);
  const head = ["page", "pages", "waited", "there after", "mostly", "bytes from"];
  return ["The dearest pages", ...align([head, ...rows])];
}

function supplyLines({ cache, stores }: RestoreReport): string[] {
  if (cache === null && stores.length === 0) return [];
  const rows = stores.map(({ location, reads, retries, timeouts, failures, readMs }) => [
    location,
    `${reads} reads, ${quantiles(readMs.p50 * 1000, readMs.p99 * 1000)}`,
    `retries: ${retries}, timeouts: ${timeouts}, failures: ${failures}`,
  ]);
  const ofCache =
    cache === null
      ? []
      : [
          [
            "cache",
            `${cache.loads} loads (${cache.again} again), ${cache.evictions} evictions`,
            `${formatBytes(cache.usedBytes)} of ${formatBytes(cache.sizeBytes)}`,
          ],
        ];
  return [
    "What the cache and the stores did meanwhile, for all VMs",
    ...align([...ofCache, ...rows]),
  ];
}

function restoreRows(report: RestoreReport): string[][] {
  const { counters, latencyUs, host, labels, pageSizeBytes } = report;
  const named = Object.entries(labels).map(([name, value]) => `${name}=${value}`);
  const ended = report.endReason === null ? report.state : `${report.state} (${report.endReason})`;
  const since = report.takeovers === 0 ? "" : "; cache, stores and CPUs since the last of them";
  return [
    ["memory", [report.memory, ...report.layers].join(" + ")],
    ["size", `${formatBytes(report.sizeBytes)}, pages of ${formatBytes(pageSizeBytes)}`],
    ["VM", `process ${report.pid}, connected ${report.connectedAt}`],
    ["state", ended],
    ...(named.length === 0 ? [] : [["labels", named.join(" ")]]),
    ["faults", `${counters.faults ?? 0}, ${quantiles(latencyUs.p50, latencyUs.p99)}`],
    [
      "waited for a CPU",
      `VM ${delay(host.guestRunDelayUs)}, fault worker ${delay(host.workerRunDelayUs)}`,
    ],
    [
      "host",
      `CPUs: ${host.cpus}, fault workers: ${host.faultWorkers}, VMs attached: ${host.attachedVms}`,
    ],
    ["takeovers", `${report.takeovers}${since}`],
  ];
}

function quantiles(p50Us: number, p99Us: number): string {
  return `p50 ${formatDuration(p50Us)}, p99 ${formatDuration(p99Us)}`;
}

function delay(us: number | null): string {
  return us === null ? "unknown" : formatDuration(us);
}

function signed(us: number): string {
  return us < 0 ? `${formatDuration(-us)} less` : `${formatDuration(us)} more`;
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}

/** Columns below each other, those of numbers flush right. */
function align(rows: readonly (readonly string[])[]): string[] {
  const columns = Math.max(0, ...rows.map((row) => row.length));
  const pads = Array.from({ length: columns }, (_, column) => {
    const cells = rows.map((row) => row[column] ?? "");
    const width = Math.max(...cells.map((cell) => cell.length));
    const isOfNumbers = cells.filter((cell) => NUMBER.test(cell)).length * 2 > cells.length;
    return (cell: string): string => (isOfNumbers ? cell.padStart(width) : cell.padEnd(width));
  });
  return rows.map((row) => `  ${row.map((cell, at) => pads[at]!(cell)).join("  ")}`.trimEnd());
}
