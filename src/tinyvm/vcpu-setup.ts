/**
 * The vCPU's general registers at boot: the plan as the program expects it (programs.ts). IOPL 3
 * allows OUT at privilege level 3; system registers: linux/long-mode.ts.
 */
import { kvm_regs } from "../linux/abi-kvm.ts";
import { writeU64 } from "../linux/layout.ts";
import type { GuestPlan } from "./guest-plan.ts";
import { PROGRAM_ADDRESS, RAM_GUEST_ADDRESS } from "./memory-layout.ts";

const RFLAGS_IOPL3 = 0x3002; // Bit 1 is always set.

export function bootRegisters(plan: GuestPlan): Uint8Array {
  const registers = new Uint8Array(kvm_regs.size);
  const words = new Uint32Array(registers.buffer);
  const at = kvm_regs.offset;
  writeU64(words, at.rip, PROGRAM_ADDRESS);
  writeU64(words, at.rflags, RFLAGS_IOPL3);
  writeU64(words, at.rdi, RAM_GUEST_ADDRESS);
  writeU64(words, at.rbx, plan.seed);
  writeU64(words, at.r8, plan.fill.count);
  writeU64(words, at.r9, plan.fill.stride);
  writeU64(words, at.r10, plan.fill.steps);
  writeU64(words, at.r11, plan.workingSet.count);
  writeU64(words, at.r12, plan.workingSet.stride);
  writeU64(words, at.r13, plan.workingSet.steps);
  writeU64(words, at.r14, plan.dirty.stride);
  writeU64(words, at.r15, plan.dirty.steps);
  return registers;
}
