/**
 * What the main thread and a fault worker say to each other. A worker that waits for faults does
 * not run its event loop, so every message to it is followed by a signal on its control eventfd.
 */
import type { SpinMode } from "../pager/pacing.ts";
import type { PageRuns } from "../pager/prefaulter.ts";
import type { GuestAddressRange } from "../protocol/guest-addresses.ts";
import type { GuestRegion } from "../snapshot/regions.ts";
import type { MappedImage } from "../source/mapped-image.ts";
import type { PartCost } from "../source/part-cost.ts";
import type { SessionMemorySetup } from "./session-memory.ts";

/**
 * What becomes of a page whose bytes cannot be had: the VM is killed, the page is poisoned, or its
 * threads wait, and every second it is tried again.
 */
export const errorPolicies = ["kill", "poison", "wait"] as const;
export type ErrorPolicy = (typeof errorPolicies)[number];

export interface WorkerSetup {
  readonly spin: SpinMode;
  readonly controlFd: number;
  /** Where to read events into so that they survive (`surviving-batches.ts`); null: anywhere. */
  readonly batchAddress: number | null;
}

/** What to install ahead of a VM's faults. */
export interface PrefaultSetup {
  /** The most needed first; in shared memory. */
  readonly pages: PageRuns;
  /** The guest runs meanwhile: small steps. */
  readonly isPaced: boolean;
  /** Then all the rest, and the VM does without us from then on. */
  readonly completes: boolean;
}

/** Where to note what a VM demands. */
export interface RecorderSetup {
  readonly log: SharedArrayBuffer;
  /** From the moment the VM is attached. Below 2^32. */
  readonly forUs: number;
}

/**
 * How a prefault ended: all is `done`, memory was short (`stopped`), it was told to end, or all is
 * there and the VM has to be `kept` all the same.
 */
export type PrefaultEnd = "done" | "stopped" | "cancelled" | "kept";

/** A session file in this process's memory (`snapshot/session-file.ts`). */
export interface TrackingSetup {
  readonly address: number;
  readonly headerBytes: number;
  readonly bitmapBytes: number;
}

/** What a VM with KVM Userfault has besides its userfaultfd and its first socket. */
export interface UserfaultSetup {
  readonly guestMemfd: number;
  /** Mapped in this process, for as long as the session lasts; so are the rings' pages. */
  readonly bitmapAddress: number;
  readonly bitmapBytes: number;
  readonly asyncSocket: number | null;
  /** Of each vCPU, by its number; empty: none has any. */
  readonly rings: readonly {
    readonly pageAddress: number;
    readonly notify: number;
    readonly complete: number;
  }[];
  readonly guestAddresses: readonly GuestAddressRange[];
}

/** One VM, handed to the worker that owns it from now on, descriptors included. */
export interface SessionSetup {
  /** Unique in this process; below 2^32. */
  readonly id: number;
  readonly userfaultfd: number;
  readonly pidfd: number;
  /** The VMM's connection, kept open as some VMMs may take its end as ours. Null: it is over. */
  readonly socket: number | null;
  readonly regions: readonly GuestRegion[];
  readonly pageSizeBytes: number;
  readonly image: MappedImage;
  readonly memory: SessionMemorySetup;
  /** By which the next process knows this VM. */
  readonly survivalId: number;
  /** Another handler has had it before: what that had read is to be asked for again. */
  readonly isTakeover: boolean;
  readonly onError: ErrorPolicy;
  /** Whether scans are given pages ahead of their faults. */
  readonly hasStreams: boolean;
  readonly prefault: PrefaultSetup | null;
  readonly recorder: RecorderSetup | null;
  /** When its VMM connected (monotonicUs): its account begins there. */
  readonly connectedUs: number;
  /** Where to trace what is done (`trace-ring.ts`); null: nobody wants to know. */
  readonly trace: SharedArrayBuffer | null;
  /** Where writes are recorded, if they are. */
  readonly tracking: TrackingSetup | null;
  /** Null: its faults are events of the userfaultfd, and nothing else. */
  readonly userfault: UserfaultSetup | null;
  /** False only when the process to kill would be our own (the rehearsal). */
  readonly mayKill: boolean;
}

export type ToWorker =
  | { readonly type: "attach"; readonly session: SessionSetup }
  | { readonly type: "detach"; readonly id: number }
  /** Somebody wants its VM dead: answered by `killed`. */
  | { readonly type: "kill"; readonly id: number }
  /** Install nothing more ahead. */
  | { readonly type: "cancelPrefault"; readonly id: number }
  /** Trace into this from now on, or no more. */
  | { readonly type: "trace"; readonly id: number; readonly ring: SharedArrayBuffer | null }
  /** Install everything, and let the VM go. */
  | { readonly type: "complete"; readonly id: number }
  | { readonly type: "ping"; readonly number: number }
  /** A part that the worker needed is in memory, and stays until `settled`. */
  | { readonly type: "arrived"; readonly part: number; readonly cost: PartCost | null }
  /** A part that the worker needed cannot be had. */
  | { readonly type: "lost"; readonly part: number; readonly message: string }
  | { readonly type: "stop" };

/**
 * Why a session ended: its process exited, lost the memory that we served (exec), has all of its
 * memory (complete), or we let go.
 */
export type EndReason = "exited" | "gone" | "complete" | "detached";

/** `gone`: it was dead already. `denied`: we may not, and it lives on. */
export type KillResult = "killed" | "gone" | "denied";

export type FromWorker =
  | { readonly type: "ready"; readonly threadId: number }
  | { readonly type: "pong"; readonly number: number }
  /**
   * Faults wait for this part of an image: a chunk, or a block of a file
   * (`source/mapped-image.ts`). Asked once until the answer: `arrived` or `lost`.
   */
  | { readonly type: "need"; readonly part: number; readonly isUrgent: boolean }
  /** Faults now wait for a part that was asked for without urgency. */
  | { readonly type: "hurry"; readonly part: number }
  /** The faults that waited for what `arrived` are settled: it may go. */
  | { readonly type: "settled"; readonly part: number }
  /** The session cannot go on; `kill` tells whether its VM could be killed. */
  | {
      readonly type: "failed";
      readonly id: number;
      readonly message: string;
      readonly kill: KillResult;
    }
  /** By policy the session waits for a page that cannot be had now. */
  | {
      readonly type: "prefaulted";
      readonly id: number;
      readonly end: PrefaultEnd;
      /** Since the VM was attached. */
      readonly afterUs: number;
    }
  | { readonly type: "killed"; readonly id: number; readonly kill: KillResult }
  | { readonly type: "waits"; readonly id: number; readonly message: string }
  | { readonly type: "ended"; readonly id: number; readonly reason: EndReason };
