#!/usr/bin/env node
/** The command line: argv in, exit code out. One place renders errors. */
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { describeError, ExitCode, FaultlineError } from "../base/errors.ts";
import { demoCommand } from "./demo.ts";
import { doctorCommand } from "./doctor.ts";
import { serveCommand } from "./serve.ts";

function createProgram(): Command {
  const program = new Command("faultline")
    .description("Restores microVM snapshots lazily: answers the page faults of their guests.")
    .version(packageVersion(), "--version")
    .showHelpAfterError("(--help lists the options)");
  for (const command of [demoCommand(), serveCommand(), doctorCommand()]) {
    program.addCommand(command);
  }
  // Commander's own exit would skip whatever still has to be written or closed.
  for (const command of [program, ...program.commands]) {
    command.exitOverride().showHelpAfterError("(--help lists the options)");
  }
  return program;
}

function packageVersion(): string {
  const path = new URL("../../../package.json", import.meta.url);
  return (JSON.parse(readFileSync(path, "utf8")) as { version: string }).version;
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
  await createProgram().parseAsync();
} catch (error) {
  process.exitCode = exitCodeOf(error);
}
