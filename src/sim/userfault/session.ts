/**
 * A mirror of what src/engine/userfault-intake.ts adds to a session: where faults come from, and
 * what is done before it waits. The rest of a session's turn is the simulator's own
 * (virtual-session.ts), as in the engine. PURE.
 */
import type { Answers } from "../../pager/answers.ts";
import type { Userfaults, UserfaultVerdict } from "../../pager/userfaults.ts";
import { WaiterKind } from "../../pager/waiters.ts";
import { sightOf } from "../tally.ts";
import { type SessionOptions, VirtualSession } from "../virtual-session.ts";
import type { VirtualGuestPages } from "./guest-pages.ts";
import type { SocketKind, UserfaultKernel } from "./kernel.ts";
import type { VirtualRequest, VirtualStream } from "./stream.ts";

const MAX_LOOKS_PER_TURN = 16;

export interface UserfaultSessionOptions extends SessionOptions<VirtualGuestPages> {
  readonly machine: UserfaultKernel;
  readonly faults: Userfaults;
  readonly answers: Answers;
  /** Requests that one look at a socket sees: the engine's sees 64 KiB. */
  readonly lookRequests: number;
}

/** What the kernel has told of: the sockets by their kind. */
export interface Edges {
  events: boolean;
  readonly sockets: [boolean, boolean];
}

export class UserfaultSession extends VirtualSession<VirtualGuestPages> {
  protected readonly parts: UserfaultSessionOptions;
  readonly #mayHave: Edges = { events: true, sockets: [true, true] };

  constructor(options: UserfaultSessionOptions) {
    super(options);
    this.parts = options;
  }

  /** The kernel says that there is something. */
  notify({ events, sockets }: Edges): void {
    if (events) this.#mayHave.events = true;
    for (const kind of [0, 1] as const) if (sockets[kind]) this.#mayHave.sockets[kind] = true;
  }

  protected override rest(): "idle" | "again" | "later" {
    const { faults, answers } = this.parts;
    if (!faults.arm()) return "again";
    return answers.flush() ? "idle" : "later";
  }

  protected override drain(): boolean {
    const { machine, faults, answers } = this.parts;
    const { sockets } = this.#mayHave;
    if (this.#mayHave.events) this.#mayHave.events = this.#readEvents();
    if (sockets[0]) sockets[0] = this.#receive(WaiterKind.request, machine.requests);
    if (sockets[1] && machine.asyncRequests !== null) {
      sockets[1] = this.#receive(WaiterKind.asyncRequest, machine.asyncRequests);
    }
    for (let vcpu = 0; vcpu < machine.rings.length; vcpu++) {
      const count = faults.drainRing(vcpu, (_gpa, page, verdict) => this.#follow(page, verdict));
      if (count < 0) this.failure = { why: "outside", page: 0, outcome: null };
    }
    const hasMore =
      this.#mayHave.events || sockets[0] || (sockets[1] && machine.asyncRequests !== null);
    if (!hasMore) faults.endRepeats();
    answers.flush();
    return hasMore;
  }

  #readEvents(): boolean {
    const { machine, faults, batchCapacity } = this.parts;
    for (let look = 0; look < MAX_LOOKS_PER_TURN; look++) {
      const pages = machine.readEvents(batchCapacity);
      for (const page of pages) this.#follow(page, faults.event(page));
      if (pages.length < batchCapacity) return false;
    }
    return true;
  }

  /** True: there may be more. */
  #receive(kind: SocketKind, stream: VirtualStream): boolean {
    const { machine, lookRequests } = this.parts;
    for (let look = 0; look < MAX_LOOKS_PER_TURN; look++) {
      machine.enter();
      const seen = stream.requests.slice(0, lookRequests);
      this.takeRequests(kind, stream, seen);
      if (seen.length < lookRequests) return false;
    }
    return true;
  }

  /** Out of the socket only when all of them are written down. */
  protected takeRequests(kind: SocketKind, stream: VirtualStream, seen: VirtualRequest[]): void {
    for (const request of seen) this.takeRequest(kind, request);
    this.parts.machine.enter();
    stream.requests.splice(0, seen.length);
  }

  protected takeRequest(kind: SocketKind, request: VirtualRequest): void {
    const { vcpu, flags, gpa, page, offset } = request;
    this.#follow(page, this.parts.faults.request(kind, vcpu, flags, gpa, page, offset));
  }

  #follow(page: number, verdict: UserfaultVerdict): void {
    const { tally } = this.options;
    // `queued`: nothing is ever noted as removed from such a VM.
    if (verdict === "outside" || verdict === "tooMany" || verdict === "queued") {
      this.failure = { why: "outside", page, outcome: null };
    } else tally.add(sightOf.userfault[verdict]);
  }
}
