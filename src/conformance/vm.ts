/**
 * A VM under the handler, seen from the test: its process is vm-program.ts. Every call has a
 * deadline, and says in its `Finding` which page was not answered, or held what.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import { isStopped } from "../kit/handler-process.ts";
import { waitFor, within } from "../kit/wait.ts";
import {
  type DialectName,
  dialects,
  type RegionEntry,
  type RegionPlace,
  regionEntries,
} from "./dialects.ts";
import { Finding, formatSeconds, namePages, WrongBytes } from "./finding.ts";
import type { MemoryImage } from "./image.ts";
import type {
  Attachment,
  Found,
  Reading,
  Run,
  VmAnswer,
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
  /** Ends a VM that is still starting. */
  readonly signal: AbortSignal;
}

export interface VmOptions {
  /** The image's pages, split over regions; default: one region. */
  readonly regionPages?: readonly number[];
  readonly pageSizeBytes?: number;
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

/** At most so many threads of a VM can be blocked at once. */
export const MAX_THREADS = 64;
const START_DEADLINE_MS = 20_000;
const STOP_DEADLINE_MS = 10_000;
/** The VM keeps the deadlines itself; this much later it is the VM that does not answer. */
const GRACE_MS = 10_000;

/** What still runs. It must not outlive us. */
const running = new Set<Vm>();
process.on("exit", () => {
  for (const vm of running) vm.kill();
});

export class Vm {
  readonly places: readonly RegionPlace[];
  readonly pageSizeBytes: number;
  /** How it ended, or null while it lives. */
  end: string | null = null;
  readonly #child: ChildProcess;
  readonly #deadlineMs: number;
  readonly #exited: Promise<unknown>;
  readonly #waiting = new Map<number, (answer: VmAnswer | null) => void>();
  #lastId = 0;

  private constructor(child: ChildProcess, hello: VmHello, setup: VmSetup, deadlineMs: number) {
    this.#child = child;
    this.#deadlineMs = deadlineMs;
    this.pageSizeBytes = setup.pageSizeBytes;
    this.places = setup.regionPages.map((pageCount, index) => ({
      address: hello.addresses[index]!,
      pageCount,
    }));
    this.#exited = once(child, "exit");
    child.on("message", (answer: VmAnswer) => this.#settle(answer.id, answer));
    child.on("exit", (code, signal) => {
      this.end = signal ?? `code ${code}`;
      running.delete(this);
      for (const id of [...this.#waiting.keys()]) this.#settle(id, null);
    });
    running.add(this);
  }

  /** A VM with its memory mapped and registered, which no handler knows of yet. */
  static async start({ image, deadlineMs, signal }: VmStart, options: VmOptions): Promise<Vm> {
    const setup: VmSetup = {
      expectedPath: image.path,
      regionPages: options.regionPages ?? [image.pageCount],
      pageSizeBytes: options.pageSizeBytes ?? SMALL_PAGE_BYTES,
    };
    const program = new URL("./vm-program.js", import.meta.url);
    const child = fork(program, [JSON.stringify(setup)], {
      env: { ...process.env, UV_THREADPOOL_SIZE: String(MAX_THREADS + 16) },
      execArgv: [],
    });
    const onAbort = (): void => void child.kill("SIGKILL");
    signal.addEventListener("abort", onAbort, { once: true });
    const ended = once(child, "exit").then(() => null);
    const first = once(child, "message").then(([answer]) => answer as VmAnswer);
    try {
      const hello = await within("a VM started", Promise.race([first, ended]), START_DEADLINE_MS);
      if (hello === null || !("value" in hello)) throw new Error("A VM of the kit did not start.");
      return new Vm(child, hello.value as VmHello, setup, deadlineMs);
    } catch (error) {
      child.kill("SIGKILL");
      throw error;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Connects and introduces itself; returns the connection. */
  async introduce(socketPath: string, options: HandshakeOptions = {}): Promise<number> {
    const dialect = options.dialect ?? "v1.12";
    const text = options.text ?? JSON.stringify(this.entries(dialect));
    const attachments = options.attachments ?? ["userfaultfd"];
    const connection = (await this.#ask({ what: "connect", socketPath })) as number;
    const splitAt = options.splitAt ?? text.length;
    await this.#ask({ what: "send", connection, text: text.slice(0, splitAt), attachments });
    if (splitAt < text.length) {
      await this.#ask({ what: "flush", connection, deadlineMs: this.#deadlineMs });
      await this.#ask({ what: "send", connection, text: text.slice(splitAt), attachments: [] });
    }
    if (options.isClosed ?? !dialects[dialect].keepsSocket) await this.disconnect(connection);
    return connection;
  }

  /** Connects without a word. */
  async connect(socketPath: string): Promise<number> {
    return (await this.#ask({ what: "connect", socketPath })) as number;
  }

  async disconnect(connection: number): Promise<void> {
    await this.#ask({ what: "close", connection });
  }

  /** Its regions as its handshake names them. */
  entries(dialect: DialectName = "v1.12"): RegionEntry[] {
    return regionEntries(this.places, this.pageSizeBytes, dialect);
  }

  /** Touches pages, and compares all of their bytes. */
  async expect(pages: readonly number[], what: Expected, options: TouchOptions = {}) {
    const reading = await this.read(pages, options.threads);
    this.assess(pages, reading, what, options.when);
  }

  /** The pages as they were found; `?` for those that did not come in time. */
  async read(pages: readonly number[], threads = 1): Promise<Reading> {
    const deadlineMs = this.#deadlineMs;
    return (await this.#ask({ what: "read", pages, threads, deadlineMs })) as Reading;
  }

  /** The same, but read by the kernel in one system call. */
  async expectWrittenOut(run: Run, what: Expected): Promise<void> {
    const order = { what: "writeOut", run, deadlineMs: this.#deadlineMs } as const;
    const reading = (await this.#ask(order)) as Reading;
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
  async remove(runs: readonly Run[], threads = 1): Promise<void> {
    const deadlineMs = this.#deadlineMs;
    const done = (await this.#ask({ what: "remove", runs, threads, deadlineMs })) as number;
    if (done === runs.length) return;
    throw new Finding(
      `${runs.length - done} of ${runs.length} madvise calls did not return within ` +
        `${formatSeconds(deadlineMs)}: the handler has not read their REMOVE events.`,
    );
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
    const isReached = (): boolean => this.end !== null || this.#faults(word) >= count;
    await waitFor(`${count} faults were ${word}`, isReached, GRACE_MS);
    if (this.end !== null) throw new Finding(`The VM ended with ${this.end} while it was blocked.`);
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
      throw new WrongBytes(
        `${capitalised(namePages(wrong))}${suffix}: expected ${wanted[what]}, found ` +
          `${describeFound(found, reading.oddities[first])}${wrong.length > 1 ? ` in page ${first}` : ""}.`,
      );
    }
    const missing = pages.filter((_, index) => reading.found[index] === "?");
    if (missing.length === 0) return;
    throw new Finding(
      `No answer for ${namePages(missing)}${suffix} within ${formatSeconds(this.#deadlineMs)}.`,
    );
  }

  /** Stops the process, and returns when none of its threads runs any more. */
  async freeze(): Promise<void> {
    this.#child.kill("SIGSTOP");
    await waitFor("the VM was stopped", () => isStopped(this.pid), STOP_DEADLINE_MS);
  }

  thaw(): void {
    this.#child.kill("SIGCONT");
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }

  /** Ends by itself; no thread of it may be blocked. */
  async exit(): Promise<void> {
    void this.#ask({ what: "exit" }).catch(() => undefined);
    await within("the VM ended", this.#exited, STOP_DEADLINE_MS);
  }

  async ended(): Promise<void> {
    await within("the VM ended", this.#exited, STOP_DEADLINE_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.end !== null) return;
    this.kill();
    await this.ended();
  }

  /** `total`: threads in a fault. `pending`: those whose message nobody has read. See proc(5). */
  #faults(word: "total" | "pending"): number {
    const folder = `/proc/${this.pid}/fdinfo`;
    try {
      for (const fd of readdirSync(folder)) {
        const match = new RegExp(`^${word}:\\t(\\d+)`, "m").exec(
          readFileSync(`${folder}/${fd}`, "utf8"),
        );
        if (match !== null) return Number(match[1]);
      }
    } catch {
      // It has ended, or closed one of them in between.
    }
    return 0;
  }

  #assertAll(pages: readonly number[], done: number, what: string): void {
    if (done === pages.length) return;
    throw new Finding(
      `No answer for ${what} within ${formatSeconds(this.#deadlineMs)}: ` +
        `${pages.length - done} of ${pages.length} pages are left.`,
    );
  }

  async #ask(order: VmOrder): Promise<VmValue> {
    if (this.end !== null) throw this.#died();
    this.#lastId += 1;
    const id = this.#lastId;
    const answered = new Promise<VmAnswer | null>((resolve) => this.#waiting.set(id, resolve));
    this.#child.send({ id, order }, () => undefined);
    // Work in bulk may take longer than one wait; the VM itself ends it when nothing moves.
    const budgetMs = 10 * this.#deadlineMs + GRACE_MS;
    const answer = await within(`the VM did ${order.what}`, answered, budgetMs);
    if (answer === null) throw this.#died();
    if ("error" in answer) throw new VmError(answer.error);
    return answer.value;
  }

  #settle(id: number, answer: VmAnswer | null): void {
    this.#waiting.get(id)?.(answer);
    this.#waiting.delete(id);
  }

  #died(): Finding {
    return new VmDied(`The VM ended with ${this.end}.`);
  }
}

/** The VM is dead. Where the handler was entitled to kill it, that is no fault. */
export class VmDied extends Finding {}

/** A system call of the VM failed: connect(2) to a handler that is gone, for instance. */
export class VmError extends Finding {}

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
