/**
 * The rings of a vCPU (`pager/apf-ring.ts`) from the other side: KVM's, as its patches say. It
 * believes no index but its own, and looks at completions only when it was signalled. PURE.
 */
import { APF_PAGE_BYTES, APF_RING_ENTRIES } from "../../pager/apf-ring.ts";
import { HandlerFailure } from "../failures.ts";

const NOTIFY_ARMED = 1;
/** What KVM says of a fault that the guest does not wait for. */
export const ASYNC_FLAGS = 0x30;
const TWO_32 = 2 ** 32;
const ENTRY_WORDS = 4;
/** Indices of 32-bit words in the page. */
const word = {
  ...{ version: 0, ringSize: 1, entrySize: 2, flags: 3 },
  ...{ notifyHead: 16, notifyTail: 32, notifyEntries: 48 },
  ...{ completeHead: 304, completeTail: 320, completeEntries: 336 },
} as const;

export class KernelRing {
  readonly page = new ArrayBuffer(APF_PAGE_BYTES);
  /** The complete eventfd was signalled, and KVM has not looked yet. */
  isSignalled = false;
  readonly #words = new Uint32Array(this.page);
  #notifyHead: number;
  #completeTail: number;

  /** `start`: where all indices begin, as they may be about to wrap. */
  constructor(start: number) {
    const words = this.#words;
    words[word.version] = 1;
    words[word.ringSize] = APF_RING_ENTRIES;
    words[word.entrySize] = ENTRY_WORDS * 4;
    for (const index of [word.notifyHead, word.notifyTail, word.completeHead, word.completeTail]) {
      words[index] = start;
    }
    this.#notifyHead = start >>> 0;
    this.#completeTail = start >>> 0;
  }

  get hasRoom(): boolean {
    const waiting = (this.#notifyHead - this.#words[word.notifyTail]!) >>> 0;
    return waiting < APF_RING_ENTRIES;
  }

  /** A fault becomes visible. Whether the handler wants to be told is looked at after that. */
  publish(gpa: number): void {
    const words = this.#words;
    const entry = word.notifyEntries + (this.#notifyHead % APF_RING_ENTRIES) * ENTRY_WORDS;
    words[entry] = gpa >>> 0;
    words[entry + 1] = Math.floor(gpa / TWO_32);
    words[entry + 2] = ASYNC_FLAGS;
    this.#notifyHead = (this.#notifyHead + 1) >>> 0;
    words[word.notifyHead] = this.#notifyHead;
  }

  /** Whether the notify eventfd is signalled for it. */
  takeArmed(): boolean {
    const words = this.#words;
    const isArmed = (words[word.flags]! & NOTIFY_ARMED) !== 0;
    words[word.flags] = words[word.flags]! & ~NOTIFY_ARMED;
    return isArmed;
  }

  /** What is complete, if KVM was told that something is. */
  takeCompletions(onComplete: (gpa: number) => void): void {
    if (!this.isSignalled) return;
    this.isSignalled = false;
    const words = this.#words;
    const count = (words[word.completeHead]! - this.#completeTail) >>> 0;
    if (count > APF_RING_ENTRIES) throw new HandlerFailure(`${count} completions in a ring of 64`);
    for (let left = count; left > 0; left--) {
      const slot = this.#completeTail % APF_RING_ENTRIES;
      const entry = word.completeEntries + slot * ENTRY_WORDS;
      if (words[entry + 2] !== 0) throw new HandlerFailure("a completion has flags");
      onComplete(words[entry]! + words[entry + 1]! * TWO_32);
      this.#completeTail = (this.#completeTail + 1) >>> 0;
    }
    words[word.completeTail] = this.#completeTail;
  }
}
