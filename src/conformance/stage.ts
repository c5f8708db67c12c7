/** One scenario's world: a folder with a memory file, a fresh handler, and VMs. All of it ends. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { HandlerCommand } from "../kit/handler-command.ts";
import { HandlerProcess } from "../kit/handler-process.ts";
import { waitFor } from "../kit/wait.ts";
import { Finding, formatSeconds, WrongBytes } from "./finding.ts";
import { MemoryImage } from "./image.ts";
import { type HandshakeOptions, Vm, type VmOptions } from "./vm.ts";
import type { VmPool } from "./vm-process.ts";

export interface StageOptions {
  readonly command: HandlerCommand;
  readonly deadlineMs: number;
  readonly hasHotplug: boolean;
  readonly pool: VmPool;
}

/** A few pages with data, far from each other and from all holes. */
export const PROBE_PAGES = [1, 300, 1200];

/** Looks in a row, a millisecond or more apart, at which no thread of an idle handler runs. */
const QUIET_SAMPLES = 25;

/** Signals that mean that a program has a fault of its own. SIGABRT is how some languages panic. */
const CRASH_SIGNALS = ["SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE"];
/** How a shell reports the same signals. */
const CRASH_CODES = [139, 135, 132, 136];

/** What Ctrl-C must not leave behind. */
const folders = new Set<string>();
process.on("exit", () => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

export class Stage {
  readonly image: MemoryImage;
  readonly deadlineMs: number;
  readonly socketPath: string;
  readonly #folder: string;
  readonly #pool: VmPool;
  readonly #starting: Promise<HandlerProcess>;
  readonly #vms: Promise<Vm>[] = [];
  readonly #over = new AbortController();
  #handler: HandlerProcess | null = null;

  constructor({ command, deadlineMs, hasHotplug, pool }: StageOptions) {
    this.#pool = pool;
    this.deadlineMs = deadlineMs;
    this.#folder = mkdtempSync(join(tmpdir(), "faultline-conformance-"));
    folders.add(this.#folder);
    this.image = MemoryImage.create(join(this.#folder, "memory"), { hasHotplug });
    this.socketPath = join(this.#folder, "socket");
    const target = { socketPath: this.socketPath, memoryPath: this.image.path };
    // It starts while the first VM does.
    this.#starting = HandlerProcess.start(command, target);
    this.#starting.catch(() => undefined);
  }

  /** The handler, as soon as it listens. */
  async handler(): Promise<HandlerProcess> {
    this.#handler = await this.#starting;
    return this.#handler;
  }

  /** The same, if it has got so far. */
  get startedHandler(): HandlerProcess | null {
    return this.#handler;
  }

  /** A VM that is not attached yet. */
  async vm(options: VmOptions = {}): Promise<Vm> {
    const { image, deadlineMs } = this;
    const { signal } = this.#over;
    const starting = Vm.start({ image, deadlineMs, pool: this.#pool, signal }, options);
    this.#vms.push(starting);
    return await starting;
  }

  /** A VM that has introduced itself. */
  async attach(options: VmOptions & HandshakeOptions = {}): Promise<Vm> {
    const vm = await this.vm(options);
    await this.handler();
    await vm.introduce(this.socketPath, options);
    return vm;
  }

  /** An attached VM whose handler is stopped: what faults now waits for `thaw()`. */
  async attachFrozen(options: VmOptions & HandshakeOptions = {}): Promise<[Vm, HandlerProcess]> {
    const vm = await this.attach(options);
    // Answered, so that the handler is known to have taken the VM.
    await vm.expect([0], "file");
    const handler = await this.handler();
    await handler.freeze();
    return [vm, handler];
  }

  /** Fails unless the handler lets go of every userfaultfd, or ends, within the deadline. */
  async expectLetGo(when: string): Promise<void> {
    const handler = await this.handler();
    const hasLetGo = (): boolean => handler.exit !== null || handler.heldUserfaultfds() === 0;
    try {
      await waitFor("the handler let go", hasLetGo, this.deadlineMs);
    } catch {
      throw new Finding(
        `The handler still holds ${handler.heldUserfaultfds()} userfaultfd(s) ` +
          `${formatSeconds(this.deadlineMs)} after ${when}.`,
      );
    }
    this.expectNoCrash(handler);
  }

  /** Fails unless, some time before the deadline, all threads of the handler sleep a while. */
  async expectQuiet(when: string): Promise<void> {
    const handler = await this.handler();
    let quietSamples = 0;
    const isQuiet = (): boolean => {
      quietSamples = handler.runningThreads() === 0 ? quietSamples + 1 : 0;
      return quietSamples >= QUIET_SAMPLES;
    };
    try {
      await waitFor("the handler was quiet", isQuiet, this.deadlineMs);
    } catch {
      const span = formatSeconds(this.deadlineMs);
      throw new Finding(`The handler has not slept ${when}: it was running for ${span}.`);
    }
  }

  /** Fails if the handler has ended by a fault of its own. */
  expectNoCrash({ exit }: HandlerProcess): void {
    if (exit === null) return;
    const { code, signal } = exit;
    const isCrash =
      (signal !== null && CRASH_SIGNALS.includes(signal)) ||
      (code !== null && CRASH_CODES.includes(code));
    if (isCrash) throw new Finding(`The handler crashed with ${signal ?? `code ${code}`}.`);
  }

  /**
   * After a bad handshake: the handler ends with a failure, or serves the next VM right. `probe`:
   * the bad VM touching a page, which counts too if it is served right, or killed.
   */
  async expectRefusal(what: string, probe?: Probe): Promise<void> {
    const handler = await this.handler();
    const ways = [this.#loudEnd(handler, what), this.#nextVmServed()];
    if (probe !== undefined) ways.push(probe.touch.catch(rejectUnlessWrong));
    const decided = await firstSuccess(ways, this.deadlineMs + 1000);
    // What it refuses it does not answer: if the bad VM got an answer, that must be right too.
    if (decided === true && probe?.vm.isBlocked === false) await probe.touch.catch(throwIfWrong);
    this.expectNoCrash(handler);
    if (decided === true) return;
    const silence =
      `After ${what} the handler neither ended nor served the next VM within ` +
      `${formatSeconds(this.deadlineMs)}.`;
    throw decided ?? new Finding(silence);
  }

  async #loudEnd(handler: HandlerProcess, what: string): Promise<void> {
    const exit = await handler.ended(this.deadlineMs);
    if (exit === null) throw new Undecided();
    this.expectNoCrash(handler);
    if (exit.code !== 0) return;
    throw new Finding(`After ${what} the handler ended with code 0, as if all were well.`);
  }

  async #nextVmServed(): Promise<void> {
    try {
      const next = await this.attach();
      await next.expect(PROBE_PAGES, "file", { when: "of the next VM" });
    } catch (error) {
      return rejectUnlessWrong(error);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#over.abort();
    // The handler first: it must not have the time to kill a VM that plays again.
    const handler = await this.#starting.catch(() => null);
    await handler?.[Symbol.asyncDispose]();
    await Promise.allSettled(this.#vms.map(async (vm) => (await vm)[Symbol.asyncDispose]()));
    rmSync(this.#folder, { recursive: true, force: true });
    folders.delete(this.#folder);
  }
}

/** A touch of the bad VM's memory, and whose it is. */
export interface Probe {
  readonly vm: Vm;
  readonly touch: Promise<void>;
}

/** This way of ending well did not come about; another may. */
class Undecided extends Error {}

/** A VM that hangs or dies is a way that did not come about; one with wrong bytes is a finding. */
function rejectUnlessWrong(error: unknown): never {
  if (error instanceof WrongBytes || !(error instanceof Finding)) throw error;
  throw new Undecided();
}

function throwIfWrong(error: unknown): void {
  if (error instanceof WrongBytes) throw error;
}

/** True if one of the ways succeeds; what one of them found wrong; null if time is up. */
async function firstSuccess(
  ways: readonly Promise<void>[],
  deadlineMs: number,
): Promise<true | Error | null> {
  return await new Promise((resolve) => {
    let left = ways.length;
    const timer = setTimeout(() => resolve(null), deadlineMs);
    const settle = (outcome: true | Error | null): void => {
      clearTimeout(timer);
      resolve(outcome);
    };
    for (const way of ways) {
      way.then(
        () => settle(true),
        (error: Error) => {
          left -= 1;
          if (!(error instanceof Undecided)) settle(error);
          else if (left === 0) settle(null);
        },
      );
    }
  });
}
