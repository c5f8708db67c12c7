/** Waiting that ends: by a signal, or by a deadline. */
import { setMaxListeners } from "node:events";
import type { Timing } from "./timing.ts";

/** Calls back once when the signal is aborted, which it is not yet; the result takes that back. */
export function onAbort(signal: AbortSignal, callback: () => void): () => void {
  // A signal may end thousands of requests at once: that is no leak, as Node would warn.
  setMaxListeners(0, signal);
  signal.addEventListener("abort", callback, { once: true });
  return () => signal.removeEventListener("abort", callback);
}

/** What `promise` gives, or the signal's reason if that comes first: the wait ends in any case. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const abort = (): void => reject(signal.reason);
    if (signal.aborted) abort();
    const forget = onAbort(signal, abort);
    promise.finally(forget).then(resolve, reject);
  });
}

/** @throws the signal's reason */
export async function pause(
  durationMs: number,
  signal: AbortSignal,
  timing: Timing,
): Promise<void> {
  let cancel = (): void => undefined;
  const over = new Promise<void>((resolve) => {
    cancel = timing.after(durationMs, resolve);
  });
  try {
    await abortable(over, signal);
  } finally {
    cancel();
  }
}

/**
 * A time in which something has to happen: its signal is aborted by the caller's own signals, or by
 * a deadline that may be set anew. Disposal lets go of them.
 */
export class Scope {
  readonly #controller = new AbortController();
  readonly #timing: Timing;
  readonly #forget: (() => void)[] = [];
  #cancelTimer: (() => void) | null = null;

  constructor(timing: Timing, ...parents: readonly AbortSignal[]) {
    this.#timing = timing;
    for (const parent of parents) {
      if (parent.aborted) this.abort(parent.reason);
      else this.#forget.push(onAbort(parent, () => this.abort(parent.reason)));
    }
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  abort(reason: unknown): void {
    this.#controller.abort(reason);
  }

  /**
   * Aborts after `delayMs` from now with what `reason` gives, instead of at any earlier deadline.
   */
  setDeadline(delayMs: number, reason: () => unknown): void {
    this.#cancelTimer?.();
    this.#cancelTimer = this.#timing.after(delayMs, () => this.abort(reason()));
  }

  [Symbol.dispose](): void {
    this.#cancelTimer?.();
    for (const forget of this.#forget) forget();
  }
}
