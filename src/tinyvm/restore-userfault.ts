/**
 * Restores a guest by KVM Userfault: its RAM is guest_memfd, its vCPU stops at each page that is
 * missing, and tinyvm reads that page from the memory file. No handler, no socket; a stock kernel
 * refuses (linux/userfault-probe.ts says at which step).
 */
import { FaultlineError } from "../base/errors.ts";
import { monotonicUs } from "../linux/clock.ts";
import { Kvm } from "../linux/kvm.ts";
import { probeUserfault } from "../linux/userfault-probe.ts";
import { planGuest } from "./guest-plan.ts";
import { restoreUserfaultGuest } from "./kvm-guest.ts";
import type { ReportEvent } from "./report.ts";
import { runRestored } from "./restore.ts";
import { readState, snapshotPaths } from "./snapshot-file.ts";
import { UserfaultMemory } from "./userfault-memory.ts";

/** @throws FaultlineError `unsupported`: this kernel has no KVM Userfault */
export function restoreOnUserfault(folder: string, report: ReportEvent): void {
  const state = readState(folder);
  const plan = planGuest(state.options);
  if (state.vcpu === null) {
    throw new FaultlineError(
      "bad-option",
      `--userfault: the snapshot in ${folder} has no vCPU, for it was taken from a process ` +
        "guest. Boot a new one with --guest kvm.",
    );
  }
  const support = probeUserfault();
  if (support.kind === "none") {
    throw new FaultlineError(
      "unsupported",
      `--userfault: this kernel has no KVM Userfault. ${support.reason} Restore with --socket.`,
    );
  }
  const startUs = monotonicUs();
  const elapsedUs = (): number => Math.round(monotonicUs() - startUs);
  const kvm = Kvm.open();
  const vm = kvm.createVm();
  const memory = new UserfaultMemory(vm, plan.ramBytes, snapshotPaths(folder).memoryFile);
  const guest = restoreUserfaultGuest(kvm, vm, memory, state.vcpu);
  runRestored(guest, state, elapsedUs, report);
  report("populated", { pages: memory.populatedPages });
}
