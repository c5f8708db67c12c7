/**
 * `faultline restore`: has the daemon serve a snapshot to one VM, and says where. With a
 * Firecracker to start, restores the VM too, and stays with it.
 */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Command } from "commander";
import { FaultlineError } from "../base/errors.ts";
import type { ControlClient, CreatedSession } from "../daemon/control/client.ts";
import type { SessionSpec } from "../daemon/host-service.ts";
import { type PrefaultMode, prefaultModes } from "../daemon/prefault-mode.ts";
import type { SocketOwner } from "../daemon/socket-file.ts";
import { type ErrorPolicy, errorPolicies } from "../engine/wire.ts";
import {
  type ControlFlags,
  label,
  openClient,
  print,
  withControlOptions,
} from "./control-options.ts";
import { Firecracker, type LoadRequest } from "./firecracker.ts";
import { DEFAULT_CHROOT_BASE, Jail } from "./jail.ts";
import { oneOf, socketOwner, wholeNumber } from "./options.ts";

interface RestoreFlags extends ControlFlags {
  readonly layer: readonly string[];
  readonly id?: string;
  readonly label: Readonly<Record<string, string>>;
  readonly onError?: ErrorPolicy;
  readonly prefault?: PrefaultMode;
  readonly socket?: string;
  readonly owner?: SocketOwner;
  /** Seconds. */
  readonly connectWithin?: number;
  readonly recordFor?: number;
  readonly asyncFaults: boolean;
  readonly trace: boolean;
  readonly state?: string;
  readonly firecracker?: string;
  readonly jailer?: string;
  readonly jailId?: string;
  readonly chrootBase: string;
  readonly uid?: number;
  readonly gid?: number;
}

const LARGEST_ID = 2 ** 32 - 2;

export function restoreCommand(): Command {
  const append = (value: string, all: readonly string[]): readonly string[] => [...all, value];
  const command = new Command("restore")
    .description("have the daemon serve a snapshot to one VM; with --firecracker, restore the VM")
    .argument("<memory>", "the snapshot's full memory file, or an image")
    .option("--layer <file>", "a diff snapshot above it, lowest first; repeatable", append, [])
    .option("--id <id>", "the session's name: lower case letters, digits, - (default: random)")
    .option("--label <name=value>", "kept with the session; repeatable", label, {})
    .option(
      "--on-error <policy>",
      "when bytes of a page cannot be had: kill the VM, poison the page, or wait for them",
      oneOf("--on-error", errorPolicies),
    )
    .option(
      "--prefault <mode>",
      "install what earlier restores needed: before-resume, concurrent, all of memory, or off",
      oneOf("--prefault", prefaultModes),
    )
    .option("--socket <path>", "where the VMM connects (default: in the daemon's folder)")
    .option("--owner <user[:group]>", "whom the socket belongs to", socketOwner)
    .option(
      "--connect-within <s>",
      "end the session if no VM has connected by then; 0: never",
      wholeNumber("--connect-within", 0, 86_400),
    )
    .option(
      "--record-for <s>",
      "what the VM demands in this time is what a restore needs; 0: learn nothing",
      wholeNumber("--record-for", 0, 3600),
    )
    .option(
      "--async-faults",
      "listen on apf.socket beside the socket: for VMs with KVM Userfault",
      false,
    )
    .option(
      "--trace",
      "trace what is done for the VM from its coming on: `faultline trace`",
      false,
    );
  return withControlOptions(withVmmOptions(command))
    .addHelpText(
      "after",
      "\nExamples:\n  faultline restore vm.mem\n" +
        "  faultline restore web-1 --state vm.state --firecracker /usr/bin/firecracker\n" +
        "  faultline restore web-1 --state vm.state --firecracker /usr/bin/firecracker \\\n" +
        "    --jailer /usr/bin/jailer --jail-id web-1 --uid 1234 --gid 1234\n",
    )
    .action(restore);
}

function withVmmOptions(command: Command): Command {
  return command
    .option("--state <file>", "the snapshot's state file, for Firecracker")
    .option("--firecracker <program>", "start it, and load the snapshot; with a jail: its name")
    .option("--jailer <program>", "start Firecracker by its jailer")
    .option("--jail-id <id>", "the jail's id: the socket is in its folder, for its user")
    .option("--chroot-base <folder>", "where jails are", DEFAULT_CHROOT_BASE)
    .option("--uid <n>", "the jail's user", wholeNumber("--uid", 0, LARGEST_ID))
    .option("--gid <n>", "the jail's group", wholeNumber("--gid", 0, LARGEST_ID));
}

async function restore(memory: string, flags: RestoreFlags): Promise<void> {
  const jail = jailOf(flags);
  const starts = jail === null ? flags.firecracker !== undefined : flags.jailer !== undefined;
  if (starts && flags.state === undefined) {
    throw new FaultlineError("bad-option", "Firecracker needs the VM's state: give --state FILE.");
  }
  jail?.prepare();
  const client = openClient(flags);
  const session = await client.createSession(specOf(memory, flags, jail));
  const request = loadRequest(session, flags, jail);
  if (!starts) {
    print(flags, { session, request }, describe(session, request));
    return;
  }
  process.exitCode = await runVm(client, session, request, flags, jail);
}

/** @throws FaultlineError `bad-option` */
function jailOf(flags: RestoreFlags): Jail | null {
  const { jailId, jailer, chrootBase, firecracker, uid, gid } = flags;
  if (jailId === undefined) {
    if (jailer === undefined && uid === undefined && gid === undefined) return null;
    throw new FaultlineError("bad-option", "A jail is known by its id: give --jail-id ID.");
  }
  if (firecracker === undefined || uid === undefined || gid === undefined) {
    throw new FaultlineError("bad-option", "A jail needs --firecracker, --uid and --gid, too.");
  }
  if (flags.socket !== undefined || flags.owner !== undefined) {
    throw new FaultlineError(
      "bad-option",
      "In a jail the socket's place and owner are given: leave out --socket and --owner.",
    );
  }
  return new Jail({ id: jailId, chrootBase, firecracker, owner: { uid, gid } });
}

function specOf(memory: string, flags: RestoreFlags, jail: Jail | null): SessionSpec {
  const socketPath =
    jail?.socketPath ?? (flags.socket === undefined ? undefined : resolve(flags.socket));
  const owner = jail?.owner ?? flags.owner;
  return {
    memory: forTheDaemon(memory),
    ...(flags.layer.length === 0 ? {} : { layers: flags.layer.map((layer) => resolve(layer)) }),
    ...(flags.id === undefined ? {} : { id: flags.id }),
    ...(flags.onError === undefined ? {} : { onError: flags.onError }),
    ...(flags.prefault === undefined ? {} : { prefault: flags.prefault }),
    ...(socketPath === undefined ? {} : { socketPath }),
    ...(owner === undefined ? {} : { owner }),
    ...(flags.connectWithin === undefined ? {} : { connectWithinS: flags.connectWithin }),
    ...(flags.recordFor === undefined ? {} : { recordForS: flags.recordFor }),
    ...(flags.asyncFaults ? { asyncFaults: true } : {}),
    ...(flags.trace ? { trace: true } : {}),
    ...(Object.keys(flags.label).length === 0 ? {} : { labels: flags.label }),
  };
}

/** The daemon has another working folder. What is a file of ours is meant as one, as by `serve`. */
function forTheDaemon(memory: string): string {
  const isFolder = memory.startsWith("dir:");
  if (isFolder) return `dir:${resolve(memory.slice("dir:".length))}`;
  if (/^[a-z][a-z0-9]+(\+[a-z]+)?:/.test(memory)) return memory;
  return memory.includes("/") || existsSync(memory) ? resolve(memory) : memory;
}

function loadRequest(
  session: CreatedSession,
  { state, jailer }: RestoreFlags,
  jail: Jail | null,
): LoadRequest {
  const snapshotPath = jail !== null && jailer !== undefined ? jail.stateInside : state;
  const backendPath = jail?.socketInside ?? session.firecracker.backend_path;
  return {
    ...(snapshotPath === undefined ? {} : { snapshot_path: snapshotPath }),
    mem_backend: { ...session.firecracker, backend_path: backendPath },
    resume_vm: true,
  };
}

function describe({ id, socketPath }: CreatedSession, request: LoadRequest): string {
  const missing = request.snapshot_path === undefined ? ", with your snapshot_path" : "";
  return (
    `session ${id} waits for its VM at ${socketPath}\n` +
    `Firecracker: PUT /snapshot/load${missing}\n${JSON.stringify(request)}\n`
  );
}

/** Returns the exit code of Firecracker. Whatever goes wrong, no session is left waiting. */
async function runVm(
  client: ControlClient,
  session: CreatedSession,
  request: LoadRequest,
  flags: RestoreFlags,
  jail: Jail | null,
): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), "faultline-restore-"));
  const startMs = performance.now();
  try {
    const apiSocket = jail?.apiSocket ?? join(folder, "api.sock");
    if (jail !== null) jail.addState(flags.state!);
    const argv =
      jail === null ? [flags.firecracker!, "--api-sock", apiSocket] : jail.command(flags.jailer!);
    await using vm = new Firecracker(argv, apiSocket);
    await vm.load(request);
    const { id } = session;
    const durationMs = Math.round(performance.now() - startMs);
    const restored = { event: "restored", id, pid: vm.pid, durationMs };
    print(flags, restored, `restored: session ${id}, process ${vm.pid}, in ${durationMs} ms\n`);
    return await vm.exitCode();
  } catch (error) {
    await client.killSession(session.id).catch(() => undefined);
    throw error;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
