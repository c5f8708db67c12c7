/**
 * The fault engine from the main thread: a pool of fault workers, and the VMs attached to them.
 * Each VM belongs to one worker for all its life (design law 3), the one with the fewest VMs.
 */
import { assert } from "../base/assert.ts";
import { monotonicUs } from "../linux/clock.ts";
import type { OwnedFd } from "../linux/fd.ts";
import type { SpinMode } from "../pager/pacing.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import type { MappedImage } from "../source/mapped-image.ts";
import type { Userfaultfd } from "../uffd/userfaultfd.ts";
import { DemandLog } from "./demand-log.ts";
import { Session } from "./session.ts";
import { SessionMemory } from "./session-memory.ts";
import { assertSurvivalId, type SurvivingBatches } from "./surviving-batches.ts";
import type { TraceRing } from "./trace-ring.ts";
import type { UserfaultMemory } from "./userfault-memory.ts";
import type { ErrorPolicy, KillResult, PrefaultSetup, TrackingSetup } from "./wire.ts";
import { type PartSupply, WorkerHandle } from "./worker-handle.ts";

export interface EngineOptions {
  readonly workers: number;
  readonly spin: SpinMode;
  /** Brings what is not in memory; without it, all must be. */
  readonly supply?: PartSupply;
  /** Give scans pages ahead of their faults; default: true. */
  readonly streams?: boolean;
  /** Where the workers, as many at least, read events into, so that these survive the process. */
  readonly batches?: SurvivingBatches;
}

/** A VM whose handshake is done. The engine takes over the descriptors. */
export interface AttachRequest {
  readonly pid: number;
  readonly userfaultfd: Userfaultfd;
  readonly pidfd: OwnedFd;
  /** The VMM's connection; null: there is none any more. */
  readonly socket: OwnedFd | null;
  readonly regions: RegionMap;
  readonly image: MappedImage;
  readonly onError: ErrorPolicy;
  /** What is counted, and known of the VM's pages; ours from now on. Default: nothing is. */
  readonly memory?: SessionMemory;
  /** By which the next process knows this VM; with `batches`. Never given to two VMs. */
  readonly survivalId?: number;
  /** Another handler has had the VM, and is gone: its threads are to fault again. */
  readonly isTakeover?: boolean;
  /** What to install ahead of faults. */
  readonly prefault?: PrefaultSetup | null;
  /** Note what is demanded for this long. Below 2^32. */
  readonly recordForUs?: number;
  /** Give its scans pages ahead; default: as the engine's options say. */
  readonly streams?: boolean;
  /** When its VMM connected (monotonicUs). Default: now. */
  readonly connectedUs?: number;
  /** Where to trace what is done for it. */
  readonly trace?: TraceRing | null;
  /** A VM with KVM Userfault; ours from now on. Its `memory`, if given, has waiters. */
  readonly userfault?: UserfaultMemory | null;
  /** The regions are registered for write protection: writes are recorded there. */
  readonly tracking?: TrackingSetup | null;
}

/** More threads than this have never helped: VMs are spread over them, not faults of one VM. */
export const MAX_WORKERS = 64;

export class Engine {
  readonly #workers: readonly WorkerHandle[];
  readonly #hasStreams: boolean;
  readonly #survives: boolean;
  readonly #onProcessExit = (): void => {
    for (const worker of this.#workers) worker.requestStop();
  };
  /** Called when a fault worker has died of a bug. Its VMs have been killed; others go on. */
  onWorkerCrash: (error: unknown) => void = () => {};
  #nextId = 1;

  private constructor(workers: readonly WorkerHandle[], options: EngineOptions) {
    this.#workers = workers;
    this.#hasStreams = options.streams ?? true;
    this.#survives = options.batches !== undefined;
    process.once("exit", this.#onProcessExit);
  }

  static async start(options: EngineOptions): Promise<Engine> {
    assert(options.workers >= 1 && options.workers <= MAX_WORKERS, "1 to 64 workers");
    let engine: Engine | undefined;
    const onCrash = (error: unknown): void => engine?.onWorkerCrash(error);
    const { spin, batches } = options;
    const workers = Array.from({ length: options.workers }, (_, index) => {
      const batchAddress = batches?.addressOf(index) ?? null;
      return new WorkerHandle({ spin, batchAddress }, options.supply ?? null, onCrash);
    });
    await Promise.all(workers.map((worker) => worker.ready));
    engine = new Engine(workers, options);
    return engine;
  }

  get sessionCount(): number {
    return this.#workers.reduce((sum, worker) => sum + worker.sessionCount, 0);
  }

  /** How many fault workers are at work: fewer than were started after a crash. */
  get aliveWorkers(): number {
    return this.#workers.filter((worker) => worker.isAlive).length;
  }

  get startedWorkers(): number {
    return this.#workers.length;
  }

  attach(request: AttachRequest): Session {
    const worker = this.#leastBusy();
    const id = this.#nextId++;
    const { regions } = request;
    const { userfault = null } = request;
    const memory = request.memory ?? SessionMemory.create(regions.pageLimit, userfault !== null);
    assert(memory.pageTable.pageCount >= regions.pageLimit, "memory of a smaller VM");
    assert(memory.hasWaiters || userfault === null, "memory of a VM without KVM Userfault");
    const { survivalId = 0, isTakeover = false } = request;
    if (this.#survives) assertSurvivalId(survivalId);
    const { recordForUs: forUs, prefault = null } = request;
    const log = forUs === undefined ? null : DemandLog.allocate(regions.pageLimit);
    const demandLog = log === null ? null : new DemandLog(log);
    const retire = (): void => {
      memory.retire();
      userfault?.retire();
    };
    const { pid } = request;
    const { threadId: workerThreadId } = worker;
    const session = new Session({
      ...{ id, pid, regions, memory, demandLog, workerThreadId, retire },
    });
    worker.attach(session, {
      id,
      userfaultfd: request.userfaultfd.intoRawFd(),
      pidfd: request.pidfd.intoRawFd(),
      socket: request.socket?.intoRawFd() ?? null,
      regions: regions.regions,
      pageSizeBytes: regions.pageSizeBytes,
      image: request.image,
      memory: memory.setup,
      survivalId,
      isTakeover,
      onError: request.onError,
      hasStreams: request.streams ?? this.#hasStreams,
      prefault,
      recorder: log === null || forUs === undefined ? null : { log, forUs },
      connectedUs: request.connectedUs ?? monotonicUs(),
      trace: request.trace?.buffer ?? null,
      tracking: request.tracking ?? null,
      userfault: userfault?.intoSetup() ?? null,
      mayKill: request.pid !== process.pid,
    });
    return session;
  }

  /** Lets go of a VM: our descriptors are closed, and its `ended` resolves. */
  detach(session: Session): void {
    for (const worker of this.#workers) worker.detach(session);
  }

  /** Kills the VM's process. Its session ends as any whose VM exits, unless that is `denied`. */
  async kill(session: Session): Promise<KillResult> {
    const worker = this.#workers.find((each) => each.has(session));
    return worker === undefined ? "gone" : await worker.kill(session);
  }

  /** Installs nothing more ahead of a VM's faults. */
  cancelPrefault(session: Session): void {
    for (const worker of this.#workers) worker.cancelPrefault(session);
  }

  /** Traces what is done for a VM into `ring` from now on, or no more. */
  trace(session: Session, ring: TraceRing | null): void {
    for (const worker of this.#workers) worker.trace(session, ring?.buffer ?? null);
  }

  /**
   * Installs all that is missing, in small steps beside the guest, and then lets the VM go: its
   * `ended` resolves with `complete`. Goes on with what is installed ahead already.
   */
  complete(session: Session): void {
    for (const worker of this.#workers) worker.complete(session);
  }

  /** Whether every fault worker does what it is told, within this time. */
  async isResponsive(deadlineMs: number): Promise<boolean> {
    const answers = this.#workers.map((worker) => worker.answersWithin(deadlineMs));
    return (await Promise.all(answers)).every((hasAnswered) => hasAnswered);
  }

  /** Stops all workers. VMs that are still attached freeze at their next missing page. */
  async close(): Promise<void> {
    process.off("exit", this.#onProcessExit);
    await Promise.all(this.#workers.map((worker) => worker.stop()));
  }

  #leastBusy(): WorkerHandle {
    const alive = this.#workers.filter((worker) => worker.isAlive);
    assert(alive.length > 0, "no fault worker is alive");
    return alive.reduce((best, worker) =>
      worker.sessionCount < best.sessionCount ? worker : best,
    );
  }
}
