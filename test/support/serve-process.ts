/** `faultline serve` as a child process, read through its ready line, its log and /proc. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { builtRoot } from "../../src/kit/paths.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import { atExit } from "./end-cleanly.ts";

const MAIN = join(builtRoot, "src/cli/main.js");
/** Starting Node on a busy machine of two CPUs; what is measured in earnest has its own budget. */
const START_BUDGET_MS = 20_000;
export const LOG_BUDGET_MS = 5000;

/** One line of the log. */
export interface LogLine {
  readonly level: string;
  readonly msg: string;
  readonly pid?: number;
  readonly reason?: string;
  readonly [field: string]: unknown;
}

export interface ServeExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface ServeStart {
  /** Another command that serves: `rescue`. */
  readonly command?: "rescue";
  readonly environment?: NodeJS.ProcessEnv;
  /** User and group of the process. */
  readonly uid?: number;
  /** Where its log goes instead of to us: a descriptor. */
  readonly stderr?: number;
}

export class ServeProcess {
  readonly log: LogLine[] = [];
  /** Lines of its standard output. */
  readonly printed: string[] = [];
  /** What it printed besides the log: the error that ended it. */
  errors = "";
  readonly exited: Promise<ServeExit>;
  exit: ServeExit | null = null;
  readonly #child: ChildProcess;
  readonly #firstLine: Promise<string>;

  private constructor(args: readonly string[], start: ServeStart) {
    const identity = start.uid === undefined ? {} : { uid: start.uid, gid: start.uid };
    this.#child = spawn(process.execPath, [MAIN, start.command ?? "serve", ...args], {
      stdio: ["ignore", "pipe", start.stderr ?? "pipe"],
      cwd: "/",
      env: { ...process.env, ...start.environment },
      ...identity,
    });
    const forget = atExit(() => this.kill("SIGKILL"));
    this.exited = once(this.#child, "close").then(([code, signal]) => {
      forget();
      this.exit = { code, signal };
      return this.exit;
    });
    const log = this.#child.stderr;
    if (log !== null) createInterface(log).on("line", (line) => this.#take(line));
    const lines = createInterface(this.#child.stdout!);
    lines.on("line", (line) => this.printed.push(line));
    this.#firstLine = once(lines, "line").then(([line]) => String(line));
    this.#firstLine.catch(() => undefined);
  }

  /** Returns when it is ready to serve. */
  static async start(args: readonly string[], start: ServeStart = {}): Promise<ServeProcess> {
    const serve = new ServeProcess(args, start);
    try {
      await serve.ready();
      return serve;
    } catch (error) {
      await serve[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Runs it to an end that must come by itself; for command lines that cannot work. */
  static async run(args: readonly string[], start: ServeStart = {}): Promise<ServeProcess> {
    const serve = new ServeProcess(args, start);
    try {
      await within("serve ended", serve.exited, START_BUDGET_MS);
    } finally {
      await serve[Symbol.asyncDispose]();
    }
    return serve;
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** A file of the kernel about it. See proc(5). */
  proc(name: string): string {
    return `/proc/${this.pid}/${name}`;
  }

  /** The ready line. */
  async ready(): Promise<string> {
    const ended = this.exited.then(() => null);
    const first = await within(
      "serve was ready",
      Promise.race([this.#firstLine, ended]),
      START_BUDGET_MS,
    );
    if (first === null) throw new Error(`serve ended before it was ready: ${this.errors}`);
    return first;
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Stops all of its threads, as a debugger would. */
  async pause(): Promise<void> {
    this.kill("SIGSTOP");
    const tasks = this.proc("task");
    const isStopped = (thread: string) =>
      /^State:\tT/m.test(readFileSync(join(tasks, thread, "status"), "utf8"));
    await waitFor("serve had stopped", () => readdirSync(tasks).every(isStopped));
  }

  resume(): void {
    this.kill("SIGCONT");
  }

  /** Log lines with this message, so far; about one VM if `pid` is given. */
  lines(msg: string, pid?: number): LogLine[] {
    return this.log.filter((line) => line.msg === msg && (pid === undefined || line.pid === pid));
  }

  /** Waits until `count` lines with this message have come, and returns the last of them. */
  async logged(msg: string, count = 1): Promise<LogLine> {
    return await this.#waitForLine(msg, count);
  }

  /** Waits for the first line with this message about a VM. */
  async loggedFor(pid: number, msg: string): Promise<LogLine> {
    return await this.#waitForLine(msg, 1, pid);
  }

  /** Waits until the log fulfils `condition`. */
  async until(what: string, condition: () => boolean): Promise<void> {
    try {
      await waitFor(what, () => condition() || this.exit !== null, LOG_BUDGET_MS);
    } catch (cause) {
      throw new Error(`Not in the log:\n${this.describeLog()}`, { cause });
    }
    if (!condition()) throw new Error(`Serve ended without ${what}:\n${this.describeLog()}`);
  }

  /** VMs that were refused according to the log: by a line of their own, or counted in another. */
  get refusals(): number {
    const counted = this.log.filter(({ msg }) => msg.startsWith("Refused more VMs"));
    const rest = counted.reduce((sum, { count }) => sum + Number(count), 0);
    return this.lines("Refused a VM").filter(({ level }) => level === "warn").length + rest;
  }

  /** Kilobytes of private memory. See proc(5), status. */
  get privateKib(): number {
    return Number(/^RssAnon:\s*(\d+)/m.exec(readFileSync(this.proc("status"), "utf8"))?.[1]);
  }

  /** The log as text, for messages of tests. */
  describeLog(): string {
    return [...this.log.map((line) => JSON.stringify(line)), this.errors].join("\n");
  }

  /** Waits for the end by itself. */
  async ended(budgetMs: number): Promise<ServeExit> {
    return await within("serve ended", this.exited, budgetMs);
  }

  get fdCount(): number {
    return readdirSync(this.proc("fd")).length;
  }

  /** CPU time that it used so far, in clock ticks of 10 ms. See proc(5), stat. */
  get cpuTicks(): number {
    const stat = readFileSync(this.proc("stat"), "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return Number(fields[11]) + Number(fields[12]);
  }

  /** Waits until it holds more descriptors than `count`: something has arrived. */
  async fdsAbove(count: number): Promise<void> {
    await waitFor(`serve held more than ${count} descriptors`, () => this.fdCount > count);
  }

  /** Waits until it holds no more descriptors than `count`: whatever came is closed again. */
  async fdsBackTo(count: number): Promise<void> {
    const isBack = () => this.fdCount <= count;
    try {
      await waitFor(`serve held only ${count} descriptors`, isBack, LOG_BUDGET_MS);
    } catch (cause) {
      throw new Error(`serve leaks: ${this.fdCount} descriptors instead of ${count}`, { cause });
    }
  }

  #take(line: string): void {
    try {
      this.log.push(JSON.parse(line) as LogLine);
    } catch {
      this.errors += `${line}\n`;
    }
  }

  async #waitForLine(msg: string, count: number, pid?: number): Promise<LogLine> {
    await this.until(`“${msg}” (${count})`, () => this.lines(msg, pid).length >= count);
    return this.lines(msg, pid)[count - 1]!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.exited;
  }
}
