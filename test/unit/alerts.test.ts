/** Each alert of packaging/alerts.yml fires when it should, and only then: promtool plays them. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { repositoryRoot } from "../../src/kit/paths.ts";
import { parseAlerts } from "../support/alert-rules.ts";
import { requires } from "../support/requires.ts";
import { readRepositoryFile } from "../support/tree.ts";

const RULES = "packaging/alerts.yml";
/** Longer than any alert waits. */
const MINUTES = 70;

/** A series, and its value minute by minute: `1+2x70` begins at 1 and grows by 2. */
type Series = readonly (readonly [series: string, values: string])[];

/** All is well: busy, but nothing that anybody need look at. */
const healthy: Series = [
  ['up{job="faultline"}', `1x${MINUTES}`],
  ["faultline_build_info", `1x${MINUTES}`],
  ["faultline_takeovers_total", `3x${MINUTES}`],
  ['faultline_taken_over_vms_total{result="served"}', `0+1x${MINUTES}`],
  ['faultline_taken_over_vms_total{result="lost"}', `2x${MINUTES}`],
  ['faultline_sessions_ended_total{reason="exited"}', `0+9x${MINUTES}`],
  ['faultline_sessions_ended_total{reason="failed"}', `1x${MINUTES}`],
  ["faultline_vms_waiting", `0x${MINUTES}`],
  ['faultline_fault_workers{state="alive"}', `4x${MINUTES}`],
  ['faultline_fault_workers{state="started"}', `4x${MINUTES}`],
  ['faultline_fault_duration_seconds_bucket{le="0.1"}', `0+1000x${MINUTES}`],
  ['faultline_fault_duration_seconds_bucket{le="+Inf"}', `0+1001x${MINUTES}`],
  ['faultline_store_failures_total{store="s"}', `0+1x${MINUTES}`],
  ['faultline_store_requests_total{store="s",kind="read"}', `0+90x${MINUTES}`],
  ['faultline_store_requests_total{store="s",kind="write"}', `0+10x${MINUTES}`],
  ["faultline_cache_corrupt_total", `1x${MINUTES}`],
  ['faultline_sessions{state="attached"}', `80x${MINUTES}`],
  ['faultline_sessions{state="waiting"}', `5x${MINUTES}`],
  ["faultline_sessions_limit", `100x${MINUTES}`],
  ["process_open_fds", `500x${MINUTES}`],
  ["process_max_fds", `1000x${MINUTES}`],
  ["faultline_handshakes_refused_total", `7x${MINUTES}`],
  ["faultline_draining", `0x${MINUTES}`],
];

/** What is different when each of them has to fire; others that fire with it, too. */
const scenarios: Readonly<Record<string, { readonly series: Series; readonly also?: string[] }>> = {
  FaultlineDown: { series: [['up{job="faultline"}', `0x${MINUTES}`]] },
  FaultlineVmFailed: {
    series: [['faultline_sessions_ended_total{reason="failed"}', `0x60 1x${MINUTES}`]],
  },
  FaultlineVmLost: {
    series: [['faultline_taken_over_vms_total{result="lost"}', `0x60 1x${MINUTES}`]],
  },
  FaultlineVmsWait: { series: [["faultline_vms_waiting", `3x${MINUTES}`]] },
  FaultlinePagersDie: {
    series: [["faultline_takeovers_total", `0x60 1 2 3x${MINUTES}`]],
    also: ["FaultlinePagerDied"],
  },
  FaultlinePagerDied: { series: [["faultline_takeovers_total", `0x60 1x${MINUTES}`]] },
  FaultlineWorkersDead: { series: [['faultline_fault_workers{state="alive"}', `3x${MINUTES}`]] },
  FaultlineFaultsSlow: {
    series: [
      ['faultline_fault_duration_seconds_bucket{le="0.1"}', `0+1x${MINUTES}`],
      ['faultline_fault_duration_seconds_bucket{le="1"}', `0+1001x${MINUTES}`],
    ],
  },
  FaultlineStoreFails: {
    series: [['faultline_store_failures_total{store="s"}', `0+10x${MINUTES}`]],
  },
  FaultlineChunksDamaged: { series: [["faultline_cache_corrupt_total", `0x60 1x${MINUTES}`]] },
  FaultlineSessionsNearLimit: {
    series: [['faultline_sessions{state="attached"}', `90x${MINUTES}`]],
  },
  FaultlineDescriptorsShort: { series: [["process_open_fds", `950x${MINUTES}`]] },
  FaultlineHandshakesRefused: {
    series: [["faultline_handshakes_refused_total", `0x60 1x${MINUTES}`]],
  },
  FaultlineDrainForgotten: { series: [["faultline_draining", `1x${MINUTES}`]] },
};

function changed(series: Series): Series {
  const values = new Map([...healthy, ...series]);
  return [...values];
}

/** In promtool's words, and as JSON, which is YAML. */
function played(series: Series, firing: readonly string[]): object {
  return {
    interval: "1m",
    input_series: series.map(([name, values]) => ({ series: withHost(name), values })),
    promql_expr_test: [
      {
        expr: 'count by (alertname) (ALERTS{alertstate="firing"})',
        eval_time: "65m",
        exp_samples: firing.map((name) => ({ labels: `{alertname="${name}"}`, value: 1 })),
      },
    ],
  };
}

function withHost(series: string): string {
  return series.endsWith("}") ? series.replace("}", ',instance="h"}') : `${series}{instance="h"}`;
}

describe("alerts", () => {
  test("each has a scenario", () => {
    const names = parseAlerts(readRepositoryFile(RULES)).map(({ name }) => name);
    assert.deepEqual(Object.keys(scenarios), names);
  });

  test("fire when they should, says promtool", requires("promtool"), () => {
    const tests = Object.entries(scenarios).map(([name, { series, also = [] }]) =>
      played(changed(series), [name, ...also]),
    );
    const folder = mkdtempSync(join(tmpdir(), "faultline-alerts-"));
    try {
      const file = join(folder, "tests.yml");
      const rule_files = [join(repositoryRoot, RULES)];
      writeFileSync(file, JSON.stringify({ rule_files, tests: [played(healthy, []), ...tests] }));
      const { status, stdout, stderr } = spawnSync("promtool", ["test", "rules", file], {
        encoding: "utf8",
        timeout: 60_000,
      });
      assert.equal(status, 0, stdout + stderr);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
