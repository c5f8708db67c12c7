/**
 * The rings that fault workers trace sessions into, and who records them. A session has a ring from
 * its VM's coming on if that was asked for (`trace`), and any other for as long as somebody
 * records. Rings are this pager's: after a takeover a traced session gets a new one.
 */
import { FaultlineError } from "../base/errors.ts";
import type { Engine } from "../engine/engine.ts";
import type { Session } from "../engine/session.ts";
import { TraceRing } from "../engine/trace-ring.ts";
import { monotonicUs } from "../linux/clock.ts";
import type { TraceStream } from "./host-service.ts";
import { drainTrace } from "./trace-drain.ts";

/** 1 MiB: half a minute at a thousand faults a second. */
const RING_RECORDS = 65_536;
export const MAX_RINGS = 64;
export const MAX_RECORDINGS = 8;

interface Ring {
  readonly ring: TraceRing;
  /** The session has ended. */
  readonly over: AbortController;
  /** Wanted whether somebody records or not. */
  isKept: boolean;
  recordings: number;
}

/** When a worker has begun with a VM: its records count from there. */
interface Beginning {
  readonly attachedMs: number;
  readonly attachedUs: number;
}

/** What is recorded of. */
export interface TracedSession {
  readonly id: string;
  readonly memory: string;
  readonly engineSession: Session;
}

export class SessionTraces {
  readonly #engine: Engine;
  readonly #rings = new Map<string, Ring>();
  readonly #beginnings = new Map<string, Beginning>();
  #recordings = 0;

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /**
   * A session is to be traced from its VM's coming on.
   * @throws FaultlineError `limit`
   */
  keep(id: string): TraceRing {
    const ring = this.#ringOf(id);
    ring.isKept = true;
    return ring.ring;
  }

  /** A session's VM is about to be attached. Where to trace it; null: nowhere yet. */
  begin(id: string, isTraced: boolean): TraceRing | null {
    this.#beginnings.set(id, { attachedMs: Date.now(), attachedUs: monotonicUs() });
    return isTraced ? this.keep(id) : null;
  }

  /** The session is over. Whoever records it still has the ring, with the last of it. */
  forget(id: string): void {
    this.#rings.get(id)?.over.abort();
    this.#rings.delete(id);
    this.#beginnings.delete(id);
  }

  /**
   * Begins to record now; what the ring holds already is part of it. The file comes piece by piece,
   * as fast as the caller takes it.
   * @throws FaultlineError `limit`
   */
  record(session: TracedSession, forMs: number): TraceStream {
    const { id, engineSession } = session;
    if (this.#recordings >= MAX_RECORDINGS) {
      throw new FaultlineError(
        "limit",
        `${MAX_RECORDINGS} traces are recorded already, and no more may be at once. Try again ` +
          "when one has ended.",
      );
    }
    const ring = this.#ringOf(id);
    if (!ring.isKept && ring.recordings === 0) this.#engine.trace(engineSession, ring.ring);
    ring.recordings += 1;
    this.#recordings += 1;
    const drained = { ...session, ...this.#beginnings.get(id)! };
    const stop = new AbortController();
    let isClosed = false;
    return {
      pieces: drainTrace(drained, ring.ring, {
        ...{ forMs, over: ring.over.signal, stop: stop.signal },
      }),
      end: () => stop.abort(),
      close: () => {
        if (!isClosed) this.#release(session, ring);
        isClosed = true;
      },
    };
  }

  /** Nobody reads it any more, to its end or not. */
  #release({ id, engineSession }: TracedSession, ring: Ring): void {
    this.#recordings -= 1;
    ring.recordings -= 1;
    if (ring.isKept || ring.recordings > 0) return;
    this.#engine.trace(engineSession, null);
    if (this.#rings.get(id) === ring) this.#rings.delete(id);
  }

  #ringOf(id: string): Ring {
    const known = this.#rings.get(id);
    if (known !== undefined) return known;
    if (this.#rings.size >= MAX_RINGS) {
      throw new FaultlineError(
        "limit",
        `${MAX_RINGS} sessions are traced, and no more may be at once. End one, or do without ` +
          "a trace.",
      );
    }
    const ring = new TraceRing(TraceRing.allocate(RING_RECORDS));
    const over = new AbortController();
    const made = { ring, over, isKept: false, recordings: 0 };
    this.#rings.set(id, made);
    return made;
  }
}
