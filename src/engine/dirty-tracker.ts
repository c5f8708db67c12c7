/**
 * Records which pages of one VM may differ from its image, in the bitmaps of its session file
 * (`snapshot/session-file.ts`). The fault worker installs pages write-protected; the first write to
 * one raises a fault of its own kind, which is answered here: bit first, then the protection goes.
 *
 * ```
 *   missing fault, read    ─► install protected                       clean
 *   missing fault, write   ─► set bit ─► install unprotected          written
 *   write-protect fault    ─► set bit ─► lift the protection          written
 *   REMOVE                 ─► set bit of `removed`, for good          zero, or written since
 * ```
 *
 * The bits are plain stores into shared memory. That is enough for readers of a paused VM: each
 * store precedes the system call that lets the guest write, and the guest's thread is woken by the
 * kernel's locks; whoever learns that the VM has stopped comes after both.
 *
 * Allocates nothing after construction.
 */
import { hasBit, setBit, setBits } from "../base/bitmap.ts";
import * as abi from "../linux/abi-userfaultfd.ts";
import { viewOf } from "../linux/memory.ts";
import { PageState, type PageTable } from "../pager/page-table.ts";
import { QUEUE_CAPACITY } from "../pager/planner.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import { busyOffset } from "../snapshot/session-file.ts";
import type { Userfaultfd } from "../uffd/userfaultfd.ts";
import type { TrackingSetup } from "./wire.ts";

/** `deferred`: some faults still wait; drain events, and lift again. */
export type LiftOutcome = "done" | "deferred" | "gone";

export class DirtyTracker {
  readonly #regions: RegionMap;
  readonly #table: PageTable;
  readonly #pageSizeBytes: number;
  readonly #busy: Uint32Array;
  readonly #written: Uint8Array;
  readonly #removed: Uint8Array;
  /** Missing pages that a thread waits to write to. */
  readonly #wanted: Uint8Array;
  /** Addresses of pages whose protection is to be lifted. */
  readonly #queue = new Float64Array(QUEUE_CAPACITY);
  #queueLength = 0;
  /** Pages that the last `lift()` has unprotected. */
  liftedPages = 0;
  /** Calls of `lift()` in a row that could not lift all. */
  deferredLifts = 0;

  constructor(setup: TrackingSetup, regions: RegionMap, table: PageTable) {
    const { address, headerBytes, bitmapBytes } = setup;
    const bytes = viewOf(address, headerBytes + 2 * bitmapBytes);
    this.#busy = new Uint32Array(bytes, busyOffset, 1);
    this.#written = new Uint8Array(bytes, headerBytes, bitmapBytes);
    this.#removed = new Uint8Array(bytes, headerBytes + bitmapBytes, bitmapBytes);
    this.#wanted = new Uint8Array(bitmapBytes);
    this.#regions = regions;
    this.#table = table;
    this.#pageSizeBytes = regions.pageSizeBytes;
  }

  /** Faults that wait for `lift()`. */
  get queuedPages(): number {
    return this.#queueLength;
  }

  /**
   * Around the reading of events: a REMOVE lets the VMM go on before we can record it, so a reader
   * must know when some may have been read and not recorded.
   */
  beginReading(): void {
    this.#busy[0] = (this.#busy[0]! | 1) >>> 0;
  }

  endReading(): void {
    this.#busy[0] = (this.#busy[0]! + 1) >>> 0;
  }

  /** Takes a missing fault. */
  fault(address: number, flags: number): void {
    if ((flags & abi.UFFD_PAGEFAULT_FLAG_WRITE) === 0) return;
    const region = this.#regions.regionAt(address);
    if (region >= 0) setBit(this.#wanted, this.#regions.pageAt(region, address));
  }

  /** Takes a write-protect fault. As `Planner.fault`. */
  protectedFault(address: number): "queued" | "outside" | "overflow" {
    if (this.#regions.regionAt(address) < 0) return "outside";
    if (this.#queueLength === QUEUE_CAPACITY) return "overflow";
    this.#queue[this.#queueLength++] = address - (address % this.#pageSizeBytes);
    return "queued";
  }

  /** Takes a REMOVE (or UNMAP) of host addresses `start` to `end`, exclusive. */
  remove(start: number, end: number): void {
    for (let region = 0; region < this.#regions.regions.length; region++) {
      const from = Math.max(start, this.#regions.baseOf(region));
      const to = Math.min(end, this.#regions.endOf(region));
      if (from >= to) continue;
      const first = this.#regions.pageAt(region, from + this.#pageSizeBytes - 1);
      const last = this.#regions.pageAt(region, to);
      if (first < last) setBits(this.#removed, first, last);
    }
  }

  /**
   * How pages `first` to `first + count` are to be installed, as bits of UFFDIO_COPY: unprotected
   * if the bit of every one of them is set, which this does for those that will be written to.
   */
  installMode(first: number, count: number): number {
    for (let page = first; page < first + count; page++) {
      if (!this.#isDirty(page) && !hasBit(this.#wanted, page)) return abi.UFFDIO_COPY_MODE_WP;
    }
    for (let page = first; page < first + count; page++) {
      if (!this.#isDirty(page)) setBit(this.#written, page);
    }
    return 0;
  }

  /**
   * Zeroes were installed, and the page table does not know yet: pages that had their content once
   * have lost it without an event.
   */
  zeroesInstalled(first: number, count: number): void {
    for (let page = first; page < first + count; page++) {
      if (this.#table.get(page) === PageState.installed) setBit(this.#removed, page);
    }
  }

  /** A page that cannot be read any more is none of the image's. */
  poisoned(page: number): void {
    setBit(this.#written, page);
  }

  /** Lifts the protection of the queued pages, neighbours together. This wakes their threads. */
  lift(uffd: Userfaultfd): LiftOutcome {
    this.liftedPages = 0;
    this.#sortQueue();
    const queue = this.#queue;
    let done = 0;
    let outcome: LiftOutcome = "done";
    while (done < this.#queueLength) {
      const start = queue[done]!;
      let next = done + 1;
      let end = start + this.#pageSizeBytes;
      while (next < this.#queueLength && queue[next]! <= end) {
        if (queue[next] === end && this.#isOtherRegion(start, end)) break;
        end = queue[next++]! + this.#pageSizeBytes;
      }
      outcome = this.#liftRange(uffd, start, end);
      if (outcome !== "done") break;
      done = next;
    }
    if (outcome === "gone") done = this.#queueLength;
    this.deferredLifts = outcome === "deferred" ? this.deferredLifts + 1 : 0;
    this.#queue.copyWithin(0, done, this.#queueLength);
    this.#queueLength -= done;
    return outcome;
  }

  #liftRange(uffd: Userfaultfd, start: number, end: number): LiftOutcome {
    const region = this.#regions.regionAt(start);
    const first = this.#regions.pageAt(region, start);
    const count = (end - start) / this.#pageSizeBytes;
    for (let page = first; page < first + count; page++) setBit(this.#written, page);
    switch (uffd.writeProtect(start, end - start, false)) {
      case "installed":
        this.liftedPages += count;
        return "done";
      case "gone":
        return "gone";
      case "unregistered":
        // The mapping is another by now: who still waits in it faults again.
        uffd.wake(start, end - start);
        return "done";
      default:
        // Events are in delivery, or the kernel is short of memory for a moment.
        return "deferred";
    }
  }

  /** A handful, mostly of one thread: the typed array's own sort would allocate a view. */
  #sortQueue(): void {
    const queue = this.#queue;
    for (let end = 1; end < this.#queueLength; end++) {
      const address = queue[end]!;
      let position = end - 1;
      while (position >= 0 && queue[position]! > address) {
        queue[position + 1] = queue[position]!;
        position -= 1;
      }
      queue[position + 1] = address;
    }
  }

  /** Regions may be neighbours in the VMM and strangers in the image. */
  #isOtherRegion(start: number, end: number): boolean {
    return this.#regions.regionAt(start) !== this.#regions.regionAt(end);
  }

  #isDirty(page: number): boolean {
    return hasBit(this.#written, page) || hasBit(this.#removed, page);
  }
}
