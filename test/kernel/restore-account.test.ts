/** Where the time of a real VM's restore goes: the account against what the VM itself waited. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { Cause } from "../../src/base/restore-causes.ts";
import { RECORD_WORDS, TraceRing, traceKinds } from "../../src/engine/trace-ring.ts";
import type { PrefaultSetup } from "../../src/engine/wire.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { monotonicUs } from "../../src/linux/clock.ts";
import { PartBill, type PartCost } from "../../src/source/part-cost.ts";
import { cool } from "../support/cold-files.ts";
import { EngineStage, PAGES, type StageOptions } from "../support/engine-stage.ts";
import { requires } from "../support/requires.ts";
import { PAGE } from "../support/stage.ts";

const SLOW_MS = 300;

/** A stage whose file is not in the page cache, and takes `SLOW_MS`. Null: it stays there. */
async function coldStage(options: StageOptions = {}): Promise<EngineStage | null> {
  const box: { stage: EngineStage | null } = { stage: null };
  const bring = async (part: number): Promise<PartCost> => {
    const bill = new PartBill();
    await delay(SLOW_MS);
    bill.storeUs = monotonicUs() - bill.fromUs;
    await box.stage!.files.load(part);
    return bill.close();
  };
  const connectedUs = monotonicUs() - 5000;
  const stage = await EngineStage.start({ bring, connectedUs, ...options });
  box.stage = stage;
  const [{ path }] = stage.files.identities as unknown as [{ path: string }];
  if (cool(path)) return stage;
  await stage[Symbol.asyncDispose]();
  return null;
}

describe("the account of a VM", requires("userfaultfd"), () => {
  test("adds up to its time, and blames what it has waited for", async (t) => {
    const ring = new TraceRing(TraceRing.allocate(64));
    await using stage = await coldStage({ trace: ring });
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
    // The rest is what a busy machine takes.
    assert.ok(causes.store > waited / 2, JSON.stringify(causes));
    assert.ok(causes.install > 0 && causes.lookup > 0);
    const [dearest] = account.dearest();
    assert.deepEqual([dearest?.page, dearest?.pages, dearest?.cause], [3, 1, "store"]);
    assert.ok(dearest!.costUs >= SLOW_MS * 900);
    checkTrace(ring);
  });

  test("blames no step ahead for what the guest did long after the last one", async () => {
    await using stage = await EngineStage.start({ prefault: ahead({ isPaced: true }) });
    const { session } = stage;
    await waitFor(
      "half of it was installed",
      () => session.stats.counters().prefaultedPages === PAGES / 2,
    );
    await delay(SLOW_MS);
    await stage.read(PAGES - 1);
    await waitFor("the page is counted", () => session.account.dearest().length > 0);
    const { ahead: aheadUs, guest } = session.account.causes();
    assert.ok(guest >= SLOW_MS * 900, `the guest had ${guest} µs`);
    assert.ok(aheadUs < guest, `steps took ${aheadUs} µs`);
  });

  test("knows that nobody runs before all is installed that was to be", async () => {
    await using stage = await EngineStage.start({
      prefault: ahead({ isPaced: false }),
      connectedUs: monotonicUs(),
    });
    const { account } = stage.session;
    await waitFor("it is over", () => account.causes().ahead > 0);
    assert.equal(account.causes().guest, 0);
  });
});

/** The first half of the memory. */
function ahead({ isPaced }: { readonly isPaced: boolean }): PrefaultSetup {
  const pages = { starts: Uint32Array.of(0), counts: Uint32Array.of(PAGES / 2) };
  return { pages, isPaced, completes: false };
}

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
