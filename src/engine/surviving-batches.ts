/**
 * Events that a fault worker has read, in memory that survives its process.
 *
 * read(2) takes a REMOVE out of the kernel for good: the VMM's thread goes on, and drops the pages.
 * If the handler is killed before it has noted that in its page table, nobody knows any more, and
 * the next fault on such a page would get the snapshot's bytes where zeroes belong. So the buffer
 * that the kernel writes events to lies in a memfd, a page for each worker, with a label that says
 * whose events they are. The next process applies what it finds there once more; `removed` is
 * final, so twice is the same as once.
 *
 * A worker's turn, and what is found if it is killed at that moment:
 *
 * ```
 *   1  clear the codes of the last events   the old label; what is left of its events is applied
 *   2  write the label                      the new label, and no event
 *   3  read(2)                              the new label, and every event that the kernel let go
 *   4  apply to the page table              the same
 *   …  work, sleep, 1                       the same: applied once more, to no effect
 * ```
 *
 * - *Between 1 and 2* the label and the events never disagree: no event of one VM is ever found
 *   under the label of another, because all are cleared before the label changes.
 * - *In the middle of 3* the kernel takes an event from its queue, lets the VMM's thread go on, and
 *   then copies the event out. A thread that is killed leaves the kernel only after that. The copy
 *   could only fail for want of the page; step 2 has written to that same page a moment before.
 * - *In which order stores become visible* does not matter, as it would between threads: whoever
 *   reads comes after the death of the process, when all that it did is done.
 * - *Faults* among the events are passed over: UFFDIO_WAKE has their threads fault again.
 * - *Events that nobody has read* are still in the kernel, and the next process reads them.
 *
 * Labels are given by the caller, and mean something to the next process too. One that is used for
 * another VM while its events still lie here would take that VM's memory from it: none is used
 * twice in the life of one process.
 */
import { fstatSync, ftruncateSync } from "node:fs";
import { assert } from "../base/assert.ts";
import { FaultlineError } from "../base/errors.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import * as abi from "../linux/abi-userfaultfd.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { createMemfd, MappedRegion, viewOf } from "../linux/memory.ts";
import { DRAIN_CAPACITY, EventBatch } from "../uffd/events.ts";

const MESSAGE_WORDS = abi.uffd_msg.size / 4;
const BATCH_WORDS = DRAIN_CAPACITY * MESSAGE_WORDS;
/** Words of a worker's page, behind its events. */
const LABEL = BATCH_WORDS;
const MAGIC_AT = BATCH_WORDS + 1;
const MAGIC = 0x4245_4c46; // "FLEB"
const PAGE_WORDS = SMALL_PAGE_BYTES / 4;
/** The label of nobody. Labels are whole numbers from 1 to this bound, exclusive. */
const NOBODY = 0;
export const MAX_SURVIVAL_ID = 2 ** 32;
/** A page for each fault worker that there can be. */
const MAX_PAGES = 64;

export class SurvivingBatches {
  readonly #mapping: MappedRegion;

  private constructor(mapping: MappedRegion) {
    this.#mapping = mapping;
  }

  /** For so many fault workers of this process. */
  static inMemfd(workers: number): { batches: SurvivingBatches; fd: OwnedFd } {
    assert(workers >= 1 && workers <= MAX_PAGES, `no process has ${workers} fault workers`);
    const fd = createMemfd("faultline-events");
    ftruncateSync(fd.fd, workers * SMALL_PAGE_BYTES);
    const mapping = MappedRegion.shared(fd.fd, workers * SMALL_PAGE_BYTES);
    const words = new Uint32Array(mapping.view());
    for (let page = 0; page < workers; page++) words[page * PAGE_WORDS + MAGIC_AT] = MAGIC;
    return { batches: new SurvivingBatches(mapping), fd };
  }

  /**
   * What a process that is dead has left. The descriptor stays the caller's.
   * @throws FaultlineError `conflict`: it is something else
   */
  static adopt(fd: OwnedFd): SurvivingBatches {
    const sizeBytes = fstatSync(fd.fd).size;
    const pages = sizeBytes / SMALL_PAGE_BYTES;
    if (!Number.isInteger(pages) || pages < 1 || pages > MAX_PAGES) throw notAdoptable(sizeBytes);
    const mapping = MappedRegion.shared(fd.fd, sizeBytes);
    const words = new Uint32Array(mapping.view());
    for (let page = 0; page < pages; page++) {
      if (words[page * PAGE_WORDS + MAGIC_AT] === MAGIC) continue;
      mapping.unmap();
      throw notAdoptable(sizeBytes);
    }
    return new SurvivingBatches(mapping);
  }

  get workers(): number {
    return this.#mapping.sizeBytes / SMALL_PAGE_BYTES;
  }

  /** Where the events of worker `index` lie. */
  addressOf(index: number): number {
    assert(index < this.workers, "more fault workers than pages");
    return this.#mapping.address + index * SMALL_PAGE_BYTES;
  }

  /** Every REMOVE and UNMAP under this label, in any order: `start` to `end`, exclusive. */
  forEachRemoval(survivalId: number, apply: (start: number, end: number) => void): void {
    assertSurvivalId(survivalId);
    const all = new Uint32Array(this.#mapping.view());
    for (let page = 0; page < this.workers; page++) {
      const words = all.subarray(page * PAGE_WORDS, (page + 1) * PAGE_WORDS);
      if (words[LABEL] !== survivalId) continue;
      const batch = new EventBatch(DRAIN_CAPACITY, words);
      for (let index = 0; index < DRAIN_CAPACITY; index++) {
        const code = batch.eventCode(index);
        if (code !== abi.UFFD_EVENT_REMOVE && code !== abi.UFFD_EVENT_UNMAP) continue;
        apply(batch.rangeStart(index), batch.rangeEnd(index));
      }
    }
  }

  /** No worker of this process may use it any more. */
  close(): void {
    this.#mapping.unmap();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** One worker's page: the batch that it drains into, and its label. Allocates nothing later. */
export class SurvivingBatch {
  readonly batch: EventBatch;
  readonly #words: Uint32Array<ArrayBuffer>;

  /** `address`: of `SurvivingBatches.addressOf`, in this process. */
  constructor(address: number) {
    this.#words = new Uint32Array(viewOf(address, SMALL_PAGE_BYTES));
    this.batch = new EventBatch(DRAIN_CAPACITY, this.#words);
  }

  /** Before each drain: what comes now are the events of this VM. */
  begin(survivalId: number): void {
    const words = this.#words;
    for (let index = 0; index < this.batch.length; index++) words[index * MESSAGE_WORDS] = 0;
    words[LABEL] = survivalId;
  }

  /** The VM is let go: its label means nothing any more. */
  forget(survivalId: number): void {
    if (this.#words[LABEL] === survivalId) this.#words[LABEL] = NOBODY;
  }
}

export function assertSurvivalId(survivalId: number): void {
  const isGood = Number.isInteger(survivalId) && survivalId > NOBODY;
  assert(isGood && survivalId < MAX_SURVIVAL_ID, `${survivalId} is no survival id`);
}

function notAdoptable(sizeBytes: number): FaultlineError {
  return new FaultlineError(
    "conflict",
    `What was kept of the fault workers' events (${sizeBytes} bytes) is something else. Was it ` +
      "kept by another version?",
  );
}
