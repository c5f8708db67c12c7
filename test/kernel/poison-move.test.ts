/** UFFDIO_POISON (Linux ≥ 6.6) and UFFDIO_MOVE (Linux ≥ 6.8). */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { EFAULT, MADV_DONTNEED } from "../../src/linux/abi-posix.ts";
import { createMemfd, MappedRegion } from "../../src/linux/memory.ts";
import { viewOf } from "../../src/linux/sys.ts";
import type { UffdFeature } from "../../src/uffd/features.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";
import { requires } from "../support/requires.ts";
import { PAGE, Stage } from "../support/stage.ts";

const access = requires("userfaultfd");

function needsFeature(name: UffdFeature): { skip?: string } {
  if (access.skip !== undefined || Userfaultfd.supportedFeatures().has(name)) return access;
  return { skip: `this kernel has no userfaultfd feature ${name}` };
}

describe("poison", () => {
  const needs = needsFeature("poison");

  test("a kernel access to the page gets EFAULT", needs, async () => {
    await using stage = new Stage();
    using target = createMemfd("target");
    const address = stage.page(0);
    const touch = stage.toucher().start({ what: "writeFrom", fd: target.fd, address });
    await stage.drained();
    assert.equal(stage.uffd.poison(address, PAGE), "installed");
    assert.equal(stage.uffd.doneBytes, PAGE);
    assert.equal(await touch.done(), -EFAULT);
  });

  test("alreadyPresent: twice, or on a page that is there; partial before one", needs, async () => {
    await using stage = new Stage();
    stage.uffd.poison(stage.page(2), PAGE);
    assert.equal(stage.uffd.poison(stage.page(2), PAGE), "alreadyPresent");
    assert.equal(stage.uffd.poison(stage.page(0), 4 * PAGE), "partial");
    assert.equal(stage.uffd.doneBytes, 2 * PAGE);
  });

  test("MADV_DONTNEED clears it, and copy may replace it", needs, async () => {
    await using stage = new Stage();
    stage.uffd.poison(stage.page(0), 2 * PAGE);
    assert.equal(stage.uffd.copy(stage.page(0), stage.source(), PAGE), "installed");
    assert.equal(stage.presentByte(stage.page(0)), 1);
    stage.memory.advise(PAGE, PAGE, MADV_DONTNEED);
    const touch = stage.toucher().read(stage.page(1));
    await stage.drained();
    stage.uffd.zeropage(stage.page(1), PAGE);
    assert.equal(await touch.done(), 0);
  });
});

describe("move", () => {
  const needs = needsFeature("move");

  test("the page leaves its old place and resolves the fault", needs, async () => {
    await using stage = new Stage();
    const source = stage.source();
    const touch = stage.toucher().read(stage.page(0));
    await stage.drained();
    assert.equal(stage.uffd.move(stage.page(0), source + PAGE, PAGE), "installed");
    assert.equal(await touch.done(), 2);
    assert.equal(new Uint8Array(viewOf(source + PAGE, 1))[0], 0, "the source is empty now");
  });

  test("alreadyPresent: the target is there", needs, async () => {
    await using stage = new Stage();
    const source = stage.source();
    stage.uffd.copy(stage.page(0), source, PAGE);
    assert.equal(stage.uffd.move(stage.page(0), source, PAGE), "alreadyPresent");
  });

  test("unregistered: the source is a hole, unless allowed", needs, async () => {
    await using stage = new Stage();
    const empty = stage.own(MappedRegion.anonymous(PAGE));
    assert.equal(stage.uffd.move(stage.page(0), empty.address, PAGE), "unregistered");
    const options = { allowSourceHoles: true };
    assert.equal(stage.uffd.move(stage.page(0), empty.address, PAGE, options), "installed");
  });
});
