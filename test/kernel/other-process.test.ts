/** Serving the memory of another process, and what happens when one of the two dies. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { SysError } from "../../src/base/errors.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { duplicateFd, OwnedFd } from "../../src/linux/fd.ts";
import { MappedRegion } from "../../src/linux/memory.ts";
import { decodeEvent, EventBatch } from "../../src/uffd/events.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";
import { MemoryPeer } from "../support/memory-peer.ts";
import { requires } from "../support/requires.ts";
import { PAGE } from "../support/stage.ts";

const needs = requires("userfaultfd");
const batch = new EventBatch();

async function drained(uffd: Userfaultfd): Promise<void> {
  await waitFor("the userfaultfd had an event", () => uffd.drain(batch) > 0);
}

/** One page of bytes 0x42 to copy from. */
function sourcePage(): MappedRegion {
  const page = MappedRegion.anonymous(PAGE);
  new Uint8Array(page.view()).fill(0x42);
  return page;
}

function failsWith(errnoName: string): (error: unknown) => boolean {
  return (error) => error instanceof SysError && error.errnoName === errnoName;
}

describe("the memory of another process", () => {
  test("is served through a received userfaultfd", needs, async () => {
    await using peer = await MemoryPeer.start();
    using source = sourcePage();
    peer.say(`read ${3 * PAGE}`);
    await drained(peer.uffd);
    assert.equal(batch.faultAddress(0), peer.address + 3 * PAGE);
    const outcome = peer.uffd.copy(peer.address + 3 * PAGE, source.address, PAGE);
    assert.equal(outcome, "installed");
    assert.equal(await peer.answer(), "66");
  });

  test("can be registered from here, with the peer's addresses", needs, async () => {
    await using peer = await MemoryPeer.start();
    peer.uffd.unregister(peer.address, peer.sizeBytes);
    assert.equal(peer.uffd.zeropage(peer.address, PAGE), "unregistered");
    assert.ok(peer.uffd.register(peer.address, peer.sizeBytes, ["missing"]).has("copy"));
    assert.equal(peer.uffd.zeropage(peer.address, PAGE), "installed");
  });

  test("cannot be moved: UFFDIO_MOVE is for the creator only", needs, async (t) => {
    if (!Userfaultfd.supportedFeatures().has("move")) return t.skip("this kernel has no move");
    await using peer = await MemoryPeer.start();
    using source = sourcePage();
    assert.throws(() => peer.uffd.move(peer.address, source.address, PAGE), failsWith("EINVAL"));
  });

  test("poisoned, it kills the process that touches it, by SIGBUS", needs, async (t) => {
    if (!Userfaultfd.supportedFeatures().has("poison")) return t.skip("this kernel has no poison");
    await using peer = await MemoryPeer.start();
    peer.say("read 0");
    await drained(peer.uffd);
    assert.equal(peer.uffd.poison(peer.address, PAGE), "installed");
    assert.equal(await peer.exited(), "SIGBUS");
  });

  // Within one process this can deadlock: glibc's fork holds the locks of malloc all the while.
  test(
    "forked: fork blocks until we read the event with the child's descriptor",
    needs,
    async () => {
      await using peer = await MemoryPeer.start({ features: ["eventFork"] });
      peer.say("fork");
      await drained(peer.uffd);
      const event = decodeEvent(batch, 0, PAGE);
      assert.ok(event.type === "fork");
      using child = Userfaultfd.fromFd(new OwnedFd(event.userfaultfd));
      assert.notEqual(child.fd, peer.uffd.fd);
      assert.equal(await peer.answer(), "forked");
      // The child called exec: the memory that it inherited is gone since then.
      assert.equal(child.zeropage(peer.address, PAGE), "gone");
    },
  );
});

describe("the death of the process", () => {
  test("is told by no event; every operation says gone", needs, async () => {
    await using peer = await MemoryPeer.start();
    using source = sourcePage();
    peer.say("read 0");
    await drained(peer.uffd);
    peer.process.kill("SIGKILL");
    assert.equal(await peer.exited(), "SIGKILL", "a thread blocked in a fault can be killed");
    assert.equal(peer.uffd.drain(batch), 0);
    assert.equal(peer.uffd.copy(peer.address, source.address, PAGE), "gone");
    assert.equal(peer.uffd.zeropage(peer.address, PAGE), "gone");
    assert.equal(peer.uffd.continue(peer.address, PAGE), "gone");
    assert.equal(peer.uffd.writeProtect(peer.address, PAGE, true), "gone");
    assert.equal(peer.uffd.doneBytes, 0);
  });

  test("leaves wake without effect, and register without memory", needs, async () => {
    await using peer = await MemoryPeer.start();
    peer.process.kill("SIGKILL");
    await peer.exited();
    peer.uffd.wake(peer.address, PAGE);
    const register = (): unknown => peer.uffd.register(peer.address, PAGE, ["missing"]);
    assert.throws(register, failsWith("ENOMEM"));
  });
});

describe("the death of the handler", () => {
  test("without another holder lets the threads read ZEROES", needs, async () => {
    await using peer = await MemoryPeer.start();
    peer.say("read 0");
    await drained(peer.uffd);
    peer.uffd.close();
    assert.equal(await peer.answer(), "0");
  });

  test(
    "with another holder keeps them blocked until its wake, which brings them anew",
    needs,
    async () => {
      await using peer = await MemoryPeer.start({ keep: true });
      using source = sourcePage();
      using successor = Userfaultfd.fromFd(duplicateFd(peer.uffd.fd));
      peer.say("read 0");
      await drained(peer.uffd);
      peer.uffd.close();
      assert.equal(successor.drain(batch), 0, "what was read is not told again");
      successor.wake(peer.address, peer.sizeBytes);
      await drained(successor);
      assert.equal(batch.faultAddress(0), peer.address);
      successor.copy(peer.address, source.address, PAGE);
      assert.equal(await peer.answer(), "66");
    },
  );
});
