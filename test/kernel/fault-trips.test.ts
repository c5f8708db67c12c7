/** What the kernel takes for a fault besides its worker: measured, and not made up. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { measureTrips, unknownTrips } from "../../src/daemon/fault-trips.ts";
import type { Logger } from "../../src/daemon/log.ts";
import { type AttachRequest, Engine } from "../../src/engine/engine.ts";
import type { Session } from "../../src/engine/session.ts";
import { waitFor } from "../../src/kit/wait.ts";
import type { Userfaultfd } from "../../src/uffd/userfaultfd.ts";
import { requires } from "../support/requires.ts";

const BUDGET_MS = 10_000;

/** A fault worker that answers nothing, and lets go when it is told to. */
class SilentEngine {
  address = 0;
  #uffd: Userfaultfd | null = null;
  #resolveEnded: () => void = () => {};

  attach({ userfaultfd, pidfd, regions }: AttachRequest): Session {
    this.#uffd = userfaultfd;
    this.address = regions.ranges[0]!.start;
    pidfd.close();
    const ended = new Promise<void>((resolve) => {
      this.#resolveEnded = resolve;
    });
    return { ended, stats: { totalUs: () => 0 } } as unknown as Session;
  }

  detach(): void {}

  letGo(): void {
    this.#uffd?.close();
    this.#resolveEnded();
  }
}

function isMapped(address: number): boolean {
  const inHex = (text: string): number => Number.parseInt(text, 16);
  return readFileSync("/proc/self/maps", "utf8")
    .split("\n")
    .map((line) => line.split(/[- ]/))
    .some(([from, to]) => inHex(from!) <= address && address < inHex(to ?? "0"));
}

describe("the way of a fault", requires("userfaultfd"), () => {
  const told: string[] = [];
  const debug = (_: object, message: string) => told.push(message);
  const log = { debug } as unknown as Logger;

  test("takes some time, and leaves nothing behind", async () => {
    const engine = await Engine.start({ workers: 1, spin: "off" });
    try {
      const { asleepUs, busyUs } = await measureTrips(engine, { log });
      // A thread that sleeps cannot be woken in no time; a second would be the deadline's.
      assert.ok(asleepUs > 0 && asleepUs < 1e6, `${asleepUs} µs`);
      assert.ok(busyUs >= 0 && busyUs <= asleepUs, `${busyUs} µs`);
      assert.equal(engine.sessionCount, 0);
      assert.deepEqual(told, []);
    } finally {
      await engine.close();
    }
  });

  test("is unknown where the fault worker is late, and the memory stays as long", async () => {
    const engine = new SilentEngine();
    try {
      assert.deepEqual(await measureTrips(engine, { log, deadlineMs: 50 }), unknownTrips);
      assert.deepEqual(told, ["It is not known what the kernel takes for faults"]);
      assert.ok(isMapped(engine.address), "a thread still touches it");
    } finally {
      engine.letGo();
    }
    await waitFor("nothing is left", async () => !isMapped(engine.address), BUDGET_MS);
  });

  test("is unknown where memory cannot be watched, and the userfaultfd is closed", async () => {
    let refused: Userfaultfd | null = null;
    const attach = ({ userfaultfd }: AttachRequest): Session => {
      refused = userfaultfd;
      throw new FaultlineError("system", "refused");
    };
    assert.equal(await measureTrips({ attach, detach: () => {} }, { log }), unknownTrips);
    assert.throws(() => refused?.fd, /after close/);
  });
});
