/**
 * Scenario `restore`: how soon a restored guest has touched all that it needs, and what each touch
 * took. Guests replay a trace right after their handshake.
 */
import { FaultlineError } from "../../base/errors.ts";
import { HandlerProcess } from "../../kit/handler-process.ts";
import {
  type ContenderReport,
  reportScenario,
  type ScenarioReport,
  touchShares,
} from "../report.ts";
import { type Field, type Progress, runRounds } from "../run.ts";
import type { Figure, Sample, Settings } from "../scenario.ts";
import { median } from "../statistics.ts";
import type { Workspace } from "../workspace.ts";
import {
  type BackendName,
  backendTitles,
  casesOf,
  caseTitle,
  FAR_LATENCY_MS,
  pageTitle,
  type RestoreCase,
  type RestoreWishes,
  vmTitle,
  whySkipped,
} from "./cases.ts";
import { COMPARED_TO, type Restorer, restorerNames, restorersOf } from "./contenders.ts";
import { type ReplayTimes, replay } from "./replay.ts";
import { RestoreStage } from "./stage.ts";

export const RESTORE = "restore";
export const restoreSummary = "guests that replay a recorded restore: time to working set";

/** A case that was not measured, and what to do. */
export interface SkippedCase {
  readonly name: string;
  readonly reason: string;
}

export interface RestoreListener {
  readonly onProgress: Progress;
  readonly onScenario: (report: ScenarioReport) => void;
  readonly onSkipped: (skipped: SkippedCase) => void;
}

/** At most so many: some take half a minute each. */
const mostRounds: Readonly<Record<BackendName, number>> = { file: 7, cached: 7, cold: 5, far: 3 };
const QUICK_ROUNDS = 1;
const QUIET_PATIENCE_MS = 5000;

/** Throws `handler-failed` as soon as one contender is wrong. */
export async function runRestores(
  workspace: Workspace,
  wishes: RestoreWishes,
  settings: Settings,
  field: Field,
  listener: RestoreListener,
): Promise<void> {
  const cases = casesOf(wishes, settings.isQuick);
  if (cases.every((each) => restorersOf(each, field, workspace).length === 0)) {
    throw new FaultlineError(
      "bad-option",
      `--contenders ${field.builtins.join(",")} leaves nobody for ${RESTORE}: it has ` +
        `${restorerNames.join(", ")}; only on-demand, prefault and before-resume serve images.`,
    );
  }
  for (const trace of new Set(cases.map((each) => each.trace))) {
    listener.onProgress(`${RESTORE}: writes the memory of ${trace.name}`);
    await using stage = new RestoreStage(workspace, trace);
    for (const place of cases.filter((each) => each.trace === trace)) {
      const reason = whySkipped(place);
      const restorers = restorersOf(place, field, workspace);
      if (reason !== null) listener.onSkipped({ name: caseTitle(place), reason });
      else if (restorers.length > 0) {
        const runner = new CaseRun(workspace, stage, place, settings);
        listener.onScenario(await runner.report(restorers, listener.onProgress));
      }
    }
  }
}

class CaseRun {
  readonly #workspace: Workspace;
  readonly #stage: RestoreStage;
  readonly #case: RestoreCase;
  readonly #settings: Settings;

  constructor(workspace: Workspace, stage: RestoreStage, place: RestoreCase, settings: Settings) {
    this.#workspace = workspace;
    this.#stage = stage;
    this.#case = place;
    const most = settings.isQuick ? QUICK_ROUNDS : mostRounds[place.backend];
    this.#settings = { ...settings, rounds: Math.min(settings.rounds, most) };
  }

  async report(restorers: readonly Restorer[], onProgress: Progress): Promise<ScenarioReport> {
    const { vms, trace, backend, pageSizeBytes, doWrite } = this.#case;
    const contestants = restorers.map((contender) => ({
      contender,
      handlers: new Handlers(this.#workspace, this.#stage, this.#case, contender),
    }));
    const { rounds, isQuick } = this.#settings;
    const name = caseTitle(this.#case);
    const warmUpRounds = isFresh(backend) ? 0 : 1;
    const plan = { name, rounds, isQuick, warmUpRounds, patienceMs: QUIET_PATIENCE_MS };
    let times: Map<string, ReplayTimes[]>;
    try {
      times = await runRounds(plan, contestants, onProgress, async ({ contender, handlers }) =>
        handlers.use(async (ready) =>
          replay(this.#workspace, ready, {
            ...{ touchesPath: this.#stage.touchesPath, memoryPath: this.#stage.memoryPath },
            ...{ pageSizeBytes, vms, doWrite, isHeld: contender.isHeld },
          }),
        ),
      );
    } finally {
      for (const { handlers } of contestants) await handlers[Symbol.asyncDispose]();
    }
    const samples = new Map([...times].map(([who, all]) => [who, all.map(sampleOf)]));
    const scenario = {
      ...{ name, figures: figuresOf(vms), targets: [], comparedTo: COMPARED_TO, warmUpRounds },
      describe: () => describeCase(this.#case),
    };
    const report = reportScenario(scenario, this.#settings, restorers, samples);
    const contenders = report.contenders.map(
      (each): ContenderReport => ({ ...each, touchQuantilesUs: typical(times.get(each.name)!) }),
    );
    const facts = { trace: trace.name, backend, pageSizeBytes, vms, doWrite };
    return { ...report, contenders, restore: facts };
  }
}

/** The handlers of one contender: kept, or fresh for each measurement. */
class Handlers {
  readonly #workspace: Workspace;
  readonly #stage: RestoreStage;
  readonly #case: RestoreCase;
  readonly #restorer: Restorer;
  #kept: HandlerProcess | null = null;

  constructor(workspace: Workspace, stage: RestoreStage, place: RestoreCase, restorer: Restorer) {
    this.#workspace = workspace;
    this.#stage = stage;
    this.#case = place;
    this.#restorer = restorer;
  }

  async use<T>(body: (ready: readonly HandlerProcess[]) => Promise<T>): Promise<T> {
    const { command, servesMany } = this.#restorer;
    if (command === null) return await body([]);
    if (servesMany && !isFresh(this.#case.backend)) {
      this.#kept ??= await this.#start();
      return await body([this.#kept]);
    }
    const fresh: HandlerProcess[] = [];
    try {
      const wanted = servesMany ? 1 : this.#case.vms;
      while (fresh.length < wanted) fresh.push(await this.#start());
      return await body(fresh);
    } finally {
      for (const handler of fresh) await handler[Symbol.asyncDispose]();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#kept?.[Symbol.asyncDispose]();
  }

  async #start(): Promise<HandlerProcess> {
    const { backend } = this.#case;
    const { command, commandWith } = this.#restorer;
    const target = {
      socketPath: this.#workspace.newPath("sock"),
      memoryPath: await this.#stage.memoryOf(backend),
    };
    const own = commandWith === null ? command! : commandWith(await this.#stage.freshSet(backend));
    return await HandlerProcess.start(own, target);
  }
}

/** Whether the cache has to be empty. */
function isFresh(backend: BackendName): boolean {
  return backend === "cold" || backend === "far";
}

function figuresOf(vms: number): Figure[] {
  const time = { unit: "ms", isCompared: true } as const;
  const touch = { unit: "µs", isCompared: true } as const;
  return [
    { key: "working_set_ms", title: "time to working set", ...time },
    ...(vms === 1 ? [] : [{ key: "slowest_ms", title: "… of the slowest VM", ...time }]),
    { key: "stall_ms", title: "of it, in touches", ...time },
    { key: "p50_us", title: "a touch, p50", ...touch },
    { key: "p99_us", title: "a touch, p99", ...touch },
  ];
}

function sampleOf(times: ReplayTimes): Sample {
  return {
    working_set_ms: median(times.working_set_ms),
    slowest_ms: Math.max(...times.working_set_ms),
    stall_ms: median(times.stall_ms),
    p50_us: times.quantiles_us[touchShares.indexOf(0.5)]!,
    p99_us: times.quantiles_us[touchShares.indexOf(0.99)]!,
  };
}

/** Of each quantile the median of the rounds. */
function typical(rounds: readonly ReplayTimes[]): number[] {
  const steps = rounds[0]!.quantiles_us;
  return steps.map((_, step) => median(rounds.map((round) => round.quantiles_us[step]!)));
}

function describeCase(place: RestoreCase): string {
  const { trace, backend, pageSizeBytes, vms, doWrite } = place;
  const { pages, thinkUs, sizeBytes } = trace.trace;
  const thinkMs = thinkUs.reduce((sum, us) => sum + us, 0) / 1000;
  const compute = thinkMs === 0 ? "" : `, computing for ${thinkMs.toFixed(0)} ms in between`;
  const size = `${sizeBytes / 2 ** 20} MiB in pages of ${pageTitle(pageSizeBytes)}`;
  const who = vms === 1 ? "A VM" : `${vmTitle(vms)}, all at once, each`;
  return (
    `${who} of ${size} ${doWrite ? "reads and writes" : "reads"} ` +
    `${pages.length} pages of 4 KiB in the order of the trace “${trace.name}”${compute}, served ` +
    `from: ${backendTitles[backend]} (${backendNotes[backend]}). Medians over the VMs.`
  );
}

const backendNotes: Readonly<Record<BackendName, string>> = {
  file: "in the page cache",
  cached: "all chunks decoded in the memory of serve",
  cold: "a new process with an empty cache; files of the store in the page cache",
  far: `a new process with an empty cache; a web server that answers ${FAR_LATENCY_MS} ms late`,
};
