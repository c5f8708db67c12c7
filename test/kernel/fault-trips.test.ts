/** What the kernel takes for a fault besides its worker: measured, and not made up. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { measureTrips } from "../../src/daemon/fault-trips.ts";
import { Engine } from "../../src/engine/engine.ts";
import { requires } from "../support/requires.ts";

describe("the way of a fault", requires("userfaultfd"), () => {
  test("takes some time, and leaves nothing behind", async () => {
    const engine = await Engine.start({ workers: 1, spin: "off" });
    try {
      const { asleepUs, busyUs } = await measureTrips(engine);
      // A thread that sleeps cannot be woken in no time; a second would be the deadline's.
      assert.ok(asleepUs > 0 && asleepUs < 1e6, `${asleepUs} µs`);
      assert.ok(busyUs >= 0 && busyUs <= asleepUs, `${busyUs} µs`);
      assert.equal(engine.sessionCount, 0);
    } finally {
      await engine.close();
    }
  });
});
