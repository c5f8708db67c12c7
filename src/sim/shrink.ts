/**
 * Makes a failure short enough to read: the same seed with fewer kinds of trouble, and with fewer
 * steps. PURE.
 */
import type { Trouble } from "./climate.ts";
import { HandlerFailure, WrongPage } from "./failures.ts";
import type { Demands } from "./passage.ts";
import type { Tally } from "./tally.ts";
import { runWorld, troublesOf, type WorldOptions } from "./world.ts";

/** Up to here every number of steps is tried, because fewer steps may fail where more do not. */
const STEPS_TRIED_ONE_BY_ONE = 300;
const TRACE_LINES = 40;

/** A world of any kind. */
export interface PlayOptions<Trouble extends string, Parts> {
  readonly seed: number;
  readonly steps: number;
  readonly without?: readonly Trouble[];
  readonly parts?: Parts;
  readonly demands?: Demands | null;
  readonly trace?: ((line: string) => void) | null;
  readonly tally?: Tally;
}

/** Where worlds of one kind are played. */
export interface Theatre<Trouble extends string, Parts> {
  /** Throws what is wrong. */
  run(options: PlayOptions<Trouble, Parts>): void;
  troublesOf(options: PlayOptions<Trouble, Parts>): Trouble[];
}

/** A world that fails, in its shortest form. */
export interface ShortFailure<Trouble extends string = string> {
  readonly seed: number;
  readonly steps: number;
  readonly without: readonly Trouble[];
  /** What the oracle says. */
  readonly message: string;
  /** The last lines of what happened. */
  readonly trace: readonly string[];
}

const uffdTheatre = { run: runWorld, troublesOf };

/** What is wrong with a world, in one sentence; null: nothing. */
export function judge(options: WorldOptions): string | null {
  return judgeBy(uffdTheatre, options);
}

/** `options`: a world that fails. */
export function shrink(options: WorldOptions): ShortFailure<Trouble> {
  return shrinkBy(uffdTheatre, options);
}

export function judgeBy<Kind extends string, Parts>(
  theatre: Theatre<Kind, Parts>,
  options: PlayOptions<Kind, Parts>,
): string | null {
  try {
    theatre.run(options);
    return null;
  } catch (error) {
    if (error instanceof WrongPage || error instanceof HandlerFailure) return error.message;
    // A broken assertion of the handler is a finding too, and tells most by its stack.
    return error instanceof Error ? (error.stack ?? error.message) : String(error);
  }
}

export function shrinkBy<Kind extends string, Parts>(
  theatre: Theatre<Kind, Parts>,
  options: PlayOptions<Kind, Parts>,
): ShortFailure<Kind> {
  const without = needlessTroubles(theatre, options);
  const steps = fewestSteps(theatre, { ...options, without });
  const trace: string[] = [];
  const keep = (line: string): void => {
    if (trace.push(line) > TRACE_LINES) trace.shift();
  };
  const message = judgeBy(theatre, { ...options, without, steps, trace: keep });
  return { seed: options.seed, steps, without, message: message ?? "does not fail again", trace };
}

function needlessTroubles<Kind extends string, Parts>(
  theatre: Theatre<Kind, Parts>,
  options: PlayOptions<Kind, Parts>,
): Kind[] {
  const without = [...(options.without ?? [])];
  for (const trouble of theatre.troublesOf(options)) {
    const fewer = { ...options, without: [...without, trouble] };
    if (judgeBy(theatre, fewer) !== null) without.push(trouble);
  }
  return without;
}

function fewestSteps<Kind extends string, Parts>(
  theatre: Theatre<Kind, Parts>,
  options: PlayOptions<Kind, Parts>,
): number {
  const fails = (steps: number): boolean => judgeBy(theatre, { ...options, steps }) !== null;
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
