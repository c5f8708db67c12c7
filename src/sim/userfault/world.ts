/**
 * A world made from a seed: one VM with KVM Userfault, and handlers that take over from each other
 * as they die. `runUserfaultWorld` throws if a page was ever wrong, somebody was answered too early
 * or too often, or waits for ever. The same seed gives the same world, and fewer steps its
 * beginning. PURE.
 */

import { SMALL_PAGE_BYTES } from "../../base/units.ts";
import { flattenLayers } from "../../snapshot/layers.ts";
import { RegionMap } from "../../snapshot/regions.ts";
import { HandlerFailure } from "../failures.ts";
import { Random } from "../random.ts";
import { Tally } from "../tally.ts";
import { VirtualImage } from "../virtual-image.ts";
import { VirtualStore } from "../virtual-store.ts";
import {
  calmUserfaultClimate,
  drawUserfaultClimate,
  type UserfaultClimate,
  type UserfaultTrouble,
  userfaultTroubles,
  withoutTroubles,
} from "./climate.ts";
import { UserfaultGuest } from "./guest.ts";
import {
  HandlerMemory,
  type HandlerOptions,
  UserfaultHandler,
  type UserfaultHandlerParts,
} from "./handler.ts";
import { UserfaultKernel, type UserfaultOthers } from "./kernel.ts";
import { UserfaultOracle } from "./oracle.ts";
import type { Seams } from "./seams.ts";

export interface UserfaultWorldOptions {
  readonly seed: number;
  readonly steps: number;
  /** Troubles that this world shall not have. */
  readonly without?: readonly UserfaultTrouble[];
  /** The handler to test; by default the real one. */
  readonly parts?: UserfaultHandlerParts;
  readonly trace?: ((line: string) => void) | null;
  readonly tally?: Tally;
}

/** One in so many seeds has a guest that waits for nothing, and a handler that is slow. */
const CROWD_EVERY = 50;
/** Rounds until all is quiet, once nothing new begins. */
const CALM_ROUNDS = 300;
/** Longer than any session rests. */
const CALM_STEP_US = 2e6;
/** Steps that others make before a call of the handler takes effect, at most. */
const STEPS_PER_CALL = 3;
/** Of a change in memory: the handler dies in its middle, where it dies at all. */
const INSIDE_SHARE = 0.2;
/** How soon another handler is there, per step. */
const RESTART_SHARE = 0.2;

/** The handler's process is killed: nothing of it goes on. */
class HandlerDeath extends Error {
  override readonly name = "HandlerDeath";
}

class UserfaultWorld implements UserfaultOthers, Seams {
  readonly #random: Random;
  readonly #climate: UserfaultClimate;
  readonly #kernel: UserfaultKernel;
  readonly #guest: UserfaultGuest;
  readonly #oracle: UserfaultOracle;
  readonly #store: VirtualStore;
  readonly #memory: HandlerMemory;
  readonly #handlerOptions: HandlerOptions;
  readonly #tally: Tally;
  readonly #trace: ((line: string) => void) | null;
  readonly #isCrowd: boolean;
  readonly #turnShare: number;
  readonly #answerShare: number;
  #handler: UserfaultHandler | null = null;
  #hadHandler = false;
  #isCalm = false;
  #nowUs = 0;

  constructor(options: UserfaultWorldOptions) {
    const { seed, without = [], parts = {}, trace = null, tally = new Tally() } = options;
    const random = new Random(seed);
    this.#random = random;
    this.#trace = trace;
    this.#tally = tally;
    this.#climate = withoutTroubles(drawUserfaultClimate(random), without);
    this.#isCrowd = seed % CROWD_EVERY === CROWD_EVERY - 1;
    this.#turnShare = this.#isCrowd ? 0.003 : random.pick([0.02, 0.1, 0.3, 0.8]);
    this.#answerShare = random.pick([0.02, 0.3]);
    this.#store = new VirtualStore(random, { loss: 0, eviction: random.pick([0, 0.02]) }, tally);
    const image = this.#drawImage();
    const regions = new RegionMap(image.regions, SMALL_PAGE_BYTES);
    const precleared = this.#drawPrecleared(regions.pageLimit);
    this.#oracle = new UserfaultOracle({ snapshot: image.bodies, precleared, tally });
    this.#kernel = this.#makeKernel(regions.pageLimit, precleared);
    this.#kernel.others = this;
    this.#memory = new HandlerMemory(regions.pageLimit);
    this.#guest = this.#makeGuest();
    this.#handlerOptions = {
      ...{ kernel: this.#kernel, memory: this.#memory, seams: this, parts, regions, tally },
      runs: flattenLayers(regions.totalBytes, image.extents),
      limits: {
        maxRunPages: random.pick([1, 3, 8, 512]),
        maxStreamPages: random.pick([0, 4, 64]),
      },
      source: image,
      ahead: this.#climate.ahead ? drawAhead(random, regions.pageLimit) : null,
      ask: (part) => this.#store.ask(part),
      batchCapacity: random.pick([1, 4, 64]),
      lookRequests: random.pick([1, 4, 1024]),
    };
    this.#introduce(regions);
  }

  /** The guest does as it likes, handlers get their turns now and then, die, and are replaced. */
  live(steps: number): void {
    for (let step = 0; step < steps; step++) {
      this.#guest.step();
      this.#nowUs += 20;
      if (this.#handler === null) {
        if (this.#random.chance(RESTART_SHARE)) this.#start();
      } else if (this.#random.chance(this.#turnShare)) this.#round();
      if (this.#random.chance(this.#answerShare)) this.#answer();
      if (this.#handler !== null && this.#random.chance(this.#climate.death)) {
        this.#tally.add("handler died between calls");
        this.#died();
      }
      this.#store.step();
    }
  }

  /** Nothing new begins: within a bounded number of rounds nobody may wait any more. */
  calmDown(): void {
    this.#isCalm = true;
    this.#guest.calmDown(calmUserfaultClimate);
    if (this.#handler === null) this.#start();
    for (let round = 0; round < CALM_ROUNDS; round++) {
      this.#guest.settle();
      this.#nowUs += CALM_STEP_US;
      this.#round();
      while (!this.#store.isQuiet) this.#answer();
      if (this.#guest.isQuiet && this.#handler!.isIdle(this.#nowUs) && !this.#kernel.hasEdge) {
        this.#checkNobodyWaits();
        return;
      }
    }
    throw new HandlerFailure(`no end after ${CALM_ROUNDS} rounds without anything new`);
  }

  /** Every page once more, in all ways. */
  readEverything(): void {
    this.#kernel.checkBits();
    this.#oracle.checkBrought(this.#kernel.options.precleared);
    const { pageCount } = this.#kernel.options;
    for (let first = 0; first < pageCount; first += this.#guest.width) {
      this.#guest.touchAll(first);
      this.calmDown();
    }
    this.#oracle.checkBrought(Array.from({ length: pageCount }, (_, page) => page));
  }

  // While the handler works.

  beforeCall(): void {
    if (this.#isCalm) return;
    for (let steps = this.#random.below(STEPS_PER_CALL + 1); steps > 0; steps--) this.#guest.step();
    if (this.#random.chance(this.#climate.death)) {
      this.#tally.add("handler died in a turn");
      this.die();
    }
  }

  isRacing(): boolean {
    return !this.#isCalm && this.#random.chance(this.#climate.race);
  }

  writtenPages(pages: number): number | "outOfMemory" {
    if (this.#isCalm) return pages;
    const random = this.#random;
    const { shortage, short, half } = this.#climate;
    if (random.chance(shortage)) return "outOfMemory";
    if (random.chance(half)) return random.below(pages) + 0.5;
    return random.chance(short) ? random.between(1, pages) : pages;
  }

  // Seams.

  enter(): void {
    this.#kernel.enter();
  }

  diesInside(): boolean {
    return !this.#isCalm && this.#random.chance(this.#climate.death * INSIDE_SHARE);
  }

  dieInside(): never {
    this.#tally.add("handler died inside a change of memory");
    this.die();
  }

  die(): never {
    throw new HandlerDeath();
  }

  sawFullRing(): void {
    this.#tally.add("ring of completions is full");
  }

  below(limit: number): number {
    return this.#random.below(limit);
  }

  #start(): void {
    this.#attempt(() => {
      this.#trace?.(this.#hadHandler ? "a handler takes over" : "a handler begins");
      const isTakeover = this.#hadHandler;
      this.#hadHandler = true;
      const handler = new UserfaultHandler(this.#handlerOptions);
      this.#handler = handler;
      try {
        handler.begin(isTakeover);
      } catch (error) {
        if (error instanceof HandlerDeath) this.#tally.add("handler died as it began");
        throw error;
      }
    });
  }

  #round(): void {
    this.#attempt(() => this.#handler?.round(this.#nowUs));
  }

  #answer(): void {
    const answer = this.#store.answer(this.#isCalm);
    if (answer === null) return;
    this.#trace?.(`part ${answer.part} is here`);
    this.#attempt(() => this.#handler?.settlePart(answer.part, this.#nowUs));
  }

  #attempt(action: () => void): void {
    try {
      action();
    } catch (error) {
      if (!(error instanceof HandlerDeath)) throw error;
      this.#died();
    }
  }

  #died(): void {
    this.#trace?.("the handler dies");
    this.#kernel.checkBits();
    this.#handler = null;
    this.#oracle.handlerDied(this.#memory.waiterCount, (page) => this.#memory.isNoted(page));
  }

  #checkNobodyWaits(): void {
    const who = this.#guest.whoWaits;
    if (who !== null) throw new HandlerFailure(`${who}, waits for ever`);
    const { waiterCount } = this.#memory;
    if (waiterCount === 0) return;
    throw new HandlerFailure(`${waiterCount} waiters are kept, and nobody waits`);
  }

  // How the world is made.

  #drawImage(): VirtualImage {
    const random = this.#random;
    return new VirtualImage(random, {
      pageSizeBytes: SMALL_PAGE_BYTES,
      pageCount: this.#isCrowd ? 200 : random.pick([random.between(4, 16), 16, 48, 200]),
      partsPerPage: 1,
      hasUnreadablePages: false,
      far: this.#climate.far ? { store: this.#store, grain: random.pick([1, 4, 16]) } : null,
    });
  }

  #drawPrecleared(pageCount: number): ReadonlySet<number> {
    const count = this.#random.between(1, 3);
    const pages = Array.from({ length: count }, () => this.#random.below(pageCount));
    return new Set(this.#climate.precleared ? pages : []);
  }

  #makeKernel(pageCount: number, precleared: ReadonlySet<number>): UserfaultKernel {
    const random = this.#random;
    return new UserfaultKernel({
      pageCount,
      vcpuCount: this.#isCrowd ? 1 : random.pick([1, 2, 4, 8]),
      threadCount: random.pick([0, 1, 3]),
      // The indices are about to wrap around in most worlds.
      ringStart: random.pick([this.#isCrowd ? 1 : null, 0, 2 ** 32 - 5, 2 ** 32 - 70]),
      hasAsyncStream: random.chance(0.7),
      isGuestMemfd: random.chance(0.6),
      precleared,
      gapPage: random.between(0, pageCount),
      oracle: this.#oracle,
      tally: this.#tally,
      trace: this.#trace,
    });
  }

  #makeGuest(): UserfaultGuest {
    const random = this.#random;
    const habits = {
      asyncShare: this.#isCrowd ? 1 : random.pick([0, 0.5, 0.9]),
      writeShare: random.pick([0, 0.3]),
      vmmShare: random.pick([0.05, 0.3]),
      scanShare: random.pick([0, 0.7]),
      tellsGpa: random.chance(0.8),
      maxPending: this.#isCrowd ? 150 : 64,
    };
    const isNoted = (page: number): boolean => this.#memory.isNoted(page);
    return new UserfaultGuest(this.#kernel, random, this.#climate, habits, isNoted);
  }

  #introduce(regions: RegionMap): void {
    const { isGuestMemfd, vcpuCount, threadCount, precleared } = this.#kernel.options;
    this.#tally.add(isGuestMemfd ? "VM on guest_memfd" : "VM on a memfd");
    if (this.#trace === null) return;
    this.#trace(
      `${regions.pageLimit} pages on ${isGuestMemfd ? "guest_memfd" : "a memfd"}, ` +
        `${vcpuCount} vCPUs, ${threadCount} threads of the VMM; bits cleared by the VMM: ` +
        `${[...precleared].join(", ") || "none"}`,
    );
    const set = Object.entries(this.#climate).filter(([, value]) => value !== 0 && value !== false);
    this.#trace(`climate: ${set.map(([name, value]) => `${name} ${value}`).join(", ")}`);
  }
}

/** In any order, some of them twice, or beyond the end. */
function drawAhead(random: Random, pageCount: number): HandlerOptions["ahead"] {
  const length = random.between(1, 8);
  const starts = Uint32Array.from({ length }, () => random.below(pageCount + 2));
  const counts = starts.map(() => random.between(1, 6));
  return { pages: { starts, counts }, stepPages: random.pick([1, 4, 32]) };
}

/** Which troubles a world has. */
export function userfaultTroublesOf(options: UserfaultWorldOptions): UserfaultTrouble[] {
  const drawn = drawUserfaultClimate(new Random(options.seed));
  const climate = withoutTroubles(drawn, options.without ?? []);
  return userfaultTroubles.filter((name) => climate[name] !== calmUserfaultClimate[name]);
}

export function runUserfaultWorld(options: UserfaultWorldOptions): void {
  const world = new UserfaultWorld(options);
  world.live(options.steps);
  world.calmDown();
  world.readEverything();
}
