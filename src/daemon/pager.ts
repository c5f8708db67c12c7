/**
 * The pager: the process of the daemon that answers faults. It may die at any moment; the
 * supervisor keeps what it needs to go on, and starts the next one, which has done beforehand all
 * that can be done: code loaded, fault workers started, a restore rehearsed.
 */
import { mkdirSync, readdirSync, rmSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { describeError, ExitCode, FaultlineError } from "../base/errors.ts";
import { Engine } from "../engine/engine.ts";
import { SurvivingBatches } from "../engine/surviving-batches.ts";
import type { PartSupply } from "../engine/worker-handle.ts";
import { duplicateFd, type OwnedFd } from "../linux/fd.ts";
import { lowerPriority, threadIds } from "../linux/scheduling.ts";
import type { DecodePool } from "../source/decode-pool.ts";
import type { PartCost } from "../source/part-cost.ts";
import { type KeptEntry, PagerChannel, type StopRequest } from "../supervisor/pager-channel.ts";
import { assertCacheFolder } from "./check-options.ts";
import { ControlServer } from "./control/server.ts";
import { openControlSocket } from "./control-socket.ts";
import { DashboardSocket } from "./dashboard-socket.ts";
import { type FaultTrips, measureTrips } from "./fault-trips.ts";
import { Host } from "./host.ts";
import { recover } from "./host-recovery.ts";
import { HostTally, TALLY_ENTRY } from "./host-tally.ts";
import { parseEntry } from "./keeper.ts";
import { createLogger, type Logger } from "./log.ts";
import { MemoryHost, prepareImages } from "./memory-host.ts";
import { packageVersion } from "./package-version.ts";
import { PagerDashboard } from "./pager-dashboard.ts";
import { PagerMetrics } from "./pager-metrics.ts";
import { NICE_BY } from "./priority.ts";
import { rehearseWithoutImage } from "./rehearsal.ts";
import { type DaemonSettings, loadSettings, type SettingsSource } from "./settings.ts";

const ALIVE_EVERY_MS = 3000;
/** A fault worker that does not answer for so long is taken for hung. */
const RESPONSE_DEADLINE_MS = 10_000;

/** Fault workers start before there is anybody who could bring parts of images. */
class LateSupply implements PartSupply {
  #supply: PartSupply | null = null;

  set(supply: PartSupply): void {
    this.#supply = supply;
  }

  demand(part: number, isUrgent: boolean): Promise<PartCost | null> {
    return this.#supply!.demand(part, isUrgent);
  }

  hurry(part: number): void {
    this.#supply!.hurry(part);
  }

  release(part: number): void {
    this.#supply!.release(part);
  }
}

/** All that a pager has before it is in charge. */
interface StandBy {
  readonly channel: PagerChannel;
  readonly settings: DaemonSettings;
  readonly log: Logger;
  readonly engine: Engine;
  readonly supply: LateSupply;
  /** What this pager's fault workers read into, for the next one. */
  readonly batches: OwnedFd;
  readonly notFaultWorkers: readonly number[];
  readonly decoders: DecodePool | null;
  readonly trips: FaultTrips;
}

async function prepare(channel: PagerChannel, source: SettingsSource): Promise<StandBy> {
  const settings = loadSettings(source);
  if (channel.isOnTrial && settings.cacheFolder !== undefined) {
    assertCacheFolder(settings.cacheFolder);
  }
  const log = createLogger(settings.log, settings.logFormat);
  process.on("uncaughtException", (error) => fail(error, log));
  const notFaultWorkers = threadIds();
  const supply = new LateSupply();
  const { workers, spin, streams } = settings;
  const { batches, fd } = SurvivingBatches.inMemfd(workers);
  const engine = await Engine.start({ workers, spin, streams, supply, batches });
  // Where images are to be expected, no takeover has to wait for their threads.
  const decoders = settings.stores.length > 0 ? await prepareImages() : null;
  await rehearseWithoutImage(engine, log);
  const trips = await measureTrips(engine, { log });
  return { decoders, channel, settings, log, engine, supply, batches: fd, notFaultWorkers, trips };
}

async function takeCharge(standBy: StandBy, entries: readonly KeptEntry[]): Promise<void> {
  const { channel, settings, log, engine, supply } = standBy;
  const beganMs = performance.now();
  // Before there are VMs, as the first of them may be what it crashes of.
  engine.onWorkerCrash = (error) => {
    log.error({ reason: describeError(error) }, "A fault worker crashed; its VMs were killed");
    // The others are better off with a new pager.
    if (engine.aliveWorkers === 0) process.kill(process.pid, "SIGKILL");
  };
  void reportLife(standBy);
  const named = new Map(entries.map((entry) => [entry.name, entry.fds]));
  const generation = keepBatches(standBy, entries);
  const memoryHost = await startMemoryHost(standBy, named.get("arena")?.[0]);
  supply.set(memoryHost.supply);
  const tally = HostTally.open(channel, named.get(TALLY_ENTRY)?.[0] ?? null);
  const host = new Host({
    ...{ settings, engine, memoryHost, keeper: channel, log, tally, generation },
    trips: standBy.trips,
    version: packageVersion(),
    reload: () => channel.reload(),
  });
  mkdirSync(host.socketFolder, { recursive: true, mode: 0o711 });
  if (generation === 1) removeStaleSockets(host.socketFolder);
  channel.onAccepted = (name, connection) => {
    const { id = name, role } = parseEntry(name) ?? {};
    if (role === "async") host.connectedAsync(id, connection);
    else host.connected(id, connection);
  };
  channel.onStop = (stop) => void end(stop);
  const { old, fds } = previousBatches(entries, generation);
  const report = await recover(entries, { host, keeper: channel, log, batches: old });
  for (const { name, fd } of fds) {
    fd.close();
    channel.drop(name);
  }
  const socket = openControlSocket(settings, named.get("control")?.[0] ?? null, channel);
  const metrics = new PagerMetrics(host);
  const fd = duplicateFd(socket.listener.fd).intoRawFd();
  const dashboard = new PagerDashboard({ host, memoryHost, tally }, log);
  const { render } = metrics;
  const context = { service: host, metrics: render, dashboard };
  const control = await ControlServer.start({ ...context, fd, log });
  metrics.control = control;
  channel.serving();
  // Not before: VMs have waited for what this thread did.
  lowerPriority(standBy.notFaultWorkers, NICE_BY);
  const ms = Math.round(performance.now() - beganMs);
  if (generation > 1) {
    metrics.takeoverMs = ms;
    log.warn({ ...report, ms, generation }, "Took over from a pager that is gone");
  } else log.info({ control: socket.path }, "The daemon is ready");
  await metrics.listen(settings, log);
  await dashboard.listen(settings, context, new DashboardSocket(channel, named));

  async function end({ isStored, deadlineMs }: StopRequest): Promise<void> {
    // The next daemon goes on with all that is kept, and the sooner the better.
    if (isStored) {
      await host.reports.settled();
    } else {
      await letVmsEnd(host, standBy, deadlineMs);
      await dashboard.close();
      await control.close();
      await metrics.close();
      socket.close();
      await host.reports.close();
      await host.memories.close();
    }
    channel.finished();
  }
}

/** `arena`: the cache's memory, as the last pager has left it. */
async function startMemoryHost(
  { settings, log, decoders }: StandBy,
  arena: OwnedFd | undefined,
): Promise<MemoryHost> {
  const { cacheMiB, cacheFolder, cacheFolderGiB } = settings;
  return await MemoryHost.start({
    cacheBytes: cacheMiB * 2 ** 20,
    ...(cacheFolder === undefined ? {} : { cacheFolder }),
    cacheFolderBytes: cacheFolderGiB * 2 ** 30,
    logger: log,
    keepsArena: true,
    ...(arena === undefined ? {} : { arena }),
    ...(decoders === null ? {} : { decoders }),
  });
}

/** A bug of ours: told, and left to a process that has not got into this state. */
function fail(error: Error, log: Logger): void {
  log.error({ reason: error.stack }, "The pager has failed: the next one takes over");
  process.kill(process.pid, "SIGKILL");
}

/**
 * What a daemon has left that was killed: nobody listens there, as this one has its lock. Sessions
 * with asynchronous faults have folders.
 */
function removeStaleSockets(folder: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) rmSync(path, { recursive: true });
    else if (entry.name.endsWith(".sock")) unlinkSync(path);
  }
}

/** As `serve` does: no new VMs, and those that run may end. */
async function letVmsEnd(
  host: Host,
  { settings, log }: StandBy,
  deadlineMs: number,
): Promise<void> {
  const timeoutMs = Math.min(settings.drainTimeoutS * 1000, deadlineMs);
  const late = new AbortController();
  const timeout = delay(timeoutMs, false, { signal: late.signal }).catch(() => true);
  const isOver = await Promise.race([host.emptied().then(() => true), timeout]);
  late.abort();
  const { attached: vms } = host.view().sessions;
  const freeze = "they freeze at their next missing page";
  if (!isOver && vms > 0) log.error({ vms }, `Ends with VMs attached: ${freeze}`);
}

/** Keeps this pager's batches; the number in their name counts the pagers of this daemon. */
function keepBatches({ channel, batches }: StandBy, entries: readonly KeptEntry[]): number {
  const last = Math.max(0, ...entries.map(({ name }) => generationOf(name) ?? 0));
  channel.keep(`batches.${last + 1}`, [batches.fd]);
  return last + 1;
}

interface PreviousBatches {
  readonly old: readonly SurvivingBatches[];
  readonly fds: readonly { readonly name: string; readonly fd: OwnedFd }[];
}

function previousBatches(entries: readonly KeptEntry[], generation: number): PreviousBatches {
  const fds = entries.flatMap(({ name, fds: [fd] }) => {
    const number = generationOf(name);
    return number === null || number === generation || fd === undefined ? [] : [{ name, fd }];
  });
  return { old: fds.map(({ fd }) => SurvivingBatches.adopt(fd)), fds };
}

function generationOf(name: string): number | null {
  const [, digits] = /^batches\.(\d+)$/.exec(name) ?? [];
  return digits === undefined ? null : Number(digits);
}

/** The supervisor kills who is silent: so only who can answer faults says that it lives. */
async function reportLife({ channel, engine, log }: StandBy): Promise<void> {
  for (;;) {
    if (await engine.isResponsive(RESPONSE_DEADLINE_MS)) channel.alive();
    else log.error("A fault worker does not answer");
    await delay(ALIVE_EVERY_MS);
  }
}

try {
  const channel = PagerChannel.open();
  if (channel === null) {
    throw new FaultlineError("bad-option", "A pager is started by `faultline daemon` only.");
  }
  const standBy = await prepare(channel, JSON.parse(process.argv[2] ?? "") as SettingsSource);
  await takeCharge(standBy, await channel.standBy());
} catch (error) {
  const isOurs = !(error instanceof FaultlineError);
  process.stderr.write(
    `faultline: ${isOurs ? String((error as Error).stack) : describeError(error)}\n`,
  );
  // Fault workers wait in the kernel: process.exit() asks them to end first.
  process.exit(isOurs ? ExitCode.internal : error.exitCode);
}
