/** Whom a VM's clock charges for the time that has passed. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Cause } from "../../src/base/restore-causes.ts";
import { RestoreAccount } from "../../src/engine/restore-account.ts";
import { SessionClock } from "../../src/engine/session-clock.ts";
import { Trace } from "../../src/engine/trace-ring.ts";

const PAGES = 1024;

function newClock(): SessionClock {
  const account = new RestoreAccount(new ArrayBuffer(RestoreAccount.sizeBytes), 0, PAGES);
  account.begin(0, 0);
  return new SessionClock(account, 0, null);
}

function dearestOf(clock: SessionClock): readonly (readonly [number, number, string])[] {
  return clock.account.dearest().map(({ page, costUs, cause }) => [page, costUs, cause]);
}

describe("the clock of a VM", () => {
  test("charges a page that could not be had for all its time, and others for theirs", () => {
    const clock = newClock();
    for (let attempt = 0; attempt < 10; attempt++) {
      const nowUs = 1000 + attempt * 1e6;
      clock.beginTurn(nowUs);
      // Another thread's, while this one waits.
      clock.charge(Trace.copy, 100 + attempt, 1, 0, nowUs + 10);
      clock.rest(7);
      clock.endTurn(Cause.lost);
    }
    clock.beginTurn(10_001_000);
    clock.charge(Trace.copy, 4, 8, 0, 10_001_020);
    clock.endTurn(Cause.guest);
    const [first, ...others] = dearestOf(clock);
    assert.deepEqual(first, [4, 10_000_020, "lost"]);
    assert.equal(others.length, 10);
    for (const [, costUs, cause] of others) assert.deepEqual([costUs, cause], [10, "install"]);
  });

  test("charges the page for what is new once it could be had", () => {
    const clock = newClock();
    clock.beginTurn(1000);
    clock.rest(7);
    clock.endTurn(Cause.lost);
    clock.beginTurn(5000);
    clock.charge(Trace.copy, 7, 1, 0, 5010);
    clock.endTurn(Cause.guest);
    clock.beginTurn(90_000);
    clock.charge(Trace.zero, 7, 1, 0, 90_020);
    assert.deepEqual(dearestOf(clock), [
      [7, 4010, "lost"],
      [7, 20, "install"],
    ]);
  });
});
