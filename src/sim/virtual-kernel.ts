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
 * - COPY on small pages allocates, then reads its source, and looks at the page last; on hugetlb it
 *   looks first, and an empty pool answers EEXIST too.
 * - COPY replaces a poison marker, ZEROPAGE does not.
 *
 * PURE, and without chance of its own: what happens between and during the handler's calls is up
 * to `others`.
 */
import type { Outcome } from "../base/outcome.ts";
import type { GuestRegion } from "../snapshot/regions.ts";
import { HandlerFailure } from "./failures.ts";
import type { Tally } from "./tally.ts";
import {
  FIRST_VMM_BODY,
  MISSING,
  POISON,
  UNREADABLE,
  VirtualMemory,
  ZERO_BODY,
} from "./virtual-memory.ts";

/** Who must know what happens to pages, to judge it. Throws if it was wrong. */
export interface MemoryWatcher {
  /** The handler installs a body. */
  filled(page: number, body: number): void;
  /** The VMM itself installs a body. */
  filledByVmm(page: number, body: number): void;
  poisoned(page: number): void;
  /** The handler has read a REMOVE or UNMAP of the page. */
  removeRead(page: number): void;
  /** The page has lost its content, or will read as zero without any fault. */
  dropped(page: number): void;
  /** The handler lets the VM go without having installed the page. */
  leftOut(page: number): void;
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
  readonly tally: Tally;
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
  /** It waits, and its message is unread. */
  isUnread: boolean;
  /** How often it has faulted. */
  faults: number;
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
  /** The memory is gone: the process exits, or called exec. */
  isDead = false;
  /** The process is gone: its pidfd tells. */
  hasExited = false;
  /** The handler gave the VM up, and may not kill it: its threads stay where they are. */
  isFrozen = false;
  /** The handler has done all it had to do for this VM. */
  isLetGo = false;
  /** Huge pages, or memory, cannot be allocated. */
  isShort = false;
  /** What the last UFFDIO_POISON led to. */
  poisonOutcome: Outcome | null = null;
  /** How much the handler got done: messages read, pages installed or parked, threads woken. */
  progress = 0;
  /** Bytes done by the last operation that returned `installed` or `partial`. */
  doneBytes = 0;
  readonly threads: readonly Thread[];
  readonly #options: KernelOptions;
  readonly #memory: VirtualMemory;
  /** How many threads wait for each page. */
  readonly #waiters: Uint16Array;
  #unreadFaults: Thread[] = [];
  #removals: Removal[] = [];
  #nextNote = 1;
  #nextVmmBody = FIRST_VMM_BODY;
  #isClosed = false;
  /** The handler was told that the memory is gone. */
  #isDeathTold = false;

  constructor(options: KernelOptions) {
    this.#options = options;
    this.#memory = new VirtualMemory(options.regions, options.pageSizeBytes);
    this.#waiters = new Uint16Array(this.#memory.pageCount);
    this.threads = Array.from({ length: options.threadCount }, (_, id) => ({
      id,
      page: 0,
      isWrite: false,
      state: "idle",
      isUnread: false,
      faults: 0,
    }));
  }

  get pageCount(): number {
    return this.#memory.pageCount;
  }

  get removals(): readonly Removal[] {
    return this.#removals;
  }

  // The handler's side.

  get isReadable(): boolean {
    if (this.#unreadFaults.length > 0) return true;
    for (const removal of this.#removals) if (removal.phase === "posted") return true;
    return false;
  }

  /** Fills `messages` with up to `capacity` of them: faults, then events. */
  read(messages: Message[], capacity: number): number {
    this.#enter();
    messages.length = 0;
    for (const thread of this.#unreadFaults.splice(0, capacity)) {
      thread.isUnread = false;
      messages.push({ type: "fault", address: this.#memory.addressOf(thread.page) });
    }
    for (const removal of this.#removals) {
      if (messages.length === capacity) break;
      if (removal.phase === "posted") messages.push(this.#handOut(removal));
    }
    this.progress += messages.length;
    this.#trace(() => `handler: read gives ${messages.map(({ type }) => type).join(" ") || "-"}`);
    return messages.length;
  }

  /** UFFDIO_COPY of one body per page. */
  copy(target: number, bodies: readonly number[], wakes = true): Outcome {
    return this.#install("copy", target, bodies, wakes);
  }

  /** UFFDIO_ZEROPAGE. */
  zeropage(target: number, pages: number, wakes = true): Outcome {
    if (this.#options.isHugetlb) throw new HandlerFailure("EINVAL: no UFFDIO_ZEROPAGE on hugetlb");
    return this.#install("zeropage", target, new Array(pages).fill(ZERO_BODY), wakes);
  }

  /** UFFDIO_POISON of one page. */
  poison(target: number): Outcome {
    this.#enter();
    const page = this.#memory.pageAt(target);
    let outcome = this.#refusal(page, 1);
    if (outcome === null && this.#memory.bodies[page] !== MISSING) outcome = "alreadyPresent";
    this.#trace(() => `handler: poison ${page}: ${outcome ?? "installed"}`);
    this.poisonOutcome = outcome ?? "installed";
    this.#options.tally.add(outcome === null ? "poisoned" : "poison refused");
    if (outcome !== null) return outcome;
    this.#memory.bodies[page] = POISON;
    this.#options.watcher.poisoned(page);
    this.#wakeRange(page, 1);
    return "installed";
  }

  /** UFFDIO_WAKE: never put off, and the range may hold what is not registered, or not mapped. */
  wake(start: number, lengthBytes: number): void {
    this.#enter();
    const { pageSizeBytes } = this.#options;
    this.#trace(() => `handler: wake ${lengthBytes / pageSizeBytes} from ${start.toString(16)}`);
    if (lengthBytes === pageSizeBytes) this.#wakeRange(this.#memory.pageAt(start), 1);
    else this.#wakeAddresses(start, start + lengthBytes);
  }

  /** UFFDIO_UNREGISTER of everything, by the handler: what is missing is zero from now on. */
  letGo(): void {
    this.#enter();
    const { isRegistered, bodies } = this.#memory;
    this.#trace(() => "handler: lets the VM go");
    for (let page = 0; page < this.pageCount; page++) {
      if (isRegistered[page] === 1 && bodies[page] === MISSING) this.#options.watcher.leftOut(page);
      isRegistered[page] = 0;
    }
    this.#wakeRange(0, this.pageCount);
    this.isLetGo = true;
  }

  get pageSizeBytes(): number {
    return this.#options.pageSizeBytes;
  }

  get isHugetlb(): boolean {
    return this.#options.isHugetlb;
  }

  /** The handler's descriptor. The VMM has none left: what is missing would be zero from now on. */
  close(): void {
    if (!this.isDead && !this.isLetGo)
      throw new HandlerFailure("closed the userfaultfd of a VM that lives");
    this.#isClosed = true;
  }

  /** The handler may not kill the VM: it keeps the descriptor, and does nothing more. */
  freeze(): void {
    this.#trace(() => "handler: leaves the VM frozen");
    this.isFrozen = true;
  }

  // The side of the guest and the VMM.

  /** A thread does what it is about to do, or waits for the page. */
  access(thread: Thread): void {
    const { page, isWrite } = thread;
    const { watcher } = this.#options;
    const { bodies, notes } = this.#memory;
    thread.state = "idle";
    if (this.#memory.isMapped[page] === 0) return;
    if (bodies[page] === MISSING && this.#memory.isRegistered[page] === 1) {
      this.#wait(thread);
      return;
    }
    if (bodies[page] === MISSING) bodies[page] = ZERO_BODY;
    const body = bodies[page]!;
    this.#trace(() => `thread ${thread.id} ${isWrite ? "writes" : "reads"} page ${page}: ${body}`);
    this.#options.tally.add("reads and writes checked");
    if (body === POISON) {
      this.#options.tally.add("SIGBUS on poison");
      watcher.killed(page);
    } else if (isWrite) {
      notes[page] = this.#nextNote++;
      watcher.written(page, body, notes[page]);
    } else watcher.read(page, body, notes[page]!);
  }

  /** A signal takes a waiting thread out of the queue; it will fault again. */
  interrupt(thread: Thread): void {
    if (thread.state !== "waiting") return;
    this.#options.tally.add(thread.isUnread ? "signal" : "signal after the fault was read");
    this.#letGo(thread);
    this.#trace(() => `thread ${thread.id} gets a signal`);
  }

  /** The end, exclusive, of what one madvise from `first` to `limit` tells in one event. */
  removableEnd(first: number, limit: number): number {
    const { isRegistered, isBorder } = this.#memory;
    let end = first;
    while (end < limit && isRegistered[end] === 1 && (end === first || isBorder[end] === 0)) end++;
    return end;
  }

  /** MADV_DONTNEED, or munmap, with events: the caller waits for the handler. */
  startRemoval(first: number, end: number, isUnmap: boolean): void {
    this.#removals.push({ first, end, phase: "posted" });
    this.#options.tally.add(isUnmap ? "UNMAP" : "REMOVE");
    this.#trace(() => `${isUnmap ? "unmap" : "remove"} of ${first}+${end - first} begins`);
    if (!isUnmap) return;
    this.#memory.isMapped.fill(0, first, end);
    this.#memory.isRegistered.fill(0, first, end);
  }

  /** The VMM thread goes on, if the handler has read its event. */
  advance(removal: Removal): void {
    if (removal.phase === "read") removal.phase = "released";
    else if (removal.phase === "released") {
      this.#removals.splice(this.#removals.indexOf(removal), 1);
      for (let page = removal.first; page < removal.end; page++) {
        // Filled again after its event was read: what makes `removed` a state for good.
        if (this.#memory.bodies[page] === ZERO_BODY) this.#options.tally.add("drop after a refill");
        this.#drop(page);
      }
    }
  }

  /** MADV_DONTNEED without events. Of pages that were never there nothing is lost. */
  removeSilently(first: number, end: number): void {
    this.#options.tally.add("silent remove");
    for (let page = first; page < end; page++) {
      if (this.#memory.bodies[page] !== MISSING) this.#drop(page);
    }
  }

  /** The VMM installs a page of its own; without `wakes`, its waiters are left to the handler. */
  fillByVmm(page: number, wakes: boolean): void {
    const { bodies, notes, isRegistered } = this.#memory;
    if (this.#isChanging || isRegistered[page] === 0 || bodies[page] !== MISSING) return;
    bodies[page] = this.#nextVmmBody++;
    notes[page] = 0;
    this.#options.watcher.filledByVmm(page, bodies[page]);
    this.#options.tally.add(
      wakes ? "page filled by the VMM" : "page filled by the VMM without wake",
    );
    this.#trace(() => `the VMM fills page ${page}${wakes ? "" : ", and wakes nobody"}`);
    if (wakes) this.#wakeRange(page, 1);
  }

  setBorder(page: number, isBorder: boolean): void {
    this.#options.tally.add("border");
    this.#trace(() => `${isBorder ? "a" : "no"} mapping begins at page ${page}`);
    this.#memory.setBorder(page, isBorder);
  }

  /** UFFDIO_UNREGISTER, by the VMM: what is missing is zero from now on. */
  unregister(first: number, end: number): void {
    const { isRegistered, bodies } = this.#memory;
    this.#options.tally.add("unregister");
    this.#trace(() => `the VMM unregisters ${first}+${end - first}`);
    for (let page = first; page < end; page++) {
      const isOurs = isRegistered[page] === 1;
      isRegistered[page] = 0;
      if (isOurs && bodies[page] === MISSING) this.#drop(page);
    }
    this.#wakeRange(first, end - first);
  }

  /** The memory goes: at once with exec, a moment before `exit()` otherwise. */
  die(why: string): void {
    this.#trace(() => `the memory of the VM is gone: ${why}`);
    this.isDead = true;
    this.#unreadFaults = [];
    this.#removals = [];
    this.#waiters.fill(0);
    for (const thread of this.threads) thread.state = "idle";
  }

  exit(): void {
    this.#trace(() => "the process of the VM is gone");
    this.hasExited = true;
  }

  // The rules.

  #enter(): void {
    this.others.beforeCall();
    if (this.#isClosed) throw new HandlerFailure("used a userfaultfd that it had closed");
    if (this.isFrozen) throw new HandlerFailure("went on with a VM that it has given up");
    if (this.#isDeathTold) throw new HandlerFailure("went on with a VM that it knows to be dead");
  }

  #handOut(removal: Removal): Message {
    const { first, end } = removal;
    removal.phase = "read";
    for (let page = first; page < end; page++) this.#options.watcher.removeRead(page);
    const start = this.#memory.addressOf(first);
    return { type: "remove", start, end: start + (end - first) * this.#options.pageSizeBytes };
  }

  #wait(thread: Thread): void {
    const { tally } = this.#options;
    const { page } = thread;
    tally.add(thread.isWrite ? "fault for a write" : "fault");
    if (this.#waiters[page]! > 0) tally.add("fault on a page waited for");
    this.#waiters[page]! += 1;
    thread.state = "waiting";
    thread.isUnread = true;
    thread.faults += 1;
    this.#unreadFaults.push(thread);
    this.#trace(() => `thread ${thread.id} faults on page ${page}`);
  }

  #install(
    name: "copy" | "zeropage",
    target: number,
    bodies: readonly number[],
    wakes: boolean,
  ): Outcome {
    this.#enter();
    const first = this.#memory.pageAt(target);
    let done = 0;
    let failure = this.#refusal(first, bodies.length);
    while (failure === null && done < bodies.length) {
      if (done > 0) this.others.betweenPages();
      failure = this.#isChanging ? "deferred" : this.#fill(name, first + done, bodies[done]!);
      if (failure === null) done += 1;
    }
    this.progress += done;
    this.doneBytes = done * this.#options.pageSizeBytes;
    const outcome = failure === null ? "installed" : done > 0 ? "partial" : failure;
    this.#trace(() => `handler: ${name} ${first}+${bodies.length}: ${outcome}, ${done} done`);
    if (wakes) this.#wakeRange(first, done);
    return outcome;
  }

  /** What every resolving operation checks first; null: go on. */
  #refusal(first: number, pages: number): Outcome | null {
    if (this.#isChanging) return "deferred";
    if (this.isDead) {
      this.#isDeathTold = true;
      return "gone";
    }
    if (this.others.isRacing()) {
      this.#options.tally.add("deferred without event");
      return "deferred";
    }
    return this.#memory.isOneMapping(first, pages) ? null : "unregistered";
  }

  #fill(name: "copy" | "zeropage", page: number, body: number): Outcome | null {
    const { isHugetlb, watcher } = this.#options;
    const isCopy = name === "copy";
    const present = this.#memory.bodies[page]!;
    const isPresent = present !== MISSING && !(present === POISON && isCopy);
    if (isPresent && (isHugetlb || !isCopy)) return "alreadyPresent";
    if (this.isShort) return isHugetlb ? "alreadyPresent" : "outOfMemory";
    if (body === UNREADABLE) return "badSource";
    if (isPresent) return "alreadyPresent";
    this.#trace(() => `handler: ${name} gives page ${page} body ${body}`);
    watcher.filled(page, body);
    this.#memory.bodies[page] = body;
    this.#memory.notes[page] = 0;
    return null;
  }

  #wakeAddresses(start: number, end: number): void {
    for (let page = 0; page < this.#memory.pageCount; page++) {
      const address = this.#memory.addressOf(page);
      if (address >= start && address < end) this.#wakeRange(page, 1);
    }
  }

  #wakeRange(first: number, pages: number): void {
    const end = Math.min(first + pages, this.#memory.pageCount);
    let asleep = 0;
    for (let page = first; page < end; page++) asleep += this.#waiters[page]!;
    for (let index = 0; asleep > 0; index++) {
      const thread = this.threads[index]!;
      if (thread.state !== "waiting" || thread.page < first || thread.page >= end) continue;
      if (thread.isUnread) this.#options.tally.add("fault answered unread");
      this.#letGo(thread);
      this.progress += 1;
      asleep -= 1;
    }
  }

  /** Takes a waiting thread out of the queues. */
  #letGo(thread: Thread): void {
    thread.state = "runnable";
    this.#waiters[thread.page]! -= 1;
    if (thread.isUnread) this.#unreadFaults.splice(this.#unreadFaults.indexOf(thread), 1);
    thread.isUnread = false;
  }

  /** mmap_changing: an event is unread, or its thread has not run yet. */
  get #isChanging(): boolean {
    for (const removal of this.#removals) if (removal.phase !== "released") return true;
    return false;
  }

  #drop(page: number): void {
    this.#memory.bodies[page] = MISSING;
    this.#memory.notes[page] = 0;
    this.#options.watcher.dropped(page);
    this.#trace(() => `page ${page} is dropped`);
  }

  #trace(line: () => string): void {
    if (this.#options.trace !== null) this.#options.trace(line());
  }
}
