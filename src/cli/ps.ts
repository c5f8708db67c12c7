/** `faultline ps` and `faultline show`: the daemon's sessions. */
import { Command } from "commander";
import {
  type ControlFlags,
  findSession,
  label,
  openClient,
  print,
  VM_ARGUMENT,
  withControlOptions,
} from "./control-options.ts";
import { describeSession, describeSessions } from "./session-text.ts";

interface PsFlags extends ControlFlags {
  readonly all: boolean;
  readonly label: Readonly<Record<string, string>>;
}

export function psCommand(): Command {
  const command = new Command("ps")
    .description("list the sessions of the daemon")
    .option("--all", "also the last that have ended", false)
    .option("--label <name=value>", "only those that have it; repeatable", label, {});
  return withControlOptions(command)
    .addHelpText("after", "\nExample:\n  faultline ps --label tenant=7\n")
    .action(async (flags: PsFlags) => {
      const filter = { withEnded: flags.all, labels: flags.label };
      const sessions = await openClient(flags).sessions(filter);
      print(flags, { sessions }, describeSessions(sessions, Date.now()));
    });
}

export function showCommand(): Command {
  const command = new Command("show")
    .description("show one session of the daemon")
    .argument("<vm>", VM_ARGUMENT);
  return withControlOptions(command)
    .addHelpText("after", "\nExample:\n  faultline show 3f2a\n")
    .action(async (vm: string, flags: ControlFlags) => {
      const session = await findSession(openClient(flags), vm);
      print(flags, session, describeSession(session));
    });
}
