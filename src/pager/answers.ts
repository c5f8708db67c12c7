/**
 * Answers those who waited for pages of a VM with KVM Userfault, each in the way in which it asked.
 * What cannot be said now (a full ring, a socket that takes nothing) is said with the next `flush`.
 *
 * PURE: sockets, eventfds and the userfaultfd are somebody else's.
 */
import type { Outcome } from "../base/outcome.ts";
import type { ApfRing } from "./apf-ring.ts";
import { PageState, type PageTable } from "./page-table.ts";
import { WaiterKind, type Waiters } from "./waiters.ts";

/** The ways to those who wait. */
export interface Wires {
  /** Maps a page that is there for the VMM's threads, and wakes them: UFFDIO_CONTINUE. */
  continuePage(page: number): Outcome;
  /** A page that has lost its memory is zero, for the VMM's threads as for vCPUs: UFFDIO_COPY. */
  zeroPage(page: number): Outcome;
  /** The VMM's threads look again: UFFDIO_WAKE. */
  wakePage(page: number): void;
  /** Puts a reply to what is sent next. `MAX_REPLIES` of them, no more. */
  addReply(vcpu: number, flags: number, gpa: number, offset: number): void;
  /** Sends all of them, or none (false). */
  sendReplies(kind: typeof WaiterKind.request | typeof WaiterKind.asyncRequest): boolean;
  /** KVM looks at the completions of this vCPU. */
  signalCompletions(vcpu: number): void;
}

/** Replies in one write: a socket takes so little at once, or nothing. */
export const MAX_REPLIES = 64;

export class Answers {
  readonly #waiters: Waiters;
  readonly #table: PageTable;
  readonly #rings: readonly ApfRing[];
  readonly #wires: Wires;
  readonly #replied = new Int32Array(MAX_REPLIES);
  /** vCPUs whose ring of completions holds some that KVM was not told of. */
  readonly #isUnsignalled: Uint8Array;

  /** `rings`: of each vCPU that has some, by its number. */
  constructor(waiters: Waiters, table: PageTable, rings: readonly ApfRing[], wires: Wires) {
    this.#waiters = waiters;
    this.#table = table;
    this.#rings = rings;
    this.#wires = wires;
    this.#isUnsignalled = new Uint8Array(rings.length);
  }

  /** Pages `first` to `end` (exclusive) are there, bytes and bits. */
  announce(first: number, end: number): void {
    this.#waiters.markReady(first, end);
    this.flush();
  }

  /** The same for those of them that are noted as installed. */
  announceInstalled(first: number, end: number): void {
    const { pages, length } = this.#waiters;
    for (let index = 0; index < length; index++) {
      const page = pages[index]!;
      if (page < first || page >= end || this.#table.get(page) !== PageState.installed) continue;
      this.#waiters.setReady(index, true);
    }
    this.flush();
  }

  /** Answers whom it can. False: some have to be answered later. */
  flush(): boolean {
    if (this.#waiters.readyCount === 0) return true;
    this.#answerEvents();
    this.#completeRings();
    this.#reply(WaiterKind.request);
    this.#reply(WaiterKind.asyncRequest);
    return this.#waiters.readyCount === 0;
  }

  /** KVM looks at what a handler that has died may have left in the rings. */
  signalAll(): void {
    for (let vcpu = 0; vcpu < this.#rings.length; vcpu++) this.#wires.signalCompletions(vcpu);
  }

  #answerEvents(): void {
    const waiters = this.#waiters;
    for (let index = waiters.length - 1; index >= 0; index--) {
      if (waiters.kinds[index] !== WaiterKind.event || !waiters.isReady(index)) continue;
      if (this.#answerEvent(waiters.pages[index]!)) waiters.remove(index);
    }
  }

  /** True: they go on. False: not now. */
  #answerEvent(page: number): boolean {
    let outcome = this.#wires.continuePage(page);
    if (outcome === "badSource") {
      // Brought and lost again before that was noted: the next flush knows that it is zero.
      if (this.#table.get(page) !== PageState.installed) return false;
      outcome = this.#wires.zeroPage(page);
    }
    if (outcome === "deferred" || outcome === "outOfMemory") return false;
    // Mapped by another fault's answer: the kernel has woken nobody now.
    if (outcome !== "installed" && outcome !== "gone") this.#wires.wakePage(page);
    return true;
  }

  #completeRings(): void {
    const waiters = this.#waiters;
    for (let index = waiters.length - 1; index >= 0; index--) {
      if (waiters.kinds[index] !== WaiterKind.ring || !waiters.isReady(index)) continue;
      const vcpu = waiters.vcpus[index]!;
      this.#isUnsignalled[vcpu] = 1;
      // A full ring: KVM is told, and takes what is there.
      if (this.#rings[vcpu]!.complete(waiters.gpas[index]!)) waiters.remove(index);
    }
    for (let vcpu = 0; vcpu < this.#isUnsignalled.length; vcpu++) {
      if (this.#isUnsignalled[vcpu] === 0) continue;
      this.#isUnsignalled[vcpu] = 0;
      this.#wires.signalCompletions(vcpu);
    }
  }

  #reply(kind: typeof WaiterKind.request | typeof WaiterKind.asyncRequest): void {
    const waiters = this.#waiters;
    for (;;) {
      let count = 0;
      for (let index = 0; index < waiters.length && count < MAX_REPLIES; index++) {
        if (waiters.kinds[index] !== kind || !waiters.isReady(index)) continue;
        const { vcpus, flags, gpas, offsets } = waiters;
        this.#wires.addReply(vcpus[index]!, flags[index]!, gpas[index]!, offsets[index]!);
        this.#replied[count++] = index;
      }
      if (count === 0 || !this.#wires.sendReplies(kind)) return;
      // From the end, as the last waiter takes the place of one that goes.
      while (count > 0) waiters.remove(this.#replied[--count]!);
    }
  }
}
