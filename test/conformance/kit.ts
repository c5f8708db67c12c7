/** What the tests of the kit have in common. */
import "../support/end-cleanly.ts";
import { join } from "node:path";
import { type Result, runScenarios } from "../../src/conformance/runner.ts";
import { selectScenarios } from "../../src/conformance/scenarios/all.ts";
import { HandlerCommand } from "../../src/kit/handler-command.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import type { Mistake } from "./mistakes.ts";

export const PATIENCE_MS = 5000;
/** For handlers that are known to let a VM hang. */
export const IMPATIENCE_MS = 1500;
/** Most of the time somebody waits for somebody. */
const JOBS = 3;

/** The handler of planted-handler.ts. */
export function plantedHandler(mistake?: Mistake): HandlerCommand {
  const program = join(builtRoot, "test/conformance/planted-handler.js");
  const node = process.execPath;
  return new HandlerCommand(`'${node}' '${program}' {socket} {memory} ${mistake ?? ""}`);
}

export async function play(
  names: readonly string[],
  command: HandlerCommand,
  options: { readonly deadlineMs: number; readonly servesManyVms: boolean },
): Promise<Result[]> {
  return await runScenarios(selectScenarios(names), { command, jobs: JOBS, ...options });
}

/** The names of the results with one of these verdicts, and why they failed. */
export function failuresOf(results: readonly Result[]): string[] {
  return results
    .filter(({ verdict }) => verdict === "fail" || verdict === "skip")
    .map(({ scenario, message }) => `${scenario.name}: ${message}`);
}
