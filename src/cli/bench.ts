/**
 * `faultline bench`: page-fault handlers against each other, on this machine.
 *
 * Exit code 0 if all was measured, also where a target is missed; 1 if a handler failed or gave a
 * wrong byte, because the numbers of a wrong handler are worth nothing.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { FaultlineError } from "../base/errors.ts";
import { HUGE_PAGE_BYTES, SMALL_PAGE_BYTES } from "../base/units.ts";
import { type BenchRequest, bench } from "../bench/bench.ts";
import { builtinNames, builtinTitles } from "../bench/contender.ts";
import { formatMachine } from "../bench/machine.ts";
import { plotsOf } from "../bench/plot/plots.ts";
import type { BenchReport } from "../bench/report.ts";
import {
  backendNames,
  fullWishes,
  quickWishes,
  type RestoreWishes,
  standardWishes,
} from "../bench/restore/cases.ts";
import { restorerNames, restorerTitles } from "../bench/restore/contenders.ts";
import { RESTORE, restoreSummary } from "../bench/restore/run.ts";
import type { Scenario, Settings } from "../bench/scenario.ts";
import { scenarios } from "../bench/scenarios.ts";
import { fullSettings, quickSettings, settingLimits } from "../bench/settings.ts";
import { formatScenario } from "../bench/table.ts";
import {
  demandParts,
  partNames,
  USERFAULT,
  userfaultParts,
  userfaultSummary,
} from "../bench/userfault/scenarios.ts";
import { HandlerCommand } from "../kit/handler-command.ts";
import { createUserfaultfd } from "../uffd/create.ts";
import { wholeNumber, words } from "./options.ts";

interface BenchFlags {
  readonly handler?: readonly HandlerCommand[];
  readonly manyVms: boolean;
  readonly contenders?: readonly string[];
  readonly rounds?: number;
  readonly memory?: number;
  readonly threads?: number;
  readonly vms?: number;
  readonly full: boolean;
  readonly traces?: readonly string[];
  readonly backends?: RestoreWishes["backends"];
  readonly pageSizes?: readonly number[];
  readonly restores?: readonly number[];
  readonly write: boolean;
  readonly plot?: string;
  readonly pin: boolean;
  readonly quick: boolean;
  readonly json: boolean;
  readonly list: boolean;
}

/** As shells count: 128 and the signal's number. */
const signalExits = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

const listed = [
  ...scenarios,
  { name: RESTORE, summary: restoreSummary },
  { name: USERFAULT, summary: userfaultSummary },
];
const scenarioNames = listed.map(({ name }) => name);
const NAME_WIDTH = Math.max(...scenarioNames.map((name) => name.length)) + 2;
const scenarioLines = listed
  .map(({ name, summary }) => `  ${name.padEnd(NAME_WIDTH)}${summary}`)
  .join("\n");
const titles: Readonly<Record<string, string>> = { ...restorerTitles, ...builtinTitles };
const contenderNames = [...new Set<string>([...builtinNames, ...restorerNames])];
const CONTENDER_WIDTH = Math.max(...contenderNames.map((name) => name.length)) + 2;
const contenderLines = contenderNames
  .map((name) => `  ${name.padEnd(CONTENDER_WIDTH)}${titles[name]}`)
  .join("\n");

const partLines = partNames
  .map((name) => `  ${name.padEnd(NAME_WIDTH)}${userfaultParts[name].summary}`)
  .join("\n");

const HELP = `
Scenarios (all but userfault by default; a real run takes some fifteen minutes):
${scenarioLines}

Contenders that are always there, if the scenario has them:
${contenderLines}

"restore" measures many cases: each of --traces, from each of --backends, on each of --page-sizes,
by each number of VMs of --restores. By default one VM on pages of 4 KiB; --full takes them all.
Its ratios are taken to "on-demand", which every backend has.

"reference" is a handler in C that takes one VM and answers one fault after the other. Ratios are
taken to it, round by round. A handler for one VM is started afresh for each measurement; one for
many VMs (serve, and --handler with --many-vms) is started once and kept.

"userfault" runs by name only, as no released kernel has such VMs. Parts can be named behind it:
${partLines}
The reference is another C handler there. A --handler takes part in prefault only where that is
named, as it has to install all memory by itself.

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
  faultline bench restore --full --plot plots
                                            time to working set: every case, with pictures
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
    .option(
      "--contenders <names>",
      "of the built-in ones only these",
      words("--contenders", contenderNames),
    )
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
    .option("--full", "every case of restore; some take minutes", false)
    .option("--traces <names>", "for restore: linux, synthetic, files of traces", words("--traces"))
    .option(
      "--backends <names>",
      `for restore: ${backendNames.join(", ")}`,
      words("--backends", backendNames),
    )
    .option("--page-sizes <sizes>", "for restore: 4K, 2M", pageSizes)
    .option("--restores <counts>", "for restore: VMs that are restored at once; default 1", counts)
    .option("--write", "for restore: guests write to each page, too", false)
    .option("--plot <folder>", "write what restore measured as SVG pictures into this folder")
    .option("--no-pin", "leave guest and handler to the scheduler in all scenarios")
    .option("--quick", "a look only: few rounds, little memory, no verdict on targets", false)
    .option("--json", "print everything as JSON at the end", false)
    .option("--list", "print the scenarios and their summaries", false)
    .addHelpText("after", HELP)
    .action(run);
}

async function run(names: readonly string[], flags: BenchFlags): Promise<void> {
  assertKnown(names);
  if (flags.list) {
    process.stdout.write(`${scenarioLines.replace(/^ {2}/gm, "")}\n`);
    return;
  }
  const request = requestOf(names, flags);
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
      onSkipped: ({ name, reason }) => say(`## ${name}\n\nNot measured: ${reason}.`),
    });
    if (flags.plot !== undefined) writePlots(report, flags.plot);
    if (flags.json) process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
    else if (flags.quick) say("This was a look (--quick): too short to judge targets by.");
  } finally {
    showProgress("");
  }
}

function requestOf(names: readonly string[], flags: BenchFlags): BenchRequest {
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
    builtins: flags.contenders ?? contenderNames,
    handlers: flags.handler ?? [],
    servesMany: flags.manyVms,
  };
  const isAll = names.length === 0;
  const wanted = [
    ...scenarios.filter(({ name }) => isAll || names.includes(name)),
    ...userfaultScenarios(names, field.handlers.length > 0),
  ];
  // Not for want of anybody who restores, after all the others were measured.
  const hasRestorers =
    field.handlers.length > 0 || restorerNames.some((name) => field.builtins.includes(name));
  const doRestore = names.includes(RESTORE) || (isAll && hasRestorers);
  const restore = doRestore ? restoreWishes(flags) : null;
  return { scenarios: wanted, restore, settings, field };
}

/** A handler of the user's is asked to install all memory only where its user says so. */
function userfaultScenarios(names: readonly string[], hasHandlers: boolean): Scenario[] {
  if (!names.includes(USERFAULT)) return [];
  const named = partNames.filter((part) => names.includes(part));
  const parts = named.length > 0 ? named : hasHandlers ? demandParts : partNames;
  return parts.map((part) => userfaultParts[part]);
}

function restoreWishes(flags: BenchFlags): RestoreWishes {
  const { traces, backends: places, pageSizes: sizes, restores, write } = flags;
  return {
    ...(flags.full ? fullWishes : flags.quick ? quickWishes : standardWishes),
    doWrite: write,
    ...(traces === undefined ? {} : { traces }),
    ...(places === undefined ? {} : { backends: places }),
    ...(sizes === undefined ? {} : { pageSizes: sizes }),
    ...(restores === undefined ? {} : { vmCounts: restores }),
  };
}

function writePlots({ scenarios: reports }: BenchReport, folder: string): void {
  mkdirSync(folder, { recursive: true });
  for (const { name, svg } of plotsOf(reports)) writeFileSync(join(folder, name), svg);
}

/** Throws `bad-option` for a name that is not in the list. */
function assertKnown(names: readonly string[]): void {
  const isPart = (name: string): boolean => partNames.some((part) => part === name);
  const unknown = names.find((name) => !scenarioNames.includes(name) && !isPart(name));
  const part = names.find(isPart);
  if (unknown === undefined && (part === undefined || names.includes(USERFAULT))) return;
  if (unknown === undefined) {
    throw new FaultlineError(
      "bad-option",
      `There is no scenario ${part}, it is a part of one: give ${USERFAULT} ${part}.`,
    );
  }
  throw new FaultlineError(
    "bad-option",
    `There is no scenario ${unknown}: give ${scenarioNames.join(", ")}, or none for all of them.`,
  );
}

const sizesInWords = { "4K": SMALL_PAGE_BYTES, "2M": HUGE_PAGE_BYTES } as const;

function pageSizes(value: string): number[] {
  const given = words("--page-sizes", ["4K", "2M"])(value);
  return given.map((size) => sizesInWords[size]);
}

function counts(value: string): number[] {
  return words("--restores")(value).map(wholeNumber("--restores", 1, settingLimits.vms));
}

/** One line on a terminal, which the next one replaces. */
function showProgress(what: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${what}`);
}
