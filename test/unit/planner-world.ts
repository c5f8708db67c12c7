/**
 * One virtual VM made from a seed: its image, its regions, its kernel, and the real planner between
 * them, judged by the oracle. `runWorld` throws if a page was ever wrong, or a thread forgotten.
 */
import { formatBytes, HUGE_PAGE_BYTES, KIB, SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { PageTable } from "../../src/pager/page-table.ts";
import { Planner, type PlannerOptions } from "../../src/pager/planner.ts";
import { flattenLayers } from "../../src/snapshot/layers.ts";
import { RegionMap } from "../../src/snapshot/regions.ts";
import { VirtualKernel } from "../support/virtual-kernel.ts";
import { PageOracle } from "./page-oracle.ts";
import { Random } from "./random.ts";
import { type Climate, VirtualGuest } from "./virtual-guest.ts";
import { VirtualImage } from "./virtual-image.ts";
import { VirtualSession } from "./virtual-session.ts";

export interface WorldOptions {
  readonly seed: number;
  readonly steps: number;
  /** The planner to test: the real one, or one that is wrong on purpose. */
  readonly makePlanner?: (options: PlannerOptions) => Planner;
  readonly trace?: ((line: string) => void) | null;
}

/** What one run has come across, so that all runs together can be shown to see everything. */
export interface Sights {
  /** How often a page's content was checked by the guest. */
  readonly checks: number;
  readonly seen: readonly string[];
}

/** The handler did not do what it must in the time it has, or gave up without a reason. */
export class HandlerFailure extends Error {
  override readonly name = "HandlerFailure";
}

/** Rounds until all is quiet, once nothing new begins. A thousand waiting threads take about 20. */
const CALM_ROUNDS = 300;
/** One in so many seeds has more threads than the planner's queue has places. */
const CROWD_EVERY = 100;

class World {
  readonly #random: Random;
  readonly #kernel: VirtualKernel;
  readonly #guest: VirtualGuest;
  readonly #session: VirtualSession;
  readonly #oracle: PageOracle;
  readonly #image: VirtualImage;
  readonly #isCrowd: boolean;
  /** Long ones are those after which the engine may give a page up. */
  readonly #hasLongShortages: boolean;
  readonly #stepUs: number;
  readonly #turnShare: number;
  #nowUs = 0;

  constructor(options: WorldOptions) {
    const random = new Random(options.seed);
    this.#random = random;
    this.#isCrowd = options.seed % CROWD_EVERY === CROWD_EVERY - 1;
    // The pool of huge pages is empty from the start, and hardly ever is not.
    const isFamine = random.chance(0.05);
    const pageSizeBytes = isFamine
      ? HUGE_PAGE_BYTES
      : random.pick([SMALL_PAGE_BYTES, 16 * KIB, HUGE_PAGE_BYTES]);
    const image = new VirtualImage(random, {
      pageSizeBytes,
      pageCount: this.#isCrowd ? 2600 : random.between(4, 32),
      partsPerPage: pageSizeBytes === SMALL_PAGE_BYTES ? 1 : 2,
      hasUnreadablePages: random.chance(0.1),
    });
    const climate = { ...makeClimate(random), ...(isFamine ? { shortage: 0.003 } : {}) };
    this.#image = image;
    this.#stepUs = isFamine ? 20_000 : random.pick([20, 20, 20, 20_000]);
    this.#turnShare = isFamine ? 1 : random.pick([0.1, 0.3, 0.8]);
    this.#hasLongShortages = climate.shortage > 0 && this.#stepUs > 20;
    this.#oracle = new PageOracle({
      snapshot: image.bodies,
      mayBePoisoned: (page) => this.#hasLongShortages || image.unreadablePages.has(page),
    });
    this.#kernel = new VirtualKernel({
      pageSizeBytes,
      regions: image.regions,
      threadCount: this.#isCrowd ? 1200 : random.pick([1, 3, 8, 24]),
      isHugetlb: pageSizeBytes === HUGE_PAGE_BYTES,
      watcher: this.#oracle,
      trace: options.trace ?? null,
    });
    this.#kernel.isShort = isFamine;
    this.#guest = new VirtualGuest(this.#kernel, random, climate);
    this.#session = this.#attach(options, pageSizeBytes);
    options.trace?.(
      `${this.#kernel.pageCount} pages of ${formatBytes(pageSizeBytes)} in regions of ` +
        `${image.regions.map(({ sizeBytes }) => sizeBytes / pageSizeBytes)}, ` +
        `${this.#kernel.threads.length} threads; bodies ${image.bodies}`,
    );
  }

  /** The guest does as it likes, and the handler gets its turn now and then. */
  live(steps: number): void {
    if (this.#isCrowd || this.#random.chance(0.3)) this.#guest.stampede(this.#random.between(1, 2));
    for (let step = 0; step < steps && this.#session.end === null; step++) {
      this.#guest.step();
      this.#nowUs += this.#stepUs;
      if (this.#random.chance(this.#turnShare)) this.#session.run(this.#nowUs);
    }
  }

  /** Nothing new begins: within a bounded time no thread may wait any more. */
  calmDown(): void {
    this.#guest.calmDown();
    for (let round = 0; round < CALM_ROUNDS; round++) {
      this.#guest.settle();
      this.#nowUs += 1000;
      this.#session.run(this.#nowUs);
      if (this.#session.end !== null) {
        this.#checkEnd();
        return;
      }
      if (!this.#guest.isQuiet || !this.#session.isIdle) continue;
      const waiting = this.#kernel.threads.filter(({ state }) => state === "waiting");
      if (waiting.length === 0) return;
      const pages = waiting.map(({ page }) => page).join(", ");
      throw new HandlerFailure(`threads wait for ever, for pages ${pages}`);
    }
    throw new HandlerFailure(`no end after ${CALM_ROUNDS} rounds without anything new`);
  }

  /** Reads every page once more, with all threads at the same time. */
  readEverything(): void {
    const { threads, pageCount } = this.#kernel;
    for (let first = 0; first < pageCount && this.#session.end === null; first += threads.length) {
      for (const thread of threads) {
        thread.page = first + thread.id;
        thread.isWrite = false;
        if (thread.page < pageCount) this.#kernel.access(thread);
      }
      this.calmDown();
    }
  }

  get sights(): Sights {
    const { outcomes, settlements, verdicts, end } = this.#session;
    const seen = [...outcomes, ...settlements, ...verdicts, `end: ${end}`];
    return { checks: this.#oracle.checks, seen };
  }

  #attach(options: WorldOptions, pageSizeBytes: number): VirtualSession {
    const regions = new RegionMap(this.#image.regions, pageSizeBytes);
    const pages = regions.pageLimit;
    const makePlanner = options.makePlanner ?? ((parts) => new Planner(parts));
    const planner = makePlanner({
      regions,
      runs: flattenLayers(regions.totalBytes, this.#image.extents),
      table: new PageTable(pages, new Uint8Array(PageTable.sizeBytes(pages))),
      maxRunPages: this.#random.pick([1, 3, 8, 512]),
    });
    return new VirtualSession({
      kernel: this.#kernel,
      planner,
      regions,
      source: this.#image,
      policy: this.#random.pick(["kill", "poison"]),
      batchCapacity: this.#isCrowd ? 64 : this.#random.pick([1, 2, 8, 64]),
    });
  }

  #checkEnd(): void {
    const { end, failure } = this.#session;
    if (end === "gone" && this.#kernel.isDead) return;
    if (failure === "badSource" && this.#image.unreadablePages.size > 0) return;
    if (failure === "exhausted" && this.#hasLongShortages) return;
    throw new HandlerFailure(`the session ended without a reason: ${end} ${failure}`);
  }
}

function makeClimate(random: Random): Climate {
  return {
    remove: random.pick([0, 0.02, 0.1, 0.25]),
    signal: random.pick([0, 0.05]),
    layout: random.pick([0, 0, 0.03]),
    shortage: random.pick([0, 0, 0.005, 0.03]),
    death: random.pick([0, 0, 0, 0, 0, 0, 0, 0, 0, 0.002]),
    race: random.pick([0, 0.05]),
    hasRemoveEvents: random.chance(0.8),
  };
}

export function runWorld(options: WorldOptions): Sights {
  const world = new World(options);
  world.live(options.steps);
  world.calmDown();
  world.readEverything();
  return world.sights;
}
