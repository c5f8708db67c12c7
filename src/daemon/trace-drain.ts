/**
 * Turns a trace ring into the file of a recording, as it grows. Nothing is buffered beyond one
 * block: where the caller is slow, the ring overwrites its oldest records, and the next block says
 * how many.
 */
import { restoreCauses } from "../base/restore-causes.ts";
import type { Session } from "../engine/session.ts";
import { RECORD_WORDS, type TraceRing, traceKinds } from "../engine/trace-ring.ts";
import { monotonicUs } from "../linux/clock.ts";
import { BlockWriter, encodeEnd } from "../trace/block-writer.ts";
import { encodeHeader, MAX_BLOCK_RECORDS } from "../trace/blocks.ts";
import { type Ending, MAX_RECORDS, type RecordingHeader } from "../trace/recording.ts";

const DRAIN_EVERY_MS = 50;
/** A whole ring, and what came meanwhile. Then others of this thread have their turn. */
const MAX_BLOCKS_AT_ONCE = 18;
/** Times in the ring are modulo 2^32. */
const CYCLE_US = 2 ** 32;
/** What a record may seem to be of the future: the worker began a little after we noted it. */
const SLACK_US = 1e6;

export interface DrainedSession {
  readonly id: string;
  readonly memory: string;
  readonly engineSession: Session;
  /** When its worker began with it, by both clocks. */
  readonly attachedMs: number;
  readonly attachedUs: number;
}

export interface DrainOptions {
  readonly forMs: number;
  /** The session is over, and nothing more is written. */
  readonly over: AbortSignal;
  /** Somebody wants no more of it. */
  readonly stop: AbortSignal;
}

export async function* drainTrace(
  session: DrainedSession,
  ring: TraceRing,
  { forMs, over, stop }: DrainOptions,
): AsyncGenerator<Uint8Array, void> {
  const endMs = performance.now() + forMs;
  const drain = new RingDrain(ring, session.attachedUs);
  yield encodeHeader(headerOf(session));
  for (;;) {
    // Asked before the last look: what was written until then is in it.
    const ending = endingOf(over, stop, endMs, drain);
    for (let blocks = 0; blocks < MAX_BLOCKS_AT_ONCE; blocks++) {
      const block = drain.next();
      if (block === null) break;
      yield block;
    }
    if (ending !== null) {
      yield encodeEnd(ending);
      return;
    }
    const leftMs = Math.max(0, endMs - performance.now());
    await rest(Math.min(DRAIN_EVERY_MS, leftMs), [over, stop]);
  }
}

function endingOf(
  over: AbortSignal,
  stop: AbortSignal,
  endMs: number,
  drain: RingDrain,
): Ending | null {
  if (over.aborted) return "ended";
  if (stop.aborted) return "stopped";
  if (drain.isFull) return "full";
  return performance.now() >= endMs ? "asked" : null;
}

/** For so long, or until one of the signals. */
async function rest(ms: number, signals: readonly AbortSignal[]): Promise<void> {
  await new Promise<void>((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      for (const signal of signals) signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    for (const signal of signals) signal.addEventListener("abort", end);
    if (signals.some(({ aborted }) => aborted)) end();
  });
}

function headerOf({ id, memory, engineSession, attachedMs }: DrainedSession): RecordingHeader {
  const { pid, regions, pageTable } = engineSession;
  return {
    session: id,
    memory,
    pid,
    sizeBytes: regions.totalBytes,
    pageSizeBytes: regions.pageSizeBytes,
    pageCount: pageTable.pageCount,
    regions: regions.regions.map(({ baseHostAddress, sizeBytes, imageOffset }) => ({
      hostAddress: baseHostAddress,
      sizeBytes,
      imageOffset,
    })),
    attachedAt: new Date(attachedMs).toISOString(),
    kinds: [...traceKinds],
    causes: [...restoreCauses],
  };
}

/** Reads a ring from its oldest record on. */
class RingDrain {
  readonly #ring: TraceRing;
  readonly #attachedUs: number;
  readonly #words = new Uint32Array(MAX_BLOCK_RECORDS * RECORD_WORDS);
  readonly #writer = new BlockWriter(traceKinds.length);
  /** Of the records in `#words`, which is next, and how many there are. */
  #at = 0;
  #count = 0;
  #readUntil = 0;
  #lost = 0;
  #records = 0;

  constructor(ring: TraceRing, attachedUs: number) {
    this.#ring = ring;
    this.#attachedUs = attachedUs;
  }

  /** As many records as a file may have were read. */
  get isFull(): boolean {
    return this.#records >= MAX_RECORDS;
  }

  /** Null: there is nothing now. */
  next(): Uint8Array | null {
    if (this.#at === this.#count) this.#read();
    const first = this.#at;
    const nowUs = monotonicUs() - this.#attachedUs;
    for (; this.#at < this.#count && this.#add(this.#at, nowUs); this.#at++);
    this.#records += this.#at - first;
    if (this.#at === first && this.#lost === 0) return null;
    const block = this.#writer.take(this.#lost);
    this.#lost = 0;
    return block;
  }

  #read(): void {
    const room = Math.min(MAX_BLOCK_RECORDS, MAX_RECORDS - this.#records);
    const into = this.#words.subarray(0, room * RECORD_WORDS);
    const { count, end, lost } = this.#ring.read(this.#readUntil, into);
    this.#at = 0;
    this.#count = count;
    this.#readUntil = end;
    this.#lost += lost;
  }

  /** False: it does not fit into this block. */
  #add(index: number, nowUs: number): boolean {
    const [time, page, cost, rest] = this.#words.subarray(
      index * RECORD_WORDS,
      (index + 1) * RECORD_WORDS,
    ) as unknown as [number, number, number, number];
    // The latest cycle that has come: right for what is no older than one of them, 71 minutes.
    const cycles = Math.max(0, Math.floor((nowUs + SLACK_US - time) / CYCLE_US));
    const timeUs = time + cycles * CYCLE_US;
    if (!this.#writer.fits(timeUs)) return false;
    this.#writer.add(timeUs, rest & 0xff, (rest >>> 8) & 0xff, page, rest >>> 16, cost);
    return true;
  }
}
