/** What can be registered, and which operations the kernel then offers. See UFFDIO_REGISTER. */
import assert from "node:assert/strict";
import { mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { SysError } from "../../src/base/errors.ts";
import { HUGE_PAGE_BYTES } from "../../src/base/units.ts";
import { OwnedFd } from "../../src/linux/fd.ts";
import { MappedRegion } from "../../src/linux/memory.ts";
import { viewOf } from "../../src/linux/sys.ts";
import { type PageOperation, Userfaultfd } from "../../src/uffd/userfaultfd.ts";
import { requires } from "../support/requires.ts";
import { createSizedMemfd, PAGE, Stage } from "../support/stage.ts";

const needs = requires("userfaultfd");

/** The expected operations, less those that this kernel has not at all. */
function knownHere(...operations: PageOperation[]): Set<PageOperation> {
  const features = Userfaultfd.supportedFeatures();
  return new Set(
    operations.filter((name) => (name !== "move" && name !== "poison") || features.has(name)),
  );
}

function failsWith(errnoName: string): (error: unknown) => boolean {
  return (error) => error instanceof SysError && error.errnoName === errnoName;
}

describe("register offers", () => {
  test("for anonymous memory: wake, copy, zeropage, move, poison", needs, () => {
    using uffd = Userfaultfd.create();
    using memory = MappedRegion.anonymous(PAGE);
    const offered = uffd.register(memory.address, PAGE, ["missing"]);
    assert.deepEqual(offered, knownHere("wake", "copy", "zeropage", "move", "poison"));
  });

  test("writeProtect too, if registered for it, also by a second call", needs, () => {
    using uffd = Userfaultfd.create({ features: ["pagefaultFlagWp"] });
    using memory = MappedRegion.anonymous(PAGE);
    assert.equal(uffd.register(memory.address, PAGE, ["missing"]).has("writeProtect"), false);
    const offered = uffd.register(memory.address, PAGE, ["missing", "writeProtect"]);
    assert.equal(offered.has("writeProtect"), true);
  });

  test("for a memfd in minor mode: continue too", needs, () => {
    using uffd = Userfaultfd.create();
    using memfd = createSizedMemfd("register", PAGE);
    using memory = MappedRegion.shared(memfd.fd, PAGE);
    const offered = uffd.register(memory.address, PAGE, ["missing", "minor"]);
    const expected = knownHere("wake", "copy", "zeropage", "continue", "move", "poison");
    assert.deepEqual(offered, expected);
  });

  test("for huge pages: no zeropage and no move", requires("userfaultfd", "hugepages"), () => {
    using uffd = Userfaultfd.create();
    using memory = MappedRegion.anonymous(HUGE_PAGE_BYTES, { hugePages: true });
    const offered = uffd.register(memory.address, HUGE_PAGE_BYTES, ["missing"]);
    assert.deepEqual(offered, knownHere("wake", "copy", "poison"));
    const minor = uffd.register(memory.address, HUGE_PAGE_BYTES, ["minor"]);
    assert.equal(minor.has("continue"), true);
  });
});

describe("register refuses", () => {
  test("minor mode on private anonymous memory", needs, () => {
    using uffd = Userfaultfd.create();
    using memory = MappedRegion.anonymous(PAGE);
    assert.throws(() => uffd.register(memory.address, PAGE, ["minor"]), failsWith("EINVAL"));
  });

  test("a mapped regular file", needs, (t) => {
    const folder = mkdtempSync(join(tmpdir(), "faultline-register-"));
    t.after(() => rmSync(folder, { recursive: true }));
    writeFileSync(join(folder, "memory"), new Uint8Array(PAGE));
    using file = new OwnedFd(openSync(join(folder, "memory"), "r+"));
    using uffd = Userfaultfd.create();
    using memory = MappedRegion.shared(file.fd, PAGE);
    assert.throws(() => uffd.register(memory.address, PAGE, ["missing"]), failsWith("EINVAL"));
  });

  test("memory that another userfaultfd holds", needs, () => {
    using first = Userfaultfd.create();
    using second = Userfaultfd.create();
    using memory = MappedRegion.anonymous(PAGE);
    first.register(memory.address, PAGE, ["missing"]);
    assert.throws(() => second.register(memory.address, PAGE, ["missing"]), failsWith("EBUSY"));
  });

  test("a range that is not page-aligned", needs, () => {
    using uffd = Userfaultfd.create();
    using memory = MappedRegion.anonymous(PAGE);
    assert.throws(() => uffd.register(memory.address, 100, ["missing"]), failsWith("EINVAL"));
  });

  test("4 KiB of a huge page", requires("userfaultfd", "hugepages"), () => {
    using uffd = Userfaultfd.create();
    using memory = MappedRegion.anonymous(HUGE_PAGE_BYTES, { hugePages: true });
    assert.throws(() => uffd.register(memory.address, PAGE, ["missing"]), failsWith("EINVAL"));
  });
});

describe("unregister", () => {
  test("wakes whoever is blocked, and later touches read zeroes without event", needs, async () => {
    await using stage = new Stage();
    const blocked = stage.toucher().read(stage.page(0));
    await stage.drained();
    stage.uffd.unregister(stage.memory.address, stage.memory.sizeBytes);
    assert.equal(await blocked.done(), 0);
    assert.equal(new Uint8Array(viewOf(stage.page(1), 1))[0], 0);
    assert.equal(stage.uffd.drain(stage.batch), 0);
  });

  test("twice is no error", needs, async () => {
    await using stage = new Stage();
    stage.uffd.unregister(stage.memory.address, stage.memory.sizeBytes);
    stage.uffd.unregister(stage.memory.address, stage.memory.sizeBytes);
  });
});
