/**
 * A vCPU's system registers for 64-bit long mode at privilege level 3, without an interrupt table:
 * whatever goes wrong in the guest ends as KVM_EXIT_SHUTDOWN. PURE.
 *
 * Level 3, because KVM inside some virtual machines (PVM) runs it natively and emulates level 0,
 * two thousand times slower and through other fault paths than hardware takes.
 */
import { kvm_segment, kvm_sregs } from "./abi-kvm.ts";
import { writeU64 } from "./layout.ts";

// From the Intel SDM, volume 3: control registers (2.5), EFER (2.2.1), segment types (3.4.5.1).
const CR0_PAGING_PROTECTION = 0x80000031; // PG, NE, ET, PE; not CD and NW, which reset leaves set.
const CR4_PAE = 0x20;
const EFER_LONG_MODE = 0x500; // LME and LMA.
const CODE_EXECUTE_READ_ACCESSED = 11;
const DATA_READ_WRITE_ACCESSED = 3;
const USER_CODE_SELECTOR = 0x33;
const USER_DATA_SELECTOR = 0x2b;

/** A `kvm_sregs` made from that of a fresh vCPU; page tables begin at `pml4Address`. */
export function longModeSystemRegisters(fresh: Uint8Array, pml4Address: number): Uint8Array {
  const registers = Uint8Array.from(fresh);
  const words = new Uint32Array(registers.buffer);
  const at = kvm_sregs.offset;
  writeU64(words, at.cr3, pml4Address);
  writeU64(words, at.cr4, CR4_PAE);
  writeU64(words, at.cr0, CR0_PAGING_PROTECTION);
  writeU64(words, at.efer, EFER_LONG_MODE);
  setFlatSegment(registers, at.cs, { selector: USER_CODE_SELECTOR, isCode: true });
  for (const segment of [at.ss, at.ds, at.es]) {
    setFlatSegment(registers, segment, { selector: USER_DATA_SELECTOR, isCode: false });
  }
  return registers;
}

function setFlatSegment(
  registers: Uint8Array,
  offset: number,
  segment: { readonly selector: number; readonly isCode: boolean },
): void {
  const at = kvm_segment.offset;
  const view = new DataView(registers.buffer, offset, kvm_segment.size);
  view.setBigUint64(at.base, 0n, true);
  view.setUint32(at.limit, 0xffffffff, true);
  view.setUint16(at.selector, segment.selector, true);
  view.setUint8(at.type, segment.isCode ? CODE_EXECUTE_READ_ACCESSED : DATA_READ_WRITE_ACCESSED);
  view.setUint8(at.present, 1);
  view.setUint8(at.dpl, 3);
  view.setUint8(at.db, segment.isCode ? 0 : 1); // Long mode wants L without D.
  view.setUint8(at.s, 1);
  view.setUint8(at.l, segment.isCode ? 1 : 0);
  view.setUint8(at.g, 1);
  view.setUint8(at.unusable, 0);
}
