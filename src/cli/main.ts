#!/usr/bin/env node
/** The command line: argv in, exit code out. One place renders errors. */
import { Command, CommanderError } from "commander";
import { describeError, ExitCode, FaultlineError } from "../base/errors.ts";
import { packageVersion } from "../daemon/package-version.ts";

/** Loading a command takes longer than running some of them: only the one that is asked for. */
const loaders: ReadonlyMap<string, () => Promise<Command>> = new Map([
  ["demo", async () => (await import("./demo.ts")).demoCommand()],
  ["serve", async () => (await import("./serve.ts")).serveCommand()],
  ["restore", async () => (await import("./restore.ts")).restoreCommand()],
  ["ps", async () => (await import("./ps.ts")).psCommand()],
  ["show", async () => (await import("./ps.ts")).showCommand()],
  ["trace", async () => (await import("./trace.ts")).traceCommand()],
  ["why", async () => (await import("./why.ts")).whyCommand()],
  ["top", async () => (await import("./top.ts")).topCommand()],
  ["dashboard", async () => (await import("./dashboard.ts")).dashboardCommand()],
  ["complete", async () => (await import("./session-control.ts")).completeCommand()],
  ["detach", async () => (await import("./session-control.ts")).detachCommand()],
  ["kill", async () => (await import("./session-control.ts")).killCommand()],
  ["daemon", async () => (await import("./daemon.ts")).daemonCommand()],
  ["rescue", async () => (await import("./rescue.ts")).rescueCommand()],
  ["conformance", async () => (await import("./conformance.ts")).conformanceCommand()],
  ["doctor", async () => (await import("./doctor.ts")).doctorCommand()],
  ["image", async () => (await import("./image.ts")).imageCommand()],
  ["bench", async () => (await import("./bench.ts")).benchCommand()],
]);

async function createProgram(requested: string | undefined): Promise<Command> {
  const program = new Command("faultline")
    .description("Restores microVM snapshots lazily: answers the page faults of their guests.")
    .version(packageVersion(), "--version");
  const only = loaders.get(requested ?? "");
  for (const load of only === undefined ? loaders.values() : [only]) {
    program.addCommand(await load());
  }
  // Commander's own exit would skip whatever still has to be written or closed.
  for (const command of withSubcommands(program)) {
    command.exitOverride().showHelpAfterError("(--help lists the options)");
  }
  return program;
}

function withSubcommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(withSubcommands)];
}

function exitCodeOf(error: unknown): number {
  // Commander has printed its own message already; --help and --version count as success.
  if (error instanceof CommanderError) return error.exitCode === 0 ? ExitCode.ok : ExitCode.usage;
  if (error instanceof FaultlineError) {
    process.stderr.write(`faultline: ${describeError(error)}\n`);
    return error.exitCode;
  }
  process.stderr.write(`faultline: internal error: ${(error as Error).stack ?? String(error)}\n`);
  return ExitCode.internal;
}

// `faultline … | head` ends quietly, as every tool in a pipe does.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(process.exitCode ?? ExitCode.ok);
});

try {
  const program = await createProgram(process.argv[2]);
  await program.parseAsync();
} catch (error) {
  process.exitCode = exitCodeOf(error);
}
