/**
 * Restores a guest without its memory, in Firecracker's order: map empty memory, userfaultfd with
 * EVENT_REMOVE, register (missing), connect and send the handshake; only then the VM and its vCPU.
 * The memory file is the handler's affair; it is never opened here.
 */
import { FaultlineError } from "../base/errors.ts";
import { monotonicUs } from "../linux/clock.ts";
import { Userfaultfd } from "../uffd/userfaultfd.ts";
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
import { type GuestPlan, planGuest } from "./guest-plan.ts";
import { sendHandshake } from "./handshake.ts";
import { restoreKvmGuest } from "./kvm-guest.ts";
import { restoreProcessGuest } from "./process-guest.ts";
import { type ReportEvent, reportChoice } from "./report.ts";
import { readState, type SnapshotState } from "./snapshot-file.ts";

export interface RestoreOptions {
  readonly folder: string;
  readonly socketPath: string;
  readonly hugePages: boolean;
  readonly guest: GuestChoice;
}

export function restore(options: RestoreOptions, report: ReportEvent): void {
  const state = readState(options.folder);
  const plan = planGuest(state.options);
  const chosen = chooseFor(state, options);
  if (options.guest === "auto") reportChoice(report, chosen);

  const memory = GuestMemory.allocate(plan.ramBytes, options);
  // Faults of a process guest come from user mode only, and a uffd for those is free to everyone.
  const uffd = Userfaultfd.create({
    features: ["eventRemove"],
    userModeOnly: chosen.kind === "process",
  });
  for (const { mapping } of memory.regions) {
    uffd.register(mapping.address, mapping.sizeBytes, ["missing"]);
  }
  // Socket and uffd stay open to the end of this process. Without our copy of the uffd, the death
  // of the handler would turn missing pages into zeroes; so the guest freezes instead.
  sendHandshake(options.socketPath, memory, uffd.fd);
  const startUs = monotonicUs();
  const elapsedUs = (): number => Math.round(monotonicUs() - startUs);
  report("handshake-sent");

  runRestored(start(chosen, memory, plan, state), state, elapsedUs, report);
}

/** Runs a restored guest to its end, and compares what it says with what it said before. */
export function runRestored(
  guest: Guest,
  { expected }: SnapshotState,
  elapsedUs: () => number,
  report: ReportEvent,
): void {
  readHello(guest);
  report("first-instruction", { us: elapsedUs() });
  const checksum = readSum(guest);
  report("checksum", { value: checksum, expected: expected.checksum, us: elapsedUs() });
  const afterWrite = readSum(guest);
  report("after-write", { value: afterWrite, expected: expected.afterWrite });
  runToStop(guest);
  report("done", { us: elapsedUs() });
  if (checksum !== expected.checksum || afterWrite !== expected.afterWrite) {
    throw new FaultlineError(
      "session-failed",
      "The restored guest read other bytes than it had before the snapshot: the handler " +
        "installed wrong pages, or served the memory file of another snapshot.",
    );
  }
}

/** `auto` also looks at the snapshot: one without a vCPU suits a process guest only. */
function chooseFor(state: SnapshotState, options: RestoreOptions): ChosenGuest {
  if (state.vcpu !== null) return chooseGuest(options.guest);
  if (options.guest === "kvm") {
    throw new FaultlineError(
      "bad-option",
      `--guest kvm: the snapshot in ${options.folder} has no vCPU, for it was taken from a ` +
        "process guest. Restore it with --guest process, or boot a new one with --guest kvm.",
    );
  }
  return { kind: "process", reason: "the snapshot was taken from a process guest" };
}

function start(
  chosen: ChosenGuest,
  memory: GuestMemory,
  plan: GuestPlan,
  state: SnapshotState,
): Guest {
  if (chosen.kind === "process") return restoreProcessGuest(memory, plan);
  if (state.vcpu === null) throw new Error("chooseFor() takes KVM only with a vCPU state.");
  return restoreKvmGuest(chosen.kvm, memory, state.vcpu);
}
