/** Numbers, rates, causes, routes and lists, as the dashboard tells them. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { waitSentence } from "../../dashboard/cause-words.ts";
import {
  formatAge,
  formatMicroseconds,
  formatRate,
  formatShare,
  plural,
} from "../../dashboard/formats.ts";
import { barFloorUs, LATENCY_BARS, LatencyWindow } from "../../dashboard/latency.ts";
import { OverviewModel } from "../../dashboard/overview-model.ts";
import { ageColour, pixel, stateTable } from "../../dashboard/palette.ts";
import { RateMeter, TimeSeries } from "../../dashboard/rates.ts";
import { hashOfVm, parseHash } from "../../dashboard/route.ts";
import { matches, ordered } from "../../dashboard/session-order.ts";
import { bucketOf } from "../../src/base/histogram.ts";
import { Cell, cellByte, cellKinds } from "../../src/daemon/dashboard/protocol.ts";
import { numbersOf, overviewOf, sessionRow } from "../support/scripted-dashboard.ts";

describe("formats", () => {
  test("durations", () => {
    const told = [0, 7, 12.34, 999.4, 999.6, 1234, 999_600, 61e6].map(formatMicroseconds);
    const expected = ["0 µs", "7 µs", "12.3 µs", "999 µs", "1 ms", "1.23 ms", "1 s", "1 min 1 s"];
    assert.deepEqual(told, expected);
    assert.deepEqual([59_999, 120_000, 3_720_000, 90_000_000].map(formatAge), [
      "59 s",
      "2 min",
      "1 h 2 min",
      "1 d 1 h",
    ]);
  });

  test("rates, shares and counts", () => {
    const rates = [0, 0.4, 12.3, 12_345, 2_500_000].map(formatRate);
    assert.deepEqual(rates, ["0/s", "0.4/s", "12/s", "12.3 k/s", "2.5 M/s"]);
    assert.deepEqual([0, 0.004, 0.456, 0.996, 1].map(formatShare), [
      "0 %",
      "< 1 %",
      "46 %",
      "99 %",
      "100 %",
    ]);
    assert.deepEqual([plural(1, "page"), plural(12_345, "page")], ["1 page", "12,345 pages"]);
  });
});

describe("rates", () => {
  test("are what came in the last two seconds, and fall to nothing", () => {
    const meter = new RateMeter();
    for (let ms = 0; ms <= 4000; ms += 500) meter.add(ms, ms);
    assert.equal(meter.at(4000), 1000);
    assert.equal(meter.at(5000), 500);
    assert.equal(meter.at(9000), 0);
  });

  test("begin anew with another daemon", () => {
    const meter = new RateMeter();
    meter.add(0, 1_000_000);
    meter.add(500, 10);
    assert.equal(meter.at(500), 0);
  });

  test("are plotted for a bounded time", () => {
    const series = new TimeSeries(2, 3);
    for (let second = 1; second <= 5; second++) series.add(second, [second, -second]);
    series.add(5, [9, 9]);
    assert.deepEqual(
      [series.timesS, series.values],
      [
        [3, 4, 5],
        [
          [3, 4, 5],
          [-3, -4, -5],
        ],
      ],
    );
  });
});

describe("latencies", () => {
  test("of the last ten seconds are a difference", () => {
    const window = new LatencyWindow();
    const fast = bucketOf(10_000);
    const slow = bucketOf(1_000_000);
    window.add(0, [[fast, 1000]]);
    window.add(5000, [
      [fast, 1000],
      [slow, 10],
    ]);
    assert.ok(Math.abs(window.ever().p50Us - 10) < 1);
    assert.ok(Math.abs(window.recent(5000).p50Us - 1000) < 50);
    assert.equal(window.recent(5000).count, 10);
    const bar = window.recent(5000).bars.indexOf(1);
    assert.ok(barFloorUs(bar) <= 1000 && barFloorUs(bar + 1) > 1000, String(bar));
    for (const atMs of [16_000, 27_000])
      window.add(atMs, [
        [fast, 1000],
        [slow, 10],
      ]);
    assert.equal(window.recent(27_000).count, 0);
    assert.equal(window.ever().bars.length, LATENCY_BARS);
  });

  test("are no recent ones any more when nobody tells of others", () => {
    const window = new LatencyWindow();
    const fast = bucketOf(10_000);
    window.add(0, [[fast, 1000]]);
    assert.equal(window.recent(0).count, 0, "who knows when they were");
    window.add(5000, [[fast, 1007]]);
    assert.equal(window.recent(14_900).count, 7);
    assert.equal(window.recent(15_000).count, 0);
    window.add(60_000, [[fast, 1008]]);
    assert.equal(window.recent(60_000).count, 1);
  });
});

describe("causes", () => {
  test("are told in one sentence, the dearest first, without the guest's own time", () => {
    const { causes } = numbersOf();
    assert.equal(waitSentence(causes), "Waited for nothing yet.");
    const times = { ...causes, guest: 9e9, store: 641_000, decode: 97_000, install: 74_000 };
    assert.equal(waitSentence(times), "Waited 812 ms: store 79 %, decode 12 %, install 9 %.");
  });
});

describe("routes", () => {
  test("a token is none, and no route is taken for a token", () => {
    assert.deepEqual(parseHash(""), { kind: "overview" });
    assert.deepEqual(parseHash("#/"), { kind: "overview" });
    assert.deepEqual(parseHash(hashOfVm("web-1")), { kind: "vm", id: "web-1" });
    assert.deepEqual(parseHash("#/vm/../../x"), { kind: "overview" });
    const token = "s3cr3t_-A";
    assert.deepEqual(parseHash(`#${token}`), { kind: "token", token, opensFirst: false });
    assert.deepEqual(parseHash(`#${token}/first`), { kind: "token", token, opensFirst: true });
  });
});

describe("the list", () => {
  const rows = [
    sessionRow("vm-10", 100, { p99Us: 5, labels: { tenant: "acme" } }),
    sessionRow("vm-9", 100, { p99Us: 7, memory: "s3://b/Ubuntu", waitsFor: "a lost chunk" }),
  ].map((row) => ({ row, faultsPerSecond: 0 }));
  const ids = (isDescending: boolean, key: "id" | "p99"): string[] =>
    ordered(rows, { key, isDescending }).map(({ row }) => row.id);

  test("counts as people do", () => {
    assert.deepEqual(ids(false, "id"), ["vm-9", "vm-10"]);
    assert.deepEqual(ids(true, "p99"), ["vm-9", "vm-10"]);
    assert.deepEqual(ids(false, "p99"), ["vm-10", "vm-9"]);
  });

  test("is filtered by words of id, image, state, labels and trouble", () => {
    const found = (filter: string): string[] =>
      rows.filter(({ row }) => matches(row, filter)).map(({ row }) => row.id);
    assert.deepEqual(found(""), ["vm-10", "vm-9"]);
    assert.deepEqual(found("TENANT=acme"), ["vm-10"]);
    assert.deepEqual(found("ubuntu attached"), ["vm-9"]);
    assert.deepEqual(found("lost"), ["vm-9"]);
    assert.deepEqual(found("ubuntu ended"), []);
  });
});

describe("the overview", () => {
  test("takes rows that change, forgets those that go, and begins anew with a snapshot", () => {
    const model = new OverviewModel();
    model.update({ sessions: [sessionRow("early", 1)] }, 0);
    assert.equal(model.sessionCount, 0);
    model.replace(overviewOf([sessionRow("a", 100), sessionRow("b", 100)]), 0);
    model.update({ sessions: [sessionRow("a", 100, { faults: 2000 })], gone: ["b"] }, 2000);
    assert.deepEqual(
      model.listed(2000).map(({ row, faultsPerSecond }) => [row.id, faultsPerSecond]),
      [["a", 1000]],
    );
    model.replace(overviewOf([sessionRow("c", 100)]), 3000);
    assert.deepEqual(
      model.listed(3000).map(({ row }) => row.id),
      ["c"],
    );
  });
});

describe("colours", () => {
  const lightness = (value: number): number =>
    0.2126 * (value & 255) + 0.7152 * ((value >>> 8) & 255) + 0.0722 * ((value >>> 16) & 255);

  test("of kinds differ from each other, also for those who see no colours but untouched", () => {
    for (const theme of ["light", "dark"] as const) {
      const table = stateTable(theme);
      const told = cellKinds.map((kind) => table[cellByte(Cell[kind], 15)]!);
      assert.equal(new Set(told).size, cellKinds.length);
      const ground = lightness(table[Cell.untouched]!);
      for (const kind of [
        "pending",
        "present",
        "zero",
        "prefaulted",
        "removed",
        "dirty",
      ] as const) {
        const full = lightness(table[cellByte(Cell[kind], 15)]!);
        assert.ok(Math.abs(full - ground) > 30, `${theme} ${kind}`);
      }
    }
  });

  test("of ages only grow lighter", () => {
    const steps = Array.from({ length: 50 }, (_, step) => lightness(pixel(ageColour(step / 49))));
    for (const [index, step] of steps.entries()) {
      if (index > 0) assert.ok(step >= steps[index - 1]!, String(index));
    }
  });
});
