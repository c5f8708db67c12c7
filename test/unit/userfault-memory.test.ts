/** tinyvm's lazy RAM: which bytes come, in which order, and which faults are not its business. */
import assert from "node:assert/strict";
import { ftruncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { MIB, SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import type { MemoryFault } from "../../src/linux/kvm.ts";
import type { GuestMemfdSlot } from "../../src/linux/kvm-memory-slot.ts";
import { createMemfd, type MappedRegion, viewOf } from "../../src/linux/memory.ts";
import { LOW_MEMORY_BYTES, RAM_GUEST_ADDRESS } from "../../src/tinyvm/memory-layout.ts";
import { type MemoryOwner, UserfaultMemory } from "../../src/tinyvm/userfault-memory.ts";
import { temporaryFolder } from "../support/tinyvm.ts";

const RAM_BYTES = 2 * MIB;
const PAGE = 5;

/** Keeps what KVM would be told; a memfd plays guest_memfd. */
class RecordingVm implements MemoryOwner {
  low: MappedRegion | null = null;
  ram: GuestMemfdSlot | null = null;

  setMemory(_slot: number, _guestAddress: number, memory: MappedRegion): void {
    this.low = memory;
  }

  createGuestMemfd(sizeBytes: number): ReturnType<MemoryOwner["createGuestMemfd"]> {
    const memfd = createMemfd("guest");
    ftruncateSync(memfd.fd, sizeBytes);
    return memfd;
  }

  setGuestMemfd(slot: GuestMemfdSlot): void {
    this.ram = slot;
  }
}

/** Each page of the file is filled with its number, modulo 251. */
function memoryFile(folder: string): string {
  const bytes = new Uint8Array(LOW_MEMORY_BYTES + RAM_BYTES);
  for (let page = 0; page * SMALL_PAGE_BYTES < bytes.length; page++) {
    bytes.fill(page % 251, page * SMALL_PAGE_BYTES, (page + 1) * SMALL_PAGE_BYTES);
  }
  const path = join(folder, "memory");
  writeFileSync(path, bytes);
  return path;
}

const faultAt = (guestAddress: number, isUserfault = true): MemoryFault => ({
  guestAddress,
  sizeBytes: SMALL_PAGE_BYTES,
  isUserfault,
  isAsync: false,
});

describe("tinyvm's memory on guest_memfd", () => {
  test("low memory is there, RAM is not, and one fault brings one page", () => {
    using folder = temporaryFolder();
    const vm = new RecordingVm();
    const memory = new UserfaultMemory(vm, RAM_BYTES, memoryFile(folder.path));
    const low = new Uint8Array(vm.low!.view());
    assert.equal(low[3 * SMALL_PAGE_BYTES], 3);
    assert.equal(vm.ram!.guestAddress, RAM_GUEST_ADDRESS);
    assert.equal(vm.ram!.sizeBytes, RAM_BYTES);
    const ram = new Uint8Array(viewOf(vm.ram!.hostAddress, RAM_BYTES));
    const bits = new Uint8Array(viewOf(vm.ram!.bitmapAddress!, RAM_BYTES / SMALL_PAGE_BYTES / 8));
    assert.ok(ram.every((byte) => byte === 0));
    assert.ok(bits.every((byte) => byte === 0xff));

    assert.equal(memory.populate(faultAt(RAM_GUEST_ADDRESS + PAGE * SMALL_PAGE_BYTES)), true);
    const filePage = (LOW_MEMORY_BYTES / SMALL_PAGE_BYTES + PAGE) % 251;
    for (const [index, byte] of ram.entries()) {
      const isThere = Math.floor(index / SMALL_PAGE_BYTES) === PAGE;
      if (byte !== (isThere ? filePage : 0)) assert.fail(`byte ${index} is ${byte}`);
    }
    assert.equal(bits[0], 0xff & ~(1 << PAGE));
    assert.ok(bits.subarray(1).every((byte) => byte === 0xff));
    assert.equal(memory.populatedPages, 1);
  });

  test("what would stop the vCPU again and again is not taken", () => {
    using folder = temporaryFolder();
    const memory = new UserfaultMemory(new RecordingVm(), RAM_BYTES, memoryFile(folder.path));
    assert.equal(memory.populate(faultAt(RAM_GUEST_ADDRESS, false)), false);
    assert.equal(memory.populate(faultAt(RAM_GUEST_ADDRESS - SMALL_PAGE_BYTES)), false);
    assert.equal(memory.populate(faultAt(RAM_GUEST_ADDRESS + RAM_BYTES)), false);
    assert.equal(memory.populatedPages, 0);
    assert.equal(memory.populate(faultAt(RAM_GUEST_ADDRESS)), true);
    assert.equal(memory.populate(faultAt(RAM_GUEST_ADDRESS)), false);
  });

  test("a memory file that is too short is said to be of another snapshot", () => {
    using folder = temporaryFolder();
    const path = memoryFile(folder.path);
    const memory = new UserfaultMemory(new RecordingVm(), RAM_BYTES + 2 * MIB, path);
    assert.throws(
      () => memory.populate(faultAt(RAM_GUEST_ADDRESS + RAM_BYTES)),
      /The memory file ends before byte \d+: it is of another snapshot\./,
    );
  });
});
