/**
 * Where the time of one VM's restore goes, in memory that its fault worker writes and the main
 * thread reads: microseconds by cause, the dearest pages, and what each stretch of memory has cost.
 *
 * A VM is in one state at any moment. The worker says what the time since the last mark was spent
 * on, each time that changes; so the causes add up to the whole time, whatever happens, and nothing
 * is counted twice. Time in which the guest runs is added when it ends: the account goes up to the
 * last thing that anybody waited for.
 *
 * Plain stores, as in `session-stats.ts`. The memory may outlive the process: the next one counts
 * what lies between as a takeover.
 */
import {
  Cause,
  type CauseTimes,
  type RestoreCause,
  restoreCauses,
} from "../base/restore-causes.ts";
import type { PartCost } from "../source/part-cost.ts";

/** Room for causes that later versions add. */
const CAUSE_PLACES = 32;
const DEAREST = 32;
const DEAREST_FIELDS = 5;
/** Stretches of memory whose costs are summed. */
export const EXTENTS = 1024;
/**
 * Words in front: when the account begins, and up to when it goes (monotonicUs; 0: not begun); how
 * often the guest has run until it asked for something, and the worker was asleep then.
 */
const at = { beganUs: 0, markUs: 1, turns: 2, wakeUps: 3 } as const;
const HEADER_PLACES = 8;
const FIRST_DEAREST = HEADER_PLACES + CAUSE_PLACES;
const WORDS = FIRST_DEAREST + DEAREST * DEAREST_FIELDS;

/** An installation that somebody has waited for long. */
export interface DearPage {
  readonly page: number;
  /** Installed together with it. */
  readonly pages: number;
  readonly costUs: number;
  /** What most of it was spent on. */
  readonly cause: RestoreCause;
  /** When it was there, since the account began. */
  readonly afterUs: number;
}

export class RestoreAccount {
  static readonly sizeBytes = WORDS * 8 + EXTENTS * 4;
  /** Pages of one stretch. */
  readonly extentPages: number;
  #words!: Float64Array;
  #extents!: Float32Array;
  /** The least of the dearest. */
  #threshold = 0;

  constructor(buffer: ArrayBufferLike, offsetBytes: number, pageCount: number) {
    this.extentPages = Math.ceil(pageCount / EXTENTS);
    this.#look(buffer, offsetBytes);
    this.#threshold = this.#leastDear().costUs;
  }

  /** Goes on in other memory, with what it knows: the old may be unmapped then. */
  moveTo(buffer: ArrayBufferLike): void {
    const [words, extents] = [this.#words, this.#extents];
    this.#look(buffer, 0);
    this.#words.set(words);
    this.#extents.set(extents);
  }

  /** The worker watches from now on. `sinceUs`: when the VM's connection came. */
  begin(sinceUs: number, nowUs: number): void {
    if (this.#words[at.beganUs] !== 0) {
      this.spend(Cause.takeover, nowUs);
      return;
    }
    this.#words[at.beganUs] = sinceUs;
    this.#words[at.markUs] = sinceUs;
    this.spend(Cause.handshake, nowUs);
  }

  /** All time since the last mark, until `nowUs`, was spent on this. Returns how much it was. */
  spend(cause: number, nowUs: number): number {
    const us = nowUs - this.#words[at.markUs]!;
    // The moment lies before the mark where several things are learnt of at once.
    if (us <= 0) return 0;
    this.#words[HEADER_PLACES + cause]! += us;
    this.#words[at.markUs] = nowUs;
    return us;
  }

  /** The guest has asked for something while nothing was under way. */
  countTurn(isWakeUp: boolean): void {
    this.#words[at.turns]! += 1;
    if (isWakeUp) this.#words[at.wakeUps]! += 1;
  }

  /**
   * A part has come that was asked for at `sinceUs`: what was spent on fetching, until `nowUs`, is
   * divided as bringing it was; what lies before anybody worked on it was spent on `before`.
   * Returns what took most of it.
   */
  spendFetch(
    cost: PartCost | null,
    sinceUs: number,
    nowUs: number,
    before: number = Cause.handover,
  ): number {
    this.spend(Cause.fetching, nowUs);
    const words = this.#words;
    const spent = words[HEADER_PLACES + Cause.fetching]!;
    words[HEADER_PLACES + Cause.fetching] = 0;
    const wholeUs = nowUs - sinceUs;
    if (cost === null || wholeUs <= 0) {
      words[HEADER_PLACES + Cause.handover]! += spent;
      return Cause.handover;
    }
    // Others may have asked for it earlier: only what lies in our time is ours.
    const workedUs = Math.max(0, Math.min(cost.untilUs, nowUs) - Math.max(cost.fromUs, sinceUs));
    const { storeUs, nearUs, diskUs, decodeUs, roomUs, isAgain } = cost;
    const billedUs = storeUs + nearUs + diskUs + decodeUs + roomUs;
    const scale = billedUs === 0 ? 0 : (workedUs / billedUs) * (spent / wholeUs);
    let left = spent;
    let most: number = Cause.handover;
    let mostUs = 0;
    const add = (cause: number, us: number): void => {
      const share = us * scale;
      words[HEADER_PLACES + cause]! += share;
      left -= share;
      if (share <= mostUs) return;
      mostUs = share;
      most = cause;
    };
    if (isAgain) add(Cause.again, billedUs);
    else {
      add(Cause.store, storeUs);
      add(Cause.near, nearUs);
      add(Cause.disk, diskUs);
      add(Cause.decode, decodeUs);
      add(Cause.room, roomUs);
    }
    const beforeUs = Math.max(0, Math.min(cost.fromUs, nowUs) - sinceUs) / wholeUs;
    const early = Math.min(left, beforeUs * spent);
    words[HEADER_PLACES + before]! += early;
    words[HEADER_PLACES + Cause.handover]! += left - early;
    if (left - early > Math.max(mostUs, early)) return Cause.handover;
    return early > mostUs ? before : most;
  }

  /** What was fetched cannot be had: all that was spent on it was lost, until `nowUs`. */
  lose(nowUs: number): void {
    this.spend(Cause.lost, nowUs);
    this.#words[HEADER_PLACES + Cause.lost]! += this.#words[HEADER_PLACES + Cause.fetching]!;
    this.#words[HEADER_PLACES + Cause.fetching] = 0;
  }

  /** Pages were installed that somebody has waited for since `sinceUs`. */
  charge(page: number, pages: number, sinceUs: number, nowUs: number, cause: number): void {
    const costUs = nowUs - sinceUs;
    this.#extents[Math.floor(page / this.extentPages)]! += costUs;
    if (costUs > this.#threshold) this.#remember(page, pages, costUs, cause, nowUs);
  }

  /** Microseconds by cause. */
  causes(): CauseTimes {
    const entries = restoreCauses.map((name, index) => [name, this.#words[HEADER_PLACES + index]!]);
    return Object.fromEntries(entries) as CauseTimes;
  }

  /** Up to when it goes (monotonicUs): the last moment at which anybody had waited. */
  get markUs(): number {
    return this.#words[at.markUs]!;
  }

  /** When the VM's connection came (monotonicUs); 0: no worker watches yet. */
  get beganUs(): number {
    return this.#words[at.beganUs]!;
  }

  /** How often the guest ran until it asked for something, and had to wake the worker for it. */
  get turns(): { readonly all: number; readonly wakeUps: number } {
    return { all: this.#words[at.turns]!, wakeUps: this.#words[at.wakeUps]! };
  }

  /** The dearest first. */
  dearest(): DearPage[] {
    const all = Array.from({ length: DEAREST }, (_, index) => this.#dearAt(index));
    return all.filter(({ pages }) => pages > 0).sort((a, b) => b.costUs - a.costUs);
  }

  /** A copy: what was waited for each stretch, `extentPages` pages each. Threads add up. */
  extentsUs(): Float32Array {
    return this.#extents.slice();
  }

  #remember(page: number, pages: number, costUs: number, cause: number, nowUs: number): void {
    const { index } = this.#leastDear();
    const first = FIRST_DEAREST + index * DEAREST_FIELDS;
    this.#words[first] = page;
    this.#words[first + 1] = pages;
    this.#words[first + 2] = costUs;
    this.#words[first + 3] = cause;
    this.#words[first + 4] = nowUs - this.beganUs;
    this.#threshold = this.#leastDear().costUs;
  }

  #leastDear(): { readonly index: number; readonly costUs: number } {
    let least = 0;
    const costOf = (index: number): number =>
      this.#words[FIRST_DEAREST + index * DEAREST_FIELDS + 2]!;
    for (let index = 1; index < DEAREST; index++) if (costOf(index) < costOf(least)) least = index;
    return { index: least, costUs: costOf(least) };
  }

  #dearAt(index: number): DearPage {
    const first = FIRST_DEAREST + index * DEAREST_FIELDS;
    const [page, pages, costUs, cause, afterUs] = this.#words.subarray(
      first,
      first + DEAREST_FIELDS,
    ) as unknown as [number, number, number, number, number];
    return { page, pages, costUs, cause: restoreCauses[cause] ?? "guest", afterUs };
  }

  #look(buffer: ArrayBufferLike, offsetBytes: number): void {
    this.#words = new Float64Array(buffer, offsetBytes, WORDS);
    this.#extents = new Float32Array(buffer, offsetBytes + WORDS * 8, EXTENTS);
  }
}
