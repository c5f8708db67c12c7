/**
 * What this kernel lets this process do, found out by trying: the facts behind `faultline doctor`,
 * and the reason that a test prints when it skips.
 *
 * Versions mislead (distributions carry features back, containers and security modules take them
 * away), so everything that can be tried is tried, on descriptors of our own that are closed again.
 * What the facts mean, and how to change them, is not decided here (cli/doctor-report.ts).
 */
import { randomUUID } from "node:crypto";
import { closeSync, openSync, statSync } from "node:fs";
import { release } from "node:os";
import { SysError } from "../base/errors.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import { KVM_CHECK_EXTENSION, KVM_GET_API_VERSION } from "../linux/abi-kvm.ts";
import { KVM_CAP_USERFAULT } from "../linux/abi-kvm-userfault.ts";
import { PAGE_IS_PRESENT, PAGEMAP_SCAN, page_region, pm_scan_arg } from "../linux/abi-pagemap.ts";
import { EAGAIN } from "../linux/abi-posix.ts";
import { KVM_DEVICE } from "../linux/kvm.ts";
import { writeU64 } from "../linux/layout.ts";
import { MappedRegion } from "../linux/memory.ts";
import { openPidfd } from "../linux/process.ts";
import { acceptUnix, connectUnix, listenUnix, peerPidfd } from "../linux/socket.ts";
import * as sys from "../linux/sys.ts";
import { probeUserfault, type UserfaultSupport } from "../linux/userfault-probe.ts";
import { type CreateOptions, createUserfaultfd, negotiateApi } from "./create.ts";
import { featureNames, type UffdFeature, uffdFeatures } from "./features.ts";
import * as host from "./host-facts.ts";

/** `"ok"`, or the name of the errno that refused it: `"EPERM"`. */
export type Access = "ok" | `E${string}`;

export interface FeatureReport {
  readonly name: UffdFeature;
  /** The mainline kernel that brought it. */
  readonly since: string;
  /** Null: no descriptor could be had to ask the kernel. */
  readonly isSupported: boolean | null;
}

export interface UserfaultfdReport {
  /** By /dev/userfaultfd (Linux ≥ 6.1). ENOENT: no such node. */
  readonly device: Access;
  /** By userfaultfd(2). */
  readonly syscall: Access;
  /** The same with UFFD_USER_MODE_ONLY (Linux ≥ 5.11): allowed to all, but no use for VMs. */
  readonly userModeOnly: Access;
  /** vm.unprivileged_userfaultfd; null: this kernel has no userfaultfd, or hides its sysctls. */
  readonly unprivilegedSysctl: number | null;
  readonly features: readonly FeatureReport[];
}

/** KVM capabilities that the KVM Userfault transport stands on, by the kernel's name. */
export const kvmCapabilities = {
  KVM_CAP_USER_MEMORY2: 231,
  KVM_CAP_MEMORY_FAULT_INFO: 232,
  KVM_CAP_GUEST_MEMFD: 234,
  /**
   * Out of tree: the kernel of Firecracker's `feature/secret-hiding`. Other kernels give the number
   * another meaning: `userfault` tells, this does not.
   */
  KVM_CAP_USERFAULT,
} as const;
export type KvmCapability = keyof typeof kvmCapabilities;

export interface KvmReport {
  readonly device: Access;
  /** The group that owns /dev/kvm, if its mode lets the group in; else null. */
  readonly group: string | null;
  /** The module for this CPU; null: the CPU shows no virtualization, or needs no module (arm64). */
  readonly module: "kvm_intel" | "kvm_amd" | null;
  /** Null unless the device opens, here and below. 12 on every kernel of the last 15 years. */
  readonly apiVersion: number | null;
  readonly capabilities: Readonly<Record<KvmCapability, number>> | null;
  /** Tried with a vCPU, whatever the capabilities say. */
  readonly userfault: UserfaultSupport;
}

/** Plain data: survives JSON. */
export interface KernelReport {
  readonly kernel: {
    readonly release: string;
    /** As Node names it: `"x64"`, `"arm64"`. */
    readonly architecture: string;
    /** 4 KiB on x86-64; 4, 16 or 64 KiB on arm64. */
    readonly pageSizeBytes: number;
  };
  readonly user: host.UserFacts;
  readonly confinement: host.ConfinementFacts;
  readonly userfaultfd: UserfaultfdReport;
  readonly kvm: KvmReport;
  readonly hugePages: host.HugePagePool | null;
  readonly transparentHugePages: string | null;
  readonly limits: host.LimitFacts;
  /** pidfd_open(2), SO_PEERPIDFD (Linux ≥ 6.5), PAGEMAP_SCAN (Linux ≥ 6.7). */
  readonly processes: {
    readonly pidfdOpen: Access;
    readonly peerPidfd: Access;
    readonly pagemapScan: Access;
  };
}

const GROUP_READ_WRITE = 0o060;

/** Takes a few milliseconds; changes nothing. */
export function probeKernel(): KernelReport {
  return {
    kernel: {
      release: release(),
      architecture: process.arch,
      pageSizeBytes: sys.getpagesize(),
    },
    user: host.userFacts(),
    confinement: host.confinementFacts(),
    userfaultfd: probeUserfaultfd(),
    kvm: probeKvm(),
    hugePages: host.hugePagePool(),
    transparentHugePages: host.transparentHugePages(),
    limits: host.limitFacts(),
    processes: {
      pidfdOpen: attempt(() => openPidfd(process.pid).close()),
      peerPidfd: attempt(tryPeerPidfd),
      pagemapScan: attempt(tryPagemapScan),
    },
  };
}

function probeUserfaultfd(): UserfaultfdReport {
  let bits: number | null = null;
  const tryCreate = (options: CreateOptions): Access =>
    attempt(() => {
      using fd = createUserfaultfd(options);
      // A probe may be answered by any descriptor, also by one that no VM could use.
      bits ??= negotiateApi(fd.fd, 0);
    });
  const device = tryCreate({ via: "device" });
  const syscall = tryCreate({ via: "syscall" });
  const userModeOnly = tryCreate({ via: "syscall", userModeOnly: true });
  return {
    device,
    syscall,
    userModeOnly,
    unprivilegedSysctl: host.readNumber("/proc/sys/vm/unprivileged_userfaultfd"),
    features: featureReports(bits),
  };
}

function featureReports(bits: number | null): FeatureReport[] {
  const supported = bits === null ? null : featureNames(bits);
  return (Object.keys(uffdFeatures) as UffdFeature[]).map((name) => ({
    name,
    since: uffdFeatures[name][1],
    isSupported: supported?.has(name) ?? null,
  }));
}

function probeKvm(): KvmReport {
  let apiVersion: number | null = null;
  let capabilities: Record<KvmCapability, number> | null = null;
  const device = attempt(() => {
    // Not Kvm.open(): that is x86-64 only, and words its refusals for users.
    const fd = openSync(KVM_DEVICE, "r+");
    try {
      apiVersion = sys.check(
        sys.ioctl(fd, KVM_GET_API_VERSION, null),
        "ioctl(KVM_GET_API_VERSION)",
      );
      const values = Object.entries(kvmCapabilities).map(([name, number]) => {
        const value = sys.ioctl(fd, KVM_CHECK_EXTENSION, number);
        return [name, sys.check(value, "ioctl(KVM_CHECK_EXTENSION)", name)];
      });
      capabilities = Object.fromEntries(values) as Record<KvmCapability, number>;
    } finally {
      closeSync(fd);
    }
  });
  const userfault = probeUserfault();
  return { device, group: kvmGroup(), module: kvmModule(), apiVersion, capabilities, userfault };
}

function kvmGroup(): string | null {
  const node = statSync(KVM_DEVICE, { throwIfNoEntry: false });
  if (node === undefined || (node.mode & GROUP_READ_WRITE) !== GROUP_READ_WRITE) return null;
  // Nobody should be made a member of root's group for this.
  return node.gid === 0 ? null : host.groupName(node.gid);
}

function kvmModule(): KvmReport["module"] {
  const flags = host.readText("/proc/cpuinfo")?.match(/^flags\s*:.*$/m)?.[0] ?? "";
  if (/\bvmx\b/.test(flags)) return "kvm_intel";
  return /\bsvm\b/.test(flags) ? "kvm_amd" : null;
}

/** Connects to ourselves: the peer's pidfd is then our own. */
function tryPeerPidfd(): void {
  const path = `@faultline-probe-${randomUUID()}`;
  using listener = listenUnix(path, 1);
  using client = connectUnix(path);
  using server = acceptUnix(listener.fd);
  if (server === null || !client.isOpen) throw new SysError("accept4", EAGAIN, "EAGAIN");
  using pidfd = peerPidfd(server.fd);
  if (pidfd === null) throw sys.sysError("getsockopt(SO_PEERPIDFD)");
}

/** Asks for the present pages of one page of ours. */
function tryPagemapScan(): void {
  const argument = new sys.Scratch(pm_scan_arg.size);
  const region = new sys.Scratch(page_region.size);
  using page = MappedRegion.anonymous(SMALL_PAGE_BYTES);
  const at = pm_scan_arg.offset;
  writeU64(argument.words, at.size, pm_scan_arg.size);
  writeU64(argument.words, at.start, page.address);
  writeU64(argument.words, at.end, page.address + page.sizeBytes);
  writeU64(argument.words, at.vec, region.address);
  writeU64(argument.words, at.vec_len, 1);
  writeU64(argument.words, at.category_mask, PAGE_IS_PRESENT);
  writeU64(argument.words, at.return_mask, PAGE_IS_PRESENT);
  const pagemap = openSync("/proc/self/pagemap", "r");
  try {
    sys.check(sys.ioctl(pagemap, PAGEMAP_SCAN, argument.address), "ioctl(PAGEMAP_SCAN)");
  } finally {
    closeSync(pagemap);
  }
}

function attempt(tryIt: () => void): Access {
  try {
    tryIt();
    return "ok";
  } catch (error) {
    return errnoOf(error);
  }
}

/** The errno at the bottom of an error; anything that is no refusal by the kernel is a bug. */
function errnoOf(error: unknown): Access {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    const name = cause instanceof SysError ? cause.errnoName : (cause as { code?: unknown }).code;
    if (typeof name === "string" && /^E[A-Z0-9]+$/.test(name)) return name as Access;
    if (cause instanceof SysError) return `E${cause.errno}`;
  }
  throw error;
}
