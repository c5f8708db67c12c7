/** `faultline conformance`: tests any page-fault handler, ours by default. */
import { availableParallelism } from "node:os";
import { styleText } from "node:util";
import { Command } from "commander";
import { ExitCode } from "../base/errors.ts";
import { type Result, runScenarios, type Verdict } from "../conformance/runner.ts";
import type { Scenario } from "../conformance/scenario.ts";
import { selectScenarios } from "../conformance/scenarios/all.ts";
import { HandlerCommand } from "../kit/handler-command.ts";
import { createUserfaultfd } from "../uffd/create.ts";
import { wholeNumber } from "./options.ts";

interface ConformanceFlags {
  readonly handler?: string;
  readonly manyVms: boolean;
  readonly timeout: number;
  readonly jobs: number;
  readonly list: boolean;
  readonly json: boolean;
  readonly verbose: boolean;
}

const HELP = `
A handler is given as a shell command with {socket}, where it is to listen, and {memory}, the memory
file to serve. Each scenario starts it afresh and plays the VMM; no Firecracker, no KVM and no
compiler is needed. Firecracker's own example serves one VM and ends: that is all that is asked,
unless --many-vms says that the handler serves many VMs at one socket.

The group kvm-userfault is another protocol: VMs on guest_memfd, whose vCPUs ask by frames and
rings. It is asked only by name, and needs a C compiler. faultline serve does not speak it yet.

Exit codes: 0 all passed, 1 some failed, 2 wrong usage, 5 no userfaultfd on this machine.

Examples:
  faultline conformance                          test faultline serve
  faultline conformance --handler './my-handler {socket} {memory}'
  faultline conformance --handler 'python3 handler.py --uds {socket} --mem {memory}' remove
  faultline conformance --list remove            what each scenario proves, and why it is fair
  faultline conformance --handler './my-handler {socket} {memory}' kvm-userfault
  faultline conformance --json remove-unread | jq .results
`;

/** Seconds. Page faults take microseconds; a busy machine may take its time. */
const DEFAULT_TIMEOUT_S = 5;
/** How the shell reports a program that Ctrl-C ended. */
const INTERRUPTED = 130;

export function conformanceCommand(): Command {
  return new Command("conformance")
    .description("test any page-fault handler against the protocol and the kernel")
    .argument("[name...]", "scenarios or groups of scenarios (default: all)")
    .option("--handler <command>", "the handler's command, with {socket} and {memory}")
    .option("--many-vms", "the handler serves many VMs at one socket", false)
    .option(
      "--timeout <s>",
      "how long a VM waits for each answer",
      wholeNumber("--timeout", 1, 600),
      DEFAULT_TIMEOUT_S,
    )
    .option(
      "--jobs <n>",
      "scenarios at the same time",
      wholeNumber("--jobs", 1, 64),
      Math.min(4, availableParallelism()),
    )
    .option("--list", "list the scenarios instead of playing them", false)
    .option("--json", "print the results as JSON", false)
    .option("--verbose", "say for each scenario what it proves", false)
    .addHelpText("after", HELP)
    .action(conformance);
}

async function conformance(names: readonly string[], flags: ConformanceFlags): Promise<void> {
  const scenarios = selectScenarios(names);
  if (flags.list) {
    process.stdout.write(renderList(scenarios));
    return;
  }
  const isOurs = flags.handler === undefined;
  const command = isOurs ? HandlerCommand.ofServe() : new HandlerCommand(flags.handler);
  createUserfaultfd().close();
  // Handlers have process groups of their own, which Ctrl-C does not reach; exit hooks do.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(signal, () => process.exit(INTERRUPTED));
  }
  const print = (result: Result): void => {
    if (!flags.json) process.stdout.write(renderResult(result, flags.verbose));
  };
  const options = {
    command,
    servesManyVms: flags.manyVms || isOurs,
    deadlineMs: flags.timeout * 1000,
    jobs: flags.jobs,
  };
  const results = await runScenarios(scenarios, options, print);
  process.stdout.write(flags.json ? renderJson(command, results) : `\n${summaryOf(results)}\n`);
  const hasFailed = results.some(({ verdict }) => verdict === "fail");
  process.exitCode = hasFailed ? ExitCode.failed : ExitCode.ok;
}

const VERDICT_WIDTH = "not asked".length;
const NAME_WIDTH = 24;
const colors = { pass: "green", fail: "red", skip: "yellow", "not asked": "gray" } as const;

function renderResult(result: Result, isVerbose: boolean): string {
  const { scenario, verdict, message, handlerMessages } = result;
  const word = styleText(colors[verdict], verdict.padEnd(VERDICT_WIDTH));
  const duration = `${result.durationMs.toFixed(0)} ms`.padStart(8);
  const lines = [`${word}  ${scenario.name.padEnd(NAME_WIDTH)} ${duration}`];
  const indent = " ".repeat(VERDICT_WIDTH + 2);
  if (isVerbose) lines.push(`${indent}${scenario.proves}`);
  if (message !== "") lines.push(`${indent}${message}`);
  if (verdict === "fail") {
    lines.push(`${indent}Why that is asked: ${scenario.because}`);
    if (handlerMessages !== "") {
      lines.push(`${indent}The handler wrote:`);
      for (const line of handlerMessages.split("\n").slice(-5)) lines.push(`${indent}  ${line}`);
    }
  }
  return `${lines.join("\n")}\n`;
}

function renderList(scenarios: readonly Scenario[]): string {
  const lines: string[] = [];
  let group = "";
  for (const scenario of scenarios) {
    if (scenario.group !== group) {
      if (group !== "") lines.push("");
      group = scenario.group;
      lines.push(styleText("bold", group));
    }
    const note = scenario.needsManyVms === true ? " (--many-vms)" : "";
    lines.push(`  ${scenario.name}${note}`);
    lines.push(`      ${scenario.proves}`, `      Why: ${scenario.because}`);
  }
  return `${lines.join("\n")}\n`;
}

function renderJson(command: HandlerCommand, results: readonly Result[]): string {
  const document = {
    handler: command.template,
    results: results.map(({ scenario, verdict, durationMs, message, handlerMessages }) => ({
      name: scenario.name,
      group: scenario.group,
      verdict,
      durationMs: Math.round(durationMs),
      message,
      handlerMessages,
    })),
    summary: summaryOf(results),
  };
  return `${JSON.stringify(document, null, 2)}\n`;
}

function summaryOf(results: readonly Result[]): string {
  const count = (wanted: Verdict): number =>
    results.filter(({ verdict }) => verdict === wanted).length;
  const unasked = count("not asked") === 0 ? "" : `, ${count("not asked")} not asked`;
  return `${count("pass")} passed, ${count("fail")} failed, ${count("skip")} skipped${unasked}`;
}
