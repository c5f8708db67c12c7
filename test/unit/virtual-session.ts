/**
 * What src/engine/worker-session.ts and worker.ts do with one VM, on a virtual kernel: the same
 * bounds, the same order, the same answers. Change them together.
 */

import type { Outcome } from "../../src/base/outcome.ts";
import { formatHex, SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { ActionKind, ActionList } from "../../src/pager/actions.ts";
import type { Planner, Settlement } from "../../src/pager/planner.ts";
import type { RegionMap } from "../../src/snapshot/regions.ts";
import {
  type Message,
  UNREADABLE,
  type VirtualKernel,
  ZERO_BODY,
} from "../support/virtual-kernel.ts";

export type Turn = "idle" | "again" | "later" | "gone" | "failed";

const MAX_READS_PER_TURN = 16;
const MAX_PLANS_PER_TURN = 4;
const STALLS_BEFORE_WAITING = 16;
const EXHAUSTED_AFTER_US = 1e6;
const LATER_US = 1000;

/** Where bytes come from: one body per page. */
export interface VirtualSource {
  fromLayer(owner: number, page: number): number;
  assembled(page: number): number;
}

export interface SessionOptions {
  readonly kernel: VirtualKernel;
  readonly planner: Planner;
  readonly regions: RegionMap;
  readonly source: VirtualSource;
  readonly policy: "kill" | "poison";
  /** Messages per read: 64 in the engine. */
  readonly batchCapacity: number;
}

export class VirtualSession {
  failure = "";
  /** How it ended, if it did. */
  end: "gone" | "failed" | null = null;
  turns = 0;
  readonly outcomes = new Set<Outcome>();
  readonly settlements = new Set<Settlement>();
  readonly verdicts = new Set<string>();
  readonly #options: SessionOptions;
  readonly #messages: Message[] = [];
  readonly #actions = new ActionList();
  readonly #pageSizeBytes: number;
  /** When to go on without being told to; null: only the kernel can give us work. */
  #dueUs: number | null = null;
  #nowUs = 0;
  #stalls = 0;
  #streakSinceUs = 0;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#pageSizeBytes = options.regions.pageSizeBytes;
  }

  /** Nothing left to do that the kernel would not announce. */
  get isIdle(): boolean {
    return this.end !== null || this.#dueUs === null;
  }

  /** One round of the worker's loop: a turn if the userfaultfd is readable, or one is due. */
  run(nowUs: number): void {
    if (this.end !== null) return;
    const isDue = this.#dueUs !== null && this.#dueUs <= nowUs;
    if (!isDue && !this.#options.kernel.isReadable) return;
    this.turns += 1;
    this.#nowUs = nowUs;
    const turn = this.#turn();
    if (turn === "again") this.#dueUs = 0;
    else if (turn === "later") this.#dueUs = nowUs + LATER_US;
    else this.#dueUs = null;
    if (turn === "gone" || turn === "failed") this.end = turn;
  }

  #turn(): Turn {
    const { planner } = this.#options;
    if (planner.failureStreak === 0) this.#streakSinceUs = this.#nowUs;
    let hasProgress = false;
    for (let plan = 0; plan < MAX_PLANS_PER_TURN; plan++) {
      const hasMore = this.#drain();
      if (this.failure !== "") return "failed";
      if (planner.queuedPages === 0) return hasMore ? "again" : "idle";
      const queuedBefore = planner.queuedPages;
      const verdict = this.#resolve();
      if (verdict === "gone" || verdict === "failed") return verdict;
      const queuedAfter = planner.finishPlan();
      if (queuedAfter < queuedBefore) hasProgress = true;
      if (verdict === "later") return "later";
      if (queuedAfter === 0 && !hasMore) {
        this.#stalls = 0;
        return "idle";
      }
    }
    this.#stalls = hasProgress ? 0 : this.#stalls + 1;
    return this.#stalls < STALLS_BEFORE_WAITING ? "again" : "later";
  }

  #drain(): boolean {
    const { kernel, batchCapacity } = this.#options;
    for (let read = 0; read < MAX_READS_PER_TURN; read++) {
      const count = kernel.read(this.#messages, batchCapacity);
      for (const message of this.#messages) this.#take(message);
      if (count < batchCapacity) return false;
    }
    return true;
  }

  #take(message: Message): void {
    const { kernel, planner } = this.#options;
    if (message.type === "remove") {
      planner.remove(message.start, message.end);
      return;
    }
    const verdict = planner.fault(message.address);
    this.verdicts.add(verdict);
    if (verdict === "outside") this.failure = `outside: ${formatHex(message.address)}`;
    else if (verdict === "overflow") kernel.wake(message.address, 1);
  }

  #resolve(): Turn {
    const { kernel, planner } = this.#options;
    const count = planner.plan(this.#actions);
    let turn: Turn = "again";
    for (let index = 0; index < count; index++) {
      const outcome = this.#carryOut(index);
      const settlement = planner.settle(this.#actions, index, outcome, kernel.doneBytes);
      this.outcomes.add(outcome);
      this.settlements.add(settlement);
      const next = this.#follow(index, settlement);
      if (next === "gone" || next === "failed") return next;
      if (next === "later") turn = "later";
    }
    return turn;
  }

  #carryOut(index: number): Outcome {
    const { kernel, source } = this.#options;
    const first = this.#actions.firstPages[index]!;
    const count = this.#actions.pageCounts[index]!;
    const owner = this.#actions.owners[index]!;
    const target = this.#addressOf(index);
    const bodies = (bodyOf: (page: number) => number): number[] =>
      Array.from({ length: count }, (_, page) => bodyOf(first + page));
    switch (this.#actions.kinds[index]) {
      case ActionKind.copy:
        return kernel.copy(
          target,
          bodies((page) => source.fromLayer(owner, page)),
        );
      case ActionKind.zero:
        if (this.#pageSizeBytes === SMALL_PAGE_BYTES) return kernel.zeropage(target, count);
        return kernel.copy(
          target,
          bodies(() => ZERO_BODY),
        );
      default: {
        const assembled = bodies((page) => source.assembled(page));
        return assembled.includes(UNREADABLE) ? "badSource" : kernel.copy(target, assembled);
      }
    }
  }

  #follow(index: number, settlement: Settlement): Turn {
    const { kernel } = this.#options;
    switch (settlement) {
      case "done":
      case "retry":
        return "again";
      case "wake":
        kernel.wake(this.#addressOf(index), 1);
        return "again";
      case "wakeAndBackoff":
        kernel.wake(this.#addressOf(index), 1);
        return "later";
      case "backoff":
        return "later";
      case "gone":
        return "gone";
      case "exhausted":
        if (this.#nowUs - this.#streakSinceUs < EXHAUSTED_AFTER_US) {
          kernel.wake(this.#addressOf(index), 1);
          return "later";
        }
        return this.#giveUp(index, settlement);
      case "badSource":
        return this.#giveUp(index, settlement);
    }
  }

  #giveUp(index: number, why: "badSource" | "exhausted"): Turn {
    const { kernel, planner, policy } = this.#options;
    if (policy === "poison") {
      const outcome = kernel.poison(this.#addressOf(index));
      if (outcome === "installed") {
        planner.markPoisoned(this.#actions, index);
        return "again";
      }
      if (outcome === "gone") return "gone";
      if (outcome === "deferred") {
        // An exhausted page has left the queue: its thread must fault again, or it sleeps for ever.
        kernel.wake(this.#addressOf(index), 1);
        return "later";
      }
    }
    this.failure = why;
    return "failed";
  }

  #addressOf(index: number): number {
    const { regions } = this.#options;
    return regions.addressOf(this.#actions.regions[index]!, this.#actions.firstPages[index]!);
  }
}
