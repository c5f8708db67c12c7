/**
 * Who gets a CPU first when there are not enough: a thread's nice value and its time slice. Both
 * are per thread on Linux, and neither of these calls needs a privilege.
 */
import { readdirSync } from "node:fs";
import { getPriority, setPriority } from "node:os";
import { SCHED_BATCH, SCHED_OTHER, sched_attr } from "./abi-posix.ts";
import { readU64, writeU64 } from "./layout.ts";
import * as sys from "./sys.ts";

const { SYS_gettid, SYS_sched_getattr, SYS_sched_setattr } = sys.abi.syscalls;
const CALLING_THREAD = 0;
/** The highest nice value there is: the lowest priority. */
const NICEST = 19;

/** The slice of a thread in nanoseconds; 0 if the kernel (before 6.12) does not tell. */
export function sliceOf(thread: number): number {
  const attributes = new sys.Scratch(sched_attr.size);
  const { address, words } = attributes;
  if (sys.syscall(SYS_sched_getattr, thread, address, sched_attr.size, 0) === -1) return 0;
  return readU64(words, sched_attr.offset.sched_runtime);
}

/**
 * Asks for a short slice for the calling thread, so that it takes the CPU from others soon after it
 * wakes up, and gives it back soon. Honoured since Linux 6.12; false if it is not.
 */
export function requestSlice(nanoseconds: number): boolean {
  const attributes = new sys.Scratch(sched_attr.size);
  const { address, words } = attributes;
  const { sched_policy, sched_runtime } = sched_attr.offset;
  if (sys.syscall(SYS_sched_getattr, CALLING_THREAD, address, sched_attr.size, 0) === -1) {
    return false;
  }
  // Whoever made it a real-time thread has decided better.
  if (words[sched_policy >>> 2] !== SCHED_OTHER) return false;
  writeU64(words, sched_runtime, nanoseconds);
  if (sys.syscall(SYS_sched_setattr, CALLING_THREAD, address, 0, 0) === -1) return false;
  return sliceOf(CALLING_THREAD) === nanoseconds;
}

/** The calling thread, as the kernel knows it. */
export function threadId(): number {
  return Number(sys.syscall(SYS_gettid, 0, 0, 0, 0));
}

/** The threads of this process at the moment. */
export function threadIds(): number[] {
  return readdirSync("/proc/self/task").map(Number);
}

/**
 * Lets threads of this process have less of a CPU that others want too, and never take it from
 * somebody who runs just because they wake up (SCHED_BATCH, see sched(7)).
 */
export function lowerPriority(threads: readonly number[], niceBy: number): void {
  for (const thread of threads) {
    try {
      setPriority(thread, Math.min(NICEST, getPriority(thread) + niceBy));
      beBatch(thread);
    } catch {
      // It has ended meanwhile, or a sandbox forbids it: then it is as it was.
    }
  }
}

/** False if the thread has another policy than the usual one, or is gone. */
function beBatch(thread: number): boolean {
  const attributes = new sys.Scratch(sched_attr.size);
  const { address, words } = attributes;
  const policyAt = sched_attr.offset.sched_policy >>> 2;
  if (sys.syscall(SYS_sched_getattr, thread, address, sched_attr.size, 0) === -1) return false;
  if (words[policyAt] !== SCHED_OTHER) return false;
  words[policyAt] = SCHED_BATCH;
  return sys.syscall(SYS_sched_setattr, thread, address, 0, 0) !== -1;
}
