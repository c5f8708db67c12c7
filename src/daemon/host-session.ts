/**
 * One session of the daemon: a socket, the VM that connects to it, and its end. Everything that the
 * next pager needs is kept before it is relied upon, so this process may die between any two lines.
 */
import { assert } from "../base/assert.ts";
import { describeError, FaultlineError } from "../base/errors.ts";
import { formatBytes } from "../base/units.ts";
import type { Engine } from "../engine/engine.ts";
import { recoverPages } from "../engine/recover-pages.ts";
import type { Session } from "../engine/session.ts";
import { SessionMemory } from "../engine/session-memory.ts";
import type { SurvivingBatches } from "../engine/surviving-batches.ts";
import type { UserfaultMemory, UserfaultParts } from "../engine/userfault-memory.ts";
import { monotonicUs } from "../linux/clock.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { getpagesize } from "../linux/sys.ts";
import { type Peer, pinPeer } from "../protocol/peer.ts";
import { consumeBytes, consumeHandshake } from "../protocol/receive.ts";
import { closeReceived, consumeRest, type ReceivedVm, receiveVm } from "../protocol/receive-vm.ts";
import { adoptUserfaultfd } from "../uffd/adopt.ts";
import type { Userfaultfd } from "../uffd/userfaultfd.ts";
import { AsyncConnections } from "./async-connections.ts";
import { assertBelongs } from "./check-handshake.ts";
import type { HostMemory } from "./host-memories.ts";
import type { SessionEndView, VmView } from "./host-service.ts";
import type { CountedVm, HostTally } from "./host-tally.ts";
import { dropSession, entryOf, type Keeper } from "./keeper.ts";
import {
  describeUserfault,
  fdsOfUserfault,
  openUserfault,
  reopenUserfault,
} from "./kept-userfault.ts";
import type { Logger } from "./log.ts";
import { restoreOf } from "./reports/host-restore.ts";
import type { ReportDesk } from "./reports/report-desk.ts";
import {
  type Attachment,
  decodeAttachment,
  encodeAttachment,
  keepRecord,
  type SessionRecord,
} from "./session-record.ts";
import { describeSession, tellTroubles } from "./session-report.ts";
import type { SessionSockets } from "./session-sockets.ts";
import type { SessionTraces } from "./session-traces.ts";
import { WaitNote } from "./wait-note.ts";

/** What all sessions share. */
export interface SessionSurroundings {
  readonly engine: Engine;
  readonly keeper: Keeper;
  readonly log: Logger;
  readonly tally: HostTally;
  readonly traces: SessionTraces;
  readonly reports: ReportDesk;
  readonly handshakeTimeoutMs: number;
  readonly allowedUids: readonly number[];
  /** Which pager of this daemon this is: the first is 1. */
  readonly generation: number;
  /** The session is over, and nothing of it is kept any more. */
  onEnded(session: HostSession): void;
  onRefused(session: HostSession, reason: string): void;
}

type EndReason = SessionEndView["reason"];

/** All that there is to know of a VM before a fault worker has it. */
interface KnownVm {
  readonly uffd: Userfaultfd;
  readonly pidfd: OwnedFd;
  readonly connection: OwnedFd | null;
  readonly attachment: Attachment;
  readonly memory: SessionMemory;
  /** Null: faults are events of the userfaultfd, and nothing else. */
  readonly userfault: UserfaultMemory | null;
}

/** What a VM has said, with its second socket. */
interface IntroducedVm extends ReceivedVm {
  readonly userfault: UserfaultParts | null;
}

/** What an earlier pager has kept of a VM. */
export interface KeptVm {
  readonly uffd: OwnedFd;
  readonly pidfd: OwnedFd;
  readonly memfd: OwnedFd;
  /** Of a VM with KVM Userfault. */
  readonly guest: readonly OwnedFd[];
  readonly asyncSocket: OwnedFd | null;
  readonly connection: OwnedFd | null;
}

/** How a VM has come. */
interface Arrival {
  readonly isTakeover: boolean;
  /** Of monotonicUs. */
  readonly connectedUs: number;
}

/** The VM of an attached session. */
interface Attached {
  readonly engineSession: Session;
  readonly attachment: Attachment;
}

export class HostSession {
  record: SessionRecord;
  readonly memory: HostMemory;
  lastRefusal: string | null = null;
  readonly wait = new WaitNote();
  /** Why the VM should have been killed, and could not be. */
  frozenFor: string | null = null;
  prefaultState: VmView["prefaultState"] = "off";
  /** The page table when completion began, if that was not with the VM. For pictures. */
  beforeCompletion: Uint8Array | null = null;
  readonly #around: SessionSurroundings;
  readonly #sockets: SessionSockets | null;
  /** Null: without asynchronous faults. */
  readonly #asyncConnections: AsyncConnections | null;
  readonly #abort = new AbortController();
  #vm: Attached | null = null;
  #end: SessionEndView | null = null;
  /** What somebody asked for, and the VM's end will be due to. */
  #wantedEnd: EndReason | null = null;
  #failure: string | null = null;
  #expiry: NodeJS.Timeout | null = null;
  readonly ended: Promise<void>;
  #resolveEnded: () => void = () => {};

  /** `sockets`: null where a VM is attached already. */
  constructor(
    record: SessionRecord,
    memory: HostMemory,
    sockets: SessionSockets | null,
    around: SessionSurroundings,
  ) {
    this.record = record;
    this.memory = memory;
    this.#sockets = sockets;
    this.#around = around;
    const asyncFaults = sockets?.asyncFaults ?? null;
    this.#asyncConnections =
      asyncFaults === null
        ? null
        : new AsyncConnections(record.id, asyncFaults.listener, around.keeper);
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
  }

  get id(): string {
    return this.record.id;
  }

  get vm(): Attached | null {
    return this.#vm;
  }

  get end(): SessionEndView | null {
    return this.#end;
  }

  /** From now on a VM may connect, or has already. */
  listen(connection: OwnedFd | null = null): void {
    if (connection === null) this.#acceptNext();
    else void this.connected(connection);
    const { connectWithinS, createdMs } = this.record;
    if (connectWithinS === 0) return;
    const leftMs = Math.max(0, createdMs + connectWithinS * 1000 - Date.now());
    const message = `No VM connected to ${this.record.socketPath} within ${connectWithinS} s.`;
    this.#expiry = setTimeout(() => this.finish("expired", message), leftMs);
  }

  /** Somebody has connected; what he sends stays in the socket until the VM is attached. */
  async connected(connection: OwnedFd): Promise<void> {
    const connectedUs = monotonicUs();
    let peer: Peer | null = null;
    let vm: KnownVm;
    try {
      peer = pinPeer(connection.fd, this.#allowedUids());
      vm = this.#keepVm(connection, peer, await this.#receive(connection, peer));
    } catch (error) {
      peer?.pidfd.close();
      connection.close();
      if (this.#end !== null) return;
      this.lastRefusal = describeError(error);
      this.#around.onRefused(this, this.lastRefusal);
      for (const role of ["connection", "async"] as const) {
        this.#around.keeper.drop(entryOf(this.id, role));
      }
      this.#acceptNext();
      return;
    }
    // Not to be undone: a fault worker writes to its memory. If this fails, so does the process,
    // and the next one has the VM.
    this.#attach(vm, { isTakeover: false, connectedUs });
  }

  /** Somebody has connected to `apf.socket`. False: nobody is wanted there. */
  offerAsync(connection: OwnedFd): boolean {
    if (this.#asyncConnections === null || this.#vm !== null || this.#end !== null) return false;
    this.#asyncConnections.offer(connection);
    return true;
  }

  /** Goes on with a VM that an earlier pager has served. */
  takeOver(kept: KeptVm, batches: readonly SurvivingBatches[]): void {
    const { pidfd, connection, asyncSocket } = kept;
    const { memory, header } = SessionMemory.adopt(kept.memfd);
    const attachment = decodeAttachment(header);
    const { regions } = attachment;
    const { survivalId, onError } = this.record;
    const userfault = reopenUserfault(kept.guest, asyncSocket, attachment, onError);
    // No event takes pages from a guest_memfd.
    for (const each of [null, ...(userfault === null ? batches : [])]) {
      recoverPages({ memory, regions, batches: each, survivalId });
    }
    if (attachment.userfault !== null) {
      assert(connection !== null, "the connection was kept before its VM");
      consumeRest(connection, attachment.userfault.ringCount);
    } else if (connection !== null) consumeHandshake(connection);
    // Its worker wakes the VM's threads, so nobody else need.
    const uffd = adoptUserfaultfd(kept.uffd, []);
    const vm = { uffd, pidfd, connection, attachment, memory, userfault };
    this.#attach(vm, { isTakeover: true, connectedUs: monotonicUs() });
    kept.memfd.close();
  }

  /**
   * Kills the VM; what waits for its VM ends at once.
   * @throws FaultlineError `not-allowed`: the VM lives on
   */
  async kill(): Promise<void> {
    if (this.#vm === null) {
      this.finish("cancelled", null);
      return;
    }
    const before = this.#wantedEnd;
    this.#wantedEnd = "killed";
    const result = await this.#around.engine.kill(this.#vm.engineSession);
    if (result !== "denied") {
      await this.ended;
      return;
    }
    this.#wantedEnd = before;
    throw new FaultlineError(
      "not-allowed",
      `Process ${this.#vm.attachment.pid} belongs to another user, and this daemon may not kill ` +
        "it. Give the daemon CAP_KILL, or kill the process yourself.",
    );
  }

  detach(): void {
    assert(this.#vm !== null, "only an attached VM is let go");
    this.#wantedEnd = "detached";
    this.#around.engine.detach(this.#vm.engineSession);
  }

  /** Installs everything, and lets the VM go: this pager, or the next one. */
  complete(): void {
    assert(this.#vm !== null, "only an attached VM is completed");
    const { bytes } = this.#vm.engineSession.pageTable;
    if (this.record.prefault !== "all") this.beforeCompletion = bytes.slice();
    this.record = { ...this.record, prefault: "all" };
    keepRecord(this.#around.keeper, this.record);
    this.prefaultState = "running";
    this.#around.engine.complete(this.#vm.engineSession);
  }

  /** Ends; nothing is kept any more. */
  finish(reason: EndReason, message: string | null): void {
    if (this.#end !== null) return;
    this.#end = { at: new Date().toISOString(), reason, message };
    this.#abort.abort(new FaultlineError("handshake", "The session has ended."));
    if (this.#expiry !== null) clearTimeout(this.#expiry);
    this.#closeSockets();
    // First: see host-tally.ts.
    this.#around.tally.addEnd(reason, this.#counted());
    dropSession(this.#around.keeper, this.id);
    this.#around.onEnded(this);
    this.#resolveEnded();
  }

  #counted(): CountedVm | null {
    if (this.#vm === null) return null;
    const { engineSession, attachment } = this.#vm;
    const verdict = this.memory.restores.verdict(engineSession);
    if (verdict !== null) this.#around.tally.addVerdict(verdict);
    const { stats, account } = engineSession;
    return { stats, account, pageSizeBytes: attachment.regions.pageSizeBytes };
  }

  #acceptNext(): void {
    const { keeper } = this.#around;
    keeper.accept(entryOf(this.id, "listener"), entryOf(this.id, "connection"));
  }

  #allowedUids(): ReadonlySet<number> {
    const { owner, allowedUids } = this.record;
    const own = process.geteuid?.() ?? 0;
    return new Set([0, own, owner?.uid ?? own, ...allowedUids, ...this.#around.allowedUids]);
  }

  async #receive(connection: OwnedFd, { pid }: Peer): Promise<IntroducedVm> {
    const { handshakeTimeoutMs: timeoutMs } = this.#around;
    const { signal } = this.#abort;
    const hostPageBytes = getpagesize();
    const options = { hostPageBytes, timeoutMs, signal, isPeeked: true };
    const received = await receiveVm(connection, options);
    const { userfault } = received;
    if (userfault === null) return { ...received, userfault };
    try {
      const asyncSocket = (await this.#asyncConnections?.take(pid, { timeoutMs, signal })) ?? null;
      return { ...received, userfault: { ...userfault, asyncSocket } };
    } catch (error) {
      closeReceived(received);
      throw error;
    }
  }

  /** On failure nothing is kept, and the descriptor that came is closed. */
  #keepVm(connection: OwnedFd, peer: Peer, received: IntroducedVm): KnownVm {
    const { regions, descriptor, userfault: parts } = received;
    const { keeper, generation } = this.#around;
    let memory: SessionMemory | null = null;
    let userfault: UserfaultMemory | null = null;
    try {
      // The session may have ended when this was already on its way.
      this.#abort.signal.throwIfAborted();
      assertBelongs(regions, this.memory.served.sizeBytes);
      this.memory.served.assertUnchanged();
      const uffd = adoptUserfaultfd(descriptor, regions.ranges);
      if (parts !== null) userfault = openUserfault(parts, regions, this.record.onError);
      const attachment: Attachment = {
        ...{ pid: peer.pid, regions, attachedMs: Date.now(), generation },
        userfault: parts && describeUserfault(parts),
      };
      const header = encodeAttachment(attachment);
      const made = SessionMemory.inMemfd(regions.pageLimit, header, parts !== null);
      using memfd = made.fd;
      memory = made.memory;
      const guest = parts === null ? [] : fdsOfUserfault(parts);
      keeper.keep(entryOf(this.id, "vm"), [uffd.fd, peer.pidfd.fd, memfd.fd, ...guest]);
      // From here on the VM is the next pager's too, and the handshake nobody's.
      if (parts === null) consumeHandshake(connection);
      else consumeBytes(connection, received.byteCount);
      return { uffd, pidfd: peer.pidfd, connection, attachment, memory, userfault };
    } catch (error) {
      keeper.drop(entryOf(this.id, "vm"));
      memory?.retire();
      userfault?.retire();
      parts?.asyncSocket?.close();
      closeReceived(received);
      throw error;
    }
  }

  #attach(vm: KnownVm, { isTakeover, connectedUs }: Arrival): void {
    const { record } = this;
    const { attachment } = vm;
    const { pid, regions } = attachment;
    // What one pager has begun to install ahead is the guest's to ask for under the next one;
    // completion goes on.
    const mode = isTakeover && record.prefault !== "all" ? "off" : record.prefault;
    const recordForMs = isTakeover ? 0 : record.recordForS * 1000;
    const plan = this.memory.restores.planFor(regions, { mode, recordForMs });
    // Of others a copy is not needed, and a takeover is no time for one of each VM.
    const goesOn = isTakeover && record.prefault === "all";
    if (goesOn) this.beforeCompletion = vm.memory.pageTable.bytes.slice();
    const session = this.#around.engine.attach({
      pid,
      userfaultfd: vm.uffd,
      pidfd: vm.pidfd,
      socket: vm.connection,
      regions,
      image: this.memory.served.mapped,
      onError: record.onError,
      memory: vm.memory,
      survivalId: record.survivalId,
      isTakeover,
      ...{ connectedUs, prefault: plan.prefault, userfault: vm.userfault },
      trace: this.#around.traces.begin(this.id, record.trace),
      ...(plan.recordForUs === undefined ? {} : { recordForUs: plan.recordForUs }),
    });
    this.#vm = { engineSession: session, attachment };
    if (plan.prefault !== null) this.prefaultState = "running";
    const { log: hostLog, tally } = this.#around;
    tally.add(isTakeover ? "takenOver" : "attached");
    const log = hostLog.child({ session: this.id, ...labelled(record.labels) });
    this.memory.restores.follow(session, plan, log);
    const restore = restoreOf(this, this.#around.generation);
    if (restore !== null) this.#around.reports.begin(restore);
    this.#stopListening();
    void this.#follow(session, log, isTakeover);
  }

  /** A session is for one VM, and it has come. */
  #stopListening(): void {
    if (this.#expiry !== null) clearTimeout(this.#expiry);
    this.#closeSockets();
    for (const role of ["listener", "apf"] as const) {
      this.#around.keeper.drop(entryOf(this.id, role));
    }
  }

  #closeSockets(): void {
    this.#asyncConnections?.close();
    this.#sockets?.close();
  }

  async #follow(session: Session, log: Logger, isTakeover: boolean): Promise<void> {
    const { pid, regions } = session;
    tellTroubles(session, log, (failure, isFrozen) => {
      this.#failure = failure;
      if (isFrozen) this.frozenFor = failure;
    });
    const tellWait = session.onWait;
    session.onWait = (reason) => {
      this.wait.tell(reason);
      tellWait(reason);
    };
    const told = session.onPrefaulted;
    session.onPrefaulted = (report) => {
      this.prefaultState = report.end;
      this.#around.tally.add(`prefault.${report.end}`);
      told(report);
    };
    const memory = formatBytes(regions.totalBytes);
    log.info({ pid, memory }, isTakeover ? "Took a VM over" : "Attached a VM");
    const { reason } = await session.ended;
    const numbers = { ...describeSession(session), ...this.memory.restores.describe(session) };
    log.info({ pid, reason, ...numbers }, "Detached a VM");
    // The engine ends with this process: the VM is the next pager's.
    if (reason === "stopped") return;
    if (this.#failure !== null) this.finish("failed", this.#failure);
    else this.finish(this.#wantedEnd ?? reason, null);
  }
}

function labelled(labels: Readonly<Record<string, string>>): { labels?: string } {
  const entries = Object.entries(labels);
  if (entries.length === 0) return {};
  return { labels: entries.map(([name, value]) => `${name}=${value}`).join(" ") };
}
