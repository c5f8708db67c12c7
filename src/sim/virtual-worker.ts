/**
 * A mirror of src/engine/worker.ts: several sessions on one thread and one epoll. One `round()` is
 * one pass of the worker's loop: what the epoll tells first, then the sessions that have work which
 * no event announces. Change them together. What the mirror leaves out: spinning (rounds come when
 * the world wants them), messages from the main thread, and errors of epoll itself.
 *
 * Methods are protected, so that mutants can break them. PURE.
 */
import type { Step } from "./virtual-prefault.ts";
import type { Turn, VirtualSession } from "./virtual-session.ts";

export const LATER_US = 1000;
export const EXIT_GRACE_US = 1e6;
export const REST_US = 1e6;

export const FAREWELL_US = 1e6;
const MAX_PARTS_PER_SESSION = 256;
const MAX_PARTS_PER_WORKER = 4096;

export type EndReason = "exited" | "gone" | "complete";

/** Who follows what the worker does, to judge it. */
export interface WorkerWatcher {
  turnBegins(session: VirtualSession, nowUs: number): void;
  turnEnds(session: VirtualSession, turn: Turn): void;
  /** The worker asks for a part of a snapshot; `settleNeed` is the answer. */
  asked(part: number): void;
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

  /** Sessions with pages to install ahead of their faults; the first is the next one's turn. */
  readonly #ahead = new Set<VirtualSession>();
  /** Sessions whose VMs need nothing more, and when they are let go. */
  readonly #leaving = new Map<VirtualSession, number>();
  readonly #heldBack = new Set<VirtualSession>();
  #nowUs = 0;
  #pass = 0;
  /** The simulator's stores are small, and so are its worlds. */
  maxPartsPerSession = MAX_PARTS_PER_SESSION;
  maxPartsPerWorker = MAX_PARTS_PER_WORKER;

  /** Who waits for each part. */
  protected readonly needs = new Map<number, Set<VirtualSession>>();

  constructor(watcher: WorkerWatcher) {
    this.#watcher = watcher;
  }

  attach(session: VirtualSession): void {
    this.#sessions.add(session);
    if (session.prefault !== null) this.#ahead.add(session);
  }

  get sessionCount(): number {
    return this.#sessions.size;
  }

  /** Nothing left to do that the kernel would not announce, but to wait for VMs that are dead. */
  get isIdle(): boolean {
    if (this.needs.size > 0 || this.#heldBack.size > 0) return false;
    for (const session of this.#unfinished.keys()) if (session.isWatched) return false;
    for (const { prefault } of this.#ahead) if (prefault!.dueUs <= this.#nowUs) return false;
    return true;
  }

  /** `session` lacks a part. Asks for it, unless it was asked for already, or it is too many. */
  need(session: VirtualSession, part: number, isUrgent: boolean): boolean {
    const sessions = this.needs.get(part);
    if (sessions !== undefined) {
      if (!sessions.has(session)) session.askedParts += 1;
      sessions.add(session);
      return true;
    }
    if (isUrgent && !this.#mayAsk(session)) {
      this.#heldBack.add(session);
      return false;
    }
    this.needs.set(part, new Set([session]));
    session.askedParts += 1;
    this.#watcher.asked(part);
    return true;
  }

  #roomFor(session: VirtualSession): number {
    const own = this.maxPartsPerSession - session.askedParts;
    return Math.max(0, Math.min(own, this.maxPartsPerWorker - this.needs.size));
  }

  #mayAsk(session: VirtualSession): boolean {
    if (session.askedParts >= this.maxPartsPerSession) return false;
    return this.needs.size < this.maxPartsPerWorker;
  }

  /** The answer to a need: the faults that waited for the part are settled now. */
  settleNeed(part: number, isLost: boolean, nowUs: number): void {
    const sessions = this.needs.get(part)!;
    // Whoever finds it missing again, in a moment, asks anew.
    this.needs.delete(part);
    for (const session of sessions) session.askedParts -= 1;
    for (const session of sessions) {
      if (!session.isWatched) continue;
      session.prefault?.settlePart(part, isLost);
      this.#watcher.turnBegins(session, nowUs);
      this.conclude(session, session.turnForPart(part, isLost, nowUs), nowUs);
    }
  }

  /** Parts that could not be asked for until now. */
  protected relieve(nowUs: number): void {
    let left = this.#heldBack.size;
    for (const session of this.#heldBack) {
      if (left-- === 0) return;
      const room = this.#roomFor(session);
      if (room === 0) continue;
      this.#heldBack.delete(session);
      this.#watcher.turnBegins(session, nowUs);
      this.conclude(session, session.turnForRoom(room, nowUs), nowUs);
      if (session.isWatched && session.isHeldBack) this.#heldBack.add(session);
    }
  }

  /** The main thread wants a VM's memory to be complete; here, of one that has a prefault. */
  complete(session: VirtualSession): void {
    if (!session.isWatched || this.#leaving.has(session)) return;
    session.prefault?.complete();
  }

  round(nowUs: number): void {
    this.#nowUs = nowUs;
    this.#pass += 1;
    const ready = this.#wait();
    for (const event of ready) this.#dispatch(event, nowUs);
    if (this.#unfinished.size > 0) this.#goOn(nowUs);
    if (this.#heldBack.size > 0) this.relieve(nowUs);
    if (ready.length === 0 && this.#ahead.size > 0) this.#goAhead(nowUs);
    if (this.#leaving.size > 0) this.#partFromComplete(nowUs);
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
    else {
      session.turnedInPass = this.#pass;
      this.turn(session, nowUs);
    }
  }

  protected turn(session: VirtualSession, nowUs: number): Turn {
    this.#watcher.turnBegins(session, nowUs);
    const turn = session.turn(nowUs);
    this.conclude(session, turn, nowUs);
    return turn;
  }

  protected conclude(session: VirtualSession, turn: Turn, nowUs: number): void {
    this.#watcher.turnEnds(session, turn);
    this.schedule(session, turn, nowUs);
    if (turn === "gone") this.expectExit(session, nowUs);
    else if (turn === "failed") this.fail(session);
  }

  protected schedule(session: VirtualSession, turn: Turn, nowUs: number): void {
    if (turn === "again") this.#unfinished.set(session, 0);
    else if (turn === "later") this.#unfinished.set(session, nowUs + LATER_US);
    else if (turn === "rest") this.#unfinished.set(session, nowUs + REST_US);
    else this.#unfinished.delete(session);
  }

  #goOn(nowUs: number): void {
    for (const [session, dueUs] of this.#unfinished) {
      // One turn for each before others are looked at again.
      if (dueUs > nowUs || session.turnedInPass === this.#pass) continue;
      if (session.isWatched) this.turn(session, nowUs);
      else this.#end(session, "gone");
    }
  }

  #goAhead(nowUs: number): void {
    for (const session of this.#ahead) {
      const prefault = session.prefault!;
      if (prefault.dueUs > nowUs) continue;
      this.#ahead.delete(session);
      this.#ahead.add(session);
      this.#concludeStep(session, session.stepAhead(nowUs), nowUs);
      return;
    }
  }

  #concludeStep(session: VirtualSession, step: Step, nowUs: number): void {
    switch (step) {
      case "more":
      case "waiting":
        return;
      case "done":
        if (session.prefault!.completes) this.#complete(session, nowUs);
        else this.#endPrefault(session);
        return;
      case "stopped":
        this.#endPrefault(session);
        return;
      case "gone":
        this.expectExit(session, nowUs);
        return;
    }
  }

  #endPrefault(session: VirtualSession): void {
    session.prefault = null;
    this.#ahead.delete(session);
  }

  #complete(session: VirtualSession, nowUs: number): void {
    // Of a VM that is dead, UNREGISTER says so.
    if (session.kernel.isDead) {
      this.expectExit(session, nowUs);
    } else if (session.letGo()) {
      this.#endPrefault(session);
      this.#leaving.set(session, nowUs + FAREWELL_US);
    } else {
      session.prefault!.dueUs = nowUs + LATER_US;
      this.turn(session, nowUs);
    }
  }

  #partFromComplete(nowUs: number): void {
    for (const [session, dueUs] of this.#leaving) {
      if (dueUs <= nowUs) this.#end(session, "complete");
    }
  }

  #unwatch(session: VirtualSession): void {
    session.isWatched = false;
    this.#ahead.delete(session);
    this.#heldBack.delete(session);
    this.#leaving.delete(session);
  }

  /**
   * Fails closed: the VM is killed, and the session ends when its process is gone. Where we may not
   * kill it, it stays frozen.
   */
  protected fail(session: VirtualSession): void {
    this.#unwatch(session);
    if (session.mayKill) session.kernel.die("killed by the handler");
    else session.kernel.freeze();
  }

  /** The memory is gone: the process is about to exit, or it has called exec. */
  protected expectExit(session: VirtualSession, nowUs: number): void {
    this.#unwatch(session);
    this.#unfinished.set(session, nowUs + EXIT_GRACE_US);
  }

  #end(session: VirtualSession, reason: EndReason): void {
    this.#sessions.delete(session);
    this.#unfinished.delete(session);
    this.#unwatch(session);
    session.close();
    this.#watcher.ended(session, reason);
  }
}
