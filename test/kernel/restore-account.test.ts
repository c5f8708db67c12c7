/** Where the time of a real VM's restore goes: the account against what the VM itself waited. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { Cause } from "../../src/base/restore-causes.ts";
import { RECORD_WORDS, TraceRing, traceKinds } from "../../src/engine/trace-ring.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { monotonicUs } from "../../src/linux/clock.ts";
import { PartBill, type PartCost } from "../../src/source/part-cost.ts";
import { cool } from "../support/cold-files.ts";
import { EngineStage } from "../support/engine-stage.ts";
import { requires } from "../support/requires.ts";
import { PAGE } from "../support/stage.ts";

const SLOW_MS = 300;

/** A stage whose file is not in the page cache, and takes `SLOW_MS`. Null: it stays there. */
async function coldStage(trace?: TraceRing): Promise<EngineStage | null> {
  const box: { stage: EngineStage | null } = { stage: null };
  const bring = async (part: number): Promise<PartCost> => {
    const bill = new PartBill();
    await delay(SLOW_MS);
    bill.storeUs = monotonicUs() - bill.fromUs;
    await box.stage!.files.load(part);
    return bill.close();
  };
  const connectedUs = monotonicUs() - 5000;
  const stage = await EngineStage.start({
    ...{ bring, connectedUs },
    ...(trace === undefined ? {} : { trace }),
  });
  box.stage = stage;
  const [{ path }] = stage.files.identities as unknown as [{ path: string }];
  if (cool(path)) return stage;
  await stage[Symbol.asyncDispose]();
  return null;
}

describe("the account of a VM", requires("userfaultfd"), () => {
  test("adds up to its time, and blames what it has waited for", async (t) => {
    const ring = new TraceRing(TraceRing.allocate(64));
    await using stage = await coldStage(ring);
    if (stage === null) {
      t.skip("this file system does not let go of cached pages");
      return;
    }
    const { session, bytes } = stage;
    const { account } = session;
    assert.equal(await stage.read(3), bytes[3 * PAGE]);
    assert.equal(await stage.read(7), bytes[7 * PAGE]);
    await waitFor("both pages are traced", () => (ring.written < 5 ? null : true));
    const causes = account.causes();
    const sum = Object.values(causes).reduce((total, us) => total + us, 0);
    assert.ok(Math.abs(sum - (account.markUs - account.beganUs)) < 1);
    assert.ok(causes.handshake >= 5000, "the connection came five milliseconds before");
    assert.ok(causes.store >= SLOW_MS * 900, `the store took ${causes.store} µs`);
    const waited = sum - causes.guest - causes.handshake;
    assert.ok(causes.store > 0.9 * waited, JSON.stringify(causes));
    assert.ok(causes.install > 0 && causes.lookup > 0);
    const [dearest] = account.dearest();
    assert.deepEqual([dearest?.page, dearest?.pages, dearest?.cause], [3, 1, "store"]);
    assert.ok(dearest!.costUs >= SLOW_MS * 900);
    checkTrace(ring);
  });
});

/** The first page waited for the store, the second for nobody. */
function checkTrace(ring: TraceRing): void {
  const words = new Uint32Array(64 * RECORD_WORDS);
  const { count } = ring.read(0, words);
  const records = Array.from({ length: count }, (_, index) => {
    const [, page, cost, rest] = words.subarray(index * RECORD_WORDS) as unknown as number[];
    return { kind: traceKinds[rest! & 0xff], cause: (rest! >>> 8) & 0xff, page, cost: cost! / 10 };
  });
  assert.deepEqual(
    records.map(({ kind, page }) => `${kind} ${page}`),
    ["demand 3", "park 3", "copy 3", "demand 7", "copy 7"],
  );
  assert.equal(records[2]?.cause, Cause.store);
  assert.ok(records[2]!.cost >= SLOW_MS * 900);
  assert.equal(records[4]?.cause, Cause.install);
}
