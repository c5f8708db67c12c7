/** `faultline complete`, `detach` and `kill`: what becomes of a session of the daemon. */
import { setTimeout as delay } from "node:timers/promises";
import { Command } from "commander";
import { ExitCode, FaultlineError } from "../base/errors.ts";
import type { ControlClient } from "../daemon/control/client.ts";
import type { SessionView } from "../daemon/host-service.ts";
import {
  type ControlFlags,
  findSession,
  openClient,
  print,
  VM_ARGUMENT,
  withControlOptions,
} from "./control-options.ts";
import { wholeNumber } from "./options.ts";

interface CompleteFlags extends ControlFlags {
  readonly wait: boolean;
  /** Seconds. */
  readonly timeout: number;
}

interface DetachFlags extends ControlFlags {
  readonly force: boolean;
}

const DEFAULT_WAIT_S = 600;
const MAX_WAIT_S = 86_400;
const LOOK_EVERY_MS = 100;

export function completeCommand(): Command {
  const command = new Command("complete")
    .description("install all of a VM's memory, and let the VM go when all is there")
    .argument("<vm>", VM_ARGUMENT)
    .option("--wait", "return when the VM is let go", false)
    .option(
      "--timeout <s>",
      "how long --wait waits",
      wholeNumber("--timeout", 1, MAX_WAIT_S),
      DEFAULT_WAIT_S,
    );
  return withControlOptions(command)
    .addHelpText("after", "\nExample:\n  faultline complete 3f2a --wait\n")
    .action(complete);
}

export function detachCommand(): Command {
  const command = new Command("detach")
    .description("let a VM go now")
    .argument("<vm>", VM_ARGUMENT)
    .option("--force", "also with pages missing: the VM freezes at the next of them", false);
  return withControlOptions(command)
    .addHelpText("after", "\nExample: a VM that has all of its pages\n  faultline detach 3f2a\n")
    .action(async (vm: string, flags: DetachFlags) => {
      const client = openClient(flags);
      const { id } = await findSession(client, vm);
      const session = await client.detachSession(id, flags.force);
      print(flags, session, `${id}: let go\n`);
    });
}

export function killCommand(): Command {
  const command = new Command("kill")
    .description("kill a VM, or end a session that waits for its VM")
    .argument("<vm>", VM_ARGUMENT);
  return withControlOptions(command)
    .addHelpText("after", '\nExample:\n  faultline kill "$(pidof firecracker)"\n')
    .action(async (vm: string, flags: ControlFlags) => {
      const client = openClient(flags);
      const { id } = await findSession(client, vm);
      const session = await client.killSession(id);
      print(flags, session, `${id}: ${session.end?.reason ?? session.state}\n`);
    });
}

async function complete(vm: string, flags: CompleteFlags): Promise<void> {
  const client = openClient(flags);
  const { id } = await findSession(client, vm);
  const begun = await client.completeSession(id);
  if (!flags.wait) {
    print(flags, begun, `${id}: installs all of its memory\n`);
    return;
  }
  const session = await untilEnded(client, begun, flags.timeout);
  const reason = session.end?.reason ?? session.state;
  print(flags, session, `${id}: ${reason}\n`);
  if (reason !== "complete") process.exitCode = ExitCode.failed;
}

async function untilEnded(
  client: ControlClient,
  begun: SessionView,
  timeoutS: number,
): Promise<SessionView> {
  const endMs = performance.now() + timeoutS * 1000;
  let session = begun;
  while (session.state !== "ended") {
    if (performance.now() > endMs) {
      const missing = session.vm?.pages.missing ?? 0;
      throw new FaultlineError(
        "conflict",
        `${session.id} still lacks ${missing} pages after ${timeoutS} s. It goes on: see ` +
          `\`faultline show ${session.id}\`, or wait longer with --timeout.`,
      );
    }
    await delay(LOOK_EVERY_MS);
    session = await client.session(session.id);
  }
  return session;
}
