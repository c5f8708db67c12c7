/** One attached VM as the main thread sees it: its memory, its numbers, its end. */
import type { PageTable } from "../pager/page-table.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import type { DemandLog } from "./demand-log.ts";
import type { RestoreAccount } from "./restore-account.ts";
import type { SessionMemory } from "./session-memory.ts";
import type { SessionStats } from "./session-stats.ts";
import type { EndReason, PrefaultEnd } from "./wire.ts";

/** How a session ended. `failure`: why the VM had to be killed, if it was. */
export interface SessionEnd {
  readonly reason: EndReason | "stopped";
  readonly failure?: string;
}

/** How what was installed ahead of a VM's faults came to its end. */
export interface PrefaultReport {
  readonly end: PrefaultEnd;
  /** Since the VM was attached. */
  readonly afterUs: number;
}

/** Something is wrong with a session; `kill` tells what became of its VM. */
export interface SessionFailure {
  readonly message: string;
  /** `denied`: we may not kill it. Its threads stay frozen at their missing pages. */
  readonly kill: "killed" | "gone" | "denied";
}

export interface SessionParts {
  readonly id: number;
  readonly pid: number;
  readonly regions: RegionMap;
  readonly memory: SessionMemory;
  /** Null: what the VM demands is not recorded. */
  readonly demandLog: DemandLog | null;
  /** Of its fault worker, for what the kernel tells of threads. */
  readonly workerThreadId: number;
  /** Unmaps what the worker used, when that has let go. */
  readonly retire: () => void;
}

export class Session {
  readonly id: number;
  readonly pid: number;
  readonly regions: RegionMap;
  /** Can be read after the end too. */
  readonly pageTable: PageTable;
  readonly stats: SessionStats;
  /** Where the time of the restore has gone. */
  readonly account: RestoreAccount;
  /** Of its fault worker: a directory of /proc/self/task. */
  readonly workerThreadId: number;
  /** Resolves when the VM is gone or the engine stops; never rejects. */
  readonly ended: Promise<SessionEnd>;
  /** Called once if the session fails, before it ends. */
  onFailure: (failure: SessionFailure) => void = () => {};
  /** Called now and then while the session waits, by policy, for a page that cannot be had. */
  onWait: (reason: string) => void = () => {};
  /** Called once if pages are installed ahead, when that is over. */
  onPrefaulted: (report: PrefaultReport) => void = () => {};
  /** What the VM has demanded, if that is recorded. */
  readonly demandLog: DemandLog | null;
  readonly #retire: () => void;
  readonly #resolveEnded: (end: SessionEnd) => void;
  #failure: string | undefined;

  constructor(parts: SessionParts) {
    this.id = parts.id;
    this.pid = parts.pid;
    this.regions = parts.regions;
    this.demandLog = parts.demandLog;
    this.pageTable = parts.memory.pageTable;
    this.stats = parts.memory.stats;
    this.account = parts.memory.account;
    this.workerThreadId = parts.workerThreadId;
    this.#retire = parts.retire;
    let resolveEnded: (end: SessionEnd) => void = () => {};
    this.ended = new Promise((resolve) => {
      resolveEnded = resolve;
    });
    this.#resolveEnded = resolveEnded;
  }

  /** The engine's: the worker has given the session up. */
  fail(failure: SessionFailure): void {
    this.#failure = failure.message;
    this.onFailure(failure);
  }

  /** The engine's: nothing more is installed ahead. */
  endPrefault(end: PrefaultEnd, afterUs: number): void {
    this.onPrefaulted({ end, afterUs });
  }

  /** The engine's: the session is over, and its worker has let go of its memory. */
  end(reason: SessionEnd["reason"]): void {
    this.#retire();
    this.#resolveEnded({
      reason,
      ...(this.#failure === undefined ? {} : { failure: this.#failure }),
    });
  }
}
