/** Session memory: what is written there is found by who adopts it, and outlives its mapping. */
import assert from "node:assert/strict";
import { fstatSync, ftruncateSync, readFileSync, writeSync } from "node:fs";
import { describe, test } from "node:test";
import { AssertionError } from "../../src/base/assert.ts";
import { FaultlineError } from "../../src/base/errors.ts";
import { MAX_HEADER_BYTES, SessionMemory } from "../../src/engine/session-memory.ts";
import { createMemfd } from "../../src/linux/memory.ts";
import { PageState } from "../../src/pager/page-table.ts";

const PAGES = 1000;
const header = Buffer.from(JSON.stringify({ regions: [1, 2, 3] }));

describe("session memory in a memfd", () => {
  test("is found as it was left, and goes on", () => {
    const { memory, fd } = SessionMemory.inMemfd(PAGES, header);
    using owned = fd;
    memory.pageTable.set(999, PageState.removed);
    memory.stats.addRemoved(5);
    memory.stats.addWait(30, 2);
    memory.retire();
    const adopted = SessionMemory.adopt(owned);
    assert.deepEqual(Buffer.from(adopted.header), header);
    assert.equal(adopted.memory.pageTable.pageCount, PAGES);
    assert.equal(adopted.memory.pageTable.get(999), PageState.removed);
    assert.equal(adopted.memory.stats.counters().removedPages, 5);
    assert.equal(adopted.memory.stats.totalUs("wait"), 60);
    adopted.memory.stats.addRemoved(1);
    assert.equal(adopted.memory.stats.counters().removedPages, 6);
    adopted.memory.retire();
  });

  test("can be read when it is retired, and is not mapped any more", () => {
    const { memory, fd } = SessionMemory.inMemfd(PAGES, header);
    using owned = fd;
    const { stats, pageTable } = memory;
    stats.addInstalled(3);
    pageTable.set(1, PageState.installed);
    assert.equal(mappings(), 1);
    memory.retire();
    memory.retire();
    assert.equal(mappings(), 0);
    assert.equal(stats.counters().installedPages, 3);
    assert.equal(pageTable.get(1), PageState.installed);
    stats.addInstalled(1);
    const adopted = SessionMemory.adopt(owned);
    assert.equal(adopted.memory.stats.counters().installedPages, 3, "ours is private by now");
    adopted.memory.retire();
  });

  test("is seen by address, as another thread does", () => {
    const { memory, fd } = SessionMemory.inMemfd(PAGES, header);
    using _ = fd;
    const other = SessionMemory.ofSetup(memory.setup, PAGES);
    other.pageTable.set(7, PageState.pending);
    other.stats.addFault();
    assert.equal(memory.pageTable.get(7), PageState.pending);
    assert.equal(memory.stats.counters().faults, 1);
    memory.retire();
  });

  test("takes headers of up to 1 MiB", () => {
    const { memory, fd } = SessionMemory.inMemfd(1, new Uint8Array(MAX_HEADER_BYTES).fill(7));
    using owned = fd;
    memory.pageTable.set(0, PageState.removed);
    memory.retire();
    const adopted = SessionMemory.adopt(owned);
    assert.equal(adopted.header.length, MAX_HEADER_BYTES);
    assert.ok(adopted.header.every((byte) => byte === 7));
    assert.equal(adopted.memory.pageTable.get(0), PageState.removed);
    adopted.memory.retire();
    const tooLong = new Uint8Array(MAX_HEADER_BYTES + 1);
    assert.throws(
      () => SessionMemory.inMemfd(1, tooLong),
      (error) => error instanceof FaultlineError && error.code === "limit",
    );
  });

  test("of no pages is a bug", () => {
    assert.throws(() => SessionMemory.inMemfd(0, header), AssertionError);
  });
});

describe("a memfd that is no session memory is refused:", () => {
  const wrong: readonly (readonly [string, RegExp, (fd: number) => void])[] = [
    ["an empty one", /it has 0 bytes/, (fd) => ftruncateSync(fd, 0)],
    ["one of zeroes", /something else/, (fd) => putWord(fd, 0, 0)],
    ["one of another version", /version 2, and only 1/, (fd) => putWord(fd, 1, 2)],
    ["one whose header is too long", /header of 2000000 bytes/, (fd) => putWord(fd, 2, 2e6)],
    ["one whose header is no number", /header of NaN bytes/, (fd) => putWord(fd, 2, Number.NaN)],
    ["one without pages", /tells of 0 pages/, (fd) => putWord(fd, 3, 0)],
    ["one of more pages than it has room for", /bytes instead of/, (fd) => putWord(fd, 3, 1e6)],
    ["one that was cut", /bytes instead of/, (fd) => ftruncateSync(fd, fstatSync(fd).size - 1)],
  ];
  for (const [name, message, spoil] of wrong) {
    test(name, () => {
      const { memory, fd } = SessionMemory.inMemfd(PAGES, header);
      using owned = fd;
      memory.retire();
      spoil(owned.fd);
      assert.throws(
        () => SessionMemory.adopt(owned),
        (error) =>
          error instanceof FaultlineError &&
          error.code === "conflict" &&
          message.test(error.message),
      );
      assert.equal(mappings(), 0);
    });
  }

  test("another memfd", () => {
    using fd = createMemfd("stranger");
    ftruncateSync(fd.fd, 65_536);
    assert.throws(() => SessionMemory.adopt(fd), /something else/);
  });
});

function putWord(fd: number, index: number, value: number): void {
  writeSync(fd, new Float64Array([value]), 0, 8, index * 8);
}

/** How many session memories this process has mapped. */
function mappings(): number {
  return readFileSync("/proc/self/maps", "latin1").split("faultline-session").length - 1;
}
