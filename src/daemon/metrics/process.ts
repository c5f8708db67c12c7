/** What the kernel says of this process. */
import { readdirSync, readFileSync } from "node:fs";

export interface ProcessNumbers {
  readonly cpuSeconds: number;
  readonly residentBytes: number;
  readonly openFds: number;
  readonly maxFds: number;
  readonly startSeconds: number;
}

export function processNumbers(): ProcessNumbers {
  const { user, system } = process.cpuUsage();
  // Always a number: the kernel has no “unlimited” for descriptors.
  const [, limit] = /^Max open files +(\d+)/m.exec(readFileSync("/proc/self/limits", "utf8")) ?? [];
  return {
    cpuSeconds: (user + system) / 1e6,
    residentBytes: process.memoryUsage.rss(),
    // Reading the list takes one itself.
    openFds: readdirSync("/proc/self/fd").length - 1,
    maxFds: Number(limit ?? 0),
    startSeconds: performance.timeOrigin / 1000,
  };
}
