/** What faults and removes lead to: which pages go into one action, and which content they get. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { HUGE_PAGE_BYTES, SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { ACTION_CAPACITY } from "../../src/pager/actions.ts";
import { PageTable } from "../../src/pager/page-table.ts";
import { Planner, QUEUE_CAPACITY } from "../../src/pager/planner.ts";
import { flattenLayers } from "../../src/snapshot/layers.ts";
import { PlannerStage } from "./planner-stage.ts";

const data = (pages: number): string => "#".repeat(pages);

describe("merging", () => {
  test("one fault is one page", () => {
    const stage = new PlannerStage({ layers: [data(8)] });
    assert.equal(stage.fault(5), "first");
    assert.deepEqual(stage.plan(), ["copy 5+1 of 0"]);
  });

  test("neighbours of one source are one copy, whatever order they came in", () => {
    const stage = new PlannerStage({ layers: [data(8)] });
    stage.fault(4, 2, 3, 6, 5);
    assert.deepEqual(stage.plan(), ["copy 2+5 of 0"]);
  });

  test("a gap ends a run: nobody asked for that page", () => {
    const stage = new PlannerStage({ layers: [data(8)] });
    stage.fault(0, 1, 3, 4);
    assert.deepEqual(stage.plan(), ["copy 0+2 of 0", "copy 3+2 of 0"]);
  });

  test("pages of different layers are different copies", () => {
    const stage = new PlannerStage({ layers: ["##....", "..##..", "....##"] });
    stage.fault(0, 1, 2, 3, 4, 5);
    assert.deepEqual(stage.plan(), ["copy 0+2 of 0", "copy 2+2 of 1", "copy 4+2 of 2"]);
  });

  test("zero and data pages are different actions", () => {
    const stage = new PlannerStage({ layers: ["#..#"] });
    stage.fault(0, 1, 2, 3);
    assert.deepEqual(stage.plan(), ["copy 0+1 of 0", "zero 1+2", "copy 3+1 of 0"]);
  });

  test("zeroes of holes and of removed pages are one action", () => {
    const stage = new PlannerStage({ layers: ["..##"] });
    stage.remove(2, 4);
    stage.fault(0, 1, 2, 3);
    assert.deepEqual(stage.plan(), ["zero 0+4"]);
  });

  test("a run ends with its region: in host memory the next one is elsewhere", () => {
    const stage = new PlannerStage({ layers: ["####..##"], regionPages: [2, 3, 3] });
    stage.fault(0, 1, 2, 3, 4, 5, 6, 7);
    assert.deepEqual(stage.plan(), [
      "copy 0+2 of 0",
      "copy 2+2 of 0",
      "zero 4+1",
      "zero 5+1",
      "copy 6+2 of 0",
    ]);
  });

  test("no run is longer than allowed", () => {
    const stage = new PlannerStage({ layers: [data(7)], maxRunPages: 3 });
    stage.fault(0, 1, 2, 3, 4, 5, 6);
    assert.deepEqual(stage.plan(), ["copy 0+3 of 0", "copy 3+3 of 0", "copy 6+1 of 0"]);
  });

  test("a page that several layers share is assembled by itself", () => {
    const layers = ["####..##", ".#.#...#"];
    const stage = new PlannerStage({ layers, partsPerPage: 2, pageSizeBytes: HUGE_PAGE_BYTES });
    stage.fault(0, 1, 2, 3);
    assert.deepEqual(stage.plan(), ["assemble 0+1", "assemble 1+1", "zero 2+1", "assemble 3+1"]);
  });

  test("a page that is half base, half hole, is the base's, whose mapping has the zeroes", () => {
    const layers = ["#..#", "...."];
    const stage = new PlannerStage({ layers, partsPerPage: 2, pageSizeBytes: HUGE_PAGE_BYTES });
    stage.fault(0, 1);
    assert.deepEqual(stage.plan(), ["copy 0+2 of 0"]);
  });
});

describe("what a page gets", () => {
  test("snapshot bytes once; if it faults again after that, zeroes", () => {
    const stage = new PlannerStage({ layers: [data(2)] });
    stage.fault(0);
    assert.deepEqual(stage.turn("installed"), ["done"]);
    assert.equal(stage.state(0), "installed");
    assert.equal(stage.fault(0), "queued");
    assert.deepEqual(stage.plan(), ["zero 0+1"]);
  });

  test("a REMOVE in the same drain wins over a fault that was read before it", () => {
    const stage = new PlannerStage({ layers: [data(4)] });
    stage.fault(1, 2);
    assert.equal(stage.remove(0, 2), 2);
    assert.deepEqual(stage.plan(), ["zero 1+1", "copy 2+1 of 0"]);
  });

  test("a REMOVE that is read before a fault wins too", () => {
    const stage = new PlannerStage({ layers: [data(4)] });
    stage.remove(0, 2);
    stage.fault(1, 2);
    assert.deepEqual(stage.plan(), ["zero 1+1", "copy 2+1 of 0"]);
  });

  test("a REMOVE wins over a fault of an earlier drain that had to wait", () => {
    const stage = new PlannerStage({ layers: [data(4)] });
    stage.fault(1);
    assert.deepEqual(stage.turn("deferred"), ["retry"]);
    stage.remove(1, 2);
    assert.deepEqual(stage.plan(), ["zero 1+1"]);
  });

  test("removed is for ever: zero-filled, dropped and touched again, it is zero again", () => {
    const stage = new PlannerStage({ layers: [data(2)] });
    stage.remove(0, 1);
    for (let round = 0; round < 5; round++) {
      assert.equal(stage.fault(0), "queued");
      assert.deepEqual(stage.plan(), ["zero 0+1"], `round ${round}`);
      assert.equal(stage.settle(0, "installed"), "done");
      assert.equal(stage.planner.finishPlan(), 0);
      assert.equal(stage.state(0), "removed");
    }
  });

  test("no outcome turns a removed page into anything else", () => {
    for (const outcome of ["alreadyPresent", "unregistered", "deferred", "outOfMemory"] as const) {
      const stage = new PlannerStage({ layers: [data(1)] });
      stage.remove(0, 1);
      stage.fault(0);
      stage.turn(outcome);
      assert.equal(stage.state(0), "removed", outcome);
    }
  });

  test("a page that was installed and then removed is zero", () => {
    const stage = new PlannerStage({ layers: [data(1)] });
    stage.fault(0);
    stage.turn("installed");
    assert.equal(stage.remove(0, 1), 1);
    assert.equal(stage.state(0), "removed");
    stage.fault(0);
    assert.deepEqual(stage.plan(), ["zero 0+1"]);
  });
});

describe("remove", () => {
  const threeRegions = (): PlannerStage =>
    new PlannerStage({ layers: [data(9)], regionPages: [3, 3, 3] });

  test("counts the pages, and leaves those around alone", () => {
    const stage = threeRegions();
    assert.equal(stage.remove(1, 3), 2);
    const states = Array.from({ length: 9 }, (_, page) => stage.state(page));
    assert.deepEqual(new Set(states.splice(1, 2)), new Set(["removed"]));
    assert.deepEqual(new Set(states), new Set(["missing"]));
  });

  test("of more than a region is cut to it; of nothing we serve, it is nothing", () => {
    const stage = threeRegions();
    const base = stage.regions.baseOf(1);
    const page = SMALL_PAGE_BYTES;
    assert.equal(stage.planner.remove(base - 100 * page, base + page), 1);
    assert.equal(stage.planner.remove(base + 2 * page, base + 100 * page), 1);
    assert.equal(stage.planner.remove(base + 3 * page, base + 4 * page), 0);
    assert.equal(stage.planner.remove(base + page, base + page), 0);
    assert.deepEqual(
      [3, 4, 5, 6].map((page) => stage.state(page)),
      ["removed", "missing", "removed", "missing"],
    );
  });

  test("of the whole address space takes every region", () => {
    assert.equal(threeRegions().planner.remove(0, 2 ** 47), 9);
  });

  test("of a part of a huge page is no remove: the kernel drops it as a whole or not", () => {
    const stage = new PlannerStage({ layers: [data(4)], pageSizeBytes: HUGE_PAGE_BYTES });
    const at = (pages: number): number => stage.addressOf(0) + pages * HUGE_PAGE_BYTES;
    assert.equal(stage.planner.remove(at(0.25), at(0.75)), 0);
    assert.equal(stage.planner.remove(at(0.5), at(1.5)), 0);
    assert.equal(stage.planner.remove(at(0.5), at(2.5)), 1);
    assert.deepEqual(
      [0, 1, 2, 3].map((page) => stage.state(page)),
      ["missing", "removed", "missing", "missing"],
    );
  });
});

describe("the queue", () => {
  test("a fault on a page that waits already is known, not queued again", () => {
    const stage = new PlannerStage({ layers: [data(4)] });
    stage.fault(2);
    assert.equal(stage.fault(2), "known");
    assert.equal(stage.planner.queuedPages, 1);
    assert.deepEqual(stage.plan(), ["copy 2+1 of 0"]);
  });

  test("two threads on one removed or lost page lead to one action", () => {
    const stage = new PlannerStage({ layers: [data(4)] });
    stage.fault(3);
    stage.turn("installed");
    stage.remove(1, 2);
    stage.fault(1, 3, 1, 3);
    assert.deepEqual(stage.plan(), ["zero 1+1", "zero 3+1"]);
    assert.deepEqual(
      [stage.settle(0, "installed"), stage.settle(1, "installed")],
      ["done", "done"],
    );
    assert.equal(stage.planner.finishPlan(), 0);
  });

  test("a page may be asked for by any byte of it", () => {
    const stage = new PlannerStage({ layers: [data(4)] });
    assert.equal(stage.planner.fault(stage.addressOf(1) + 4095), "first");
    assert.equal(stage.planner.fault(stage.addressOf(1) + 17), "known");
    assert.deepEqual(stage.plan(), ["copy 1+1 of 0"]);
  });

  test("an address outside of every region is said to be", () => {
    const stage = new PlannerStage({ layers: [data(4)], regionPages: [2, 2] });
    for (const address of [0, stage.regions.baseOf(0) - 1, stage.regions.endOf(1)]) {
      assert.equal(stage.planner.fault(address), "outside");
    }
    assert.equal(stage.planner.queuedPages, 0);
  });

  test("what exceeds its bound is turned away without a trace", () => {
    const stage = new PlannerStage({ layers: [data(QUEUE_CAPACITY + 1)] });
    for (let page = 0; page < QUEUE_CAPACITY; page++) assert.equal(stage.fault(page), "first");
    assert.equal(stage.fault(QUEUE_CAPACITY), "overflow");
    assert.equal(stage.fault(0), "known");
    assert.equal(stage.state(QUEUE_CAPACITY), "missing");
    stage.turn("installed");
    stage.turn("installed");
    assert.equal(stage.planner.queuedPages, 0);
    stage.fault(QUEUE_CAPACITY);
    assert.deepEqual(stage.plan(), [`copy ${QUEUE_CAPACITY}+1 of 0`]);
  });

  test("what exceeds one plan waits for the next", () => {
    const pages = 4 * ACTION_CAPACITY;
    const stage = new PlannerStage({ layers: [data(pages)] });
    for (let page = 0; page < pages; page += 2) stage.fault(page);
    assert.equal(stage.turn("installed").length, ACTION_CAPACITY);
    assert.equal(stage.planner.queuedPages, ACTION_CAPACITY);
    assert.equal(stage.plan()[0], `copy ${2 * ACTION_CAPACITY}+1 of 0`);
  });

  test("what exceeds the pages of a plan is first in the next, even before lower pages", () => {
    const stage = new PlannerStage({ layers: [data(20)] });
    stage.fault(8, 9, 11, 13, 15);
    assert.deepEqual(stage.plan(3), ["copy 8+2 of 0", "copy 11+1 of 0"]);
    for (const index of [0, 1]) stage.settle(index, "installed");
    assert.equal(stage.planner.finishPlan(), 2);
    stage.fault(1, 2, 14);
    assert.deepEqual(stage.plan(4), ["copy 13+3 of 0", "copy 1+2 of 0"]);
    for (const index of [0, 1]) stage.settle(index, "installed");
    assert.equal(stage.planner.finishPlan(), 0);
    stage.fault(5, 3);
    assert.deepEqual(stage.plan(4), ["copy 3+1 of 0", "copy 5+1 of 0"]);
  });

  test("one run of pages may exceed what is left", () => {
    const stage = new PlannerStage({ layers: [data(4)] });
    stage.fault(0, 1, 2);
    assert.deepEqual(stage.plan(1), ["copy 0+3 of 0"]);
  });

  test("many faults in any order come out in page order", () => {
    const stage = new PlannerStage({ layers: [data(1000)], maxRunPages: 1000 });
    for (let index = 0; index < 1000; index++) stage.fault((index * 7919) % 1000);
    assert.deepEqual(stage.plan(), ["copy 0+1000 of 0"]);
  });

  test("nothing queued is an empty plan", () => {
    const stage = new PlannerStage({ layers: [data(4)] });
    assert.deepEqual(stage.plan(), []);
    assert.equal(stage.planner.finishPlan(), 0);
  });

  test("a page table smaller than the regions is our own bug", () => {
    const { regions } = new PlannerStage({ layers: [data(4)] });
    const table = new PageTable(3, new Uint8Array(1));
    const runs = flattenLayers(regions.totalBytes, [[]]);
    assert.throws(() => new Planner({ regions, runs, table, maxRunPages: 1, maxStreamPages: 0 }), {
      name: "AssertionError",
    });
  });
});
