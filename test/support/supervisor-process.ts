/** A supervisor as a child process, with scripted pagers, read through its log and theirs. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { builtRoot } from "../../src/kit/paths.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import { atExit } from "./end-cleanly.ts";
import type { PagerOrder, SeenEntry, StartScript } from "./scripted-pager.ts";

const PROGRAM = join(builtRoot, "test/support/supervisor-program.js");
const PAGER = join(builtRoot, "test/support/scripted-pager.js");
/** Several starts of Node on a busy machine. */
const BUDGET_MS = 30_000;

export interface SupervisorLine {
  readonly level: string;
  readonly msg: string;
  readonly pid?: number;
  readonly [field: string]: unknown;
}

export interface SupervisorStart {
  readonly watchdogMs?: number;
  readonly startTimeoutMs?: number;
  readonly stopTimeoutMs?: number;
  readonly hasStandby?: boolean;
  readonly environment?: NodeJS.ProcessEnv;
  /** Inherited from 3 on, as by sd_listen_fds(3), with their names. */
  readonly stored?: readonly { readonly name: string; readonly fd: number }[];
  /** RLIMIT_NOFILE. */
  readonly maxFds?: number;
}

/** Where a daemon and its successors live. */
export class RunFolder {
  readonly path = mkdtempSync(join(tmpdir(), "faultline-supervisor-"));
  readonly #forget = atExit(() => rmSync(this.path, { recursive: true, force: true }));

  constructor() {
    this.script({});
  }

  /** How pagers that start from now on go wrong. */
  script(script: StartScript): void {
    writeFileSync(join(this.path, "start.json"), JSON.stringify(script));
  }

  file(name: string): string {
    return join(this.path, name);
  }

  [Symbol.dispose](): void {
    this.#forget();
    rmSync(this.path, { recursive: true, force: true });
  }
}

export class SupervisorProcess {
  readonly log: SupervisorLine[] = [];
  errors = "";
  exit: { readonly code: number | null; readonly signal: NodeJS.Signals | null } | null = null;
  readonly exited: Promise<unknown>;
  readonly #child: ChildProcess;
  readonly #folder: RunFolder;

  constructor(folder: RunFolder, start: SupervisorStart = {}) {
    const { environment, stored = [], maxFds, ...options } = start;
    this.#folder = folder;
    const pager = { command: process.execPath, args: [PAGER, folder.path] };
    const json = JSON.stringify({ ...options, pager, runFolder: folder.path });
    const limit = maxFds === undefined ? "" : `ulimit -n ${maxFds}; `;
    // The shell becomes the supervisor: LISTEN_PID is its number.
    const shell = `${limit}${stored.length > 0 ? "export LISTEN_PID=$$; " : ""}exec "$@"`;
    const names = stored.map(({ name }) => name).join(":");
    this.#child = spawn("sh", ["-c", shell, "sh", process.execPath, PROGRAM, json], {
      stdio: ["ignore", "ignore", "pipe", ...stored.map(({ fd }) => fd)],
      env: {
        ...process.env,
        ...(stored.length > 0 && { LISTEN_FDS: String(stored.length), LISTEN_FDNAMES: names }),
        ...environment,
      },
    });
    const forget = atExit(() => this.kill("SIGKILL"));
    createInterface(this.#child.stderr!).on("line", (line) => this.#take(line));
    this.exited = once(this.#child, "close").then(([code, signal]) => {
      forget();
      this.exit = { code, signal } as typeof this.exit;
    });
  }

  get pid(): number {
    return this.#child.pid!;
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async ended(): Promise<number | null> {
    await within("the supervisor ended", this.exited, BUDGET_MS);
    return this.exit!.code;
  }

  lines(msg: string): SupervisorLine[] {
    return this.log.filter((line) => line.msg.startsWith(msg));
  }

  async logged(msg: string, count = 1): Promise<SupervisorLine> {
    try {
      const isOver = (): boolean => this.lines(msg).length >= count || this.exit !== null;
      await waitFor(`“${msg}” (${count})`, isOver, BUDGET_MS);
      return this.lines(msg)[count - 1] ?? Promise.reject(new Error("The supervisor has ended."));
    } catch (cause) {
      throw new Error(`Not in the log:\n${this.describeLog()}`, { cause });
    }
  }

  describeLog(): string {
    return [...this.log.map((line) => JSON.stringify(line)), this.errors].join("\n");
  }

  /** Pids of the pagers that have served, in order. */
  get served(): number[] {
    return this.log
      .filter(({ msg }) => msg === "The pager serves" || msg === "Another pager serves")
      .map(({ pid }) => pid!);
  }

  /** The pid of the pager that serves as the `count`th. */
  async serving(count: number): Promise<number> {
    try {
      await waitFor("a pager served", () => this.served.length >= count, BUDGET_MS);
    } catch (cause) {
      throw new Error(`Not in the log:\n${this.describeLog()}`, { cause });
    }
    return this.served[count - 1]!;
  }

  /** The children that it has now. */
  get pagers(): number[] {
    const children = readFileSync(`/proc/${this.pid}/task/${this.pid}/children`, "utf8");
    return children.split(" ").filter(Boolean).map(Number);
  }

  get fdCount(): number {
    return readdirSync(`/proc/${this.pid}/fd`).length;
  }

  /** Tells a pager to do something, and returns its answer; null also if it dies of it. */
  async tell<Answer = null>(pid: number, order: PagerOrder): Promise<Answer> {
    const socket = createConnection(this.#folder.file(`pager-${pid}.sock`));
    socket.on("error", () => undefined);
    const answer = (async (): Promise<Answer> => {
      socket.write(`${JSON.stringify(order)}\n`);
      for await (const line of createInterface(socket)) return JSON.parse(line) as Answer;
      return null as Answer;
    })();
    try {
      return await within(`a pager did ${order.do}`, answer, BUDGET_MS);
    } finally {
      socket.destroy();
    }
  }

  async inherited(pid: number): Promise<Map<string, readonly string[]>> {
    const entries = await this.tell<SeenEntry[]>(pid, { do: "inherited" });
    return new Map(entries.map(({ name, contents }) => [name, contents]));
  }

  #take(line: string): void {
    try {
      this.log.push(JSON.parse(line) as SupervisorLine);
    } catch {
      this.errors += `${line}\n`;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill("SIGKILL");
    await this.exited;
  }
}
