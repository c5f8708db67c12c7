/**
 * The rules of the trace-event format ("Trace Event Format", by which chrome://tracing and Perfetto
 * read JSON), as far as we use it.
 */
import assert from "node:assert/strict";
import type { TraceEvent } from "../../src/trace/trace-events.ts";

/** Also for events that come from a file. */
export function assertTraceEvents(events: readonly TraceEvent[]): void {
  for (const event of events) assertEvent(event);
  assertPairs(events);
  assertNesting(events);
  assertNames(events);
}

function assertEvent(event: TraceEvent): void {
  const told = JSON.stringify(event);
  const { ph, name, pid, tid, ts, dur, cat, id, s, args } = event;
  assert.ok(["M", "X", "b", "e", "i", "C"].includes(ph), told);
  assert.ok(typeof name === "string" && name !== "", told);
  assert.ok(Number.isSafeInteger(pid) && Number.isSafeInteger(tid), told);
  const isMoment = (value: unknown): boolean =>
    typeof value === "number" && Number.isFinite(value) && value >= 0;
  assert.ok(ph === "M" || isMoment(ts), `a moment: ${told}`);
  assert.equal(isMoment(dur), ph === "X", `a duration: ${told}`);
  // Asynchronous events are known by their category and id together.
  const isAsync = ph === "b" || ph === "e";
  assert.equal(isAsync, id !== undefined, told);
  assert.ok(!isAsync || (typeof cat === "string" && cat !== ""), told);
  assert.equal(s !== undefined, ph === "i", told);
  if (ph !== "C") return;
  const values = Object.values(args ?? {});
  assert.ok(values.length > 0 && values.every((value) => typeof value === "number"), told);
}

function assertPairs(events: readonly TraceEvent[]): void {
  const key = ({ cat, id, pid, name }: TraceEvent): string => `${pid} ${cat} ${id} ${name}`;
  const begun = new Map<string, TraceEvent>();
  for (const event of events.filter(({ ph }) => ph === "b")) {
    assert.ok(!begun.has(key(event)), `begins twice: ${key(event)}`);
    begun.set(key(event), event);
  }
  for (const event of events.filter(({ ph }) => ph === "e")) {
    const begin = begun.get(key(event));
    assert.ok(
      begin !== undefined && begin.ts! <= event.ts!,
      `ends before it begins: ${key(event)}`,
    );
    begun.delete(key(event));
  }
  assert.equal(begun.size, 0, "every slice ends");
}

/** Complete events of one thread lie within each other, or beside each other. */
function assertNesting(events: readonly TraceEvent[]): void {
  const slices = events.filter(({ ph }) => ph === "X");
  const order = [...slices].sort((a, b) => a.tid - b.tid || a.ts! - b.ts! || b.dur! - a.dur!);
  let open: TraceEvent[] = [];
  for (const slice of order) {
    open = open.filter(({ tid, ts, dur }) => tid === slice.tid && ts! + dur! > slice.ts!);
    const within = open.every(({ ts, dur }) => slice.ts! + slice.dur! <= ts! + dur!);
    assert.ok(within, `overlaps another: ${JSON.stringify(slice)}`);
    open.push(slice);
  }
}

/** Every thread that is drawn on has a name, and so has the process. */
function assertNames(events: readonly TraceEvent[]): void {
  const named = new Set(events.filter(({ name }) => name === "thread_name").map(({ tid }) => tid));
  const drawn = events.filter(({ ph }) => ph !== "M" && ph !== "C");
  for (const { tid } of drawn) assert.ok(named.has(tid), `thread ${tid} has a name`);
  assert.equal(events.filter(({ name }) => name === "process_name").length, 1);
}
