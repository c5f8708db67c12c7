/**
 * `npm run bench -- [NAME...] [--smoke] [--json]`: our promises, measured.
 *
 * Some of the names are scenarios of `faultline bench`, run as they ship; the others look at what
 * only our own process promises: memory, idle CPU time, what VMs leave behind. Without names all
 * run, which takes some fifty minutes. `--smoke` makes each tiny: enough for the test suite to
 * see that it works, and no number of it means anything. A missed target is printed and does not
 * fail: a noisy machine must not look like a broken program.
 */
import { loadavg } from "node:os";
import { parseArgs } from "node:util";
import { builtinNames } from "../src/bench/contender.ts";
import { describeMachine, formatMachine } from "../src/bench/machine.ts";
import { requireCompiler } from "../src/bench/programs.ts";
import type { ScenarioReport } from "../src/bench/report.ts";
import { quickWishes, standardWishes } from "../src/bench/restore/cases.ts";
import { restorerNames } from "../src/bench/restore/contenders.ts";
import { RESTORE, runRestores } from "../src/bench/restore/run.ts";
import { runScenario } from "../src/bench/run.ts";
import type { Scenario, Settings } from "../src/bench/scenario.ts";
import { scenarios } from "../src/bench/scenarios.ts";
import { fullSettings } from "../src/bench/settings.ts";
import { formatScenario } from "../src/bench/table.ts";
import { warmMemory } from "../src/bench/workspace.ts";
import { cachedImage } from "./cached-image.ts";
import { cycles } from "./cycles.ts";
import { daemonCreate } from "./daemon-create.ts";
import { daemonFaults } from "./daemon-faults.ts";
import { daemonFleet } from "./daemon-fleet.ts";
import { daemonFlood } from "./daemon-flood.ts";
import { dashboard } from "./dashboard.ts";
import { dashboardPage } from "./dashboard-page.ts";
import { dirty } from "./dirty.ts";
import { fanOut } from "./fan-out.ts";
import { farStore } from "./far-store.ts";
import { firstFault } from "./first-fault.ts";
import { handshakes } from "./handshakes.ts";
import { idle } from "./idle.ts";
import { memory } from "./memory.ts";
import { pack } from "./pack.ts";
import { removeFlood } from "./remove-flood.ts";
import { restoreGuest } from "./restore-guest.ts";
import { scan } from "./scan.ts";
import { snapshots } from "./snapshots.ts";
import { formatReport } from "./support/print.ts";
import { PromiseRun } from "./support/promise-run.ts";
import type { Report } from "./support/report.ts";
import { watching } from "./watching.ts";
import { workingSet } from "./working-set.ts";

const EXIT_USAGE = 2;
const EXIT_INTERRUPTED = 130;
const EXIT_TERMINATED = 143;

const promises: Readonly<Record<string, (run: PromiseRun) => Promise<Report>>> = {
  "first-fault": firstFault,
  memory,
  idle,
  cycles,
  "fan-out": fanOut,
  handshakes,
  "remove-flood": removeFlood,
  pack,
  "cached-image": cachedImage,
  "far-store": farStore,
  snapshots,
  scan,
  dirty,
  "working-set": workingSet,
  "restore-guest": restoreGuest,
  "daemon-create": daemonCreate,
  "daemon-faults": daemonFaults,
  watching,
  "daemon-fleet": daemonFleet,
  "daemon-flood": daemonFlood,
  dashboard,
  "dashboard-page": dashboardPage,
};
const smokeSettings: Settings = {
  rounds: 1,
  memoryMib: 4,
  threads: 2,
  vms: 2,
  isPinned: true,
  isQuick: true,
};

interface Wishes {
  readonly names: readonly string[];
  readonly isSmoke: boolean;
  readonly asJson: boolean;
}

/** Null after saying what is wrong with them. */
function parseWishes(): Wishes | null {
  const flag = { type: "boolean", default: false } as const;
  const all = [...scenarios.map(({ name }) => name), RESTORE, ...Object.keys(promises)];
  try {
    const { values, positionals } = parseArgs({
      options: { smoke: flag, json: flag },
      allowPositionals: true,
    });
    const unknown = positionals.filter((name) => !all.includes(name));
    if (unknown.length > 0) {
      throw new Error(`There is no ${unknown.join(", ")}. There are: ${all.join(", ")}.`);
    }
    const names = positionals.length > 0 ? positionals : all;
    return { names, isSmoke: values.smoke, asJson: values.json };
  } catch (error) {
    console.error((error as Error).message);
    return null;
  }
}

async function main({ names, isSmoke, asJson }: Wishes): Promise<void> {
  const machine = describeMachine(requireCompiler());
  const say = (text: string): void => {
    if (!asJson) console.log(text);
  };
  say(formatMachine(machine));
  using run = new PromiseRun(isSmoke);
  await warmMemory(run.scaled(2048, 128));
  const reports: Report[] = [];
  const scenarioReports: ScenarioReport[] = [];
  for (const name of names) {
    const scenario = scenarios.find((each) => each.name === name);
    if (name === RESTORE) {
      await restore(run, (report) => {
        scenarioReports.push(report);
        say(`\n${formatScenario(report, !isSmoke)}`);
      });
    } else if (scenario === undefined) {
      const report = await promises[name]!(run);
      reports.push(report);
      say(formatReport(report, !isSmoke));
    } else {
      const report = await compare(run, scenario);
      scenarioReports.push(report);
      say(`\n${formatScenario(report, !isSmoke)}`);
    }
    say(`\n(load afterwards: ${loadavg()[0]!.toFixed(2)})`);
  }
  if (isSmoke) say("\nA smoke run: these numbers mean nothing.");
  if (asJson) {
    console.log(JSON.stringify({ machine, isSmoke, scenarios: scenarioReports, reports }));
  }
}

/** As `faultline bench` does without options. */
async function compare(run: PromiseRun, scenario: Scenario): Promise<ScenarioReport> {
  const settings = run.scaled<Settings>(fullSettings, smokeSettings);
  const field = { builtins: builtinNames, handlers: [], servesMany: false };
  return await runScenario(run, scenario, settings, field);
}

async function restore(run: PromiseRun, onScenario: (report: ScenarioReport) => void) {
  const settings = run.scaled<Settings>(fullSettings, smokeSettings);
  const field = { builtins: restorerNames, handlers: [], servesMany: false };
  await runRestores(run, run.scaled(standardWishes, quickWishes), settings, field, {
    onProgress: () => {},
    onScenario,
    onSkipped: ({ name, reason }) => console.error(`${name} is not measured: it ${reason}.`),
  });
}

// A signal ends us as usual, but through the exit handlers that end what we started.
process.on("SIGINT", () => process.exit(EXIT_INTERRUPTED));
process.on("SIGTERM", () => process.exit(EXIT_TERMINATED));
const wishes = parseWishes();
if (wishes === null) process.exitCode = EXIT_USAGE;
else await main(wishes);
