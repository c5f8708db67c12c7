/**
 * The process of a VM (vm-program.ts), and a pool of them: starting Node takes longer than most
 * scenarios, so a process that came out of one unharmed plays in the next, with new memory.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { isStopped } from "../kit/handler-process.ts";
import { waitFor, within } from "../kit/wait.ts";
import { Finding } from "./finding.ts";
import type { VmAnswer, VmOrder, VmValue } from "./vm-protocol.ts";

/** At most so many threads of a VM can be blocked at once. */
export const MAX_THREADS = 64;
/** Threads of the pool for what must go on meanwhile. */
const SPARE_THREADS = 16;
const START_DEADLINE_MS = 20_000;
const STOP_DEADLINE_MS = 10_000;
const RESET_DEADLINE_MS = 2000;

/** What still runs. It must not outlive us. */
const running = new Set<VmProcess>();
process.on("exit", () => {
  for (const vm of running) vm.kill();
});

export class VmProcess {
  /** How it ended, or null while it lives. */
  end: string | null = null;
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;
  readonly #waiting = new Map<number, (answer: VmAnswer | null) => void>();
  #lastId = 0;

  private constructor() {
    const program = new URL("./vm-program.js", import.meta.url);
    this.#child = fork(program, {
      env: { ...process.env, UV_THREADPOOL_SIZE: String(MAX_THREADS + SPARE_THREADS) },
      execArgv: [],
    });
    this.#exited = once(this.#child, "exit");
    this.#child.on("message", (answer: VmAnswer) => this.#settle(answer.id, answer));
    this.#child.on("exit", (code, signal) => {
      this.end = signal ?? `code ${code}`;
      running.delete(this);
      for (const id of [...this.#waiting.keys()]) this.#settle(id, null);
    });
    running.add(this);
  }

  /** One that is ready for its setup. `signal` ends it while it is still starting. */
  static async start(signal: AbortSignal): Promise<VmProcess> {
    signal.throwIfAborted();
    const vm = new VmProcess();
    const onAbort = (): void => vm.kill();
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      await vm.ask({ what: "greet" }, START_DEADLINE_MS);
      return vm;
    } catch (error) {
      vm.kill();
      throw error;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Nothing that it was told to do is still under way. */
  get isIdle(): boolean {
    return this.end === null && this.#waiting.size === 0;
  }

  /** Throws `VmDied` if it ends meanwhile, `VmError` if it says that it cannot. */
  async ask(order: VmOrder, budgetMs: number): Promise<VmValue> {
    if (this.end !== null) throw this.#died();
    this.#lastId += 1;
    const id = this.#lastId;
    const answered = new Promise<VmAnswer | null>((resolve) => this.#waiting.set(id, resolve));
    this.#child.send({ id, order }, () => undefined);
    const answer = await within(`the VM did ${order.what}`, answered, budgetMs);
    if (answer === null) throw this.#died();
    if ("error" in answer) throw new VmError(answer.error);
    return answer.value;
  }

  /** Threads in a fault: all of them (`total`), or those whose message nobody has read. */
  faults(which: "total" | "pending"): number {
    const folder = `/proc/${this.pid}/fdinfo`;
    const line = new RegExp(`^${which}:\\t(\\d+)`, "m");
    try {
      for (const fd of readdirSync(folder)) {
        const match = line.exec(readFileSync(`${folder}/${fd}`, "utf8"));
        if (match !== null) return Number(match[1]);
      }
    } catch {
      // It has ended, or closed one of them in between.
    }
    return 0;
  }

  /** Stops it, and returns when none of its threads runs any more. */
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

  async ended(): Promise<void> {
    await within("the VM ended", this.#exited, STOP_DEADLINE_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.end !== null) return;
    this.kill();
    await this.ended();
  }

  #settle(id: number, answer: VmAnswer | null): void {
    this.#waiting.get(id)?.(answer);
    this.#waiting.delete(id);
  }

  #died(): VmDied {
    return new VmDied(`The VM ended with ${this.end}.`);
  }
}

export class VmPool {
  readonly #idle: VmProcess[] = [];

  async take(signal: AbortSignal): Promise<VmProcess> {
    signal.throwIfAborted();
    for (let vm = this.#idle.pop(); vm !== undefined; vm = this.#idle.pop()) {
      if (vm.end === null) return vm;
    }
    return await VmProcess.start(signal);
  }

  /** `isBlocked`: a thread of it may still be in a fault, for ever. */
  async giveBack(vm: VmProcess, isBlocked: boolean): Promise<void> {
    if (!isBlocked && vm.isIdle && vm.faults("total") === 0) {
      try {
        await vm.ask({ what: "reset" }, RESET_DEADLINE_MS);
        this.#idle.push(vm);
        return;
      } catch {
        // Not worth a second try.
      }
    }
    await vm[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#idle.splice(0).map((vm) => vm[Symbol.asyncDispose]()));
  }
}

/** The VM is dead. Where the handler was entitled to kill it, that is no fault. */
export class VmDied extends Finding {}

/** A system call of the VM failed: connect(2) to a handler that is gone, for instance. */
export class VmError extends Finding {}
