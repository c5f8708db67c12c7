/** One frame of `faultline top`: numbers in, lines out. PURE, but for the time that it is given. */
import { formatBytes } from "../base/units.ts";
import type { StoreStatistics } from "../daemon/host-service.ts";
import { formatUs } from "../daemon/session-report.ts";
import { formatAge } from "./session-text.ts";
import { type SortOrder, sortRows, type TopNumbers, type TopRow } from "./top-numbers.ts";

export interface TopState {
  /** Null: the daemon has not answered yet. */
  readonly numbers: TopNumbers | null;
  readonly order: SortOrder;
  readonly isPaused: boolean;
  /** Why the last look at the daemon has failed. */
  readonly trouble: string | null;
}

export interface FrameSize {
  readonly columns: number;
  /** Null: as many lines as there are. */
  readonly rows: number | null;
}

/** How a line is shown, where colours can be. */
export type Tone = "plain" | "head" | "alarm" | "faint";
export interface FrameLine {
  readonly text: string;
  readonly tone: Tone;
}

const KEYS = "f faults  l latency  r resident  n name  p pause  q quit";
/** More do not fit beside the sessions. */
const MAX_STORES = 3;
const BAR_CELLS = 10;
const NARROWEST_MEMORY = 6;
/** Columns in front of MEMORY, and behind it; those of numbers are flush right. */
const HEAD = ["SESSION", "STATE", "PID", "SIZE", "FAULTS/S", "P50", "P99", "AT HAND", "RESIDENT"];
const FLUSH_RIGHT = new Set(["PID", "SIZE", "FAULTS/S", "P50", "P99", "AT HAND"]);
const sortedColumns: Readonly<Record<SortOrder, string>> = {
  faults: "FAULTS/S",
  latency: "P99",
  resident: "RESIDENT",
  name: "SESSION",
};

export function renderTop(state: TopState, size: FrameSize, nowMs: number): FrameLine[] {
  const { numbers, trouble } = state;
  const head: FrameLine[] = numbers === null ? [] : headOf(numbers, nowMs);
  if (trouble !== null) head.push({ text: trouble, tone: "alarm" });
  if (numbers === null && trouble === null) head.push({ text: "…", tone: "faint" });
  const foot: FrameLine[] =
    size.rows === null
      ? []
      : [{ text: `${state.isPaused ? "PAUSED  " : ""}${KEYS}`, tone: "faint" }];
  const room =
    size.rows === null ? Number.POSITIVE_INFINITY : size.rows - head.length - foot.length;
  const table = numbers === null ? [] : tableOf(numbers, state.order, size.columns, room);
  const lines = [...head, ...table, ...foot].map(({ text, tone }) => ({
    text: cut(text, size.columns),
    tone,
  }));
  return size.rows === null ? lines : lines.slice(0, size.rows);
}

function headOf(numbers: TopNumbers, nowMs: number): FrameLine[] {
  const { host, cache, stores, latencyUs } = numbers;
  const { waiting, attached } = host.sessions;
  const { alive, started } = host.workers;
  const isIll = alive < started || host.isDraining;
  const daemon = [
    `faultline ${host.version}`,
    `pager ${host.pid}, ${formatAge(nowMs - Date.parse(host.startedAt))}`,
    `takeovers ${host.takeovers}`,
    `workers ${alive}/${started}`,
    ...(host.isDraining ? ["DRAINING"] : []),
  ];
  const sessions = [
    `sessions ${attached} attached, ${waiting} waiting, of ${host.maxSessions}`,
    `refused ${numbers.refusedHandshakes}`,
  ];
  const faults = [
    `faults ${formatRate(numbers.faultsPerSecond)}/s`,
    `p50 ${formatUs(latencyUs.p50)}`,
    `p99 ${formatUs(latencyUs.p99)}`,
    `at hand ${formatShare(numbers.atHandShare)}`,
  ];
  const lines: FrameLine[] = [
    { text: daemon.join("  "), tone: isIll ? "alarm" : "plain" },
    { text: sessions.join("  "), tone: "plain" },
    { text: faults.join("  "), tone: "plain" },
  ];
  if (cache.sizeBytes > 0) {
    const used = `${formatBytes(cache.usedBytes)} of ${formatBytes(cache.sizeBytes)}`;
    const lost = cache.failed > 0 ? `  ${cache.failed} LOST` : "";
    const text = `cache ${used}  ${cache.chunks} chunks, ${cache.loads} loads${lost}`;
    lines.push({ text, tone: cache.failed > 0 ? "alarm" : "plain" });
  }
  for (const store of stores.slice(0, MAX_STORES)) lines.push(lineOf(store));
  const hidden = stores.length - MAX_STORES;
  if (hidden > 0) lines.push({ text: `… and ${hidden} more stores`, tone: "faint" });
  return [...lines, { text: "", tone: "plain" }];
}

function lineOf(store: StoreStatistics): FrameLine {
  const { location, reads, running, waiting, failures, readMs } = store;
  const parts = [
    `store ${location}`,
    `${reads} reads`,
    `p50 ${formatUs(readMs.p50 * 1000)}`,
    `p99 ${formatUs(readMs.p99 * 1000)}`,
    `${running} running, ${waiting} waiting, ${failures} failed`,
  ];
  return { text: parts.join("  "), tone: "plain" };
}

function tableOf(
  { rows }: TopNumbers,
  order: SortOrder,
  columns: number,
  room: number,
): FrameLine[] {
  if (rows.length === 0) return [{ text: "There are no sessions.", tone: "faint" }];
  const isCut = rows.length > room - 1;
  const sorted = sortRows(rows, order);
  const shown = isCut ? sorted.slice(0, Math.max(0, room - 2)) : sorted;
  const cells = shown.map(cellsOf);
  const widths = HEAD.map((name, column) =>
    Math.max(name.length + 1, ...cells.map((row) => row[column]!.length)),
  );
  const marked = HEAD.map((name) => (name === sortedColumns[order] ? `${name}▾` : name));
  const left = columns - widths.reduce((sum, width) => sum + width + 2, 0);
  const memoryWidth = Math.max(NARROWEST_MEMORY, left);
  const line = (row: readonly string[], memory: string): string =>
    `${row.map((cell, column) => pad(cell, widths[column]!, column)).join("  ")}  ${memory}`;
  return [
    { text: line(marked, "MEMORY").padEnd(columns), tone: "head" },
    ...shown.map(
      (row, index): FrameLine => ({
        text: line(cells[index]!, memoryOf(row, memoryWidth)),
        tone: row.waitsFor === null ? "plain" : "alarm",
      }),
    ),
    ...(isCut ? [more(rows.length - shown.length)] : []),
  ];
}

function more(count: number): FrameLine {
  return { text: `… and ${count} more`, tone: "faint" };
}

function cellsOf(row: TopRow): string[] {
  return [
    row.id,
    row.prefault === "running" ? "prefault" : row.state,
    row.pid === null ? "-" : String(row.pid),
    formatBytes(row.sizeBytes),
    formatRate(row.faultsPerSecond),
    row.p50Us === null ? "-" : formatUs(row.p50Us),
    row.p99Us === null ? "-" : formatUs(row.p99Us),
    formatShare(row.atHandShare),
    row.residentShare === null
      ? "-"
      : `${bar(row.residentShare)} ${formatShare(row.residentShare)}`,
  ];
}

/** What the VM waits for is more important than what it was restored from. */
function memoryOf({ memory, waitsFor }: TopRow, width: number): string {
  if (waitsFor !== null) return `WAITS: ${waitsFor}`;
  // The end of a path says more than its beginning.
  const characters = [...memory];
  return characters.length <= width ? memory : `…${characters.slice(1 - width).join("")}`;
}

/** Eighths of a cell: `▏▎▍▌▋▊▉█`. */
export function bar(share: number): string {
  const eighths = Math.round(Math.min(1, Math.max(0, share)) * BAR_CELLS * 8);
  const whole = "█".repeat(Math.floor(eighths / 8));
  const part = eighths % 8 === 0 ? "" : " ▏▎▍▌▋▊▉"[eighths % 8]!;
  return (whole + part).padEnd(BAR_CELLS, "·");
}

/** `-`, `7.3`, `412`, `12.3k`, `1.2M`. */
export function formatRate(perSecond: number | null): string {
  if (perSecond === null) return "-";
  if (perSecond === 0) return "0";
  if (perSecond < 9.95) return perSecond.toFixed(1);
  if (perSecond < 9999.5) return perSecond.toFixed(0);
  if (perSecond < 999_950) return `${(perSecond / 1e3).toFixed(1)}k`;
  return `${(perSecond / 1e6).toFixed(1)}M`;
}

/** Rounded down: 100 % means all. */
function formatShare(share: number | null): string {
  return share === null ? "-" : `${Math.floor(share * 100)} %`.padStart(5);
}

function pad(cell: string, width: number, column: number): string {
  return FLUSH_RIGHT.has(HEAD[column]!) ? cell.padStart(width) : cell.padEnd(width);
}

function cut(text: string, columns: number): string {
  const characters = [...text];
  if (characters.length <= columns) return text.trimEnd();
  return characters.slice(0, columns).join("");
}
