/** Pages whose bytes are not here yet: they wait apart, and nothing waits for them. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { QUEUE_CAPACITY } from "../../src/pager/planner.ts";
import { PlannerStage } from "./planner-stage.ts";

/** Plans, parks every action with this owner, and has everything else installed. */
function turn(stage: PlannerStage, absentOwner: number): string[] {
  const lines = stage.plan();
  for (const index of lines.keys()) {
    if (stage.actions.owners[index] === absentOwner && lines[index]!.startsWith("copy")) {
      stage.planner.park(stage.actions, index, absentOwner);
    } else stage.settle(index, "installed");
  }
  stage.planner.finishPlan();
  return lines;
}

describe("a parked page", () => {
  test("of many that wait for one part, those are planned first that waited longest", () => {
    const stage = new PlannerStage({ layers: [".#.#.#.#"] });
    for (const page of [7, 3, 5]) {
      stage.fault(page);
      turn(stage, 0);
    }
    assert.equal(stage.planner.unpark(0, 2), 2);
    assert.equal(stage.planner.isParked(0), true);
    assert.deepEqual(turn(stage, -9), ["copy 3+1 of 0", "copy 7+1 of 0"]);
    assert.equal(stage.planner.unpark(0), 1);
    assert.equal(stage.planner.isParked(0), false);
    assert.equal(stage.planner.unpark(0), 0);
  });

  test("is not planned again until its bytes are here; others go on meanwhile", () => {
    const stage = new PlannerStage({ layers: ["####", "..##"] });
    stage.fault(0, 1, 2, 3);
    assert.deepEqual(turn(stage, 1), ["copy 0+2 of 0", "copy 2+2 of 1"]);
    assert.equal(stage.planner.queuedPages, 0);
    assert.equal(stage.planner.parkedPages, 2);
    assert.deepEqual(turn(stage, 1), []);
    stage.planner.unpark(1);
    assert.equal(stage.planner.parkedPages, 0);
    assert.deepEqual(turn(stage, -9), ["copy 2+2 of 1"]);
    assert.equal(stage.state(2), "installed");
  });

  test("waits for its own bytes only", () => {
    const stage = new PlannerStage({ layers: ["##", ".#"] });
    stage.fault(0, 1);
    stage.plan();
    stage.planner.park(stage.actions, 0, 0);
    stage.planner.park(stage.actions, 1, 1);
    stage.planner.finishPlan();
    stage.planner.unpark(1);
    assert.deepEqual(stage.waiting(), ["copy 1+1 of 1"]);
    assert.equal(stage.planner.parkedPages, 1);
  });

  test("is known if it faults again", () => {
    const stage = new PlannerStage({ layers: ["##"] });
    stage.fault(1);
    turn(stage, 0);
    assert.equal(stage.fault(1), "known");
    assert.equal(stage.planner.queuedPages, 0);
  });

  test("waits no longer once it is removed: it is zero, whatever its bytes were", () => {
    const stage = new PlannerStage({ layers: ["####"] });
    stage.fault(1, 2, 3);
    turn(stage, 0);
    stage.remove(2, 3);
    assert.deepEqual(turn(stage, 0), ["zero 2+1"]);
    assert.equal(stage.planner.parkedPages, 2);
    stage.planner.unpark(0);
    assert.deepEqual(turn(stage, -9), ["copy 1+1 of 0", "copy 3+1 of 0"]);
  });

  test("may be parked again, for another owner: a page of several parts waits for each", () => {
    const stage = new PlannerStage({ layers: ["####", "#.#."], partsPerPage: 2 });
    stage.fault(0);
    for (const owner of [0, 1]) {
      assert.deepEqual(stage.plan(), ["assemble 0+1"]);
      stage.planner.park(stage.actions, 0, owner);
      stage.planner.finishPlan();
      stage.planner.unpark(owner);
    }
    assert.deepEqual(stage.turn("installed"), ["done"]);
    assert.equal(stage.state(0), "installed");
  });

  test("counts against the bound of the queue", () => {
    const stage = new PlannerStage({ layers: ["#".repeat(QUEUE_CAPACITY + 2)] });
    for (let page = 0; page < QUEUE_CAPACITY; page++) stage.fault(page);
    turn(stage, 0);
    while (stage.planner.queuedPages > 0) turn(stage, 0);
    assert.equal(stage.planner.parkedPages, QUEUE_CAPACITY);
    assert.equal(stage.fault(QUEUE_CAPACITY), "overflow");
    stage.planner.unpark(0);
    assert.equal(stage.planner.queuedPages, QUEUE_CAPACITY);
    turn(stage, -9);
    assert.equal(stage.fault(QUEUE_CAPACITY), "first");
  });
});
