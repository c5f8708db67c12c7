/** `faultline daemon` as benchmarks start it: in a folder of the run, with its log in a file. */
import { closeSync, openSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import {
  answerOf,
  assertRight,
  type FaultTimes,
  faulterCommand,
  type GuestPlan,
} from "../../src/bench/guests.ts";
import { ControlClient, type CreatedSession } from "../../src/daemon/control/client.ts";
import type { SessionSpec } from "../../src/daemon/host-service.ts";
import { Child } from "../../src/kit/child.ts";
import { shellWord } from "../../src/kit/handler-command.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { cpuUse } from "./proc.ts";
import type { PromiseRun } from "./promise-run.ts";

/** Several starts of Node. */
const START_BUDGET_MS = 30_000;
/** Whose processes take no CPU for so long has started. */
const REST_MS = 300;
const END_BUDGET_MS = 10_000;

export interface DaemonStart {
  /** What sessions are made of lies there; its folder is allowed. */
  readonly memoryPath: string;
  readonly flags?: readonly string[];
  /** Words before the command line, such as `taskset -c 1`. */
  readonly prefix?: readonly string[];
  /** `dist` of another checkout; default: this one's. */
  readonly builtAt?: string;
}

/** The processes of a daemon. */
export interface DaemonPids {
  readonly supervisor: number;
  readonly pager: number;
  readonly standby: number;
}

export class BenchDaemon {
  readonly client: ControlClient;
  readonly controlPath: string;
  readonly #child: Child;
  readonly #logPath: string;

  private constructor(run: PromiseRun, start: DaemonStart) {
    const { memoryPath, flags = [], prefix = [], builtAt = builtRoot } = start;
    const runFolder = run.newPath("run");
    this.controlPath = join(runFolder, "control.sock");
    this.client = new ControlClient({ socketPath: this.controlPath });
    this.#logPath = run.newPath("log");
    const main = join(builtAt, "src", "cli", "main.js");
    const places = ["--run-folder", runFolder, "--memory-folder", dirname(memoryPath)];
    const log = openSync(this.#logPath, "wx");
    this.#child = new Child(
      [...prefix, process.execPath, main, "daemon", ...places, "--log-format", "json", ...flags],
      log,
    );
    closeSync(log);
  }

  /** Returns when it serves, and the next pager stands by: nothing is about to happen then. */
  static async start(run: PromiseRun, start: DaemonStart): Promise<BenchDaemon> {
    const daemon = new BenchDaemon(run, start);
    try {
      await waitFor("the daemon served", () => daemon.#servesOrEnded(), START_BUDGET_MS);
      await waitFor("the next pager stood by", () => daemon.#isAtRest(), START_BUDGET_MS);
      return daemon;
    } catch (error) {
      await daemon[Symbol.asyncDispose]();
      throw error;
    }
  }

  get commandLine(): string {
    return this.#child.argv.map(shellWord).join(" ");
  }

  async pids(): Promise<DaemonPids> {
    const { pid: pager } = await this.client.host();
    const supervisor = this.#child.pid;
    const standby = childrenOf(supervisor).find((pid) => pid !== pager);
    if (standby === undefined) throw new Error("The daemon has no pager that stands by.");
    return { supervisor, pager, standby };
  }

  /**
   * Runs one guest to its end in a session of its own. Throws if a single word was wrong.
   * `onCreated` is called when there is a session, and no guest yet.
   */
  async timeFaults(
    run: PromiseRun,
    plan: GuestPlan,
    spec: Partial<SessionSpec> = {},
    onCreated: () => void = () => {},
  ): Promise<FaultTimes> {
    const { memoryPath } = plan;
    const { id, socketPath } = await this.client.createSession({ memory: memoryPath, ...spec });
    onCreated();
    await using guest = new Child(faulterCommand(run, socketPath, plan));
    const times = await answerOf<FaultTimes>(guest, null);
    assertRight(times, null);
    await guest.finish();
    await this.hasEnded(id);
    return times;
  }

  async create(spec: SessionSpec): Promise<CreatedSession> {
    return await this.client.createSession(spec);
  }

  async hasEnded(id: string): Promise<void> {
    const isOver = async (): Promise<boolean> => (await this.client.session(id)).state === "ended";
    await waitFor(`session ${id} ended`, isOver, END_BUDGET_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Its pagers end with it.
    await this.#child[Symbol.asyncDispose]();
  }

  async #servesOrEnded(): Promise<boolean> {
    if (this.#child.isOver) {
      throw new Error(`The daemon has ended: ${readFileSync(this.#logPath, "utf8")}`);
    }
    return await this.client.ready().then(
      () => true,
      () => false,
    );
  }

  /** The next pager was started when the first one served, and has done all that it does. */
  async #isAtRest(): Promise<boolean> {
    const children = childrenOf(this.#child.pid);
    if (children.length < 2) return false;
    const ticks = (): number => children.reduce((sum, pid) => sum + cpuUse(pid).ticks, 0);
    const before = ticks();
    await delay(REST_MS);
    return ticks() === before;
  }
}

/** Node starts children from its main thread. */
function childrenOf(pid: number): number[] {
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8");
  return text.trim().split(" ").filter(Boolean).map(Number);
}
