/**
 * Boots a guest until its first sum, saves it, and lets it go on: what the guest says then is what
 * every restored copy of it must say too.
 */
import { FaultlineError } from "../base/errors.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import {
  type ChosenGuest,
  chooseGuest,
  type Guest,
  type GuestChoice,
  readHello,
  readSum,
  runToStop,
} from "./guest.ts";
import { GuestMemory } from "./guest-memory.ts";
import { filledPages, type GuestOptions, type GuestPlan, planGuest } from "./guest-plan.ts";
import { bootKvmGuest } from "./kvm-guest.ts";
import { lowMemoryImage } from "./low-memory.ts";
import { bootProcessGuest } from "./process-guest.ts";
import { type ReportEvent, reportChoice } from "./report.ts";
import { prepareFolder, writeMemoryFile, writeState } from "./snapshot-file.ts";

export interface BootOptions extends GuestOptions {
  readonly folder: string;
  readonly guest: GuestChoice;
}

export function boot(options: BootOptions, report: ReportEvent): void {
  const { memoryMib, fillPercent, workingSetPercent } = options;
  const plan = planGuest(options);
  const paths = prepareFolder(options.folder);
  const chosen = chooseGuest(options.guest);
  if (options.guest === "auto") reportChoice(report, chosen);
  using memory = GuestMemory.allocate(plan.ramBytes, { hugePages: false });
  memory.low.set(lowMemoryImage());
  const guest = start(chosen, memory, plan);

  const checksum = readSum(guest);
  const vcpu = guest.vcpuState();
  writeMemoryFile(paths.memoryFile, memory);
  const afterWrite = goOn(guest, checksum);
  writeState(paths.stateFile, {
    options: { memoryMib, fillPercent, workingSetPercent },
    vcpu,
    expected: { checksum, afterWrite },
  });
  guest.close();
  report("snapshot", {
    guest: chosen.kind,
    checksum,
    afterWrite,
    ...paths,
    memoryBytes: memory.sizeBytes,
    filledPages: filledPages(plan),
    workingSetPages: plan.workingSet.steps,
    dirtiedPages: plan.dirty.steps,
    pageSizeBytes: SMALL_PAGE_BYTES,
  });
}

function start(chosen: ChosenGuest, memory: GuestMemory, plan: GuestPlan): Guest {
  if (chosen.kind === "process") return bootProcessGuest(memory, plan);
  return bootKvmGuest(chosen.kvm, memory, plan);
}

/** Runs the guest to its end in the memory it was booted in; returns its last sum. */
function goOn(guest: Guest, checksum: string): string {
  readHello(guest);
  const again = readSum(guest);
  if (again !== checksum) {
    throw new FaultlineError(
      "session-failed",
      `The guest's sum was ${checksum} before the snapshot and ${again} after it, in the same ` +
        "memory: this machine's KVM or memory is at fault.",
    );
  }
  const afterWrite = readSum(guest);
  runToStop(guest);
  return afterWrite;
}
