/** What a scenario is made of. The scenarios themselves are in `scenarios.ts`. */
import type { BuiltinName, Contender, Contestant } from "./contender.ts";
import type { Workspace } from "./workspace.ts";

/** What the user may set; the rest follows. */
export interface Settings {
  readonly rounds: number;
  readonly memoryMib: number;
  /** Threads that fault at once in `threads`. */
  readonly threads: number;
  /** VMs at rest in `crowd`. */
  readonly vms: number;
  readonly isPinned: boolean;
  /** A look: no verdict on targets, no waiting for a quiet machine. */
  readonly isQuick: boolean;
}

export type FigureUnit = "µs" | "ms" | "pages/s" | "MiB/s" | "×";

export interface Figure {
  readonly key: string;
  readonly title: string;
  readonly unit: FigureUnit;
  /** Whether a ratio to the reference says something. */
  readonly isCompared: boolean;
}

/** A promise about `serve`: the median of a figure, or of its ratio to the C reference. */
export interface Target {
  readonly contender: BuiltinName;
  readonly figure: string;
  readonly of: "ratio" | "value";
  readonly relation: "<=" | ">=";
  readonly limit: number;
}

/** The figures of one measurement, by key. */
export type Sample = Readonly<Record<string, number>>;

/** What a measurement needs beside the contestant. */
export interface Round {
  readonly workspace: Workspace;
  readonly settings: Settings;
  /** 0 is the warm-up. All contenders of a round touch the same pages in the same order. */
  readonly index: number;
}

export interface Scenario {
  readonly name: string;
  /** One line for `--list`. */
  readonly summary: string;
  /** What was done, for readers of the table. */
  readonly describe: (settings: Settings) => string;
  readonly contenders: readonly BuiltinName[];
  /** Who goes by a name here, where VMs are not the ordinary ones. */
  readonly contenderOf?: (name: BuiltinName, workspace: Workspace) => Contender;
  /** Guest and handler on a CPU each, unless the user does not want it. */
  readonly isPinned: boolean;
  readonly figures: readonly Figure[];
  readonly targets: readonly Target[];
  readonly measure: (contestant: Contestant, round: Round) => Promise<Sample>;
}
