/** A C program of test/peer as a child process: its lines, its end, and that it does end. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { compile } from "../../src/kit/compile.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";
import { within } from "../../src/kit/wait.ts";

const LINE_BUDGET_MS = 60_000;

export interface PeerExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export class CPeer {
  readonly exited: Promise<PeerExit>;
  errors = "";
  readonly #name: string;
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  /** `name`: of the program, as in test/peer. */
  constructor(name: string, args: readonly (string | number)[]) {
    this.#name = name;
    const binary = compile(join(repositoryRoot, `test/peer/${name}.c`), ["-pthread"]);
    this.#child = spawn(binary, args.map(String), { stdio: ["ignore", "pipe", "pipe"] });
    this.exited = once(this.#child, "close").then(([code, signal]) => ({ code, signal }));
    this.#lines = createInterface(this.#child.stdout!)[Symbol.asyncIterator]();
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

  /** The next line that it prints. */
  async line(budgetMs = LINE_BUDGET_MS): Promise<string> {
    const next = await within(`${this.#name} said something`, this.#lines.next(), budgetMs);
    assert.ok(next.done !== true, `${this.#name} ended without a word: ${this.errors}`);
    return next.value;
  }

  /** Its next line as JSON, after which it has to end with exit code 0. */
  async result<T>(budgetMs = LINE_BUDGET_MS): Promise<T> {
    const line = await this.line(budgetMs);
    const exit = await within(`${this.#name} ended`, this.exited, budgetMs);
    assert.deepEqual(exit, { code: 0, signal: null }, `${line}${this.errors}`);
    return JSON.parse(line) as T;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.exited;
  }
}
