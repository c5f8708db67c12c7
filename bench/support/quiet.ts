/** Waiting for others: a compiler on the next CPU makes a fault look ten times as slow. */
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { cpuUse } from "./proc.ts";

const WINDOW_MS = 250;
const QUIET_SHARE = 0.05;
/** Clock ticks of one CPU in one window; two CPUs have twice as many. */
const TICK_MS = 10;

/** Returns when the machine is quiet, or after `patienceMs` all the same. */
export async function awaitQuietMachine(patienceMs: number): Promise<void> {
  const deadlineMs = performance.now() + patienceMs;
  while (performance.now() < deadlineMs) {
    const before = busyTicks();
    await delay(WINDOW_MS);
    if ((busyTicks() - before) * TICK_MS <= WINDOW_MS * QUIET_SHARE) return;
  }
}

/**
 * Returns when the processes have used no CPU time for `windowMs`, or after `patienceMs` all the
 * same. Gives the milliseconds until then. For a short while after work V8 collects its garbage.
 */
export async function awaitRest(
  pids: readonly number[],
  windowMs: number,
  patienceMs: number,
): Promise<number> {
  const startMs = performance.now();
  const ticks = (): number => pids.reduce((sum, pid) => sum + cpuUse(pid).ticks, 0);
  for (let last = ticks(); performance.now() - startMs < patienceMs; ) {
    await delay(windowMs);
    const now = ticks();
    if (now === last) break;
    last = now;
  }
  return performance.now() - startMs;
}

/** User, nice and system time of all CPUs; not iowait, not what the host took. */
function busyTicks(): number {
  const line = readFileSync("/proc/stat", "utf8").split("\n", 1)[0]!;
  const [user, nice, system] = line.trim().split(/\s+/).slice(1).map(Number);
  return user! + nice! + system!;
}
