/** Waiting for a condition instead of sleeping: fast where the machine is fast, and bounded. */
import { setTimeout as delay } from "node:timers/promises";

/** Far beyond what anything local takes; a test that needs more says so. */
export const DEFAULT_BUDGET_MS = 2000;

type Falsy = false | 0 | null | undefined | "";

/** Calls `condition` until it gives something true, and returns that. `what` is for the failure. */
export async function waitFor<T>(
  what: string,
  condition: () => T | Promise<T>,
  budgetMs = DEFAULT_BUDGET_MS,
): Promise<Exclude<T, Falsy>> {
  const deadlineMs = performance.now() + budgetMs;
  for (;;) {
    const value = await condition();
    if (value) return value as Exclude<T, Falsy>;
    if (performance.now() > deadlineMs) {
      throw new Error(`Waited ${budgetMs} ms in vain until ${what}.`);
    }
    await delay(1);
  }
}

/** Gives `promise` no longer than the budget. */
export async function within<T>(
  what: string,
  promise: Promise<T>,
  budgetMs = DEFAULT_BUDGET_MS,
): Promise<T> {
  const timer = new AbortController();
  const late = delay(budgetMs, undefined, { signal: timer.signal }).then(() => {
    throw new Error(`Waited ${budgetMs} ms in vain until ${what}.`);
  });
  late.catch(() => undefined);
  try {
    return await Promise.race([promise, late]);
  } finally {
    timer.abort();
  }
}
