/** A process pinned by a pidfd: it cannot be confused with a later one of the same number. */
import { readFileSync } from "node:fs";
import { EPERM, ESRCH, PR_SET_PDEATHSIG, SIGKILL } from "./abi-posix.ts";
import { OwnedFd } from "./fd.ts";
import * as sys from "./sys.ts";

const { SYS_pidfd_open, SYS_pidfd_send_signal, SYS_prctl } = sys.abi.syscalls;

/** See pidfd_open(2). The descriptor polls readable when the process has exited. */
export function openPidfd(pid: number): OwnedFd {
  return new OwnedFd(
    sys.check(sys.syscall(SYS_pidfd_open, pid, 0, 0, 0), "pidfd_open", `pid ${pid}`),
  );
}

/** Sends SIGKILL. `"gone"`: it was dead already. `"denied"`: we may not, and it lives on. */
export function killByPidfd(pidfd: number): "killed" | "gone" | "denied" {
  if (sys.syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, 0, 0) === 0) return "killed";
  if (sys.errno() === ESRCH) return "gone";
  if (sys.errno() === EPERM) return "denied";
  throw sys.sysError("pidfd_send_signal");
}

/**
 * Has the kernel kill this process when the thread that started it ends. A parent that is dead
 * already is not noticed: ask something else too. See prctl(2), PR_SET_PDEATHSIG.
 */
export function dieWithParent(): void {
  sys.check(sys.syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0), "prctl(PR_SET_PDEATHSIG)");
}

/** What the kernel says of a process, in clock ticks. See proc_pid_stat(5). */
export interface ProcessTimes {
  /** When it started, since boot: with its number it is unique until the next boot. */
  readonly startTicks: number;
  /** How long it has run virtual CPUs. */
  readonly guestTicks: number;
}

/** Null: there is no such process. */
export function processTimes(pid: number): ProcessTimes | null {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return null;
  }
  // The name, second, is in brackets and may hold anything; the state is the third field.
  const [state, ...rest] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  if (state === "Z" || state === "X") return null;
  return { startTicks: Number(rest[18]), guestTicks: Number(rest[39]) };
}

/** Another after each boot of the host. */
export function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}
