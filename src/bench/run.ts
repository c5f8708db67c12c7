/**
 * Runs scenarios. What makes the comparison fair is here: all contenders take their turn in every
 * round, in an order that changes, after a round that does not count and once the machine is quiet.
 */
import { FaultlineError } from "../base/errors.ts";
import type { HandlerCommand } from "../kit/handler-command.ts";
import {
  builtinContender,
  builtinTitles,
  type Contender,
  Contestant,
  userContenders,
} from "./contender.ts";
import { choosePinnedCpus } from "./machine.ts";
import { awaitQuietMachine } from "./quiet.ts";
import { reportScenario, type ScenarioReport } from "./report.ts";
import type { Scenario, Settings } from "./scenario.ts";
import { MIB, type Workspace } from "./workspace.ts";

/** Rounds wait this long for other programs to end; what runs after that is measured along. */
const QUIET_PATIENCE_MS = 30_000;

export interface Field {
  /** The built-in contenders to take, of those that a scenario has. */
  readonly builtins: readonly string[];
  readonly handlers: readonly HandlerCommand[];
  /** Whether `handlers` serve many VMs each. */
  readonly servesMany: boolean;
}

/** Told before each measurement. */
export type Progress = (what: string) => void;

/** Runs one scenario. Throws `handler-failed` as soon as one contender is wrong. */
export async function runScenario(
  workspace: Workspace,
  scenario: Scenario,
  settings: Settings,
  field: Field,
  onProgress: Progress = () => {},
): Promise<ScenarioReport> {
  const contenders = contendersOf(workspace, scenario, field);
  const cpus = scenario.isPinned && settings.isPinned ? choosePinnedCpus() : null;
  const memoryPath = workspace.randomFile(settings.memoryMib * MIB);
  const contestants = contenders.map(
    (contender) => new Contestant(workspace, contender, memoryPath, cpus),
  );
  const { rounds, isQuick } = settings;
  const plan = { name: scenario.name, rounds, isQuick, warmUpRounds: 1 };
  try {
    const samples = await runRounds(plan, contestants, onProgress, (contestant, index) =>
      scenario.measure(contestant, { workspace, settings, index }),
    );
    return reportScenario(scenario, settings, contenders, samples);
  } finally {
    await Promise.all(contestants.map((contestant) => contestant[Symbol.asyncDispose]()));
    workspace.remove(memoryPath);
  }
}

export interface RoundPlan {
  /** For messages. */
  readonly name: string;
  readonly rounds: number;
  readonly isQuick: boolean;
  /** 0 or 1. */
  readonly warmUpRounds: number;
  readonly patienceMs?: number;
}

/** What was measured of each contender, by name, without the warm-up; `index` 0 is that. */
export async function runRounds<Taker extends { readonly contender: Contender }, Result>(
  { name, rounds, isQuick, warmUpRounds, patienceMs = QUIET_PATIENCE_MS }: RoundPlan,
  contestants: readonly Taker[],
  onProgress: Progress,
  measure: (contestant: Taker, index: number) => Promise<Result>,
): Promise<Map<string, Result[]>> {
  const results = new Map<string, Result[]>(
    contestants.map(({ contender }) => [contender.name, []]),
  );
  for (let index = 1 - warmUpRounds; index <= rounds; index++) {
    const stage = index === 0 ? "warm-up" : `round ${index} of ${rounds}`;
    if (index > 0 && !isQuick) {
      onProgress(`${name}, ${stage}: waits for a quiet machine`);
      await awaitQuietMachine(patienceMs);
    }
    for (const contestant of orderOf(contestants, index)) {
      onProgress(`${name}, ${stage}: ${contestant.contender.title}`);
      const result = await measure(contestant, index);
      if (index > 0) results.get(contestant.contender.name)!.push(result);
    }
  }
  return results;
}

function contendersOf(workspace: Workspace, scenario: Scenario, field: Field): Contender[] {
  const builtins = scenario.contenders.filter((name) => field.builtins.includes(name));
  const { contenderOf = builtinContender } = scenario;
  const contenders = [
    ...builtins.map((name) => contenderOf(name, workspace)),
    ...userContenders(field.handlers, field.servesMany),
  ];
  if (contenders.length > 0) return contenders;
  const titles = scenario.contenders.map((name) => `${name} (${builtinTitles[name]})`);
  throw new FaultlineError(
    "bad-option",
    `--contenders ${field.builtins.join(",")} leaves nobody for ${scenario.name}: it has ` +
      `${titles.join(", ")}.`,
  );
}

/**
 * Each order forwards, then backwards, then from the next one on: nobody is always first, and
 * nobody always comes after the same one.
 */
export function orderOf<T>(all: readonly T[], round: number): T[] {
  const start = Math.floor(round / 2) % all.length;
  const rotated = [...all.slice(start), ...all.slice(0, start)];
  return round % 2 === 0 ? rotated : rotated.reverse();
}
