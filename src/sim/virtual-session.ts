/**
 * A mirror of src/engine/worker-session.ts on a virtual kernel: the same bounds, the same order,
 * the same answers. The original cannot be used, because it owns real descriptors. Change them
 * together: a test compares their numbers and cases, the rest is up to the reader of both. What the
 * mirror leaves out: counters; write-protect and minor faults, FORK and REMAP, each of which ends
 * the session at once.
 *
 * Methods are protected, so that mutants can break them. PURE.
 */
import type { Outcome } from "../base/outcome.ts";
import { HUGE_PAGE_BYTES, SMALL_PAGE_BYTES } from "../base/units.ts";
import { ActionKind, ActionList } from "../pager/actions.ts";
import type { Planner, Settlement } from "../pager/planner.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import { sightOf, type Tally } from "./tally.ts";
import type { Message, VirtualKernel } from "./virtual-kernel.ts";
import { UNREADABLE, ZERO_BODY } from "./virtual-memory.ts";
import type { Step, VirtualPrefault } from "./virtual-prefault.ts";

export type Turn = "idle" | "again" | "later" | "rest" | "gone" | "failed";
export type ErrorPolicy = "kill" | "poison" | "wait";

export const MAX_READS_PER_TURN = 16;
export const MAX_PLANS_PER_TURN = 2;
const STALLS_BEFORE_WAITING = 32;
const EXHAUSTED_AFTER_US = 1e6;
const NO_PART = -1;
export const MAX_BYTES_PER_TURN = 4 * HUGE_PAGE_BYTES;
const UNASKED_PART = -2;
const MAX_UNWOKEN_BYTES = 16 * SMALL_PAGE_BYTES;

/** Where bytes come from: one body per page. */
export interface VirtualSource {
  fromLayer(owner: number, page: number): number;
  assembled(page: number): number;
  /** What must come first, before the bytes of these pages can be had. */
  absentParts(page: number, pages: number): number[];
}

/** What a session operates: a userfaultfd, or what stands in its place for KVM Userfault. */
export type HandledPages = Pick<
  VirtualKernel,
  "read" | "copy" | "zeropage" | "poison" | "wake" | "letGo" | "close"
> & { progress: number; readonly doneBytes: number; readonly isHugetlb: boolean };

export interface SessionOptions<Pages extends HandledPages = VirtualKernel> {
  readonly kernel: Pages;
  readonly planner: Planner;
  readonly regions: RegionMap;
  readonly source: VirtualSource;
  readonly policy: ErrorPolicy;
  /** Whether the handler may kill the VM; if not, a VM that fails stays frozen. */
  readonly mayKill: boolean;
  /** Messages per read: 64 in the engine. */
  readonly batchCapacity: number;
  /** Asks for a part of the snapshot; false: not now. Faults may have to wait, steps ahead not. */
  readonly need: (session: VirtualSession<Pages>, part: number, isUrgent: boolean) => boolean;
  readonly tally: Tally;
  /** What is installed ahead of faults. */
  readonly prefault: VirtualPrefault | null;
}

/** Why a session failed: the page that could not be had, or what the VMM did. */
export interface Failure {
  readonly page: number;
  readonly why: "badSource" | "exhausted" | "outside";
  readonly outcome: Outcome | null;
}

export class VirtualSession<Pages extends HandledPages = VirtualKernel> {
  readonly kernel: Pages;
  readonly mayKill: boolean;
  /** Whether the worker's epoll holds the userfaultfd. */
  isWatched = true;
  failure: Failure | null = null;
  /** In which pass of the worker's loop it had its last turn. */
  turnedInPass = 0;
  prefault: VirtualPrefault | null;
  /** Parts that were asked for and have not been answered; the worker counts. */
  askedParts = 0;
  protected readonly options: SessionOptions<Pages>;
  protected readonly actions = new ActionList();
  readonly #messages: Message[] = [];
  readonly #pageSizeBytes: number;
  #stalls = 0;
  #streakSinceUs = 0;
  /** After `absent`: a part that is missing. */
  protected missingPart = NO_PART;
  /** The part whose arrival or loss began this turn. */
  protected settledPart = NO_PART;
  protected isPartLost = false;
  /** Whether all parts that the action at hand lacks could be asked for. */
  #isAsked = true;
  /** How much this turn may still install, in pages. */
  #pagesLeft = 0;
  #unwokenStart = 0;
  #unwokenEnd = 0;
  #unwokenBytes = 0;

  constructor(options: SessionOptions<Pages>) {
    this.options = options;
    this.kernel = options.kernel;
    this.mayKill = options.mayKill;
    this.prefault = options.prefault;
    this.#pageSizeBytes = options.regions.pageSizeBytes;
  }

  turn(nowUs: number): Turn {
    const turn = this.#takeTurn(nowUs);
    if (turn === "again" || turn === "gone" || turn === "failed") return turn;
    const rest = this.rest();
    return rest === "idle" ? turn : rest;
  }

  #takeTurn(nowUs: number): Turn {
    const { planner } = this.options;
    if (planner.failureStreak === 0) this.#streakSinceUs = nowUs;
    let hasProgress = false;
    this.#pagesLeft = Math.ceil(MAX_BYTES_PER_TURN / this.#pageSizeBytes);
    for (let plan = 0; plan < MAX_PLANS_PER_TURN && this.#pagesLeft > 0; plan++) {
      const hasMore = this.drain();
      if (this.failure !== null) return "failed";
      if (planner.queuedPages === 0) return hasMore ? "again" : "idle";
      const queuedBefore = planner.queuedPages;
      const verdict = this.#resolve(nowUs);
      if (verdict === "gone" || verdict === "failed") return verdict;
      const queuedAfter = planner.finishPlan();
      if (queuedAfter < queuedBefore) hasProgress = true;
      if (verdict === "later" || verdict === "rest") return verdict;
      if (queuedAfter === 0 && !hasMore) {
        this.#stalls = 0;
        return "idle";
      }
    }
    if (this.#pagesLeft <= 0) this.options.tally.add("turn cut by its bytes");
    this.#stalls = hasProgress ? 0 : this.#stalls + 1;
    return this.#stalls < STALLS_BEFORE_WAITING ? "again" : "later";
  }

  /** Before the session waits: whether it may. */
  protected rest(): "idle" | "again" | "later" {
    return "idle";
  }

  turnForPart(part: number, isLost: boolean, nowUs: number): Turn {
    this.options.planner.unpark(part);
    this.settledPart = part;
    this.isPartLost = isLost;
    const turn = this.turn(nowUs);
    this.settledPart = NO_PART;
    this.isPartLost = false;
    return turn;
  }

  turnForRoom(parts: number, nowUs: number): Turn {
    this.options.planner.unpark(UNASKED_PART, parts);
    return this.turn(nowUs);
  }

  get isHeldBack(): boolean {
    return this.options.planner.isParked(UNASKED_PART);
  }

  stepAhead(nowUs: number): Step {
    return this.prefault!.step(this, this.options, nowUs);
  }

  letGo(): boolean {
    const { planner } = this.options;
    this.drain();
    if (planner.queuedPages > 0 || planner.parkedPages > 0) return false;
    this.kernel.letGo();
    return true;
  }

  close(): void {
    this.kernel.close();
  }

  protected get readLimit(): number {
    return MAX_READS_PER_TURN;
  }

  protected drain(): boolean {
    const { kernel, batchCapacity, tally } = this.options;
    for (let read = 0; read < this.readLimit; read++) {
      const count = kernel.read(this.#messages, batchCapacity);
      for (const message of this.#messages) this.#take(message);
      if (count < batchCapacity) return false;
    }
    tally.add("turn in which the reads ran out");
    return true;
  }

  #take(message: Message): void {
    const { kernel, planner, regions, tally } = this.options;
    if (message.type === "remove") {
      planner.remove(message.start, message.end);
      return;
    }
    const { address } = message;
    const verdict = planner.fault(address);
    if (verdict === "outside") {
      const page = Math.floor(address / regions.pageSizeBytes);
      this.failure = { why: "outside", page, outcome: null };
      return;
    }
    tally.add(sightOf.verdict[verdict]);
    if (verdict === "overflow")
      kernel.wake(address - (address % this.#pageSizeBytes), this.#pageSizeBytes);
  }

  #resolve(nowUs: number): Turn {
    const { kernel, planner } = this.options;
    const { actions } = this;
    const count = planner.plan(actions, this.#pagesLeft);
    let turn: Turn = "again";
    let isDeferred = false;
    for (let index = 0; index < count; index++) {
      if (isDeferred) {
        planner.settle(actions, index, "deferred", 0);
        continue;
      }
      if (actions.aheadPages[index]! > 0) this.#keepToWhatIsAtHand(index);
      const lengthBytes = actions.pageCounts[index]! * this.#pageSizeBytes;
      const wakes = count === 1 || lengthBytes >= MAX_UNWOKEN_BYTES;
      let outcome = this.carryOut(index, wakes);
      if (outcome === "absent") {
        if (this.#isAwaited(index)) continue;
        outcome = "badSource";
      }
      isDeferred = outcome === "deferred";
      const settlement = planner.settle(actions, index, outcome, kernel.doneBytes);
      this.#count(outcome, settlement, index);
      if (!wakes && (outcome === "installed" || outcome === "partial")) this.#wakeLater(index);
      const next = this.follow(index, settlement, outcome, nowUs);
      if (next === "later" || (next === "rest" && turn === "again")) turn = next;
      else if (next === "gone" || next === "failed") {
        turn = next;
        break;
      }
    }
    if (this.#unwokenBytes > 0 && turn !== "gone") this.wakeInstalled();
    return turn;
  }

  /** What nobody has asked for yet is worth no wait. */
  #keepToWhatIsAtHand(index: number): void {
    const { source, planner, tally } = this.options;
    const { actions } = this;
    tally.add("scan given pages ahead");
    if (actions.kinds[index] !== ActionKind.copy) return;
    const first = actions.firstPages[index]!;
    const count = actions.pageCounts[index]!;
    let atHand = 0;
    while (atHand < count && source.absentParts(first + atHand, 1).length === 0) atHand += 1;
    if (atHand === count) return;
    tally.add("pages ahead that are not at hand");
    planner.shrink(actions, index, atHand);
  }

  /** Whether the pages wait, or are tried one by one; if not, the one page is lost. */
  #isAwaited(index: number): boolean {
    const { planner, policy, tally } = this.options;
    const isLost = this.isLost(this.missingPart);
    if (isLost && this.actions.pageCounts[index]! > 1) return this.split(index);
    if (isLost && policy !== "wait") return false;
    tally.add(this.#isAsked ? (isLost ? "waited for a lost part" : "parked") : "held back");
    this.kernel.progress += 1;
    planner.park(this.actions, index, this.#isAsked ? this.missingPart : UNASKED_PART);
    return true;
  }

  protected split(index: number): boolean {
    const { planner, tally } = this.options;
    tally.add("run split around a lost part");
    planner.split(this.actions, index);
    return true;
  }

  protected isLost(part: number): boolean {
    return this.isPartLost && part === this.settledPart;
  }

  protected carryOut(index: number, wakes: boolean): Outcome | "absent" {
    this.#isAsked = true;
    const { kernel, source } = this.options;
    const { actions } = this;
    const page = actions.firstPages[index]!;
    const count = actions.pageCounts[index]!;
    const target = this.addressOf(index);
    if (actions.kinds[index] !== ActionKind.zero && this.#isAbsent(index)) return "absent";
    switch (actions.kinds[index]) {
      case ActionKind.copy: {
        const owner = actions.owners[index]!;
        const bodies: number[] = [];
        for (let at = page; at < page + count; at++) bodies.push(source.fromLayer(owner, at));
        return kernel.copy(target, bodies, wakes);
      }
      case ActionKind.zero:
        return this.installZeroes(target, count, wakes);
      default: {
        const body = source.assembled(page);
        return body === UNREADABLE ? "badSource" : kernel.copy(target, [body], wakes);
      }
    }
  }

  /** A copy asks for what comes first, and what is put together for all of it. */
  #isAbsent(index: number): boolean {
    const { source, need } = this.options;
    const { actions } = this;
    const absent = source.absentParts(actions.firstPages[index]!, actions.pageCounts[index]!);
    const asked = actions.kinds[index] === ActionKind.copy ? absent.slice(0, 1) : absent;
    for (const part of asked) if (!need(this, part, true)) this.#isAsked = false;
    this.missingPart = asked.at(-1) ?? NO_PART;
    return asked.length > 0;
  }

  protected installZeroes(target: number, count: number, wakes: boolean): Outcome {
    const { kernel } = this.options;
    if (this.#pageSizeBytes === SMALL_PAGE_BYTES) return kernel.zeropage(target, count, wakes);
    return kernel.copy(target, new Array<number>(count).fill(ZERO_BODY), wakes);
  }

  #wakeLater(index: number): void {
    const { tally, kernel } = this.options;
    const start = this.addressOf(index);
    const end = start + kernel.doneBytes;
    if (this.#unwokenBytes === 0 || start < this.#unwokenStart) this.#unwokenStart = start;
    if (this.#unwokenBytes === 0 || end > this.#unwokenEnd) this.#unwokenEnd = end;
    this.#unwokenBytes += kernel.doneBytes;
    tally.add("installed, to be woken later");
    if (this.#unwokenBytes >= MAX_UNWOKEN_BYTES) this.wakeInstalled();
  }

  protected wakeInstalled(): void {
    const { kernel } = this.options;
    kernel.wake(this.#unwokenStart, this.#unwokenEnd - this.#unwokenStart);
    this.#unwokenBytes = 0;
  }

  #count(outcome: Outcome, settlement: Settlement, index: number): void {
    const { tally, kernel } = this.options;
    if (outcome === "installed" || outcome === "partial") {
      this.#pagesLeft -= kernel.doneBytes / this.#pageSizeBytes;
    }
    tally.add(sightOf.outcome[outcome === "busy" ? "deferred" : outcome]);
    tally.add(sightOf.settlement[settlement]);
    if (outcome === "gone" && index > 0) tally.add("gone in the middle of a plan");
  }

  protected follow(index: number, settlement: Settlement, outcome: Outcome, nowUs: number): Turn {
    const { kernel } = this.options;
    switch (settlement) {
      case "done":
      case "retry":
        return "again";
      case "wake":
        kernel.wake(this.addressOf(index), this.#pageSizeBytes);
        return "again";
      case "wakeAndBackoff":
        kernel.wake(this.addressOf(index), this.#pageSizeBytes);
        return "later";
      case "backoff":
        return "later";
      case "gone":
        return "gone";
      case "exhausted":
        if (nowUs - this.#streakSinceUs < EXHAUSTED_AFTER_US) {
          kernel.wake(this.addressOf(index), this.#pageSizeBytes);
          return "later";
        }
        return this.giveUp(index, "exhausted", outcome);
      case "badSource":
        return this.giveUp(index, "badSource", outcome);
    }
  }

  protected giveUp(index: number, why: Failure["why"], outcome: Outcome): Turn {
    const { kernel, planner, policy } = this.options;
    if (policy === "wait") {
      // Where the page has left the queue, its waiters come back with a fresh fault.
      if (outcome !== "badSource") kernel.wake(this.addressOf(index), this.#pageSizeBytes);
      return "rest";
    }
    if (policy === "poison") {
      switch (kernel.poison(this.addressOf(index))) {
        case "installed":
          planner.markPoisoned(this.actions, index);
          return "again";
        case "gone":
          return "gone";
        case "alreadyPresent":
          planner.letGo(this.actions, index);
          kernel.wake(this.addressOf(index), this.#pageSizeBytes);
          return "again";
        case "deferred":
          // The page may have left the queue: its waiters come back with a fresh fault.
          kernel.wake(this.addressOf(index), this.#pageSizeBytes);
          return "later";
        default: // Poisoning failed for a reason of its own: fail closed.
      }
    }
    this.failure = { why, page: this.actions.firstPages[index]!, outcome };
    return "failed";
  }

  /** The failure in a few words. */
  describeFailure(): string {
    if (this.failure === null) return "no failure";
    const { why, page, outcome } = this.failure;
    return `${why} at page ${page}, outcome ${outcome}`;
  }

  protected addressOf(index: number): number {
    const { regions } = this.options;
    return regions.addressOf(this.actions.regions[index]!, this.actions.firstPages[index]!);
  }
}
