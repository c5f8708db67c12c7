/** What the kernel says about a process. See proc(5). */
import { readdirSync, readFileSync } from "node:fs";

export interface MemorySizes {
  readonly rssAnon: number;
  /** Of memfds, too. */
  readonly rssShmem: number;
  readonly rss: number;
}

/** Sizes in KiB, as the kernel gives them. */
export function memoryKib(pid: number): MemorySizes {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return {
    rssAnon: fieldOf(status, "RssAnon"),
    rssShmem: fieldOf(status, "RssShmem"),
    rss: fieldOf(status, "VmRSS"),
  };
}

export function openFds(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

export interface CpuUse {
  /** User and system time of all threads, in clock ticks (10 ms). */
  readonly ticks: number;
  /** How often a thread went to sleep by itself: idle threads that poll are found out by it. */
  readonly sleeps: number;
}

export function cpuUse(pid: number): CpuUse {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  // The name, second, is in brackets and may hold anything; utime and stime are 14th and 15th.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const threads = readdirSync(`/proc/${pid}/task`);
  const sleeps = threads.map((thread) =>
    fieldOf(readFileSync(`/proc/${pid}/task/${thread}/status`, "utf8"), "voluntary_ctxt_switches"),
  );
  return {
    ticks: Number(fields[11]) + Number(fields[12]),
    sleeps: sleeps.reduce((sum, each) => sum + each, 0),
  };
}

function fieldOf(status: string, name: string): number {
  const value = new RegExp(`^${name}:\\s*(\\d+)`, "m").exec(status)?.[1];
  if (value === undefined) throw new Error(`There is no ${name} in /proc.`);
  return Number(value);
}
