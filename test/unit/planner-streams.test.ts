/** What scans are given ahead of their faults, and what they are not. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Streams } from "../../src/pager/streams.ts";
import { PlannerStage, type StageOptions } from "./planner-stage.ts";

const stageOf = (options: StageOptions): PlannerStage =>
  new PlannerStage({ maxStreamPages: 16, ...options });

/** Faults on each page that is not there, from `first` to `end`, one after the other. */
function scan(stage: PlannerStage, first: number, end: number): string[] {
  const lines: string[] = [];
  for (let page = first; page < end; page++) {
    if (stage.state(page) === "installed") continue;
    stage.fault(page);
    const plan = stage.plan();
    for (const [index, line] of plan.entries()) {
      lines.push(line);
      stage.settle(index, "installed");
    }
    stage.planner.finishPlan();
  }
  return lines;
}

describe("a scan", () => {
  test("is given more at each fault, up to the bound", () => {
    const stage = stageOf({ layers: ["#".repeat(64)] });
    assert.deepEqual(scan(stage, 0, 64), [
      ...["copy 0+1 of 0", "copy 1+2 of 0", "copy 3+4 of 0", "copy 7+8 of 0"],
      ...["copy 15+16 of 0", "copy 31+16 of 0", "copy 47+16 of 0", "copy 63+1 of 0"],
    ]);
  });

  test("of zeroes too", () => {
    const stage = stageOf({ layers: [".".repeat(8)] });
    assert.deepEqual(scan(stage, 0, 7), ["zero 0+1", "zero 1+2", "zero 3+4"]);
  });

  test("goes on beyond pages that are there, and never installs them again", () => {
    const stage = stageOf({ layers: ["#".repeat(32)] });
    stage.fault(9);
    stage.turn("installed");
    const lines = scan(stage, 0, 20);
    assert.deepEqual(lines.slice(0, 4), [
      ...["copy 0+1 of 0", "copy 1+2 of 0", "copy 3+4 of 0", "copy 7+2 of 0"],
    ]);
    assert.equal(lines[4], "copy 10+16 of 0", "it was the same scan");
  });

  test("ends at a removed page, at a region's end, and where another layer begins", () => {
    const removed = stageOf({ layers: ["#".repeat(16)] });
    removed.remove(5, 6);
    assert.deepEqual(scan(removed, 0, 5), ["copy 0+1 of 0", "copy 1+2 of 0", "copy 3+2 of 0"]);
    const regions = stageOf({ layers: ["#".repeat(16)], regionPages: [5, 11] });
    assert.equal(scan(regions, 0, 5).at(-1), "copy 3+2 of 0");
    const layers = stageOf({ layers: ["#".repeat(16), ".....###........"] });
    assert.equal(scan(layers, 0, 5).at(-1), "copy 3+2 of 0");
  });

  test("is one of several at the same time", () => {
    const stage = stageOf({ layers: ["#".repeat(200)] });
    const starts = Array.from({ length: 8 }, (_, thread) => thread * 25);
    for (const round of [0, 1, 3]) {
      stage.fault(...starts.map((start) => start + round));
      const pages = { 0: 1, 1: 2, 3: 4 }[round];
      assert.deepEqual(
        stage.plan(),
        starts.map((start) => `copy ${start + round}+${pages} of 0`),
      );
      for (const index of starts.keys()) stage.settle(index, "installed");
      stage.planner.finishPlan();
    }
  });

  test("that falls back on pages which had their bytes gets single zeroes", () => {
    const stage = stageOf({ layers: ["#".repeat(16)] });
    scan(stage, 0, 16);
    for (const page of [4, 5, 6]) {
      stage.fault(page);
      assert.deepEqual(stage.plan(), [`zero ${page}+1`]);
      stage.settle(0, "installed");
      stage.planner.finishPlan();
    }
  });
});

describe("what is brought ahead", () => {
  const begun = (): PlannerStage => {
    const stage = stageOf({ layers: ["#".repeat(32)] });
    scan(stage, 0, 3);
    stage.fault(3);
    assert.deepEqual(stage.plan(), ["copy 3+4 of 0"]);
    return stage;
  };

  test("shrinks to what is at hand, but never below what was demanded", () => {
    for (const [atHand, pages] of [
      [3, 3],
      [1, 1],
      [0, 1],
    ] as const) {
      const stage = begun();
      stage.planner.shrink(stage.actions, 0, atHand);
      assert.equal(stage.actions.pageCounts[0], pages);
      stage.settle(0, "installed");
      stage.planner.finishPlan();
      assert.equal(stage.state(3 + pages), "missing");
      stage.fault(3 + pages);
      assert.deepEqual(stage.plan(), [`copy ${3 + pages}+8 of 0`], "the scan goes on");
    }
  });

  test("is not kept when only a part of it could be installed", () => {
    const stage = begun();
    stage.settle(0, "partial", 2);
    assert.equal(stage.planner.finishPlan(), 0);
    assert.deepEqual(
      [3, 4, 5, 6].map((page) => stage.state(page)),
      [...["installed", "installed", "missing", "missing"]],
    );
  });

  test("is left out when the run does not fit the mapping", () => {
    const stage = begun();
    stage.settle(0, "unregistered");
    stage.planner.finishPlan();
    assert.deepEqual(stage.plan(), ["copy 3+1 of 0"]);
  });

  test("stays when the operation is put off", () => {
    const stage = begun();
    stage.settle(0, "deferred");
    stage.planner.finishPlan();
    assert.deepEqual(stage.plan(), ["copy 3+4 of 0"]);
  });

  test("reaches up to a page that is demanded too", () => {
    const stage = stageOf({ layers: ["#".repeat(32)] });
    scan(stage, 0, 3);
    stage.fault(3, 5);
    assert.deepEqual(stage.plan(), ["copy 3+3 of 0"]);
    assert.equal(stage.actions.aheadPages[0], 0, "nothing at its end");
  });
});

describe("faults that are no scan", () => {
  test("get their own page each, downwards and with a stride", () => {
    for (const pages of [
      [20, 19, 18, 17],
      [0, 2, 4, 6, 8],
    ]) {
      const stage = stageOf({ layers: ["#".repeat(32)] });
      for (const page of pages) {
        stage.fault(page);
        assert.deepEqual(stage.plan(), [`copy ${page}+1 of 0`]);
        stage.settle(0, "installed");
        stage.planner.finishPlan();
      }
    }
  });

  test("with streams switched off, nor does a scan get more", () => {
    const stage = new PlannerStage({ layers: ["#".repeat(4)] });
    assert.deepEqual(scan(stage, 0, 3), ["copy 0+1 of 0", "copy 1+1 of 0", "copy 2+1 of 0"]);
  });

  test("drive out a scan that is silent for long, and no other", () => {
    const streams = new Streams(16);
    streams.observe(0);
    streams.observe(1);
    for (let other = 1; other <= 15; other++) streams.observe(other * 1000);
    assert.equal(streams.pagesFrom(1), 2, "it is still known");
    streams.observe(100_000);
    assert.equal(streams.pagesFrom(1), 1, "it had to give way");
  });
});
