/** `faultline rescue`: takes over a VM whose page-fault handler has died. */
import { Command } from "commander";
import { ExitCode } from "../base/errors.ts";
import { formatBytes, GIB, MIB, SMALL_PAGE_BYTES } from "../base/units.ts";
import {
  createLogger,
  type LogFormat,
  type LogLevel,
  logFormats,
  logLevels,
} from "../daemon/log.ts";
import { NICE_BY } from "../daemon/priority.ts";
import { Rescue } from "../daemon/rescue.ts";
import { type ErrorPolicy, errorPolicies } from "../engine/wire.ts";
import { lowerPriority, threadIds } from "../linux/scheduling.ts";
import type { GuestRegion } from "../snapshot/regions.ts";
import { withImageOptions } from "./memory-options.ts";
import { memoryRegion, oneOf, wholeNumber } from "./options.ts";
import { DEFAULT_DRAIN_TIMEOUT_S, stopOnSignals, tellServiceManager } from "./serving.ts";

interface RescueFlags {
  readonly pid: number;
  readonly memory: string;
  readonly layer: readonly string[];
  readonly store?: string;
  /** MiB. */
  readonly cacheSize: number;
  readonly cacheDir?: string;
  /** GiB. */
  readonly cacheDirSize: number;
  readonly fd?: number;
  readonly region: readonly GuestRegion[];
  /** False: nothing was given back. */
  readonly balloon: boolean;
  readonly unproven: boolean;
  readonly force: boolean;
  readonly prefault: "off" | "all";
  readonly onError: ErrorPolicy;
  /** Seconds. */
  readonly drainTimeout: number;
  readonly log: LogLevel;
  readonly logFormat: LogFormat;
  readonly json: boolean;
}

/** See proc(5): the most that pid_max can be. */
const LARGEST_PID = 2 ** 22;
const LARGEST_FD = 2 ** 31 - 1;

export function rescueCommand(): Command {
  const append = (value: string, all: readonly string[]): readonly string[] => [...all, value];
  const command = new Command("rescue")
    .description("take over a VM whose page-fault handler, of whatever kind, has died")
    .requiredOption("--pid <pid>", "the VMM's process", wholeNumber("--pid", 1, LARGEST_PID))
    .requiredOption("--memory <file>", "what the VM was restored from: a memory file or an image")
    .option("--layer <file>", "a diff snapshot above it, lowest first; repeatable", append, [])
    .option("--no-balloon", "the VM has given no memory back to the host since its restore")
    .option(
      "--region <base:size:offset>",
      "a region of guest memory, where it cannot be found out; repeatable, all of them",
      memoryRegion,
      [],
    )
    .option(
      "--fd <n>",
      "the VMM's descriptor of the userfaultfd, if it has several",
      wholeNumber("--fd", 0, LARGEST_FD),
    )
    .option("--unproven", "go on though no page of the VM is as in the memory file", false)
    .option(
      "--force",
      "go on though another process holds the userfaultfd: it never reads it",
      false,
    )
    .option(
      "--prefault <mode>",
      "all: install all memory, let the VM go, and end; or off",
      oneOf("--prefault", ["off", "all"]),
      "off",
    )
    .option(
      "--on-error <policy>",
      "when bytes of a page cannot be had: kill the VM, poison the page, or wait for them",
      oneOf("--on-error", errorPolicies),
      "kill",
    )
    .option(
      "--drain-timeout <s>",
      "how long SIGTERM waits for the VM to end",
      wholeNumber("--drain-timeout", 0, 86_400),
      DEFAULT_DRAIN_TIMEOUT_S,
    )
    .option("--log <level>", logLevels.join(", "), oneOf("--log", logLevels), "info")
    .option(
      "--log-format <format>",
      logFormats.join(", "),
      oneOf("--log-format", logFormats),
      "auto",
    )
    .option("--json", "print the ready line as JSON", false);
  return withImageOptions(command)
    .addHelpText(
      "after",
      "\nExample: the handler of a Firecracker VM was killed, and its guest stands still\n" +
        '  faultline rescue --pid "$(pidof firecracker)" --memory vm.mem --no-balloon\n',
    )
    .action(rescue);
}

async function rescue(flags: RescueFlags): Promise<void> {
  const log = createLogger(flags.log, flags.logFormat);
  const notFaultWorkers = threadIds();
  const rescued = await Rescue.start({
    pid: flags.pid,
    memory: flags.memory,
    layers: flags.layer,
    ...(flags.store === undefined ? {} : { store: flags.store }),
    cacheBytes: flags.cacheSize * MIB,
    ...(flags.cacheDir === undefined ? {} : { cacheFolder: flags.cacheDir }),
    cacheFolderBytes: flags.cacheDirSize * GIB,
    ...(flags.fd === undefined ? {} : { fd: flags.fd }),
    regions: flags.region,
    hasNoBalloon: !flags.balloon,
    isUnproven: flags.unproven,
    isForced: flags.force,
    completes: flags.prefault === "all",
    onError: flags.onError,
    logger: log,
  });
  lowerPriority(notFaultWorkers, NICE_BY);
  const stopSignals = stopOnSignals(rescued, log, flags.drainTimeout * 1000);
  announce(rescued, flags.json);
  tellServiceManager("READY=1", log);
  await rescued.ended;
  stopSignals();
  if (rescued.hasFailed) process.exitCode = ExitCode.failed;
}

function announce({ session, presentPages, waitingThreads }: Rescue, asJson: boolean): void {
  const { pid, regions } = session;
  const sizeBytes = regions.totalBytes;
  const presentBytes = presentPages * SMALL_PAGE_BYTES;
  const line = asJson
    ? JSON.stringify({ event: "ready", pid, sizeBytes, presentBytes, waitingThreads })
    : `ready: ${pid} goes on with ${formatBytes(presentBytes)} of ${formatBytes(sizeBytes)} ` +
      `there; ${waitingThreads} of its threads had waited`;
  process.stdout.write(`${line}\n`);
}
