/**
 * A lock for moments on a store in S3: an object that is only written under a condition
 * (If-None-Match, If-Match), so that of all who try, one succeeds.
 *
 * No clocks are compared. A holder stops within `HOLD_MS` by its own clock. Whoever sees the same
 * holder for `TAKE_OVER_MS` by its own clock takes it for dead, and replaces its mark under the
 * condition that it is still that one. What lies between is for requests that are still on their
 * way when their sender gives up. (A process that is stopped for a minute between asking its clock
 * and sending a request is the one thing that this does not cover.)
 */
import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { FaultlineError } from "../base/errors.ts";
import { pause, Scope } from "./scope.ts";
import type { Timing } from "./timing.ts";

export const LOCK_NAME = "faultline.lock";
/** Nothing is begun after this, … */
const BEGIN_MS = 10_000;
/** … and what still runs after this is given up. */
const HOLD_MS = 20_000;
const TAKE_OVER_MS = 60_000;
/** A holder may die just before, and others be first then. */
const LOCK_TIMEOUT_MS = 180_000;
const POLL_MS = 200;

export interface LockObject {
  /** Null: it does not exist. */
  read(signal: AbortSignal): Promise<{ readonly bytes: Uint8Array; readonly tag: string } | null>;
  /**
   * Writes it if it has this tag, or, with a null tag, if it does not exist. False: it is not so.
   * Null: the server does not know such conditions.
   */
  writeIf(bytes: Uint8Array, tag: string | null, signal: AbortSignal): Promise<boolean | null>;
}

/** What stands in the lock when nobody has it: removing it would need more rights. */
const FREE = Buffer.from("free\n");

/**
 * Runs `action` while nobody else does so. It must begin nothing once `mayBegin` says no, and end
 * with the signal. Null, without having run it: the server does not know conditions, so that there
 * can be no lock.
 * @throws FaultlineError `store-failed`: somebody has it for too long, or this took too long
 */
export async function withS3Lock<Result>(
  location: string,
  lock: LockObject,
  signal: AbortSignal,
  timing: Timing,
  action: (mayBegin: () => boolean, signal: AbortSignal) => Promise<Result>,
): Promise<{ readonly result: Result } | null> {
  const mark = Buffer.from(`${hostname()} ${process.pid} ${randomBytes(8).toString("hex")}\n`);
  const sinceMs = await acquire(location, lock, mark, signal, timing);
  if (sinceMs === null) return null;
  try {
    // It exists now: a server that makes it anew does not heed the condition.
    if ((await lock.writeIf(mark, null, signal)) === true) return null;
    using scope = new Scope(timing, signal);
    const leftMs = Math.max(0, sinceMs + HOLD_MS - timing.nowMs());
    scope.setDeadline(leftMs, () => {
      const text = `${location} took longer than ${HOLD_MS / 1000} s while it was locked.`;
      return new FaultlineError("store-failed", text);
    });
    const mayBegin = (): boolean => timing.nowMs() - sinceMs < BEGIN_MS;
    return { result: await action(mayBegin, scope.signal) };
  } finally {
    await release(lock, mark);
  }
}

/** Since when it is held at the earliest; null: the server does not know conditions. */
async function acquire(
  location: string,
  lock: LockObject,
  mark: Buffer,
  signal: AbortSignal,
  timing: Timing,
): Promise<number | null> {
  const startMs = timing.nowMs();
  let writtenMs = startMs;
  let seen: { readonly tag: string | null; readonly sinceMs: number } | null = null;
  for (;;) {
    const nowMs = timing.nowMs();
    const found = await lock.read(signal);
    // A request of ours may have been carried out although its answer was lost.
    if (found !== null && mark.equals(found.bytes)) return writtenMs;
    const tag = found?.tag ?? null;
    // Seen when the answer is there, not before.
    if (seen === null || seen.tag !== tag) seen = { tag, sinceMs: timing.nowMs() };
    const isFree = found === null || FREE.equals(found.bytes);
    if (isFree || nowMs - seen.sinceMs >= TAKE_OVER_MS) {
      writtenMs = timing.nowMs();
      const isOurs = await lock.writeIf(mark, tag, signal);
      if (isOurs === null) return null;
      if (isOurs) return writtenMs;
    }
    if (nowMs - startMs > LOCK_TIMEOUT_MS) throw lockedTooLong(location, found?.bytes ?? FREE);
    await pause(POLL_MS * (0.5 + timing.random()), signal, timing);
  }
}

/** For the next one at once. If this fails, the next one waits until it takes over. */
async function release(lock: LockObject, mark: Buffer): Promise<void> {
  // Also after an abort: the work is over in any case.
  const signal = AbortSignal.timeout(HOLD_MS);
  try {
    const found = await lock.read(signal);
    if (found !== null && mark.equals(found.bytes)) await lock.writeIf(FREE, found.tag, signal);
  } catch {
    // Nothing depends on it.
  }
}

function lockedTooLong(location: string, mark: Uint8Array): FaultlineError {
  const holder = Buffer.from(mark).toString().trim().slice(0, 200);
  return new FaultlineError(
    "store-failed",
    `${location} has been locked for ${LOCK_TIMEOUT_MS / 1000} s, last by ` +
      `${JSON.stringify(holder)} (host, process; ${LOCK_NAME}). See what it does, or try again.`,
  );
}
