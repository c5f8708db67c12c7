/** `faultline serve`: a drop-in page-fault handler for one snapshot. */
import { Command } from "commander";
import { ExitCode } from "../base/errors.ts";
import { formatBytes, GIB, MIB } from "../base/units.ts";
import {
  createLogger,
  type LogFormat,
  type Logger,
  type LogLevel,
  logFormats,
  logLevels,
} from "../daemon/log.ts";
import { packageVersion } from "../daemon/package-version.ts";
import { type PrefaultMode, prefaultModes } from "../daemon/prefault-mode.ts";
import { NICE_BY } from "../daemon/priority.ts";
import { DEFAULT_MAX_VMS, DEFAULT_RECORD_FOR_MS, Server } from "../daemon/server.ts";
import { describeInterval } from "../daemon/session-report.ts";
import type { SocketOwner } from "../daemon/socket-file.ts";
import { MAX_WORKERS } from "../engine/engine.ts";
import { type ErrorPolicy, errorPolicies } from "../engine/wire.ts";
import { lowerPriority, threadIds } from "../linux/scheduling.ts";
import type { SpinMode } from "../pager/pacing.ts";
import { HANDSHAKE_TIMEOUT_MS } from "../protocol/receive.ts";
import { withImageOptions } from "./memory-options.ts";
import { loopbackAddress, oneOf, socketOwner, spinMode, wholeNumber } from "./options.ts";
import { DEFAULT_DRAIN_TIMEOUT_S, stopOnSignals, tellServiceManager } from "./serving.ts";

interface ServeFlags {
  readonly memory: string;
  readonly layer: readonly string[];
  readonly store?: string;
  /** MiB. */
  readonly cacheSize: number;
  readonly cacheDir?: string;
  readonly cacheDirSize: number;
  readonly socket: string;
  readonly owner?: SocketOwner;
  readonly once: boolean;
  readonly maxVms: number;
  readonly onError: ErrorPolicy;
  readonly trackDirty?: string;
  readonly asyncFaults: boolean;
  readonly workers?: number;
  readonly spin: SpinMode;
  readonly workingSet?: string;
  readonly prefault: PrefaultMode;
  readonly prefetch: boolean;
  readonly streams: boolean;
  readonly collapse: boolean;
  /** Seconds. */
  readonly recordFor: number;
  readonly handshakeTimeout: number;
  readonly drainTimeout: number;
  readonly statsInterval?: number;
  readonly dashboard?: string;
  readonly reportFolder?: string;
  readonly log: LogLevel;
  readonly logFormat: LogFormat;
  readonly json: boolean;
}

export function serveCommand(): Command {
  const append = (value: string, all: readonly string[]): readonly string[] => [...all, value];
  const command = new Command("serve")
    .description("serve one snapshot's memory to VMs that connect to a socket")
    .requiredOption("--memory <file>", "the snapshot's full memory file, or an image")
    .option("--layer <file>", "a diff snapshot above it, lowest first; repeatable", append, [])
    .requiredOption("--socket <path>", "where VMMs connect (Firecracker: mem_backend.backend_path)")
    .option("--owner <user[:group]>", "who may connect, besides root (default: you)", socketOwner)
    .option("--once", "serve one VM, then exit", false)
    .option(
      "--max-vms <n>",
      "VMs at the same time",
      wholeNumber("--max-vms", 1, 100_000),
      DEFAULT_MAX_VMS,
    )
    .option(
      "--on-error <policy>",
      "when bytes of a page cannot be had: kill the VM, poison the page, or wait for them",
      oneOf("--on-error", errorPolicies),
      "kill",
    )
    .option("--track-dirty <folder>", "record what each VM writes, in <folder>/PID.session")
    .option(
      "--async-faults",
      "listen on apf.socket beside it too, for VMs with KVM Userfault",
      false,
    )
    .option(
      "--workers <n>",
      "fault threads (default: CPUs - 1, at most 4)",
      wholeNumber("--workers", 1, MAX_WORKERS),
    )
    .option("--spin <mode>", "busy-wait for faults: auto, off, or microseconds", spinMode, "auto")
    .option(
      "--handshake-timeout <ms>",
      "how long a VM may take to introduce itself",
      wholeNumber("--handshake-timeout", 1, 600_000),
      HANDSHAKE_TIMEOUT_MS,
    )
    .option(
      "--drain-timeout <s>",
      "how long SIGTERM waits for attached VMs to end",
      wholeNumber("--drain-timeout", 0, 86_400),
      DEFAULT_DRAIN_TIMEOUT_S,
    )
    .option(
      "--stats-interval <s>",
      "log fault rate and latency this often",
      wholeNumber("--stats-interval", 1, 86_400),
    )
    .option("--log <level>", logLevels.join(", "), oneOf("--log", logLevels), "info")
    .option(
      "--log-format <format>",
      logFormats.join(", "),
      oneOf("--log-format", logFormats),
      "auto",
    )
    .option("--json", "print the ready line as JSON", false);
  return withDashboardOption(withRestoreOptions(withImageOptions(command)))
    .addHelpText(
      "after",
      "\nExample:\n  faultline serve --memory vm.mem --socket /run/vm.sock\n" +
        '  then load the snapshot with "mem_backend":\n' +
        '  {"backend_type": "Uffd", "backend_path": "/run/vm.sock"}\n',
    )
    .action(serve);
}

/** What is learnt from restores, and done for the next ones. */
function withRestoreOptions(command: Command): Command {
  return command
    .option(
      "--working-set <file>",
      "keep here what restores need, or off (default: beside an image, in its store)",
    )
    .option(
      "--prefault <mode>",
      "install what earlier restores needed: before-resume, concurrent, all of memory, or off",
      oneOf("--prefault", prefaultModes),
      "concurrent",
    )
    .option(
      "--report-folder <folder>",
      "write there where the time of each restore has gone, for `faultline why`",
    )
    .option("--collapse", "make huge pages of small ones where all was installed ahead", false)
    .option("--no-streams", "give threads that scan memory no pages ahead of their faults")
    .option("--no-prefetch", "do not fetch what earlier restores needed as soon as this starts")
    .option(
      "--record-for <s>",
      "what a VM demands in this time is what a restore needs; 0: learn nothing",
      wholeNumber("--record-for", 0, 3600),
      DEFAULT_RECORD_FOR_MS / 1000,
    );
}

function withDashboardOption(command: Command): Command {
  const what = "serve the dashboard to browsers: 127.0.0.1:7433";
  return command.option("--dashboard <host:port>", what, loopbackAddress);
}

async function serve(flags: ServeFlags): Promise<void> {
  const log = createLogger(flags.log, flags.logFormat);
  const notFaultWorkers = threadIds();
  const server = await Server.start({
    memory: flags.memory,
    ...(flags.store === undefined ? {} : { store: flags.store }),
    cacheBytes: flags.cacheSize * MIB,
    ...(flags.cacheDir === undefined ? {} : { cacheFolder: flags.cacheDir }),
    cacheFolderBytes: flags.cacheDirSize * GIB,
    layers: flags.layer,
    socketPath: flags.socket,
    once: flags.once,
    asyncFaults: flags.asyncFaults,
    maxVms: flags.maxVms,
    onError: flags.onError,
    spin: flags.spin,
    handshakeTimeoutMs: flags.handshakeTimeout,
    ...(flags.workingSet === undefined ? {} : { workingSet: flags.workingSet }),
    prefault: flags.prefault,
    prefetch: flags.prefetch,
    streams: flags.streams,
    collapse: flags.collapse,
    recordForMs: flags.recordFor * 1000,
    logger: log,
    ...(flags.reportFolder === undefined ? {} : { reportFolder: flags.reportFolder }),
    ...(flags.owner === undefined ? {} : { owner: flags.owner }),
    ...(flags.trackDirty === undefined ? {} : { trackDirty: flags.trackDirty }),
    ...(flags.workers === undefined ? {} : { workers: flags.workers }),
  });
  lowerPriority(notFaultWorkers, NICE_BY);
  const stopSignals = stopOnSignals(server, log, flags.drainTimeout * 1000);
  const stopStats = reportStats(server, log, flags.statsInterval);
  announce(server, flags.json);
  if (flags.prefault === "before-resume") announcePrefaults(server, flags.json);
  const stopDashboard = await openDashboard(server, log, flags);
  tellServiceManager("READY=1", log);
  await server.ended;
  await stopDashboard();
  stopStats();
  stopSignals();
  if (server.hasCrashed) process.exitCode = ExitCode.internal;
  else if (flags.once && server.failedSessions > 0) process.exitCode = ExitCode.failed;
}

function announce(server: Server, asJson: boolean): void {
  const { sizeBytes, dataBytes } = server.memory;
  const line = asJson
    ? JSON.stringify({ event: "ready", socket: server.socketPath, sizeBytes, dataBytes })
    : `ready: ${server.socketPath} serves ${formatBytes(sizeBytes)} of guest memory, ` +
      `${formatBytes(dataBytes)} of it data`;
  process.stdout.write(`${line}\n`);
}

/** Prints where it is. Returns what ends it. */
async function openDashboard(
  server: Server,
  log: Logger,
  { dashboard: address, json }: ServeFlags,
): Promise<() => Promise<void>> {
  if (address === undefined) return async () => {};
  const { serveDashboard } = await import("../daemon/dashboard/serve-dashboard.ts");
  const dashboard = serveDashboard(server.watchable(packageVersion()), address, log);
  // The port may be somebody else's: VMs are served meanwhile.
  void dashboard.url.then((url) => {
    const line = json ? JSON.stringify({ event: "dashboard", url }) : `dashboard: ${url}`;
    process.stdout.write(`${line}\n`);
  });
  return dashboard.close;
}

/** For whoever resumes a VM only when its pages are there. */
function announcePrefaults(server: Server, asJson: boolean): void {
  server.onPrefaulted = ({ pid, stats }, { end }) => {
    const pages = stats.counters().prefaultedPages;
    const line = asJson
      ? JSON.stringify({ event: "prefaulted", pid, pages, end })
      : `prefaulted: ${pid} has ${pages} pages`;
    process.stdout.write(`${line}\n`);
  };
}

function reportStats(server: Server, log: Logger, seconds: number | undefined): () => void {
  if (seconds === undefined) return () => {};
  let last = server.totalStats();
  let lastRefused = server.refusedVms;
  const timer = setInterval(() => {
    const now = server.totalStats();
    const { sessions, refusedVms } = server;
    const interval = describeInterval(now.since(last), seconds, sessions.size);
    const refused = refusedVms - lastRefused;
    log.info({ ...interval, refused, ...server.cacheStatistics() }, "Statistics");
    last = now;
    lastRefused = refusedVms;
  }, seconds * 1000);
  return () => clearInterval(timer);
}
