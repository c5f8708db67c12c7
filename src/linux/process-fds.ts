/**
 * The descriptors of another process: which of them are userfaultfds, what the kernel tells of
 * these, and a duplicate of one. Takes the rights of a debugger. See pidfd_getfd(2), kcmp(2).
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { FaultlineError } from "../base/errors.ts";
import { ENOSYS, EPERM, KCMP_FILE } from "./abi-posix.ts";
import { OwnedFd } from "./fd.ts";
import * as sys from "./sys.ts";

const { SYS_kcmp, SYS_pidfd_getfd } = sys.abi.syscalls;

/** What /proc/PID/fdinfo/FD says of a userfaultfd. */
export interface UserfaultfdInfo {
  /** Messages that nobody has read. */
  readonly pending: number;
  /** Threads that wait, whether their fault was read or not. */
  readonly waiting: number;
  /** The features that its creator enabled: UFFD_FEATURE_* bits. */
  readonly features: number;
}

/**
 * The numbers of a process's descriptors that are userfaultfds, ascending.
 * @throws FaultlineError `no-process-access`
 */
export function userfaultfdsOf(pid: number): number[] {
  const folder = `/proc/${pid}/fd`;
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (cause) {
    throw deniedOrGone(pid, cause);
  }
  return names
    .filter((name) => linkOf(`${folder}/${name}`) === "anon_inode:[userfaultfd]")
    .map(Number)
    .sort((a, b) => a - b);
}

/** Of a descriptor of this process. */
export function userfaultfdInfo(fd: number): UserfaultfdInfo {
  return parseUserfaultfdInfo(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1"));
}

/** PURE. `API:\taa:<enabled>:<all>`, hexadecimal; bit 31 of the first is the kernel's own. */
export function parseUserfaultfdInfo(text: string): UserfaultfdInfo {
  const count = (name: string): number =>
    Number(new RegExp(`^${name}:\\s*(\\d+)`, "m").exec(text)?.[1] ?? 0);
  const enabled = /^API:\s*aa:([0-9a-f]+):/m.exec(text)?.[1] ?? "0";
  const features = Number.parseInt(enabled, 16) % 2 ** 31;
  return { pending: count("pending"), waiting: count("total"), features };
}

/**
 * Duplicates a descriptor of a process into this one.
 * @throws FaultlineError `no-process-access`, `unsupported`; SysError (EBADF: no such descriptor)
 */
export function duplicateFromProcess(pid: number, pidfd: number, fd: number): OwnedFd {
  const duplicate = sys.syscall(SYS_pidfd_getfd, pidfd, fd, 0, 0);
  if (duplicate !== -1) return new OwnedFd(duplicate);
  const error = sys.sysError("pidfd_getfd", `descriptor ${fd} of process ${pid}`);
  if (error.errno === EPERM) throw denied(pid, error);
  if (error.errno !== ENOSYS) throw error;
  const message = "Taking over a VM needs pidfd_getfd, which Linux has since 5.6";
  throw new FaultlineError("unsupported", message, { cause: error });
}

/**
 * Whether descriptors of two processes are one and the same open file. Null: this kernel or these
 * rights do not tell (CONFIG_KCMP; the rights of a debugger over both processes).
 */
export function isSameFile(
  one: { readonly pid: number; readonly fd: number },
  other: { readonly pid: number; readonly fd: number },
): boolean | null {
  const order = sys.syscall5(SYS_kcmp, one.pid, other.pid, KCMP_FILE, one.fd, other.fd);
  return order === -1 ? null : order === 0;
}

/** A process that holds a userfaultfd. */
export interface UserfaultfdHolder {
  readonly pid: number;
  readonly fd: number;
  /** False: it could not be told whether it is the same userfaultfd. */
  readonly isCertain: boolean;
}

/**
 * The processes besides `except` and this one that hold the userfaultfd that is `fd` here, or may.
 * `hiddenCount`: how many processes could not be looked into.
 */
export function otherHolders(
  fd: number,
  except: number,
): { readonly holders: readonly UserfaultfdHolder[]; readonly hiddenCount: number } {
  const holders: UserfaultfdHolder[] = [];
  let hiddenCount = 0;
  const own = { pid: process.pid, fd };
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === except || pid === process.pid) continue;
    try {
      for (const candidate of userfaultfdsOf(pid)) {
        const isSame = isSameFile(own, { pid, fd: candidate });
        if (isSame !== false) holders.push({ pid, fd: candidate, isCertain: isSame === true });
      }
    } catch (error) {
      if (!(error instanceof FaultlineError)) throw error;
      if (error.code === "no-process-access") hiddenCount += 1;
    }
  }
  return { holders, hiddenCount };
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return ""; // Closed meanwhile.
  }
}

function deniedOrGone(pid: number, cause: unknown): FaultlineError {
  const { code } = cause as NodeJS.ErrnoException;
  if (code === "EACCES" || code === "EPERM") return denied(pid, cause);
  return new FaultlineError("rescue-refused", `There is no process ${pid} (any more).`, { cause });
}

function denied(pid: number, cause: unknown): FaultlineError {
  return new FaultlineError(
    "no-process-access",
    `The descriptors of process ${pid} may not be taken. Run as root or with CAP_SYS_PTRACE; as ` +
      "the user of the VMM only where kernel.yama.ptrace_scope=0, and if the VMM is dumpable",
    { cause },
  );
}
