/**
 * What becomes of a page whose bytes cannot be had, or that cannot be installed: by policy its VM
 * fails, the page is poisoned, or its threads wait.
 */
import type { Outcome } from "../base/outcome.ts";
import type { ActionList } from "../pager/actions.ts";
import type { Planner } from "../pager/planner.ts";
import type { DirtyTracker } from "./dirty-tracker.ts";
import type { GuestPages } from "./guest-pages.ts";
import { describeLoss } from "./page-loss.ts";
import type { SessionStats } from "./session-stats.ts";
import type { ErrorPolicy } from "./wire.ts";

const TELL_WAIT_EVERY_US = 60e6;

export interface LostPagesParts {
  readonly policy: ErrorPolicy;
  readonly pages: GuestPages;
  readonly planner: Planner;
  readonly tracker: DirtyTracker | null;
  readonly stats: SessionStats;
  readonly pageSizeBytes: number;
  /** By policy the session waits: somebody should know. */
  readonly tellWait: (loss: string) => void;
}

export class LostPages {
  readonly #parts: LostPagesParts;
  #toldWaitUs = Number.NEGATIVE_INFINITY;

  constructor(parts: LostPagesParts) {
    this.#parts = parts;
  }

  get mayWait(): boolean {
    return this.#parts.policy === "wait";
  }

  /** `reason`: why the bytes cannot be had, if that is known. */
  describe(outcome: Outcome, address: number, page: number, reason: string): string {
    const { pageSizeBytes } = this.#parts;
    return describeLoss(outcome, address, page * pageSizeBytes, pageSizeBytes, reason);
  }

  /** Once in a while: somebody must know, and see that it lasts. */
  tellWait(loss: string, nowUs: number): void {
    if (nowUs - this.#toldWaitUs < TELL_WAIT_EVERY_US) return;
    this.#toldWaitUs = nowUs;
    this.#parts.tellWait(loss);
  }

  /** Of action `index`, whose first page cannot be had: `failed` fails the session. */
  giveUp(
    actions: ActionList,
    index: number,
    address: number,
    outcome: Outcome,
    loss: string,
    nowUs: number,
  ): "again" | "later" | "rest" | "gone" | "failed" {
    const { policy, pages, pageSizeBytes } = this.#parts;
    if (policy === "kill") return "failed";
    if (policy === "poison") return this.#poison(actions, index, address);
    this.tellWait(loss, nowUs);
    // Where the page has left the queue, its waiters come back with a fresh fault.
    if (outcome !== "badSource") pages.wake(address, pageSizeBytes);
    return "rest";
  }

  #poison(
    actions: ActionList,
    index: number,
    address: number,
  ): "again" | "later" | "gone" | "failed" {
    const { pages, planner, tracker, stats, pageSizeBytes } = this.#parts;
    tracker?.poisoned(actions.firstPages[index]!);
    switch (pages.poison(address, pageSizeBytes)) {
      case "installed":
        stats.addPoisoned();
        planner.markPoisoned(actions, index);
        return "again";
      case "gone":
        return "gone";
      case "alreadyPresent":
        planner.letGo(actions, index);
        pages.wake(address, pageSizeBytes);
        return "again";
      case "deferred":
        // The page may have left the queue: its waiters come back with a fresh fault.
        pages.wake(address, pageSizeBytes);
        return "later";
      default: // Poisoning failed for a reason of its own: fail closed.
        return "failed";
    }
  }
}
