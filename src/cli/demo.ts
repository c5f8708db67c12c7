/**
 * `faultline demo`: boots a small VM, takes a snapshot, restores it without its memory, and serves
 * the missing pages from this process, until the guest's own checksum says that all is well.
 */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { ExitCode } from "../base/errors.ts";
import { formatBytes, MIB } from "../base/units.ts";
import { createLogger } from "../daemon/log.ts";
import { countPages, type MapRange, type PageCounts } from "../daemon/memory-map.ts";
import { Server } from "../daemon/server.ts";
import { formatUs } from "../daemon/session-report.ts";
import type { Session } from "../engine/session.ts";
import { DEFAULT_SLOWNESS, DemoDashboard } from "./demo-dashboard.ts";
import { describePack, packMemory } from "./demo-image.ts";
import { eventNamed, runTinyVm, type VmEvent } from "./demo-vm.ts";
import { drawMemory, legend } from "./memory-picture.ts";
import { loopbackAddress, oneOf, wholeNumber } from "./options.ts";

/** A second or two, when it is not slowed down. */
const RESTORE_DEADLINE_MS = 60_000;

interface DemoFlags {
  readonly memoryMib: number;
  readonly fill: number;
  readonly workingSet: number;
  readonly guest: "auto" | "kvm" | "process";
  readonly image: boolean;
  readonly json: boolean;
  readonly dashboard?: string | true;
  readonly slowness: number;
}

export function demoCommand(): Command {
  return new Command("demo")
    .description("restore a small VM lazily and show what happened")
    .option(
      "--memory-mib <n>",
      "guest RAM, a multiple of 2",
      wholeNumber("--memory-mib", 2, 4096),
      128,
    )
    .option("--fill <percent>", "how much of it holds data", wholeNumber("--fill", 0, 100), 50)
    .option(
      "--working-set <percent>",
      "how much of it the guest reads after the restore",
      wholeNumber("--working-set", 1, 100),
      10,
    )
    .option(
      "--guest <kind>",
      "kvm, process (no virtual machine), or auto",
      oneOf("--guest", ["auto", "kvm", "process"]),
      "auto",
    )
    .option("--image", "pack the memory as an image, and restore from that", false)
    .option(
      "--dashboard [host:port]",
      "show it in a browser while it happens, slowly (default: a free port of this host)",
      loopbackAddress,
    )
    .option(
      "--slowness <n>",
      "how many times slower the guest runs with --dashboard",
      wholeNumber("--slowness", 1, 1000),
      DEFAULT_SLOWNESS,
    )
    .option("--json", "print the numbers as JSON", false)
    .addHelpText(
      "after",
      "\nExamples:\n  faultline demo --memory-mib 512 --working-set 5\n" +
        "  faultline demo --dashboard\n",
    )
    .action(demo);
}

/** Everything that the demo found out. */
interface DemoResult {
  readonly boot: VmEvent;
  readonly guest: VmEvent | undefined;
  readonly restore: readonly VmEvent[];
  readonly session: Session;
  readonly server: Server;
  /** Null: nobody wants to look. */
  readonly dashboard: DemoDashboard | null;
}

async function demo(flags: DemoFlags): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "faultline-demo-"));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  // A signal without a handler asks no `exit`: the folder would stay, and a VM that is stopped.
  for (const signal of stopSignals) process.on(signal, stopBy[signal]);
  const say = (text: string): void => {
    if (!flags.json) process.stdout.write(`${text}\n`);
  };
  // What somebody has to know who is to do something: with --json it goes beside the numbers.
  const tell = (text: string): void => {
    (flags.json ? process.stderr : process.stdout).write(`${text}\n`);
  };

  say("1. Booting a small VM and letting its guest fill some memory …");
  const boot = await runTinyVm([
    ...["boot", "--out", folder, "--guest", flags.guest],
    ...["--memory-mib", String(flags.memoryMib), "--fill", String(flags.fill)],
    ...["--working-set", String(flags.workingSet)],
  ]);
  const snapshot = eventNamed(boot, "snapshot");
  const guest = boot.find(({ event }) => event === "guest");
  say(describeBoot(snapshot, guest));

  let memory = String(snapshot.memoryFile);
  if (flags.image) {
    const packed = await packMemory(folder, memory);
    say(describePack(packed));
    memory = packed.image;
  }

  say("2. Restoring it in a new process with no memory at all; this process serves the faults …");
  const result = await restore(folder, memory, { boot: snapshot, guest, flags, tell });
  if (flags.json) process.stdout.write(`${JSON.stringify(summary(result))}\n`);
  else for (const line of describeRestore(result)) say(line);
  if (!isProven(result)) process.exitCode = ExitCode.failed;
  if (result.dashboard !== null) {
    tell("\nThe browser shows how its memory was left. Ctrl-C ends the demo.");
    await ctrlC();
    await result.dashboard.close();
  }
  for (const signal of stopSignals) process.off(signal, stopBy[signal]);
}

/** What ends the demo at any moment: `exit` is asked for, and whoever cleans up hears of it. */
const stopBy = {
  SIGINT: () => process.exit(128 + constants.signals.SIGINT),
  SIGTERM: () => process.exit(128 + constants.signals.SIGTERM),
  SIGHUP: () => process.exit(128 + constants.signals.SIGHUP),
};
const stopSignals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** Resolves when the user has had enough. Other signals end the demo as before. */
async function ctrlC(): Promise<void> {
  // Before the other goes: without any, a signal ends the process at once.
  const told = once(process, "SIGINT");
  process.off("SIGINT", stopBy.SIGINT);
  // A signal alone keeps no process alive.
  const alive = setInterval(() => {}, 60_000);
  await told;
  process.on("SIGINT", stopBy.SIGINT);
  clearInterval(alive);
}

/** What a restore is told of. */
interface DemoScene {
  readonly boot: VmEvent;
  readonly guest: VmEvent | undefined;
  readonly flags: DemoFlags;
  readonly tell: (text: string) => void;
}

async function restore(
  folder: string,
  memory: string,
  { boot, guest, flags, tell }: DemoScene,
): Promise<DemoResult> {
  const server = await Server.start({
    memory,
    socketPath: join(folder, "uffd.sock"),
    once: true,
    logger: createLogger("warn", "auto"),
    // What the guest writes is to be seen, too.
    ...(flags.dashboard === undefined ? {} : { trackDirty: folder }),
  });
  const { dashboard: address, slowness } = flags;
  let dashboard: DemoDashboard | null = null;
  try {
    if (address !== undefined) {
      dashboard = await DemoDashboard.open(server, { address, slowness, say: tell });
    }
    let vmPid = 0;
    const attached = new Promise<Session>((resolve) => {
      server.onSession = (session) => {
        // A VM that is gone already: its end says what is to be said.
        dashboard?.present(vmPid).catch(() => {});
        resolve(session);
      };
    });
    const args = ["restore", "--dir", folder, "--socket", server.socketPath];
    const events = await runTinyVm([...args, "--guest", flags.guest], {
      onStart: (pid) => {
        vmPid = pid;
      },
      deadlineMs: RESTORE_DEADLINE_MS * (dashboard === null ? 1 : slowness),
    });
    const session = await attached;
    await session.ended;
    return { boot, guest, restore: events, session, server, dashboard };
  } catch (error) {
    await dashboard?.close();
    throw error;
  } finally {
    await server.close();
  }
}

function isProven({ restore: events }: DemoResult): boolean {
  return ["checksum", "after-write"].every((name) => {
    const { value, expected } = eventNamed(events, name);
    return value === expected;
  });
}

function summary(result: DemoResult): Record<string, unknown> {
  const { session, server, restore: events } = result;
  const counters = session.stats.counters();
  const { pageSizeBytes, totalBytes } = session.regions;
  return {
    guest: result.boot.guest,
    isProven: isProven(result),
    checksum: eventNamed(events, "checksum").value,
    memoryBytes: totalBytes,
    dataBytes: server.memory.dataBytes,
    ...counters,
    loadedBytes: counters.installedPages * pageSizeBytes,
    neverLoadedBytes: server.memory.dataBytes - counters.installedPages * pageSizeBytes,
    p50Us: session.stats.latencyUs(0.5),
    p99Us: session.stats.latencyUs(0.99),
    firstInstructionUs: eventNamed(events, "first-instruction").us,
    completionUs: eventNamed(events, "done").us,
  };
}

function describeBoot(snapshot: VmEvent, guest: VmEvent | undefined): string {
  const kind =
    snapshot.guest === "kvm"
      ? "It runs on KVM."
      : "There is no virtual machine: a plain process plays the guest" +
        `${guest?.reason === undefined ? "" : ` (${String(guest.reason)})`}.`;
  const bytes = Number(snapshot.memoryBytes);
  const filled = Number(snapshot.filledPages) * Number(snapshot.pageSizeBytes);
  return (
    `   ${kind} Snapshot: ${formatBytes(bytes)} of memory, ${formatBytes(filled)} of it data.\n` +
    `   The guest's checksum before: ${String(snapshot.checksum)}`
  );
}

function describeRestore(result: DemoResult): string[] {
  const { session, server, restore: events } = result;
  const counters = session.stats.counters();
  const { pageSizeBytes, totalBytes } = session.regions;
  const loadedBytes = counters.installedPages * pageSizeBytes;
  const touched = counters.installedPages + counters.zeroPages;
  const time = (event: string): string => formatUs(Number(eventNamed(events, event).us));
  return [
    `   The guest's checksum after:  ${String(eventNamed(events, "checksum").value)}   ` +
      (isProven(result) ? "the same: every byte it read was right" : "DIFFERENT: wrong bytes"),
    "",
    "3. What happened",
    `   The guest ran its first instruction after ${time("first-instruction")}, finished after ` +
      `${time("done")}.`,
    `   It touched ${touched} of ${totalBytes / pageSizeBytes} pages: ${counters.faults} faults.`,
    `   Each was answered in ${formatUs(session.stats.latencyUs(0.5))} (half of them), ` +
      `${formatUs(session.stats.latencyUs(0.99))} (99 of 100), wake-up not counted.`,
    `   Loaded: ${formatBytes(loadedBytes)}. Never loaded: ` +
      `${formatBytes(server.memory.dataBytes - loadedBytes)} of ` +
      `${formatBytes(server.memory.dataBytes)} of data. Zero without loading: ` +
      `${counters.zeroPages} pages.`,
    "",
    ...describePicture(session, server),
  ];
}

const PICTURE_WIDTH = 64;
const PICTURE_CELLS = 4 * PICTURE_WIDTH;

function describePicture(session: Session, server: Server): string[] {
  const { pageSizeBytes, totalBytes } = session.regions;
  const pages = totalBytes / pageSizeBytes;
  // The guest's RAM begins after the 2 MiB of its program and page tables.
  const zoomed: MapRange = {
    firstPage: (2 * MIB) / pageSizeBytes,
    pageCount: Math.min(PICTURE_CELLS, pages - (2 * MIB) / pageSizeBytes),
  };
  const draw = (range: MapRange): string[] => {
    const cells: PageCounts[] = countPages(
      session.pageTable,
      server.image.runs,
      pageSizeBytes,
      range,
      Math.min(PICTURE_CELLS, range.pageCount),
    );
    return drawMemory(cells, PICTURE_WIDTH).map((row) => `   ${row}`);
  };
  return [
    `   All of guest memory, ${Math.round(pages / PICTURE_CELLS)} pages a cell:`,
    ...draw({ firstPage: 0, pageCount: pages }),
    `   ${zoomed.pageCount} pages of it, one a cell:`,
    ...draw(zoomed),
    `   ${legend()}`,
  ];
}
