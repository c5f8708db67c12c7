/**
 * Shares seeds among threads. Chunks are handed out in order, and after the first failure no more
 * of them: so all seeds below the lowest that failed have been run, on whatever machine.
 */
import { Worker } from "node:worker_threads";
import type { Demands } from "../src/sim/passage.ts";
import { Tally } from "../src/sim/tally.ts";
import type { SimOptions } from "./sim-options.ts";
import type { SimChunk, SimChunkResult, SimWorkerSetup } from "./sim-worker.ts";

/** Short enough for progress to move, and for Ctrl-C to lose little. */
const SEEDS_PER_CHUNK = 20;
/** A world takes milliseconds. One that takes a hundred times its due has no end. */
const STALL_MS = 60_000;
const STALL_MS_PER_STEP = 5;
const WATCH_EVERY_MS = 250;

export interface Finding {
  readonly seed: number;
  readonly message: string;
  /** Whether the world came to its end: another cannot be made shorter, or run in this thread. */
  readonly hasEnd: boolean;
}

export class SimFleet {
  readonly tally = new Tally();
  doneSeeds = 0;
  failure: Finding | null = null;
  readonly #options: SimOptions;
  readonly #demands: Demands | null;
  readonly #onProgress: () => void;
  readonly #workers: Worker[] = [];
  #nextSeed: number;
  #isStopped = false;

  constructor(options: SimOptions, demands: Demands | null, onProgress: () => void) {
    this.#options = options;
    this.#demands = demands;
    this.#onProgress = onProgress;
    this.#nextSeed = options.fromSeed;
  }

  /** Ends when all seeds are done, one failed, or `stop()` was called. */
  async run(): Promise<void> {
    const chunks = Math.ceil(this.#options.seedCount / SEEDS_PER_CHUNK);
    const lanes = Array.from({ length: Math.min(this.#options.jobs, chunks) }, () => this.#lane());
    try {
      await Promise.all(lanes);
    } finally {
      this.stop();
    }
  }

  stop(): void {
    this.#isStopped = true;
    for (const worker of this.#workers) void worker.terminate();
  }

  /** One thread, from its first chunk to its last. */
  async #lane(): Promise<void> {
    const { stage, steps, without, mutant } = this.#options;
    const current = new Int32Array(new SharedArrayBuffer(4)).fill(-1);
    const demands = this.#demands;
    const setup: SimWorkerSetup = { stage, steps, without, mutant, demands, current };
    const worker = new Worker(new URL("./sim-worker.js", import.meta.url), { workerData: setup });
    this.#workers.push(worker);
    let watch: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        const goOn = (): void => {
          const chunk = this.#nextChunk();
          if (chunk === null) resolve();
          else worker.postMessage(chunk);
        };
        worker.on("message", (result: SimChunkResult) => {
          this.#take(result);
          goOn();
        });
        worker.once("error", reject);
        worker.once("exit", () => resolve());
        watch = this.#watch(current, resolve);
        goOn();
      });
    } finally {
      clearInterval(watch);
    }
  }

  #nextChunk(): SimChunk | null {
    const limit = this.#options.fromSeed + this.#options.seedCount;
    if (this.#isStopped || this.failure !== null || this.#nextSeed >= limit) return null;
    const from = this.#nextSeed;
    this.#nextSeed = Math.min(from + SEEDS_PER_CHUNK, limit);
    return { from, end: this.#nextSeed };
  }

  #take({ doneSeeds, counts, failure }: SimChunkResult): void {
    this.doneSeeds += doneSeeds;
    this.tally.merge(counts);
    if (failure !== null && failure.seed < (this.failure?.seed ?? Number.POSITIVE_INFINITY)) {
      this.failure = { ...failure, hasEnd: true };
    }
    this.#onProgress();
  }

  /** Notices a thread that stays at one seed. */
  #watch(current: Int32Array, giveUp: () => void): NodeJS.Timeout {
    const deadlineMs = STALL_MS + this.#options.steps * STALL_MS_PER_STEP;
    let seed = -1;
    let sinceMs = performance.now();
    return setInterval(() => {
      const now = Atomics.load(current, 0);
      if (now !== seed) {
        seed = now;
        sinceMs = performance.now();
      } else if (performance.now() - sinceMs > deadlineMs) {
        const message = `the world has no end: nothing for ${deadlineMs / 1000} s`;
        this.failure ??= { seed, message, hasEnd: false };
        giveUp();
      }
    }, WATCH_EVERY_MS);
  }
}
