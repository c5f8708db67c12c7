/**
 * What installs pages of a VM, and lets those go on who wait for them: its userfaultfd, or, for a
 * VM with KVM Userfault, its guest_memfd and all the ways to ask (`guest-memfd.ts`). Addresses are
 * those of the VMM.
 */
import type { Outcome } from "../base/outcome.ts";
import type { WakeOption } from "../uffd/userfaultfd.ts";

export interface GuestPages {
  /** How much the last call has done, in bytes. */
  readonly doneBytes: number;
  /** `mode`: bits of UFFDIO_COPY. */
  copy(target: number, source: number, lengthBytes: number, mode?: number): Outcome;
  zeropage(start: number, lengthBytes: number, options?: WakeOption): Outcome;
  poison(start: number, lengthBytes: number, options?: WakeOption): Outcome;
  /** Whoever waits in the range goes on. */
  wake(start: number, lengthBytes: number): void;
}
