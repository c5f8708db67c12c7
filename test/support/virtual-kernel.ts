/**
 * A model of the kernel's side of one userfaultfd: the pages of a VM, the threads that touch them,
 * and those of the VMM that take them back. Its rules are those measured on Linux 6.18:
 *
 * - One read hands out faults first, then events, each message once. A fault that is resolved
 *   before it was read is never told; a thread that a signal interrupts faults again, and the
 *   message that was read already is stale.
 * - While an event is unread, and until its VMM thread has run again, COPY and the like are put off
 *   (EAGAIN). Then they go through again, and only some time later the pages are dropped.
 * - An operation ends at the first page that is present: EEXIST if that is its very first, else
 *   EAGAIN with what was done. It never crosses the border of a mapping: ENOENT.
 * - COPY replaces a poison marker, ZEROPAGE does not. On hugetlb an empty pool answers EEXIST too.
 *
 * PURE, and without chance of its own: what happens between and during the handler's calls is up
 * to `others`.
 */
import type { Outcome } from "../../src/base/outcome.ts";
import type { GuestRegion } from "../../src/snapshot/regions.ts";

/** What a page holds: a body, which the handler installs, and a note, which the guest writes. */
export const ZERO_BODY = 0;
const MISSING = -1;
const POISON = -2;
/** In a COPY's source: bytes that cannot be read. */
export const UNREADABLE = -3;

/** Who must know what happens to pages, to judge it. Throws if it was wrong. */
export interface MemoryWatcher {
  filled(page: number, body: number): void;
  poisoned(page: number): void;
  /** The handler has read a REMOVE or UNMAP of the page. */
  removeRead(page: number): void;
  /** The page has lost its content, or will read as zero without any fault. */
  dropped(page: number): void;
  read(page: number, body: number, note: number): void;
  written(page: number, body: number, note: number): void;
  /** A thread got SIGBUS. */
  killed(page: number): void;
}

/** The threads that run while the handler does. */
export interface Others {
  /** Before a call of the handler takes effect. */
  beforeCall(): void;
  /** Between two pages of one operation. */
  betweenPages(): void;
  /** Whether an operation is put off without any event, as kernels before 6.15 do in a race. */
  isRacing(): boolean;
}

export interface KernelOptions {
  readonly pageSizeBytes: number;
  /** Together they cover the image. */
  readonly regions: readonly GuestRegion[];
  readonly threadCount: number;
  readonly isHugetlb: boolean;
  readonly watcher: MemoryWatcher;
  readonly trace: ((line: string) => void) | null;
}

export type Message =
  | { readonly type: "fault"; readonly address: number }
  | { readonly type: "remove"; readonly start: number; readonly end: number };

/** A thread that touches guest memory, and what it is about to do, or waits for. */
export interface Thread {
  readonly id: number;
  page: number;
  isWrite: boolean;
  state: "idle" | "runnable" | "waiting";
}

/**
 * A VMM thread in madvise or munmap. `posted`: blocked until the event is read; `read`: not yet
 * running again; `released`: running, with the pages still in place.
 */
export interface Removal {
  readonly first: number;
  readonly end: number;
  phase: "posted" | "read" | "released";
}

const noOthers: Others = { beforeCall() {}, betweenPages() {}, isRacing: () => false };

export class VirtualKernel {
  others = noOthers;
  isDead = false;
  /** Huge pages, or memory, cannot be allocated. */
  isShort = false;
  /** Bytes done by the last operation that returned `installed` or `partial`. */
  doneBytes = 0;
  readonly threads: readonly Thread[];
  readonly #options: KernelOptions;
  readonly #bodies: Float64Array;
  readonly #notes: Float64Array;
  readonly #isMapped: boolean[];
  readonly #isRegistered: boolean[];
  /** Whether a mapping begins at a page: operations do not cross that. */
  readonly #isBorder: boolean[];
  #unreadFaults: Thread[] = [];
  #removals: Removal[] = [];
  #nextNote = 1;

  constructor(options: KernelOptions) {
    this.#options = options;
    const ends = options.regions.map(({ imageOffset, sizeBytes }) => imageOffset + sizeBytes);
    const pageCount = Math.max(...ends) / options.pageSizeBytes;
    this.#bodies = new Float64Array(pageCount).fill(MISSING);
    this.#notes = new Float64Array(pageCount);
    this.#isMapped = new Array(pageCount).fill(true);
    this.#isRegistered = new Array(pageCount).fill(true);
    this.#isBorder = new Array(pageCount).fill(false);
    for (const region of options.regions) {
      this.#isBorder[region.imageOffset / options.pageSizeBytes] = true;
    }
    this.threads = Array.from({ length: options.threadCount }, (_, id) => ({
      id,
      page: 0,
      isWrite: false,
      state: "idle",
    }));
  }

  get pageCount(): number {
    return this.#bodies.length;
  }

  get removals(): readonly Removal[] {
    return this.#removals;
  }

  // The handler's side.

  get isReadable(): boolean {
    return this.#unreadFaults.length > 0 || this.#removals.some(({ phase }) => phase === "posted");
  }

  /** Fills `messages` with up to `capacity` of them: faults, then events. */
  read(messages: Message[], capacity: number): number {
    this.others.beforeCall();
    messages.length = 0;
    while (messages.length < capacity && this.#unreadFaults.length > 0) {
      messages.push({ type: "fault", address: this.#addressOf(this.#unreadFaults.shift()!.page) });
    }
    for (const removal of this.#removals) {
      if (messages.length === capacity) break;
      if (removal.phase === "posted") messages.push(this.#handOut(removal));
    }
    this.#trace(() => `handler: read gives ${messages.map(({ type }) => type).join(" ") || "-"}`);
    return messages.length;
  }

  /** UFFDIO_COPY of one body per page. */
  copy(target: number, bodies: readonly number[]): Outcome {
    return this.#install("copy", target, bodies, true);
  }

  /** UFFDIO_ZEROPAGE. */
  zeropage(target: number, pages: number): Outcome {
    if (this.#options.isHugetlb) throw new Error("EINVAL: no UFFDIO_ZEROPAGE on hugetlb");
    return this.#install("zeropage", target, new Array(pages).fill(ZERO_BODY), false);
  }

  /** UFFDIO_POISON of one page. */
  poison(target: number): Outcome {
    this.others.beforeCall();
    const page = this.#pageAt(target);
    let outcome = this.#refusal(page, 1);
    if (outcome === null && this.#bodies[page] !== MISSING) outcome = "alreadyPresent";
    this.#trace(() => `handler: poison ${page}: ${outcome ?? "installed"}`);
    if (outcome !== null) return outcome;
    this.#bodies[page] = POISON;
    this.#options.watcher.poisoned(page);
    this.#wakeRange(page, 1);
    return "installed";
  }

  /** UFFDIO_WAKE: never put off. */
  wake(target: number, pages: number): void {
    this.others.beforeCall();
    this.#trace(() => `handler: wake ${this.#pageAt(target)}+${pages}`);
    this.#wakeRange(this.#pageAt(target), pages);
  }

  // The side of the guest and the VMM.

  /** A thread does what it is about to do, or waits for the page. */
  access(thread: Thread): void {
    const { page, isWrite } = thread;
    const { watcher } = this.#options;
    thread.state = "idle";
    if (!this.#isMapped[page]) return;
    if (this.#bodies[page] === MISSING && this.#isRegistered[page]) {
      thread.state = "waiting";
      this.#unreadFaults.push(thread);
      this.#trace(() => `thread ${thread.id} faults on page ${page}`);
      return;
    }
    if (this.#bodies[page] === MISSING) this.#bodies[page] = ZERO_BODY;
    const body = this.#bodies[page]!;
    this.#trace(() => `thread ${thread.id} ${isWrite ? "writes" : "reads"} page ${page}: ${body}`);
    if (body === POISON) watcher.killed(page);
    else if (isWrite) {
      this.#notes[page] = this.#nextNote++;
      watcher.written(page, body, this.#notes[page]!);
    } else watcher.read(page, body, this.#notes[page]!);
  }

  /** A signal takes a waiting thread out of the queue; it will fault again. */
  interrupt(thread: Thread): void {
    if (thread.state !== "waiting") return;
    thread.state = "runnable";
    this.#unreadFaults = this.#unreadFaults.filter((other) => other !== thread);
    this.#trace(() => `thread ${thread.id} gets a signal`);
  }

  /** The end, exclusive, of what one madvise from `first` to `limit` tells in one event. */
  removableEnd(first: number, limit: number): number {
    let end = first;
    while (end < limit && this.#isRegistered[end] && (end === first || !this.#isBorder[end])) end++;
    return end;
  }

  /** MADV_DONTNEED, or munmap, with events: the caller waits for the handler. */
  startRemoval(first: number, end: number, isUnmap: boolean): void {
    this.#removals.push({ first, end, phase: "posted" });
    this.#trace(() => `${isUnmap ? "unmap" : "remove"} of ${first}+${end - first} begins`);
    if (!isUnmap) return;
    this.#isMapped.fill(false, first, end);
    this.#isRegistered.fill(false, first, end);
  }

  /** The VMM thread goes on, if the handler has read its event. */
  advance(removal: Removal): void {
    if (removal.phase === "read") removal.phase = "released";
    else if (removal.phase === "released") {
      this.#removals = this.#removals.filter((other) => other !== removal);
      for (let page = removal.first; page < removal.end; page++) this.#drop(page);
    }
  }

  /** MADV_DONTNEED without events. Of pages that were never there nothing is lost. */
  removeSilently(first: number, end: number): void {
    for (let page = first; page < end; page++) {
      if (this.#bodies[page] !== MISSING) this.#drop(page);
    }
  }

  /** mprotect: a mapping begins at `page`, or does no more. Regions stay apart. */
  setBorder(page: number, isBorder: boolean): void {
    const offset = page * this.#options.pageSizeBytes;
    if (this.#options.regions.some((region) => region.imageOffset === offset)) return;
    this.#isBorder[page] = isBorder;
  }

  /** UFFDIO_UNREGISTER, by the VMM: what is missing is zero from now on. */
  unregister(first: number, end: number): void {
    for (let page = first; page < end; page++) {
      const isOurs = this.#isRegistered[page];
      this.#isRegistered[page] = false;
      if (isOurs && this.#bodies[page] === MISSING) this.#drop(page);
    }
    this.#wakeRange(first, end - first);
  }

  die(): void {
    this.#trace(() => "the VM dies");
    this.isDead = true;
    this.#unreadFaults = [];
    this.#removals = [];
    for (const thread of this.threads) thread.state = "idle";
  }

  #handOut(removal: Removal): Message {
    const { first, end } = removal;
    removal.phase = "read";
    for (let page = first; page < end; page++) this.#options.watcher.removeRead(page);
    const start = this.#addressOf(first);
    return { type: "remove", start, end: start + (end - first) * this.#options.pageSizeBytes };
  }

  #install(
    name: string,
    target: number,
    bodies: readonly number[],
    mayReplacePoison: boolean,
  ): Outcome {
    this.others.beforeCall();
    const first = this.#pageAt(target);
    let done = 0;
    let failure = this.#refusal(first, bodies.length);
    while (failure === null && done < bodies.length) {
      if (done > 0) this.others.betweenPages();
      failure = this.#isChanging
        ? "deferred"
        : this.#fill(first + done, bodies[done]!, mayReplacePoison);
      if (failure === null) done += 1;
    }
    this.doneBytes = done * this.#options.pageSizeBytes;
    const outcome = failure === null ? "installed" : done > 0 ? "partial" : failure;
    this.#trace(() => `handler: ${name} ${first}+${bodies.length}: ${outcome}, ${done} done`);
    this.#wakeRange(first, done);
    return outcome;
  }

  /** What every resolving operation checks first; null: go on. */
  #refusal(first: number, pages: number): Outcome | null {
    if (this.#isChanging) return "deferred";
    if (this.isDead) return "gone";
    if (this.others.isRacing()) return "deferred";
    for (let page = first; page < first + pages; page++) {
      if (page >= this.pageCount || !this.#isRegistered[page]) return "unregistered";
      if (page > first && this.#isBorder[page]) return "unregistered";
    }
    return null;
  }

  #fill(page: number, body: number, mayReplacePoison: boolean): Outcome | null {
    const present = this.#bodies[page]!;
    if (present !== MISSING && !(present === POISON && mayReplacePoison)) return "alreadyPresent";
    if (body === UNREADABLE) return "badSource";
    if (this.isShort) return this.#options.isHugetlb ? "alreadyPresent" : "outOfMemory";
    this.#options.watcher.filled(page, body);
    this.#bodies[page] = body;
    this.#notes[page] = 0;
    return null;
  }

  #wakeRange(first: number, pages: number): void {
    if (pages === 0) return;
    const isInRange = ({ page }: Thread): boolean => page >= first && page < first + pages;
    for (const thread of this.threads) {
      if (thread.state === "waiting" && isInRange(thread)) thread.state = "runnable";
    }
    this.#unreadFaults = this.#unreadFaults.filter((thread) => !isInRange(thread));
  }

  /** mmap_changing: an event is unread, or its thread has not run yet. */
  get #isChanging(): boolean {
    return this.#removals.some(({ phase }) => phase !== "released");
  }

  #drop(page: number): void {
    this.#bodies[page] = MISSING;
    this.#notes[page] = 0;
    this.#options.watcher.dropped(page);
    this.#trace(() => `page ${page} is dropped`);
  }

  #addressOf(page: number): number {
    const offset = page * this.#options.pageSizeBytes;
    const region = this.#options.regions.find(
      ({ imageOffset, sizeBytes }) => offset >= imageOffset && offset < imageOffset + sizeBytes,
    )!;
    return region.baseHostAddress + (offset - region.imageOffset);
  }

  #pageAt(address: number): number {
    const region = this.#options.regions.find(
      ({ baseHostAddress: base, sizeBytes }) => address >= base && address < base + sizeBytes,
    );
    if (region === undefined) throw new Error(`the handler went to address ${address}`);
    const offset = region.imageOffset + (address - region.baseHostAddress);
    if (offset % this.#options.pageSizeBytes !== 0) throw new Error("EINVAL: unaligned");
    return offset / this.#options.pageSizeBytes;
  }

  #trace(line: () => string): void {
    if (this.#options.trace !== null) this.#options.trace(line());
  }
}
