/** How much is done: a real run, a quick look, and what may be asked for at most. */
import { FaultlineError } from "../base/errors.ts";
import { availableMib } from "./machine.ts";
import type { Settings } from "./scenario.ts";

export const fullSettings: Settings = {
  rounds: 11,
  memoryMib: 256,
  threads: 8,
  vms: 100,
  isPinned: true,
  isQuick: false,
};

/** All scenarios in less than half a minute. */
export const quickSettings: Settings = {
  ...fullSettings,
  rounds: 3,
  memoryMib: 32,
  vms: 20,
  isQuick: true,
};

/** What the C programs and a command line can be asked for. */
export const settingLimits = { rounds: 1000, memoryMib: 65_536, threads: 256, vms: 1000 } as const;

/** The memory file and a guest that has touched all of it. */
const COPIES = 2;

/** Swapping would be measured, and nothing else: throws `bad-option` if memory is too short. */
export function assertFitsMemory({ memoryMib }: Settings): void {
  const neededMib = COPIES * memoryMib;
  const available = availableMib();
  if (neededMib <= available) return;
  throw new FaultlineError(
    "bad-option",
    `--memory ${memoryMib} cannot be used: file and guest need ${neededMib} MiB together, and ` +
      `${available} MiB are available: give ${Math.floor(available / COPIES)} or less.`,
  );
}
