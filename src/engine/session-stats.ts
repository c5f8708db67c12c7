/**
 * What is counted for one VM, in memory that its fault worker writes and the main thread reads.
 * Plain stores: there is one writer, and 64-bit stores do not tear on the machines we run on.
 */
import { bucketOf, HISTOGRAM_BUCKETS, quantileUs } from "../base/histogram.ts";

/** Every counter, in the order of its place in memory. */
const counterNames = [
  /** Page faults read from the kernel. Several may name one page. */
  "faults",
  /** Pages installed with snapshot bytes. */
  "installedPages",
  /**
   * Pages installed as zeroes: holes of the snapshot, and removed pages that were touched again.
   */
  "zeroPages",
  /** Pages that the VMM took back (REMOVE events). */
  "removedPages",
  /** Operations that installed something: `installedPages + zeroPages` over this is the merging. */
  "installs",
  /** Faults on pages that were there already: duplicates. */
  "alreadyPresent",
  /** Operations put off because events were pending. */
  "deferred",
  /** Pages poisoned by policy. */
  "poisonedPages",
  /** Faults turned away because the queue was full; their threads were woken to fault again. */
  "overflowed",
  /** Pages that had to wait for a chunk of the image, or for the disk. */
  "awaitedPages",
  /** Pages, with bytes or zeroes, that were installed before anybody asked for them. */
  "prefaultedPages",
  /** Pages that a scan was given before it came to them. */
  "streamedPages",
  /** Pages whose first write was recorded, and their protection lifted. */
  "unprotectedPages",
] as const;
export type CounterName = (typeof counterNames)[number];
export type Counters = Readonly<Record<CounterName, number>>;

const indexes = new Map(counterNames.map((name, index) => [name, index]));
const at = (name: CounterName): number => indexes.get(name)!;
const FAULTS = at("faults");
const INSTALLED_PAGES = at("installedPages");
const ZERO_PAGES = at("zeroPages");
const REMOVED_PAGES = at("removedPages");
const INSTALLS = at("installs");
const ALREADY_PRESENT = at("alreadyPresent");
const DEFERRED = at("deferred");
const POISONED_PAGES = at("poisonedPages");
const OVERFLOWED = at("overflowed");
const AWAITED_PAGES = at("awaitedPages");
const PREFAULTED_PAGES = at("prefaultedPages");
const STREAMED_PAGES = at("streamedPages");
const UNPROTECTED_PAGES = at("unprotectedPages");

export class SessionStats {
  readonly buffer: SharedArrayBuffer;
  readonly #counters: Float64Array;
  readonly #latencies: Float64Array;

  constructor(buffer: SharedArrayBuffer = SessionStats.allocate()) {
    this.buffer = buffer;
    this.#counters = new Float64Array(buffer, 0, counterNames.length);
    this.#latencies = new Float64Array(buffer, counterNames.length * 8, HISTOGRAM_BUCKETS);
  }

  static allocate(): SharedArrayBuffer {
    return new SharedArrayBuffer((counterNames.length + HISTOGRAM_BUCKETS) * 8);
  }

  addFault(): void {
    this.#counters[FAULTS]! += 1;
  }

  addInstalled(pages: number): void {
    this.#counters[INSTALLED_PAGES]! += pages;
    this.#counters[INSTALLS]! += 1;
  }

  addZeroed(pages: number): void {
    this.#counters[ZERO_PAGES]! += pages;
    this.#counters[INSTALLS]! += 1;
  }

  addRemoved(pages: number): void {
    this.#counters[REMOVED_PAGES]! += pages;
  }

  addAlreadyPresent(): void {
    this.#counters[ALREADY_PRESENT]! += 1;
  }

  addDeferred(): void {
    this.#counters[DEFERRED]! += 1;
  }

  addPoisoned(): void {
    this.#counters[POISONED_PAGES]! += 1;
  }

  addOverflowed(): void {
    this.#counters[OVERFLOWED]! += 1;
  }

  addAwaited(pages: number): void {
    this.#counters[AWAITED_PAGES]! += pages;
  }

  addStreamed(pages: number): void {
    this.#counters[STREAMED_PAGES]! += pages;
  }

  addPrefaulted(pages: number): void {
    this.#counters[PREFAULTED_PAGES]! += pages;
  }

  addUnprotected(pages: number): void {
    this.#counters[UNPROTECTED_PAGES]! += pages;
  }

  /** From the moment faults were read until their waiters were woken, of `count` of them. */
  addLatency(microseconds: number, count = 1): void {
    this.#latencies[bucketOf(microseconds * 1000)]! += count;
  }

  counters(): Counters {
    const entries = counterNames.map((name, index) => [name, this.#counters[index]!] as const);
    return Object.fromEntries(entries) as Record<CounterName, number>;
  }

  latencyUs(quantile: number): number {
    return quantileUs(this.#latencies, quantile);
  }

  /** Adds everything that `other` counted. */
  add(other: SessionStats): void {
    for (const [index, value] of other.#counters.entries()) this.#counters[index]! += value;
    for (const [index, value] of other.#latencies.entries()) this.#latencies[index]! += value;
  }

  /** What was counted since `earlier`, a copy made before. */
  since(earlier: SessionStats): SessionStats {
    const difference = new SessionStats();
    difference.add(this);
    for (const [index, value] of earlier.#counters.entries()) {
      difference.#counters[index]! -= value;
    }
    for (const [index, value] of earlier.#latencies.entries()) {
      difference.#latencies[index]! -= value;
    }
    return difference;
  }
}
