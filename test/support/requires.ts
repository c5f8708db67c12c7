/**
 * What a test needs of its machine: `test("…", requires("userfaultfd"), () => …)`.
 *
 * Where something is missing the test is skipped, and the reason says how to get it. On a machine
 * that ought to have everything, FAULTLINE_REQUIRE_ALL=1 turns that into a failure of the file.
 */
import { spawnSync } from "node:child_process";
import { accessSync, closeSync, constants, existsSync, openSync, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { describeError } from "../../src/base/errors.ts";
import { findCompiler } from "../../src/kit/compile.ts";
import { createUserfaultfd } from "../../src/uffd/create.ts";
import { whyNoLinuxGuest } from "./linux-guest-parts.ts";

const HUGE_PAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const HUGE_PAGES_NEEDED = 16;

/** The user that `unprivileged-user` tests run as: `nobody`, without capabilities. */
export const UNPRIVILEGED_UID = 65534;

// Each probe returns null, or why the capability is missing and what to do about it.
const probes = {
  /** Full: faults raised by the kernel count too (not just UFFD_USER_MODE_ONLY). */
  userfaultfd: () =>
    complaint(() => {
      createUserfaultfd().close();
    }),
  kvm: () =>
    complaint(() => {
      closeSync(openSync("/dev/kvm", "r+"));
    }, "run as root, or add the user to the group kvm"),
  cc: () => (findCompiler() === null ? "no cc or gcc on PATH: apt-get install gcc" : null),
  casync: () => (has("casync") ? null : "no casync on PATH: apt-get install casync"),
  nginx: () => missingPrograms(["nginx", "setpriv"], "nginx-light util-linux"),
  radosgw: () =>
    missingPrograms(
      ["radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "monmaptool", "setpriv"],
      "radosgw ceph-mon ceph-osd util-linux",
    ),
  /** What Prometheus checks rules, queries and pages of metrics with. */
  promtool: () => missingPrograms(["promtool"], "prometheus"),
  /** A browser for the dashboard's page. */
  chromium: () => missingPrograms(["chromium"], "chromium"),
  root: () => (process.getuid?.() === 0 ? null : "not root: run the tests with sudo"),
  hugepages: probeHugePages,
  /** QEMU, and what the guest in it is made of. */
  "linux-guest": whyNoLinuxGuest,
  "unprivileged-user": probeUnprivilegedUser,
} as const satisfies Record<string, () => string | null>;

export type Capability = keyof typeof probes;

/** Options for `test` and `describe`. With FAULTLINE_REQUIRE_ALL=1, throws instead of skipping. */
export function requires(...capabilities: readonly Capability[]): { skip?: string } {
  for (const capability of capabilities) {
    const reason = missing(capability);
    if (reason === null) continue;
    if (process.env.FAULTLINE_REQUIRE_ALL === "1") {
      throw new Error(`FAULTLINE_REQUIRE_ALL=1, but ${reason}`);
    }
    return { skip: reason };
  }
  return {};
}

const known = new Map<Capability, string | null>();

/** Why a capability is missing, or null. Each is probed once per process. */
function missing(capability: Capability): string | null {
  let reason = known.get(capability);
  if (reason === undefined) {
    const complaintText = probes[capability]();
    reason = complaintText === null ? null : `needs ${capability}: ${complaintText}`;
    known.set(capability, reason);
  }
  return reason;
}

function complaint(attempt: () => void, cure?: string): string | null {
  try {
    attempt();
    return null;
  } catch (error) {
    return cure === undefined ? describeError(error) : `${describeError(error)}; ${cure}`;
  }
}

function has(program: string): boolean {
  return spawnSync(program, ["--version"]).status === 0;
}

/** Servers are often in /usr/sbin, which is not on every user's PATH. */
function missingPrograms(programs: readonly string[], packages: string): string | null {
  const folders = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  process.env.PATH = folders.join(delimiter);
  const absent = programs.filter(
    (program) => !folders.some((folder) => existsSync(join(folder, program))),
  );
  if (absent.length === 0) return null;
  return `no ${absent.join(", ")}: apt-get install --no-install-recommends ${packages}`;
}

function probeHugePages(): string | null {
  const [total, free] = [`${HUGE_PAGES}/nr_hugepages`, `${HUGE_PAGES}/free_hugepages`];
  if (!existsSync(free)) return "this kernel has no 2 MiB huge pages";
  let freeCount = readCount(free);
  // The pages of a process that has just died come back a moment later.
  const pause = new Int32Array(new SharedArrayBuffer(4));
  for (let tries = 0; tries < 20 && readCount(total) >= HUGE_PAGES_NEEDED; tries++) {
    if (freeCount >= HUGE_PAGES_NEEDED) return null;
    Atomics.wait(pause, 0, 0, 100);
    freeCount = readCount(free);
  }
  return `${freeCount} free 2 MiB pages, ${HUGE_PAGES_NEEDED} wanted: sysctl vm.nr_hugepages=64`;
}

function readCount(path: string): number {
  return Number(readFileSync(path, "utf8"));
}

/** A child of that user must also be able to read this tree, or it cannot run a test program. */
function probeUnprivilegedUser(): string | null {
  if (process.getuid?.() !== 0) return "only root can start a process of another user";
  accessSync(import.meta.filename, constants.R_OK);
  const program = "require('node:fs').accessSync(process.argv[1], 4)";
  const child = spawnSync(process.execPath, ["-e", program, import.meta.filename], {
    uid: UNPRIVILEGED_UID,
    gid: UNPRIVILEGED_UID,
    cwd: "/",
  });
  if (child.status === 0) return null;
  return `uid ${UNPRIVILEGED_UID} cannot run node, or not read ${import.meta.filename}`;
}
