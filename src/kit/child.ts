/**
 * A program that a benchmark started. Every wait has a deadline, and disposal kills what is left:
 * guests and handlers wait for each other for ever when something is wrong.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { within } from "./wait.ts";

const DEFAULT_DEADLINE_MS = 60_000;
const STOP_DEADLINE_MS = 10_000;

/** What still runs. It must not outlive us, however we end. */
const running = new Set<Child>();
process.on("exit", () => {
  for (const child of running) child.kill();
});

export class Child {
  readonly argv: readonly string[];
  readonly #process: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;
  readonly #exited: Promise<unknown>;

  /** stderr is ours unless said otherwise: what a program complains about must be seen. */
  constructor(argv: readonly string[], stderr: number | "inherit" = "inherit") {
    this.argv = argv;
    // With a descriptor for stderr the types know less; stdin and stdout are pipes all the same.
    const child: unknown = spawn(argv[0]!, argv.slice(1), { stdio: ["pipe", "pipe", stderr] });
    this.#process = child as ChildProcessByStdio<Writable, Readable, null>;
    this.#lines = createInterface(this.#process.stdout)[Symbol.asyncIterator]();
    running.add(this);
    this.#exited = once(this.#process, "exit").finally(() => running.delete(this));
    this.#exited.catch(() => undefined);
    this.#process.stdin.on("error", () => undefined); // it died: the next read tells
  }

  get pid(): number {
    const { pid } = this.#process;
    if (pid === undefined) throw new Error(`${this.argv[0]} could not be started.`);
    return pid;
  }

  /** The next line of its stdout. */
  async line(deadlineMs = DEFAULT_DEADLINE_MS): Promise<string> {
    const next = this.#lines.next();
    const { done, value } = await within(`${this.#name} said something`, next, deadlineMs);
    if (done === true) throw new Error(`${this.#name} ended without an answer.`);
    return value;
  }

  /** Its next line, as JSON. */
  async answer<T>(deadlineMs = DEFAULT_DEADLINE_MS): Promise<T> {
    return JSON.parse(await this.line(deadlineMs)) as T;
  }

  say(line: string): void {
    this.#process.stdin.write(`${line}\n`);
  }

  /** Lets it end by itself. */
  async finish(deadlineMs = DEFAULT_DEADLINE_MS): Promise<void> {
    this.#process.stdin.end();
    await within(`${this.#name} ended`, this.#exited, deadlineMs);
    const { exitCode, signalCode } = this.#process;
    if (exitCode !== 0) throw new Error(`${this.#name} ended with ${signalCode ?? exitCode}.`);
  }

  kill(): void {
    this.#process.kill("SIGKILL");
  }

  /** Asks it to end, and waits. */
  async terminate(deadlineMs = DEFAULT_DEADLINE_MS): Promise<void> {
    this.#process.kill("SIGTERM");
    await this.finish(deadlineMs);
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** Ends it, whatever it does. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#process.pid === undefined || this.#isOver) return;
    this.kill();
    await within(`${this.#name} was killed`, this.#exited, STOP_DEADLINE_MS);
  }

  get #isOver(): boolean {
    return this.#process.exitCode !== null || this.#process.signalCode !== null;
  }

  get #name(): string {
    return `\`${this.argv.join(" ")}\``;
  }
}
