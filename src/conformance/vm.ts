/**
 * A VM under the handler, seen from the test: its process is vm-program.ts. Every call has a
 * deadline, and says in its `Finding` which page was not answered, or held what.
 */
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import { waitFor } from "../kit/wait.ts";
import {
  type DialectName,
  dialects,
  type RegionEntry,
  type RegionPlace,
  regionEntries,
} from "./dialects.ts";
import { Finding, formatSeconds, namePages, WrongBytes } from "./finding.ts";
import type { MemoryImage } from "./image.ts";
import { VmDied, VmError, type VmPool, type VmProcess } from "./vm-process.ts";
import type {
  Attachment,
  Found,
  Reading,
  Run,
  VmHello,
  VmOrder,
  VmSetup,
  VmValue,
} from "./vm-protocol.ts";

/** What a page may hold: see `Found`. */
const allowed = {
  file: ["F", "B"],
  zero: ["Z", "B"],
  "file or zero": ["F", "B", "Z"],
  written: ["W"],
} as const satisfies Record<string, readonly Found[]>;
export type Expected = keyof typeof allowed;

const wanted: Readonly<Record<Expected, string>> = {
  file: "the bytes of the memory file",
  zero: "zeroes",
  "file or zero": "the bytes of the memory file or zeroes",
  written: "what the VM has written there",
};

export interface VmStart {
  readonly image: MemoryImage;
  readonly deadlineMs: number;
  readonly pool: VmPool;
  /** Ends a VM that is still starting. */
  readonly signal: AbortSignal;
}

export interface VmOptions {
  /** The image's pages, split over regions; default: one region. */
  readonly regionPages?: readonly number[];
  readonly pageSizeBytes?: number;
  /** Whether its userfaultfd reports REMOVE; default: yes. */
  readonly hasRemove?: boolean;
}

export interface TouchOptions {
  readonly threads?: number;
  /** For the finding: `after a REMOVE`. */
  readonly when?: string;
}

export interface HandshakeOptions {
  readonly dialect?: DialectName;
  /** Sent instead of the regular one. */
  readonly text?: string;
  readonly attachments?: readonly Attachment[];
  /** Cuts the text there, and sends the rest when the first part has been read. */
  readonly splitAt?: number;
  /** Closes the socket, or leaves it open, whatever the dialect does. */
  readonly isClosed?: boolean;
}

/** The VM keeps the deadlines itself; this much later it is the VM that does not answer. */
const GRACE_MS = 10_000;

export class Vm {
  readonly places: readonly RegionPlace[];
  readonly pageSizeBytes: number;
  readonly #process: VmProcess;
  readonly #pool: VmPool;
  readonly #deadlineMs: number;
  /** Something was not done in time: a thread may be blocked for ever. */
  #hasStalled = false;
  /** Its process may be another VM's by now. */
  #isOver = false;

  private constructor(process: VmProcess, hello: VmHello, setup: VmSetup, start: VmStart) {
    this.#process = process;
    this.#pool = start.pool;
    this.#deadlineMs = start.deadlineMs;
    this.pageSizeBytes = setup.pageSizeBytes;
    this.places = setup.regionPages.map((pageCount, index) => ({
      address: hello.addresses[index]!,
      pageCount,
    }));
  }

  /** A VM with its memory mapped and registered, which no handler knows of yet. */
  static async start(start: VmStart, options: VmOptions): Promise<Vm> {
    const { image, pool, signal } = start;
    const setup: VmSetup = {
      expectedPath: image.path,
      regionPages: options.regionPages ?? [image.pageCount],
      pageSizeBytes: options.pageSizeBytes ?? SMALL_PAGE_BYTES,
      hasRemove: options.hasRemove ?? true,
    };
    const process = await pool.take(signal);
    try {
      const hello = await process.ask({ what: "setup", setup }, GRACE_MS);
      return new Vm(process, hello as VmHello, setup, start);
    } catch (error) {
      process.kill();
      throw error;
    }
  }

  get pid(): number {
    return this.#process.pid;
  }

  /** A thread of it is in a fault that nobody has answered. */
  get isBlocked(): boolean {
    return this.#process.end === null && this.#process.faults("total") > 0;
  }

  /** Connects and introduces itself; returns the connection. */
  async introduce(socketPath: string, options: HandshakeOptions = {}): Promise<number> {
    const dialect = options.dialect ?? "v1.12";
    const text = options.text ?? JSON.stringify(this.entries(dialect));
    const attachments = options.attachments ?? ["userfaultfd"];
    const connection = await this.connect(socketPath);
    const splitAt = options.splitAt ?? text.length;
    await this.#send(connection, text.slice(0, splitAt), attachments);
    if (splitAt < text.length) {
      await this.#ask({ what: "flush", connection, deadlineMs: this.#deadlineMs });
      await this.#send(connection, text.slice(splitAt), []);
    }
    if (options.isClosed ?? !dialects[dialect].keepsSocket) await this.disconnect(connection);
    return connection;
  }

  /** Connects without a word. */
  async connect(socketPath: string): Promise<number> {
    try {
      return (await this.#ask({ what: "connect", socketPath })) as number;
    } catch (error) {
      if (!(error instanceof VmError)) throw error;
      throw new VmError(`The handler takes no connection any more (${error.message}).`);
    }
  }

  async disconnect(connection: number): Promise<void> {
    await this.#ask({ what: "close", connection });
  }

  /** Its regions as its handshake names them. */
  entries(dialect: DialectName = "v1.12"): RegionEntry[] {
    return regionEntries(this.places, this.pageSizeBytes, dialect);
  }

  /** Touches pages, and compares all of their bytes. */
  async expect(
    pages: readonly number[],
    what: Expected,
    options: TouchOptions = {},
  ): Promise<void> {
    const reading = await this.read(pages, options.threads);
    this.assess(pages, reading, what, options.when);
  }

  /** The pages as they were found; `?` for those that did not come in time. */
  read(pages: readonly number[], threads = 1): Promise<Reading> {
    const order = { what: "read", pages, threads, deadlineMs: this.#deadlineMs } as const;
    return inBackground(this.#ask(order).then((reading) => this.#noteStall(reading)));
  }

  /** The same, but read by the kernel in one system call. */
  async expectWrittenOut(run: Run, what: Expected): Promise<void> {
    const order = { what: "writeOut", run, deadlineMs: this.#deadlineMs } as const;
    const reading = this.#noteStall(await this.#ask(order));
    const pages = Array.from({ length: run.count }, (_, index) => run.first + index);
    this.assess(pages, reading, what, "read by write(2)");
  }

  /** Has the kernel write into pages, as a disk does. */
  async readIn(pages: readonly number[]): Promise<void> {
    const order = { what: "readIn", pages, deadlineMs: this.#deadlineMs } as const;
    this.#assertAll(pages, (await this.#ask(order)) as number, "a read(2) into it");
  }

  async write(pages: readonly number[], over: "file" | "zero", threads = 1): Promise<void> {
    const deadlineMs = this.#deadlineMs;
    const done = await this.#ask({ what: "write", pages, over, threads, deadlineMs });
    this.#assertAll(pages, done as number, "a write to it");
  }

  /** Gives runs of pages back, one madvise(2) each. */
  remove(runs: readonly Run[], threads = 1): Promise<void> {
    return inBackground(this.#remove(runs, threads));
  }

  async protect(run: Run, isAccessible: boolean): Promise<void> {
    await this.#ask({ what: "protect", run, isAccessible });
  }

  /** Lets every blocked thread fault again. */
  async wake(): Promise<void> {
    await this.#ask({ what: "wake" });
  }

  /** Waits for anything in the userfaultfd, while the handler is stopped. */
  async untilUnread(): Promise<void> {
    const isUnread = await this.#ask({ what: "untilUnread", deadlineMs: GRACE_MS });
    if (isUnread !== true) throw new Error("Nothing came into the userfaultfd.");
  }

  /** Waits until so many faults are unanswered. `isUnread`: and not even read. */
  async untilBlocked(count: number, isUnread = false): Promise<void> {
    const word = isUnread ? "pending" : "total";
    const isReached = (): boolean =>
      this.#process.end !== null || this.#process.faults(word) >= count;
    await waitFor(`${count} faults were ${word}`, isReached, GRACE_MS);
    // If it has ended, this says so.
    await this.#ask({ what: "greet" });
  }

  /** Throws a `Finding` unless the pages hold what they should. */
  assess(pages: readonly number[], reading: Reading, what: Expected, when?: string): void {
    const suffix = when === undefined ? "" : ` ${when}`;
    const letters: readonly string[] = allowed[what];
    const wrong = pages.filter((_, index) => {
      const found = reading.found[index]!;
      return found !== "?" && !letters.includes(found);
    });
    if (wrong.length > 0) {
      const first = wrong[0]!;
      const found = reading.found[pages.indexOf(first)] as Found;
      const holds = describeFound(found, reading.oddities[first]);
      const where = wrong.length > 1 ? ` in page ${first}` : "";
      throw new WrongBytes(
        `${capitalised(namePages(wrong))}${suffix}: expected ${wanted[what]}, ` +
          `found ${holds}${where}.`,
      );
    }
    const missing = pages.filter((_, index) => reading.found[index] === "?");
    if (missing.length === 0) return;
    throw new Finding(
      `No answer for ${namePages(missing)}${suffix} within ${formatSeconds(this.#deadlineMs)}.`,
    );
  }

  async freeze(): Promise<void> {
    await this.#process.freeze();
  }

  thaw(): void {
    this.#process.thaw();
  }

  /** Kills it, and returns when it is dead. */
  async kill(): Promise<void> {
    await this.#process[Symbol.asyncDispose]();
  }

  /** Ends by itself; no thread of it may be blocked. */
  async exit(): Promise<void> {
    void this.#ask({ what: "exit" }).catch(() => undefined);
    await this.#process.ended();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    await this.#pool.giveBack(this.#process, this.#hasStalled);
  }

  async #send(connection: number, text: string, attachments: readonly Attachment[]): Promise<void> {
    try {
      await this.#ask({ what: "send", connection, text, attachments });
    } catch (error) {
      if (!(error instanceof VmError)) throw error;
      throw new VmError(`The handler hung up before it had the handshake (${error.message}).`);
    }
  }

  async #remove(runs: readonly Run[], threads: number): Promise<void> {
    const deadlineMs = this.#deadlineMs;
    const done = (await this.#ask({ what: "remove", runs, threads, deadlineMs })) as number;
    if (done === runs.length) return;
    this.#hasStalled = true;
    throw new Finding(
      `${runs.length - done} of ${runs.length} madvise calls did not return within ` +
        `${formatSeconds(deadlineMs)}: the handler has not read their REMOVE events.`,
    );
  }

  #noteStall(value: VmValue): Reading {
    const reading = value as Reading;
    if (reading.found.includes("?")) this.#hasStalled = true;
    return reading;
  }

  #assertAll(pages: readonly number[], done: number, what: string): void {
    if (done === pages.length) return;
    this.#hasStalled = true;
    throw new Finding(
      `No answer for ${what} within ${formatSeconds(this.#deadlineMs)}: ` +
        `${pages.length - done} of ${pages.length} pages are left.`,
    );
  }

  async #ask(order: VmOrder): Promise<VmValue> {
    if (this.#isOver) throw new VmDied("The VM is over, like its scenario.");
    // Work in bulk may take longer than one wait; the VM itself ends it when nothing moves.
    return await this.#process.ask(order, 10 * this.#deadlineMs + GRACE_MS);
  }
}

/** Scenarios begin one thing, do another, and may fail at that: the first has no witness then. */
function inBackground<T>(work: Promise<T>): Promise<T> {
  work.catch(() => undefined);
  return work;
}

function describeFound(found: Found, oddity: string | undefined): string {
  switch (found) {
    case "F":
    case "B":
      return wanted.file;
    case "Z":
      return "zeroes";
    case "W":
      return "what the VM had written before";
    default:
      return oddity ?? "other bytes";
  }
}

function capitalised(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
