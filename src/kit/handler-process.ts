/**
 * A running page-fault handler, known by nothing but its command line: ours, or anyone's. It is
 * ready when it listens, it is over when its process is, and what it holds stands in /proc.
 *
 * It gets a process group of its own, because a command line may start more than one process, and
 * the group is killed at the end, however we end.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { createInterface } from "node:readline";
import { FaultlineError } from "../base/errors.ts";
import type { HandlerCommand, HandlerTarget } from "./handler-command.ts";
import { waitFor, within } from "./wait.ts";

/** A handler that loads its whole memory file first may take a while; none takes longer. */
const READY_DEADLINE_MS = 20_000;
const STOP_DEADLINE_MS = 10_000;
/** Of its stderr, the last part; enough for a stack trace. */
const MESSAGES_LIMIT = 4096;

export interface HandlerExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** What still runs. It must not outlive us. */
const running = new Set<HandlerProcess>();
process.on("exit", () => {
  for (const handler of running) handler.kill();
});

export class HandlerProcess {
  readonly commandLine: string;
  readonly target: HandlerTarget;
  /** From just before the process was created until it listened. */
  readyMs = 0;
  /** How it ended, or null while it runs. */
  exit: HandlerExit | null = null;
  /** Called with each line of its stdout. */
  onPrinted: (line: string) => void = () => {};
  readonly #process: ChildProcess;
  readonly #exited: Promise<unknown>;
  #messages = "";

  private constructor(command: HandlerCommand, target: HandlerTarget, prefix: readonly string[]) {
    this.commandLine = command.shellLine(target);
    this.target = target;
    const [program, ...args] = [...prefix, "/bin/sh", "-c", directly(this.commandLine)];
    this.#process = spawn(program!, args, {
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
    running.add(this);
    const stdout = createInterface(this.#process.stdout!);
    stdout.on("line", (line) => this.onPrinted(line));
    for (const stream of [this.#process.stdout!, this.#process.stderr!]) {
      stream.setEncoding("utf8");
      stream.on("data", (text: string) => {
        this.#messages = (this.#messages + text).slice(-MESSAGES_LIMIT);
      });
    }
    this.#exited = once(this.#process, "exit").then(([code, signal]) => {
      this.exit = { code, signal };
      // What it left behind in its group must not outlive it, and the group's id may be reused.
      this.kill();
      running.delete(this);
    });
    this.#exited.catch(() => undefined);
  }

  /**
   * Returns when the handler listens. Throws `handler-failed` if it never does. `prefix`: words
   * that run the shell of the command line, such as `taskset -c 1`.
   */
  static async start(
    command: HandlerCommand,
    target: HandlerTarget,
    prefix: readonly string[] = [],
  ): Promise<HandlerProcess> {
    const startMs = performance.now();
    const handler = new HandlerProcess(command, target, prefix);
    // The file is looked for first: reading the table of all sockets again and again is not cheap.
    const isThere = (): boolean => existsSync(target.socketPath) && isListening(target.socketPath);
    const isDecided = (): boolean => handler.exit !== null || isThere();
    try {
      await waitFor("the handler listened", isDecided, READY_DEADLINE_MS).catch(() => undefined);
      if (isListening(target.socketPath)) {
        handler.readyMs = performance.now() - startMs;
        return handler;
      }
      throw handler.#neverReady();
    } catch (error) {
      await handler[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The process of the command line; of a compound one, its shell. */
  get pid(): number {
    return this.#process.pid!;
  }

  /** The last of what it wrote to stdout and stderr. */
  get messages(): string {
    return this.#messages.trim();
  }

  /** Waits for its end. Null if it still runs after `deadlineMs`. */
  async ended(deadlineMs: number): Promise<HandlerExit | null> {
    await within("the handler ended", this.#exited, deadlineMs).catch(() => undefined);
    return this.exit;
  }

  /** How many userfaultfds all processes of its group hold. */
  heldUserfaultfds(): number {
    return groupMembers(this.pid).reduce((sum, pid) => sum + countUserfaultfds(pid), 0);
  }

  /** How many threads of its group run, or would if there were a CPU for them. */
  runningThreads(): number {
    const states = groupMembers(this.pid).flatMap(threadStates);
    return states.filter((state) => state === "R").length;
  }

  /** SIGKILL to its whole group. */
  kill(): void {
    this.signal("SIGKILL");
  }

  /** Sends a signal to its whole group. */
  signal(name: NodeJS.Signals): void {
    try {
      process.kill(-this.pid, name);
    } catch {
      // Nobody is left.
    }
  }

  /** Stops the group, and returns when none of its threads runs any more. */
  async freeze(): Promise<void> {
    this.signal("SIGSTOP");
    const areStopped = (): boolean => groupMembers(this.pid).every(isStopped);
    await waitFor("the handler was stopped", areStopped, STOP_DEADLINE_MS);
  }

  thaw(): void {
    this.signal("SIGCONT");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill();
    await within("the handler was killed", this.#exited, STOP_DEADLINE_MS);
  }

  #neverReady(): FaultlineError {
    const { socketPath } = this.target;
    const end =
      this.exit === null
        ? `does not listen on ${socketPath} after ${READY_DEADLINE_MS / 1000} s`
        : `ended with ${this.exit.signal ?? `code ${this.exit.code}`} before it listened`;
    const said = this.messages === "" ? "It wrote nothing." : `It wrote:\n${this.messages}`;
    return new FaultlineError("handler-failed", `\`${this.commandLine}\` ${end}. ${said}`);
  }
}

/**
 * Without exec the shell would stay between us and the handler. A compound command cannot be exec'd
 * as a whole (its group is still ours), and one that begins with variables needs env for it.
 */
function directly(commandLine: string): string {
  if (/[;&|\n<>()]/.test(commandLine)) return commandLine;
  return /^\s*\w+=/.test(commandLine) ? `exec env ${commandLine}` : `exec ${commandLine}`;
}

/** The kernel's word for it, as a connection for a try would be the handler's first VM. */
const ACCEPTING = "00010000";

/** Whether a stream socket listens on this path, in this network namespace. See proc(5). */
export function isListening(socketPath: string): boolean {
  return readFileSync("/proc/net/unix", "utf8")
    .split("\n")
    .some((line) => {
      // Num RefCount Protocol Flags Type St Inode Path
      const [, , , flags, , , , ...path] = line.split(" ").filter((word) => word !== "");
      return flags === ACCEPTING && path.join(" ") === socketPath;
    });
}

function groupMembers(group: number): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => groupOf(pid) === group);
}

/** `pid (name) state parent group …`; the name may hold anything. */
function groupOf(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[2]);
  } catch {
    return -1; // It has ended.
  }
}

/** Whether no thread of a process runs: all are stopped by a signal, or it is over. */
export function isStopped(pid: number): boolean {
  return threadStates(pid).every((state) => "TtZX".includes(state));
}

/** One letter for each thread: `R` runs or is ready to, `T` is stopped. See proc(5). */
function threadStates(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`).map((thread) => threadState(pid, thread));
  } catch {
    return []; // It has ended.
  }
}

function threadState(pid: number, thread: string): string {
  try {
    const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2)[0]!;
  } catch {
    return "X"; // It has ended, as that letter says.
  }
}

function countUserfaultfds(pid: number): number {
  const folder = `/proc/${pid}/fd`;
  try {
    return readdirSync(folder).filter((fd) => {
      try {
        return readlinkSync(`${folder}/${fd}`) === "anon_inode:[userfaultfd]";
      } catch {
        return false; // Closed in between.
      }
    }).length;
  } catch {
    return 0; // It has ended.
  }
}
