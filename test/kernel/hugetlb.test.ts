/** What is different with 2 MiB pages. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, openSync, readSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { SysError } from "../../src/base/errors.ts";
import { HUGE_PAGE_BYTES } from "../../src/base/units.ts";
import {
  MAP_NORESERVE,
  MAP_SHARED,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
} from "../../src/linux/abi-posix.ts";
import { OwnedFd } from "../../src/linux/fd.ts";
import { MappedRegion } from "../../src/linux/memory.ts";
import * as sys from "../../src/linux/sys.ts";
import { decodeEvent } from "../../src/uffd/events.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";
import { requires } from "../support/requires.ts";
import { PAGE, Stage } from "../support/stage.ts";

const needs = requires("userfaultfd", "hugepages");
const SIZE_BYTES = 3 * HUGE_PAGE_BYTES;
const PAGES = SIZE_BYTES / PAGE;

function isInvalid(error: unknown): boolean {
  return error instanceof SysError && error.errnoName === "EINVAL";
}

describe("huge pages", () => {
  test("a fault names the whole page, and one copy fills it", needs, async () => {
    await using stage = new Stage({ hugePages: true, sizeBytes: SIZE_BYTES });
    const second = stage.memory.address + HUGE_PAGE_BYTES;
    const touch = stage.toucher().read(second + 5 * PAGE + 17);
    const event = decodeEvent(await stage.drained(), 0, HUGE_PAGE_BYTES);
    assert.ok(event.type === "pagefault");
    assert.equal(event.address, second);
    const outcome = stage.uffd.copy(second, stage.source(PAGES), HUGE_PAGE_BYTES);
    assert.equal(outcome, "installed");
    assert.equal(await touch.done(), 6);
  });

  test("a copy of 4 KiB, and zeropage of any size, throw EINVAL", needs, async () => {
    await using stage = new Stage({ hugePages: true, sizeBytes: SIZE_BYTES });
    const source = stage.source();
    const start = stage.memory.address;
    assert.throws(() => stage.uffd.copy(start, source, PAGE), isInvalid);
    assert.throws(() => stage.uffd.zeropage(start, HUGE_PAGE_BYTES), isInvalid);
  });

  test("partial before a present page, then alreadyPresent", needs, async () => {
    await using stage = new Stage({ hugePages: true, sizeBytes: SIZE_BYTES });
    const source = stage.source(PAGES);
    const start = stage.memory.address;
    stage.uffd.copy(start + HUGE_PAGE_BYTES, source, HUGE_PAGE_BYTES);
    assert.equal(stage.uffd.copy(start, source, SIZE_BYTES), "partial");
    assert.equal(stage.uffd.doneBytes, HUGE_PAGE_BYTES);
    const next = stage.uffd.copy(start + HUGE_PAGE_BYTES, source, HUGE_PAGE_BYTES);
    assert.equal(next, "alreadyPresent");
  });

  test("a page that is present is seen before a source that cannot be read", needs, async () => {
    await using stage = new Stage({ hugePages: true, sizeBytes: SIZE_BYTES });
    const source = stage.own(MappedRegion.anonymous(HUGE_PAGE_BYTES));
    source.protect(0, HUGE_PAGE_BYTES, PROT_NONE);
    const [first, second] = [stage.memory.address, stage.memory.address + HUGE_PAGE_BYTES];
    stage.uffd.copy(first, stage.source(PAGES), HUGE_PAGE_BYTES);
    assert.equal(stage.uffd.copy(first, source.address, HUGE_PAGE_BYTES), "alreadyPresent");
    assert.equal(stage.uffd.copy(second, source.address, HUGE_PAGE_BYTES), "badSource");
  });
});

test(
  "an empty pool says alreadyPresent, of a page that is not there",
  requires("userfaultfd", "hugepages", "root"),
  async (t) => {
    // A mount with a limit of its own stands for the pool: the machine's is not ours to drain.
    const folder = mkdtempSync(join(tmpdir(), "faultline-hugetlbfs-"));
    const options = `size=${HUGE_PAGE_BYTES}`;
    const mount = spawnSync("mount", ["-t", "hugetlbfs", "-o", options, "none", folder]);
    t.after(() => {
      spawnSync("umount", ["--lazy", folder]); // The mapping still holds it.
      rmdirSync(folder);
    });
    if (mount.status !== 0) return t.skip("mounting a hugetlbfs is not allowed here");
    using file = new OwnedFd(openSync(join(folder, "memory"), "w+"));
    // With a reservation (no MAP_NORESERVE) the mapping itself would fail already.
    const [prot, flags] = [PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE];
    const start = sys.mmap(null, SIZE_BYTES, prot, flags, file.fd, 0);
    sys.check(start, "mmap");
    t.after(() => sys.munmap(start, SIZE_BYTES));
    using uffd = Userfaultfd.create();
    uffd.register(start, SIZE_BYTES, ["missing"]);
    using source = MappedRegion.anonymous(HUGE_PAGE_BYTES);
    assert.equal(uffd.copy(start, source.address, HUGE_PAGE_BYTES), "installed");
    const second = start + HUGE_PAGE_BYTES;
    assert.equal(uffd.copy(second, source.address, HUGE_PAGE_BYTES), "alreadyPresent");
    assert.equal(isPresent(second), false);
  },
);

/** Bit 63 of the page's entry in /proc/self/pagemap. */
function isPresent(address: number): boolean {
  const entry = new Uint8Array(8);
  using pagemap = new OwnedFd(openSync("/proc/self/pagemap", "r"));
  readSync(pagemap.fd, entry, 0, 8, (address / PAGE) * 8);
  return entry[7]! >>> 7 === 1;
}
