/** What a VM had to wait for, by policy. It is told again while it lasts; its end is not. */
import { PageState, type PageTable } from "../pager/page-table.ts";

/**
 * What lasts is told again after a minute, at the next attempt, which comes within half of one. Not
 * sooner: a VM that waits again within the minute tells nothing of it.
 */
const FORGET_AFTER_MS = 120_000;

export class WaitNote {
  #last: string | null = null;
  #toldMs = 0;

  /** The last that was told, whether it is over or not. Costs nothing. */
  get last(): string | null {
    return this.#last;
  }

  tell(reason: string, nowMs: number = performance.now()): void {
    this.#last = reason;
    this.#toldMs = nowMs;
  }

  /** Null: it waits for nothing. Looks at all pages, until it can be forgotten. */
  reason(pageTable: PageTable, nowMs: number = performance.now()): string | null {
    // Whatever is pending after so long has just been asked for.
    if (nowMs - this.#toldMs >= FORGET_AFTER_MS) this.#last = null;
    if (this.#last === null) return null;
    return pageTable.counts()[PageState.pending] > 0 ? this.#last : null;
  }
}
