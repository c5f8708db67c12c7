/**
 * Restores of guests whose pages are known beforehand (bench/reference/restorer.c): with `serve`
 * installing them ahead, with any handler on demand, or with the bare kernel call.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import type { Workspace } from "../../src/bench/workspace.ts";
import { Child } from "../../src/kit/child.ts";
import { HandlerCommand } from "../../src/kit/handler-command.ts";
import { HandlerProcess } from "../../src/kit/handler-process.ts";

const ANSWER_DEADLINE_MS = 120_000;

/** See bench/reference/restorer.c. */
export interface KnownTimes {
  readonly pages: number;
  readonly installed_ms: number;
  readonly total_ms: number;
  readonly counted: number;
  readonly p50_us: number;
  readonly p99_us: number;
  readonly mismatches: number;
}

export interface KnownPlan {
  readonly memoryPath: string;
  /** See known-pages.ts. */
  readonly runsPath: string;
  /** What it, or the copying, runs on. */
  readonly cpu: number;
  readonly seed?: number;
  readonly isHuge?: boolean;
}

/** What tells a guest that all is there: the line on stdout, or the one in the log. */
const signs = { stdout: "prefaulted:", log: "Prefaulted a VM" } as const;
type Sign = keyof typeof signs;

/** A `serve` that prefaults, and says so where its guest can hear it. */
export class PrefaultingServe {
  readonly handler: HandlerProcess;
  readonly #sign: Sign;
  readonly #fifoPath: string;
  readonly #logPath: string;
  readonly #fifo: number;

  private constructor(handler: HandlerProcess, sign: Sign, paths: Paths, fifo: number) {
    this.handler = handler;
    this.#sign = sign;
    this.#fifoPath = paths.fifo;
    this.#logPath = paths.log;
    this.#fifo = fifo;
  }

  static async start(run: Workspace, start: ServeStart): Promise<PrefaultingServe> {
    const { memoryPath, setPath, mode, sign, cpu, flags = [] } = start;
    const paths: Paths = { fifo: run.newPath("fifo"), log: run.newPath("log") };
    execFileSync("mkfifo", [paths.fifo]);
    // To read and to write: so nobody who opens it waits for the other end, and what is said stays.
    const fifo = openSync(paths.fifo, "r+");
    try {
      const restore = ["--working-set", setPath, "--prefault", mode];
      const log = ["--log", "info", "--log-format", "json"];
      const { template } = HandlerCommand.ofServe([...restore, ...flags, ...log]);
      const output =
        sign === "stdout" ? `>${paths.fifo} 2>${paths.log}` : `>${paths.log} 2>${paths.fifo}`;
      const handler = await HandlerProcess.start(
        new HandlerCommand(`exec ${template} ${output}`),
        { socketPath: run.newPath("sock"), memoryPath },
        ["taskset", "-c", String(cpu)],
      );
      return new PrefaultingServe(handler, sign, paths, fifo);
    } catch (error) {
      closeSync(fifo);
      throw error;
    }
  }

  /** The guest touches when all is there; or at once, and what it touches later does not count. */
  async restore(run: Workspace, plan: KnownPlan, beside = false): Promise<AheadTimes> {
    const until = ["--until", this.#fifoPath, signs[this.#sign], ...(beside ? ["--beside"] : [])];
    const { socketPath } = this.handler.target;
    const { pid, times } = await runRestorer(run, socketPath, plan, until);
    return { ...times, ...(this.#sign === "stdout" ? this.#ownWord(pid) : UNSAID) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.handler[Symbol.asyncDispose]();
    closeSync(this.#fifo);
  }

  /** The log has been written when the guest heard the line. */
  #ownWord(pid: number): OwnWord {
    const lines = readFileSync(this.#logPath, "utf8").split("\n");
    const line = lines.find((each) => each.includes(signs.log) && each.includes(`"pid":${pid},`));
    assert.ok(line !== undefined, "serve told what it had installed");
    const { pages, after } = JSON.parse(line) as { pages: number; after: string };
    const [number, unit] = after.split(" ");
    return { prefaultedPages: pages, ownMs: Number(number) * MS_PER[unit as keyof typeof MS_PER] };
  }
}

interface Paths {
  readonly fifo: string;
  readonly log: string;
}

export interface ServeStart {
  readonly memoryPath: string;
  readonly setPath: string;
  readonly mode: "off" | "before-resume" | "concurrent";
  readonly sign: Sign;
  readonly cpu: number;
  readonly flags?: readonly string[];
}

/** What serve itself says of one restore. */
interface OwnWord {
  readonly prefaultedPages: number;
  /** From attaching the VM in its fault worker until the last page. */
  readonly ownMs: number;
}

export type AheadTimes = KnownTimes & OwnWord;

const UNSAID: OwnWord = { prefaultedPages: 0, ownMs: 0 };
const MS_PER = { s: 1000, ms: 1, µs: 0.001 } as const;

/** Every page on demand, by a handler that knows nothing of them. */
export async function restoreOnDemand(
  run: Workspace,
  { target }: HandlerProcess,
  plan: KnownPlan,
): Promise<KnownTimes> {
  return (await runRestorer(run, target.socketPath, plan)).times;
}

/** Without a handler: one UFFDIO_COPY per run. */
export async function copyRuns(run: Workspace, plan: KnownPlan): Promise<KnownTimes> {
  return (await runRestorer(run, "--copy", plan)).times;
}

export function restorerCommand(run: Workspace, where: string, plan: KnownPlan): string[] {
  const { memoryPath, runsPath, cpu, seed = 1, isHuge = false } = plan;
  return [
    ...["taskset", "-c", String(cpu), run.program("restorer"), where, memoryPath, runsPath],
    ...["--seed", String(seed), ...(isHuge ? ["--huge"] : [])],
  ];
}

async function runRestorer(
  run: Workspace,
  where: string,
  plan: KnownPlan,
  options: readonly string[] = [],
): Promise<{ readonly pid: number; readonly times: KnownTimes }> {
  await using guest = new Child([...restorerCommand(run, where, plan), ...options]);
  const { pid } = guest;
  const times = await guest.answer<KnownTimes>(ANSWER_DEADLINE_MS);
  assert.equal(times.mismatches, 0, "pages were wrong");
  await guest.finish();
  return { pid, times };
}
