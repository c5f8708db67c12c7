/** What a rescue rests on: another process's userfaultfd, its registered memory, its pages. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { createLogger } from "../../src/daemon/log.ts";
import { Rescue } from "../../src/daemon/rescue.ts";
import { findPresent } from "../../src/daemon/rescue-pages.ts";
import { MappedRegion } from "../../src/linux/memory.ts";
import { openPidfd } from "../../src/linux/process.ts";
import { registeredAreas } from "../../src/linux/process-areas.ts";
import {
  duplicateFromProcess,
  isSameFile,
  otherHolders,
  userfaultfdInfo,
  userfaultfdsOf,
} from "../../src/linux/process-fds.ts";
import { PageState } from "../../src/pager/page-table.ts";
import { RegionMap } from "../../src/snapshot/regions.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { MemoryPeer } from "../support/memory-peer.ts";
import { requires } from "../support/requires.ts";
import { PAGE, Stage } from "../support/stage.ts";

const needs = requires("userfaultfd", "root");

describe("a userfaultfd of another process", needs, () => {
  test("is found and duplicated, and is the same", async () => {
    await using peer = await MemoryPeer.start({ keep: true, features: ["eventRemove"] });
    const pid = peer.process.pid!;
    const [fd, ...more] = userfaultfdsOf(pid);
    assert.ok(fd !== undefined);
    assert.deepEqual(more, []);
    using pidfd = openPidfd(pid);
    using duplicate = duplicateFromProcess(pid, pidfd.fd, fd);
    const own = { pid: process.pid, fd: duplicate.fd };
    assert.equal(isSameFile(own, { pid, fd }), true);
    assert.equal(isSameFile(own, { pid: process.pid, fd: peer.uffd.fd }), true);
    using stranger = Userfaultfd.create();
    assert.equal(isSameFile(own, { pid: process.pid, fd: stranger.fd }), false);
    assert.equal(isSameFile(own, { pid: 2 ** 22 + 1, fd }), null);
    assert.deepEqual(otherHolders(duplicate.fd, -1).holders, [{ pid, fd, isCertain: true }]);
    assert.deepEqual(otherHolders(duplicate.fd, pid).holders, []);
    assert.deepEqual(userfaultfdInfo(duplicate.fd), { pending: 0, waiting: 0, features: 8 });
  });

  test("a fault that was read still counts as a waiting thread, and comes again", async () => {
    await using peer = await MemoryPeer.start({ keep: true });
    peer.say(`read ${2 * PAGE}`);
    await using stage = new Stage();
    while (peer.uffd.drain(stage.batch) === 0) await new Promise(setImmediate);
    const { pending, waiting } = userfaultfdInfo(peer.uffd.fd);
    assert.deepEqual({ pending, waiting }, { pending: 0, waiting: 1 });
    assert.equal(peer.uffd.drain(stage.batch), 0);
    peer.uffd.wake(peer.address, peer.sizeBytes);
    while (peer.uffd.drain(stage.batch) === 0) await new Promise(setImmediate);
    assert.equal(stage.batch.faultAddress(0), peer.address + 2 * PAGE);
    assert.equal(peer.uffd.zeropage(peer.address + 2 * PAGE, PAGE), "installed");
    assert.equal(await peer.answer(), "0");
  });
});

describe("the memory of another process", needs, () => {
  test("that is registered is told by smaps, and what is there by pagemap", async () => {
    await using peer = await MemoryPeer.start({ keep: true });
    const pid = peer.process.pid!;
    const areas = registeredAreas(pid);
    const modes = { isMissing: true, isWriteProtect: false, isMinor: false };
    const end = peer.address + peer.sizeBytes;
    assert.deepEqual(areas, [{ start: peer.address, end, pageSizeBytes: PAGE, ...modes }]);
    await using stage = new Stage();
    peer.uffd.copy(peer.address + 3 * PAGE, stage.source(), PAGE);
    peer.uffd.zeropage(peer.address + 5 * PAGE, PAGE);
    const present = findPresent(pid, areas, false);
    assert.equal(present.count, 2);
    assert.deepEqual(present.samples, [], "pages of one byte prove nothing");
    const table = present.memoryFor(regionsOf(peer)).pageTable;
    const there = Array.from({ length: 16 }, (_, page) => table.get(page) === PageState.installed);
    assert.deepEqual(
      there.flatMap((isThere, page) => (isThere ? [page] : [])),
      [3, 5],
    );
  });

  test("pages that were there, and are dropped later without a word, are zero", async () => {
    using folder = new TestFolder();
    const memory = folder.at("memory");
    const bytes = writeFull(memory, 16);
    await using peer = await MemoryPeer.start({ keep: true });
    await using stage = new Stage();
    const source = stage.own(MappedRegion.anonymous(PAGE));
    new Uint8Array(source.view()).set(bytes.subarray(3 * PAGE, 4 * PAGE));
    peer.uffd.copy(peer.address + 3 * PAGE, source.address, PAGE);
    const rescue = await Rescue.start({
      ...{
        pid: peer.process.pid!,
        memory,
        layers: [],
        regions: [],
        logger: createLogger("error", "json"),
      },
      ...{ hasNoBalloon: false, isForced: false, isUnproven: false, completes: false },
      onError: "kill",
    });
    try {
      peer.say(`read ${3 * PAGE}`);
      assert.equal(await peer.answer(), String(bytes[3 * PAGE]));
      peer.say(`read ${4 * PAGE}`);
      assert.equal(await peer.answer(), String(bytes[4 * PAGE]));
      peer.say(`drop ${3 * PAGE}`);
      assert.equal(await peer.answer(), "dropped");
      peer.say(`read ${3 * PAGE}`);
      assert.equal(await peer.answer(), "0", "its snapshot bytes would be stale");
    } finally {
      await rescue.close();
    }
  });
});

function regionsOf(peer: MemoryPeer): RegionMap {
  const region = { baseHostAddress: peer.address, sizeBytes: peer.sizeBytes, imageOffset: 0 };
  return new RegionMap([region as never], PAGE);
}
