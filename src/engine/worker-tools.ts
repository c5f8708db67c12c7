/** What all sessions of a worker share, because a worker does one thing at a time. */
import type { ActionList } from "../pager/actions.ts";
import type { EventBatch } from "../uffd/events.ts";
import type { PageBuffers } from "./page-buffers.ts";
import type { SurvivingBatch } from "./surviving-batches.ts";
import type { WorkerSession } from "./worker-session.ts";

/**
 * The part was `asked` for; or not, as the session has asked for as many as one may (`heldBack`),
 * or all of them together have (`crowdedOut`): it asks again when it is told that there is room.
 */
export type NeedVerdict = "asked" | "heldBack" | "crowdedOut";

export interface WorkerTools {
  readonly batch: EventBatch;
  /** The same batch where it survives this process; null: it need not. */
  readonly survivor: SurvivingBatch | null;
  readonly actions: ActionList;
  readonly buffers: PageBuffers;
  /** A session lacks a part of its image: it has to be brought; urgently, if faults wait for it. */
  need(session: WorkerSession, part: number, isUrgent: boolean): NeedVerdict;
  /** A page was demanded that nobody expected: more such faults may follow at once. */
  unexpected(nowUs: number): void;
  /** By policy a session waits for a page that cannot be had now: somebody should know. */
  tellWait(session: WorkerSession, loss: string): void;
}
