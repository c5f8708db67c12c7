/**
 * Keeps the working set of what is served: takes what was seen of each restored VM, merges it, and
 * writes the set back, all in the background. No VM waits for it and nothing fails by it: what goes
 * wrong is a line in the log, once for each reason, and is tried again with the next VM.
 *
 * Servers of one image on several hosts share its set, and the last writer wins. So each reads the
 * set anew before it merges: only what two of them merge within the time of a read and a write is
 * lost, of the one or of the other.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { describeError, FaultlineError } from "../base/errors.ts";
import type { WorkingSet } from "../base/working-set.ts";
import { mergeRecording, type RestoreRecording } from "../pager/working-set.ts";
import { withDeadline } from "../source/deadline.ts";
import type { WorkingSetFinding, WorkingSetPlace } from "../source/working-set-place.ts";
import type { Logger } from "./log.ts";

export interface KeeperOptions {
  readonly place: WorkingSetPlace;
  readonly log: Logger;
  /** Between the end of a write and the next one. */
  readonly restMs?: number;
}

/** For one read or one write, with all attempts of the store. A server starts after its read. */
const IO_TIMEOUT_MS = 10_000;
const CLOSE_TIMEOUT_MS = 5000;
/** A storm of restores costs a write of at most some MiB in so long. */
const REST_MS = 5000;
/**
 * Merging one takes some milliseconds of the main thread, and each may hold some MiB. What more
 * VMs did in the same seconds hardly differs: it is left out.
 */
const MAX_WAITING = 8;
/** Different reasons are few; but they may hold numbers. */
const MAX_TOLD = 64;

export class WorkingSetKeeper {
  /** Recordings that were not merged because too many came at once. */
  leftOut = 0;
  readonly #place: WorkingSetPlace;
  readonly #log: Logger;
  readonly #restMs: number;
  readonly #told = new Set<string>();
  readonly #closing = new AbortController();
  /** The read or write that runs. */
  #io = new AbortController();
  readonly #givenUp = new AbortController();
  #current: WorkingSet | null = null;
  #waiting: RestoreRecording[] = [];
  /** What `current` has and the place does not: the last write failed. */
  #isUnwritten = false;
  #running: Promise<void> | null = null;

  private constructor({ place, log, restMs = REST_MS }: KeeperOptions) {
    this.#place = place;
    this.#log = log;
    this.#restMs = restMs;
  }

  /** Reads the set that is there. One that cannot be had is a warning, and none is used. */
  static async open(options: KeeperOptions): Promise<WorkingSetKeeper> {
    const keeper = new WorkingSetKeeper(options);
    const found = await keeper.#read();
    keeper.#current = found.kind === "found" ? found.set : null;
    return keeper;
  }

  /** With all that has been merged so far, written or not. */
  get current(): WorkingSet | null {
    return this.#current;
  }

  /** Returns at once; the columns of the recording must not change any more. */
  add(recording: RestoreRecording): void {
    if (this.#closing.signal.aborted || this.#waiting.length >= MAX_WAITING) {
      this.leftOut++;
      return;
    }
    this.#waiting.push(recording);
    this.#running ??= this.#run();
  }

  /** Merges and writes what waits, for as long as `timeoutMs`; then gives it up. */
  async close(timeoutMs: number = CLOSE_TIMEOUT_MS): Promise<void> {
    this.#closing.abort();
    try {
      await withDeadline(this.#running ?? Promise.resolve(), timeoutMs, "It was not done");
    } catch (error) {
      this.#waiting = [];
      this.#givenUp.abort(error);
      this.#tell("The working set could not be written", error);
      this.#io.abort(error);
    }
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) {
      await this.#learn();
      await this.#rest();
    }
    this.#running = null;
  }

  async #learn(): Promise<void> {
    // The VM whose end brought us here is still being taken care of.
    await nextTurn();
    let set = baseOf(await this.#read(), this.#current, this.#isUnwritten);
    const before = set;
    for (const recording of this.#waiting.splice(0)) {
      set = this.#merge(set, recording);
      await nextTurn();
    }
    this.#current = set;
    if (set === null || set.restores === 0 || (set === before && !this.#isUnwritten)) return;
    this.#isUnwritten = true;
    try {
      const written = set;
      await this.#within((signal) => this.#place.write(written, signal));
      this.#isUnwritten = false;
    } catch (error) {
      this.#tell("The working set could not be written", error);
    }
  }

  #merge(set: WorkingSet | null, recording: RestoreRecording): WorkingSet | null {
    try {
      return mergeRecording(set, recording);
    } catch (error) {
      this.#tell("What was seen of a VM cannot be learnt from", error);
      return set;
    }
  }

  async #read(): Promise<WorkingSetFinding> {
    try {
      const found = await this.#within((signal) => this.#place.read(signal));
      if ("reason" in found) this.#tell("The working set cannot be used", found.reason);
      return found;
    } catch (error) {
      this.#tell("The working set cannot be used", error);
      return { kind: "unreadable", reason: "" };
    }
  }

  /** Until the next write may begin; not when the server ends. */
  async #rest(): Promise<void> {
    const { signal } = this.#closing;
    if (signal.aborted) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(done, this.#restMs).unref();
      function done(): void {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        resolve();
      }
      signal.addEventListener("abort", done);
    });
  }

  async #within<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    this.#givenUp.signal.throwIfAborted();
    const io = new AbortController();
    this.#io = io;
    const late = new Error(`Its place did not answer within ${IO_TIMEOUT_MS} ms`);
    const timer = setTimeout(() => io.abort(late), IO_TIMEOUT_MS);
    // A disk that hangs does not even answer to an abort.
    const aborted = new Promise<never>((_, reject) => {
      io.signal.addEventListener("abort", () => reject(io.signal.reason));
    });
    try {
      return await Promise.race([work(io.signal), aborted]);
    } finally {
      clearTimeout(timer);
    }
  }

  #tell(message: string, error: unknown): void {
    const reason = typeof error === "string" ? error : describeError(error);
    const key = `${message}: ${reason}`;
    if (this.#told.has(key) || this.#told.size >= MAX_TOLD) return;
    this.#told.add(key);
    const code = error instanceof FaultlineError ? error.code : undefined;
    this.#log.warn({ workingSet: this.#place.name, code, reason }, message);
  }
}

/** What is merged into: what is there, unless we know better. */
function baseOf(
  found: WorkingSetFinding,
  current: WorkingSet | null,
  isUnwritten: boolean,
): WorkingSet | null {
  if (isUnwritten) return current;
  if (found.kind === "found") return found.set;
  // Somebody removed it, so that it is learnt anew.
  if (found.kind === "none") return null;
  return current;
}
