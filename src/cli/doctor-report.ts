/**
 * What the facts about a machine mean for Faultline, and the exact commands that change them.
 *
 * PURE: a KernelReport in, findings out, in the order they are shown. A finding is `missing` if
 * `faultline serve` cannot do without it, and `optional` if only some modes, or only other programs
 * on this machine (the VMM, the demo), need it. `fix` is a command to paste; where no command
 * helps, the detail says what does. docs/KERNELS.md lists the same in prose.
 */
import { formatBytes, MIB, SMALL_PAGE_BYTES } from "../base/units.ts";
import type { UffdFeature } from "../uffd/features.ts";
import type { Access, KernelReport } from "../uffd/probe.ts";
import { creationFix, isFiltered, kvmFix, openFilesFix } from "./doctor-access.ts";
import { asRoot, isKernelAtLeast } from "./doctor-command.ts";
import { daemonFindings } from "./doctor-daemon.ts";

export type FindingStatus = "ok" | "missing" | "optional";

export interface Finding {
  readonly name: string;
  readonly status: FindingStatus;
  readonly detail: string;
  /** A shell command. `IMAGE` stands for the container image. */
  readonly fix?: string;
}

/** Firecracker's oldest supported host kernel; everything the handler itself calls is older. */
export const MIN_KERNEL = "5.10";

/** What Node, its threads and our own files take, and what a session takes. */
const PROCESS_FDS = 64;
const SESSION_FDS = 3; // Userfaultfd, pidfd, connection.
const MIN_SESSIONS = 10;
const MIN_OPEN_FILES = PROCESS_FDS + MIN_SESSIONS * SESSION_FDS;
/** Below this a busy host (some 1,300 VMs) runs out. */
const GOOD_OPEN_FILES = 4096;
const FIXED_OPEN_FILES = 65_536;

/** The kernel's default (DEFAULT_MAX_MAP_COUNT). Somebody lowered it if there is less. */
const GOOD_MAP_COUNT = 65_530;
const GOOD_MEMORY_BYTES = 512 * MIB;
/** 1 GiB of 2 MiB pages: room for a few small VMs. */
const FIXED_HUGE_PAGES = 512;
/** vm.overcommit_memory: never beyond the commit limit. */
const OVERCOMMIT_NEVER = 2;

export function findingsOf(report: KernelReport): Finding[] {
  return [
    kernelVersion(report),
    architecture(report),
    pageSize(report),
    userfaultfd(report),
    pidfd(report),
    openFiles(report),
    userfaultfdCreation(report),
    feature(report, "poison", "poison", "For --on-error poison."),
    feature(report, "minor-faults", "minorShmem", "For VMMs that register memfd memory as MINOR."),
    feature(report, "write-tracking", "wpAsync", "Shows written pages, if the VMM asks for it."),
    hugePages(report),
    transparentHugePages(report),
    kvm(report),
    kvmUserfault(report),
    peerPidfd(report),
    pagemapScan(report),
    maxMapCount(report),
    overcommit(report),
    memory(report),
    ...daemonFindings(report),
  ];
}

/** Whether nothing is missing that serving a VM needs. */
export function mayServe(findings: readonly Finding[]): boolean {
  return findings.every((finding) => finding.status !== "missing");
}

const ok = (name: string, detail: string): Finding => ({ name, status: "ok", detail });

function missing(name: string, detail: string, fix?: string): Finding {
  return { name, status: "missing", detail, ...(fix === undefined ? {} : { fix }) };
}

function optional(name: string, detail: string, fix?: string): Finding {
  return { name, status: "optional", detail, ...(fix === undefined ? {} : { fix }) };
}

// What every VM needs.

function kernelVersion({ kernel }: KernelReport): Finding {
  const version = `Linux ${kernel.release}`;
  if (isKernelAtLeast(kernel.release, MIN_KERNEL)) {
    return ok("kernel", `${version}; ${MIN_KERNEL} or newer is needed.`);
  }
  return missing("kernel", `${version} is too old: boot ${MIN_KERNEL} or newer.`);
}

function architecture({ kernel }: KernelReport): Finding {
  const name = "architecture";
  if (kernel.architecture === "x64") return ok(name, "x64.");
  if (kernel.architecture === "arm64") return ok(name, "arm64: supported, but never tested.");
  return missing(name, `${kernel.architecture}: Faultline knows the ABI of x64 and arm64 only.`);
}

function pageSize({ kernel }: KernelReport): Finding {
  const name = "page-size";
  const size = formatBytes(kernel.pageSizeBytes);
  if (kernel.pageSizeBytes === SMALL_PAGE_BYTES) return ok(name, `${size}.`);
  return missing(name, `${size}: guests fault by 4 KiB. Boot a kernel built for 4 KiB pages.`);
}

function userfaultfd({ userfaultfd: uffd }: KernelReport): Finding {
  const name = "userfaultfd";
  const isAbsent = uffd.unprivilegedSysctl === null && uffd.syscall === "ENOSYS";
  if (isAbsent && uffd.device !== "ok") {
    return missing(name, "Not in this kernel: boot one built with CONFIG_USERFAULTFD=y.");
  }
  return ok(name, "In this kernel; `serve` gets its descriptors from the VMMs.");
}

function pidfd(report: KernelReport): Finding {
  const result = report.processes.pidfdOpen;
  if (result === "ok") return ok("pidfd", "pidfd_open works.");
  const reason =
    result === "EPERM"
      ? "A seccomp profile refuses it: allow pidfd_open and pidfd_send_signal."
      : `It needs Linux 5.3 (${result}).`;
  return missing("pidfd", `The end of a VMM cannot be seen without pidfd_open. ${reason}`);
}

function openFiles(report: KernelReport): Finding {
  const name = "open-files";
  const soft = report.limits.openFilesSoft;
  if (soft === null) return optional(name, "Unknown: /proc/self/limits cannot be read.");
  const sessions = Math.max(0, Math.floor((soft - PROCESS_FDS) / SESSION_FDS));
  const room = `${soft} descriptors: room for about ${sessions} VMs`;
  if (soft >= GOOD_OPEN_FILES) return ok(name, `${soft} descriptors.`);
  const fix = openFilesFix(report, FIXED_OPEN_FILES);
  if (soft >= MIN_OPEN_FILES) return optional(name, `${room}.`, fix);
  return missing(name, `${room}; at least ${MIN_OPEN_FILES} are needed.`, fix);
}

// What some modes, or other programs, need.

function userfaultfdCreation(report: KernelReport): Finding {
  const name = "userfaultfd-create";
  const { device, syscall } = report.userfaultfd;
  const who = "VMMs and the demo create one, `serve` does not.";
  if (device === "ok") return ok(name, "By /dev/userfaultfd.");
  if (syscall === "ok" && device === "EACCES") {
    const detail = "By the system call only: Firecracker ≥ 1.5 insists on /dev/userfaultfd.";
    return optional(name, detail, creationFix(report));
  }
  if (syscall === "ok") return ok(name, "By the system call.");
  const reason = `Refused (device ${device}, system call ${syscall}).`;
  const hint = isFiltered(report) ? " A seccomp filter forbids the call." : rootHint(report);
  return optional(name, `${reason}${hint} ${who}`, creationFix(report));
}

/** Why root, of all users, may not. */
function rootHint({ user, confinement }: KernelReport): string {
  if (user.uid !== 0) return "";
  if (confinement.isInitialUserNamespace === false) {
    return " Root of a user namespace is not root to the kernel: fix it on the host.";
  }
  return user.hasCapSysPtrace === false ? " This root has no CAP_SYS_PTRACE." : "";
}

function feature(
  report: KernelReport,
  name: string,
  featureName: UffdFeature,
  purpose: string,
): Finding {
  const entry = report.userfaultfd.features.find((candidate) => candidate.name === featureName);
  const since = entry?.since ?? "?";
  if (entry?.isSupported === true) return ok(name, purpose);
  if (entry?.isSupported === false) {
    return optional(name, `${purpose} Needs Linux ${since} or newer.`);
  }
  const isNew = isKernelAtLeast(report.kernel.release, since);
  const guess = isNew ? "should have it" : `is older than ${since}`;
  return optional(name, `${purpose} Unknown without a userfaultfd; the kernel ${guess}.`);
}

function hugePages(report: KernelReport): Finding {
  const name = "huge-pages";
  const pool = report.hugePages;
  const purpose = "For VMs with 2 MiB pages.";
  if (pool === null) return optional(name, `${purpose} This kernel has none.`);
  const onDemand = Math.max(0, pool.overcommit - pool.surplus);
  const available = Math.max(0, pool.free - pool.reserved) + onDemand;
  const counts = `${available} of ${pool.total + pool.overcommit} pages are available.`;
  if (available > 0) return ok(name, `${purpose} ${counts}`);
  const wanted = pool.total + FIXED_HUGE_PAGES;
  const fix = asRoot(report, `sysctl -w vm.nr_hugepages=${wanted}`);
  if (pool.total + pool.overcommit === 0)
    return optional(name, `${purpose} The pool is empty.`, fix);
  return optional(name, `${purpose} ${counts}`, fix);
}

function transparentHugePages(report: KernelReport): Finding {
  const name = "transparent-huge-pages";
  const setting = report.transparentHugePages;
  const purpose = "For VMs with huge_pages: Transparent.";
  if (setting === null) return optional(name, `${purpose} This kernel has none.`);
  if (setting !== "never") return ok(name, `Set to ${setting}.`);
  const path = "/sys/kernel/mm/transparent_hugepage/enabled";
  const tee = asRoot(report, `tee ${path}`);
  return optional(name, `${purpose} Set to never.`, `echo madvise | ${tee}`);
}

function kvm(report: KernelReport): Finding {
  const { device, apiVersion } = report.kvm;
  if (device === "ok") return ok("kvm", `/dev/kvm, API ${apiVersion}.`);
  const who = "VMMs and the demo's KVM guest need it, `serve` does not.";
  const fix = kvmFix(report);
  if (device === "ENOENT" && fix === undefined) {
    const advice = "Turn on virtualization in the firmware, or nesting in the host of this VM.";
    return optional("kvm", `No /dev/kvm. ${advice} ${who}`);
  }
  return optional("kvm", `/dev/kvm: ${device}. ${who}`, fix);
}

function kvmUserfault({ kvm: { device, userfault } }: KernelReport): Finding {
  const name = "kvm-userfault";
  const purpose = "For VMs on guest_memfd; all others use userfaultfd.";
  if (device !== "ok") return optional(name, `${purpose} Unknown without /dev/kvm.`);
  if (userfault.kind === "none") {
    const source = "The kernel of Firecracker's feature/secret-hiding has it.";
    return optional(name, `${purpose} ${userfault.reason} ${source}`);
  }
  const found = `${purpose} A vCPU stops at a page that is missing`;
  if (!userfault.hasMemfdWrite) {
    return optional(name, `${found}, but no handler can fill guest_memfd by pwrite.`);
  }
  if (!userfault.hasAsyncFaults) return ok(name, `${found}, and waits for it.`);
  const way = userfault.hasRings ? "by rings" : "by exits";
  return ok(name, `${found}, or its guest goes on meanwhile (asynchronous faults, ${way}).`);
}

function peerPidfd({ processes }: KernelReport): Finding {
  if (processes.peerPidfd === "ok") return ok("peer-pidfd", "SO_PEERPIDFD works.");
  const without = "Without it, a peer is pinned by its process number a moment after it connects.";
  return optional("peer-pidfd", `${without} ${needs("6.5", processes.peerPidfd)}`);
}

function pagemapScan({ processes }: KernelReport): Finding {
  if (processes.pagemapScan === "ok") return ok("pagemap-scan", "PAGEMAP_SCAN works.");
  const without = "Nothing yet: `rescue` reads /proc/PID/pagemap instead.";
  return optional("pagemap-scan", `${without} ${needs("6.7", processes.pagemapScan)}`);
}

const needs = (version: string, result: Access): string =>
  `Needs Linux ${version} or newer (${result}).`;

function maxMapCount(report: KernelReport): Finding {
  const name = "max-map-count";
  const count = report.limits.maxMapCount;
  if (count === null) return optional(name, "Unknown: vm.max_map_count cannot be read.");
  if (count >= GOOD_MAP_COUNT) return ok(name, `${count} mappings per process.`);
  const fix = asRoot(report, `sysctl -w vm.max_map_count=${GOOD_MAP_COUNT}`);
  return optional(name, `${count} mappings per process: each open layer takes one.`, fix);
}

function overcommit(report: KernelReport): Finding {
  const name = "overcommit";
  const mode = report.limits.overcommitMemory;
  if (mode === null) return optional(name, "Unknown: vm.overcommit_memory cannot be read.");
  if (mode !== OVERCOMMIT_NEVER) return ok(name, `vm.overcommit_memory=${mode}.`);
  const fix = asRoot(report, "sysctl -w vm.overcommit_memory=0");
  return optional(name, "Strict: VMs that map more than the commit limit fail to start.", fix);
}

function memory({ limits }: KernelReport): Finding {
  const bytes = limits.availableBytes;
  if (bytes === null) return optional("memory", "Unknown: /proc/meminfo cannot be read.");
  const text = `${formatBytes(bytes)} available`;
  if (bytes >= GOOD_MEMORY_BYTES) return ok("memory", `${text}.`);
  return optional("memory", `${text}: little for the cache and the VMs. Stop something else.`);
}
