/**
 * What a VMM tells KVM about a piece of guest memory on guest_memfd, as the kernel reads it. PURE.
 *
 *     guest memory ── vCPU ──► guest_memfd at `offsetBytes`, unless the page's bit is set
 *                  └─ VMM ───► its mapping of the same bytes; KVM's own accesses take this way too
 */
import * as abi from "./abi-kvm-userfault.ts";
import { writeU64 } from "./layout.ts";

export interface GuestMemfdSlot {
  readonly slot: number;
  readonly guestAddress: number;
  readonly sizeBytes: number;
  /** Where the VMM has mapped the same bytes. */
  readonly hostAddress: number;
  readonly guestMemfd: number;
  readonly offsetBytes: number;
  /** Where the VMM has the slot's bitmap, bit 0 for its first page. Null: no KVM Userfault. */
  readonly bitmapAddress: number | null;
}

/** A `kvm_userspace_memory_region2` as words. */
export function encodeGuestMemfdSlot(slot: GuestMemfdSlot): Uint32Array<ArrayBuffer> {
  const { size, offset } = abi.kvm_userspace_memory_region2;
  const words = new Uint32Array(size / 4);
  const userfault = slot.bitmapAddress === null ? 0 : abi.KVM_MEM_USERFAULT;
  words[offset.slot >>> 2] = slot.slot;
  words[offset.flags >>> 2] = abi.KVM_MEM_GUEST_MEMFD | userfault;
  writeU64(words, offset.guest_phys_addr, slot.guestAddress);
  writeU64(words, offset.memory_size, slot.sizeBytes);
  writeU64(words, offset.userspace_addr, slot.hostAddress);
  writeU64(words, offset.guest_memfd_offset, slot.offsetBytes);
  words[offset.guest_memfd >>> 2] = slot.guestMemfd;
  writeU64(words, offset.userfault_bitmap, slot.bitmapAddress ?? 0);
  return words;
}
