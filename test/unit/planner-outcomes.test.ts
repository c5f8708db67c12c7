/** What each result of the kernel does to the pages of an action, and to those after it. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Outcome } from "../../src/base/outcome.ts";
import { HUGE_PAGE_BYTES } from "../../src/base/units.ts";
import { type Settlement, STREAK_LIMIT } from "../../src/pager/planner.ts";
import { PlannerStage } from "./planner-stage.ts";

const data = (pages: number): string => "#".repeat(pages);
const stageOf = (pages: number): PlannerStage => new PlannerStage({ layers: [data(pages)] });
const hugeStageOf = (pages: number): PlannerStage =>
  new PlannerStage({ layers: [data(pages)], pageSizeBytes: HUGE_PAGE_BYTES });

/** The states of pages 0 to `pages`, one letter each: missing, pending, installed, removed. */
const states = (stage: PlannerStage, pages: number): string =>
  Array.from({ length: pages }, (_, page) => stage.state(page)[0]).join("");

describe("installed", () => {
  test("marks the whole run and empties the queue", () => {
    const stage = stageOf(4);
    stage.fault(0, 1, 2);
    assert.deepEqual(stage.turn("installed"), ["done"]);
    assert.equal(states(stage, 4), "iiim");
    assert.equal(stage.planner.queuedPages, 0);
  });
});

describe("partial", () => {
  test("marks what was done and keeps the rest", () => {
    const stage = stageOf(5);
    stage.fault(0, 1, 2, 3, 4);
    stage.plan();
    assert.equal(stage.settle(0, "partial", 3), "retry");
    assert.equal(stage.planner.finishPlan(), 2);
    assert.equal(states(stage, 5), "iiipp");
    assert.deepEqual(stage.plan(), ["copy 3+2 of 0"]);
  });

  test("the rest meets the true result with the next call", () => {
    const stage = stageOf(3);
    stage.fault(0, 1, 2);
    stage.plan();
    stage.settle(0, "partial", 1);
    stage.planner.finishPlan();
    assert.deepEqual(stage.turn("alreadyPresent"), ["wake"]);
    assert.equal(states(stage, 3), "imp");
    assert.deepEqual(stage.turn("installed"), ["done"]);
    assert.equal(states(stage, 3), "imi");
  });

  test("less than a page is nothing", () => {
    const stage = hugeStageOf(2);
    stage.fault(0, 1);
    stage.plan();
    assert.equal(stage.planner.settle(stage.actions, 0, "partial", 4096), "retry");
    assert.equal(stage.planner.finishPlan(), 2);
    assert.equal(states(stage, 2), "pp");
  });
});

describe("alreadyPresent", () => {
  test("wakes the first page, does not mark it installed, and keeps the others", () => {
    const stage = stageOf(3);
    stage.fault(0, 1, 2);
    assert.deepEqual(stage.turn("alreadyPresent"), ["wake"]);
    assert.equal(states(stage, 3), "mpp");
    assert.deepEqual(stage.plan(), ["copy 1+2 of 0"]);
  });

  test("a page we never installed still gets its snapshot bytes when it faults again", () => {
    const stage = stageOf(1);
    stage.fault(0);
    stage.turn("alreadyPresent");
    assert.equal(stage.fault(0), "first");
    assert.deepEqual(stage.plan(), ["copy 0+1 of 0"]);
  });

  test("a stale message of a page we installed leaves it installed", () => {
    const stage = stageOf(1);
    stage.fault(0);
    stage.turn("installed");
    stage.fault(0);
    assert.deepEqual(stage.turn("alreadyPresent"), ["wake"]);
    assert.equal(stage.state(0), "installed");
  });

  test("on small pages it is never a failure, however often it comes", () => {
    const stage = stageOf(1);
    for (let round = 0; round < 10 * STREAK_LIMIT; round++) {
      stage.fault(0);
      assert.deepEqual(stage.turn("alreadyPresent"), ["wake"]);
    }
    assert.equal(stage.planner.failureStreak, 0);
  });
});

describe("unregistered", () => {
  test("a run is split, and its pages are tried one by one", () => {
    const stage = stageOf(4);
    stage.fault(0, 1, 2, 3);
    assert.deepEqual(stage.turn("unregistered"), ["retry"]);
    assert.equal(states(stage, 4), "pppp");
    assert.deepEqual(stage.plan(), [
      "copy 0+1 of 0",
      "copy 1+1 of 0",
      "copy 2+1 of 0",
      "copy 3+1 of 0",
    ]);
  });

  test("then only the pages outside are dropped, and their threads woken", () => {
    const stage = stageOf(3);
    stage.fault(0, 1, 2);
    stage.turn("unregistered");
    stage.plan();
    const outcomes: readonly Outcome[] = ["installed", "unregistered", "installed"];
    const settlements = outcomes.map((outcome, index) => stage.settle(index, outcome));
    assert.deepEqual(settlements, ["done", "wake", "done"]);
    assert.equal(stage.planner.finishPlan(), 0);
    assert.equal(states(stage, 3), "imi");
  });

  test("the plan after the split one merges again", () => {
    const stage = stageOf(6);
    stage.fault(0, 1);
    stage.turn("unregistered");
    stage.turn("installed");
    stage.fault(3, 4, 5);
    assert.deepEqual(stage.plan(), ["copy 3+3 of 0"]);
  });

  test("a split names each page once, even if two threads wait for it", () => {
    const stage = stageOf(2);
    stage.remove(0, 2);
    stage.fault(0, 1, 0, 1);
    stage.turn("unregistered");
    assert.deepEqual(stage.plan(), ["zero 0+1", "zero 1+1"]);
  });

  test("a page that stays unregistered ends as exhausted, not in a loop", () => {
    const stage = stageOf(1);
    assert.ok(attemptsUntilExhausted(stage, "unregistered") <= 2 * STREAK_LIMIT);
  });
});

describe("deferred and busy", () => {
  for (const outcome of ["deferred", "busy"] as const) {
    test(`${outcome} keeps everything, and changes no state`, () => {
      const stage = new PlannerStage({ layers: ["##..#"] });
      stage.remove(4, 5);
      stage.fault(0, 1, 2, 4);
      const before = stage.plan();
      for (const index of before.keys()) assert.equal(stage.settle(index, outcome), "retry");
      assert.equal(stage.planner.finishPlan(), 4);
      assert.equal(states(stage, 5), "pppmr");
      assert.deepEqual(stage.plan(), before);
    });
  }

  test("is no failed attempt", () => {
    const stage = hugeStageOf(1);
    stage.fault(0);
    for (let round = 0; round < 10 * STREAK_LIMIT; round++) stage.turn("deferred");
    assert.equal(stage.planner.failureStreak, 0);
    assert.deepEqual(stage.waiting(), ["copy 0+1 of 0"]);
  });
});

describe("gone", () => {
  test("is passed on", () => {
    const stage = stageOf(1);
    stage.fault(0);
    assert.deepEqual(stage.turn("gone"), ["gone"]);
  });
});

/** Faults and settles page 0 until the planner gives up; at most 1000 attempts. */
function attemptsUntilExhausted(stage: PlannerStage, outcome: Outcome): number {
  for (let attempt = 1; attempt <= 1000; attempt++) {
    stage.fault(0);
    if (stage.turn(outcome).includes("exhausted")) return attempt;
  }
  return Number.POSITIVE_INFINITY;
}

/** The settlements of `count` attempts at page 0, which faults again whenever it was woken. */
function attempts(stage: PlannerStage, outcome: Outcome, count: number): Settlement[] {
  return Array.from({ length: count }, () => {
    stage.fault(0);
    return stage.turn(outcome)[0]!;
  });
}

describe("an empty pool of huge pages", () => {
  test("answers EEXIST: the first attempts wake at once, later ones alternate with rests", () => {
    const settlements = attempts(hugeStageOf(1), "alreadyPresent", 20);
    assert.deepEqual(settlements.slice(0, 8), new Array(8).fill("wake"));
    assert.deepEqual(settlements.slice(8, 14), [
      "backoff",
      "wakeAndBackoff",
      "backoff",
      "wakeAndBackoff",
      "backoff",
      "wakeAndBackoff",
    ]);
  });

  test("a rest keeps the page queued, a wake lets it go", () => {
    const stage = hugeStageOf(1);
    attempts(stage, "alreadyPresent", 8);
    assert.equal(stage.planner.queuedPages, 0);
    assert.deepEqual(attempts(stage, "alreadyPresent", 1), ["backoff"]);
    assert.deepEqual([stage.planner.queuedPages, stage.state(0)], [1, "pending"]);
    assert.deepEqual(attempts(stage, "alreadyPresent", 1), ["wakeAndBackoff"]);
    assert.deepEqual([stage.planner.queuedPages, stage.state(0)], [0, "missing"]);
  });

  test("is exhausted after the limit, and says so again as long as it lasts", () => {
    const stage = hugeStageOf(1);
    const settlements = attempts(stage, "alreadyPresent", STREAK_LIMIT + 10);
    const first = settlements.indexOf("exhausted");
    assert.ok(first >= STREAK_LIMIT && first <= STREAK_LIMIT + 1, `at attempt ${first}`);
    assert.ok(settlements.slice(first + 1).includes("exhausted"));
  });

  test("one page installed ends the streak, whichever it is", () => {
    const stage = hugeStageOf(2);
    attempts(stage, "alreadyPresent", STREAK_LIMIT);
    assert.equal(stage.planner.failureStreak, STREAK_LIMIT);
    stage.fault(0, 1);
    stage.plan();
    assert.equal(stage.settle(0, "partial", 1), "retry");
    assert.equal(stage.planner.failureStreak, 0);
    stage.planner.finishPlan();
    assert.deepEqual(attempts(stage, "alreadyPresent", 1), ["wake"]);
  });

  test("zero bytes done do not end it", () => {
    const stage = hugeStageOf(1);
    attempts(stage, "alreadyPresent", 4);
    attempts(stage, "partial", 1);
    attempts(stage, "deferred", 1);
    assert.equal(stage.planner.failureStreak, 4);
  });
});

describe("out of memory", () => {
  test("keeps the page and rests, until it is exhausted", () => {
    const stage = stageOf(2);
    stage.fault(0, 1);
    for (let round = 0; round < STREAK_LIMIT; round++) {
      assert.deepEqual(stage.turn("outOfMemory"), ["backoff"], `round ${round}`);
    }
    assert.deepEqual(stage.turn("outOfMemory"), ["exhausted"]);
    assert.equal(states(stage, 2), "pp");
    assert.deepEqual(stage.turn("installed"), ["done"]);
    assert.equal(stage.planner.failureStreak, 0);
  });
});

describe("a bad source", () => {
  test("keeps everything: policy decides", () => {
    const stage = stageOf(3);
    stage.fault(0, 1, 2);
    assert.deepEqual(stage.turn("badSource"), ["badSource"]);
    assert.equal(states(stage, 3), "ppp");
    assert.equal(stage.planner.queuedPages, 3);
  });

  test("poisoned, the first page is settled and the rest goes on", () => {
    const stage = stageOf(3);
    stage.fault(0, 1, 2);
    stage.plan();
    stage.settle(0, "badSource");
    stage.planner.markPoisoned(stage.actions, 0);
    assert.equal(stage.planner.finishPlan(), 2);
    assert.equal(states(stage, 3), "ipp");
    assert.deepEqual(stage.plan(), ["copy 1+2 of 0"]);
  });

  test("no zeroes follow on a poisoned page, whichever way it came to be", () => {
    for (const outcome of ["badSource", "outOfMemory", "alreadyPresent"] as const) {
      const stage = hugeStageOf(1);
      stage.fault(0);
      stage.plan();
      stage.settle(0, outcome);
      stage.planner.markPoisoned(stage.actions, 0);
      assert.equal(stage.planner.finishPlan(), 0, outcome);
    }
  });

  test("a page that policy finds present leaves the queue, and stays nobody's", () => {
    const stage = stageOf(3);
    stage.fault(0, 1, 2);
    stage.plan();
    assert.equal(stage.settle(0, "badSource"), "badSource");
    stage.planner.letGo(stage.actions, 0);
    assert.equal(stage.planner.finishPlan(), 2);
    assert.equal(states(stage, 3), "mpp");
    assert.deepEqual(stage.plan(), ["copy 1+2 of 0"]);
  });

  test("so does one that is exhausted, and one that was taken back meanwhile", () => {
    const stage = stageOf(2);
    stage.fault(0, 1);
    stage.remove(0, 1);
    for (const outcome of ["outOfMemory", "alreadyPresent"] as const) {
      stage.plan();
      stage.settle(0, outcome);
      stage.planner.letGo(stage.actions, 0);
      stage.settle(1, "deferred");
      assert.equal(stage.planner.finishPlan(), 1, outcome);
      assert.equal(states(stage, 2), "rp");
      stage.fault(0);
    }
  });

  test("a poisoned page that the VMM takes back is zero, like every removed page", () => {
    const stage = stageOf(1);
    stage.fault(0);
    stage.plan();
    stage.settle(0, "badSource");
    stage.planner.markPoisoned(stage.actions, 0);
    stage.planner.finishPlan();
    stage.remove(0, 1);
    stage.fault(0);
    assert.deepEqual(stage.plan(), ["zero 0+1"]);
  });
});

describe("a plan with mixed outcomes", () => {
  test("keeps exactly what is not settled, in page order", () => {
    const stage = new PlannerStage({ layers: ["##.##.##", "........"] });
    stage.fault(0, 1, 2, 3, 4, 5, 6, 7);
    assert.deepEqual(stage.plan(), [
      "copy 0+2 of 0",
      "zero 2+1",
      "copy 3+2 of 0",
      "zero 5+1",
      "copy 6+2 of 0",
    ]);
    assert.equal(stage.settle(0, "partial", 1), "retry");
    assert.equal(stage.settle(1, "installed"), "done");
    assert.equal(stage.settle(2, "alreadyPresent"), "wake");
    assert.equal(stage.settle(3, "deferred"), "retry");
    assert.equal(stage.settle(4, "installed"), "done");
    assert.equal(stage.planner.finishPlan(), 3);
    assert.equal(states(stage, 8), "ipimppii");
    assert.deepEqual(stage.plan(), ["copy 1+1 of 0", "copy 4+1 of 0", "zero 5+1"]);
  });

  test("faults that come before the next plan join what was kept", () => {
    const stage = stageOf(8);
    stage.fault(2, 3);
    stage.turn("deferred");
    stage.fault(1, 4, 7);
    assert.deepEqual(stage.plan(), ["copy 1+4 of 0", "copy 7+1 of 0"]);
  });

  test("what did not fit into the plan is kept whatever became of the rest", () => {
    const stage = stageOf(200);
    for (let page = 0; page < 200; page += 2) stage.fault(page);
    stage.turn("installed");
    assert.equal(stage.planner.queuedPages, 36);
    stage.turn("deferred");
    assert.equal(stage.planner.queuedPages, 36);
    stage.turn("installed");
    assert.equal(stage.planner.queuedPages, 0);
    assert.equal(states(stage, 200), "im".repeat(100));
  });

  test("a plan that is not finished can be made again", () => {
    const stage = stageOf(4);
    stage.fault(0, 1);
    const first = stage.plan();
    assert.deepEqual(stage.plan(), first);
    assert.deepEqual(stage.turn("installed"), ["done"]);
    assert.equal(stage.planner.queuedPages, 0);
  });
});
