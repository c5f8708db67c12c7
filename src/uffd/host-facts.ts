/**
 * What /proc and /sys say about this machine and this process: memory, limits, user, confinement.
 *
 * Nothing is tried here, only read (probe.ts tries). A file that is missing or unreadable, as in
 * some containers, gives null: the reader of a report must see "unknown", never a guess.
 */
import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { userInfo } from "node:os";
import { KIB } from "../base/units.ts";

/** The pool of 2 MiB pages. Counts are pages. */
export interface HugePagePool {
  readonly total: number;
  readonly free: number;
  readonly reserved: number;
  /** Pages beyond `total` that exist now, and how many the kernel may make on demand. */
  readonly surplus: number;
  readonly overcommit: number;
}

export interface UserFacts {
  readonly uid: number;
  /** The same user outside of this user namespace; null if that cannot be told. */
  readonly outerUid: number | null;
  readonly name: string;
  /** CAP_SYS_PTRACE: may call userfaultfd(2), and take descriptors from other users' processes. */
  readonly hasCapSysPtrace: boolean | null;
  /** CAP_SYS_RESOURCE: may raise hard limits. Containers often leave it out, also for root. */
  readonly hasCapSysResource: boolean | null;
  /** CAP_KILL: may kill VMs of other users. */
  readonly hasCapKill: boolean | null;
  /** CAP_CHOWN: may give sockets to other users. */
  readonly hasCapChown: boolean | null;
  /** Where this user's daemon has its sockets unless told otherwise; null: nowhere. */
  readonly runFolder: { readonly path: string; readonly isWritable: boolean } | null;
}

/** What may stand between this process and the kernel. */
export interface ConfinementFacts {
  /** How the container was made, as far as it can be told; null: no sign of one. */
  readonly container: "docker" | "podman" | "other" | null;
  /** 0: none, 1: strict, 2: a filter of system calls. Inherited, and for ever. */
  readonly seccompMode: number | null;
  /** Root in a user namespace of its own is not root to the kernel. */
  readonly isInitialUserNamespace: boolean | null;
}

export interface LimitFacts {
  /** RLIMIT_NOFILE. Node raises the soft limit to the hard one when it starts. */
  readonly openFilesSoft: number | null;
  readonly openFilesHard: number | null;
  readonly maxMapCount: number | null;
  /** vm.overcommit_memory: 0 heuristic, 1 always, 2 never beyond the commit limit. */
  readonly overcommitMemory: number | null;
  readonly freeBytes: number | null;
  readonly availableBytes: number | null;
}

const CAP_CHOWN = 0n;
const CAP_KILL = 5n;
const CAP_SYS_PTRACE = 19n;
const CAP_SYS_RESOURCE = 24n;
const HUGE_POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB";

export function readText(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}

/** The number that a one-line file of /proc or /sys holds. */
export function readNumber(path: string): number | null {
  const text = readText(path);
  return text === null ? null : Number(text);
}

/** Null where the kernel has no 2 MiB pages. */
export function hugePagePool(): HugePagePool | null {
  const total = readNumber(`${HUGE_POOL}/nr_hugepages`);
  if (total === null) return null;
  const count = (name: string): number => readNumber(`${HUGE_POOL}/${name}`) ?? 0;
  const surplus = count("surplus_hugepages");
  return {
    total: total - surplus, // nr_hugepages counts the surplus pages too.
    free: count("free_hugepages"),
    reserved: count("resv_hugepages"),
    surplus,
    overcommit: count("nr_overcommit_hugepages"),
  };
}

/** `"always"`, `"madvise"` or `"never"`; null where the kernel has no transparent huge pages. */
export function transparentHugePages(): string | null {
  const text = readText("/sys/kernel/mm/transparent_hugepage/enabled");
  return text?.match(/\[(\w+)\]/)?.[1] ?? null;
}

export function userFacts(): UserFacts {
  const uid = process.getuid?.() ?? 0;
  const effective = field(readText("/proc/self/status"), /^CapEff:\s*([0-9a-f]+)$/m);
  return {
    uid,
    outerUid: outerUid(uid),
    name: userName(uid),
    hasCapSysPtrace: hasCapability(effective, CAP_SYS_PTRACE),
    hasCapSysResource: hasCapability(effective, CAP_SYS_RESOURCE),
    hasCapKill: hasCapability(effective, CAP_KILL),
    hasCapChown: hasCapability(effective, CAP_CHOWN),
    runFolder: runFolder(uid),
  };
}

/** It is made by the daemon if its parent is there. */
function runFolder(uid: number): UserFacts["runFolder"] {
  const parent = uid === 0 ? "/run" : (process.env.XDG_RUNTIME_DIR ?? "");
  if (parent === "") return null;
  const path = `${parent}/faultline`;
  return { path, isWritable: isWritable(existsSync(path) ? path : parent) };
}

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK | constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function hasCapability(effectiveHex: string | null, bit: bigint): boolean | null {
  return effectiveHex === null ? null : ((BigInt(`0x${effectiveHex}`) >> bit) & 1n) === 1n;
}

/** The name, or the number of a user without one: setfacl and chown take both. */
function userName(uid: number): string {
  try {
    return userInfo().username;
  } catch {
    return String(uid);
  }
}

/** See user_namespaces(7): each line of uid_map is first uid inside, first uid outside, count. */
function outerUid(uid: number): number | null {
  for (const line of (readText("/proc/self/uid_map") ?? "").split("\n")) {
    const [inside = 0, outside = 0, count = 0] = line.trim().split(/\s+/).map(Number);
    if (uid >= inside && uid < inside + count) return outside + uid - inside;
  }
  return null;
}

/** The name of a group, or null if /etc/group has none for it. */
export function groupName(gid: number): string | null {
  const lines = (readText("/etc/group") ?? "").split("\n");
  const line = lines.find((entry) => entry.split(":")[2] === String(gid));
  return line?.split(":")[0] ?? null;
}

export function confinementFacts(): ConfinementFacts {
  const mode = field(readText("/proc/self/status"), /^Seccomp:\s*(\d)$/m);
  const uidMap = readText("/proc/self/uid_map");
  return {
    container: containerKind(),
    seccompMode: mode === null ? null : Number(mode),
    isInitialUserNamespace: uidMap === null ? null : /^\s*0\s+0\s+4294967295\s*$/.test(uidMap),
  };
}

function containerKind(): ConfinementFacts["container"] {
  if (existsSync("/.dockerenv")) return "docker";
  if (existsSync("/run/.containerenv")) return "podman";
  // systemd-nspawn and lxc say so here; Kubernetes gives this to every pod.
  const { container, KUBERNETES_SERVICE_HOST: kubernetes } = process.env;
  return container !== undefined || kubernetes !== undefined ? "other" : null;
}

export function limitFacts(): LimitFacts {
  const limits = readText("/proc/self/limits");
  const meminfo = readText("/proc/meminfo");
  return {
    openFilesSoft: limit(field(limits, /^Max open files\s+(\S+)/m)),
    openFilesHard: limit(field(limits, /^Max open files\s+\S+\s+(\S+)/m)),
    maxMapCount: readNumber("/proc/sys/vm/max_map_count"),
    overcommitMemory: readNumber("/proc/sys/vm/overcommit_memory"),
    freeBytes: kibibytes(field(meminfo, /^MemFree:\s*(\d+) kB$/m)),
    availableBytes: kibibytes(field(meminfo, /^MemAvailable:\s*(\d+) kB$/m)),
  };
}

function field(text: string | null, pattern: RegExp): string | null {
  return text?.match(pattern)?.[1] ?? null;
}

/** "unlimited" does not survive JSON as Infinity. */
function limit(text: string | null): number | null {
  if (text === null) return null;
  return text === "unlimited" ? Number.MAX_SAFE_INTEGER : Number(text);
}

function kibibytes(text: string | null): number | null {
  return text === null ? null : Number(text) * KIB;
}
