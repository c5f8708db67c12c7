/** What a VM had to wait for, by policy. It is told each minute while it lasts; its end is not. */
import { PageState, type PageTable } from "../pager/page-table.ts";

/**
 * Not sooner: a VM that waits again within a minute tells nothing of it. After that it does, and
 * what was told before need not be kept.
 */
const FORGET_AFTER_MS = 70_000;

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
    if (this.#last === null) return null;
    if (pageTable.counts()[PageState.pending] > 0) return this.#last;
    if (nowMs - this.#toldMs >= FORGET_AFTER_MS) this.#last = null;
    return null;
  }
}
