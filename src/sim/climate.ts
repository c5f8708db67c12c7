/** What a virtual VM has to live with: kinds of trouble, and how much, drawn from a seed. PURE. */
import type { Random } from "./random.ts";

/** How likely a step is to be each of these; the rest are guest threads that go on. */
export interface Climate {
  readonly remove: number;
  readonly signal: number;
  readonly layout: number;
  readonly shortage: number;
  readonly death: number;
  /** The VMM fills pages by itself. */
  readonly refill: number;
  /** Per operation of the handler: put off without any event. */
  readonly race: number;
  /** Some pages of the snapshot cannot be read. */
  readonly unreadable: boolean;
  /** The snapshot's bytes come after they were asked for. */
  readonly far: boolean;
  /** Pages are installed ahead of their faults. */
  readonly ahead: boolean;
  /** Whether EVENT_REMOVE was asked for. Without it the VMM drops pages without a word. */
  readonly hasRemoveEvents: boolean;
  /** VMM threads give memory back as fast as the handler reads it. */
  readonly flood: boolean;
  /** More threads than the planner's queue has places. */
  readonly crowd: boolean;
  /** Other VMs share the worker. */
  readonly neighbours: boolean;
}

/** What `--without` can switch off, to see whether a failure needs it. */
export const troubles = [
  "remove",
  "signal",
  "layout",
  "shortage",
  "death",
  "refill",
  "race",
  "unreadable",
  "far",
  "ahead",
  "flood",
  "crowd",
  "neighbours",
] as const;
export type Trouble = (typeof troubles)[number];

export const calmClimate: Climate = {
  remove: 0,
  signal: 0,
  layout: 0,
  shortage: 0,
  death: 0,
  refill: 0,
  race: 0,
  unreadable: false,
  far: false,
  ahead: false,
  hasRemoveEvents: true,
  flood: false,
  crowd: false,
  neighbours: false,
};

export function drawClimate(random: Random): Climate {
  const hasRemoveEvents = random.chance(0.8);
  const refill = random.pick([0, 0, 0.02, 0.1]);
  return {
    remove: random.pick([0, 0.02, 0.1, 0.25]),
    signal: random.pick([0, 0.05]),
    layout: random.pick([0, 0, 0.03]),
    shortage: random.pick([0, 0, 0.005, 0.03]),
    death: random.pick([0, 0, 0, 0, 0, 0, 0, 0, 0, 0.002]),
    // Filled by the VMM and lost without a word: no handler could know what the page should be.
    refill: hasRemoveEvents ? refill : 0,
    race: random.pick([0, 0.05]),
    unreadable: random.chance(0.25),
    far: random.chance(0.3),
    ahead: random.chance(0.4),
    hasRemoveEvents,
    flood: false,
    crowd: false,
    neighbours: false,
  };
}

export function without(climate: Climate, switchedOff: readonly Trouble[]): Climate {
  const calm = switchedOff.map((trouble) => [trouble, calmClimate[trouble]]);
  return { ...climate, ...Object.fromEntries(calm) };
}
