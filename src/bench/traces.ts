/** The traces that guests replay: one made from a seed, one recorded of a real guest, any file. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describeError, FaultlineError } from "../base/errors.ts";
import { MIB, SMALL_PAGE_BYTES } from "../base/units.ts";
import { repositoryRoot } from "../kit/paths.ts";
import { decodeTrace, type Trace } from "./trace-file.ts";

/** Of a Debian guest in QEMU, from its restore to its first answers; how: docs/BENCHMARKS.md. */
export const linuxTracePath = join(repositoryRoot, "bench", "traces", "linux-guest.trace");

const SYNTHETIC_SEED = 1;
const SYNTHETIC_MIB = 1024;
/** For a look. */
const QUICK_SYNTHETIC_MIB = 8;
/** One page of four is touched: 65,536 of 1 GiB. */
const TOUCHED_SHARE = 0.25;
const MEAN_RUN_PAGES = 8;

export interface NamedTrace {
  /** `linux`, `synthetic`, or the path of a file. */
  readonly name: string;
  readonly trace: Trace;
}

/** Throws `bad-option` or `trace-corrupt` if it is neither of ours nor a good file. */
export function loadTrace(name: string, isQuick: boolean): NamedTrace {
  if (name === "synthetic") {
    const sizeMib = isQuick ? QUICK_SYNTHETIC_MIB : SYNTHETIC_MIB;
    return { name, trace: syntheticTrace(sizeMib * MIB, SYNTHETIC_SEED) };
  }
  const path = name === "linux" ? linuxTracePath : name;
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new FaultlineError(
      "bad-option",
      `--traces ${name} cannot be used: give linux, synthetic, or files of traces ` +
        `(${describeError(error)}).`,
    );
  }
  return { name, trace: decodeTrace(bytes, path) };
}

/**
 * Runs of one to fifteen pages, eight in the mean, over the whole memory in random order, touched
 * as fast as they come. The same for the same seed, everywhere.
 */
export function syntheticTrace(sizeBytes: number, seed: number): Trace {
  const pageCount = sizeBytes / SMALL_PAGE_BYTES;
  const wanted = Math.floor(pageCount * TOUCHED_SHARE);
  const random = generator(seed);
  const longest = 2 * MEAN_RUN_PAGES - 1;
  const isTouched = new Uint8Array(pageCount);
  const pages = new Uint32Array(wanted);
  for (let count = 0; count < wanted; ) {
    const first = Math.floor(random() * pageCount);
    const end = Math.min(first + 1 + Math.floor(random() * longest), pageCount);
    // A run ends where another began: each page once.
    for (let page = first; page < end && count < wanted && isTouched[page] === 0; page++) {
      isTouched[page] = 1;
      pages[count++] = page;
    }
  }
  return { sizeBytes, pages, thinkUs: new Uint32Array(wanted) };
}

/** mulberry32: from 0 to 1, exclusive. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b_79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
