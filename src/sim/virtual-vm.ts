/**
 * One virtual VM made by chance: its image, its regions, its kernel and guest, the session that
 * serves it with the real planner, and the oracle that judges its pages. PURE.
 */
import { formatBytes, HUGE_PAGE_BYTES, KIB, SMALL_PAGE_BYTES } from "../base/units.ts";
import { PageTable } from "../pager/page-table.ts";
import { Planner, type PlannerOptions } from "../pager/planner.ts";
import type { PageRuns, Prefaulter, PrefaulterOptions } from "../pager/prefaulter.ts";
import { flattenLayers } from "../snapshot/layers.ts";
import { RegionMap } from "../snapshot/regions.ts";
import type { Climate } from "./climate.ts";
import { HandlerFailure } from "./failures.ts";
import { PageOracle } from "./page-oracle.ts";
import type { Passage } from "./passage.ts";
import type { Random } from "./random.ts";
import type { Tally } from "./tally.ts";
import { VirtualGuest } from "./virtual-guest.ts";
import { VirtualImage } from "./virtual-image.ts";
import { VirtualKernel } from "./virtual-kernel.ts";
import { VirtualPrefault } from "./virtual-prefault.ts";
import { type ErrorPolicy, type SessionOptions, VirtualSession } from "./virtual-session.ts";
import type { VirtualStore } from "./virtual-store.ts";

/** The parts of the handler: the real ones and their mirrors, or some that are wrong on purpose. */
export interface HandlerParts {
  readonly makePlanner?: (options: PlannerOptions) => Planner;
  readonly makeSession?: (options: SessionOptions) => VirtualSession;
  readonly makePrefaulter?: (options: PrefaulterOptions) => Prefaulter;
}

export interface VmOptions {
  readonly name: string;
  readonly climate: Climate;
  /** The pool of huge pages is empty from the start, and hardly ever is not. */
  readonly isFamine: boolean;
  /** Shortages last long enough for the session to give pages up. */
  readonly hasLongShortages: boolean;
  readonly parts: HandlerParts;
  /** What its guest touches first; null: whatever chance says. */
  readonly passage: Passage | null;
  readonly store: VirtualStore;
  readonly need: SessionOptions["need"];
  readonly tally: Tally;
  readonly trace: ((line: string) => void) | null;
}

export class VirtualVm {
  readonly name: string;
  readonly climate: Climate;
  readonly kernel: VirtualKernel;
  readonly guest: VirtualGuest;
  readonly session: VirtualSession;
  readonly batchCapacity: number;
  readonly #image: VirtualImage;
  readonly #policy: ErrorPolicy;
  readonly #mayExhaust: boolean;
  readonly #tally: Tally;

  constructor(random: Random, options: VmOptions) {
    const { climate, tally, isFamine } = options;
    this.name = options.name;
    this.climate = climate;
    this.#tally = tally;
    const pageSizeBytes = isFamine
      ? HUGE_PAGE_BYTES
      : random.pick([SMALL_PAGE_BYTES, 16 * KIB, HUGE_PAGE_BYTES]);
    const image = new VirtualImage(random, {
      pageSizeBytes,
      pageCount: options.passage?.pageCount ?? (climate.crowd ? 2600 : random.between(4, 32)),
      partsPerPage: pageSizeBytes === SMALL_PAGE_BYTES ? 1 : 2,
      hasUnreadablePages: climate.unreadable,
      far: climate.far ? { store: options.store, grain: random.pick([1, 2, 5, 16]) } : null,
    });
    this.#image = image;
    const policy = drawPolicy(random, climate);
    this.#policy = policy;
    this.#mayExhaust = climate.shortage > 0 && options.hasLongShortages;
    this.kernel = new VirtualKernel({
      pageSizeBytes,
      regions: image.regions,
      threadCount: climate.crowd ? 1200 : random.pick([1, 3, 8, 24]),
      isHugetlb: pageSizeBytes === HUGE_PAGE_BYTES,
      watcher: new PageOracle({
        snapshot: image.bodies,
        mayBePoisoned: (page) =>
          policy === "poison" && (this.#mayExhaust || this.#isUnavailable(page)),
      }),
      tally,
      trace: options.trace,
    });
    this.kernel.isShort = isFamine && climate.shortage > 0;
    this.guest = new VirtualGuest(this.kernel, random, climate, tally, options.passage);
    this.batchCapacity = climate.crowd ? 64 : random.pick([1, 2, 8, 64]);
    this.session = this.#makeSession(random, options, pageSizeBytes, policy);
    this.#introduce(options.trace, pageSizeBytes, policy);
  }

  /** The session is over, or has failed: was there a reason? */
  checkFailure(): void {
    const { failure } = this.session;
    if (failure === null) return;
    const { why, page } = failure;
    const hasReason =
      (why === "badSource" && this.#isUnavailable(page)) ||
      (why === "exhausted" && this.#mayExhaust);
    // Where pages shall be poisoned, only one that cannot even be poisoned ends the session.
    const isPolicyKept = this.#policy === "kill" || this.kernel.poisonOutcome === "unregistered";
    if (why !== "outside" && hasReason && isPolicyKept) {
      this.#tally.add(`failed: ${why}`);
      return;
    }
    const policy = `policy ${this.#policy}, ${this.session.describeFailure()}`;
    throw new HandlerFailure(`${this.name} was given up without a reason: ${policy}`);
  }

  /** When nothing more can happen: no thread may wait. */
  checkNobodyWaits(): void {
    if (this.kernel.isFrozen) return;
    const waiting = this.kernel.threads.filter(({ state }) => state === "waiting");
    if (waiting.length === 0) return;
    const first = waiting[0]!;
    throw new HandlerFailure(
      `${waiting.length} of ${this.kernel.threads.length} threads of ${this.name} wait for ever; ` +
        `thread ${first.id} for page ${first.page}`,
    );
  }

  #makeSession(
    random: Random,
    { parts, need }: VmOptions,
    pageSizeBytes: number,
    policy: ErrorPolicy,
  ): VirtualSession {
    const regions = new RegionMap(this.#image.regions, pageSizeBytes);
    const pages = regions.pageLimit;
    const makePlanner = parts.makePlanner ?? ((options) => new Planner(options));
    const makeSession = parts.makeSession ?? ((options) => new VirtualSession(options));
    const common = {
      regions,
      runs: flattenLayers(regions.totalBytes, this.#image.extents),
      table: new PageTable(pages, new Uint8Array(PageTable.sizeBytes(pages))),
    };
    const planner = makePlanner({ ...common, ...drawLimits(random) });
    const prefault = this.climate.ahead
      ? new VirtualPrefault({
          ...common,
          pages: drawRuns(random, pages),
          isComplete: random.chance(0.5),
          stepPages: this.climate.crowd ? 512 : random.pick([1, 4, 32]),
          ...(parts.makePrefaulter === undefined ? {} : { makePrefaulter: parts.makePrefaulter }),
        })
      : null;
    return makeSession({
      kernel: this.kernel,
      planner,
      regions,
      source: this.#image,
      policy,
      mayKill: random.chance(0.8),
      batchCapacity: this.batchCapacity,
      need,
      tally: this.#tally,
      prefault,
    });
  }

  #isUnavailable(page: number): boolean {
    return this.#image.unreadablePages.has(page) || this.#image.wasLost(page);
  }

  #introduce(trace: VmOptions["trace"], pageSizeBytes: number, policy: string): void {
    if (pageSizeBytes === HUGE_PAGE_BYTES) this.#tally.add("VM with huge pages");
    if (this.climate.crowd) this.#tally.add("VM with crowd");
    if (trace === null) return;
    const { regions, unreadablePages } = this.#image;
    trace(
      `${this.kernel.pageCount} pages of ${formatBytes(pageSizeBytes)} in regions of ` +
        `${regions.map(({ sizeBytes }) => sizeBytes / pageSizeBytes).join(" + ")}, ` +
        `${this.kernel.threads.length} threads, ${this.batchCapacity} messages a read, ` +
        `policy ${policy}; unreadable: ${[...unreadablePages].join(", ") || "none"}; ` +
        `bodies ${this.#image.bodies.join(" ")}`,
    );
    const set = Object.entries(this.climate).filter(([, value]) => value !== 0 && value !== false);
    trace(`climate: ${set.map(([name, value]) => `${name} ${value}`).join(", ")}`);
  }
}

function drawLimits(random: Random): Pick<PlannerOptions, "maxRunPages" | "maxStreamPages"> {
  return { maxRunPages: random.pick([1, 3, 8, 512]), maxStreamPages: random.pick([0, 4, 64]) };
}

/** In any order, some of them twice, or beyond the end. */
function drawRuns(random: Random, pages: number): PageRuns {
  const length = random.below(8);
  const starts = Uint32Array.from({ length }, () => random.below(pages + 2));
  return { starts, counts: starts.map(() => random.between(1, 6)) };
}

/**
 * With `kill` the first page that cannot be read is the end of the story, and with `wait` its
 * readers wait for ever.
 */
function drawPolicy(random: Random, { unreadable }: Climate): ErrorPolicy {
  if (unreadable) return random.chance(0.25) ? "kill" : "poison";
  return random.pick(["kill", "kill", "poison", "wait"]);
}
