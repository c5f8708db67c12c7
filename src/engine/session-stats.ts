/**
 * What is counted for one VM, in memory that its fault worker writes and the main thread reads.
 * Plain stores: there is one writer, and 64-bit stores do not tear on the machines we run on.
 *
 * The memory may outlive the process, and the next one may be of a newer version: counters and
 * stages are only ever added, at the end of their lists.
 */
import { assert } from "../base/assert.ts";
import { bucketOf, HISTOGRAM_BUCKETS, quantileUs } from "../base/histogram.ts";

/** Every counter, in the order of its place in memory; new ones at the end. */
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
  /** Pages that had to wait because their VM had asked for as many parts as one may at once. */
  "heldBackPages",
  /** Pages that had to wait because all VMs of the worker together had. */
  "crowdedOutPages",
  /** Turns that ended, for the sake of other VMs, because enough bytes were installed. */
  "cutTurns",
  /** Requests of vCPUs that were stopped until they were answered (KVM Userfault). */
  "vcpuRequests",
  /** Requests of guests that went on meanwhile, by the second socket. */
  "asyncRequests",
  /** The same by the rings of vCPUs. */
  "ringFaults",
  /** Frames on either socket that were no requests. */
  "badFrames",
] as const;
export type CounterName = (typeof counterNames)[number];
export type Counters = Readonly<Record<CounterName, number>>;

/** Where the time of faults goes, in the order of its place in memory; new ones at the end. */
export const stageNames = [
  /** All of it: from the moment faults were read until their waiters were woken. */
  "fault",
  /** From the moment the worker learns of faults until they are read, sorted and planned. */
  "queue",
  /**
   * The operations that install them, wakes included; of several that are woken together, each
   * counts their mean.
   */
  "install",
  /** From the moment bytes that are not in memory were asked for until they came, or were lost. */
  "wait",
] as const;
export type StageName = (typeof stageNames)[number];

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
const HELD_BACK_PAGES = at("heldBackPages");
const CROWDED_OUT_PAGES = at("crowdedOutPages");
const CUT_TURNS = at("cutTurns");
const VCPU_REQUESTS = at("vcpuRequests");
const ASYNC_REQUESTS = at("asyncRequests");
const RING_FAULTS = at("ringFaults");
const BAD_FRAMES = at("badFrames");

const FAULT = stageNames.indexOf("fault");
const QUEUE = stageNames.indexOf("queue");
const INSTALL = stageNames.indexOf("install");
const WAIT = stageNames.indexOf("wait");
/** Places for counters, of which those without a name stay zero. */
const COUNTER_PLACES = 64;
/** A stage's buckets, and the sum of its durations. */
const STAGE_PLACES = HISTOGRAM_BUCKETS + 1;

export class SessionStats {
  #counters!: Float64Array;
  #stages!: Float64Array;

  constructor(buffer: ArrayBufferLike = SessionStats.allocate(), offsetBytes = 0) {
    this.#look(buffer, offsetBytes);
  }

  /** Bytes of all counters and stages. */
  static readonly sizeBytes = (COUNTER_PLACES + stageNames.length * STAGE_PLACES) * 8;

  static allocate(): SharedArrayBuffer {
    return new SharedArrayBuffer(SessionStats.sizeBytes);
  }

  /** Goes on in other memory, with what was counted: the old may be unmapped then. */
  moveTo(buffer: ArrayBufferLike): void {
    const [counters, stages] = [this.#counters, this.#stages];
    this.#look(buffer, 0);
    this.#counters.set(counters);
    this.#stages.set(stages);
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

  addHeldBack(pages: number): void {
    this.#counters[HELD_BACK_PAGES]! += pages;
  }

  addCrowdedOut(pages: number): void {
    this.#counters[CROWDED_OUT_PAGES]! += pages;
  }

  addCutTurn(): void {
    this.#counters[CUT_TURNS]! += 1;
  }

  addVcpuRequest(): void {
    this.#counters[VCPU_REQUESTS]! += 1;
  }

  addAsyncRequest(): void {
    this.#counters[ASYNC_REQUESTS]! += 1;
  }

  addRingFault(): void {
    this.#counters[RING_FAULTS]! += 1;
  }

  addBadFrames(frames: number): void {
    this.#counters[BAD_FRAMES]! += frames;
  }

  /** From the moment faults were read until their waiters were woken, of `count` of them. */
  addLatency(microseconds: number, count = 1): void {
    this.#record(FAULT, microseconds, count);
  }

  addQueued(microseconds: number, count: number): void {
    this.#record(QUEUE, microseconds, count);
  }

  addInstallTime(microseconds: number, count: number): void {
    this.#record(INSTALL, microseconds, count);
  }

  addWait(microseconds: number, count: number): void {
    this.#record(WAIT, microseconds, count);
  }

  counters(): Counters {
    const entries = counterNames.map((name, index) => [name, this.#counters[index]!] as const);
    return Object.fromEntries(entries) as Record<CounterName, number>;
  }

  get(name: CounterName): number {
    return this.#counters[at(name)]!;
  }

  latencyUs(quantile: number): number {
    return this.stageUs("fault", quantile);
  }

  /** The duration that a share `quantile` (0 to 1) of a stage's records does not exceed. */
  stageUs(stage: StageName, quantile: number): number {
    return quantileUs(this.buckets(stage), quantile);
  }

  /** A copy of a stage's histogram (`base/histogram.ts`). */
  buckets(stage: StageName): Float64Array {
    const first = stageNames.indexOf(stage) * STAGE_PLACES;
    return this.#stages.slice(first, first + HISTOGRAM_BUCKETS);
  }

  /** All durations of a stage together, in microseconds. */
  totalUs(stage: StageName): number {
    return this.#stages[stageNames.indexOf(stage) * STAGE_PLACES + HISTOGRAM_BUCKETS]!;
  }

  /** Adds a stage's histogram to `sums`, without a copy of it. */
  addBuckets(stage: StageName, sums: Float64Array): void {
    const first = stageNames.indexOf(stage) * STAGE_PLACES;
    for (let bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
      sums[bucket]! += this.#stages[first + bucket]!;
    }
  }

  /** Adds everything that `other` counted. */
  add(other: SessionStats): void {
    addAll(this.#counters, other.#counters, 1);
    addAll(this.#stages, other.#stages, 1);
  }

  /** What was counted since `earlier`, a copy made before. */
  since(earlier: SessionStats): SessionStats {
    const difference = new SessionStats();
    difference.add(this);
    addAll(difference.#counters, earlier.#counters, -1);
    addAll(difference.#stages, earlier.#stages, -1);
    return difference;
  }

  #record(stage: number, microseconds: number, count: number): void {
    const first = stage * STAGE_PLACES;
    this.#stages[first + bucketOf(microseconds * 1000)]! += count;
    this.#stages[first + HISTOGRAM_BUCKETS]! += microseconds * count;
  }

  #look(buffer: ArrayBufferLike, offsetBytes: number): void {
    assert(
      buffer.byteLength - offsetBytes >= SessionStats.sizeBytes,
      "statistics memory too small",
    );
    this.#counters = new Float64Array(buffer, offsetBytes, COUNTER_PLACES);
    const stagePlaces = stageNames.length * STAGE_PLACES;
    this.#stages = new Float64Array(buffer, offsetBytes + COUNTER_PLACES * 8, stagePlaces);
  }
}

function addAll(sums: Float64Array, others: Float64Array, factor: 1 | -1): void {
  for (let index = 0; index < sums.length; index++) sums[index]! += factor * others[index]!;
}
