/**
 * One handler of a virtual VM with KVM Userfault, from its start to its death: the real core
 * (`pager/`), put together as src/engine/userfault-session.ts does, and as much of a worker as one
 * session needs. What the next handler finds is in `HandlerMemory`. PURE.
 */
import type { OwnerRuns } from "../../base/owner-runs.ts";
import type { UserfaultBitmap } from "../../base/userfault-bitmap.ts";
import { Answers } from "../../pager/answers.ts";
import type { ApfRing } from "../../pager/apf-ring.ts";
import { PageState, PageTable } from "../../pager/page-table.ts";
import { Planner, type PlannerOptions } from "../../pager/planner.ts";
import { type GuestFile, Population } from "../../pager/population.ts";
import type { PageRuns } from "../../pager/prefaulter.ts";
import { Userfaults } from "../../pager/userfaults.ts";
import { MAX_WAITERS, Waiters } from "../../pager/waiters.ts";
import type { RegionMap } from "../../snapshot/regions.ts";
import { HandlerFailure } from "../failures.ts";
import { sightOf, type Tally } from "../tally.ts";
import { VirtualPrefault } from "../virtual-prefault.ts";
import type { Turn, VirtualSource } from "../virtual-session.ts";
import { LATER_US, REST_US } from "../virtual-worker.ts";
import {
  type GuestPagesOptions,
  VirtualFile,
  VirtualGuestPages,
  VirtualWires,
} from "./guest-pages.ts";
import type { UserfaultKernel } from "./kernel.ts";
import { SeamBitmap, SeamRing, type Seams, SeamTable, SeamWaiters } from "./seams.ts";
import { type Edges, UserfaultSession, type UserfaultSessionOptions } from "./session.ts";

/** What outlives a handler. */
export class HandlerMemory {
  readonly states: Uint8Array;
  readonly waiters = new SharedArrayBuffer(Waiters.sizeBytes);
  readonly #table: PageTable;

  constructor(pageCount: number) {
    this.states = new Uint8Array(PageTable.sizeBytes(pageCount));
    this.#table = new PageTable(pageCount, this.states);
  }

  /** Whether a handler has noted that the page is there. */
  isNoted(page: number): boolean {
    return this.#table.get(page) === PageState.installed;
  }

  /** How many wait to be answered. */
  get waiterCount(): number {
    return new Waiters(this.waiters).length;
  }
}

/** The parts of a handler that mutants replace. */
export interface UserfaultHandlerParts {
  readonly makeFile?: (file: VirtualFile, kernel: UserfaultKernel) => GuestFile;
  readonly makePopulation?: (
    file: GuestFile,
    bitmap: UserfaultBitmap,
    kernel: UserfaultKernel,
  ) => Population;
  readonly makeWires?: (kernel: UserfaultKernel) => VirtualWires;
  readonly makeAnswers?: (...parts: ConstructorParameters<typeof Answers>) => Answers;
  readonly makeFaults?: (...parts: ConstructorParameters<typeof Userfaults>) => Userfaults;
  readonly makeRing?: (page: ArrayBuffer, seams: Seams) => ApfRing;
  readonly makePages?: (options: GuestPagesOptions) => VirtualGuestPages;
  readonly makeSession?: (options: UserfaultSessionOptions) => UserfaultSession;
  /** What a takeover does before anybody is served. */
  readonly takeOver?: (takeover: Takeover) => void;
}

export interface HandlerOptions {
  readonly kernel: UserfaultKernel;
  readonly memory: HandlerMemory;
  readonly seams: Seams;
  readonly parts: UserfaultHandlerParts;
  readonly regions: RegionMap;
  readonly runs: OwnerRuns;
  readonly limits: Pick<PlannerOptions, "maxRunPages" | "maxStreamPages">;
  readonly source: VirtualSource;
  /** What is installed ahead of faults; null: nothing. */
  readonly ahead: { readonly pages: PageRuns; readonly stepPages: number } | null;
  /** Asks for a part of the snapshot. */
  readonly ask: (part: number) => void;
  readonly batchCapacity: number;
  readonly lookRequests: number;
  readonly tally: Tally;
}

/** What a takeover has to do with. */
export interface Takeover {
  readonly kernel: UserfaultKernel;
  readonly table: PageTable;
  readonly bitmap: UserfaultBitmap;
  readonly faults: Userfaults;
  readonly answers: Answers;
  readonly tally: Tally;
}

export class UserfaultHandler {
  readonly session: UserfaultSession;
  readonly #options: HandlerOptions;
  readonly #takeover: Takeover;
  /** When the session wants its next turn. */
  #dueUs = 0;

  constructor(options: HandlerOptions) {
    this.#options = options;
    const { kernel, memory, seams, parts, regions, runs, limits, tally } = options;
    const table = new SeamTable(regions.pageLimit, memory.states, seams);
    const waiters = new SeamWaiters(memory.waiters, seams);
    const bitmap = new SeamBitmap(kernel.bitmapMemory, seams);
    const makeRing = parts.makeRing ?? ((page) => new SeamRing(page, seams));
    const rings = kernel.rings.map(({ page }) => makeRing(page, seams));
    const planner = new Planner({ regions, runs, table, queueCapacity: MAX_WAITERS, ...limits });
    const pageAt = (gpa: number): number => kernel.pageAt(gpa);
    const makeFaults = parts.makeFaults ?? ((all) => new Userfaults(all));
    const faults = makeFaults({ planner, table, bitmap, waiters, rings, pageAt });
    const makeWires = parts.makeWires ?? (() => new VirtualWires(kernel));
    const makeAnswers = parts.makeAnswers ?? ((...all) => new Answers(...all));
    const answers = makeAnswers(waiters, table, rings, makeWires(kernel));
    const file = new VirtualFile(kernel);
    const usedFile = parts.makeFile?.(file, kernel) ?? file;
    const makePopulation = parts.makePopulation ?? ((...all) => new Population(all[0], all[1]));
    const population = makePopulation(usedFile, bitmap, kernel);
    const makePages = parts.makePages ?? ((all) => new VirtualGuestPages(all));
    const pages = makePages({ kernel, file, population, answers, regions, bitmap });
    const { ahead } = options;
    const what = { ...ahead!, regions, runs, table, isComplete: false };
    const prefault = ahead === null ? null : new VirtualPrefault(what);
    const makeSession = parts.makeSession ?? ((all) => new UserfaultSession(all));
    this.session = makeSession({
      ...{ kernel: pages, machine: kernel, planner, regions, faults, answers, tally },
      ...{ source: options.source, policy: "wait", mayKill: false, prefault },
      ...{ batchCapacity: options.batchCapacity, lookRequests: options.lookRequests },
      need: (_session, part) => {
        options.ask(part);
        return true;
      },
    });
    this.#takeover = { kernel, table, bitmap, faults, answers, tally };
  }

  /** Before its first turn. */
  begin(isTakeover: boolean): void {
    const { parts, regions, memory, tally } = this.#options;
    const { faults } = this.#takeover;
    if (isTakeover) {
      tally.add("waiter taken over", memory.waiterCount);
      (parts.takeOver ?? takeOver)(this.#takeover);
    }
    for (let region = 0; region < regions.regions.length; region++) {
      const [first, end] = [regions.firstPageOf(region), regions.endPageOf(region)];
      if (faults.claimClearPages(first, end) < 0) throw new HandlerFailure("too many clear bits");
    }
  }

  /** Nothing to do at `nowUs` or later, unless somebody tells. */
  isIdle(nowUs: number): boolean {
    const { prefault } = this.session;
    return this.#dueUs === Number.POSITIVE_INFINITY && (prefault?.dueUs ?? nowUs + 1) > nowUs;
  }

  /** One pass of the worker's loop. */
  round(nowUs: number): void {
    const edges = takeEdges(this.#options.kernel);
    if (edges !== null) this.session.notify(edges);
    if (edges !== null || this.#dueUs <= nowUs) this.#schedule(this.session.turn(nowUs), nowUs);
    else this.#goAhead(nowUs);
  }

  /** A part of the snapshot that was asked for has come. */
  settlePart(part: number, nowUs: number): void {
    this.session.prefault?.settlePart(part, false);
    this.#schedule(this.session.turnForPart(part, false, nowUs), nowUs);
  }

  /** Where no fault waits. */
  #goAhead(nowUs: number): void {
    if (this.session.prefault === null || this.session.prefault.dueUs > nowUs) return;
    const step = this.session.stepAhead(nowUs);
    if (step === "done" || step === "stopped") this.session.prefault = null;
  }

  #schedule(turn: Turn, nowUs: number): void {
    this.#options.tally.add(sightOf.turn[turn]);
    if (turn === "gone" || turn === "failed") {
      throw new HandlerFailure(`the VM was given up: ${this.session.describeFailure()}`);
    }
    const wait = { idle: Number.POSITIVE_INFINITY, again: 0, later: LATER_US, rest: REST_US };
    this.#dueUs = nowUs + wait[turn];
  }
}

/** A mirror of src/engine/recover-pages.ts and recover-userfault.ts, and of what follows them. */
export function takeOver(takeover: Takeover): void {
  const { kernel, table, faults, answers } = takeover;
  table.forgetPending();
  kernel.wakeAll();
  recoverUserfaultTable(takeover);
  faults.resume();
  answers.signalAll();
}

/** A clear bit alone says little: the VMM may have cleared it. A memfd can be asked. */
export function recoverUserfaultTable({ kernel, table, bitmap, tally }: Takeover): void {
  const end = table.pageCount;
  for (let page = bitmap.nextClear(0, end); page < end; page = bitmap.nextClear(page + 1, end)) {
    if (table.get(page) === PageState.installed || !kernel.isKnownToBeThere(page)) continue;
    table.set(page, PageState.installed);
    tally.add("page found by a takeover");
  }
}

/** What epoll tells of; null: nothing. */
function takeEdges(kernel: UserfaultKernel): Edges | null {
  const { requests, asyncRequests } = kernel;
  const edges: Edges = {
    events: kernel.hasEventEdge,
    sockets: [requests.hasEdge, asyncRequests?.hasEdge ?? false],
  };
  const isAny = edges.events || edges.sockets[0] || edges.sockets[1] || kernel.hasRingEdge;
  kernel.hasEventEdge = false;
  kernel.hasRingEdge = false;
  requests.hasEdge = false;
  if (asyncRequests !== null) asyncRequests.hasEdge = false;
  return isAny ? edges : null;
}
