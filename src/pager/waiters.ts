/**
 * Who waits for which page of a VM with KVM Userfault. With userfaultfd alone the kernel knows
 * that; here most who wait have to be answered one by one, each in the way in which it asked.
 *
 * The columns may lie in memory that outlives the process: what was taken from a socket or a ring,
 * and not answered, is known nowhere else. An entry is written before the count that covers it, and
 * the last one is copied before the count leaves it out: a process that dies in between leaves an
 * entry twice, never one too few.
 *
 * PURE.
 */
import { assert } from "../base/assert.ts";

export const WaiterKind = {
  /** A vCPU that is stopped until it has its reply on the first socket. */
  request: 0,
  /** A guest that goes on meanwhile: its reply goes to the second socket. */
  asyncRequest: 1,
  /** The same, by the rings of its vCPU. */
  ring: 2,
  /** Threads that touched the VMM's own mapping: an event of the userfaultfd. */
  event: 3,
} as const;
export type WaiterKind = (typeof WaiterKind)[keyof typeof WaiterKind];

/**
 * 32 vCPUs, each with one fault that stops it and 64 that do not, and as many threads of the VMM
 * again. Who asks for more is no VMM that keeps to the protocol.
 */
export const MAX_WAITERS = 4096;
/** The kind of a waiter whose place another is about to take. */
const NOBODY = 255;
/** The guest address of a request that told none. */
export const NO_GPA = -1;

const HEADER_BYTES = 64;
const WIDE_COLUMNS = 4;

export class Waiters {
  readonly #count: Int32Array;
  readonly pages: Float64Array;
  /** Of a request, to be told again in its reply. */
  readonly flags: Float64Array;
  readonly gpas: Float64Array;
  readonly offsets: Float64Array;
  readonly vcpus: Uint32Array;
  readonly kinds: Uint8Array;
  /** Whose page is there. Not kept: the bitmap knows it. */
  readonly #isReady = new Uint8Array(MAX_WAITERS);
  #readyCount = 0;

  /** In `sizeBytes` of memory from `offsetBytes` on (a multiple of 8); zeroed: nobody waits. */
  constructor(memory: ArrayBufferLike, offsetBytes = 0) {
    const wide = (column: number): Float64Array =>
      new Float64Array(memory, offsetBytes + HEADER_BYTES + column * MAX_WAITERS * 8, MAX_WAITERS);
    this.#count = new Int32Array(memory, offsetBytes, 1);
    this.pages = wide(0);
    this.flags = wide(1);
    this.gpas = wide(2);
    this.offsets = wide(3);
    const narrow = offsetBytes + HEADER_BYTES + WIDE_COLUMNS * MAX_WAITERS * 8;
    this.vcpus = new Uint32Array(memory, narrow, MAX_WAITERS);
    this.kinds = new Uint8Array(memory, narrow + MAX_WAITERS * 4, MAX_WAITERS);
  }

  static readonly sizeBytes = HEADER_BYTES + MAX_WAITERS * (WIDE_COLUMNS * 8 + 4 + 1);

  get length(): number {
    return Atomics.load(this.#count, 0);
  }

  /** How many wait for nothing but their answer. */
  get readyCount(): number {
    return this.#readyCount;
  }

  isReady(index: number): boolean {
    return this.#isReady[index] === 1;
  }

  /** False: there are too many. */
  add(
    kind: WaiterKind,
    vcpu: number,
    page: number,
    flags: number,
    gpa: number,
    offset: number,
  ): boolean {
    const index = this.length;
    if (index === MAX_WAITERS) return false;
    this.kinds[index] = kind;
    this.vcpus[index] = vcpu;
    this.pages[index] = page;
    this.flags[index] = flags;
    this.gpas[index] = gpa;
    this.offsets[index] = offset;
    this.#isReady[index] = 0;
    Atomics.store(this.#count, 0, index + 1);
    return true;
  }

  /** Whether somebody waits in this way, for this page and for this vCPU. */
  has(kind: WaiterKind, vcpu: number, page: number): boolean {
    const { kinds, vcpus, pages } = this;
    for (let index = this.length - 1; index >= 0; index--) {
      if (pages[index] === page && kinds[index] === kind && vcpus[index] === vcpu) return true;
    }
    return false;
  }

  /** Pages `first` to `end` (exclusive) are there. */
  markReady(first: number, end: number): void {
    const { pages, length } = this;
    for (let index = 0; index < length; index++) {
      if (pages[index]! >= first && pages[index]! < end) this.setReady(index, true);
    }
  }

  /** Whether the page of this one is there. */
  setReady(index: number, isReady: boolean): void {
    const flag = isReady ? 1 : 0;
    this.#readyCount += flag - this.#isReady[index]!;
    this.#isReady[index] = flag;
  }

  /** Whether nobody waits there: who did was about to be replaced when the process died. */
  isVacant(index: number): boolean {
    return this.kinds[index] === NOBODY;
  }

  /**
   * It has its answer. The last one takes its place, which is nobody's until all columns are
   * there: of two waiters mixed into one, the VMM would be told what it has never asked for.
   */
  remove(index: number): void {
    const last = this.length - 1;
    assert(index <= last, "nobody waits there");
    this.setReady(index, false);
    if (index < last) {
      Atomics.store(this.kinds, index, NOBODY);
      this.vcpus[index] = this.vcpus[last]!;
      this.pages[index] = this.pages[last]!;
      this.flags[index] = this.flags[last]!;
      this.gpas[index] = this.gpas[last]!;
      this.offsets[index] = this.offsets[last]!;
      this.#isReady[index] = this.#isReady[last]!;
      Atomics.store(this.kinds, index, this.kinds[last]!);
    }
    Atomics.store(this.#count, 0, last);
  }
}
