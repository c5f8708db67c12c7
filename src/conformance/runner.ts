/** Plays scenarios against a handler: a fresh process for each, some of them side by side. */
import { describeError, type ErrorCode, FaultlineError } from "../base/errors.ts";
import type { HandlerCommand } from "../kit/handler-command.ts";
import type { HandlerProcess } from "../kit/handler-process.ts";
import { waitFor, within } from "../kit/wait.ts";
import { hugePagePool } from "../uffd/host-facts.ts";
import type { Scenario } from "./scenario.ts";
import { Stage } from "./stage.ts";
import { VmPool } from "./vm-process.ts";

export type Verdict = "pass" | "fail" | "skip" | "not asked";

export interface Result {
  readonly scenario: Scenario;
  readonly verdict: Verdict;
  readonly durationMs: number;
  /** What is wrong, or what is missing and how to get it. Empty for a pass. */
  readonly message: string;
  /** The last of what a failing handler wrote. */
  readonly handlerMessages: string;
}

export interface RunOptions {
  readonly command: HandlerCommand;
  readonly servesManyVms: boolean;
  /** How long each single wait may take. */
  readonly deadlineMs: number;
  /** Scenarios at the same time. */
  readonly jobs: number;
}

/** Two scenarios at once on the largest image, and some to spare for others. */
const HUGE_PAGES_WANTED = 16;
/** The pages of a process that has just died come back a moment later. */
const HUGE_PAGES_PATIENCE_MS = 1500;
/** More than any scenario has; each has its own deadline. This only ends a bug of ours. */
const MAX_WAITS = 20;
const START_MS = 60_000;
const END_GRACE_MS = 200;

/**
 * Calls `onResult` for each scenario as it ends, and returns all, in the order given.
 * @throws FaultlineError `handler-failed` if the handler does not even start, `no-compiler` if a
 *   scenario needs one
 */
export async function runScenarios(
  scenarios: readonly Scenario[],
  options: RunOptions,
  onResult: (result: Result) => void = () => {},
): Promise<Result[]> {
  await using pool = new VmPool();
  const results = new Array<Result>(scenarios.length);
  let next = 0;
  let failure: unknown = null;
  const lane = async (): Promise<void> => {
    while (next < scenarios.length && failure === null) {
      const index = next++;
      try {
        results[index] = await runOne(scenarios[index]!, options, pool);
        onResult(results[index]);
      } catch (error) {
        failure ??= error;
      }
    }
  };
  await Promise.all(Array.from({ length: options.jobs }, lane));
  if (failure !== null) throw failure;
  return results;
}

const endsTheRun: readonly ErrorCode[] = ["handler-failed", "no-compiler"];

async function runOne(scenario: Scenario, options: RunOptions, pool: VmPool): Promise<Result> {
  const startMs = performance.now();
  const result = (verdict: Verdict, message = "", handlerMessages = ""): Result => ({
    scenario,
    verdict,
    durationMs: performance.now() - startMs,
    message,
    handlerMessages,
  });
  if (scenario.needsManyVms === true && !options.servesManyVms) {
    return result("not asked", "for handlers that serve many VMs: --many-vms");
  }
  const lack = scenario.needsHugePages === true ? await lackOfHugePages() : null;
  if (lack !== null) return result("skip", lack);
  const { command, deadlineMs } = options;
  const hasHotplug = scenario.hasHotplug === true;
  await using stage = new Stage({ command, deadlineMs, hasHotplug, pool });
  try {
    const budgetMs = MAX_WAITS * deadlineMs + START_MS;
    await within("the scenario ended", scenario.play(stage), budgetMs);
    return result("pass");
  } catch (error) {
    // A handler that does not listen fails nothing in particular: the whole run is pointless.
    // So it is without the compiler that a model needs.
    if (error instanceof FaultlineError && endsTheRun.includes(error.code)) throw error;
    const handler = stage.startedHandler;
    return result(
      "fail",
      `${describeError(error)}${await endOf(handler)}`,
      handler?.messages ?? "",
    );
  }
}

/** How the handler ended, if it did: that explains most of what a VM complains about. */
async function endOf(handler: HandlerProcess | null): Promise<string> {
  // Its connections are closed a moment before its end is told.
  const exit = (await handler?.ended(END_GRACE_MS)) ?? null;
  return exit === null ? "" : ` The handler has ended with ${exit.signal ?? `code ${exit.code}`}.`;
}

async function lackOfHugePages(): Promise<string | null> {
  const pool = hugePagePool();
  if (pool === null) return "this kernel has no 2 MiB pages";
  const areFree = (): boolean => freeHugePages() >= HUGE_PAGES_WANTED;
  try {
    await waitFor("huge pages were free", areFree, HUGE_PAGES_PATIENCE_MS);
    return null;
  } catch {
    const cure = `sysctl vm.nr_hugepages=${pool.total + HUGE_PAGES_WANTED}`;
    return `${freeHugePages()} of ${HUGE_PAGES_WANTED} free 2 MiB pages: ${cure}`;
  }
}

function freeHugePages(): number {
  const { free, reserved } = hugePagePool()!;
  return free - reserved;
}
