/**
 * One VM's time in its fault worker: says at each turn what has passed since the last one was spent
 * on (`restore-account.ts`), whom to charge for it, and traces it where somebody wants to know.
 */
import { Cause } from "../base/restore-causes.ts";
import type { PartCost } from "../source/part-cost.ts";
import type { RestoreAccount } from "./restore-account.ts";
import { Trace, TraceRing } from "./trace-ring.ts";

/** A part of the image that was asked for, and has come or is lost. */
export interface Arrival {
  readonly part: number;
  /** When it was asked for (monotonicUs). */
  readonly sinceUs: number;
  /** Why it cannot be had; empty: it is there. */
  readonly lossMessage: string;
  /** What bringing it took, if that is known. */
  readonly cost: PartCost | null;
}

const NO_PART = -1;
const NO_PAGE = -1;

export class SessionClock {
  readonly account: RestoreAccount;
  /** Whether the kernel refused the last installation as events are pending. */
  isPutOff = false;
  readonly #attachedUs: number;
  #ring: TraceRing | null;
  /** What the time since the last mark is being spent on. */
  #state: number = Cause.guest;
  /** Since when somebody waits that this turn, or the next, is for. */
  #waitingSinceUs = 0;
  #waitingCause: number = Cause.install;
  /** What the bytes took that have just come. */
  #arrivalCause: number = Cause.handover;
  /** The last part that could not be had, until it can. */
  #lostPart = NO_PART;
  /** The last page that could not be had, until it is installed; since when it is waited for. */
  #restingPage = NO_PAGE;
  #restingSinceUs = 0;

  constructor(account: RestoreAccount, attachedUs: number, ring: SharedArrayBuffer | null) {
    this.account = account;
    this.#attachedUs = attachedUs;
    this.#ring = ring === null ? null : new TraceRing(ring);
  }

  get isTracing(): boolean {
    return this.#ring !== null;
  }

  traceInto(ring: SharedArrayBuffer | null): void {
    this.#ring = ring === null ? null : new TraceRing(ring);
  }

  /** The kernel has told of something. `isWakeUp`: the worker was asleep until then. */
  notify(isWakeUp: boolean): void {
    if (this.#state === Cause.guest) this.account.countTurn(isWakeUp);
  }

  /** Faults came at `sinceUs`, when the worker was busy with something else. */
  learn(sinceUs: number, cause: number): void {
    if (this.#state !== Cause.guest) return;
    this.account.spend(Cause.guest, sinceUs);
    this.#enter(cause, sinceUs);
  }

  beginTurn(nowUs: number): void {
    this.account.spend(this.#state, nowUs);
    // Who waits for bytes waits on, and who waits for what is lost is known (`rest`).
    const state = this.#state;
    const isForThis = state === Cause.deferred || state === Cause.queue || state === Cause.memory;
    if (!isForThis) this.#enter(Cause.install, nowUs);
  }

  /** Before the turn for what waits for it. */
  arrive({ part, sinceUs, lossMessage, cost }: Arrival, nowUs: number): void {
    if (this.#state !== Cause.fetching && this.#state !== Cause.room) return;
    if (lossMessage !== "") {
      this.account.lose(nowUs);
      this.#arrivalCause = Cause.lost;
      this.#lostPart = part;
      return;
    }
    // It was not tried again at once.
    const before = part === this.#lostPart ? Cause.lost : Cause.handover;
    if (this.#state === Cause.room) this.account.spend(Cause.room, nowUs);
    else this.#arrivalCause = this.account.spendFetch(cost, sinceUs, nowUs, before);
    if (part === this.#lostPart) this.#lostPart = NO_PART;
  }

  /** In a turn: `page` cannot be had now. It is tried again after a while, and again. */
  rest(page: number): void {
    if (page !== this.#restingPage) this.#restingSinceUs = this.#waitingSinceUs;
    this.#restingPage = page;
  }

  /** Nobody may run before what is installed ahead is there. */
  beginAhead(): void {
    this.#state = Cause.ahead;
  }

  /** Nothing more is installed ahead: the guest may run. */
  endPrefault(nowUs: number): void {
    if (this.#state !== Cause.ahead) return;
    this.account.spend(Cause.ahead, nowUs);
    this.#state = Cause.guest;
  }

  /** The kernel installs nothing before its events are read: what is done until it does is that. */
  putOff(): void {
    this.isPutOff = true;
  }

  planned(nowUs: number): void {
    this.account.spend(this.isPutOff ? Cause.deferred : Cause.lookup, nowUs);
  }

  woken(nowUs: number): void {
    this.account.spend(Cause.install, nowUs);
    this.isPutOff = false;
  }

  /** `arrivedSinceUs`: since when its bytes were waited for; 0: they were there. */
  charge(kind: number, page: number, pages: number, arrivedSinceUs: number, nowUs: number): void {
    const isArrival = arrivedSinceUs > 0;
    let cause = isArrival ? this.#arrivalCause : this.#waitingCause;
    let sinceUs = isArrival ? arrivedSinceUs : this.#waitingSinceUs;
    if (this.#restingPage >= page && this.#restingPage < page + pages) {
      cause = Cause.lost;
      sinceUs = this.#restingSinceUs;
      this.#restingPage = NO_PAGE;
    }
    this.account.charge(page, pages, sinceUs, nowUs, cause);
    this.note(kind, cause, page, pages, nowUs, nowUs - sinceUs);
  }

  /** For the trace only. */
  note(
    kind: number,
    cause: number,
    page: number,
    pages: number,
    nowUs: number,
    costUs: number,
  ): void {
    this.#ring?.add(kind, cause, nowUs - this.#attachedUs, page, pages, costUs);
  }

  noteDemand(page: number, nowUs: number): void {
    this.#ring?.add(Trace.demand, Cause.guest, nowUs - this.#attachedUs, page, 1, 0);
  }

  /** `cause`: what the time until the next turn is spent on. */
  endTurn(cause: number): void {
    this.#state = cause;
    if (cause !== Cause.deferred) this.isPutOff = false;
    if (cause !== Cause.guest) this.#waitingCause = cause;
  }

  #enter(cause: number, sinceUs: number): void {
    this.#state = cause;
    this.#waitingCause = cause;
    this.#waitingSinceUs = sinceUs;
  }
}
