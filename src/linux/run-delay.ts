/**
 * How long threads could run and had to wait for a CPU, as the scheduler counts it: what tells
 * "the host was busy" from "we were slow". See proc_pid_schedstat(5); kernels that were built
 * without CONFIG_SCHED_INFO have no such file.
 */
import { readdirSync, readFileSync } from "node:fs";

/**
 * Microseconds that a thread has waited for a CPU since it began. Null: it is gone, or the kernel
 * does not count it.
 */
export function runDelayUs(pid: number | "self", thread: number): number | null {
  try {
    // Nanoseconds on a CPU, nanoseconds waiting for one, and how often it ran.
    const words = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "latin1").split(" ");
    const waitedNs = Number(words[1]);
    return Number.isFinite(waitedNs) ? waitedNs / 1000 : null;
  } catch {
    return null;
  }
}

/** The threads of a process at the moment; none if it is gone. */
export function threadsOf(pid: number | "self"): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).map(Number);
  } catch {
    return [];
  }
}
