/**
 * What the guest does to its RAM, as numbers: the same for the KVM guest (registers at entry) and
 * for the process guest (a plain function). PURE.
 *
 * Each phase visits memory in a walk: 0, s, 2s, … modulo the number of items, with a stride that
 * shares no divisor with that number, so that no item comes twice. The strides are irrational
 * fractions of the whole: any beginning of a walk is spread evenly, and no two walks agree.
 */
import { FaultlineError } from "../base/errors.ts";
import { KIB, MIB, SMALL_PAGE_BYTES } from "../base/units.ts";
import { RAM_BYTES_MAX, RAM_GRAIN_MIB } from "./memory-layout.ts";

/**
 * Filled memory comes in runs of 16 pages, as a guest's allocator hands it out: single pages
 * between holes would make each page of the memory file an extent of its own.
 */
export const FILL_RUN_BYTES = 64 * KIB;

/** What a user chooses about a guest. */
export interface GuestOptions {
  readonly memoryMib: number;
  /** How much of the RAM is filled at boot. */
  readonly fillPercent: number;
  /** How much of the RAM, filled or not, each checksum reads. */
  readonly workingSetPercent: number;
}

/** `steps` of `count` items are visited, `stride` apart, starting at item 0. */
export interface Walk {
  readonly count: number;
  readonly stride: number;
  readonly steps: number;
}

export interface GuestPlan {
  readonly ramBytes: number;
  /** Where the generator of the fill starts. */
  readonly seed: number;
  /** Runs that are filled. */
  readonly fill: Walk;
  /** Pages that both checksums before and after the snapshot read. */
  readonly workingSet: Walk;
  /** Pages that are written after the restore, and then read: some new to it, some not. */
  readonly dirty: Walk;
}

/** @throws FaultlineError `bad-option` */
export function planGuest(options: GuestOptions): GuestPlan {
  requireWhole("--memory-mib", options.memoryMib, RAM_GRAIN_MIB, RAM_BYTES_MAX / MIB);
  requireWhole("--fill", options.fillPercent, 0, 100);
  requireWhole("--working-set", options.workingSetPercent, 1, 100);
  if (options.memoryMib % RAM_GRAIN_MIB !== 0) {
    throw new FaultlineError(
      "bad-option",
      `--memory-mib ${options.memoryMib} is odd. Choose a multiple of ${RAM_GRAIN_MIB}, so that ` +
        "huge pages fit.",
    );
  }
  const ramBytes = options.memoryMib * MIB;
  const runs = ramBytes / FILL_RUN_BYTES;
  const pages = ramBytes / SMALL_PAGE_BYTES;
  const workingSetPages = Math.ceil((pages * options.workingSetPercent) / 100);
  return {
    ramBytes,
    seed: 0x5eed,
    fill: walk(runs, (Math.sqrt(5) - 1) / 2, Math.round((runs * options.fillPercent) / 100)),
    workingSet: walk(pages, Math.SQRT2 - 1, workingSetPages),
    dirty: walk(pages, Math.sqrt(3) - 1, Math.ceil(workingSetPages / 4)),
  };
}

/** The pages that boot fills. */
export function filledPages(plan: GuestPlan): number {
  return (plan.fill.steps * FILL_RUN_BYTES) / SMALL_PAGE_BYTES;
}

function walk(count: number, ratio: number, steps: number): Walk {
  let stride = Math.round(count * ratio);
  while (greatestCommonDivisor(stride, count) !== 1) stride += 1;
  return { count, stride, steps };
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

function requireWhole(option: string, value: number, min: number, max: number): void {
  if (Number.isInteger(value) && value >= min && value <= max) return;
  throw new FaultlineError(
    "bad-option",
    `${option} ${value} is not usable. Choose a whole number from ${min} to ${max}.`,
  );
}
