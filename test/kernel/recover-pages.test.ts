/** What a handler leaves that dies right after read(2), and what the next one makes of it. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { recoverPages } from "../../src/engine/recover-pages.ts";
import { SessionMemory } from "../../src/engine/session-memory.ts";
import { SurvivingBatch, SurvivingBatches } from "../../src/engine/surviving-batches.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { createMemfd } from "../../src/linux/memory.ts";
import { PageState } from "../../src/pager/page-table.ts";
import { RegionMap } from "../../src/snapshot/regions.ts";
import { MemoryPeer } from "../support/memory-peer.ts";
import { requires } from "../support/requires.ts";
import { createSizedMemfd, PAGE } from "../support/stage.ts";

const needs = requires("userfaultfd");
const OURS = 3;
const ANOTHER = 4;

function regionsOf(peer: MemoryPeer): RegionMap {
  const region = { baseHostAddress: peer.address, sizeBytes: peer.sizeBytes, imageOffset: 0 };
  return new RegionMap([region as never], PAGE);
}

describe("events that were read and not applied", needs, () => {
  test("are applied by whoever comes next, to the VM whose label they have", async () => {
    await using peer = await MemoryPeer.start({ features: ["eventRemove"] });
    const regions = regionsOf(peer);
    const { batches, fd } = SurvivingBatches.inMemfd(2);
    using _ = batches;
    using owned = fd;
    const survivor = new SurvivingBatch(batches.addressOf(1));
    peer.say(`drop ${5 * PAGE}`);
    survivor.begin(OURS);
    await waitFor("the REMOVE was read", () => peer.uffd.drain(survivor.batch) > 0);
    assert.equal(await peer.answer(), "dropped", "the kernel has let it go: nobody else is told");

    // Here the process dies. What is left is the memfd.
    using left = SurvivingBatches.adopt(owned);
    const memory = SessionMemory.create(regions.pageLimit);
    memory.pageTable.set(1, PageState.pending);
    memory.pageTable.set(2, PageState.installed);
    memory.pageTable.set(3, PageState.removed);
    const stranger = { memory, regions, batches: left, survivalId: ANOTHER };
    assert.deepEqual(recoverPages(stranger), { pending: 1, removed: 0 });
    const ours = { memory, regions, batches: left, survivalId: OURS };
    for (let time = 0; time < 2; time++) {
      assert.deepEqual(recoverPages(ours), { pending: 0, removed: 1 });
      const states = [0, 1, 2, 3, 4, 5, 6].map((page) => memory.pageTable.get(page));
      const { missing, installed, removed } = PageState;
      assert.deepEqual(
        states,
        [missing, missing, installed, removed, missing, removed, missing],
        "and twice is the same as once",
      );
    }
  });

  test("are gone when the next are read, and faults do not count", async () => {
    await using peer = await MemoryPeer.start({ features: ["eventRemove"] });
    const { batches, fd } = SurvivingBatches.inMemfd(1);
    using _ = batches;
    using _fd = fd;
    const survivor = new SurvivingBatch(batches.addressOf(0));
    peer.say(`drop ${5 * PAGE}`);
    survivor.begin(OURS);
    await waitFor("the REMOVE was read", () => peer.uffd.drain(survivor.batch) > 0);
    assert.equal(removalsOf(batches, OURS), 1);
    assert.equal(await peer.answer(), "dropped");
    peer.say(`read ${2 * PAGE}`);
    survivor.begin(ANOTHER);
    assert.equal(removalsOf(batches, OURS) + removalsOf(batches, ANOTHER), 0, "applied by now");
    await waitFor("the fault was read", () => peer.uffd.drain(survivor.batch) > 0);
    assert.equal(removalsOf(batches, ANOTHER), 0, "a fault comes again by itself");
    peer.uffd.zeropage(peer.address + 2 * PAGE, PAGE);
    assert.equal(await peer.answer(), "0");
  });

  test("of a VM that is let go mean nothing any more", async () => {
    await using peer = await MemoryPeer.start({ features: ["eventRemove"] });
    const { batches, fd } = SurvivingBatches.inMemfd(1);
    using _ = batches;
    using _fd = fd;
    const survivor = new SurvivingBatch(batches.addressOf(0));
    peer.say("drop 0");
    survivor.begin(OURS);
    await waitFor("the REMOVE was read", () => peer.uffd.drain(survivor.batch) > 0);
    survivor.forget(ANOTHER);
    assert.equal(removalsOf(batches, OURS), 1);
    survivor.forget(OURS);
    assert.equal(removalsOf(batches, OURS), 0);
  });

  test("are looked for in nothing else", () => {
    const isConflict = (error: unknown): boolean =>
      error instanceof FaultlineError && error.code === "conflict";
    using empty = createMemfd("empty");
    assert.throws(() => SurvivingBatches.adopt(empty), isConflict);
    using zeroes = createSizedMemfd("zeroes", PAGE);
    assert.throws(() => SurvivingBatches.adopt(zeroes), isConflict);
    using uneven = createSizedMemfd("uneven", PAGE + 1);
    assert.throws(() => SurvivingBatches.adopt(uneven), isConflict);
  });
});

function removalsOf(batches: SurvivingBatches, survivalId: number): number {
  let count = 0;
  batches.forEachRemoval(survivalId, () => {
    count += 1;
  });
  return count;
}
