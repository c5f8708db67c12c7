/**
 * A recording as the trace-event format, which Perfetto (ui.perfetto.dev) and chrome://tracing
 * open. The VM is a process; each wait for a page is an asynchronous slice from its demand to its
 * installation, named by what most of it was spent on. What is installed ahead is a track of its
 * own; what was put off, taken back or lost are marks; pages there, and pages waited for, are
 * counters. PURE.
 */
import type { Recording } from "./recording.ts";
import { followWaits } from "./waits.ts";

export interface TraceEvent {
  readonly name: string;
  readonly ph: "M" | "X" | "b" | "e" | "i" | "C";
  readonly pid: number;
  readonly tid: number;
  /** Microseconds. Of metadata: none. */
  readonly ts?: number;
  readonly dur?: number;
  readonly cat?: string;
  readonly id?: string;
  /** Of a mark: it belongs to its thread. */
  readonly s?: "t";
  readonly args?: Readonly<Record<string, number | string>>;
}

/** Threads of the picture. */
const tracks = ["waits", "ahead", "marks"] as const;
const trackOf = { waits: 1, ahead: 2, marks: 3 } as const;

/** Kinds that end waits are drawn with their waits. */
const WAITED_FOR: readonly string[] = ["copy", "zero"];
/** Counters say no more than this often: a thousand points a second are enough for the eye. */
const COUNTER_EVERY_US = 1000;

/** Hands over every event, in no certain order: readers sort them. */
export function traceEvents(recording: Recording, take: (event: TraceEvent) => void): void {
  nameTracks(recording, take);
  drawWaits(recording, take);
  drawRecords(recording, take);
  drawCounters(recording, take);
}

function nameTracks({ header }: Recording, take: (event: TraceEvent) => void): void {
  const { pid, session } = header;
  const name = `VM ${session}`;
  take({ ph: "M", name: "process_name", pid, tid: 0, args: { name } });
  for (const track of tracks) {
    take({ ph: "M", name: "thread_name", pid, tid: trackOf[track], args: { name: track } });
  }
}

function drawWaits(recording: Recording, take: (event: TraceEvent) => void): void {
  const { header, records } = recording;
  const { pid, pageSizeBytes } = header;
  const lastUs = records.timesUs.reduce((most, us) => Math.max(most, us), 0);
  const common = { pid, tid: trackOf.waits, cat: "wait" } as const;
  followWaits(recording, {
    ends: ({ page, demand, answer }) => {
      const id = `0x${demand.toString(16)}`;
      const fromUs = records.timesUs[demand]!;
      const untilUs = Math.max(fromUs, answer === null ? lastUs : records.timesUs[answer]!);
      const name = answer === null ? "no end" : header.causes[records.causes[answer]!]!;
      const kind = answer === null ? "none" : header.kinds[records.kinds[answer]!]!;
      const args = { page, offset: hex(page * pageSizeBytes), installed: kind };
      take({ ph: "b", name, id, ts: fromUs, ...common, args });
      take({ ph: "e", name, id, ts: untilUs, ...common });
    },
  });
}

/** What has no demand of its own. Slices of one track must not overlap. */
function drawRecords({ header, records }: Recording, take: (event: TraceEvent) => void): void {
  const { pid, pageSizeBytes } = header;
  const shown = header.kinds.map((kind) => kind !== "demand" && !WAITED_FOR.includes(kind));
  let drawnUs = 0;
  for (let index = 0; index < records.count; index++) {
    if (shown[records.kinds[index]!] !== true) continue;
    const kind = header.kinds[records.kinds[index]!]!;
    const cause = header.causes[records.causes[index]!]!;
    const page = records.pages[index]!;
    const pages = records.pageCounts[index]!;
    const args = { page, pages, offset: hex(page * pageSizeBytes), cause };
    const timeUs = records.timesUs[index]!;
    const common = { name: kind, pid, cat: kind, args };
    if (kind !== "ahead") {
      take({ ph: "i", s: "t", tid: trackOf.marks, ts: timeUs, ...common });
      continue;
    }
    const untilUs = Math.max(drawnUs, timeUs);
    const fromUs = Math.min(untilUs, Math.max(drawnUs, timeUs - records.costs[index]! / 10));
    take({ ph: "X", tid: trackOf.ahead, ts: fromUs, dur: untilUs - fromUs, ...common });
    drawnUs = untilUs;
  }
}

function drawCounters(recording: Recording, take: (event: TraceEvent) => void): void {
  const { header, records } = recording;
  const isWait = waitChanges(recording);
  const adds = header.kinds.map((kind) => WAITED_FOR.includes(kind) || kind === "ahead");
  let installed = 0;
  let waiting = 0;
  let toldUs = Number.NEGATIVE_INFINITY;
  let timeUs = 0;
  const tell = (): void => {
    const { pid } = header;
    const common = { ph: "C", pid, tid: 0, ts: timeUs } as const;
    take({ ...common, name: "pages installed", args: { pages: installed } });
    take({ ...common, name: "pages waited for", args: { pages: waiting } });
    toldUs = timeUs;
  };
  for (let index = 0; index < records.count; index++) {
    timeUs = Math.max(timeUs, records.timesUs[index]!);
    if (adds[records.kinds[index]!] === true) installed += records.pageCounts[index]!;
    waiting += isWait[index]!;
    if (timeUs - toldUs >= COUNTER_EVERY_US) tell();
  }
  if (records.count > 0) tell();
}

/** By how much each record changes the number of pages that are waited for. */
function waitChanges(recording: Recording): Int32Array {
  const changes = new Int32Array(recording.records.count);
  followWaits(recording, {
    ends: ({ demand, answer }) => {
      changes[demand]! += 1;
      if (answer !== null) changes[answer]! -= 1;
    },
  });
  return changes;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
