/**
 * Which pages a VM demanded, in which order and when, in memory that its fault worker writes and
 * the main thread reads: what the next restore can learn from. Bounded: what comes after the log is
 * full, or its time is up, is not part of a restore any more.
 *
 * One writer, plain stores: the count is written last, and a reader that comes too early misses the
 * newest page only.
 */
import type { RecorderSetup } from "./wire.ts";

/** 4 GiB in pages of 4 KiB. Memory is committed as it is written, 8 bytes a page. */
export const MAX_LOGGED_PAGES = 2 ** 20;
const HEADER_BYTES = 8;

export class DemandLog {
  readonly buffer: SharedArrayBuffer;
  readonly capacity: number;
  readonly #count: Uint32Array;
  readonly #pages: Uint32Array;
  readonly #timesUs: Uint32Array;

  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer;
    this.capacity = (buffer.byteLength - HEADER_BYTES) / 8;
    this.#count = new Uint32Array(buffer, 0, 1);
    this.#pages = new Uint32Array(buffer, HEADER_BYTES, this.capacity);
    this.#timesUs = new Uint32Array(buffer, HEADER_BYTES + this.capacity * 4, this.capacity);
  }

  /** For a VM of so many pages. */
  static allocate(pageCount: number): SharedArrayBuffer {
    return new SharedArrayBuffer(HEADER_BYTES + 8 * Math.min(pageCount, MAX_LOGGED_PAGES));
  }

  /** `afterUs`: since the VM was attached, below 2^32 (71 minutes). False: the log is full. */
  add(page: number, afterUs: number): boolean {
    const count = this.#count[0]!;
    if (count === this.capacity) return false;
    this.#pages[count] = page;
    this.#timesUs[count] = afterUs;
    this.#count[0] = count + 1;
    return true;
  }

  get length(): number {
    return this.#count[0]!;
  }

  /** The pages so far, in the order of their first demand, each once. */
  pages(): Uint32Array {
    return this.#pages.subarray(0, this.length);
  }

  /** When each was demanded, in microseconds since the VM was attached. */
  timesUs(): Uint32Array {
    return this.#timesUs.subarray(0, this.length);
  }
}

/** Writes a log for as long as a restore lasts. */
export class DemandRecorder {
  readonly #log: DemandLog;
  readonly #sinceUs: number;
  readonly #untilUs: number;
  #isOver = false;

  /** Times of monotonicUs. */
  constructor(log: DemandLog, sinceUs: number, untilUs: number) {
    this.#log = log;
    this.#sinceUs = sinceUs;
    this.#untilUs = untilUs;
  }

  record(page: number, nowUs: number): void {
    if (this.#isOver) return;
    this.#isOver = nowUs > this.#untilUs || !this.#log.add(page, nowUs - this.#sinceUs);
  }
}

/** `attachedUs`: of monotonicUs. */
export function openRecorder(
  setup: RecorderSetup | null,
  attachedUs: number,
): DemandRecorder | null {
  if (setup === null) return null;
  return new DemandRecorder(new DemandLog(setup.log), attachedUs, attachedUs + setup.forUs);
}
