/** What all sessions of a worker share, because a worker does one thing at a time. */
import type { ActionList } from "../pager/actions.ts";
import type { EventBatch } from "../uffd/events.ts";
import type { PageBuffers } from "./page-buffers.ts";
import type { WorkerSession } from "./worker-session.ts";

export interface WorkerTools {
  readonly batch: EventBatch;
  readonly actions: ActionList;
  readonly buffers: PageBuffers;
  /** A session lacks a part of its image: it has to be brought; urgently, if faults wait for it. */
  need(session: WorkerSession, part: number, isUrgent: boolean): void;
  /** By policy a session waits for a page that cannot be had now: somebody should know. */
  tellWait(session: WorkerSession, loss: string): void;
}
