/** `faultline daemon status|reload|drain|undrain`: the daemon itself, by its control socket. */
import { Command } from "commander";
import { ExitCode, FaultlineError } from "../base/errors.ts";
import type { ControlClient } from "../daemon/control/client.ts";
import type { HostView } from "../daemon/host-service.ts";
import { type ControlFlags, openClient, print, withControlOptions } from "./control-options.ts";
import { formatTable } from "./table.ts";

/** Subcommands of `faultline daemon`. */
export function daemonControlCommands(): Command[] {
  return [
    controlCommand(
      "status",
      "show the daemon: its sessions, fault workers, and how often its pager was replaced",
      async (client, flags) => {
        const host = await client.host();
        print(flags, host, describeHost(host));
        await failUnlessHealthy(client);
      },
    ),
    controlCommand(
      "reload",
      "replace the pager by a new one, with new code and configuration; VMs stall for a moment",
      async (client, flags) => {
        const host = await client.reload();
        print(flags, host, `reloaded: the pager is process ${host.pid}\n`);
      },
    ),
    controlCommand("drain", "take no more sessions; those that are there go on", drainTo(true)),
    controlCommand("undrain", "take sessions again", drainTo(false)),
  ];
}

type Work = (client: ControlClient, flags: ControlFlags) => Promise<void>;

function controlCommand(name: string, description: string, work: Work): Command {
  return withControlOptions(new Command(name).description(description))
    .addHelpText("after", `\nExample:\n  faultline daemon ${name}\n`)
    .action(async (flags: ControlFlags) => await work(openClient(flags), flags));
}

function drainTo(isDraining: boolean): Work {
  return async (client, flags) => {
    const host = await client.drain(isDraining);
    const { waiting, attached } = host.sessions;
    const what = host.isDraining ? "takes no more sessions" : "takes sessions";
    print(flags, host, `the daemon ${what}; ${waiting} wait, ${attached} are attached\n`);
  };
}

async function failUnlessHealthy(client: ControlClient): Promise<void> {
  try {
    await client.health();
  } catch (error) {
    if (!(error instanceof FaultlineError)) throw error;
    process.stderr.write(`faultline: ${error.message}\n`);
    process.exitCode = ExitCode.failed;
  }
}

function describeHost(host: HostView): string {
  const { waiting, attached } = host.sessions;
  return formatTable([
    ["version", host.version],
    ["pager", `process ${host.pid}`],
    ["started", host.startedAt],
    ["takeovers", String(host.takeovers)],
    ["sessions", `${attached} attached, ${waiting} waiting, at most ${host.maxSessions}`],
    ["takes more", host.isDraining ? "no: it drains" : "yes"],
    ["fault workers", `${host.workers.alive} of ${host.workers.started} alive`],
  ]);
}
