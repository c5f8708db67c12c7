/**
 * What boot and restore know of a guest, whichever kind it is, and which kind it shall be.
 *
 * - `kvm`: the program of programs.ts on a vCPU. Needs /dev/kvm.
 * - `process`: the same phases as plain code of this process, on the same memory. Needs nothing.
 */
import { describeError, FaultlineError } from "../base/errors.ts";
import { Kvm } from "../linux/kvm.ts";
import { HELLO } from "./programs.ts";

export type GuestKind = "kvm" | "process";
export type GuestChoice = "auto" | GuestKind;

/** What a vCPU needs besides memory to go on elsewhere: `kvm_regs` and `kvm_sregs` in hex. */
export interface VcpuState {
  readonly registers: string;
  readonly systemRegisters: string;
}

export interface Guest {
  /** Runs up to the next OUT: its value, or null when the guest has stopped. */
  next(): number | null;
  /** The state behind the last OUT; null for a guest without a vCPU. */
  vcpuState(): VcpuState | null;
  close(): void;
}

/** The chosen kind, with what it needs. `reason`: why `auto` did not take KVM. */
export type ChosenGuest =
  | { readonly kind: "kvm"; readonly kvm: Kvm }
  | { readonly kind: "process"; readonly reason?: string };

/** `auto` takes KVM if it can be opened; `kvm` takes nothing else. */
export function chooseGuest(choice: GuestChoice): ChosenGuest {
  if (choice === "process") return { kind: "process" };
  try {
    return { kind: "kvm", kvm: Kvm.open() };
  } catch (error) {
    if (choice === "kvm" || !(error instanceof FaultlineError)) throw error;
    return { kind: "process", reason: describeError(error) };
  }
}

/** Runs to the next sum, two values. */
export function readSum(guest: Guest): string {
  const low = readValue(guest);
  const high = readValue(guest);
  return `0x${hex32(high)}${hex32(low)}`;
}

/** Runs a guest that was snapshotted after its first sum to the sign that it runs again. */
export function readHello(guest: Guest): void {
  const value = readValue(guest);
  if (value === HELLO) return;
  throw new FaultlineError("session-failed", `The guest said 0x${hex32(value)} instead of hello.`);
}

export function runToStop(guest: Guest): void {
  const value = guest.next();
  if (value === null) return;
  throw new FaultlineError("session-failed", `The guest said 0x${hex32(value)} instead of ending.`);
}

function readValue(guest: Guest): number {
  const value = guest.next();
  if (value === null) throw new FaultlineError("session-failed", "The guest ended too early.");
  return value;
}

function hex32(value: number): string {
  return value.toString(16).padStart(8, "0");
}
