/** Descriptors and mappings with one owner, memfds, and the holes of sparse files. */
import assert from "node:assert/strict";
import { ftruncateSync, openSync, readSync, writeSync } from "node:fs";
import { describe, test } from "node:test";
import { AssertionError } from "../../src/base/assert.ts";
import { SysError } from "../../src/base/errors.ts";
import { MADV_DONTNEED, PROT_NONE, PROT_READ } from "../../src/linux/abi-posix.ts";
import {
  describeFd,
  duplicateFd,
  isNonblocking,
  OwnedFd,
  setNonblocking,
} from "../../src/linux/fd.ts";
import { dataExtents } from "../../src/linux/file.ts";
import { createMemfd, MappedRegion } from "../../src/linux/memory.ts";
import * as sys from "../../src/linux/sys.ts";
import { createSizedMemfd, PAGE } from "../support/stage.ts";

describe("OwnedFd", () => {
  test("closes once, and never the next owner of its number", () => {
    const first = new OwnedFd(openSync("/dev/null", "r"));
    const number = first.fd;
    first.close();
    using second = new OwnedFd(openSync("/dev/zero", "r"));
    assert.equal(second.fd, number);
    first.close();
    assert.equal(describeFd(number), "/dev/zero");
  });

  test("hands its descriptor over, and is closed from then on", () => {
    const owner = new OwnedFd(openSync("/dev/null", "r"));
    using heir = new OwnedFd(owner.intoRawFd());
    assert.equal(owner.isOpen, false);
    assert.throws(() => owner.fd, AssertionError);
    assert.throws(() => owner.intoRawFd(), AssertionError);
    owner.close();
    assert.equal(describeFd(heir.fd), "/dev/null");
  });

  test("takes no number that cannot be a descriptor", () => {
    for (const number of [-1, 1.5, Number.NaN]) {
      assert.throws(() => new OwnedFd(number), AssertionError);
    }
  });

  test("is closed at the end of its scope", () => {
    let number = -1;
    {
      using fd = new OwnedFd(openSync("/dev/null", "r"));
      number = fd.fd;
    }
    assert.equal(describeFd(number), "a closed descriptor");
  });

  test("a duplicate has a number of its own and shares the flags", () => {
    using memfd = createMemfd("flags");
    using twin = duplicateFd(memfd.fd);
    assert.notEqual(twin.fd, memfd.fd);
    assert.equal(isNonblocking(twin.fd), false);
    setNonblocking(memfd.fd);
    assert.equal(isNonblocking(twin.fd), true);
  });
});

describe("MappedRegion", () => {
  test("anonymous memory is zero, and forgets on MADV_DONTNEED", () => {
    using region = MappedRegion.anonymous(2 * PAGE);
    const bytes = new Uint8Array(region.view());
    assert.equal(bytes.length, 2 * PAGE);
    assert.ok(bytes.every((byte) => byte === 0));
    bytes.fill(7);
    region.advise(0, PAGE, MADV_DONTNEED);
    assert.deepEqual([bytes[0], bytes[PAGE]], [0, 7]);
  });

  test("two shared mappings of a memfd are one memory, and the file", () => {
    using memfd = createSizedMemfd("shared", PAGE);
    using first = MappedRegion.shared(memfd.fd, PAGE);
    using second = MappedRegion.shared(memfd.fd, PAGE);
    new Uint8Array(first.view())[5] = 42;
    assert.equal(new Uint8Array(second.view())[5], 42);
    const byte = new Uint8Array(1);
    readSync(memfd.fd, byte, 0, 1, 5);
    assert.equal(byte[0], 42);
  });

  test("a mapped file outlives its descriptor", () => {
    const memfd = createSizedMemfd("read-only", PAGE);
    writeSync(memfd.fd, "hello", 0);
    using region = MappedRegion.readOnlyFile(memfd.fd, PAGE);
    memfd.close();
    assert.equal(Buffer.from(region.view()).toString("utf8", 0, 5), "hello");
  });

  test("protect takes rights away from the kernel's accesses too", () => {
    using region = MappedRegion.anonymous(PAGE);
    using memfd = createMemfd("target");
    region.protect(0, PAGE, PROT_NONE);
    assert.equal(sys.write(memfd.fd, region.address, 1), -1);
    assert.equal(sys.sysError("write").errnoName, "EFAULT");
    region.protect(0, PAGE, PROT_READ);
    assert.equal(sys.write(memfd.fd, region.address, 1), 1);
  });

  test("is unmapped once; a view is refused from then on", () => {
    const region = MappedRegion.anonymous(PAGE);
    region.unmap();
    region.unmap();
    assert.throws(() => region.view(), AssertionError);
  });

  test("advise and protect stay inside", () => {
    using region = MappedRegion.anonymous(PAGE);
    assert.throws(() => region.advise(PAGE, PAGE, MADV_DONTNEED), AssertionError);
    assert.throws(() => region.protect(0, 2 * PAGE, PROT_NONE), AssertionError);
  });

  test("more than there is address space is refused by name", () => {
    assert.throws(
      () => MappedRegion.anonymous(2 ** 50),
      (error) => error instanceof SysError && error.message.startsWith("mmap 1125899906842624"),
    );
    assert.throws(() => MappedRegion.anonymous(0), AssertionError);
  });
});

describe("dataExtents", () => {
  test("finds the data between the holes", () => {
    using memfd = createSizedMemfd("sparse", 16 * PAGE);
    for (const page of [1, 2, 7])
      writeSync(memfd.fd, new Uint8Array(PAGE).fill(1), 0, PAGE, page * PAGE);
    assert.deepEqual(dataExtents(memfd.fd, 16 * PAGE), [
      { start: PAGE, end: 3 * PAGE },
      { start: 7 * PAGE, end: 8 * PAGE },
    ]);
  });

  test("a file of data alone is one extent, to its last byte", () => {
    using memfd = createMemfd("dense");
    writeSync(memfd.fd, new Uint8Array(2 * PAGE + 10).fill(1));
    assert.deepEqual(dataExtents(memfd.fd, 2 * PAGE + 10), [{ start: 0, end: 2 * PAGE + 10 }]);
  });

  test("nothing but a hole, or nothing at all, has no extent", () => {
    using memfd = createSizedMemfd("hole", 16 * PAGE);
    assert.deepEqual(dataExtents(memfd.fd, 16 * PAGE), []);
    ftruncateSync(memfd.fd, 0);
    assert.deepEqual(dataExtents(memfd.fd, 0), []);
  });

  test("stops at the size it was told", () => {
    using memfd = createMemfd("longer");
    writeSync(memfd.fd, new Uint8Array(4 * PAGE).fill(1));
    assert.deepEqual(dataExtents(memfd.fd, PAGE), [{ start: 0, end: PAGE }]);
  });

  test("a descriptor that cannot seek is refused", () => {
    using device = new OwnedFd(openSync("/dev/null", "r"));
    assert.deepEqual(dataExtents(device.fd, 0), []);
    assert.throws(() => dataExtents(-1, PAGE), SysError);
  });
});
