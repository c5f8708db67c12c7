/** Recordings in words and tables. PURE. */
import type { Ending, Recording } from "../trace/recording.ts";
import type { DemandRow, RecordRow, TraceSummary } from "../trace/summary.ts";
import { formatTable } from "./table.ts";

const endingTexts: Readonly<Record<Ending, string>> = {
  asked: "its time was over",
  ended: "the session ended",
  stopped: "the daemon stopped",
  full: "it has as many records as it may",
  interrupted: "ended on request",
  broken: "it broke off",
};

export function describeEnding(ending: Ending): string {
  return endingTexts[ending];
}

/** What is not as it should be; null: all is. */
export function describeDamage({
  ending,
  damage,
}: Pick<Recording, "ending" | "damage">): string | null {
  if (damage !== null) return `damaged: ${damage}; what is before that was read`;
  return ending === null ? "cut off; it is whole until there" : null;
}

export function describeSummary(summary: TraceSummary): string {
  const { session, pid, memory, attachedAt, durationUs, fromUs } = summary;
  const ending = summary.ending as Ending | null;
  const end = describeDamage({ ending, damage: summary.damage }) ?? describeEnding(ending!);
  const { lost, lostInFront, waits, openWaits, demandedPages } = summary;
  const inFront = lostInFront > 0 ? ` (${lostInFront} before the first)` : "";
  const lines = [
    `session    ${session}, process ${pid}, ${memory}`,
    `attached   ${attachedAt}`,
    `recorded   ${milliseconds(durationUs)}, from ${milliseconds(fromUs)} on: ${end}`,
    `records    ${summary.records}, ${lost} lost${inFront}`,
    `waits      ${waits}, for ${demandedPages} pages; ${openWaits} without an end`,
  ];
  return [
    `${lines.join("\n")}\n`,
    section("What it cost", costTable(summary)),
    section("The dearest", dearestTable(summary.dearest)),
    section("The first faults", demandTable(summary.firstDemands)),
  ].join("");
}

function costTable({ costs }: TraceSummary): readonly (readonly string[])[] {
  const rows = costs.map(({ kind, cause, records, pages, totalUs, p50Us, p99Us }) => [
    ...[kind, totalUs === 0 ? "-" : cause, String(records), String(pages)],
    ...[totalUs, p50Us, p99Us].map((us) => (totalUs === 0 ? "-" : milliseconds(us))),
  ]);
  return [["KIND", "CAUSE", "RECORDS", "PAGES", "SUM", "P50", "P99"], ...rows];
}

function dearestTable(rows: readonly RecordRow[]): readonly (readonly string[])[] {
  const cells = rows.map(({ afterUs, costUs, kind, cause, page, pages }) => [
    ...[milliseconds(afterUs), milliseconds(costUs), kind, cause, String(page), String(pages)],
  ]);
  return [["AT", "COST", "KIND", "CAUSE", "PAGE", "PAGES"], ...cells];
}

function demandTable(rows: readonly DemandRow[]): readonly (readonly string[])[] {
  const cells = rows.map(({ afterUs, page, waitedUs, cause }) => [
    ...[milliseconds(afterUs), String(page)],
    ...[waitedUs === null ? "no end" : milliseconds(waitedUs), cause ?? "-"],
  ]);
  return [["AT", "PAGE", "WAITED", "CAUSE"], ...cells];
}

/** Nothing, where there are no rows but the heads. */
function section(title: string, rows: readonly (readonly string[])[]): string {
  return rows.length > 1 ? `\n${title}:\n${formatTable(rows)}` : "";
}

function milliseconds(us: number): string {
  return `${(us / 1000).toFixed(us < 1e6 ? 3 : 1)} ms`;
}
