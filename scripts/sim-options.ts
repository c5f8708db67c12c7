/** The options of `npm run sim`. A bad one is refused with its name, its value and the cure. */
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { FaultlineError } from "../src/base/errors.ts";
import { oneOf, wholeNumber } from "../src/cli/options.ts";
import { type StageName, stages } from "../src/sim/stage.ts";

const MAX_SEED = 2 ** 31 - 1;
const MAX_STEPS = 1_000_000;
const MAX_JOBS = 256;

export interface SimOptions {
  readonly stage: StageName;
  readonly fromSeed: number;
  readonly seedCount: number;
  readonly steps: number;
  readonly jobs: number;
  readonly without: readonly string[];
  readonly mutant: string | null;
  /** A file whose guest is played. */
  readonly demandsPath: string | null;
  readonly hasTrace: boolean;
  readonly asJson: boolean;
  readonly wantsHelp: boolean;
}

/** In two lines, as columns are short. */
function listed(names: readonly string[]): string {
  return `${names.slice(0, 6).join(", ")},\n${" ".repeat(19)}${names.slice(6).join(", ")}`;
}

export const usage = `npm run sim -- [options]

Runs the real planner and page table in virtual worlds made from seeds, and checks every page.

  --userfault      worlds of VMs with KVM Userfault, with all that their handlers are made of
  --seeds N        how many worlds (1000)
  --from S         the first seed (0)
  --seed S         this world only
  --steps M        how long each lives before it calms down (1000)
  --without LIST   switch off kinds of trouble: ${listed(stages.uffd.troubles)}
                   with --userfault: ${listed(stages.userfault.troubles)}
  --mutant NAME    test a handler that is wrong on purpose; a wrong NAME lists them
  --demands FILE   the first VM's guest does what a recorded one did: a passage of FILE, which is of
                   \`faultline trace record\` or export --replay
  --trace          print everything that happens; needs --seed
  --jobs N         threads (one per CPU)
  --json           the summary for machines

Ends with 0 if nothing was found, 1 if something was, 2 for a bad option, 130 after Ctrl-C.`;

/** @throws FaultlineError `bad-option` */
export function parseSimOptions(argv: readonly string[]): SimOptions {
  const { values } = parse(argv);
  const { seed, seeds, from, jobs } = values;
  const alone = Object.entries({ seeds, from, jobs }).find(([, value]) => value !== undefined);
  if (seed !== undefined && alone !== undefined) {
    throw bad(`--seed ${seed} is one world: leave out --${alone[0]}, or give --from instead.`);
  }
  if (values.trace === true && seed === undefined) {
    throw bad("--trace prints one world: add --seed S.");
  }
  if (values.trace === true && values.json === true) {
    throw bad("--trace and --json exclude each other: leave out one of them.");
  }
  if (values.demands !== undefined && values.userfault === true) {
    throw bad("--demands plays guests of the other kind of VM: leave out --userfault.");
  }
  const defaultSeeds = seed === undefined ? "1000" : "1";
  const seedCount = wholeNumber("--seeds", 1, MAX_SEED)(seeds ?? defaultSeeds);
  const stage = values.userfault === true ? "userfault" : "uffd";
  const fromOption = seed === undefined ? "--from" : "--seed";
  return {
    stage,
    fromSeed: wholeNumber(fromOption, 0, MAX_SEED - seedCount)(seed ?? from ?? "0"),
    seedCount,
    steps: wholeNumber("--steps", 0, MAX_STEPS)(values.steps ?? "1000"),
    jobs: wholeNumber("--jobs", 1, MAX_JOBS)(jobs ?? String(availableParallelism())),
    without: (values.without?.split(",") ?? []).map(oneOf("--without", stages[stage].troubles)),
    mutant: values.mutant === undefined ? null : mutantName(stage, values.mutant),
    demandsPath: values.demands ?? null,
    hasTrace: values.trace === true,
    asJson: values.json === true,
    wantsHelp: values.help === true,
  };
}

function parse(argv: readonly string[]) {
  const text = { type: "string" } as const;
  const flag = { type: "boolean" } as const;
  try {
    return parseArgs({
      args: [...argv],
      options: {
        userfault: flag,
        seeds: text,
        from: text,
        seed: text,
        steps: text,
        without: text,
        mutant: text,
        demands: text,
        jobs: text,
        trace: flag,
        json: flag,
        help: flag,
      },
    });
  } catch (error) {
    throw bad(`${(error as Error).message.split(". ")[0]}. See npm run sim -- --help.`);
  }
}

function mutantName(stage: StageName, name: string): string {
  const { mutants } = stages[stage];
  if (Object.hasOwn(mutants, name)) return name;
  const list = Object.entries(mutants).map(([known, { mistake }]) => `  ${known}: ${mistake}`);
  throw bad(`--mutant ${name} does not exist: give one of\n${list.join("\n")}`);
}

function bad(message: string): FaultlineError {
  return new FaultlineError("bad-option", message);
}
