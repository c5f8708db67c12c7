/** A thread of `npm run sim`: runs the worlds it is told to, one chunk of seeds after the other. */
import { parentPort, workerData } from "node:worker_threads";
import { assert } from "../src/base/assert.ts";
import type { Demands } from "../src/sim/passage.ts";
import { type StageName, stages } from "../src/sim/stage.ts";
import { Tally } from "../src/sim/tally.ts";

export interface SimWorkerSetup {
  readonly stage: StageName;
  readonly steps: number;
  readonly without: readonly string[];
  readonly mutant: string | null;
  readonly demands: Demands | null;
  /** Where the thread writes the seed it is at, so that a world without end can be named. */
  readonly current: Int32Array;
}

/** Seeds `from` to `end`, exclusive. */
export interface SimChunk {
  readonly from: number;
  readonly end: number;
}

export interface SimChunkResult {
  readonly doneSeeds: number;
  readonly counts: Readonly<Record<string, number>>;
  readonly failure: { readonly seed: number; readonly message: string } | null;
}

assert(parentPort !== null, "this file is a worker's entry");
const port = parentPort;
const { stage, steps, without, mutant, demands, current } = workerData as SimWorkerSetup;

function runChunk({ from, end }: SimChunk): SimChunkResult {
  const tally = new Tally();
  for (let seed = from; seed < end; seed++) {
    Atomics.store(current, 0, seed);
    const message = stages[stage].judge({ seed, steps, without, mutant, demands, tally });
    if (message !== null) {
      return { doneSeeds: seed - from + 1, counts: tally.toJSON(), failure: { seed, message } };
    }
  }
  return { doneSeeds: end - from, counts: tally.toJSON(), failure: null };
}

port.on("message", (chunk: SimChunk) => port.postMessage(runChunk(chunk)));
