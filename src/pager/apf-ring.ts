/**
 * The page that KVM shares for one vCPU's asynchronous page faults, seen from the handler's side:
 * two rings of 64 entries, through which faults come and completions go without a system call.
 *
 *     KVM ── notify ring ──► handler      head is KVM's, tail is ours
 *     KVM ◄─ complete ring ─ handler      head is ours, tail is KVM's
 *
 * Indices run freely through 2^32; the entry of index n is n modulo 64. An index is published after
 * the entries that it covers, and read before them. x86-64 only, as in the kernel.
 *
 * Atomics are specified for shared buffers only. On mapped memory V8 runs the same machine code:
 * docs/decisions/0021-atomics-on-mapped-memory.md.
 */
import { FaultlineError } from "../base/errors.ts";

/** Bytes of the page. Where it lies in a vCPU's descriptor: `linux/apf-page.ts`. */
export const APF_PAGE_BYTES = 4096;
export const APF_RING_ENTRIES = 64;

const VERSION = 1;
const ENTRY_BYTES = 16;
/** Bit 0 of the header's flags: KVM signals the eventfd at the next fault, and clears the bit. */
const NOTIFY_ARMED = 1;

/** Indices of 32-bit words in the page. */
const word = {
  version: 0,
  ringSize: 1,
  entrySize: 2,
  flags: 3,
  notifyHead: 16,
  notifyTail: 32,
  notifyEntries: 48,
  completeHead: 304,
  completeTail: 320,
  completeEntries: 336,
} as const;
const ENTRY_WORDS = ENTRY_BYTES / 4;
const TWO_32 = 2 ** 32;

/** One vCPU's rings. They belong to one thread. */
export class ApfRing {
  readonly #words: Uint32Array<ArrayBuffer>;
  // Private, as KVM's are: what another process writes into our indices confuses nobody.
  #notifyTail: number;
  #completeHead: number;

  /** @throws FaultlineError `handshake`: a page of another version or shape */
  constructor(page: ArrayBuffer) {
    const words = new Uint32Array(page, 0, APF_PAGE_BYTES / 4);
    const found = [words[word.version], words[word.ringSize], words[word.entrySize]];
    const wanted = [VERSION, APF_RING_ENTRIES, ENTRY_BYTES];
    if (found.some((value, index) => value !== wanted[index])) {
      throw new FaultlineError(
        "handshake",
        `A vCPU's ring has version ${found[0]}, ${found[1]} entries of ${found[2]} bytes; ` +
          `version ${VERSION}, ${APF_RING_ENTRIES} of ${ENTRY_BYTES} can be served.`,
      );
    }
    this.#words = words;
    this.#notifyTail = Atomics.load(words, word.notifyTail);
    this.#completeHead = Atomics.load(words, word.completeHead);
  }

  /**
   * Hands over the faults that are there, and gives their entries back to KVM. Returns their
   * number; -1 if the indices make no sense, as only a broken or hostile VMM can bring about.
   */
  drain(onFault: (gpa: number, flags: number) => void): number {
    const words = this.#words;
    const head = Atomics.load(words, word.notifyHead);
    const count = (head - this.#notifyTail) >>> 0;
    if (count > APF_RING_ENTRIES) return -1;
    for (let index = 0; index < count; index++) {
      const slot = (this.#notifyTail + index) % APF_RING_ENTRIES;
      const entry = word.notifyEntries + slot * ENTRY_WORDS;
      onFault(words[entry]! + words[entry + 1]! * TWO_32, words[entry + 2]!);
    }
    if (count === 0) return 0;
    this.#notifyTail = head;
    Atomics.store(words, word.notifyTail, head);
    return count;
  }

  /**
   * Before sleeping on the notify eventfd: asks KVM to signal it. False if a fault came meanwhile:
   * drain, do not sleep. KVM publishes a fault and then looks at the flag; we raise the flag and
   * then look for a fault. Both are atomic with a full fence, so at least one sees the other's.
   */
  arm(): boolean {
    const words = this.#words;
    Atomics.or(words, word.flags, NOTIFY_ARMED);
    if (Atomics.load(words, word.notifyHead) === this.#notifyTail) return true;
    Atomics.and(words, word.flags, ~NOTIFY_ARMED);
    return false;
  }

  /**
   * Says that a page is there. KVM sees it when the complete eventfd is signalled. False if the
   * ring is full: signal, and try again.
   */
  complete(gpa: number): boolean {
    const words = this.#words;
    const head = this.#completeHead;
    const waiting = (head - Atomics.load(words, word.completeTail)) >>> 0;
    if (waiting >= APF_RING_ENTRIES) return false;
    const entry = word.completeEntries + (head % APF_RING_ENTRIES) * ENTRY_WORDS;
    words[entry] = gpa >>> 0;
    words[entry + 1] = (gpa / TWO_32) >>> 0;
    words[entry + 2] = 0;
    words[entry + 3] = 0;
    this.#completeHead = (head + 1) >>> 0;
    Atomics.store(words, word.completeHead, this.#completeHead);
    return true;
  }
}
