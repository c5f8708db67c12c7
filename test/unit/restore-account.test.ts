/** The account of a restore: whatever is said of its time, the causes add up to all of it. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as fc from "fast-check";
import { Cause, type RestoreCause, restoreCauses } from "../../src/base/restore-causes.ts";
import { EXTENTS, RestoreAccount } from "../../src/engine/restore-account.ts";
import type { PartCost } from "../../src/source/part-cost.ts";

const PAGES = 4 * EXTENTS;

function newAccount(): RestoreAccount {
  return new RestoreAccount(new ArrayBuffer(RestoreAccount.sizeBytes), 0, PAGES);
}

function costOf(fields: Partial<PartCost>): PartCost {
  const none = { storeUs: 0, nearUs: 0, diskUs: 0, decodeUs: 0, roomUs: 0, isAgain: false };
  return { fromUs: 0, untilUs: 0, ...none, ...fields };
}

const sumOf = (account: RestoreAccount): number =>
  Object.values(account.causes()).reduce((sum, us) => sum + us, 0);

/** Causes that are not zero, rounded. */
function spent(account: RestoreAccount): Partial<Record<RestoreCause, number>> {
  const entries = Object.entries(account.causes()).map(([name, us]) => [name, Math.round(us)]);
  return Object.fromEntries(entries.filter(([, us]) => us !== 0));
}

describe("the account of a restore", () => {
  test("divides all time among causes, whatever is said in which order", () => {
    const step = fc.record({
      cause: fc.nat(restoreCauses.length - 1),
      afterUs: fc.integer({ min: -50, max: 1000 }),
      arrival: fc.option(
        fc.record({
          sinceUs: fc.integer({ min: -2000, max: 0 }),
          fromUs: fc.integer({ min: -3000, max: 500 }),
          workUs: fc.integer({ min: 0, max: 3000 }),
          storeUs: fc.nat(2000),
          decodeUs: fc.nat(100),
          roomUs: fc.nat(100),
          isAgain: fc.boolean(),
        }),
      ),
    });
    void fc.assert(
      fc.property(fc.array(step), (steps) => {
        const account = newAccount();
        account.begin(1000, 1500);
        let nowUs = 1500;
        for (const { cause, afterUs, arrival } of steps) {
          nowUs += afterUs;
          if (arrival === null) account.spend(cause, nowUs);
          else {
            const fromUs = nowUs + arrival.fromUs;
            const cost = costOf({ ...arrival, fromUs, untilUs: fromUs + arrival.workUs });
            account.spendFetch(cost, nowUs + arrival.sinceUs, nowUs);
          }
          for (const us of Object.values(account.causes())) assert.ok(us >= -1e-6, "no debts");
        }
        assert.ok(Math.abs(sumOf(account) - (account.markUs - account.beganUs)) < 1e-3);
      }),
    );
  });

  test("begins where the VMM connected, and calls what is before it is watched a handshake", () => {
    const account = newAccount();
    account.begin(1000, 1400);
    account.spend(Cause.guest, 2000);
    assert.deepEqual(spent(account), { handshake: 400, guest: 600 });
    assert.equal(account.beganUs, 1000);
    assert.equal(account.markUs, 2000);
  });

  test("goes on after its process was killed: what lies between is a takeover", () => {
    const buffer = new ArrayBuffer(RestoreAccount.sizeBytes);
    const first = new RestoreAccount(buffer, 0, PAGES);
    first.begin(1000, 1100);
    first.spend(Cause.install, 1200);
    const second = new RestoreAccount(buffer, 0, PAGES);
    second.begin(9000, 9200);
    assert.deepEqual(spent(second), { handshake: 100, install: 100, takeover: 8000 });
    assert.equal(second.beganUs, 1000);
  });

  test("counts nothing twice when a moment lies before the last one", () => {
    const account = newAccount();
    account.begin(0, 100);
    assert.equal(account.spend(Cause.queue, 90), 0);
    assert.equal(account.spend(Cause.install, 130), 30);
    assert.deepEqual(spent(account), { handshake: 100, install: 30 });
  });

  test("divides the time of bytes under way as bringing them was", () => {
    const account = newAccount();
    account.begin(0, 1000);
    const cost = costOf({ fromUs: 1100, untilUs: 1900, storeUs: 600, decodeUs: 200 });
    assert.equal(account.spendFetch(cost, 1000, 2000), Cause.store);
    assert.deepEqual(spent(account), { handshake: 1000, store: 600, decode: 200, handover: 200 });
  });

  test("charges only our share of a load that others began long before", () => {
    const account = newAccount();
    account.begin(0, 10_000);
    const cost = costOf({ fromUs: 1, untilUs: 10_900, storeUs: 10_899 });
    account.spendFetch(cost, 10_000, 11_000);
    const { store, handover } = account.causes();
    assert.deepEqual([Math.round(store), Math.round(handover)], [900, 100]);
  });

  test("blames the cache for bytes that had been in it before", () => {
    const account = newAccount();
    account.begin(0, 1000);
    const cost = costOf({ fromUs: 1000, untilUs: 2000, storeUs: 1000, isAgain: true });
    assert.equal(account.spendFetch(cost, 1000, 2000), Cause.again);
    assert.deepEqual(spent(account), { handshake: 1000, again: 1000 });
  });

  test("counts as lost what is spent on bytes that cannot be had, until they can", () => {
    const account = newAccount();
    account.begin(0, 1000);
    account.spend(Cause.fetching, 1300);
    account.spend(Cause.install, 1400);
    account.lose(2000);
    assert.deepEqual(spent(account), { handshake: 1000, install: 100, lost: 900 });
    const cost = costOf({ fromUs: 3000, untilUs: 3400, storeUs: 400 });
    assert.equal(account.spendFetch(cost, 2000, 3500, Cause.lost), Cause.lost);
    assert.deepEqual(spent(account), {
      ...{ handshake: 1000, install: 100, lost: 1900, store: 400, handover: 100 },
    });
  });

  test("keeps what was fetched under way until it is known what that took", () => {
    const account = newAccount();
    account.begin(0, 1000);
    account.spend(Cause.fetching, 1400);
    account.spend(Cause.install, 1500);
    assert.deepEqual(spent(account), { handshake: 1000, fetching: 400, install: 100 });
    account.spendFetch(costOf({ fromUs: 1000, untilUs: 2000, nearUs: 10 }), 1000, 2000);
    assert.deepEqual(spent(account), { handshake: 1000, install: 100, near: 900 });
  });

  test("remembers the dearest, and sums the costs of each stretch of memory", () => {
    const account = newAccount();
    account.begin(0, 0);
    for (let page = 0; page < 100; page++) {
      account.charge(page, 1, 1000 - page, 1000, Cause.install);
    }
    account.charge(PAGES - 1, 2, 0, 5000, Cause.store);
    const [first, second] = account.dearest();
    assert.deepEqual(first, {
      ...{ page: PAGES - 1, pages: 2, costUs: 5000, cause: "store", afterUs: 5000 },
    });
    assert.equal(second?.page, 99);
    assert.equal(account.dearest().length, 32);
    assert.equal(account.dearest().at(-1)?.page, 69);
    const extents = account.extentsUs();
    assert.equal(account.extentPages, 4);
    assert.equal(extents[0], 0 + 1 + 2 + 3);
    assert.equal(extents[EXTENTS - 1], 5000);
  });

  test("can be read on when its memory is gone", () => {
    const account = newAccount();
    account.begin(0, 10);
    account.charge(7, 1, 0, 10, Cause.install);
    account.moveTo(new ArrayBuffer(RestoreAccount.sizeBytes));
    assert.deepEqual(spent(account), { handshake: 10 });
    assert.equal(account.dearest()[0]?.page, 7);
  });
});
