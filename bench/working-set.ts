/**
 * What it is worth to know beforehand which pages a restore needs, what it costs to install them,
 * and what it costs the faults beside it.
 */
import { faultsBesidePrefault, recorderFaults } from "./support/beside-prefault.ts";
import { contiguousInstalls, type Part, scatteredInstalls } from "./support/installs.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import type { Report } from "./support/report.ts";

export async function workingSet(run: PromiseRun): Promise<Report> {
  const parts: Part[] = [
    await scatteredInstalls(run),
    await contiguousInstalls(run),
    await faultsBesidePrefault(run),
    await recorderFaults(run),
  ];
  return {
    bench: "working-set",
    method:
      "Guests on one CPU, serve, C handler and C loop on another. " +
      `${parts.map(({ method }) => method).join(" ")} Medians; ratios are medians of the rounds' ` +
      "ratios, of installs per page: serve leaves a sample to demand.",
    sides: ["beside it", "Faultline"],
    commands: parts.flatMap(({ commands }) => commands),
    measures: parts.flatMap(({ measures }) => measures),
    samples: parts.flatMap(({ samples }) => samples),
  };
}
