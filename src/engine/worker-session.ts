/**
 * One VM in its fault worker: drains its userfaultfd, has the planner decide, carries the actions
 * out. Only this object operates the descriptor (design law 3).
 */
import { assert } from "../base/assert.ts";
import type { Outcome } from "../base/outcome.ts";
import { Cause } from "../base/restore-causes.ts";
import { HUGE_PAGE_BYTES, SMALL_PAGE_BYTES } from "../base/units.ts";
import { monotonicUs } from "../linux/clock.ts";
import { OwnedFd } from "../linux/fd.ts";
import { ActionKind, type ActionList } from "../pager/actions.ts";
import type { PageTable } from "../pager/page-table.ts";
import { Planner, QUEUE_CAPACITY, type Settlement } from "../pager/planner.ts";
import { MAX_WAITERS } from "../pager/waiters.ts";
import { RegionMap } from "../snapshot/regions.ts";
import { Userfaultfd } from "../uffd/userfaultfd.ts";
import { Demand } from "./demand.ts";
import { openRecorder } from "./demand-log.ts";
import { DirtyTracker } from "./dirty-tracker.ts";
import type { GuestPages } from "./guest-pages.ts";
import { type ImageBytes, imageBytesOf } from "./image-bytes.ts";
import { Installer } from "./installer.ts";
import type { About, Intake } from "./intake.ts";
import { Ledger } from "./ledger.ts";
import { LostPages } from "./lost-pages.ts";
import { type Arrival, SessionClock } from "./session-clock.ts";
import { SessionIntake } from "./session-intake.ts";
import { SessionMemory } from "./session-memory.ts";
import { EVERYTHING, SessionPrefault, type Step } from "./session-prefault.ts";
import type { SessionStats } from "./session-stats.ts";
import { openUserfault, type UserfaultSession, type WatchedFd } from "./userfault-session.ts";
import { wakeAll } from "./wake-all.ts";
import { MAX_UNWOKEN_BYTES, WakeGroup } from "./wake-group.ts";
import type { PrefaultSetup, SessionSetup } from "./wire.ts";
import type { NeedVerdict, WorkerTools } from "./worker-tools.ts";

/**
 * How a turn ended: nothing left to do (`idle`), more to do at once (`again`), in a moment
 * (`later`) or after a rest, as a page cannot be had now (`rest`), the VM is dead (`gone`), or the
 * session cannot go on (`failed`, see `failure`).
 */
export type Turn = "idle" | "again" | "later" | "rest" | "gone" | "failed";

/** Plans per turn. Progress comes in the first; another is for partial and deferred ones. */
const MAX_PLANS_PER_TURN = 2;
/** Turns without progress after which a session waits a moment instead of trying at once. */
const STALLS_BEFORE_WAITING = 32;
/**
 * A page that cannot be allocated for this long is given up: pools are refilled in less, or never.
 */
const EXHAUSTED_AFTER_US = 1e6;
/** One copy installs at most this much: the same grain as a huge page. */
const MAX_RUN_BYTES = HUGE_PAGE_BYTES;
/** A fault of a scan brings at most this much: it waits for all of it, some 50 µs. */
const MAX_STREAM_BYTES = 64 * SMALL_PAGE_BYTES;
/** Bytes per turn, a little more or less: 64 copies of 2 MiB would keep others waiting for long. */
const MAX_BYTES_PER_TURN = 4 * HUGE_PAGE_BYTES;
/** The part that pages wait for whose own part could not be asked for yet. */
const UNASKED_PART = -2;

export class WorkerSession {
  readonly id: number;
  readonly survivalId: number;
  readonly uffd: Userfaultfd;
  readonly pidfd: OwnedFd;
  readonly mayKill: boolean;
  /** Whether the worker's epoll holds the userfaultfd. */
  isWatched = false;
  /** Why the session failed, for people. */
  failure = "";
  /** When this session last did something (monotonicUs). */
  lastActiveUs = 0;
  /** What is installed ahead of faults; null: nothing, or no more. */
  prefault: SessionPrefault | null = null;
  /** Parts that were asked for and have not been answered; the worker counts. */
  askedParts = 0;
  /** In which pass of the worker's loop the kernel's word last gave it a turn. */
  turnedInPass = 0;
  readonly attachedUs = monotonicUs();
  /** What its time is spent on. */
  readonly clock: SessionClock;
  readonly #socket: OwnedFd | null;
  readonly #regions: RegionMap;
  readonly #bytes: ImageBytes;
  readonly #table: PageTable;
  readonly #planner: Planner;
  /** Null: nobody wants to know what the VM writes. */
  readonly #tracker: DirtyTracker | null;
  readonly #stats: SessionStats;
  readonly #lost: LostPages;
  readonly #tools: WorkerTools;
  readonly #intake: Intake;
  /** Null: its faults are events of the userfaultfd, and nothing else. */
  readonly #userfault: UserfaultSession | null;
  /** How pages come into its memory. */
  readonly #pages: GuestPages;
  readonly #installer: Installer;
  /** Whether it is a step ahead that asks for bytes. */
  #isAhead = false;
  /** How much this turn may still install, in pages. */
  #pagesLeft = 0;
  /** Whether all parts that the action at hand lacks could be asked for. */
  #needVerdict: NeedVerdict = "asked";
  readonly #pageSizeBytes: number;
  #stalls = 0;
  #streakSinceUs = 0;
  /** What began this turn, if it was a part that has come, or is lost. */
  #arrival: Arrival | null = null;

  readonly #ledger: Ledger;
  readonly #unwoken: WakeGroup;

  constructor(setup: SessionSetup, tools: WorkerTools) {
    this.id = setup.id;
    this.survivalId = setup.survivalId;
    this.uffd = Userfaultfd.fromFd(new OwnedFd(setup.userfaultfd));
    this.pidfd = new OwnedFd(setup.pidfd);
    this.mayKill = setup.mayKill;
    this.#socket = setup.socket === null ? null : new OwnedFd(setup.socket);
    this.#regions = new RegionMap(setup.regions, setup.pageSizeBytes);
    this.#bytes = imageBytesOf(setup.image, tools.buffers, (part) => this.#need(part));
    const { pageSizeBytes, tracking, memory } = setup;
    this.#pageSizeBytes = pageSizeBytes;
    const isUserfault = setup.userfault !== null;
    const kept = SessionMemory.ofSetup(memory, this.#regions.pageLimit, isUserfault);
    const { pageTable: table, stats } = kept;
    this.#tracker = tracking === null ? null : new DirtyTracker(tracking, this.#regions, table);
    this.#planner = new Planner({
      regions: this.#regions,
      runs: this.#bytes.runs,
      table,
      maxRunPages: Math.max(1, MAX_RUN_BYTES / pageSizeBytes),
      maxStreamPages: setup.hasStreams ? MAX_STREAM_BYTES / pageSizeBytes : 0,
      queueCapacity: isUserfault ? MAX_WAITERS : QUEUE_CAPACITY,
    });
    this.#table = table;
    this.#stats = stats;
    this.#tools = tools;
    const recorder = openRecorder(setup.recorder, this.attachedUs);
    const clock = new SessionClock(kept.account, this.attachedUs, setup.trace);
    this.clock = clock;
    this.#ledger = new Ledger({ stats, clock, recorder });
    kept.account.begin(setup.connectedUs, this.attachedUs);
    const demand = new Demand({ session: this, recorder, clock, tools });
    const { uffd, survivalId } = this;
    const [regions, planner] = [this.#regions, this.#planner];
    const [bytes, tracker] = [this.#bytes, this.#tracker];
    const common = { survivalId, uffd, regions, planner, stats, demand, clock, tools };
    this.#userfault = openUserfault(setup.userfault, this.#socket, kept, common);
    this.#intake = this.#userfault?.intake ?? new SessionIntake({ ...common, tracker });
    this.#pages = this.#userfault?.pages ?? uffd;
    this.#unwoken = new WakeGroup(this.#pages);
    const [pages, { buffers }] = [this.#pages, tools];
    this.#installer = new Installer({ pages, bytes, tracker, pageSizeBytes, buffers });
    this.#lost = new LostPages({
      ...{ policy: setup.onError, pages, planner, tracker, stats, pageSizeBytes },
      tellWait: (loss) => tools.tellWait(this, loss),
    });
    if (setup.prefault !== null) this.prefault = this.#openPrefault(setup.prefault);
  }

  #openPrefault(setup: PrefaultSetup): SessionPrefault {
    const [pages, regions, bytes] = [this.#pages, this.#regions, this.#bytes];
    const [table, installer, stats] = [this.#table, this.#installer, this.#stats];
    const clock = this.clock;
    return new SessionPrefault(setup, { pages, regions, bytes, table, installer, stats, clock });
  }

  /**
   * Answers what is pending. Bounded, so that one VM cannot keep the others waiting. `nowUs`: when
   * the worker learned that there is something to do; latencies count from there.
   */
  turn(nowUs: number): Turn {
    this.clock.beginTurn(nowUs);
    const turn = this.#takeTurn(nowUs);
    this.clock.endTurn(this.#causeOfWait(turn));
    if (turn === "again" || turn === "gone" || turn === "failed") return turn;
    const rest = this.#intake.rest();
    return rest === "idle" ? turn : rest;
  }

  /** What the time until the next turn is spent on. */
  #causeOfWait(turn: Turn): number {
    const isPutOff = this.clock.isPutOff || this.hasStuckWriters;
    if (turn === "later") return isPutOff ? Cause.deferred : Cause.memory;
    if (turn === "rest") return Cause.lost;
    if (turn === "again") return isPutOff ? Cause.deferred : Cause.queue;
    if (this.#planner.parkedPages > 0) return this.askedParts > 0 ? Cause.fetching : Cause.room;
    return this.prefault?.isPaced === false ? Cause.ahead : Cause.guest;
  }

  /** Nothing more is installed ahead. */
  endPrefault(nowUs: number): void {
    this.prefault = null;
    this.clock.endPrefault(nowUs);
  }

  #takeTurn(nowUs: number): Turn {
    this.lastActiveUs = nowUs;
    this.#bytes.nowSeconds = Math.floor(nowUs / 1e6);
    if (this.#planner.failureStreak === 0) this.#streakSinceUs = nowUs;
    let hasProgress = false;
    this.#pagesLeft = Math.ceil(MAX_BYTES_PER_TURN / this.#pageSizeBytes);
    for (let plan = 0; plan < MAX_PLANS_PER_TURN && this.#pagesLeft > 0; plan++) {
      const hasMore = this.#drain();
      if (this.failure !== "") return "failed";
      if (this.#planner.queuedPages === 0) return hasMore ? "again" : "idle";
      const queuedBefore = this.#planner.queuedPages;
      const verdict = this.#resolve(nowUs);
      if (verdict === "gone" || verdict === "failed") return verdict;
      const queuedAfter = this.#planner.finishPlan();
      if (queuedAfter < queuedBefore) hasProgress = true;
      if (verdict === "later" || verdict === "rest") return verdict;
      if (queuedAfter === 0 && !hasMore) {
        this.#stalls = 0;
        return "idle";
      }
    }
    if (this.#pagesLeft <= 0) this.#stats.addCutTurn();
    this.#stalls = hasProgress ? 0 : this.#stalls + 1;
    return this.#stalls < STALLS_BEFORE_WAITING ? "again" : "later";
  }

  /**
   * A turn for the faults that waited for a part: it has arrived, or it is lost, and then they are
   * settled by policy.
   */
  turnForPart(arrival: Arrival, nowUs: number): Turn {
    const pages = this.#planner.unpark(arrival.part);
    if (pages > 0) {
      this.#stats.addWait(nowUs - arrival.sinceUs, pages);
      this.clock.arrive(arrival, nowUs);
    }
    this.#arrival = arrival;
    const turn = this.turn(nowUs);
    this.#arrival = null;
    return turn;
  }

  /** A turn for pages whose parts could not be asked for: there is room for so many now. */
  turnForRoom(parts: number, nowUs: number): Turn {
    this.#planner.unpark(UNASKED_PART, parts);
    return this.turn(nowUs);
  }

  /** Whether pages wait for room. */
  get isHeldBack(): boolean {
    return this.#planner.isParked(UNASKED_PART);
  }

  /** What its worker has to watch besides the userfaultfd and the process. */
  get watched(): readonly WatchedFd[] {
    return this.#userfault?.watched ?? [];
  }

  /** One of the descriptors says that there is something. */
  notify(about: About): void {
    this.#intake.notify(about);
  }

  /**
   * Before the first turn. After a takeover whoever waits for a handler that is gone faults again.
   * @throws FaultlineError `handshake`: what it shares with us makes no sense
   */
  begin(isTakeover: boolean): void {
    if (isTakeover) wakeAll(this.uffd, this.#regions);
    this.#userfault?.begin(isTakeover);
  }

  /** From now on, or after what is installed ahead already, everything is. */
  completePrefault(): void {
    this.prefault ??= this.#openPrefault(EVERYTHING);
    this.prefault.complete();
  }

  /** Installs a little more ahead of the guest. Only when no fault waits. */
  stepAhead(nowUs: number): Step {
    assert(this.prefault !== null, "nothing to install ahead");
    this.#bytes.nowSeconds = Math.floor(nowUs / 1e6);
    this.#isAhead = true;
    try {
      return this.prefault.step(nowUs);
    } finally {
      this.#isAhead = false;
    }
  }

  /**
   * All pages are there: from now on the kernel answers for this memory, and nobody needs us.
   * False: a fault is under way that has to be answered before. Throws what UNREGISTER says.
   */
  letGo(): boolean {
    this.#drain();
    assert(!this.mustStay, "a VM that goes on asking");
    const waiting = this.#planner.queuedPages + this.#planner.parkedPages;
    if (waiting > 0 || this.failure !== "") return false;
    for (const { baseHostAddress, sizeBytes } of this.#regions.regions) {
      this.uffd.unregister(baseHostAddress, sizeBytes);
    }
    return true;
  }

  /** Its VMM would take the end of our sockets for anything but good news. */
  get mustStay(): boolean {
    return this.#userfault !== null;
  }

  /** Writers wait, and it does not help to try at once: the VM's own thread has to go on first. */
  get hasStuckWriters(): boolean {
    return this.#tracker !== null && this.#tracker.deferredLifts >= STALLS_BEFORE_WAITING;
  }

  /** Closes every descriptor. The caller has taken them out of its epoll before. */
  close(): void {
    this.uffd.close();
    this.pidfd.close();
    this.#socket?.close();
    this.#userfault?.close();
  }

  /** Takes all pending events. True if there is more to do before the next are waited for. */
  #drain(): boolean {
    const intake = this.#intake;
    const hasMore = intake.drain(this.lastActiveUs);
    this.lastActiveUs = intake.nowUs;
    if (intake.failure !== "") this.failure = intake.failure;
    return hasMore;
  }

  /** Plans and carries out. `again`: the next plan may go on at once. */
  #resolve(nowUs: number): Turn {
    const { actions } = this.#tools;
    const count = this.#planner.plan(actions, this.#pagesLeft);
    // The first plan of a turn; later ones go on where the last install was timed.
    if (this.lastActiveUs === nowUs) this.#notePlanned(nowUs);
    let turn: Turn = "again";
    let isDeferred = false;
    for (let index = 0; index < count; index++) {
      if (isDeferred) {
        // Until a thread of the VM has gone on, the kernel would say the same of each.
        this.#planner.settle(actions, index, "deferred", 0);
        continue;
      }
      if (actions.aheadPages[index]! > 0) this.#keepToWhatIsAtHand(actions, index);
      const lengthBytes = actions.pageCounts[index]! * this.#pageSizeBytes;
      const wakes = count === 1 || lengthBytes >= MAX_UNWOKEN_BYTES;
      let outcome = this.#carryOut(actions, index, wakes);
      if (outcome === "absent") {
        if (this.#isAwaited(actions, index)) continue;
        outcome = "badSource";
      }
      isDeferred = outcome === "deferred";
      const settlement = this.#planner.settle(actions, index, outcome, this.#pages.doneBytes);
      const pages = this.#pages.doneBytes / this.#pageSizeBytes;
      this.#ledger.count(actions, index, outcome, pages, this.lastActiveUs);
      if (outcome === "installed" || outcome === "partial") {
        this.#pagesLeft -= pages;
        const isArrival = this.#isArrival(actions, index);
        this.#ledger.installed(isArrival);
        if (wakes) this.#noteWoken(nowUs);
        else this.#wakeLater(actions, index, nowUs);
        const sinceUs = isArrival ? this.#arrival!.sinceUs : 0;
        this.#ledger.charge(actions, index, pages, sinceUs, this.lastActiveUs);
      }
      const next = this.#follow(actions, index, settlement, outcome);
      if (next === "later" || (next === "rest" && turn === "again")) turn = next;
      else if (next === "gone" || next === "failed") {
        turn = next;
        break;
      }
    }
    if (!this.#unwoken.isEmpty && turn !== "gone") this.#wakeInstalled(nowUs);
    return turn;
  }

  /** For the faults that were read the wait in the queue is over. */
  #notePlanned(nowUs: number): void {
    this.lastActiveUs = monotonicUs();
    this.clock.planned(this.lastActiveUs);
    this.#stats.addQueued(this.lastActiveUs - nowUs, this.#planner.queuedPages);
  }

  /** A part of the image is missing: whether it could be asked for decides what its pages do. */
  #need(part: number): void {
    const verdict = this.#tools.need(this, part, !this.#isAhead);
    if (verdict !== "asked") this.#needVerdict = verdict;
  }

  /** What nobody has asked for yet is worth no wait. */
  #keepToWhatIsAtHand(actions: ActionList, index: number): void {
    if (actions.kinds[index] !== ActionKind.copy) return;
    const offset = actions.firstPages[index]! * this.#pageSizeBytes;
    const lengthBytes = actions.pageCounts[index]! * this.#pageSizeBytes;
    const atHand = this.#bytes.atHand(actions.owners[index]!, offset, lengthBytes);
    if (atHand === lengthBytes) return;
    this.#planner.shrink(actions, index, Math.floor(atHand / this.#pageSizeBytes));
  }

  /** Whether the pages wait, or are tried one by one; if not, the one page is lost. */
  #isAwaited(actions: ActionList, index: number): boolean {
    const part = this.#bytes.missingPart;
    const lossMessage = this.#arrival?.lossMessage ?? "";
    if (lossMessage === "" || part !== this.#arrival?.part) {
      this.#park(actions, index);
      return true;
    }
    if (actions.pageCounts[index]! > 1) {
      this.#planner.split(actions, index);
      return true;
    }
    if (!this.#lost.mayWait) return false;
    const page = actions.firstPages[index]!;
    const address = this.#regions.addressOf(actions.regions[index]!, page);
    const loss = this.#lost.describe("badSource", address, page, lossMessage);
    this.#lost.tellWait(loss, this.lastActiveUs);
    this.#park(actions, index);
    return true;
  }

  /** Until the part has come, or until there is room to ask for it. */
  #park(actions: ActionList, index: number): void {
    const verdict = this.#needVerdict;
    this.#planner.park(
      actions,
      index,
      verdict === "asked" ? this.#bytes.missingPart : UNASKED_PART,
    );
    this.#ledger.park(actions, index, verdict, this.lastActiveUs);
  }

  #carryOut(actions: ActionList, index: number, wakes: boolean): Outcome | "absent" {
    this.#needVerdict = "asked";
    const page = actions.firstPages[index]!;
    return this.#installer.install(
      actions.kinds[index] as ActionKind,
      actions.owners[index]!,
      page,
      actions.pageCounts[index]!,
      this.#regions.addressOf(actions.regions[index]!, page),
      wakes,
    );
  }

  /** What action `index` has installed is woken with what comes next. */
  #wakeLater(actions: ActionList, index: number, nowUs: number): void {
    const start = this.#regions.addressOf(actions.regions[index]!, actions.firstPages[index]!);
    if (this.#unwoken.add(start, this.#pages.doneBytes)) this.#wakeInstalled(nowUs);
  }

  #wakeInstalled(nowUs: number): void {
    this.#unwoken.wake();
    this.#noteWoken(nowUs);
  }

  /** For the threads of these installs the wait is over. */
  #noteWoken(nowUs: number): void {
    const sinceUs = this.lastActiveUs;
    this.lastActiveUs = monotonicUs();
    const arrivedUs = this.#arrival?.sinceUs ?? 0;
    this.#ledger.woken(sinceUs, nowUs, arrivedUs, this.lastActiveUs);
  }

  /** Whether an action's faults have waited for the part whose arrival began this turn. */
  #isArrival(actions: ActionList, index: number): boolean {
    if (this.#arrival === null || actions.kinds[index] === ActionKind.zero) return false;
    const offset = actions.firstPages[index]! * this.#pageSizeBytes;
    const lengthBytes = actions.pageCounts[index]! * this.#pageSizeBytes;
    return this.#bytes.touches(this.#arrival.part, offset, lengthBytes);
  }

  #follow(actions: ActionList, index: number, settlement: Settlement, outcome: Outcome): Turn {
    const address = this.#regions.addressOf(actions.regions[index]!, actions.firstPages[index]!);
    switch (settlement) {
      case "done":
      case "retry":
        return "again";
      case "wake":
        this.#pages.wake(address, this.#pageSizeBytes);
        return "again";
      case "wakeAndBackoff":
        this.#pages.wake(address, this.#pageSizeBytes);
        return "later";
      case "backoff":
        return "later";
      case "gone":
        return "gone";
      case "exhausted":
        if (monotonicUs() - this.#streakSinceUs < EXHAUSTED_AFTER_US) {
          this.#pages.wake(address, this.#pageSizeBytes);
          return "later";
        }
        return this.#giveUp(actions, index, address, outcome);
      case "badSource":
        return this.#giveUp(actions, index, address, outcome);
    }
  }

  /** A page cannot be had: wait or poison it if that is the policy, else end the session. */
  #giveUp(actions: ActionList, index: number, address: number, outcome: Outcome): Turn {
    const page = actions.firstPages[index]!;
    const loss = this.#lost.describe(outcome, address, page, this.#arrival?.lossMessage ?? "");
    this.#ledger.lose(actions, index, this.lastActiveUs);
    const turn = this.#lost.giveUp(actions, index, address, outcome, loss, this.lastActiveUs);
    if (turn === "failed") this.failure = loss;
    else if (turn === "rest") this.clock.rest(page);
    return turn;
  }
}
