/**
 * What the simulator plays: the worlds of VMs whose faults come by userfaultfd alone, and those of
 * VMs with KVM Userfault. Each has its own kinds of trouble, mutants and sights. PURE.
 */
import { troubles } from "./climate.ts";
import { mutants } from "./mutants.ts";
import type { Demands } from "./passage.ts";
import { judgeBy, type ShortFailure, shrinkBy, type Theatre } from "./shrink.ts";
import { type Sight, sights, type Tally, userfaultSights } from "./tally.ts";
import { userfaultTroubles } from "./userfault/climate.ts";
import { userfaultMutants } from "./userfault/mutants.ts";
import { runUserfaultWorld, userfaultTroublesOf } from "./userfault/world.ts";
import { runWorld, troublesOf } from "./world.ts";

/** A world of a stage, told by names. */
export interface StagedWorld {
  readonly seed: number;
  readonly steps: number;
  readonly without: readonly string[];
  /** Null: the real handler. */
  readonly mutant: string | null;
  /** What a guest does first, where the stage can play it. */
  readonly demands?: Demands | null;
  readonly tally?: Tally;
  readonly trace?: ((line: string) => void) | null;
}

export interface Stage {
  readonly troubles: readonly string[];
  /** By their names: what each does wrong. */
  readonly mutants: Readonly<Record<string, { readonly mistake: string }>>;
  readonly sights: readonly Sight[];
  /** What is wrong with a world, in one sentence; null: nothing. */
  judge(world: StagedWorld): string | null;
  /** The shortest form of a world that fails. */
  shrink(world: StagedWorld): ShortFailure;
}

interface Cast<Trouble extends string, Parts> {
  readonly troubles: readonly Trouble[];
  readonly mutants: Readonly<Record<string, { readonly mistake: string; readonly parts: Parts }>>;
  readonly sights: readonly Sight[];
  readonly theatre: Theatre<Trouble, Parts>;
}

export type StageName = "uffd" | "userfault";

export const stages: Readonly<Record<StageName, Stage>> = {
  uffd: stageOf({ troubles, mutants, sights, theatre: { run: runWorld, troublesOf } }),
  userfault: stageOf({
    troubles: userfaultTroubles,
    mutants: userfaultMutants,
    sights: userfaultSights,
    theatre: { run: runUserfaultWorld, troublesOf: userfaultTroublesOf },
  }),
};

function stageOf<Trouble extends string, Parts>(cast: Cast<Trouble, Parts>): Stage {
  const { theatre, ...names } = cast;
  const worldOf = ({ mutant, without, ...world }: StagedWorld) => ({
    ...world,
    without: names.troubles.filter((trouble) => without.includes(trouble)),
    ...(mutant === null ? {} : { parts: names.mutants[mutant]!.parts }),
  });
  return {
    ...names,
    judge: (world) => judgeBy(theatre, worldOf(world)),
    shrink: (world) => shrinkBy(theatre, worldOf(world)),
  };
}
