/**
 * Takes over a VM whose page-fault handler is gone. The VMM keeps its own copy of the userfaultfd,
 * so the guest has not read a wrong byte: its threads wait at their missing pages, for ever. Here
 * that copy is duplicated, and UFFDIO_WAKE has all of them fault again, to a handler that lives.
 *
 * Nothing is done to the VM before everything is checked: until then it waits as it did.
 */
import { describeError, FaultlineError } from "../base/errors.ts";
import { formatBytes, SMALL_PAGE_BYTES } from "../base/units.ts";
import { Engine } from "../engine/engine.ts";
import type { Session } from "../engine/session.ts";
import type { ErrorPolicy, TrackingSetup } from "../engine/wire.ts";
import { setNonblocking } from "../linux/fd.ts";
import { MappedRegion } from "../linux/memory.ts";
import type { GuestRegion, RegionMap } from "../snapshot/regions.ts";
import { bitmapBytesOf } from "../snapshot/session-file.ts";
import type { Logger } from "./log.ts";
import { MemoryHost } from "./memory-host.ts";
import { findPresent, type PresentPages } from "./rescue-pages.ts";
import {
  assertNotContradicted,
  believe,
  describeProof,
  type Proof,
  proofsOf,
} from "./rescue-proof.ts";
import { possibleRegions, statedRegions } from "./rescue-regions.ts";
import { findTarget, type RescueTarget, type TargetOptions } from "./rescue-target.ts";
import { RestoreWatch } from "./restore-watch.ts";
import { type ImageOptions, type MemoryOptions, OFF, type ServedMemory } from "./served-memory.ts";
import { describeSession, tellTroubles } from "./session-report.ts";

export interface RescueOptions extends MemoryOptions, ImageOptions, TargetOptions {
  /** The VM's memory regions; empty: they are found out. */
  readonly regions: readonly GuestRegion[];
  /** Not one page of the VM need be as in the image: its guest has written all that it has. */
  readonly isUnproven: boolean;
  readonly onError: ErrorPolicy;
  /** Install everything else too, and let the VM go. */
  readonly completes: boolean;
  readonly logger: Logger;
}

/** What is known of a VM before it is touched. */
interface Findings {
  readonly target: RescueTarget;
  readonly present: PresentPages;
  readonly proof: Proof;
}

/** What answers its faults from then on. */
interface Serving {
  readonly host: MemoryHost;
  readonly memory: ServedMemory;
  readonly engine: Engine;
}

export class Rescue {
  readonly session: Session;
  /** What to tell of it, besides the session. */
  readonly presentPages: number;
  /** Threads of the VM that waited for the dead handler. */
  readonly waitingThreads: number;
  /** Resolves when it is over: the VM has ended or can do without us, or `close` was called. */
  readonly ended: Promise<void>;
  /** The VM had to be killed, or could not be. */
  hasFailed = false;
  readonly sessions = new Set<Session>();
  readonly #host: MemoryHost;
  readonly #engine: Engine;
  readonly #log: Logger;
  #resolveEnded: () => void = () => {};
  #isClosing = false;

  private constructor(
    { target, present, proof }: Findings,
    { host, memory, engine }: Serving,
    options: RescueOptions,
  ) {
    this.#host = host;
    this.#engine = engine;
    this.#log = options.logger;
    this.presentPages = present.count;
    this.waitingThreads = target.info.waiting;
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
    const { regions } = proof;
    const restores = new RestoreWatch({
      ...{ keeper: null, collapse: false, engine, log: this.#log },
    });
    const mode = options.completes ? "all" : "off";
    const plan = restores.planFor(regions, { mode, recordForMs: 0 });
    const tracking = target.isProtected ? untold(regions) : null;
    setNonblocking(target.uffd.fd);
    this.session = engine.attach({
      pid: target.pid,
      userfaultfd: target.uffd,
      pidfd: target.pidfd,
      socket: null,
      regions,
      image: memory.mapped,
      onError: options.onError,
      memory: present.memoryFor(regions),
      isTakeover: true,
      prefault: plan.prefault,
      tracking: tracking?.setup ?? null,
    });
    restores.follow(this.session, plan);
    void this.session.ended.then(() => tracking?.bitmaps.unmap());
    void this.#follow(proof);
  }

  /** @throws FaultlineError why the VM cannot be taken over; it is as it was then */
  static async start(options: RescueOptions): Promise<Rescue> {
    const target = findTarget(options);
    let host: MemoryHost | undefined;
    let engine: Engine | undefined;
    try {
      host = await MemoryHost.start(options);
      const memory = await host.open({ ...options, workingSet: OFF });
      // The worker starts while the rest is looked at.
      const starting = Engine.start({ workers: 1, spin: "auto", supply: host.supply });
      starting.catch(() => undefined);
      try {
        const findings = await examine(target, memory, options);
        engine = await starting;
        memory.assertUnchanged();
        return new Rescue(findings, { host, memory, engine }, options);
      } finally {
        engine ??= await starting;
      }
    } catch (error) {
      await engine?.close();
      await host?.close();
      if (target.uffd.isOpen) target.uffd.close();
      if (target.pidfd.isOpen) target.pidfd.close();
      throw error;
    }
  }

  /** As of a server: nobody else is taken anyway. */
  stopAccepting(): void {}

  /** Ends. If the VM is still attached, it freezes at its next missing page. */
  async close(): Promise<void> {
    if (this.#isClosing) return this.ended;
    this.#isClosing = true;
    await this.#engine.close();
    await this.#host.close();
    this.#resolveEnded();
  }

  /** Logs the session's life until it is over. */
  async #follow(proof: Proof): Promise<void> {
    const { session } = this;
    const { pid, regions } = session;
    this.sessions.add(session);
    this.#engine.onWorkerCrash = (error) => {
      this.#log.error({ pid, reason: describeError(error) }, "The fault worker crashed");
    };
    tellTroubles(session, this.#log, () => {
      this.hasFailed = true;
    });
    this.#log.info(
      {
        pid,
        memory: formatBytes(regions.totalBytes),
        regions: regions.regions.length,
        pageSize: formatBytes(regions.pageSizeBytes),
        present: formatBytes(this.presentPages * SMALL_PAGE_BYTES),
        unchanged: describeProof(proof),
        waitingThreads: this.waitingThreads,
      },
      "Attached a VM",
    );
    const end = await session.ended;
    this.sessions.delete(session);
    this.#log.info({ pid, reason: end.reason, ...describeSession(session) }, "Detached a VM");
    await this.close();
  }
}

/** Finds out what the VM's memory is, without touching it. */
async function examine(
  target: RescueTarget,
  memory: ServedMemory,
  options: RescueOptions,
): Promise<Findings> {
  const { areas, pid, isProtected } = target;
  const candidates =
    options.regions.length > 0
      ? [statedRegions(options.regions, areas, memory.sizeBytes)]
      : possibleRegions(areas, memory.sizeBytes);
  if (target.hiddenProcesses > 0) {
    options.logger.warn(
      { processes: target.hiddenProcesses },
      "Some processes could not be asked whether they are the VM's handler: root could",
    );
  }
  const present = findPresent(pid, areas, isProtected);
  const proofs = await proofsOf(candidates, present.samples, memory);
  if (options.regions.length === 0) {
    // Nobody said where the regions lie: then at least that must be certain.
    return { target, present, proof: options.isUnproven ? only(proofs) : believe(proofs) };
  }
  const [proof] = proofs;
  if (!options.isUnproven) assertNotContradicted(proof!);
  return { target, present, proof: proof! };
}

function only(proofs: readonly Proof[]): Proof {
  const [proof] = proofs;
  if (proof !== undefined && proofs.length === 1) return proof;
  throw new FaultlineError(
    "rescue-refused",
    "The VM's memory can be regions in several ways, and --unproven says that its pages do not " +
      "tell which: state every region with --region BASE:SIZE:OFFSET too.",
  );
}

/** Whatever the dead handler had read, or nobody has: all threads that wait fault again. */
/**
 * Pages may still be protected by a handler that has tracked writes (`--track-dirty`): their
 * writers are let go as there, and nobody reads what is recorded.
 */
function untold({ pageLimit }: RegionMap): { setup: TrackingSetup; bitmaps: MappedRegion } {
  const headerBytes = SMALL_PAGE_BYTES;
  const bitmapBytes = bitmapBytesOf(pageLimit);
  const bitmaps = MappedRegion.anonymous(headerBytes + 2 * bitmapBytes);
  return { setup: { address: bitmaps.address, headerBytes, bitmapBytes }, bitmaps };
}
