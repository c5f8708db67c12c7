/**
 * What was measured, as `--json` prints it. A missed target is a finding, not a failure: the
 * machine may be busy.
 */
import type { Contender } from "./contender.ts";
import type { Machine } from "./machine.ts";
import type { Figure, Sample, Scenario, Settings, Target } from "./scenario.ts";
import { type Spread, spreadOf } from "./statistics.ts";

/** The contender that ratios are taken to, unless a scenario says otherwise. */
const REFERENCE = "reference";

export interface FigureReport extends Spread {
  /** To `comparedTo` in the same round; null for that itself, without it, or if pointless. */
  readonly ratio: Spread | null;
  /** One value a round. */
  readonly values: readonly number[];
}

export interface ContenderReport {
  readonly name: string;
  readonly title: string;
  /** Its command line with the placeholders in it; null for the mapping. */
  readonly command: string | null;
  readonly servesMany: boolean;
  /** By figure key. */
  readonly figures: Readonly<Record<string, FigureReport>>;
  /** Of `restore`, what so many of the touches took at most (`touchShares`); medians of rounds. */
  readonly touchQuantilesUs?: readonly number[];
}

/** 0, 0.01 … 0.99, and from there on in thousandths: few touches are slow, and they matter. */
export const touchShares: readonly number[] = [
  ...Array.from({ length: 99 }, (_, percent) => percent / 100),
  ...Array.from({ length: 11 }, (_, step) => (990 + step) / 1000),
];

export interface TargetReport extends Target {
  /** The median that is judged. */
  readonly value: number;
  readonly isMet: boolean;
}

export interface ScenarioReport {
  readonly name: string;
  readonly method: string;
  readonly rounds: number;
  readonly warmUpRounds: number;
  /** The name of the contender that ratios are taken to. */
  readonly comparedTo: string;
  readonly figures: readonly Figure[];
  readonly contenders: readonly ContenderReport[];
  readonly targets: readonly TargetReport[];
  /** Which case of `restore` this is. */
  readonly restore?: RestoreFacts;
}

export interface RestoreFacts {
  readonly trace: string;
  readonly backend: string;
  readonly pageSizeBytes: number;
  readonly vms: number;
  /** Guests wrote to each page, too. */
  readonly doWrite: boolean;
}

export interface BenchReport {
  readonly machine: Machine;
  readonly settings: Settings;
  readonly scenarios: readonly ScenarioReport[];
  /** Cases of `restore` that this machine cannot do. */
  readonly skipped: readonly { readonly name: string; readonly reason: string }[];
}

export type Reported = Pick<Scenario, "name" | "describe" | "figures" | "targets"> & {
  readonly comparedTo?: string;
  readonly warmUpRounds?: number;
};

/** `samples`: of each contender, by name, one a round. */
export function reportScenario(
  scenario: Reported,
  settings: Settings,
  contenders: readonly Contender[],
  samples: ReadonlyMap<string, readonly Sample[]>,
): ScenarioReport {
  const { comparedTo = REFERENCE, warmUpRounds = 1 } = scenario;
  const reference = samples.get(comparedTo);
  const reports = contenders.map(({ name, title, command, servesMany }) => ({
    name,
    title,
    command: command?.template ?? null,
    servesMany,
    figures: Object.fromEntries(
      scenario.figures.map((figure) => [
        figure.key,
        reportFigure(figure, samples.get(name)!, name === comparedTo ? undefined : reference),
      ]),
    ),
  }));
  return {
    name: scenario.name,
    method: scenario.describe(settings),
    rounds: settings.rounds,
    warmUpRounds,
    comparedTo,
    figures: scenario.figures,
    contenders: reports,
    targets: scenario.targets.flatMap((target) => judge(target, reports)),
  };
}

/** Ratios of the same round: what slows the machine for a while slows both sides. */
function reportFigure(
  { key, isCompared }: Figure,
  samples: readonly Sample[],
  reference: readonly Sample[] | undefined,
): FigureReport {
  const values = samples.map((sample) => sample[key]!);
  const ratios = reference?.map((sample, round) => values[round]! / sample[key]!);
  return {
    ...spreadOf(values),
    ratio: ratios === undefined || !isCompared ? null : spreadOf(ratios),
    values,
  };
}

/** Nothing if the contender, or what it is compared with, did not take part. */
function judge(target: Target, reports: readonly ContenderReport[]): TargetReport[] {
  const figure = reports.find(({ name }) => name === target.contender)?.figures[target.figure];
  const value = target.of === "value" ? figure?.median : figure?.ratio?.median;
  if (value === undefined) return [];
  const isMet = target.relation === "<=" ? value <= target.limit : value >= target.limit;
  return [{ ...target, value, isMet }];
}
