/** Waiting for others: a compiler on the next CPU makes a fault look ten times as slow. */
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";

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

/** User, nice and system time of all CPUs; not iowait, not what the host took. */
function busyTicks(): number {
  const line = readFileSync("/proc/stat", "utf8").split("\n", 1)[0]!;
  const [user, nice, system] = line.trim().split(/\s+/).slice(1).map(Number);
  return user! + nice! + system!;
}
