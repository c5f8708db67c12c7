/** test/peer/vmm.c as a child process: a foreign VMM that checks every byte it is served. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { compile } from "../../src/kit/compile.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";
import { within } from "../../src/kit/wait.ts";

/** Some 10 µs a page on an idle machine; a hundred times that must do anywhere. */
const RUN_BUDGET_MS = 30_000;

/** What vmm.c prints; see there. */
export interface VmmResult {
  readonly touched: number;
  readonly mismatches: number;
  readonly removed: number;
  readonly nonzero_after_remove: number;
  readonly first_us: number;
  readonly total_ms: number;
}

export interface VmmExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** Builds it, or finds it built. */
export function compileVmm(): string {
  return compile(join(repositoryRoot, "test/peer/vmm.c"), ["-pthread"]);
}

export class Vmm {
  readonly exited: Promise<VmmExit>;
  errors = "";
  readonly #child: ChildProcess;
  readonly #line: Promise<string>;

  constructor(socket: string, expectedFile: string, options: readonly (string | number)[] = []) {
    const args = [socket, expectedFile, ...options.map(String)];
    this.#child = spawn(compileVmm(), args, { stdio: ["ignore", "pipe", "pipe"] });
    this.exited = once(this.#child, "close").then(([code, signal]) => ({ code, signal }));
    this.#line = once(createInterface(this.#child.stdout!), "line").then(([line]) => String(line));
    this.#line.catch(() => undefined);
    this.#child.stderr!.setEncoding("utf8").on("data", (text: string) => {
      this.errors += text;
    });
  }

  get pid(): number {
    return this.#child.pid!;
  }

  kill(signal: NodeJS.Signals = "SIGKILL"): void {
    this.#child.kill(signal);
  }

  /** The result, printed when all memory was read; with --linger it lives on after that. */
  async result(budgetMs = RUN_BUDGET_MS): Promise<VmmResult> {
    const ended = this.exited.then(() => null);
    const line = await within("the VMM had read all", Promise.race([this.#line, ended]), budgetMs);
    assert.ok(line !== null, `the VMM ended without a result: ${this.errors}`);
    return JSON.parse(line) as VmmResult;
  }

  async ended(budgetMs = RUN_BUDGET_MS): Promise<VmmExit> {
    return await within("the VMM ended", this.exited, budgetMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.exited;
  }
}

/** Runs a VMM to its end, and makes sure that it found all of its memory right. */
export async function runVmm(
  socket: string,
  expectedFile: string,
  ...options: readonly (string | number)[]
): Promise<VmmResult> {
  await using vmm = new Vmm(socket, expectedFile, options);
  const { code, signal } = await vmm.ended();
  assert.equal(signal, null, vmm.errors);
  assert.equal(code, 0, `the VMM found wrong memory: ${vmm.errors}`);
  return await vmm.result();
}
