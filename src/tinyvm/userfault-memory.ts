/**
 * Guest memory on guest_memfd with a userfault bitmap, filled from the memory file by the VMM
 * itself: the plainest user of KVM Userfault, which needs no handler and no userfaultfd.
 *
 * Only the RAM is lazy. Low memory holds the page tables, and where KVM walks them by itself (PVM)
 * it does not look at the bitmap. KVM does nothing else on its own to a guest of tinyvm: a VMM with
 * devices and clocks would have to watch its mapping by userfaultfd too.
 */
import { openSync, readSync } from "node:fs";
import { FaultlineError } from "../base/errors.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import { UserfaultBitmap } from "../base/userfault-bitmap.ts";
import { GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP } from "../linux/abi-kvm-userfault.ts";
import type { KvmVm, MemoryFault } from "../linux/kvm.ts";
import { MappedRegion } from "../linux/memory.ts";
import { type GuestRegion, guestRegions } from "./memory-layout.ts";

const LOW_SLOT = 0;
const RAM_SLOT = 1;

/** What it asks of a VM. */
export type MemoryOwner = Pick<KvmVm, "setMemory" | "createGuestMemfd" | "setGuestMemfd">;

export class UserfaultMemory {
  readonly #file: number;
  readonly #region: GuestRegion;
  readonly #bytes: Uint8Array;
  readonly #bitmap: UserfaultBitmap;
  /** Pages that the vCPU has asked for. */
  populatedPages = 0;

  /**
   * Gives a VM its memory; all of its RAM is missing. File and mappings stay to the end of this
   * process: KVM reads the bitmap at every fault.
   */
  constructor(vm: MemoryOwner, ramBytes: number, memoryFile: string) {
    const [low, ram] = guestRegions(ramBytes);
    this.#file = openSync(memoryFile, "r");
    const lowMapping = MappedRegion.anonymous(low.sizeBytes);
    this.#read(new Uint8Array(lowMapping.view()), low.fileOffset);
    vm.setMemory(LOW_SLOT, low.guestAddress, lowMapping);

    const flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
    const memfd = vm.createGuestMemfd(ram.sizeBytes, flags);
    const mapping = MappedRegion.shared(memfd.fd, ram.sizeBytes);
    this.#region = ram;
    this.#bytes = new Uint8Array(mapping.view());
    const bits = MappedRegion.anonymous(ram.sizeBytes / SMALL_PAGE_BYTES / 8);
    new Uint8Array(bits.view()).fill(0xff);
    this.#bitmap = new UserfaultBitmap(bits.view());
    vm.setGuestMemfd({
      slot: RAM_SLOT,
      guestAddress: ram.guestAddress,
      sizeBytes: ram.sizeBytes,
      hostAddress: mapping.address,
      guestMemfd: memfd.fd,
      offsetBytes: 0,
      bitmapAddress: bits.address,
    });
  }

  /**
   * Bytes first, then the bit. False if no bit of ours was set: the only vCPU would stop there
   * again and again.
   */
  populate(fault: MemoryFault): boolean {
    const offset = fault.guestAddress - this.#region.guestAddress;
    if (!fault.isUserfault || offset < 0 || offset >= this.#region.sizeBytes) return false;
    const page = Math.floor(offset / SMALL_PAGE_BYTES);
    const start = page * SMALL_PAGE_BYTES;
    this.#read(
      this.#bytes.subarray(start, start + SMALL_PAGE_BYTES),
      this.#region.fileOffset + start,
    );
    const count = this.#bitmap.clear(page, page + 1);
    this.populatedPages += count;
    return count > 0;
  }

  #read(target: Uint8Array, offset: number): void {
    for (let done = 0; done < target.length; ) {
      const count = readSync(this.#file, target, done, target.length - done, offset + done);
      if (count === 0) {
        throw new FaultlineError(
          "memory-changed",
          `The memory file ends before byte ${offset + target.length}: it is of another snapshot.`,
        );
      }
      done += count;
    }
  }
}
