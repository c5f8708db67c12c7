/**
 * KVM Userfault of today, as a model beside `then.ts`: a bitmap in shared memory instead of the
 * attribute, exits instead of the queue; and, where the guest knows asynchronous page faults, a
 * ring, so that it goes on with something else while the page comes.
 *
 * KVM's own accesses do not look at the bitmap. They go through the VMM's mapping, where
 * userfaultfd has watched all along.
 */
import type { UserfaultBitmap } from "../../src/index.ts";
import {
  KVM_EXIT_MEMORY_FAULT,
  KVM_MEMORY_EXIT_FLAG_USERFAULT,
  PAGE_BYTES,
  type Run,
} from "./then.ts";

/** As many faults of a vCPU may be on their way; one more makes it exit. */
const RING_ENTRIES = 64;

export class KvmNow {
  /** null: no byte is there yet. Shared, as the bitmap is: a handler has both by descriptors. */
  readonly memory: (number | null)[];
  readonly #bitmap: UserfaultBitmap;
  /** What a handler reads without asking the kernel: the faults of the ring, oldest first. */
  readonly ring: number[] = [];
  /** Pages that userfaultfd has told the handler of. */
  readonly userfaultfd: number[] = [];

  constructor(pageCount: number, bitmap: UserfaultBitmap) {
    this.memory = new Array<number | null>(pageCount).fill(null);
    this.#bitmap = bitmap;
  }

  /** KVM_RUN up to a read of this page: the bit alone decides. */
  run(gfn: number): Run {
    if (!this.#bitmap.isSet(gfn)) return { kind: "value", value: this.memory[gfn] ?? 0 };
    const [exitReason, flags] = [KVM_EXIT_MEMORY_FAULT, KVM_MEMORY_EXIT_FLAG_USERFAULT];
    return { kind: "EFAULT", exitReason, flags, gpa: gfn * PAGE_BYTES, sizeBytes: PAGE_BYTES };
  }

  /** The same in a guest that is told "not present", and runs another of its threads meanwhile. */
  runAsync(gfn: number): Run | "guest goes on" {
    if (!this.#bitmap.isSet(gfn) || this.ring.length === RING_ENTRIES) return this.run(gfn);
    this.ring.push(gfn * PAGE_BYTES);
    return "guest goes on";
  }

  /** A read through the VMM's mapping, by itself or by KVM. */
  hostRead(gfn: number): number | "waits" {
    const value = this.memory[gfn];
    if (typeof value === "number") return value;
    this.userfaultfd.push(gfn);
    return "waits";
  }
}
