/**
 * Decodes what a userfaultfd delivers: `struct uffd_msg`, 32 bytes each. See userfaultfd(2).
 *
 * PURE. `EventBatch` decodes in place and without allocation (the fault engine reads its columns);
 * `decodeEvent` makes an object of one message (everybody else).
 */
import { assert } from "../base/assert.ts";
import { alignDown, type HostAddress, hostAddress } from "../base/units.ts";
import * as abi from "../linux/abi-userfaultfd.ts";
import { readU64 } from "../linux/layout.ts";

/** What a fault wants: a missing page, a minor mapping, or leave to write. */
export type FaultKind = "missing" | "minor" | "write-protect";

export type UffdEvent =
  | {
      readonly type: "pagefault";
      readonly address: HostAddress;
      readonly kind: FaultKind;
      readonly isWrite: boolean;
      /** The faulting thread; 0 without the THREAD_ID feature. */
      readonly threadId: number;
    }
  | { readonly type: "fork"; readonly userfaultfd: number }
  | {
      readonly type: "remap";
      readonly from: HostAddress;
      readonly to: HostAddress;
      readonly lengthBytes: number;
    }
  /** `end` is exclusive. The pages read as missing from now on. */
  | { readonly type: "remove"; readonly start: HostAddress; readonly end: HostAddress }
  | { readonly type: "unmap"; readonly start: HostAddress; readonly end: HostAddress };

/** Messages per read(2): whatever is pending, up to this many, comes in one call. */
export const DRAIN_CAPACITY = 64;

const MESSAGE_BYTES = abi.uffd_msg.size;
const MESSAGE_WORDS = MESSAGE_BYTES / 4;
const at = abi.uffd_msg.offset;

/** Up to `capacity` messages, as the kernel wrote them. Reused from read to read. */
export class EventBatch {
  readonly capacity: number;
  readonly words: Uint32Array<ArrayBuffer>;
  /** How many messages the last drain brought. */
  length = 0;

  /** `words`: memory to use, of `capacity` messages at least. */
  constructor(capacity = DRAIN_CAPACITY, words = new Uint32Array(capacity * MESSAGE_WORDS)) {
    assert(words.length >= capacity * MESSAGE_WORDS, "memory for events too small");
    this.capacity = capacity;
    this.words = words;
  }

  /** The raw `UFFD_EVENT_*` of message `index`. */
  eventCode(index: number): number {
    return this.words[index * MESSAGE_WORDS]! & 0xff;
  }

  /** The `UFFD_PAGEFAULT_FLAG_*` of a page fault. */
  faultFlags(index: number): number {
    return this.words[index * MESSAGE_WORDS + at["arg.pagefault.flags"] / 4]!;
  }

  /** The faulting address: page-aligned unless EXACT_ADDRESS was asked for. */
  faultAddress(index: number): number {
    return readU64(this.words, index * MESSAGE_BYTES + at["arg.pagefault.address"]);
  }

  /** First address of a remove or unmap. */
  rangeStart(index: number): number {
    return readU64(this.words, index * MESSAGE_BYTES + at["arg.remove.start"]);
  }

  /** End, exclusive, of a remove or unmap. */
  rangeEnd(index: number): number {
    return readU64(this.words, index * MESSAGE_BYTES + at["arg.remove.end"]);
  }

  threadId(index: number): number {
    return this.words[index * MESSAGE_WORDS + at["arg.pagefault.feat.ptid"] / 4]!;
  }
}

/** Message `index` as an object. Addresses are rounded down to `pageSizeBytes`. */
export function decodeEvent(batch: EventBatch, index: number, pageSizeBytes: number): UffdEvent {
  const code = batch.eventCode(index);
  const offsetBytes = index * MESSAGE_BYTES;
  switch (code) {
    case abi.UFFD_EVENT_PAGEFAULT:
      return {
        type: "pagefault",
        address: hostAddress(alignDown(batch.faultAddress(index), pageSizeBytes)),
        kind: faultKind(batch.faultFlags(index)),
        isWrite: (batch.faultFlags(index) & abi.UFFD_PAGEFAULT_FLAG_WRITE) !== 0,
        threadId: batch.threadId(index),
      };
    case abi.UFFD_EVENT_FORK:
      return { type: "fork", userfaultfd: batch.words[offsetBytes / 4 + at["arg.fork.ufd"] / 4]! };
    case abi.UFFD_EVENT_REMAP:
      return {
        type: "remap",
        from: hostAddress(readU64(batch.words, offsetBytes + at["arg.remap.from"])),
        to: hostAddress(readU64(batch.words, offsetBytes + at["arg.remap.to"])),
        lengthBytes: readU64(batch.words, offsetBytes + at["arg.remap.len"]),
      };
    case abi.UFFD_EVENT_REMOVE:
    case abi.UFFD_EVENT_UNMAP:
      return {
        type: code === abi.UFFD_EVENT_REMOVE ? "remove" : "unmap",
        start: hostAddress(batch.rangeStart(index)),
        end: hostAddress(batch.rangeEnd(index)),
      };
    default:
      throw new Error(`userfaultfd event 0x${code.toString(16)} is unknown to this version.`);
  }
}

function faultKind(flags: number): FaultKind {
  if ((flags & abi.UFFD_PAGEFAULT_FLAG_WP) !== 0) return "write-protect";
  if ((flags & abi.UFFD_PAGEFAULT_FLAG_MINOR) !== 0) return "minor";
  return "missing";
}
