/**
 * The faults of a VM with KVM Userfault on their way into the planner. Four ways lead here, and all
 * of them mean the same pages: requests on two sockets, rings of vCPUs, events of the userfaultfd.
 *
 * PURE.
 */
import { assert } from "../base/assert.ts";
import type { UserfaultBitmap } from "../base/userfault-bitmap.ts";
import type { ApfRing } from "./apf-ring.ts";
import { PageState, type PageTable } from "./page-table.ts";
import type { FaultVerdict, Planner } from "./planner.ts";
import { NO_GPA, WaiterKind, type Waiters } from "./waiters.ts";

export interface UserfaultParts {
  readonly planner: Planner;
  readonly table: PageTable;
  readonly bitmap: UserfaultBitmap;
  readonly waiters: Waiters;
  /** Of each vCPU that has some, by its number. */
  readonly rings: readonly ApfRing[];
  /** The page of the image that holds a guest address; -1: none. */
  readonly pageAt: (gpa: number) => number;
}

/**
 * - `present`: the page is there, and only the answer is to be given.
 * - `outside`: no region holds it.
 * - `tooMany`: more wait than a VMM that keeps to the protocol has waiting.
 */
export type UserfaultVerdict = Exclude<FaultVerdict, "overflow"> | "present" | "tooMany";

export class Userfaults {
  readonly #parts: UserfaultParts;
  /** After a takeover what was taken before may be found once more, where it came from. */
  #mayRepeat = false;

  constructor(parts: UserfaultParts) {
    this.#parts = parts;
  }

  /** A request of a socket. `gpa` null: `offset` tells the page. */
  request(
    kind: typeof WaiterKind.request | typeof WaiterKind.asyncRequest,
    vcpu: number,
    flags: number,
    gpa: number | null,
    page: number,
    offset: number,
  ): UserfaultVerdict {
    if (page < 0) return "outside";
    return this.#take(kind, vcpu, page, flags, gpa ?? NO_GPA, offset);
  }

  /** An event of the userfaultfd. */
  event(page: number): UserfaultVerdict {
    const { waiters } = this.#parts;
    // One answer wakes all threads that wait for the page.
    if (!waiters.has(WaiterKind.event, 0, page)) {
      return this.#take(WaiterKind.event, 0, page, 0, NO_GPA, 0);
    }
    return this.#queue(page);
  }

  /**
   * Takes what the vCPU's ring holds. Returns how many entries, or -1 if the ring makes no sense.
   * `onFault` gets each one's verdict.
   */
  drainRing(
    vcpu: number,
    onFault: (gpa: number, page: number, verdict: UserfaultVerdict) => void,
  ): number {
    const { rings, pageAt } = this.#parts;
    return rings[vcpu]!.drain((gpa, flags) => {
      const page = pageAt(gpa);
      const verdict = page < 0 ? "outside" : this.#take(WaiterKind.ring, vcpu, page, flags, gpa, 0);
      onFault(gpa, page, verdict);
    });
  }

  /** Asks KVM to signal the next fault of each ring. False: one has come, drain again. */
  arm(): boolean {
    let areEmpty = true;
    for (const ring of this.#parts.rings) if (!ring.arm()) areEmpty = false;
    return areEmpty;
  }

  /**
   * Before the first fault: pages whose bits the VMM has cleared by itself, which no vCPU will ask
   * for, are asked for at once. Returns how many; -1: more than can be.
   */
  claimClearPages(first: number, end: number): number {
    const { planner, table, bitmap } = this.#parts;
    let count = 0;
    for (
      let page = bitmap.nextClear(first, end);
      page < end;
      page = bitmap.nextClear(page + 1, end)
    ) {
      if (table.get(page) !== PageState.missing) continue;
      if (planner.faultPage(page) === "overflow") return -1;
      count += 1;
    }
    return count;
  }

  /**
   * After a takeover: those who still wait are waited for again. Events are not, as the kernel
   * tells of them anew. `repeated`: what is taken until `endRepeats` may be known already.
   */
  resume(): void {
    const { waiters, table, planner } = this.#parts;
    for (let index = waiters.length - 1; index >= 0; index--) {
      const isForgotten = waiters.kinds[index] === WaiterKind.event || waiters.isVacant(index);
      if (isForgotten) waiters.remove(index);
    }
    for (let index = 0; index < waiters.length; index++) {
      const page = waiters.pages[index]!;
      if (table.get(page) === PageState.installed) {
        waiters.markReady(page, page + 1);
        continue;
      }
      const verdict = planner.faultPage(page);
      assert(verdict !== "overflow", "the queue holds as many as can wait");
    }
    this.#mayRepeat = true;
  }

  /** All that the dead handler could have taken, and not let go of, has been seen. */
  endRepeats(): void {
    this.#mayRepeat = false;
  }

  #take(
    kind: WaiterKind,
    vcpu: number,
    page: number,
    flags: number,
    gpa: number,
    offset: number,
  ): UserfaultVerdict {
    const { waiters } = this.#parts;
    if (this.#mayRepeat && waiters.has(kind, vcpu, page)) return "known";
    if (!waiters.add(kind, vcpu, page, flags, gpa, offset)) return "tooMany";
    return this.#queue(page);
  }

  #queue(page: number): UserfaultVerdict {
    const { planner, table, waiters } = this.#parts;
    if (table.get(page) === PageState.installed) {
      waiters.markReady(page, page + 1);
      return "present";
    }
    const verdict = planner.faultPage(page);
    return verdict === "overflow" ? "tooMany" : verdict;
  }
}
