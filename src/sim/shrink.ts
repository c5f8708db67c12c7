/**
 * Makes a failure short enough to read: the same seed with fewer kinds of trouble, and with fewer
 * steps. PURE.
 */
import type { Trouble } from "./climate.ts";
import { HandlerFailure, WrongPage } from "./failures.ts";
import { runWorld, troublesOf, type WorldOptions } from "./world.ts";

/** Up to here every number of steps is tried, because fewer steps may fail where more do not. */
const STEPS_TRIED_ONE_BY_ONE = 300;
const TRACE_LINES = 40;

/** A world that fails, in its shortest form. */
export interface ShortFailure {
  readonly seed: number;
  readonly steps: number;
  readonly without: readonly Trouble[];
  /** What the oracle says. */
  readonly message: string;
  /** The last lines of what happened. */
  readonly trace: readonly string[];
}

/** What is wrong with a world, in one sentence; null: nothing. */
export function judge(options: WorldOptions): string | null {
  try {
    runWorld(options);
    return null;
  } catch (error) {
    if (error instanceof WrongPage || error instanceof HandlerFailure) return error.message;
    // A broken assertion of the handler is a finding too, and tells most by its stack.
    return error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
}

/** `options`: a world that fails. */
export function shrink(options: WorldOptions): ShortFailure {
  const without = needlessTroubles(options);
  const steps = fewestSteps({ ...options, without });
  const trace: string[] = [];
  const keep = (line: string): void => {
    if (trace.push(line) > TRACE_LINES) trace.shift();
  };
  const message = judge({ ...options, without, steps, trace: keep });
  return { seed: options.seed, steps, without, message: message ?? "does not fail again", trace };
}

function needlessTroubles(options: WorldOptions): Trouble[] {
  const without = [...(options.without ?? [])];
  for (const trouble of troublesOf(options)) {
    if (judge({ ...options, without: [...without, trouble] }) !== null) without.push(trouble);
  }
  return without;
}

function fewestSteps(options: WorldOptions): number {
  const fails = (steps: number): boolean => judge({ ...options, steps }) !== null;
  let passing = -1;
  let failing = options.steps;
  while (failing - passing > 1) {
    const middle = Math.floor((passing + failing) / 2);
    if (fails(middle)) failing = middle;
    else passing = middle;
  }
  for (let steps = 0; steps < Math.min(failing, STEPS_TRIED_ONE_BY_ONE); steps++) {
    if (fails(steps)) return steps;
  }
  return failing;
}
