/** `faultline daemon`: serves a host of VMs, and survives its own pager. */
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import {
  createLogger,
  type LogFormat,
  type LogLevel,
  logFormats,
  logLevels,
} from "../daemon/log.ts";
import { loadSettings, type SettingsSource } from "../daemon/settings.ts";
import type { SocketOwner } from "../daemon/socket-file.ts";
import { Supervisor } from "../supervisor/supervisor.ts";
import { daemonControlCommands } from "./daemon-control.ts";
import { oneOf, socketOwner, wholeNumber } from "./options.ts";

interface DaemonFlags {
  readonly config?: string;
  readonly runFolder?: string;
  readonly memoryFolder: readonly string[];
  readonly store: readonly string[];
  readonly socketFolder: readonly string[];
  readonly controlOwner?: SocketOwner;
  readonly controlMode?: string;
  readonly cacheSize?: number;
  readonly cacheDir?: string;
  readonly workers?: number;
  readonly maxSessions?: number;
  readonly metrics?: string;
  readonly dashboard?: string;
  readonly log?: LogLevel;
  readonly logFormat?: LogFormat;
  readonly standby: boolean;
}

const PAGER = fileURLToPath(new URL("../daemon/pager.js", import.meta.url));

export function daemonCommand(): Command {
  const append = (value: string, all: readonly string[]): readonly string[] => [...all, value];
  const command = new Command("daemon")
    .description("serve many VMs, with a control socket, and survive the death of the pager")
    .option("--config <file>", "settings as JSON (docs/DAEMON.md); options here win")
    .option(
      "--run-folder <folder>",
      "for sockets and the lock (default: /run/faultline, or $XDG_RUNTIME_DIR/faultline)",
    )
    .option("--memory-folder <folder>", "memory may lie in here; repeatable", append, [])
    .option(
      "--store <place>",
      "a store of images; the first is the default; repeatable",
      append,
      [],
    )
    .option("--socket-folder <folder>", "sockets may be created in here; repeatable", append, [])
    .option("--control-owner <user[:group]>", "who may use the control socket", socketOwner)
    .option("--control-mode <mode>", "of the control socket, such as 0660 (default: 0600)")
    .option(
      "--cache-size <MiB>",
      "memory for decoded chunks",
      wholeNumber("--cache-size", 4, 65_536),
    )
    .option("--cache-dir <folder>", "keep chunks of stores elsewhere on this host")
    .option("--workers <n>", "fault threads", wholeNumber("--workers", 1, 64))
    .option(
      "--max-sessions <n>",
      "sessions at the same time",
      wholeNumber("--max-sessions", 1, 100_000),
    )
    .option("--metrics <host:port>", "serve metrics over TCP too: to whoever can connect")
    .option("--dashboard <host:port>", "serve the dashboard to browsers: 127.0.0.1:7433")
    .option("--no-standby", "start the next pager only when this one has died: less memory")
    .option("--log <level>", logLevels.join(", "), oneOf("--log", logLevels))
    .option("--log-format <format>", logFormats.join(", "), oneOf("--log-format", logFormats))
    .addHelpText(
      "after",
      "\nExample:\n  faultline daemon --memory-folder /var/lib/snapshots\n" +
        "  faultline restore /var/lib/snapshots/vm.mem\n",
    )
    .action(runDaemon);
  for (const each of daemonControlCommands()) command.addCommand(each);
  return command;
}

async function runDaemon(flags: DaemonFlags): Promise<void> {
  const given = sourceOf(flags);
  // What is wrong is told here, once, and not by a pager that is started again and again.
  const { runFolder, log, logFormat } = loadSettings(given);
  // The lock and the sockets are there: a pager that reads the file anew must not look elsewhere.
  const source: SettingsSource = { ...given, overrides: { ...given.overrides, runFolder } };
  const logger = createLogger(log, logFormat);
  process.exitCode = await Supervisor.run({
    pager: { command: process.execPath, args: [PAGER, JSON.stringify(source)] },
    runFolder,
    hasStandby: flags.standby,
    log: (level, message, fields = {}) => logger[level](fields, message),
  });
}

/** What was not given is the configuration file's, or the default. */
function sourceOf(flags: DaemonFlags): SettingsSource {
  const { config, controlOwner, controlMode, runFolder, workers, maxSessions } = flags;
  const overrides = {
    ...{ runFolder, controlOwner, controlMode, workers, maxSessions },
    memoryFolders: listOr(flags.memoryFolder),
    stores: listOr(flags.store),
    socketFolders: listOr(flags.socketFolder),
    cacheMiB: flags.cacheSize,
    cacheFolder: flags.cacheDir,
    metricsAddress: flags.metrics,
    dashboardAddress: flags.dashboard,
    log: flags.log,
    logFormat: flags.logFormat,
  };
  const given = Object.entries(overrides).filter(([, value]) => value !== undefined);
  return { file: config ?? null, overrides: Object.fromEntries(given) };
}

function listOr(list: readonly string[]): string[] | undefined {
  return list.length === 0 ? undefined : [...list];
}
