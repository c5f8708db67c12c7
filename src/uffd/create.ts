/** How a userfaultfd comes into being: device node, system call, UFFDIO_API. */
import { closeSync, openSync } from "node:fs";
import { FaultlineError, type SysError } from "../base/errors.ts";
import { ENOSYS, EPERM, O_CLOEXEC, O_NONBLOCK } from "../linux/abi-posix.ts";
import * as abi from "../linux/abi-userfaultfd.ts";
import { OwnedFd } from "../linux/fd.ts";
import { readU64, writeU64 } from "../linux/layout.ts";
import * as sys from "../linux/sys.ts";

export const USERFAULTFD_DEVICE = "/dev/userfaultfd";

/**
 * - `device`: /dev/userfaultfd (Linux ≥ 6.1); only the mode of the node decides who may.
 * - `syscall`: userfaultfd(2); needs CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1.
 * - `auto`: the device if it can be opened, else the system call.
 */
export type CreateVia = "auto" | "device" | "syscall";

export interface CreateOptions {
  readonly via?: CreateVia;
  /**
   * UFFD_USER_MODE_ONLY (Linux ≥ 5.11): allowed to everyone, but faults raised by the kernel on
   * behalf of the process (read(2) into a missing page, KVM) fail with EFAULT: no good for a VM.
   */
  readonly userModeOnly?: boolean;
}

/** Creates a non-blocking, close-on-exec userfaultfd, before its UFFDIO_API. */
export function createUserfaultfd(options: CreateOptions = {}): OwnedFd {
  const flags =
    O_CLOEXEC | O_NONBLOCK | (options.userModeOnly === true ? abi.UFFD_USER_MODE_ONLY : 0);
  const via = options.via ?? "auto";
  if (via === "device") return fromDevice(flags);
  if (via === "syscall") return fromSyscall(flags);
  try {
    return fromDevice(flags);
  } catch (error) {
    if (error instanceof FaultlineError) return fromSyscall(flags);
    throw error;
  }
}

function fromDevice(flags: number): OwnedFd {
  let device: number;
  try {
    device = openSync(USERFAULTFD_DEVICE, "r+");
  } catch (cause) {
    throw new FaultlineError(
      "no-userfaultfd",
      `Cannot open ${USERFAULTFD_DEVICE} (Linux 6.1 or newer has it, mode 0600 by default). ` +
        `Give this user access: setfacl -m u:${process.getuid?.()}:rw ${USERFAULTFD_DEVICE}`,
      { cause },
    );
  }
  try {
    const fd = sys.ioctl(device, abi.USERFAULTFD_IOC_NEW, flags);
    return new OwnedFd(sys.check(fd, "ioctl(USERFAULTFD_IOC_NEW)"));
  } finally {
    closeSync(device);
  }
}

function fromSyscall(flags: number): OwnedFd {
  const fd = sys.syscall(sys.abi.syscalls.SYS_userfaultfd, flags, 0, 0, 0);
  if (fd !== -1) return new OwnedFd(fd);
  const error = sys.sysError("userfaultfd");
  if (error.errno === EPERM) {
    throw new FaultlineError(
      "no-userfaultfd",
      "This user may not call userfaultfd. Run as root, allow it to everyone with " +
        "`sysctl vm.unprivileged_userfaultfd=1`, or give access to " +
        `${USERFAULTFD_DEVICE} (Linux 6.1 or newer). In a container, its seccomp profile must ` +
        "allow the call.",
      { cause: error },
    );
  }
  if (error.errno === ENOSYS) {
    throw new FaultlineError(
      "no-userfaultfd",
      "This kernel has no userfaultfd. It needs CONFIG_USERFAULTFD=y.",
      { cause: error },
    );
  }
  throw error;
}

/**
 * Does UFFDIO_API, once per descriptor. Returns every feature bit the kernel has, enabled or not.
 */
export function negotiateApi(fd: number, requestedFeatures: number): number {
  const argument = new sys.Scratch(abi.uffdio_api.size);
  const { api, features } = abi.uffdio_api.offset;
  writeU64(argument.words, api, abi.UFFD_API);
  writeU64(argument.words, features, requestedFeatures);
  if (sys.ioctl(fd, abi.UFFDIO_API, argument.address) === -1) {
    const error = sys.sysError("ioctl(UFFDIO_API)", `features 0x${requestedFeatures.toString(16)}`);
    throw explainApiFailure(error);
  }
  return readU64(argument.words, features);
}

function explainApiFailure(error: SysError): FaultlineError {
  const message =
    error.errno === EPERM
      ? "The feature eventFork needs CAP_SYS_PTRACE: run as root, or leave it out."
      : "This kernel lacks a requested userfaultfd feature, or UFFDIO_API was done before.";
  return new FaultlineError("unsupported", message, { cause: error });
}
