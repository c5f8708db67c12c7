/**
 * Wakes the threads of several installs at once. A thread that is woken takes a CPU at once, often
 * the worker's, and then the others wait for it too.
 */
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import type { GuestPages } from "./guest-pages.ts";

/** After so much the threads are woken, whatever comes next. A larger copy wakes its own. */
export const MAX_UNWOKEN_BYTES = 16 * SMALL_PAGE_BYTES;

export class WakeGroup {
  readonly #pages: GuestPages;
  /** A range that holds all that was installed and not woken, and how much that is. */
  #start = 0;
  #end = 0;
  #bytes = 0;

  constructor(pages: GuestPages) {
    this.#pages = pages;
  }

  get isEmpty(): boolean {
    return this.#bytes === 0;
  }

  /** Takes what was installed. True: it is enough, and `wake` is next. */
  add(start: number, lengthBytes: number): boolean {
    const end = start + lengthBytes;
    if (this.#bytes === 0 || start < this.#start) this.#start = start;
    if (this.#bytes === 0 || end > this.#end) this.#end = end;
    this.#bytes += lengthBytes;
    return this.#bytes >= MAX_UNWOKEN_BYTES;
  }

  /** One wake for all. Threads in between whose page is not there yet just fault again. */
  wake(): void {
    this.#pages.wake(this.#start, this.#end - this.#start);
    this.#bytes = 0;
  }
}
