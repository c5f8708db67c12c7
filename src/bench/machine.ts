/** Where numbers come from, because they mean nothing without it. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { cpus, loadavg, release } from "node:os";
import { delimiter, join } from "node:path";
import { FaultlineError } from "../base/errors.ts";

export interface Machine {
  readonly cpuModel: string;
  readonly cpus: number;
  readonly hypervisor: string;
  readonly kernel: string;
  readonly node: string;
  readonly compiler: string;
  /** One-minute load when the run began: above zero, somebody else was there. */
  readonly load: number;
}

export function describeMachine(compiler: string): Machine {
  const version = execFileSync(compiler, ["--version"], { encoding: "utf8" });
  return {
    cpuModel: cpus()[0]?.model ?? "unknown",
    cpus: cpus().length,
    hypervisor: isVirtual() ? "virtual machine" : "none seen",
    kernel: release(),
    node: process.version,
    compiler: version.split("\n")[0] ?? "unknown",
    load: loadavg()[0]!,
  };
}

export function formatMachine(machine: Machine): string {
  return (
    `${machine.cpuModel}, ${machine.cpus} CPUs (${machine.hypervisor}), Linux ${machine.kernel}, ` +
    `Node ${machine.node}, ${machine.compiler}; load ${machine.load.toFixed(2)}`
  );
}

export interface PinnedCpus {
  readonly guest: number;
  readonly handler: number;
}

/**
 * The CPUs of guest and handler: two different ones if this process may use two, as a wake-up
 * across CPUs is what a fault costs on a host whose handler is not pinned next to every vCPU.
 */
export function choosePinnedCpus(): PinnedCpus {
  const folders = (process.env.PATH ?? "").split(delimiter);
  if (!folders.some((folder) => existsSync(join(folder, "taskset")))) {
    throw new FaultlineError(
      "bad-option",
      "There is no taskset on PATH to pin handlers to a CPU with: install util-linux, or give " +
        "--no-pin.",
    );
  }
  const allowed = allowedCpus();
  return { guest: allowed[0]!, handler: allowed[1] ?? allowed[0]! };
}

export function availableMib(): number {
  const kib = /^MemAvailable:\s*(\d+)/m.exec(readFileSync("/proc/meminfo", "utf8"))?.[1];
  return Math.floor(Number(kib ?? 0) / 1024);
}

/** `Cpus_allowed_list: 0-1,4` → 0, 1, 4 */
function allowedCpus(): number[] {
  const status = readFileSync("/proc/self/status", "utf8");
  const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1] ?? "0";
  return list.split(",").flatMap((part) => {
    const [first = 0, last = first] = part.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  });
}

function isVirtual(): boolean {
  return /^flags\s*:.*\bhypervisor\b/m.test(readFileSync("/proc/cpuinfo", "utf8"));
}
