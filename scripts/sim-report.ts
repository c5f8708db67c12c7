/** What `npm run sim` says at its end. */
import type { ShortFailure } from "../src/sim/shrink.ts";
import type { Sight } from "../src/sim/tally.ts";

export interface SimSummary {
  readonly fromSeed: number;
  /** How many were run. */
  readonly seeds: number;
  readonly steps: number;
  readonly isInterrupted: boolean;
  readonly durationSeconds: number;
  readonly seedsPerSecond: number;
  readonly seen: Readonly<Record<string, number>>;
  readonly failure: (ShortFailure & { readonly replay: string }) | null;
}

/** `sights`: what can be seen. */
export function printSummary(summary: SimSummary, sights: readonly Sight[]): void {
  const { seeds, steps, fromSeed, durationSeconds, seedsPerSecond, failure } = summary;
  console.log("What was seen:");
  for (const [sight, count] of Object.entries(summary.seen)) {
    console.log(`${String(count).padStart(12)}  ${sight}`);
  }
  const unseen = sights.filter((sight) => summary.seen[sight] === undefined);
  // Of one world nobody expects everything.
  if (seeds > 1 && unseen.length > 0) console.log(`Never seen: ${unseen.join(", ")}.`);
  console.log(
    `\n${seeds} ${seeds === 1 ? "seed" : "seeds"} from ${fromSeed} with ${steps} steps each in ` +
      `${durationSeconds.toFixed(1)} s: ${seedsPerSecond.toFixed(0)} seeds per second`,
  );
  if (failure !== null) printFailure(failure);
  else if (summary.isInterrupted) console.log("Interrupted; nothing was found until then.");
  else console.log("Nothing was found.");
}

function printFailure(failure: NonNullable<SimSummary["failure"]>): void {
  const { seed, steps, without, message, trace, replay } = failure;
  const less = without.length === 0 ? "" : ` without ${without.join(", ")}`;
  console.log(`\nSeed ${seed} fails with ${steps} steps${less}:\n  ${message}`);
  if (trace.length > 0) console.log("\nThe end of its trace:");
  for (const line of trace) console.log(`  ${line}`);
  console.log(`\nReplay: ${replay}`);
}
