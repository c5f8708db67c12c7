/** What `faultline top` makes of two looks at a daemon, line by line. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { bar, formatRate, renderTop, type TopState } from "../../src/cli/top-frame.ts";
import { sortRows, type TopSample, topNumbers } from "../../src/cli/top-numbers.ts";
import type { SessionView, VmView } from "../../src/daemon/host-service.ts";

const NOW = Date.parse("2026-01-01T00:10:00.000Z");

function vmOf(pid: number, faults: number, change: Partial<VmView> = {}): VmView {
  return {
    pid,
    attachedAt: "2026-01-01T00:00:00.000Z",
    pageSizeBytes: 4096,
    regions: 1,
    pages: { total: 1000, installed: 250, removed: 250, missing: 500 },
    counters: { faults, installedPages: 200, awaitedPages: 50 },
    latencyUs: { p50: 12.3, p99: 1234 },
    prefaultState: "off",
    waitsFor: null,
    takeovers: 0,
    ...change,
  };
}

function sessionOf(id: string, vm: VmView | null, memory = "/srv/vm.mem"): SessionView {
  return {
    ...{ id, memory, vm, state: vm === null ? "waiting" : "attached", layers: [] },
    ...{ sizeBytes: 2 ** 30, socketPath: "/s", onError: "kill", prefault: "off", labels: {} },
    ...{ createdAt: "2026-01-01T00:00:00.000Z", end: null, lastRefusal: null },
  };
}

function sampleOf(atMs: number, faults: number, sessions: readonly SessionView[]): TopSample {
  return {
    atMs,
    host: {
      version: "1.2.3",
      pid: 77,
      startedAt: "2026-01-01T00:00:00.000Z",
      isDraining: false,
      sessions: { waiting: 1, attached: sessions.length - 1 },
      maxSessions: 1024,
      takeovers: 3,
      workers: { alive: 4, started: 4 },
    },
    statistics: {
      counters: { faults, installedPages: faults, awaitedPages: 0 },
      latencyUs: { p50: 12.3, p99: 1234 },
      refusedHandshakes: 5,
      cache: { sizeBytes: 2 ** 28, usedBytes: 2 ** 20, chunks: 4, loads: 9, failed: 0 },
      stores: [
        {
          ...{ location: "s3://b", reads: 9, retries: 0, failures: 1, running: 2, waiting: 3 },
          readMs: { p50: 20, p99: 90 },
        },
      ],
    },
    sessions,
  };
}

const before = sampleOf(NOW - 2000, 1000, [
  sessionOf("busy", vmOf(11, 1000)),
  sessionOf("idle", vmOf(12, 50)),
]);
const now = sampleOf(NOW, 4000, [
  sessionOf("busy", vmOf(11, 4000)),
  sessionOf("idle", vmOf(12, 50, { latencyUs: { p50: 5, p99: 9000 } })),
  sessionOf("new", null),
]);
const numbers = topNumbers(now, before);
const state: TopState = { numbers, order: "faults", isPaused: false, trouble: null };

function textOf(change: Partial<TopState>, columns = 130, rows: number | null = null): string[] {
  return renderTop({ ...state, ...change }, { columns, rows }, NOW).map(({ text }) => text);
}

describe("numbers", () => {
  test("are speeds between two looks, and shares", () => {
    const [busy, idle, fresh] = numbers.rows;
    assert.deepEqual([busy!.faultsPerSecond, idle!.faultsPerSecond], [1500, 0]);
    assert.deepEqual([busy!.residentShare, busy!.atHandShare], [0.25, 0.75]);
    assert.deepEqual(
      [fresh!.pid, fresh!.faultsPerSecond, fresh!.residentShare],
      [null, null, null],
    );
    assert.deepEqual([numbers.faultsPerSecond, numbers.atHandShare], [1500, 1]);
  });

  test("are no speeds after one look, nor of another VM of the same name", () => {
    assert.equal(topNumbers(now, null).faultsPerSecond, null);
    const other = sampleOf(NOW + 1000, 4000, [sessionOf("busy", vmOf(99, 10))]);
    assert.equal(topNumbers(other, now).rows[0]!.faultsPerSecond, null);
  });

  test("never are below zero", () => {
    assert.equal(topNumbers(before, { ...now, atMs: NOW - 9000 }).faultsPerSecond, 0);
  });

  test("sort as they are asked to, the unknown last", () => {
    const ids = (order: Parameters<typeof sortRows>[1]): string =>
      sortRows(numbers.rows, order)
        .map(({ id }) => id)
        .join(" ");
    assert.equal(ids("faults"), "busy idle new");
    assert.equal(ids("latency"), "idle busy new");
    assert.equal(ids("resident"), "busy idle new");
    assert.equal(ids("name"), "busy idle new");
  });
});

const wholeFrame = `\
faultline 1.2.3  pager 77, 10 min  takeovers 3  workers 4/4
sessions 2 attached, 1 waiting, of 1024  refused 5
faults 1500/s  p50 12.3 µs  p99 1.2 ms  at hand 100 %
cache 1 MiB of 256 MiB  4 chunks, 9 loads
store s3://b  9 reads  p50 20.0 ms  p99 90.0 ms  2 running, 3 waiting, 1 failed

SESSION   STATE      PID   SIZE  FAULTS/S▾      P50     P99   AT HAND  RESIDENT          MEMORY
busy      attached    11  1 GiB       1500  12.3 µs  1.2 ms      75 %  ██▌·······  25 %  /srv/vm.mem
idle      attached    12  1 GiB          0   5.0 µs  9.0 ms      75 %  ██▌·······  25 %  /srv/vm.mem
new       waiting      -  1 GiB          -        -       -         -  -                 /srv/vm.mem
`;

describe("a frame", () => {
  test("has all of it", () => {
    assert.equal(`${textOf({}).join("\n")}\n`, wholeFrame);
  });

  test("never is wider or longer than the terminal", () => {
    const many = Array.from({ length: 500 }, (_, n) => sessionOf(`vm-${n}`, vmOf(n, n)));
    const crowd = topNumbers(sampleOf(NOW, 1, many), null);
    for (const [columns, rows] of [
      [130, 40],
      [80, 24],
      [40, 12],
      [20, 5],
      [1, 1],
    ] as const) {
      const lines = textOf({ numbers: crowd }, columns, rows);
      assert.ok(lines.length <= rows, `${lines.length} of ${rows} lines`);
      for (const line of lines) assert.ok([...line].length <= columns, line);
    }
    const lines = textOf({ numbers: crowd }, 130, 24);
    assert.match(lines.at(-2)!, /^… and 485 more$/);
    assert.match(lines.at(-1)!, /^f faults .* q quit$/);
    assert.equal(textOf({ numbers: crowd }).filter((line) => line.startsWith("vm-")).length, 500);
  });

  test("says what is wrong, in another tone", () => {
    const waits = { waitsFor: "chunk 7 of s3://b", prefaultState: "running" } as const;
    const ill = topNumbers(
      {
        ...sampleOf(NOW, 1, [sessionOf("ill", vmOf(1, 1, waits))]),
        host: { ...now.host, isDraining: true },
      },
      null,
    );
    const lines = renderTop(
      { ...state, numbers: ill, trouble: "Nobody listens.", isPaused: true },
      { columns: 130, rows: 24 },
      NOW,
    );
    const alarms = lines.filter(({ tone }) => tone === "alarm").map(({ text }) => text);
    assert.equal(alarms.length, 3);
    assert.match(alarms[0]!, /DRAINING/);
    assert.equal(alarms[1], "Nobody listens.");
    assert.match(alarms[2]!, /^ill +prefault .* WAITS: chunk 7 of s3:\/\/b$/);
    assert.match(lines.at(-1)!.text, /^PAUSED/);
  });

  test("keeps the end of a long path", () => {
    const session = sessionOf("a", null, `/${"x".repeat(200)}/web.mem`);
    const [, , , , , , , row] = textOf({ numbers: topNumbers(sampleOf(NOW, 1, [session]), null) });
    assert.match(row!, /…x+\/web\.mem$/);
    assert.equal([...row!].length, 130);
  });

  test("without sessions says so", () => {
    const lines = textOf({ numbers: topNumbers(sampleOf(NOW, 1, []), null) });
    assert.equal(lines.at(-1), "There are no sessions.");
  });
});

test("a bar grows by eighths", () => {
  assert.deepEqual([0, 0.01, 0.5, 0.512, 0.999, 1].map(bar), [
    "··········",
    "▏·········",
    "█████·····",
    "█████▏····",
    "██████████",
    "██████████",
  ]);
});

test("rates are short", () => {
  const rates = [null, 0, 0.04, 9.94, 9.96, 9999, 9999.6, 999_949, 999_951].map(formatRate);
  const expected = ["-", "0", "0.0", "9.9", "10", "9999", "10.0k", "999.9k", "1.0M"];
  assert.deepEqual(rates, expected);
});
