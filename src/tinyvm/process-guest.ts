/**
 * The guest without KVM: what programs.ts says in assembly, as plain code of this process. Same
 * memory, same values, and its faults are real ones of the same userfaultfd, raised from user mode.
 */
import { FaultlineError } from "../base/errors.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import type { Guest } from "./guest.ts";
import type { GuestMemory } from "./guest-memory.ts";
import { FILL_RUN_BYTES, type GuestPlan, type Walk } from "./guest-plan.ts";
import { isLowMemoryIntact } from "./low-memory.ts";
import { HELLO, SUM_MULTIPLIER } from "./programs.ts";

const RUN_WORDS = FILL_RUN_BYTES / 4;
const PAGE_WORDS = SMALL_PAGE_BYTES / 4;
const DIRTIED_WORD = 2;

/** A guest at its first instruction; its memory holds lowMemoryImage() and zeroes. */
export function bootProcessGuest(memory: GuestMemory, plan: GuestPlan): Guest {
  return guestOf(bootAndResume(memory, plan));
}

/** A guest that goes on where a snapshot was taken. */
export function restoreProcessGuest(memory: GuestMemory, plan: GuestPlan): Guest {
  return guestOf(resume(memory, plan));
}

/** The values a guest OUTs, one by one. */
type Outputs = Generator<number, void, void>;

function guestOf(outputs: Outputs): Guest {
  return {
    next: () => {
      const result = outputs.next();
      return result.done === true ? null : result.value;
    },
    vcpuState: () => null,
    close: () => {},
  };
}

function* bootAndResume(memory: GuestMemory, plan: GuestPlan): Outputs {
  fill(memory.ram, plan);
  yield* sum(memory.ram, plan.workingSet);
  yield* resume(memory, plan);
}

function* resume(memory: GuestMemory, plan: GuestPlan): Outputs {
  if (!isLowMemoryIntact(memory.low)) {
    throw new FaultlineError(
      "session-failed",
      "The restored low memory holds another program or other page tables than it was saved with.",
    );
  }
  yield HELLO;
  yield* sum(memory.ram, plan.workingSet);
  dirty(memory.ram, plan.dirty);
  yield* sum(memory.ram, plan.dirty);
}

function fill(ram: Uint32Array, plan: GuestPlan): void {
  let state = plan.seed;
  let run = 0;
  for (let step = 0; step < plan.fill.steps; step++) {
    const first = run * RUN_WORDS;
    for (let index = 0; index < RUN_WORDS; index++) {
      // Marsaglia's xorshift32: full period, and no weak low bits as a multiply-add would have.
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      ram[first + index] = state;
    }
    run = nextOf(plan.fill, run);
  }
}

function* sum(ram: Uint32Array, walk: Walk): Outputs {
  let even = 0;
  let odd = 0;
  let page = 0;
  for (let step = 0; step < walk.steps; step++) {
    const first = page * PAGE_WORDS;
    for (let index = 0; index < PAGE_WORDS; index += 2) {
      even = (Math.imul(even, SUM_MULTIPLIER) + ram[first + index]!) | 0;
      odd = (Math.imul(odd, SUM_MULTIPLIER) + ram[first + index + 1]!) | 0;
    }
    page = nextOf(walk, page);
  }
  yield even >>> 0;
  yield odd >>> 0;
}

function dirty(ram: Uint32Array, walk: Walk): void {
  let page = 0;
  for (let step = 0; step < walk.steps; step++) {
    ram[page * PAGE_WORDS + DIRTIED_WORD] = ~page;
    page = nextOf(walk, page);
  }
}

function nextOf(walk: Walk, item: number): number {
  const next = item + walk.stride;
  return next < walk.count ? next : next - walk.count;
}
