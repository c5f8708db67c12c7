/** What is made of a recording: its summary, what a guest touched, and events for Perfetto. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { summarize } from "../../src/trace/summary.ts";
import { touchesOf } from "../../src/trace/touches.ts";
import { type TraceEvent, traceEvents } from "../../src/trace/trace-events.ts";
import { header, type Row, recordingOf } from "../support/recordings.ts";
import { assertTraceEvents } from "../support/trace-events.ts";

const rows: readonly Row[] = [
  [100, "demand", "guest", 7, 1, 0],
  [130, "copy", "install", 7, 1, 300],
  [500, "demand", "guest", 900, 1, 0],
  [510, "park", "fetching", 900, 1, 0],
  [600, "demand", "guest", 901, 1, 0],
  [700, "ahead", "ahead", 16, 16, 500],
  [710, "ahead", "ahead", 32, 16, 500],
  [4500, "copy", "store", 896, 8, 40_000],
  [4600, "deferred", "deferred", 5, 1, 0],
  [4700, "demand", "guest", 5, 1, 0],
  [4800, "removed", "guest", 6, 10, 0],
];

function eventsOf(which: readonly Row[]): TraceEvent[] {
  const events: TraceEvent[] = [];
  traceEvents(recordingOf(which), (event) => events.push(event));
  return events;
}

describe("a recording's summary", () => {
  test("tells what was there, what it cost, and what cost most", () => {
    const summary = summarize(recordingOf(rows, { lost: 2 }), 3);
    assert.deepEqual(
      [summary.fromUs, summary.durationUs, summary.records, summary.lost, summary.lostInFront],
      [100, 4700, 11, 2, 2],
    );
    assert.deepEqual([summary.waits, summary.openWaits, summary.demandedPages], [4, 1, 4]);
    assert.deepEqual(summary.costs[0], {
      ...{ kind: "copy", cause: "store", records: 1, pages: 8 },
      ...{ totalUs: 4000, p50Us: 4000, p99Us: 4000 },
    });
    const ahead = summary.costs.find(({ kind }) => kind === "ahead");
    assert.deepEqual([ahead?.records, ahead?.pages, ahead?.totalUs], [2, 32, 100]);
    assert.deepEqual(
      summary.dearest.map(({ kind, page, costUs }) => [kind, page, costUs]),
      [
        ["copy", 896, 4000],
        ["ahead", 16, 50],
        ["ahead", 32, 50],
        ["copy", 7, 30],
      ],
    );
    assert.deepEqual(summary.firstDemands, [
      { afterUs: 100, page: 7, waitedUs: 30, cause: "install" },
      { afterUs: 500, page: 900, waitedUs: 4000, cause: "store" },
      { afterUs: 600, page: 901, waitedUs: 3900, cause: "store" },
    ]);
  });

  test("has the ten dearest, and quantiles that some have cost", () => {
    const many = Array.from({ length: 1000 }, (_, index): Row => {
      const cost = ((index * 37) % 1000) + 1;
      return [index, "zero", "install", index, 1, cost * 10];
    });
    const { dearest, costs } = summarize(recordingOf(many), 0);
    assert.deepEqual(
      dearest.map(({ costUs }) => costUs),
      Array.from({ length: 10 }, (_, index) => 1000 - index),
    );
    assert.deepEqual([costs[0]?.p50Us, costs[0]?.p99Us], [500, 990]);
  });

  test("of nothing is nothing", () => {
    const { fromUs, durationUs, waits, costs } = summarize(recordingOf([]), 5);
    assert.deepEqual([fromUs, durationUs, waits, costs], [0, 0, 0, []]);
  });
});

describe("what a guest touched", () => {
  test("is the pages in order, with what lay between its waits", () => {
    const { pages, thinkUs, sizeBytes } = touchesOf(recordingOf(rows), 100);
    assert.deepEqual([...pages], [7, 900, 901, 5]);
    // 100 from the start; 370 after the first wait; 100 beside the second; 200 after it.
    assert.deepEqual([...thinkUs], [100, 370, 100, 200]);
    assert.equal(sizeBytes, 4096 * 1024);
  });

  test("is each page once, and not more than is wanted", () => {
    const again: Row[] = [
      ...rows,
      [9000, "copy", "install", 5, 1, 1],
      [9999, "demand", "guest", 7, 1, 0],
    ];
    assert.deepEqual([...touchesOf(recordingOf(again), 100).pages], [7, 900, 901, 5]);
    assert.deepEqual([...touchesOf(recordingOf(again), 2).pages], [7, 900]);
  });

  test("does not count the time that the recording has missed", () => {
    assert.equal(touchesOf(recordingOf(rows, { lost: 9 }), 1).thinkUs[0], 0);
  });

  test("is in pages of 4 KiB, also of a VM with huge pages", () => {
    const of = { ...header, pageSizeBytes: 2 ** 21 };
    const { pages, sizeBytes } = touchesOf(recordingOf(rows, { of }), 2);
    assert.deepEqual([...pages], [7 * 512, 900 * 512]);
    assert.equal(sizeBytes, 2 ** 31);
  });
});

describe("events for Perfetto", () => {
  test("keep the rules of their format", () => {
    assertTraceEvents(eventsOf(rows));
  });

  test("have a slice for each wait, from its demand to its page", () => {
    const events = eventsOf(rows);
    const begins = events.filter(({ ph }) => ph === "b");
    const durations = begins.map(({ id, name, ts, args }) => {
      const end = events.find((each) => each.ph === "e" && each.id === id)!;
      return [name, args?.page, ts, end.ts! - ts!];
    });
    assert.deepEqual(durations, [
      ["install", 7, 100, 30],
      ["store", 900, 500, 4000],
      ["store", 901, 600, 3900],
      ["no end", 5, 4700, 100],
    ]);
  });

  test("have what is installed ahead beside them, and marks", () => {
    const events = eventsOf(rows);
    const ahead = events.filter(({ ph }) => ph === "X");
    assert.deepEqual(
      ahead.map(({ ts, dur }) => [ts, dur]),
      [
        [650, 50],
        [700, 10],
      ],
    );
    const marks = events.filter(({ ph }) => ph === "i").map(({ name }) => name);
    assert.deepEqual(marks, ["park", "deferred", "removed"]);
  });

  test("count the pages that are there, and those that are waited for", () => {
    const last = (name: string) => eventsOf(rows).findLast((each) => each.name === name)?.args;
    assert.deepEqual(last("pages installed"), { pages: 1 + 8 + 32 });
    assert.deepEqual(last("pages waited for"), { pages: 1 });
  });
});
