/**
 * `faultline bench`: page-fault handlers against each other, on this machine.
 *
 * Exit code 0 if all was measured, also where a target is missed; 1 if a handler failed or gave a
 * wrong byte, because the numbers of a wrong handler are worth nothing.
 */
import { Command } from "commander";
import { FaultlineError } from "../base/errors.ts";
import { type BenchRequest, bench } from "../bench/bench.ts";
import { type BuiltinName, builtinNames, builtinTitles } from "../bench/contender.ts";
import { formatMachine } from "../bench/machine.ts";
import type { Scenario, Settings } from "../bench/scenario.ts";
import { scenarios } from "../bench/scenarios.ts";
import { fullSettings, quickSettings, settingLimits } from "../bench/settings.ts";
import { formatScenario } from "../bench/table.ts";
import { HandlerCommand } from "../kit/handler-command.ts";
import { createUserfaultfd } from "../uffd/create.ts";
import { wholeNumber } from "./options.ts";

interface BenchFlags {
  readonly handler?: readonly HandlerCommand[];
  readonly manyVms: boolean;
  readonly contenders?: readonly BuiltinName[];
  readonly rounds?: number;
  readonly memory?: number;
  readonly threads?: number;
  readonly vms?: number;
  readonly pin: boolean;
  readonly quick: boolean;
  readonly json: boolean;
  readonly list: boolean;
}

/** As shells count: 128 and the signal's number. */
const signalExits = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

const NAME_WIDTH = Math.max(...scenarios.map(({ name }) => name.length)) + 2;
const scenarioLines = scenarios
  .map(({ name, summary }) => `  ${name.padEnd(NAME_WIDTH)}${summary}`)
  .join("\n");
const contenderLines = builtinNames
  .map((name) => `  ${name.padEnd("reference".length + 2)}${builtinTitles[name]}`)
  .join("\n");

const HELP = `
Scenarios (all of them by default; a real run takes some seven minutes):
${scenarioLines}

Contenders that are always there, if the scenario has them:
${contenderLines}

"reference" is a handler in C that takes one VM and answers one fault after the other. Ratios are
taken to it, round by round. A handler for one VM is started afresh for each measurement; one for
many VMs (serve, and --handler with --many-vms) is started once and kept.

All contenders serve the same pages in the same order, in turns, and every page is checked: a wrong
byte ends the run. Guests are C programs, built here with the C compiler of this machine.

The tables are Markdown. --json prints machine, settings and scenarios; of each scenario the method,
the figures, of each contender and figure median, min, max, all values and the ratio to the
reference (median, min, max), and the targets with what was measured (docs/BENCHMARKS.md).

Exit codes: 0 measured (a missed target is a finding, not a failure), 1 a handler failed or gave
wrong bytes, 2 the command line cannot be used, 5 no access to userfaultfd, or no C compiler.

Examples:
  faultline bench --quick                   a look at everything in half a minute
  faultline bench random threads            two scenarios, in earnest
  faultline bench random --handler './my-handler {socket} {memory}'
                                            a handler of your own beside ours
  faultline bench crowd --many-vms --handler './my-handler --listen {socket} --file {memory}'
`;

export function benchCommand(): Command {
  const { rounds, memoryMib, threads, vms } = fullSettings;
  const append = (text: string, all: readonly HandlerCommand[] = []): readonly HandlerCommand[] => [
    ...all,
    new HandlerCommand(text),
  ];
  const count = (option: string, most: number): ((value: string) => number) =>
    wholeNumber(option, 1, most);
  return new Command("bench")
    .description("compare page-fault handlers: ours, a C reference, and any other")
    .argument("[scenario...]", "which to run (default: all)")
    .option(
      "--handler <command>",
      "another handler, with {socket} and {memory} where they belong; repeatable",
      append,
    )
    .option("--many-vms", "each --handler serves many VMs at one socket", false)
    .option("--contenders <names>", "of the built-in ones only these", builtins)
    .option("--rounds <n>", `default ${rounds}`, count("--rounds", settingLimits.rounds))
    .option(
      "--memory <mib>",
      `of a VM; default ${memoryMib}`,
      count("--memory", settingLimits.memoryMib),
    )
    .option(
      "--threads <n>",
      `that fault at once in "threads"; default ${threads}`,
      count("--threads", settingLimits.threads),
    )
    .option("--vms <n>", `at rest in "crowd"; default ${vms}`, count("--vms", settingLimits.vms))
    .option("--no-pin", "leave guest and handler to the scheduler in all scenarios")
    .option("--quick", "a look only: few rounds, little memory, no verdict on targets", false)
    .option("--json", "print everything as JSON at the end", false)
    .option("--list", "print the scenarios and their summaries", false)
    .addHelpText("after", HELP)
    .action(run);
}

async function run(names: readonly string[], flags: BenchFlags): Promise<void> {
  const chosen = scenariosOf(names);
  if (flags.list) {
    process.stdout.write(`${scenarioLines.replace(/^ {2}/gm, "")}\n`);
    return;
  }
  const request = requestOf(chosen, flags);
  createUserfaultfd().close(); // Without access nothing works: say it with the cure.
  // An exit, and no death by signal: children end and files go with it.
  for (const [signal, code] of Object.entries(signalExits)) {
    process.once(signal, () => process.exit(code));
  }
  const say = (text: string): void => {
    showProgress("");
    if (!flags.json) process.stdout.write(`${text}\n\n`);
  };
  try {
    const report = await bench(request, {
      onMachine: (machine) => say(formatMachine(machine)),
      onProgress: showProgress,
      onScenario: (scenario) => say(formatScenario(scenario, !flags.quick)),
    });
    if (flags.json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
    else if (flags.quick) say("This was a look (--quick): too short to judge targets by.");
  } finally {
    showProgress("");
  }
}

function requestOf(chosen: readonly Scenario[], flags: BenchFlags): BenchRequest {
  if (flags.manyVms && flags.handler === undefined) {
    throw new FaultlineError(
      "bad-option",
      "--many-vms says how the commands of --handler work: give --handler, or leave it out.",
    );
  }
  const standard = flags.quick ? quickSettings : fullSettings;
  const settings: Settings = {
    rounds: flags.rounds ?? standard.rounds,
    memoryMib: flags.memory ?? standard.memoryMib,
    threads: flags.threads ?? standard.threads,
    vms: flags.vms ?? standard.vms,
    isPinned: flags.pin,
    isQuick: flags.quick,
  };
  const field = {
    builtins: flags.contenders ?? builtinNames,
    handlers: flags.handler ?? [],
    servesMany: flags.manyVms,
  };
  return { scenarios: chosen, settings, field };
}

/** In the order of the list. Throws `bad-option` for a name that is not in it. */
function scenariosOf(names: readonly string[]): readonly Scenario[] {
  const known = scenarios.map(({ name }) => name);
  const unknown = names.find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new FaultlineError(
      "bad-option",
      `There is no scenario ${unknown}: give ${known.join(", ")}, or none for all of them.`,
    );
  }
  return names.length === 0 ? scenarios : scenarios.filter(({ name }) => names.includes(name));
}

/** A parser for `--contenders`. */
function builtins(value: string): readonly BuiltinName[] {
  const names = value.split(",");
  const found = builtinNames.filter((name) => names.includes(name));
  if (found.length === names.length) return found;
  throw new FaultlineError(
    "bad-option",
    `--contenders ${value} cannot be used: give some of ${builtinNames.join(",")}, each once, ` +
      "with commas between.",
  );
}

/** One line on a terminal, which the next one replaces. */
function showProgress(what: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${what}`);
}
