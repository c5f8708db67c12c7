/**
 * A world made from a seed: one VM, or a few that share a fault worker, each with trouble of its
 * own kind. `runWorld` throws if a page was ever wrong, a thread forgotten, a VM killed without a
 * reason or starved by another. The same seed gives the same world, and fewer steps its beginning.
 * PURE.
 */
import {
  type Climate,
  calmClimate,
  drawClimate,
  without as switchOff,
  type Trouble,
  troubles,
} from "./climate.ts";
import { HandlerFailure } from "./failures.ts";
import { FairnessOracle } from "./fairness.ts";
import { type Demands, Passage } from "./passage.ts";
import { Random } from "./random.ts";
import { sightOf, Tally } from "./tally.ts";
import type { VirtualKernel } from "./virtual-kernel.ts";
import type { Turn, VirtualSession } from "./virtual-session.ts";
import { VirtualStore } from "./virtual-store.ts";
import { type HandlerParts, VirtualVm } from "./virtual-vm.ts";
import {
  type EndReason,
  EXIT_GRACE_US,
  VirtualWorker,
  type WorkerWatcher,
} from "./virtual-worker.ts";

export interface WorldParts extends HandlerParts {
  readonly makeWorker?: (watcher: WorkerWatcher) => VirtualWorker;
}

export interface WorldOptions {
  readonly seed: number;
  readonly steps: number;
  /** Troubles that this world shall not have. */
  readonly without?: readonly Trouble[];
  /** The handler to test; by default the real one. */
  readonly parts?: WorldParts;
  /** What the guest of the first VM does, a passage of it; then it does as chance will have it. */
  readonly demands?: Demands | null;
  readonly trace?: ((line: string) => void) | null;
  /** Where to count what happens; with it, even a run that fails leaves its counts. */
  readonly tally?: Tally;
}

/** Rounds until all is quiet, once nothing new begins. A thousand waiting threads take about 20. */
const CALM_ROUNDS = 300;
/** One in so many seeds has more threads than the planner's queue has places. */
const CROWD_EVERY = 100;
/** Steps that other threads make before a call of the handler takes effect, at most. */
const STEPS_PER_CALL = 3;
/** How often a VM's memory is wanted complete, per step. */
const COMPLETION_SHARE = 0.001;

class World implements WorkerWatcher {
  readonly #random: Random;
  readonly #vms: readonly VirtualVm[];
  readonly #worker: VirtualWorker;
  readonly #store: VirtualStore;
  /** How often an answer comes, per step. */
  readonly #answerShare: number;
  readonly #fairness: FairnessOracle;
  readonly #tally: Tally;
  readonly #trace: ((line: string) => void) | null;
  readonly #ended = new Set<VirtualSession>();
  readonly #stepUs: number;
  readonly #turnShare: number;
  #nowUs = 0;

  constructor(options: WorldOptions) {
    const random = new Random(options.seed);
    this.#random = random;
    this.#trace = options.trace ?? null;
    this.#tally = options.tally ?? new Tally();
    const { isFamine, stepUs, turnShare, climates } = drawPlan(random, options);
    this.#stepUs = stepUs;
    this.#turnShare = turnShare;
    const weather = { loss: random.pick([0, 0.1, 0.4]), eviction: random.pick([0, 0.02]) };
    this.#store = new VirtualStore(random, weather, this.#tally);
    this.#answerShare = random.pick([0.05, 0.3]);
    this.#vms = climates.map((climate, index) => this.#makeVm(index, climate, isFamine, options));
    const makeWorker = options.parts?.makeWorker ?? ((watcher) => new VirtualWorker(watcher));
    this.#worker = makeWorker(this);
    const isCrowd = this.#vms.some(({ climate }) => climate.crowd);
    // Mostly as in the engine, where small worlds never come to these bounds.
    this.#worker.maxPartsPerSession = this.#random.pick(isCrowd ? [64, 256] : [1, 2, 256, 256]);
    this.#worker.maxPartsPerWorker = this.#random.pick(isCrowd ? [128, 4096] : [1, 4096, 4096]);
    for (const vm of this.#vms) this.#worker.attach(vm.session);
    this.#fairness = new FairnessOracle(
      this.#vms.length,
      Math.max(...this.#vms.map(({ batchCapacity }) => batchCapacity)),
      this.#vms.filter(({ climate }) => climate.neighbours && isQuiet(climate)),
    );
  }

  /** The guests do as they like, and the worker gets its turn now and then. */
  live(steps: number): void {
    for (const { guest, climate } of this.#vms) {
      if (climate.crowd || this.#random.chance(0.3)) guest.stampede(this.#random.between(1, 2));
    }
    for (let step = 0; step < steps && this.#worker.sessionCount > 0; step++) {
      this.#random.pick(this.#vms).guest.step(this.#nowUs);
      this.#nowUs += this.#stepUs;
      if (this.#random.chance(this.#turnShare)) this.#worker.round(this.#nowUs);
      if (this.#random.chance(this.#answerShare)) this.#answer(false);
      if (this.#random.chance(COMPLETION_SHARE)) {
        this.#worker.complete(this.#random.pick(this.#vms).session);
      }
      this.#store.step();
    }
  }

  /** Nothing new begins: within a bounded number of rounds no thread may wait any more. */
  calmDown(): void {
    for (const { guest } of this.#vms) guest.calmDown();
    for (let round = 0; round < CALM_ROUNDS; round++) {
      for (const { guest } of this.#vms) guest.settle();
      this.#nowUs += 1000;
      this.#worker.round(this.#nowUs);
      while (!this.#store.isQuiet) this.#answer(true);
      if (!this.#worker.isIdle || !this.#vms.every(({ guest }) => guest.isQuiet)) continue;
      for (const vm of this.#vms) vm.checkNobodyWaits();
      return;
    }
    throw new HandlerFailure(`no end after ${CALM_ROUNDS} rounds without anything new`);
  }

  /** Reads every page once more, with all threads of a VM at the same time. */
  readEverything(): void {
    for (const { kernel } of this.#vms) {
      const { threads, pageCount } = kernel;
      for (let first = 0; first < pageCount && this.#isServed(kernel); first += threads.length) {
        for (const thread of threads) {
          thread.page = first + thread.id;
          thread.isWrite = false;
          if (thread.page < pageCount) kernel.access(thread);
        }
        this.calmDown();
      }
    }
  }

  /** VMs that died have been let go of, those that live are still served. */
  checkEnds(): void {
    // In the first round a VM may be found dead, by what was to be installed ahead.
    for (let round = 0; round < 2; round++) {
      this.#nowUs += 2 * EXIT_GRACE_US;
      this.#worker.round(this.#nowUs);
    }
    for (const { name, kernel, session } of this.#vms) {
      if (this.#ended.has(session)) continue;
      if (kernel.isFrozen && !kernel.hasExited) this.#tally.add("end: frozen");
      else if (!kernel.isDead) this.#tally.add("end: served");
      else if (kernel.hasExited || !session.isWatched) {
        throw new HandlerFailure(`${name} is dead, and its session goes on`);
      } // After exec alone nobody may ever notice: there are no threads left that fault.
    }
  }

  #answer(isCalm: boolean): void {
    const answer = this.#store.answer(isCalm);
    if (answer === null) return;
    const { part, isLost } = answer;
    this.#trace?.(`part ${part} ${isLost ? "is lost" : "is here"}`);
    this.#worker.settleNeed(part, isLost, this.#nowUs);
  }

  // What the worker does.

  asked(part: number): void {
    this.#trace?.(`part ${part} is asked for`);
    this.#store.ask(part);
  }

  turnBegins(session: VirtualSession, nowUs: number): void {
    this.#fairness.turnBegins(session.kernel);
    this.#trace?.(`${this.#vmOf(session).name}: turn at ${nowUs} us`);
  }

  turnEnds(session: VirtualSession, turn: Turn): void {
    this.#tally.add(sightOf.turn[turn]);
    this.#trace?.(`${this.#vmOf(session).name}: the turn ends: ${turn}`);
    if (turn === "failed") this.#vmOf(session).checkFailure();
    this.#fairness.turnEnds(session.kernel, turn);
  }

  ended(session: VirtualSession, reason: EndReason): void {
    this.#ended.add(session);
    this.#tally.add(`end: ${reason}`);
    this.#trace?.(`${this.#vmOf(session).name}: the session ends: ${reason}`);
  }

  #isServed({ isDead, isFrozen }: VirtualKernel): boolean {
    return !isDead && !isFrozen;
  }

  #vmOf(session: VirtualSession): VirtualVm {
    return this.#vms.find((vm) => vm.session === session)!;
  }

  #makeVm(index: number, climate: Climate, isFamine: boolean, options: WorldOptions): VirtualVm {
    const name = `VM ${index}`;
    const trace = this.#trace;
    const { demands = null } = options;
    const vm = new VirtualVm(this.#random, {
      name,
      passage: index === 0 && demands !== null ? new Passage(this.#random, demands) : null,
      climate,
      isFamine,
      hasLongShortages: this.#stepUs > 20,
      parts: options.parts ?? {},
      store: this.#store,
      need: (session, part, isUrgent) => this.#worker.need(session, part, isUrgent),
      tally: this.#tally,
      trace: trace === null ? null : (line) => trace(`${name}: ${line}`),
    });
    if (climate.neighbours) this.#tally.add("VM beside others");
    if (climate.flood) this.#tally.add("VM in a flood");
    vm.kernel.others = {
      beforeCall: () => this.#beforeCall(),
      betweenPages: () => vm.guest.betweenPages(),
      isRacing: () => vm.guest.isRacing(),
    };
    return vm;
  }

  /** While the handler works for one VM, all of them run. */
  #beforeCall(): void {
    this.#fairness.called();
    for (let steps = this.#random.below(STEPS_PER_CALL + 1); steps > 0; steps--) {
      this.#random.pick(this.#vms).guest.step(this.#nowUs);
    }
  }
}

interface WorldPlan {
  readonly isFamine: boolean;
  readonly stepUs: number;
  /** How often the worker gets a round, per step. */
  readonly turnShare: number;
  /** One for each VM. */
  readonly climates: readonly Climate[];
}

/** In a flood the first VM floods, and the second has no trouble at all. */
function drawPlan(random: Random, { seed, without = [] }: WorldOptions): WorldPlan {
  const isFamine = random.chance(0.05);
  const stepUs = isFamine ? 20_000 : random.pick([20, 20, 20, 20_000]);
  const turnShare = isFamine ? 1 : random.pick([0.1, 0.3, 0.8]);
  const isCrowd = seed % CROWD_EVERY === CROWD_EVERY - 1;
  const vmCount = isCrowd ? 1 : random.pick([1, 1, 1, 1, 1, 1, 2, 3]);
  const isFlood = vmCount > 1 && !isFamine && random.chance(0.4);
  const climates = Array.from({ length: vmCount }, (_, index): Climate => {
    const drawn = { ...drawClimate(random), crowd: isCrowd, neighbours: vmCount > 1 };
    if (isFamine) return { ...drawn, shortage: 0.003 };
    if (isFlood && index === 0) return { ...drawn, flood: true, hasRemoveEvents: true };
    return isFlood && index === 1 ? { ...calmClimate, neighbours: true } : drawn;
  });
  const kept = without.includes("neighbours") ? climates.slice(0, 1) : climates;
  return {
    isFamine,
    stepUs,
    turnShare,
    climates: kept.map((climate) => switchOff(climate, without)),
  };
}

/** Which troubles a world has. */
export function troublesOf(options: WorldOptions): Trouble[] {
  const { climates } = drawPlan(new Random(options.seed), options);
  const has = (name: Trouble): boolean =>
    climates.some((climate) => climate[name] !== calmClimate[name]);
  return troubles.filter(has);
}

/** Whether every fault can be answered at once: the VM has no trouble but its neighbours. */
function isQuiet(climate: Climate): boolean {
  return troubles.every((name) => name === "neighbours" || climate[name] === calmClimate[name]);
}

export function runWorld(options: WorldOptions): void {
  const world = new World(options);
  world.live(options.steps);
  world.calmDown();
  world.readEverything();
  world.checkEnds();
}
