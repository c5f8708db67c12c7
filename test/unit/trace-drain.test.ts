/** A ring that a worker writes becomes a recording: nothing twice, nothing missing unnoticed. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { Cause } from "../../src/base/restore-causes.ts";
import { hostAddress, imageOffset } from "../../src/base/units.ts";
import { MAX_RECORDINGS, MAX_RINGS, SessionTraces } from "../../src/daemon/session-traces.ts";
import { drainTrace } from "../../src/daemon/trace-drain.ts";
import type { Engine } from "../../src/engine/engine.ts";
import type { Session } from "../../src/engine/session.ts";
import { Trace, TraceRing } from "../../src/engine/trace-ring.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { monotonicUs } from "../../src/linux/clock.ts";
import { PageTable } from "../../src/pager/page-table.ts";
import { RegionMap } from "../../src/snapshot/regions.ts";
import { readRecording } from "../../src/trace/read-recording.ts";
import { RecordingScanner } from "../../src/trace/scanner.ts";
import { rowsOf } from "../support/recordings.ts";

const PAGES = 2 ** 20;
const BUDGET_MS = 10_000;

/** As much of a session as a recording tells of. */
const engineSession = {
  pid: 4321,
  regions: new RegionMap(
    [
      {
        baseHostAddress: hostAddress(0x7f00_0000_0000),
        sizeBytes: PAGES * 4096,
        imageOffset: imageOffset(0),
      },
    ],
    4096,
  ),
  pageTable: new PageTable(PAGES, new Uint8Array(PageTable.sizeBytes(PAGES))),
} as unknown as Session;

interface Drained {
  readonly ring: TraceRing;
  readonly over: AbortController;
  readonly stop: AbortController;
  readonly pieces: AsyncGenerator<Uint8Array, void>;
}

/** `agoUs`: how long the VM has been attached. */
function drained(records: number, agoUs = 0): Drained {
  const ring = new TraceRing(TraceRing.allocate(records));
  const [over, stop] = [new AbortController(), new AbortController()];
  const session = {
    ...{ id: "web-1", memory: "/srv/web.mem", engineSession },
    ...{ attachedMs: Date.now() - agoUs / 1000, attachedUs: monotonicUs() - agoUs },
  };
  const options = { forMs: 60_000, over: over.signal, stop: stop.signal };
  return { ring, over, stop, pieces: drainTrace(session, ring, options) };
}

function add(ring: TraceRing, from: number, count: number, afterUs = 0): void {
  for (let page = from; page < from + count; page++) {
    ring.add(Trace.copy, Cause.install, afterUs + page, page, 1, 2.5);
  }
}

async function all(pieces: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const list: Uint8Array[] = [];
  for await (const piece of pieces) list.push(piece);
  return Buffer.concat(list);
}

/** Pages in the order of the records. */
async function pagesOf({ pieces }: Drained): Promise<number[]> {
  return rowsOf(readRecording(await all(pieces), "drained")).map(([, , , page]) => page);
}

const range = (from: number, end: number): number[] =>
  Array.from({ length: end - from }, (_, index) => from + index);

describe("what is drained of a ring", () => {
  test("is all that it holds, also if that is more than a block", async () => {
    const whole = drained(16_384);
    add(whole.ring, 0, 10_000);
    whole.over.abort();
    const recording = readRecording(await all(whole.pieces), "whole");
    assert.equal(recording.ending, "ended");
    assert.deepEqual([recording.lost, recording.records.count], [0, 10_000]);
    assert.deepEqual(rowsOf(recording)[9999], [9999, "copy", "install", 9999, 1, 25]);
  });

  test("says what was overwritten before", async () => {
    const late = drained(1024);
    add(late.ring, 0, 5000);
    late.stop.abort();
    const recording = readRecording(await all(late.pieces), "late");
    const { lost, lostInFront, records, ending } = recording;
    assert.equal(ending, "stopped");
    assert.equal(lost + records.count, 5000);
    assert.equal(lostInFront, lost);
    // One less than the ring has room for: it may be half written.
    assert.deepEqual(
      rowsOf(recording).map(([, , , page]) => page),
      range(5000 - 1023, 5000),
    );
  });

  test("goes on where it was, as fast as somebody takes it", async () => {
    const slow = drained(1024);
    const scanner = new RecordingScanner("slow");
    const takeAll = (async () => {
      for await (const piece of slow.pieces) scanner.push(piece);
    })();
    for (let from = 0; from < 5000; from += 500) {
      add(slow.ring, from, 500);
      await waitFor("it was taken", () => scanner.records === from + 500, BUDGET_MS);
    }
    assert.equal(scanner.lost, 0);
    slow.over.abort();
    await takeAll;
    assert.deepEqual([scanner.records, scanner.ending], [5000, "ended"]);
  });

  test("waits for who does not take it, and then says what he has missed", async () => {
    const missed = drained(1024);
    await missed.pieces.next();
    add(missed.ring, 0, 500);
    await missed.pieces.next();
    add(missed.ring, 500, 100_000);
    missed.over.abort();
    const rest = await all(missed.pieces);
    const header = await drained(1024).pieces.next();
    const recording = readRecording(Buffer.concat([header.value!, rest]), "missed");
    assert.equal(recording.lost + recording.records.count, 100_000);
    assert.equal(rowsOf(recording).at(-1)?.[3], 100_499);
  });

  test("has times beyond what the ring can count", async () => {
    const twoHoursUs = 2 * 3600 * 1e6;
    const old = drained(1024, twoHoursUs);
    add(old.ring, 0, 10, twoHoursUs - 60e6);
    old.over.abort();
    const times = rowsOf(readRecording(await all(old.pieces), "old")).map(([timeUs]) => timeUs);
    assert.deepEqual(
      times,
      range(0, 10).map((page) => twoHoursUs - 60e6 + page),
    );
  });

  test("is what was written when the session ended, to the last", async () => {
    const last = drained(1024);
    const pages = pagesOf(last);
    add(last.ring, 0, 7);
    last.over.abort();
    assert.deepEqual(await pages, range(0, 7));
  });
});

/** Which sessions are traced now. */
class NotedEngine {
  readonly rings: (TraceRing | null)[] = [];

  trace(_session: Session, ring: TraceRing | null): void {
    this.rings.push(ring);
  }
}

describe("the rings of sessions", () => {
  const session = (id: string) => ({ id, memory: "/srv/web.mem", engineSession });
  const limit = (error: unknown): boolean =>
    error instanceof FaultlineError && error.code === "limit";

  test("are there for as long as somebody records, or for good if that was asked for", () => {
    const engine = new NotedEngine();
    const traces = new SessionTraces(engine as unknown as Engine);
    assert.equal(traces.begin("late", false), null);
    const [first, second] = [traces.record(session("late"), 1), traces.record(session("late"), 1)];
    assert.equal(engine.rings.length, 1, "they share one");
    first.close();
    first.close();
    assert.equal(engine.rings.length, 1);
    second.close();
    assert.deepEqual(engine.rings.slice(1), [null]);
    const kept = traces.begin("kept", true);
    assert.ok(kept !== null && kept === traces.keep("kept"));
    traces.record(session("kept"), 1).close();
    assert.equal(engine.rings.length, 2);
  });

  test("end what is recorded when the session does", async () => {
    const traces = new SessionTraces(new NotedEngine() as unknown as Engine);
    add(traces.begin("short", true)!, 0, 3);
    const stream = traces.record(session("short"), 60_000);
    traces.forget("short");
    const { records, ending } = readRecording(await all(stream.pieces), "short");
    assert.deepEqual([records.count, ending], [3, "ended"]);
    stream.close();
  });

  test("are no more than may be, and come back", () => {
    const traces = new SessionTraces(new NotedEngine() as unknown as Engine);
    for (let count = 0; count < MAX_RINGS; count++) traces.keep(`session-${count}`);
    assert.throws(() => traces.keep("one-more"), limit);
    traces.forget("session-7");
    traces.keep("one-more");
    traces.begin("one-more", true);
    const streams = range(0, MAX_RECORDINGS).map(() => traces.record(session("one-more"), 1));
    assert.throws(() => traces.record(session("one-more"), 1), limit);
    streams[0]!.close();
    traces.record(session("one-more"), 1);
  });
});
