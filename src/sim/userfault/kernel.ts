/**
 * A model of all that a VM with KVM Userfault shares with its handler: memory as a file, the bitmap
 * that lets vCPUs at it, the rings of vCPUs, two sockets, and a userfaultfd over the VMM's mapping.
 * Its rules:
 *
 * - A guest_memfd takes the bytes of a page once: EEXIST, or a short write that ends before it. The
 *   memfd that stands in for it on stock kernels writes over what is there.
 * - A write may end anywhere. Half a page that came last is no page yet, and may be written again.
 * - A vCPU that finds the bit of a page clear, and no page, gets zeroes, and is never stopped.
 * - UFFDIO_CONTINUE maps a page of the file and wakes; EEXIST if it is mapped already, and then it
 *   wakes nobody; EFAULT if the file has no such page. UFFDIO_COPY allocates it in the file.
 * - A thread that is woken looks again. Its message is never told if it was not read until then.
 *
 * PURE, and without chance of its own: what happens during the handler's calls is up to `others`.
 */
import type { Outcome } from "../../base/outcome.ts";
import { SMALL_PAGE_BYTES } from "../../base/units.ts";
import type { WriteRefusal } from "../../pager/population.ts";
import { NO_GPA, WaiterKind } from "../../pager/waiters.ts";
import type { Tally } from "../tally.ts";
import { FIRST_VMM_BODY, MISSING, ZERO_BODY } from "../virtual-memory.ts";
import { KernelRing } from "./kernel-ring.ts";
import type { UserfaultOracle } from "./oracle.ts";
import { type VirtualReply, VirtualStream } from "./stream.ts";

/** What the file holds where a write ended in the middle of a page. */
export const HALF_A_PAGE = -4;
const WORD_BITS = 32;

export type SocketKind = typeof WaiterKind.request | typeof WaiterKind.asyncRequest;

/** Who runs while the handler does, and how a write ends. */
export interface UserfaultOthers {
  /** Before a call of the handler takes effect. Throws if the handler dies there. */
  beforeCall(): void;
  /** Whether an operation of the userfaultfd is put off. */
  isRacing(): boolean;
  /** What a write of so many pages gets done: pages, half a page counted as half. */
  writtenPages(pages: number): number | "outOfMemory";
}

export interface UserfaultKernelOptions {
  readonly pageCount: number;
  readonly vcpuCount: number;
  readonly threadCount: number;
  /** Null: this VM has no rings. */
  readonly ringStart: number | null;
  readonly hasAsyncStream: boolean;
  readonly isGuestMemfd: boolean;
  readonly precleared: ReadonlySet<number>;
  /** Pages from here on lie above the gap. */
  readonly gapPage: number;
  readonly oracle: UserfaultOracle;
  readonly tally: Tally;
  readonly trace: ((line: string) => void) | null;
}

/** A thread of the VMM that touches the VMM's own mapping. */
export interface VmmThread {
  readonly id: number;
  page: number;
  isWaiting: boolean;
  /** It was woken, and looks again. */
  isRunnable: boolean;
}

const noOthers: UserfaultOthers = {
  beforeCall() {},
  isRacing: () => false,
  writtenPages: (pages) => pages,
};
const GAP_BYTES = 2 ** 32;

export class UserfaultKernel {
  others = noOthers;
  readonly options: UserfaultKernelOptions;
  readonly bitmapMemory: ArrayBuffer;
  readonly rings: readonly KernelRing[];
  readonly requests = new VirtualStream();
  /** Null: the VMM has none. */
  readonly asyncRequests: VirtualStream | null;
  readonly threads: readonly VmmThread[];
  /** What each page of the file holds; `MISSING`: nothing. */
  readonly bodies: Float64Array;
  /** Whether the VMM's own mapping has the page. */
  readonly isMapped: Uint8Array;
  /** The userfaultfd, or a notify eventfd, has something since the handler was last told. */
  hasEventEdge = false;
  hasRingEdge = false;
  /** How much the handler got done. */
  progress = 0;
  readonly #notes: Float64Array;
  readonly #bits: Uint32Array;
  /** The bitmap as it was when somebody last looked. */
  readonly #bitsBefore: Uint32Array;
  #unreadEvents: VmmThread[] = [];
  #nextNote = 1;

  constructor(options: UserfaultKernelOptions) {
    this.options = options;
    const { pageCount, vcpuCount, threadCount, ringStart, precleared } = options;
    this.bitmapMemory = new ArrayBuffer(Math.ceil(pageCount / WORD_BITS) * 4);
    this.#bits = new Uint32Array(this.bitmapMemory).fill(0xffff_ffff);
    for (const page of precleared) this.#bits[page >>> 5]! &= ~(1 << (page % WORD_BITS));
    this.#bitsBefore = this.#bits.slice();
    const ringCount = ringStart === null ? 0 : vcpuCount;
    this.rings = Array.from({ length: ringCount }, () => new KernelRing(ringStart!));
    this.asyncRequests = options.hasAsyncStream ? new VirtualStream() : null;
    this.threads = Array.from({ length: threadCount }, (_, id) => {
      return { id, page: 0, isWaiting: false, isRunnable: false };
    });
    this.bodies = new Float64Array(pageCount).fill(MISSING);
    this.#notes = new Float64Array(pageCount);
    this.isMapped = new Uint8Array(pageCount);
  }

  /** Whether there is something that the handler was not told of. */
  get hasEdge(): boolean {
    const hasSocketEdge = this.requests.hasEdge || this.asyncRequests?.hasEdge === true;
    return this.hasEventEdge || this.hasRingEdge || hasSocketEdge;
  }

  gpaOf(page: number): number {
    return page * SMALL_PAGE_BYTES + (page >= this.options.gapPage ? GAP_BYTES : 0);
  }

  /** -1: none. */
  pageAt(gpa: number): number {
    const isAbove = gpa >= GAP_BYTES;
    const page = (gpa - (isAbove ? GAP_BYTES : 0)) / SMALL_PAGE_BYTES;
    return page < this.options.pageCount && page >= this.options.gapPage === isAbove ? page : -1;
  }

  isBitSet(page: number): boolean {
    return ((this.#bits[page >>> 5]! >>> (page % WORD_BITS)) & 1) === 1;
  }

  isThere(page: number): boolean {
    return this.bodies[page] !== MISSING && this.bodies[page] !== HALF_A_PAGE;
  }

  // The handler's side.

  /** Before each of its calls, and around what it does in shared memory. */
  enter(): void {
    this.checkBits();
    this.others.beforeCall();
  }

  /** pwrite(2) to the file: `bodyAt` tells what the source holds. Returns bytes. */
  write(first: number, pages: number, bodyAt: (index: number) => number): number | WriteRefusal {
    this.enter();
    const { isGuestMemfd, oracle, tally } = this.options;
    if (isGuestMemfd && this.isThere(first)) {
      tally.add("write: EEXIST");
      return "present";
    }
    const written = this.others.writtenPages(pages);
    if (written === "outOfMemory") {
      tally.add("write: ENOMEM");
      return written;
    }
    let done = 0;
    for (; done < Math.floor(written); done++) {
      const page = first + done;
      if (isGuestMemfd && this.isThere(page)) {
        tally.add("write: ends before a page that is there");
        return done * SMALL_PAGE_BYTES;
      }
      const isVisible = this.isThere(page) && (!this.isBitSet(page) || this.isMapped[page] === 1);
      oracle.filled(page, bodyAt(done), isVisible);
      this.#put(page, bodyAt(done));
      this.#trace(() => `handler: writes page ${page}: ${bodyAt(done)}`);
    }
    this.progress += done;
    const next = first + done;
    // Of a page that vCPUs are let at anyway, as the VMM wanted it so, we promise less: no halves.
    const isHalf = written > done && !this.isThere(next) && this.isBitSet(next);
    if (isHalf) {
      this.bodies[next] = HALF_A_PAGE;
      tally.add("write: ends in a page");
      this.#trace(() => `handler: writes half of page ${next}`);
    } else if (done < pages) tally.add("write: ends early");
    if (done === 0 && !isHalf) return "badSource";
    return done * SMALL_PAGE_BYTES + (isHalf ? SMALL_PAGE_BYTES / 2 : 0);
  }

  /** Whether a memfd has the page: lseek(2). A guest_memfd cannot be asked. */
  isKnownToBeThere(page: number): boolean {
    this.enter();
    return !this.options.isGuestMemfd && this.bodies[page] !== MISSING;
  }

  /** Pages whose messages are read. */
  readEvents(capacity: number): number[] {
    this.enter();
    return this.#unreadEvents.splice(0, capacity).map(({ page }) => page);
  }

  /** UFFDIO_CONTINUE of one page. */
  continuePage(page: number): Outcome {
    this.enter();
    const outcome = this.#continue(page);
    this.options.tally.add(`continue: ${outcome}`);
    this.#trace(() => `handler: continue ${page}: ${outcome}`);
    return outcome;
  }

  #continue(page: number): "installed" | "deferred" | "badSource" | "alreadyPresent" {
    if (this.others.isRacing()) return "deferred";
    if (this.bodies[page] === MISSING) return "badSource";
    if (this.isMapped[page] === 1) return "alreadyPresent";
    this.isMapped[page] = 1;
    this.#wake(page);
    return "installed";
  }

  /** UFFDIO_COPY of zeroes. */
  zeroPage(page: number): Outcome {
    this.enter();
    this.#trace(() => `handler: copies zeroes to ${page}`);
    if (this.others.isRacing()) return "deferred";
    if (this.bodies[page] !== MISSING) return "alreadyPresent";
    this.options.tally.add("zeroes for a hole");
    this.options.oracle.zeroed(page);
    this.#put(page, ZERO_BODY);
    this.isMapped[page] = 1;
    this.#wake(page);
    return "installed";
  }

  /** UFFDIO_WAKE. */
  wakePage(page: number): void {
    this.enter();
    this.#trace(() => `handler: wakes ${page}`);
    this.#wake(page);
  }

  /** The same for all that the VMM has mapped: whoever waits faults again. */
  wakeAll(): void {
    this.enter();
    for (const thread of this.threads) if (thread.isWaiting) this.#letRun(thread);
    this.#unreadEvents = [];
  }

  /** To one of the sockets. False: the VMM takes nothing now. */
  send(kind: SocketKind, replies: readonly VirtualReply[]): boolean {
    this.enter();
    const stream = kind === WaiterKind.request ? this.requests : this.asyncRequests!;
    const isSent = stream.accept(replies);
    this.#trace(
      () =>
        `handler: tells ${replies.map((reply) => `vCPU ${reply.vcpu} of ${this.#pageOf(reply)}`)}` +
        `${isSent ? "" : ": not now"}`,
    );
    if (!isSent) {
      this.options.tally.add("socket takes nothing");
      return false;
    }
    for (const reply of replies) {
      const page = this.#pageOf(reply);
      this.options.oracle.answered(kind, reply.vcpu, page, !this.isBitSet(page));
    }
    this.progress += replies.length;
    return true;
  }

  /** Signals a complete eventfd. */
  signalCompletions(vcpu: number): void {
    this.enter();
    this.#trace(() => `handler: signals completions of vCPU ${vcpu}`);
    this.rings[vcpu]!.isSignalled = true;
  }

  // The side of the VM.

  /** A vCPU whose bit is clear touches the page. */
  accessAsVcpu(page: number, isWrite: boolean): void {
    this.checkBits();
    if (this.bodies[page] === MISSING) {
      this.options.oracle.allocated(page);
      this.#put(page, ZERO_BODY);
      this.options.tally.add("vCPU found a page missing");
    }
    this.#access(page, isWrite);
  }

  /** A thread of the VMM touches the page, or waits for it. */
  accessAsVmm(thread: VmmThread, isWrite: boolean): void {
    const { page } = thread;
    thread.isRunnable = false;
    if (this.isMapped[page] === 1) {
      this.#access(page, isWrite);
      return;
    }
    const { tally } = this.options;
    tally.add(this.bodies[page] === MISSING ? "event: MISSING" : "event: MINOR");
    this.#trace(() => `VMM thread ${thread.id} faults on page ${page}`);
    thread.isWaiting = true;
    this.#unreadEvents.push(thread);
    this.hasEventEdge = true;
  }

  /** MADV_REMOVE: the page is zero from now on. `isNoted`: the handler knew that it was there. */
  giveBack(page: number, isNoted: boolean): void {
    this.options.tally.add("hole");
    this.#trace(() => `the VMM gives page ${page} back${isNoted ? "" : " before it was noted"}`);
    this.bodies[page] = MISSING;
    this.#notes[page] = 0;
    this.isMapped[page] = 0;
    this.options.oracle.givenBack(page, isNoted);
  }

  /** KVM writes to a page of its own (kvm-clock): it allocates it, or writes to what is there. */
  fillByKvm(page: number): void {
    this.options.tally.add("page filled by KVM");
    if (this.isThere(page)) {
      this.#access(page, true);
      return;
    }
    const body = FIRST_VMM_BODY + page;
    this.#trace(() => `KVM fills page ${page}`);
    this.#put(page, body);
    this.options.oracle.filledByKvm(page, body);
  }

  /** The page is mapped by another way than the handler, and whoever waits for it sleeps on. */
  mapWithoutWake(page: number): void {
    if (!this.isThere(page) || this.isBitSet(page) || this.isMapped[page] === 1) return;
    if (!this.threads.some((thread) => thread.isWaiting && thread.page === page)) return;
    this.options.tally.add("page mapped, and nobody woken");
    this.#trace(() => `page ${page} gets mapped, and nobody is woken`);
    this.isMapped[page] = 1;
  }

  /** Every bit that was cleared since the last look has its bytes. */
  checkBits(): void {
    for (let index = 0; index < this.#bits.length; index++) {
      const cleared = this.#bitsBefore[index]! & ~this.#bits[index]!;
      if (cleared === 0) continue;
      this.#bitsBefore[index] = this.#bits[index]!;
      for (let bit = 0; bit < WORD_BITS; bit++) {
        if (((cleared >>> bit) & 1) === 0) continue;
        const page = index * WORD_BITS + bit;
        this.options.oracle.bitCleared(page, this.isThere(page));
      }
    }
  }

  #pageOf({ gpa, offset }: VirtualReply): number {
    return gpa === NO_GPA ? offset / SMALL_PAGE_BYTES : this.pageAt(gpa);
  }

  #access(page: number, isWrite: boolean): void {
    const { oracle, tally } = this.options;
    tally.add("reads and writes checked");
    oracle.read(page, this.bodies[page]!, this.#notes[page]!);
    if (!isWrite) return;
    this.#notes[page] = this.#nextNote++;
    oracle.written(page, this.#notes[page]);
  }

  #put(page: number, body: number): void {
    this.bodies[page] = body;
    this.#notes[page] = 0;
  }

  #wake(page: number): void {
    for (const thread of this.threads) {
      if (thread.isWaiting && thread.page === page) this.#letRun(thread);
    }
    this.#unreadEvents = this.#unreadEvents.filter((thread) => thread.isWaiting);
  }

  #letRun(thread: VmmThread): void {
    this.progress += 1;
    thread.isWaiting = false;
    thread.isRunnable = true;
  }

  #trace(line: () => string): void {
    if (this.options.trace !== null) this.options.trace(line());
  }
}
