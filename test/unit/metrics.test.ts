/** Metrics as text: the format, the histograms, and every metric of the table with every label. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { describe, test } from "node:test";
import { bucketFloorNs, Durations } from "../../src/base/histogram.ts";
import { type TallyName, tallyNames } from "../../src/daemon/host-tally.ts";
import {
  cumulative,
  faultBoundsNs,
  isExact,
  storeBoundsNs,
} from "../../src/daemon/metrics/buckets.ts";
import { renderMetrics } from "../../src/daemon/metrics/metrics.ts";
import { type Metric, metrics } from "../../src/daemon/metrics/table.ts";
import { MetricText } from "../../src/daemon/metrics/text.ts";
import { hostNumbers, LEFT_OUT_VMS, surroundings } from "../support/host-numbers.ts";
import { parseMetrics, type Sample } from "../support/metrics-text.ts";
import { requires } from "../support/requires.ts";

const table = Object.entries(metrics) as [string, Metric][];
const whole = renderMetrics(hostNumbers(), surroundings, true);

function sampleValue(samples: readonly Sample[], name: string, labels: object = {}): number {
  const found = samples.filter(
    (each) =>
      each.name === name &&
      Object.entries(labels).every(([label, value]) => each.labels[label] === value),
  );
  assert.equal(found.length, 1, `${name} ${JSON.stringify(labels)}`);
  return found[0]!.value;
}

describe("every metric of the table", () => {
  const parsed = parseMetrics(whole);

  test("is told, with its type and help, and no other is", () => {
    const told = [...parsed.families].map(([name, { type, help }]) => [name, type, help]);
    assert.deepEqual(
      told,
      table.map(([name, { type, help }]) => [name, type, help]),
    );
  });

  for (const [name, { labels = {}, type }] of table) {
    test(`${name} has its labels, and every value of them`, () => {
      const seen = new Map<string, Set<string>>();
      for (const sample of parsed.families.get(name)!.samples) {
        const { le, ...others } = sample.labels;
        assert.equal(le !== undefined, sample.name === `${name}_bucket`);
        assert.deepEqual(Object.keys(others).sort(), Object.keys(labels).sort());
        for (const [label, value] of Object.entries(others)) {
          seen.set(label, (seen.get(label) ?? new Set()).add(value));
        }
      }
      for (const [label, values] of Object.entries(labels)) {
        if (values !== null) assert.deepEqual([...seen.get(label)!].sort(), [...values].sort());
      }
      assert.equal(name.endsWith("_total"), type === "counter", "a counter's name ends in _total");
    });
  }

  test("is none of a single VM's unless that is asked for", () => {
    const names = [
      ...parseMetrics(renderMetrics(hostNumbers(), surroundings, false)).families.keys(),
    ];
    const expected = table.flatMap(([name, { isPerSession }]) => (isPerSession ? [] : [name]));
    assert.deepEqual(names, expected);
  });

  test("that there is tells all that is counted over VMs and pagers", () => {
    const asked = new Set<string>();
    const numbers = hostNumbers(1);
    const get = (name: TallyName): number => {
      asked.add(name);
      return 0;
    };
    renderMetrics({ ...numbers, tally: { ...numbers.tally, get } }, surroundings, false);
    assert.deepEqual([...asked].sort(), [...tallyNames].sort());
  });

  test("passes promtool", requires("promtool"), () => {
    const { status, stdout, stderr } = spawnSync("promtool", ["check", "metrics"], {
      input: whole,
      encoding: "utf8",
      timeout: 20_000,
    });
    // It also has opinions about names: exit code 3.
    assert.equal(status, 0, stdout + stderr);
  });
});

describe("numbers", () => {
  const { samples } = parseMetrics(whole);

  test("of VMs that have ended and of live ones are added up", () => {
    // By support/host-numbers.ts: 10 faults that have ended, and VM n has n + 1.
    const live = (300 * 301) / 2;
    assert.equal(sampleValue(samples, "faultline_faults_total"), 10 + live);
    assert.equal(sampleValue(samples, "faultline_fault_duration_seconds_count"), 10 + live);
    const bytes = sampleValue(samples, "faultline_installed_bytes_total", { content: "snapshot" });
    assert.equal(bytes, 10 * 4096 + live * 2 ** 21);
  });

  test("of single VMs are bounded, and the rest is told of", () => {
    assert.equal(sampleValue(samples, "faultline_sessions_left_out"), LEFT_OUT_VMS);
    assert.equal(sampleValue(samples, "faultline_session_faults_total", { session: "vm-7" }), 8);
    const each = samples.filter(({ name }) => name === "faultline_session_faults_total");
    assert.equal(each.length, 256);
  });

  test("that are no numbers are a bug", () => {
    assert.throws(() => new MetricText().add("faultline_draining", {}, Number.NaN), /NaN/);
  });

  test("have labels of any text", () => {
    const text = new MetricText();
    const store = 's3://a"b\\c\nd';
    text.add("faultline_store_retries_total", { store }, 1);
    assert.equal(parseMetrics(text.toString()).samples[0]?.labels.store, store);
  });
});

describe("histograms", () => {
  test("have bounds that are bounds of ours", () => {
    for (const bound of [...faultBoundsNs, ...storeBoundsNs]) assert.ok(isExact(bound), `${bound}`);
  });

  test("count each duration once, below the right bound", () => {
    const durations = new Durations();
    const us = [0, 0.9, 1.1, 3, 3.1, 700, 5e6, 1e9];
    for (const each of us) durations.add(each);
    const buckets = cumulative(durations, faultBoundsNs);
    assert.deepEqual(buckets.at(-1), { le: "+Inf", count: us.length });
    for (const { le, count } of buckets.slice(0, -1)) {
      assert.equal(count, us.filter((each) => each / 1e6 < Number(le)).length, le);
    }
    assert.equal(
      durations.totalUs,
      us.reduce((sum, each) => sum + each),
    );
  });

  test("put what fits no bound into the last one", () => {
    const durations = new Durations();
    durations.add(bucketFloorNs(463) / 1000);
    assert.deepEqual(
      cumulative(durations, [1024]).map(({ count }) => count),
      [0, 1],
    );
  });
});
