/** What a virtual VM with KVM Userfault has to live with, drawn from a seed. PURE. */
import type { Random } from "../random.ts";

/** Shares are of steps, or of calls of the handler, from 0 to 1. */
export interface UserfaultClimate {
  /** Of calls: the handler dies there, and another takes over. */
  readonly death: number;
  /** The VMM gives the memory of a page back, by a hole in the file. */
  readonly hole: number;
  /** Of writes: there is no memory. */
  readonly shortage: number;
  /** Of writes: it ends after some of the pages. */
  readonly short: number;
  /** Of writes: it ends in the middle of a page. */
  readonly half: number;
  /** Of calls of the userfaultfd: put off. */
  readonly race: number;
  /** The VMM takes no replies for a while. */
  readonly stuck: number;
  /** The VMM asks again for what it has asked for. */
  readonly duplicate: number;
  /** A page is mapped while threads wait for it, and nobody wakes them. */
  readonly sleeper: number;
  /** The VMM clears some bits by itself, before the first fault. */
  readonly precleared: boolean;
  /** KVM fills some of these pages by itself. */
  readonly clock: number;
  /** The snapshot's bytes come after they were asked for. */
  readonly far: boolean;
  /** Pages are installed ahead of their faults. */
  readonly ahead: boolean;
}

/** What `--without` can switch off, to see whether a failure needs it. */
export const userfaultTroubles = [
  ...(["death", "hole", "shortage", "short", "half", "race", "stuck"] as const),
  ...(["duplicate", "sleeper", "precleared", "clock", "far", "ahead"] as const),
] as const;
export type UserfaultTrouble = (typeof userfaultTroubles)[number];

export const calmUserfaultClimate: UserfaultClimate = {
  death: 0,
  hole: 0,
  shortage: 0,
  short: 0,
  half: 0,
  race: 0,
  stuck: 0,
  duplicate: 0,
  sleeper: 0,
  precleared: false,
  clock: 0,
  far: false,
  ahead: false,
};

export function drawUserfaultClimate(random: Random): UserfaultClimate {
  return {
    death: random.pick([0, 0, 0.002, 0.01, 0.05]),
    hole: random.pick([0, 0, 0.01, 0.05]),
    shortage: random.pick([0, 0, 0.02, 0.2]),
    short: random.pick([0, 0.1, 0.5]),
    half: random.pick([0, 0, 0.1]),
    race: random.pick([0, 0.05, 0.3]),
    stuck: random.pick([0, 0, 0.01, 0.05]),
    duplicate: random.pick([0, 0, 0.02]),
    sleeper: random.pick([0, 0, 0.05]),
    precleared: random.chance(0.5),
    clock: random.pick([0, 0.01]),
    far: random.chance(0.3),
    ahead: random.chance(0.4),
  };
}

export function withoutTroubles(
  climate: UserfaultClimate,
  switchedOff: readonly UserfaultTrouble[],
): UserfaultClimate {
  const calm = switchedOff.map((trouble) => [trouble, calmUserfaultClimate[trouble]]);
  return { ...climate, ...Object.fromEntries(calm) };
}
