/**
 * A VM whose handlers are killed one after the other. This process is what keeps the descriptors:
 * the userfaultfd, the pidfd, the session memory, and the events that handlers have read.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { SessionMemory } from "../../src/engine/session-memory.ts";
import { SurvivingBatches } from "../../src/engine/surviving-batches.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import type { OwnedFd } from "../../src/linux/fd.ts";
import { openPidfd } from "../../src/linux/process.ts";
import { acceptUnix, listenUnix, receiveWithFds } from "../../src/linux/socket.ts";
import { RegionMap } from "../../src/snapshot/regions.ts";
import { CPeer } from "./c-peer.ts";
import type { KeptRegions, TakeoverMistake, TakeoverOrder } from "./takeover-program.ts";

const BUDGET_MS = 30_000;
const SURVIVAL_ID = 7;

/** What a VMM says of one region. */
interface Entry {
  readonly base_host_virt_addr: number;
  readonly size: number;
  readonly offset: number;
  readonly page_size: number;
}

export interface ChurningVm {
  readonly socketPath: string;
  readonly memoryPath: string;
  readonly readers: number;
  readonly seed: number;
  readonly flags?: readonly string[];
}

/** What test/peer/churn.c counted. */
export interface ChurnResult {
  readonly reads: number;
  readonly removes: number;
  readonly wrong: number;
}

/** A VM that churns, and everything that its handlers need. */
export class KeptVm {
  readonly peer: CPeer;
  readonly #memoryPath: string;
  readonly #fds: readonly OwnedFd[];
  /** Events of handlers that have died; those of the last one are the last. */
  #batches: OwnedFd;
  #handler: Handler | null = null;
  #hadHandler = false;

  private constructor(peer: CPeer, memoryPath: string, fds: readonly OwnedFd[]) {
    this.peer = peer;
    this.#memoryPath = memoryPath;
    this.#fds = fds;
    this.#batches = newBatches();
  }

  static async start(vm: ChurningVm): Promise<KeptVm> {
    using listener = listenUnix(vm.socketPath, 1);
    const { seed, flags = [] } = vm;
    const args = [vm.socketPath, vm.memoryPath, 3_600_000, vm.readers, seed, ...flags];
    const peer = new CPeer("churn", args);
    using connection = await waitFor("the VM connected", () => acceptUnix(listener.fd), BUDGET_MS);
    const payload = Buffer.alloc(4096);
    const { byteCount, fds } = await waitFor("the VM sent its userfaultfd", () =>
      receiveWithFds(connection.fd, payload),
    );
    const entries = JSON.parse(payload.toString("utf8", 0, byteCount)) as Entry[];
    const memory = keepMemory(entries);
    return new KeptVm(peer, vm.memoryPath, [fds[0]!, openPidfd(peer.pid), memory]);
  }

  /**
   * Starts a handler that recovers what is known. It serves after `serve`.
   */
  async startHandler(mistake: TakeoverMistake | null = null, isDoomed = false): Promise<void> {
    const next = newBatches();
    const fds = [...this.#fds, this.#batches, next].map(({ fd }) => fd);
    const order: TakeoverOrder = {
      ...{ memoryPath: this.#memoryPath, vmPid: this.peer.pid, mistake, isDoomed },
      isTakeover: this.#hadHandler,
    };
    this.#handler = new Handler(order, fds);
    try {
      await this.#handler.line();
    } catch (error) {
      next.close();
      throw error;
    }
    // From now on it may be killed having read events: those are what counts.
    this.#batches.close();
    this.#batches = next;
  }

  async serve(): Promise<void> {
    this.#hadHandler = true;
    this.#handler!.go();
    await this.#handler!.line();
  }

  /** Kills the handler, and waits until it is gone. */
  async killHandler(): Promise<void> {
    await this.#handler?.[Symbol.asyncDispose]();
    this.#handler = null;
  }

  /** Starts a handler that is killed so soon that it may not have got anywhere. */
  async startInVain(afterMs: number): Promise<void> {
    const starting = this.startHandler();
    starting.catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, afterMs));
    await this.killHandler();
    await starting.catch(() => undefined);
  }

  /** A handler that dies when it has read a REMOVE, and before it has done anything about it. */
  async startDoomed(mistake: TakeoverMistake | null): Promise<void> {
    await this.startHandler(mistake, true);
    this.#hadHandler = true;
    this.#handler!.go();
    await this.#handler!.gone();
    this.#handler = null;
  }

  /** Ends the VM, which then looks at every page. */
  async finish(): Promise<ChurnResult> {
    this.peer.kill("SIGTERM");
    return JSON.parse(await this.peer.line(BUDGET_MS)) as ChurnResult;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.peer[Symbol.asyncDispose]();
    await this.killHandler();
    for (const fd of [...this.#fds, this.#batches]) fd.close();
  }
}

class Handler {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #exited: Promise<unknown>;

  constructor(order: TakeoverOrder, fds: readonly number[]) {
    const program = fileURLToPath(new URL("./takeover-program.js", import.meta.url));
    this.#child = spawn(process.execPath, [program, JSON.stringify(order)], {
      stdio: ["pipe", "pipe", "inherit", ...fds],
    });
    this.#exited = once(this.#child, "exit");
    this.#child.stdin!.on("error", () => undefined);
    this.#lines = createInterface(this.#child.stdout!)[Symbol.asyncIterator]();
  }

  async line(): Promise<string> {
    const next = await within("the handler said something", this.#lines.next(), BUDGET_MS);
    if (next.done === true) throw new Error("The handler ended without a word.");
    return next.value;
  }

  go(): void {
    this.#child.stdin!.write("go\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.gone();
  }

  async gone(): Promise<void> {
    await within("the handler was gone", this.#exited, BUDGET_MS);
  }
}

function newBatches(): OwnedFd {
  const { batches, fd } = SurvivingBatches.inMemfd(1);
  batches.close();
  return fd;
}

function keepMemory(entries: readonly Entry[]): OwnedFd {
  const kept = {
    regions: entries.map((entry) => ({
      baseHostAddress: entry.base_host_virt_addr,
      sizeBytes: entry.size,
      imageOffset: entry.offset,
    })),
    pageSizeBytes: entries[0]!.page_size,
    survivalId: SURVIVAL_ID,
  } as unknown as KeptRegions;
  const { pageLimit } = new RegionMap(kept.regions, kept.pageSizeBytes);
  const header = Buffer.from(JSON.stringify(kept));
  const { memory, fd } = SessionMemory.inMemfd(pageLimit, header);
  memory.retire();
  return fd;
}
