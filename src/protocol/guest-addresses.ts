/**
 * The way from a guest physical address to a page of the memory image. vCPU faults of a VM with
 * KVM Userfault are told in the guest's addresses, which have holes where devices are:
 *
 *     guest     0 ├── region 0 ──┤ 3 GiB … 4 GiB ├── region 1 ──┤
 *     image     0 ├── region 0 ──┼── region 1 ──┤
 *
 * PURE.
 */
import { FaultlineError } from "../base/errors.ts";
import { formatHex, isAligned } from "../base/units.ts";

/** A region of guest memory, in bytes. */
export interface GuestAddressRange {
  readonly gpa: number;
  readonly sizeBytes: number;
  readonly imageOffset: number;
}

export class GuestAddressMap {
  readonly ranges: readonly GuestAddressRange[];
  readonly pageSizeBytes: number;

  /** @throws FaultlineError `handshake`: misaligned or overlapping guest addresses */
  constructor(ranges: readonly GuestAddressRange[], pageSizeBytes: number) {
    const flaw = flawOf(ranges, pageSizeBytes);
    if (flaw !== null) {
      throw new FaultlineError("handshake", `The handshake cannot be served: ${flaw}.`);
    }
    this.ranges = ranges;
    this.pageSizeBytes = pageSizeBytes;
  }

  /** The image's page that holds a guest address; -1 if no region does. */
  pageAt(gpa: number): number {
    for (const range of this.ranges) {
      const offset = gpa - range.gpa;
      if (offset < 0 || offset >= range.sizeBytes) continue;
      return Math.floor((range.imageOffset + offset) / this.pageSizeBytes);
    }
    return -1;
  }

  /** The guest address at which a page of the image begins; -1 if no region holds it. */
  addressOf(page: number): number {
    const imageOffset = page * this.pageSizeBytes;
    for (const range of this.ranges) {
      const offset = imageOffset - range.imageOffset;
      if (offset >= 0 && offset < range.sizeBytes) return range.gpa + offset;
    }
    return -1;
  }
}

function flawOf(ranges: readonly GuestAddressRange[], pageSizeBytes: number): string | null {
  for (const [index, { gpa, sizeBytes }] of ranges.entries()) {
    if (!isAligned(gpa, pageSizeBytes)) {
      return `region ${index} has gpa_start ${formatHex(gpa)}, no multiple of its page size`;
    }
    if (!Number.isSafeInteger(gpa + sizeBytes)) return `region ${index} ends beyond 2^53`;
  }
  const sorted = [...ranges].sort((a, b) => a.gpa - b.gpa);
  for (let index = 1; index < sorted.length; index++) {
    const previous = sorted[index - 1]!;
    if (previous.gpa + previous.sizeBytes > sorted[index]!.gpa) {
      return `two regions overlap in their guest addresses at ${formatHex(sorted[index]!.gpa)}`;
    }
  }
  return null;
}
