/** A process pinned by a pidfd: it cannot be confused with a later one of the same number. */
import { EPERM, ESRCH, SIGKILL } from "./abi-posix.ts";
import { OwnedFd } from "./fd.ts";
import * as sys from "./sys.ts";

const { SYS_pidfd_open, SYS_pidfd_send_signal } = sys.abi.syscalls;

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
