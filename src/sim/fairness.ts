/**
 * Watches what one VM may cost the others on its worker: how long one turn can get, how often a VM
 * wants the next at once although nothing comes of it, and how many turns of others pass before a
 * VM that has no trouble of its own is answered. Counts calls and turns, never time. PURE.
 */
import { ACTION_CAPACITY } from "../pager/actions.ts";
import { HandlerFailure } from "./failures.ts";
import type { Thread, VirtualKernel } from "./virtual-kernel.ts";
import {
  MAX_BYTES_PER_TURN,
  MAX_PLANS_PER_TURN,
  MAX_READS_PER_TURN,
  type Turn,
} from "./virtual-session.ts";

/** An action may need its operation, a poison and a wake. */
const CALLS_PER_ACTION = 3;

/** Turns without progress that may follow each other at once; then a session must rest. */
const MAX_IDLE_SPINS = 40;

/** A VM whose every fault can be answered at once. */
export interface QuietVm {
  readonly name: string;
  readonly kernel: VirtualKernel;
}

interface Wait {
  faults: number;
  sinceTurn: number;
}

export class FairnessOracle {
  readonly #callLimit: number;
  readonly #turnLimit: number;
  readonly #vmCount: number;
  readonly #quietVms: readonly QuietVm[];
  readonly #waits = new Map<Thread, Wait>();
  /** Of each VM: how many turns in a row wanted the next at once, and had done nothing. */
  readonly #spins = new Map<VirtualKernel, number>();
  #calls = 0;
  #progressBefore = 0;
  #turns = 0;

  /**
   * `batchCapacity`: the largest of all sessions. A fault can come right after its VM's turn in a
   * round: then it waits for the others of that round, each of which has one turn, and for those of
   * the next round.
   */
  constructor(vmCount: number, batchCapacity: number, quietVms: readonly QuietVm[]) {
    // Every message that is read may be one too many, and is woken then.
    const drainCalls = MAX_READS_PER_TURN * (1 + batchCapacity);
    this.#callLimit = MAX_PLANS_PER_TURN * (drainCalls + ACTION_CAPACITY * CALLS_PER_ACTION);
    this.#turnLimit = 2 * vmCount;
    this.#vmCount = vmCount;
    this.#quietVms = quietVms;
  }

  turnBegins(kernel: VirtualKernel): void {
    this.#calls = 0;
    this.#progressBefore = kernel.progress;
    this.#turns += 1;
  }

  /** Whichever VM it is for: a worker does one thing at a time. */
  called(): void {
    this.#calls += 1;
    if (this.#calls <= this.#callLimit) return;
    throw new HandlerFailure(`one turn made more than ${this.#callLimit} calls: others starve`);
  }

  turnEnds(kernel: VirtualKernel, turn: Turn): void {
    const isSpin = turn === "again" && kernel.progress === this.#progressBefore;
    const spins = isSpin ? (this.#spins.get(kernel) ?? 0) + 1 : 0;
    this.#spins.set(kernel, spins);
    if (spins > MAX_IDLE_SPINS) {
      throw new HandlerFailure(`${spins} turns in a row did nothing, and took no rest`);
    }
    for (const vm of this.#quietVms) {
      for (const thread of vm.kernel.threads) this.#checkThread(vm, thread);
    }
  }

  #checkThread(vm: QuietVm, thread: Thread): void {
    if (thread.state !== "waiting") return;
    const wait = this.#waits.get(thread);
    if (wait?.faults !== thread.faults) {
      this.#waits.set(thread, { faults: thread.faults, sinceTurn: this.#turns });
      return;
    }
    const turns = this.#turns - wait.sinceTurn;
    if (turns <= this.#turnLimit) return;
    const limit = this.#turnLimit + this.#vmCount * turnsForAll(vm.kernel);
    if (turns <= limit) return;
    throw new HandlerFailure(
      `${vm.name} has waited for page ${thread.page} during ${turns} turns: at most ` +
        `${limit} are fair`,
    );
  }
}

/** A page may be the last of all that a VM asks for, and one turn installs only so much. */
function turnsForAll({ pageCount, pageSizeBytes }: VirtualKernel): number {
  return Math.ceil((pageCount * pageSizeBytes) / MAX_BYTES_PER_TURN);
}
