/**
 * A VM whose page-fault handler is gone: its userfaultfd, duplicated from the VMM, and the memory
 * that is registered with it. Nothing is changed before all of that is beyond doubt.
 */
import { FaultlineError, SysError } from "../base/errors.ts";
import { EBADF, EBUSY } from "../linux/abi-posix.ts";
import * as abi from "../linux/abi-userfaultfd.ts";
import { describeFd, type OwnedFd } from "../linux/fd.ts";
import { openPidfd, processTimes } from "../linux/process.ts";
import { type RegisteredArea, registeredAreas } from "../linux/process-areas.ts";
import {
  duplicateFromProcess,
  isSameFile,
  otherHolders,
  type UserfaultfdInfo,
  userfaultfdInfo,
  userfaultfdsOf,
} from "../linux/process-fds.ts";
import { type RegisterMode, Userfaultfd } from "../uffd/userfaultfd.ts";

export interface TargetOptions {
  readonly pid: number;
  /** Which of the VMM's descriptors is the userfaultfd; default: the only one that is. */
  readonly fd?: number;
  /** Nothing was given back to the host (balloon) before the handler died. */
  readonly hasNoBalloon: boolean;
  /** Other holders of the userfaultfd do not read it. */
  readonly isForced: boolean;
}

/** What was found. The descriptors are the caller's. */
export interface RescueTarget {
  readonly pid: number;
  readonly pidfd: OwnedFd;
  readonly uffd: Userfaultfd;
  readonly info: UserfaultfdInfo;
  readonly areas: readonly RegisteredArea[];
  /** The dead handler has tracked what the VM writes: some pages may be protected. */
  readonly isProtected: boolean;
  /** Processes that could not be looked into for another handler. */
  readonly hiddenProcesses: number;
}

/** @throws FaultlineError `rescue-refused`, `no-process-access`, `unsupported` */
export function findTarget(options: TargetOptions): RescueTarget {
  const { pid } = options;
  const pidfd = pin(pid);
  let duplicate: OwnedFd | undefined;
  try {
    duplicate = takeUserfaultfd(pid, pidfd, options.fd);
    const info = userfaultfdInfo(duplicate.fd);
    checkFeatures(info.features, options.hasNoBalloon);
    const hiddenProcesses = checkHolders(duplicate, pid, options.isForced);
    const uffd = Userfaultfd.fromFd(duplicate);
    const areas = registeredAreas(pid).filter((area) => belongs(uffd, area));
    const isProtected = areas.some(({ isWriteProtect }) => isWriteProtect);
    return { pid, pidfd, uffd, info, areas, isProtected, hiddenProcesses };
  } catch (error) {
    duplicate?.close();
    pidfd.close();
    throw error;
  }
}

function pin(pid: number): OwnedFd {
  if (processTimes(pid) === null) throw refusal(`There is no process ${pid}, or it has ended.`);
  try {
    return openPidfd(pid);
  } catch (cause) {
    throw refusal(`Process ${pid} cannot be held: is it the VMM's main thread?`, cause);
  }
}

function takeUserfaultfd(pid: number, pidfd: OwnedFd, stated: number | undefined): OwnedFd {
  const found = distinct(pid, userfaultfdsOf(pid));
  const [first] = found;
  if (first === undefined) {
    throw refusal(
      `Process ${pid} holds no userfaultfd. Either it is not the VMM (under a jailer that is a ` +
        "process of its own), or it has closed its copy: then its guest has read zeroes in place " +
        "of data since the handler died, and must be restored again.",
    );
  }
  if (stated === undefined && found.length > 1) {
    throw refusal(
      `Process ${pid} holds ${found.length} userfaultfds, descriptors ${found.join(", ")}: say ` +
        "which is the guest memory's with --fd.",
    );
  }
  const fd = stated ?? first;
  let duplicate: OwnedFd;
  try {
    duplicate = duplicateFromProcess(pid, pidfd.fd, fd);
  } catch (error) {
    if (!(error instanceof SysError && error.errno === EBADF)) throw error;
    throw refusal(`Process ${pid} has no descriptor ${fd}. Its userfaultfds: ${found.join(", ")}.`);
  }
  const kind = describeFd(duplicate.fd);
  if (kind === "anon_inode:[userfaultfd]") return duplicate;
  duplicate.close();
  throw refusal(
    `Descriptor ${fd} of process ${pid} is ${kind}. Its userfaultfds: ${found.join(", ")}.`,
  );
}

/** Of several descriptors of one userfaultfd, the first. */
function distinct(pid: number, fds: readonly number[]): number[] {
  const isKnown = (fd: number, index: number): boolean =>
    fds.slice(0, index).some((other) => isSameFile({ pid, fd: other }, { pid, fd }) === true);
  return fds.filter((fd, index) => !isKnown(fd, index));
}

function checkFeatures(features: number, hasNoBalloon: boolean): void {
  if ((features & (abi.UFFD_FEATURE_EVENT_FORK | abi.UFFD_FEATURE_EVENT_REMAP)) !== 0) {
    throw refusal(
      "The userfaultfd has the feature EVENT_FORK or EVENT_REMAP, whose events cannot be followed.",
    );
  }
  if ((features & abi.UFFD_FEATURE_EVENT_REMOVE) === 0 || hasNoBalloon) return;
  throw refusal(
    "This VMM can give memory back to the host (EVENT_REMOVE: a balloon, virtio-mem). What it " +
      "gave back must read as zeroes, and only the dead handler knew which pages those are: they " +
      "look like pages that were never asked for, and would get the snapshot's old bytes. If " +
      "this VM has no such device, or has never used it since its restore, say so: " +
      "--no-balloon. Otherwise restore it again.",
  );
}

/** Returns how many processes could not be asked. */
function checkHolders(uffd: OwnedFd, pid: number, isForced: boolean): number {
  const { holders, hiddenCount } = otherHolders(uffd.fd, pid);
  if (holders.length === 0 || isForced) return hiddenCount;
  const list = holders.map(({ pid: other, fd, isCertain }) =>
    isCertain
      ? `process ${other} holds it too (descriptor ${fd})`
      : `process ${other} may hold it (descriptor ${fd}; this kernel does not tell)`,
  );
  throw refusal(
    `The userfaultfd seems to have a handler: ${list.join(", ")}. Two that read it lose what the ` +
      "other has read. If that is a handler, end it first (SIGKILL it if it hangs); if it only " +
      "keeps the descriptor and never reads it, say --force.",
  );
}

/** Registering again what is registered so already changes nothing; EBUSY: with another one. */
function belongs(uffd: Userfaultfd, { start, end, ...area }: RegisteredArea): boolean {
  const modes: RegisterMode[] = [];
  if (area.isMissing) modes.push("missing");
  if (area.isWriteProtect) modes.push("writeProtect");
  if (area.isMinor) modes.push("minor");
  try {
    uffd.register(start, end - start, modes);
    return true;
  } catch (error) {
    if (error instanceof SysError && error.errno === EBUSY) return false;
    throw error;
  }
}

function refusal(message: string, cause?: unknown): FaultlineError {
  return new FaultlineError("rescue-refused", message, cause === undefined ? undefined : { cause });
}
