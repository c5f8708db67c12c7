/**
 * Who may open /dev/userfaultfd and /dev/kvm, and how many files; which one command lets this user.
 *
 * PURE. Least first: a right for this user on one device node is better than a switch for everyone
 * (vm.unprivileged_userfaultfd), and both are better than taking a container's seccomp filter away.
 */
import type { KernelReport } from "../uffd/probe.ts";
import { asRoot, isKernelAtLeast, userWord } from "./doctor-command.ts";

/** Linux 5.11 allows UFFD_USER_MODE_ONLY to everyone, so a refusal comes from a filter. */
const USER_MODE_ONLY_SINCE = "5.11";
const DEVICE_SINCE = "6.1";

/** Whether a filter, not a missing right, refuses userfaultfd(2). No sysctl helps then. */
export function isFiltered({ kernel, userfaultfd, confinement }: KernelReport): boolean {
  if (confinement.seccompMode === 0) return false;
  if (userfaultfd.unprivilegedSysctl === 1) return userfaultfd.syscall === "EPERM";
  return (
    userfaultfd.userModeOnly === "EPERM" && isKernelAtLeast(kernel.release, USER_MODE_ONLY_SINCE)
  );
}

/** What lets this user create a userfaultfd that can serve a VM. */
export function creationFix(report: KernelReport): string | undefined {
  const { kernel, userfaultfd } = report;
  if (userfaultfd.device === "EACCES") {
    return asRoot(report, `setfacl -m u:${userWord(report)}:rw /dev/userfaultfd`);
  }
  const engine = containerEngine(report);
  if (engine !== null) {
    // The node bypasses the filter: its ioctl is not the system call that profiles refuse.
    return isKernelAtLeast(kernel.release, DEVICE_SINCE)
      ? `${engine} run --device /dev/userfaultfd IMAGE`
      : `${engine} run --security-opt seccomp=unconfined --cap-add SYS_PTRACE IMAGE`;
  }
  if (isFiltered(report)) return undefined;
  return asRoot(report, "sysctl -w vm.unprivileged_userfaultfd=1");
}

/** What lets this user open /dev/kvm. */
export function kvmFix(report: KernelReport): string | undefined {
  const { kvm, confinement } = report;
  if (kvm.device === "EACCES") {
    const word = userWord(report);
    // A user namespace drops the supplementary groups of the host.
    return kvm.group === null || confinement.isInitialUserNamespace === false
      ? asRoot(report, `setfacl -m u:${word}:rw /dev/kvm`)
      : asRoot(report, `usermod -aG ${kvm.group} ${word}`);
  }
  const engine = containerEngine(report);
  if (engine !== null) return `${engine} run --device /dev/kvm IMAGE`;
  if (kvm.device !== "ENOENT" || kvm.module === null) return undefined;
  return asRoot(report, `modprobe ${kvm.module}`);
}

/**
 * What lets a shell of this user, and what it starts, have `count` descriptors: a shell may raise
 * its limit up to the hard one; beyond that takes CAP_SYS_RESOURCE, or another start.
 */
export function openFilesFix(report: KernelReport, count: number): string | undefined {
  const { limits, user, confinement } = report;
  const mayRaise = user.hasCapSysResource === true && confinement.isInitialUserNamespace !== false;
  if (mayRaise || (limits.openFilesHard ?? 0) >= count) return `ulimit -n ${count}`;
  const engine = containerEngine(report);
  if (engine !== null) return `${engine} run --ulimit nofile=${count}:${count} IMAGE`;
  // Root without the capability has nobody to ask in here.
  if (user.uid === 0) return undefined;
  return `sudo prlimit --pid $$ --nofile=${count}:${count}`;
}

/** The program that must start this container differently; null outside of one. */
function containerEngine({ confinement }: KernelReport): "docker" | "podman" | null {
  return confinement.container === "other" ? null : confinement.container;
}
