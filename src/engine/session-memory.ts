/**
 * What a fault worker writes down of one VM: its numbers (`SessionStats`), and what is known of its
 * pages (`PageTable`). It may lie in a memfd, which outlives this process if somebody else holds
 * it: then the next process goes on where this one was killed.
 *
 * ```
 *   0          4096                        statsOffset
 *   ├ preamble ┼ header: the caller's own ┼ SessionStats │ RestoreAccount ┼ PageTable ┼ Waiters ┤
 * ```
 *
 * Each part begins on a page. There is no order of writes to keep and nothing to flush: what a
 * process has stored is in the memfd's pages, however it dies. A byte of the page table changes at
 * once or not at all, and so does a counter.
 *
 * A view of memory that is not mapped is a SIGSEGV. So nobody holds one but the two objects here,
 * and `retire()` moves them to private memory before it unmaps: who has them may read on for ever.
 */
import { fstatSync, ftruncateSync } from "node:fs";
import { assert } from "../base/assert.ts";
import { FaultlineError } from "../base/errors.ts";
import { alignUp, MIB, SMALL_PAGE_BYTES } from "../base/units.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { createMemfd, MappedRegion, viewOf } from "../linux/memory.ts";
import { PageTable } from "../pager/page-table.ts";
import { Waiters } from "../pager/waiters.ts";
import { RestoreAccount } from "./restore-account.ts";
import { SessionStats } from "./session-stats.ts";

/** For one VM's regions and settings, as JSON. */
export const MAX_HEADER_BYTES = MIB;
/** Counters, stages and the account, with room for what later versions add to either. */
const STATS_BYTES = 32 * 1024;
const ACCOUNT_OFFSET = 20 * 1024;
const MAGIC = 0x4d53_4c46; // "FLSM"
const VERSION = 1;
/** 64-bit words of the preamble. */
const at = { magic: 0, version: 1, headerBytes: 2, pageCount: 3, waitersBytes: 4 } as const;
const PREAMBLE_WORDS = 5;

/** Session memory as another thread of this process finds it. */
export type SessionMemorySetup =
  | { readonly kind: "shared"; readonly buffer: SharedArrayBuffer }
  | { readonly kind: "mapped"; readonly address: number; readonly sizeBytes: number };

/** What a VM's memory has room for. */
interface Shape {
  readonly pageCount: number;
  /** Whether those who wait have to be remembered: VMs with KVM Userfault. */
  readonly hasWaiters: boolean;
}

export class SessionMemory {
  readonly stats: SessionStats;
  readonly account: RestoreAccount;
  readonly pageTable: PageTable;
  readonly setup: SessionMemorySetup;
  /** Null: this thread need not unmap anything. */
  #mapping: MappedRegion | null;

  readonly #shape: Shape;

  private constructor(
    setup: SessionMemorySetup,
    shape: Shape,
    mapping: MappedRegion | null = null,
  ) {
    const { pageCount } = shape;
    const buffer = bufferOf(setup);
    const tableBytes = PageTable.sizeBytes(pageCount);
    this.setup = setup;
    this.#shape = shape;
    this.stats = new SessionStats(buffer);
    this.account = new RestoreAccount(buffer, ACCOUNT_OFFSET, pageCount);
    this.pageTable = new PageTable(pageCount, new Uint8Array(buffer, STATS_BYTES, tableBytes));
    this.#mapping = mapping;
  }

  /** For a VM of so many pages, all of them missing. It ends with this process. */
  static create(pageCount: number, hasWaiters = false): SessionMemory {
    const shape = { pageCount, hasWaiters };
    const buffer = new SharedArrayBuffer(bodyBytes(shape));
    return new SessionMemory({ kind: "shared", buffer }, shape);
  }

  /** The same in a memfd, together with `header`, which `adopt` gives back. */
  static inMemfd(
    pageCount: number,
    header: Uint8Array,
    hasWaiters = false,
  ): { memory: SessionMemory; fd: OwnedFd } {
    if (header.length > MAX_HEADER_BYTES) {
      throw new FaultlineError(
        "limit",
        `What is to be kept of a session has ${header.length} bytes; at most ` +
          `${MAX_HEADER_BYTES} are possible. Use shorter labels and paths, or fewer of them.`,
      );
    }
    const shape = { pageCount, hasWaiters };
    const sizeBytes = sizeOf(shape, header.length);
    const fd = createMemfd("faultline-session");
    try {
      ftruncateSync(fd.fd, sizeBytes);
      const mapping = MappedRegion.shared(fd.fd, sizeBytes);
      const preamble = new Float64Array(mapping.view(), 0, PREAMBLE_WORDS);
      preamble[at.version] = VERSION;
      preamble[at.headerBytes] = header.length;
      preamble[at.pageCount] = pageCount;
      preamble[at.waitersBytes] = hasWaiters ? Waiters.sizeBytes : 0;
      new Uint8Array(mapping.view(), SMALL_PAGE_BYTES, header.length).set(header);
      // Last: a memfd without it is not finished.
      preamble[at.magic] = MAGIC;
      return { memory: SessionMemory.#inMapping(mapping, shape, header.length), fd };
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  /**
   * Maps what `inMemfd` made, here or in another process. The descriptor stays the caller's.
   * @throws FaultlineError `conflict`: it is no such memory, or of a version that this one does not
   *   know
   */
  static adopt(fd: OwnedFd): { memory: SessionMemory; header: Uint8Array } {
    const sizeBytes = fstatSync(fd.fd).size;
    if (sizeBytes < SMALL_PAGE_BYTES) throw notAdoptable(`it has ${sizeBytes} bytes`);
    const mapping = MappedRegion.shared(fd.fd, sizeBytes);
    try {
      const preamble = new Float64Array(mapping.view(), 0, PREAMBLE_WORDS);
      const headerBytes = preamble[at.headerBytes]!;
      const shape = checkPreamble(preamble, sizeBytes);
      const header = new Uint8Array(mapping.view(), SMALL_PAGE_BYTES, headerBytes).slice();
      return { memory: SessionMemory.#inMapping(mapping, shape, headerBytes), header };
    } catch (error) {
      mapping.unmap();
      throw error;
    }
  }

  static #inMapping(mapping: MappedRegion, shape: Shape, headerBytes: number): SessionMemory {
    const offset = statsOffset(headerBytes);
    const address = mapping.address + offset;
    const sizeBytes = mapping.sizeBytes - offset;
    return new SessionMemory({ kind: "mapped", address, sizeBytes }, shape, mapping);
  }

  /** In another thread, for as long as the one that owns it does not retire it. */
  static ofSetup(setup: SessionMemorySetup, pageCount: number, hasWaiters = false): SessionMemory {
    return new SessionMemory(setup, { pageCount, hasWaiters });
  }

  get hasWaiters(): boolean {
    return this.#shape.hasWaiters;
  }

  /** A view of its own for the worker; not to be used after `retire`. */
  waiters(): Waiters {
    assert(this.#shape.hasWaiters, "nobody's waiters are remembered here");
    return new Waiters(bufferOf(this.setup), waitersOffset(this.#shape.pageCount));
  }

  /**
   * Unmaps it. Nobody may write to it any more: the worker has let go. What is known of the VM can
   * still be read, from private memory.
   */
  retire(): void {
    if (this.#mapping === null) return;
    this.stats.moveTo(new ArrayBuffer(SessionStats.sizeBytes));
    this.account.moveTo(new ArrayBuffer(RestoreAccount.sizeBytes));
    this.pageTable.moveTo(new Uint8Array(PageTable.sizeBytes(this.pageTable.pageCount)));
    this.#mapping.unmap();
    this.#mapping = null;
  }

  [Symbol.dispose](): void {
    this.retire();
  }
}

function statsOffset(headerBytes: number): number {
  return SMALL_PAGE_BYTES + alignUp(headerBytes, SMALL_PAGE_BYTES);
}

function bufferOf(setup: SessionMemorySetup): ArrayBufferLike {
  return setup.kind === "shared" ? setup.buffer : viewOf(setup.address, setup.sizeBytes);
}

function waitersOffset(pageCount: number): number {
  return STATS_BYTES + alignUp(PageTable.sizeBytes(pageCount), SMALL_PAGE_BYTES);
}

/** Of all that a worker writes to. */
function bodyBytes({ pageCount, hasWaiters }: Shape): number {
  assert(Number.isSafeInteger(pageCount) && pageCount > 0, `no VM has ${pageCount} pages`);
  if (!hasWaiters) return STATS_BYTES + PageTable.sizeBytes(pageCount);
  return waitersOffset(pageCount) + Waiters.sizeBytes;
}

function sizeOf(shape: Shape, headerBytes: number): number {
  return statsOffset(headerBytes) + bodyBytes(shape);
}

function checkPreamble(preamble: Float64Array, sizeBytes: number): Shape {
  const [magic, version, headerBytes, pageCount, waitersBytes] = preamble as unknown as [
    number,
    number,
    number,
    number,
    number,
  ];
  if (magic !== MAGIC) throw notAdoptable("its first bytes are those of something else");
  if (version !== VERSION) {
    throw notAdoptable(`it is of version ${version}, and only ${VERSION} is known here`);
  }
  const isHeaderGood = Number.isInteger(headerBytes) && headerBytes >= 0;
  if (!isHeaderGood || headerBytes > MAX_HEADER_BYTES) {
    throw notAdoptable(`it tells of a header of ${headerBytes} bytes`);
  }
  if (!Number.isSafeInteger(pageCount) || pageCount <= 0) {
    throw notAdoptable(`it tells of ${pageCount} pages`);
  }
  const shape = { pageCount, hasWaiters: waitersBytes !== 0 };
  const expected = sizeOf(shape, headerBytes);
  if (sizeBytes !== expected) {
    throw notAdoptable(`it has ${sizeBytes} bytes instead of ${expected}`);
  }
  return shape;
}

function notAdoptable(reason: string): FaultlineError {
  return new FaultlineError(
    "conflict",
    `What was kept of a session cannot be used: ${reason}. Was it kept by another version?`,
  );
}
