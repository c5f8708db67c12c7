/**
 * Goes on where the last pager has stopped, whatever it was doing: from the entries that it kept.
 * VMs first, as their guests stand still; then sessions that wait for theirs.
 */
import { describeError } from "../base/errors.ts";
import { SessionMemory } from "../engine/session-memory.ts";
import type { SurvivingBatches } from "../engine/surviving-batches.ts";
import { OwnedFd } from "../linux/fd.ts";
import { killByPidfd } from "../linux/process.ts";
import type { KeptEntry } from "../supervisor/pager-channel.ts";
import type { Host } from "./host.ts";
import type { HostMemory } from "./host-memories.ts";
import { HostSession } from "./host-session.ts";
import type { HostTally } from "./host-tally.ts";
import { dropSession, entryOf, type Keeper, parseEntry, type SessionRole } from "./keeper.ts";
import type { Logger } from "./log.ts";
import { decodeAttachment, readRecord, type SessionRecord } from "./session-record.ts";
import { SessionSockets } from "./session-sockets.ts";

type Roles = Partial<Record<SessionRole, readonly OwnedFd[]>>;

interface KeptSession {
  readonly record: SessionRecord;
  readonly roles: Roles;
}

export interface Recovery {
  readonly host: Host;
  readonly keeper: Keeper;
  readonly log: Logger;
  /** What dead fault workers had read and maybe not applied. */
  readonly batches: readonly SurvivingBatches[];
}

/** How many VMs were taken over, and how many could not be. */
export interface RecoveryReport {
  readonly vms: number;
  readonly waiting: number;
  readonly lost: number;
}

export async function recover(
  entries: readonly KeptEntry[],
  recovery: Recovery,
): Promise<RecoveryReport> {
  const kept = sessionsOf(entries, recovery);
  const memories = await memoriesOf(entries, kept, recovery);
  const attached = kept.filter(({ roles }) => roles.vm !== undefined);
  const waiting = kept.filter(({ roles }) => roles.vm === undefined);
  const lost = attached.filter((each) => !takeOver(each, memories, recovery)).length;
  for (const each of waiting) listenAgain(each, memories, recovery);
  return { vms: attached.length - lost, waiting: waiting.length, lost };
}

/** What has no record was being made, or removed, when the pager died. */
function sessionsOf(
  entries: readonly KeptEntry[],
  { keeper, log }: Recovery,
): readonly KeptSession[] {
  const byId = new Map<string, Roles>();
  for (const { name, fds } of entries) {
    const parsed = parseEntry(name);
    if (parsed === null) continue;
    byId.set(parsed.id, { ...byId.get(parsed.id), [parsed.role]: fds });
  }
  const kept: KeptSession[] = [];
  for (const [id, roles] of byId) {
    const [memfd] = roles.record ?? [];
    try {
      if (memfd === undefined) throw new Error("it has no record");
      kept.push({ record: readRecord(memfd), roles });
      memfd.close();
    } catch (error) {
      log.warn({ session: id, reason: describeError(error) }, "Dropped what was left of a session");
      closeAll(roles);
      dropSession(keeper, id);
    }
  }
  return kept;
}

async function memoriesOf(
  entries: readonly KeptEntry[],
  kept: readonly KeptSession[],
  { host, keeper, log }: Recovery,
): Promise<ReadonlyMap<string, HostMemory>> {
  const wanted = new Map(kept.map(({ record }) => [record.memoryEntry, record.memory]));
  const found = new Map<string, HostMemory>();
  for (const { name, fds } of entries) {
    if (!name.startsWith("image.")) continue;
    const memory = wanted.get(name);
    if (memory === undefined) {
      for (const fd of fds) fd.close();
      keeper.drop(name);
      continue;
    }
    try {
      found.set(name, await host.memories.recover(name, { fds }, memory));
    } catch (error) {
      log.error({ memory, reason: describeError(error) }, "What VMs run on cannot be opened again");
    }
  }
  return found;
}

/** False: the VM was killed, as nobody could ever answer its faults rightly. */
function takeOver(
  { record, roles }: KeptSession,
  memories: ReadonlyMap<string, HostMemory>,
  { host, keeper, log, batches }: Recovery,
): boolean {
  const { id } = record;
  const memory = memories.get(record.memoryEntry);
  const [uffd, pidfd, memfd, ...guest] = roles.vm ?? [];
  const sockets = adoptSockets(record, roles, host);
  if (sockets.listener !== null || sockets.asyncFaults !== null) {
    // The dead pager had no time to remove them.
    sockets.close();
    for (const role of ["listener", "apf"] as const) keeper.drop(entryOf(id, role));
  }
  // The engine takes the descriptors over: for what goes wrong after that it is responsible.
  const killer = pidfd === undefined ? null : pidfd.fd;
  let session: HostSession | null = null;
  try {
    if (memory === undefined) throw new Error("its memory cannot be opened");
    if (uffd === undefined || pidfd === undefined || memfd === undefined) {
      throw new Error("its descriptors are not complete");
    }
    host.memories.take(memory);
    session = new HostSession(record, memory, null, host.surroundings);
    host.add(session);
    const [connection = null] = roles.connection ?? [];
    const [asyncSocket = null] = roles.async ?? [];
    session.takeOver({ uffd, pidfd, memfd, guest, connection, asyncSocket }, batches);
    return true;
  } catch (error) {
    const kill = killer === null ? "denied" : killByPidfd(killer);
    const reason = describeError(error);
    log.error({ session: id, reason, kill }, "A VM could not be taken over");
    const { tally } = host.surroundings;
    tally.add("lost");
    if (session === null) {
      countEnd(memfd, tally);
      dropSession(keeper, id);
    } else {
      session.finish("failed", reason);
    }
    return false;
  }
}

/** What it has counted stays counted, if it can be read. */
function countEnd(memfd: OwnedFd | undefined, tally: HostTally): void {
  try {
    if (memfd === undefined) throw new Error("it has no memory");
    const { memory, header } = SessionMemory.adopt(memfd);
    using _mapped = memory;
    const { pageSizeBytes } = decodeAttachment(header).regions;
    tally.addEnd("failed", { stats: memory.stats, account: memory.account, pageSizeBytes });
  } catch {
    tally.addEnd("failed", null);
  }
}

function listenAgain(
  { record, roles }: KeptSession,
  memories: ReadonlyMap<string, HostMemory>,
  { host, keeper, log }: Recovery,
): void {
  const { id } = record;
  const memory = memories.get(record.memoryEntry);
  const sockets = adoptSockets(record, roles, host);
  const isComplete = (sockets.asyncFaults !== null) === record.asyncFaults;
  if (memory === undefined || sockets.listener === null || !isComplete) {
    log.warn({ session: id }, "Dropped a session that waited for its VM: it was not complete");
    sockets.close();
    closeAll(roles);
    dropSession(keeper, id);
    return;
  }
  host.memories.take(memory);
  const session = new HostSession(record, memory, sockets, host.surroundings);
  host.add(session);
  const [asyncSocket] = roles.async ?? [];
  if (asyncSocket !== undefined) host.connectedAsync(id, asyncSocket);
  session.listen(roles.connection?.[0] ?? null);
}

function adoptSockets(record: SessionRecord, roles: Roles, host: Host): SessionSockets {
  const [[listener], [asyncFaults]] = [roles.listener ?? [], roles.apf ?? []];
  return SessionSockets.adopt(record, listener, asyncFaults, host.socketFolder);
}

function closeAll(roles: Roles): void {
  for (const fds of Object.values(roles)) {
    for (const fd of fds ?? []) if (fd instanceof OwnedFd) fd.close();
  }
}
