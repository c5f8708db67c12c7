/**
 * The parts of images that a fault worker has asked for, who waits for each, and how many more may
 * be asked for.
 */
import { assert } from "../base/assert.ts";
import { monotonicUs } from "../linux/clock.ts";
import type { FromWorker } from "./wire.ts";
import type { NeedVerdict } from "./worker-tools.ts";

/**
 * Parts that the faults of one VM may have asked for at once: far more than vCPUs wait for, and
 * than stores answer at a time. What a VM with hundreds of threads needs beyond that waits.
 */
const MAX_PARTS_PER_SESSION = 256;
/** And those of all VMs of a worker: the main thread keeps a promise and a timer for each. */
const MAX_PARTS_PER_WORKER = 4096;

/** Who needs parts. */
interface Needer {
  /** Parts that were asked for and have not been answered; counted here. */
  askedParts: number;
}

/** A part that was asked for, and who waits for it. */
interface Need<Session> {
  sinceUs: number;
  /** Whether faults wait for it, and not only what is to be installed ahead of them. */
  isUrgent: boolean;
  readonly sessions: Set<Session>;
}

export class PartNeeds<Session extends Needer> {
  readonly #needs = new Map<number, Need<Session>>();
  readonly #send: (message: FromWorker) => void;

  constructor(send: (message: FromWorker) => void) {
    this.#send = send;
  }

  /** Asks for a part, unless it was asked for already, or it would be too many. */
  add(session: Session, part: number, isUrgent: boolean): NeedVerdict {
    const need = this.#needs.get(part);
    if (need === undefined) {
      // What is installed ahead has a bound of its own, and no way to come back.
      const verdict = isUrgent ? this.#mayAsk(session) : "asked";
      if (verdict !== "asked") return verdict;
      this.#needs.set(part, { sinceUs: monotonicUs(), isUrgent, sessions: new Set([session]) });
      session.askedParts += 1;
      this.#send({ type: "need", part, isUrgent });
      return "asked";
    }
    if (!need.sessions.has(session)) {
      need.sessions.add(session);
      session.askedParts += 1;
    }
    if (need.isUrgent || !isUrgent) return "asked";
    need.isUrgent = true;
    need.sinceUs = monotonicUs();
    this.#send({ type: "hurry", part });
    return "asked";
  }

  /** How many parts more a session may ask for. */
  roomFor({ askedParts }: Session): number {
    const own = MAX_PARTS_PER_SESSION - askedParts;
    return Math.max(0, Math.min(own, MAX_PARTS_PER_WORKER - this.#needs.size));
  }

  /** A part was answered. Whoever finds it missing again, in a moment, asks anew. */
  take(part: number): Readonly<Need<Session>> {
    const need = this.#needs.get(part);
    assert(need !== undefined, "a part that nobody needed");
    this.#needs.delete(part);
    for (const session of need.sessions) session.askedParts -= 1;
    return need;
  }

  #mayAsk({ askedParts }: Session): NeedVerdict {
    if (askedParts >= MAX_PARTS_PER_SESSION) return "heldBack";
    return this.#needs.size >= MAX_PARTS_PER_WORKER ? "crowdedOut" : "asked";
  }
}
