/** A whole run of `faultline bench`: the machine, then one scenario after the other. */
import { describeMachine, type Machine } from "./machine.ts";
import { requireCompiler } from "./programs.ts";
import type { BenchReport, ScenarioReport } from "./report.ts";
import type { RestoreWishes } from "./restore/cases.ts";
import { runRestores, type SkippedCase } from "./restore/run.ts";
import { type Field, type Progress, runScenario } from "./run.ts";
import type { Scenario, Settings } from "./scenario.ts";
import { assertFitsMemory } from "./settings.ts";
import { Workspace, warmMemory } from "./workspace.ts";

/** Guests come and go, each on memory that the last one freed; files and handlers stay. */
const WARM_COPIES = 4;

export interface BenchRequest {
  readonly scenarios: readonly Scenario[];
  /** Null: no restores. */
  readonly restore: RestoreWishes | null;
  readonly settings: Settings;
  readonly field: Field;
}

/** Told what happens as it happens. */
export interface BenchListener {
  readonly onMachine: (machine: Machine) => void;
  readonly onProgress: Progress;
  readonly onScenario: (report: ScenarioReport) => void;
  readonly onSkipped: (skipped: SkippedCase) => void;
}

export async function bench(request: BenchRequest, listener: BenchListener): Promise<BenchReport> {
  const { settings, field } = request;
  assertFitsMemory(settings);
  const machine = describeMachine(requireCompiler());
  listener.onMachine(machine);
  using workspace = new Workspace();
  listener.onProgress("warms the memory");
  await warmMemory(WARM_COPIES * settings.memoryMib);
  const scenarios: ScenarioReport[] = [];
  for (const scenario of request.scenarios) {
    const report = await runScenario(workspace, scenario, settings, field, listener.onProgress);
    scenarios.push(report);
    listener.onScenario(report);
  }
  const skipped: SkippedCase[] = [];
  if (request.restore !== null) {
    await runRestores(workspace, request.restore, settings, field, {
      onProgress: listener.onProgress,
      onScenario: (report) => {
        scenarios.push(report);
        listener.onScenario(report);
      },
      onSkipped: (each) => {
        skipped.push(each);
        listener.onSkipped(each);
      },
    });
  }
  return { machine, settings, scenarios, skipped };
}
