/**
 * tinyvm: a virtual machine monitor just large enough to take a snapshot and to restore it with a
 * page-fault handler. A process of its own:
 *
 *     node dist/src/tinyvm/main.js boot --memory-mib 64 --fill 50 --working-set 30 --out DIR
 *     node dist/src/tinyvm/main.js restore --dir DIR --socket PATH [--huge-pages]
 *     node dist/src/tinyvm/main.js restore --dir DIR --userfault
 *
 * Prints JSON lines on stdout, and one line on stderr if it fails. Exit codes: base/errors.ts.
 */
import { type ParseArgsConfig, parseArgs } from "node:util";
import { describeError, ExitCode, FaultlineError } from "../base/errors.ts";
import { boot } from "./boot.ts";
import type { GuestChoice } from "./guest.ts";
import { reportToStdout } from "./report.ts";
import { restore } from "./restore.ts";
import { restoreOnUserfault } from "./restore-userfault.ts";

const USAGE = `Usage:
  tinyvm boot --memory-mib N --fill PERCENT --working-set PERCENT --out DIR
              [--guest auto|kvm|process]
  tinyvm restore --dir DIR --socket PATH [--huge-pages] [--guest auto|kvm|process]
  tinyvm restore --dir DIR --userfault         (KVM Userfault: no handler)`;

/**
 * Signals that shall end a guest that waits for a page, for ever maybe. Node catches them from the
 * start, and a signal that is caught does not end a wait inside KVM: to have listened once makes
 * them deadly again.
 */
const DEADLY = ["SIGTERM", "SIGINT"] as const;

function main(argv: readonly string[]): void {
  for (const signal of DEADLY) process.on(signal, neverCalled).off(signal, neverCalled);
  const [command, ...rest] = argv;
  if (command === "boot") runBoot(rest);
  else if (command === "restore") runRestore(rest);
  else throw new FaultlineError("bad-option", `No command ${command ?? "given"}.\n${USAGE}`);
}

function neverCalled(): void {}

function runBoot(args: string[]): void {
  const values = parse(args, {
    "memory-mib": { type: "string" },
    fill: { type: "string" },
    "working-set": { type: "string" },
    out: { type: "string" },
    guest: { type: "string" },
  });
  boot(
    {
      memoryMib: wholeNumber("--memory-mib", values["memory-mib"]),
      fillPercent: wholeNumber("--fill", values.fill),
      workingSetPercent: wholeNumber("--working-set", values["working-set"]),
      folder: required("--out", values.out),
      guest: guestChoice(values.guest),
    },
    reportToStdout,
  );
}

function runRestore(args: string[]): void {
  const values = parse(args, {
    dir: { type: "string" },
    socket: { type: "string" },
    "huge-pages": { type: "boolean" },
    guest: { type: "string" },
    userfault: { type: "boolean" },
  });
  if (values.userfault === true) {
    const other = Object.keys(values).find((name) => name !== "dir" && name !== "userfault");
    if (other !== undefined) {
      throw new FaultlineError("bad-option", `--userfault goes with --dir alone, not --${other}.`);
    }
    restoreOnUserfault(required("--dir", values.dir), reportToStdout);
    return;
  }
  restore(
    {
      folder: required("--dir", values.dir),
      socketPath: required("--socket", values.socket),
      hugePages: values["huge-pages"] === true,
      guest: guestChoice(values.guest),
    },
    reportToStdout,
  );
}

function parse<const Options extends NonNullable<ParseArgsConfig["options"]>>(
  args: string[],
  options: Options,
) {
  try {
    return parseArgs({ args, options, strict: true, allowPositionals: false }).values;
  } catch (error) {
    throw new FaultlineError("bad-option", `${(error as Error).message}\n${USAGE}`);
  }
}

function required(option: string, value: string | undefined): string {
  if (value !== undefined && value !== "") return value;
  throw new FaultlineError("bad-option", `${option} is missing.\n${USAGE}`);
}

function wholeNumber(option: string, value: string | undefined): number {
  const text = required(option, value);
  if (/^\d+$/.test(text)) return Number(text);
  throw new FaultlineError("bad-option", `${option} ${text} is not a whole number.`);
}

function guestChoice(value: string | undefined): GuestChoice {
  const choice = value ?? "auto";
  if (choice === "auto" || choice === "kvm" || choice === "process") return choice;
  throw new FaultlineError("bad-option", `--guest ${choice} is none of auto, kvm, process.`);
}

/** Failures of node:fs count as what they are: system calls that failed. */
function expected(error: unknown): FaultlineError | null {
  if (error instanceof FaultlineError) return error;
  if (error instanceof Error && "syscall" in error) {
    return new FaultlineError("system", error.message);
  }
  return null;
}

try {
  main(process.argv.slice(2));
} catch (error) {
  const known = expected(error);
  process.stderr.write(
    known === null
      ? `${(error as Error).stack}\n`
      : `tinyvm: ${known.code}: ${describeError(known)}\n`,
  );
  // exitCode, not exit(): stderr may be a pipe that is still being written.
  process.exitCode = known === null ? ExitCode.internal : known.exitCode;
}
