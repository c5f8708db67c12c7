/**
 * A mirror of src/engine/worker.ts: several sessions on one thread and one epoll. One `round()` is
 * one pass of the worker's loop: what the epoll tells first, then the sessions that have work which
 * no event announces. Change them together. What the mirror leaves out: spinning (rounds come when
 * the world wants them), messages from the main thread, and errors of epoll itself.
 *
 * Methods are protected, so that mutants can break them. PURE.
 */
import type { Turn, VirtualSession } from "./virtual-session.ts";

export const LATER_US = 1000;
export const EXIT_GRACE_US = 1e6;

export type EndReason = "exited" | "gone";

/** Who follows what the worker does, to judge it. */
export interface WorkerWatcher {
  turnBegins(session: VirtualSession, nowUs: number): void;
  turnEnds(session: VirtualSession, turn: Turn): void;
  /** The session is over, and its descriptors are closed. */
  ended(session: VirtualSession, reason: EndReason): void;
}

interface ReadyEvent {
  readonly session: VirtualSession;
  readonly about: "faults" | "process";
}

export class VirtualWorker {
  readonly #watcher: WorkerWatcher;
  readonly #sessions = new Set<VirtualSession>();
  /** Sessions with work that no event will announce, and when it is due (0: now). */
  readonly #unfinished = new Map<VirtualSession, number>();

  constructor(watcher: WorkerWatcher) {
    this.#watcher = watcher;
  }

  attach(session: VirtualSession): void {
    this.#sessions.add(session);
  }

  get sessionCount(): number {
    return this.#sessions.size;
  }

  /** Nothing left to do that the kernel would not announce, but to wait for VMs that are dead. */
  get isIdle(): boolean {
    for (const session of this.#unfinished.keys()) if (session.isWatched) return false;
    return true;
  }

  round(nowUs: number): void {
    for (const event of this.#wait()) this.#dispatch(event, nowUs);
    if (this.#unfinished.size > 0) this.#goOn(nowUs);
  }

  /** epoll_wait: level-triggered, and what was told goes to the end of the kernel's list. */
  #wait(): ReadyEvent[] {
    const ready: ReadyEvent[] = [];
    for (const session of [...this.#sessions]) {
      const isReadable = session.isWatched && session.kernel.isReadable;
      if (isReadable) ready.push({ session, about: "faults" });
      if (session.kernel.hasExited) ready.push({ session, about: "process" });
      if (!isReadable) continue;
      this.#sessions.delete(session);
      this.#sessions.add(session);
    }
    return ready;
  }

  #dispatch({ session, about }: ReadyEvent, nowUs: number): void {
    // An earlier event of the same wait may have ended the session.
    if (!this.#sessions.has(session)) return;
    if (about === "process") this.#end(session, "exited");
    else this.turn(session, nowUs);
  }

  protected turn(session: VirtualSession, nowUs: number): Turn {
    this.#watcher.turnBegins(session, nowUs);
    const turn = session.turn(nowUs);
    this.#watcher.turnEnds(session, turn);
    this.schedule(session, turn, nowUs);
    if (turn === "gone") this.expectExit(session, nowUs);
    else if (turn === "failed") this.fail(session);
    return turn;
  }

  protected schedule(session: VirtualSession, turn: Turn, nowUs: number): void {
    if (turn === "again") this.#unfinished.set(session, 0);
    else if (turn === "later") this.#unfinished.set(session, nowUs + LATER_US);
    else this.#unfinished.delete(session);
  }

  #goOn(nowUs: number): void {
    for (const [session, dueUs] of this.#unfinished) {
      if (dueUs > nowUs) continue;
      if (session.isWatched) this.turn(session, nowUs);
      else this.#end(session, "gone");
    }
  }

  /**
   * Fails closed: the VM is killed, and the session ends when its process is gone. Where we may not
   * kill it, it stays frozen.
   */
  protected fail(session: VirtualSession): void {
    session.isWatched = false;
    if (session.mayKill) session.kernel.die("killed by the handler");
    else session.kernel.freeze();
  }

  /** The memory is gone: the process is about to exit, or it has called exec. */
  protected expectExit(session: VirtualSession, nowUs: number): void {
    session.isWatched = false;
    this.#unfinished.set(session, nowUs + EXIT_GRACE_US);
  }

  #end(session: VirtualSession, reason: EndReason): void {
    this.#sessions.delete(session);
    this.#unfinished.delete(session);
    session.isWatched = false;
    session.close();
    this.#watcher.ended(session, reason);
  }
}
