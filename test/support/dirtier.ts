/** test/peer/dirtier.c as a child process: a VM that writes what it is told to. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { compile } from "../../src/kit/compile.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";
import { waitFor, within } from "../../src/kit/wait.ts";

const ANSWER_BUDGET_MS = 30_000;

export class Dirtier {
  readonly exited: Promise<unknown>;
  errors = "";
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  private constructor(args: readonly string[]) {
    const binary = compile(join(repositoryRoot, "test/peer/dirtier.c"), ["-pthread"]);
    this.#child = spawn(binary, args, { stdio: ["pipe", "pipe", "pipe"] });
    this.exited = once(this.#child, "close");
    // Orders to one that has died are the business of its answers.
    this.#child.stdin!.on("error", () => undefined);
    this.#lines = createInterface(this.#child.stdout!)[Symbol.asyncIterator]();
    this.#child.stderr!.setEncoding("utf8").on("data", (text: string) => {
      this.errors += text;
    });
  }

  /** Returns when it has sent its handshake. */
  static async start(
    socket: string,
    memoryFile: string,
    ...options: readonly (string | number)[]
  ): Promise<Dirtier> {
    const dirtier = new Dirtier([socket, memoryFile, ...options.map(String)]);
    await dirtier.#answer("the VM had introduced itself");
    return dirtier;
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Has it do something, and waits until it is done. */
  async order<Answer = unknown>(line: string): Promise<Answer> {
    this.say(line);
    return JSON.parse(await this.#answer(`the VM did “${line}”`)) as Answer;
  }

  /** Begins something that may never end. */
  say(line: string): void {
    this.#child.stdin!.write(`${line}\n`);
  }

  /** Stops all of its threads, as an operator would pause a VM. */
  async pause(): Promise<void> {
    process.kill(this.pid, "SIGSTOP");
    await waitFor("the VM had stopped", () => this.state === "T");
  }

  resume(): void {
    process.kill(this.pid, "SIGCONT");
  }

  /** Of its first thread, as in /proc/PID/stat. */
  get state(): string {
    const stat = readFileSync(`/proc/${this.pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2)[0]!;
  }

  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.exited;
  }

  async #answer(what: string): Promise<string> {
    const next = await within(what, this.#lines.next(), ANSWER_BUDGET_MS);
    assert.ok(next.done !== true, `the VM ended: ${this.errors}`);
    return next.value;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}
