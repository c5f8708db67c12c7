/**
 * Carries out calls to a store under the request policy: a turn in the queue, a deadline for each
 * request and for all of them, retries with jitter, a second request beside a slow read.
 */
import { FaultlineError } from "../base/errors.ts";
import { HedgeBudget, hedged } from "./hedge.ts";
import { Latency } from "./latency.ts";
import type { Urgency } from "./object-store.ts";
import {
  LEAST_HEDGE_DELAY_MS,
  MAX_SAVED_HEDGES,
  pauseMs,
  type RequestPolicy,
  type TimeBudget,
} from "./request-policy.ts";
import { RequestQueue } from "./request-queue.ts";
import { abortable, pause, Scope } from "./scope.ts";
import { StoreCounters, type StoreStats } from "./store-stats.ts";
import type { Timing } from "./timing.ts";

export interface Call<T> {
  /** `Cannot VERB NAME in LOCATION`, for errors. */
  readonly subject: string;
  readonly name: string;
  readonly urgency: Urgency;
  readonly budget: TimeBudget;
  /** Reads are measured, and may be asked for twice. */
  readonly isRead: boolean;
  readonly attempt: (signal: AbortSignal) => Promise<T>;
}

/** Why the slower of two requests ends. Nobody hears it. */
const LOST = new FaultlineError("store-failed", "Another request was faster.");

export class RequestRunner {
  readonly counters = new StoreCounters();
  readonly queue: RequestQueue;
  readonly #policy: RequestPolicy;
  readonly #timing: Timing;
  readonly #latency = new Latency();
  readonly #hedges: HedgeBudget;
  readonly #closed = new AbortController();

  constructor(policy: RequestPolicy, timing: Timing) {
    this.queue = new RequestQueue(policy.concurrency, policy.maxWaiting);
    this.#policy = policy;
    this.#timing = timing;
    this.#hedges = new HedgeBudget(policy.hedgeShare, MAX_SAVED_HEDGES);
  }

  /** @throws FaultlineError, the store's last one as its cause; the signal's reason */
  async run<T>(call: Call<T>, signal: AbortSignal): Promise<T> {
    try {
      return await this.#attempts(call, signal);
    } catch (error) {
      if (!signal.aborted) this.counters.failures++;
      throw error;
    }
  }

  /** Ends what runs and waits; later calls fail at once. */
  close(error: FaultlineError): void {
    this.#closed.abort(error);
  }

  stats(): StoreStats {
    const { running, waiting, displaced } = this.queue;
    const { counts, totalMs: readTotalMs } = this.#latency;
    const readLatency = counts.slice();
    return { ...this.counters, running, waiting, displaced, readLatency, readTotalMs };
  }

  async #attempts<T>(call: Call<T>, signal: AbortSignal): Promise<T> {
    const startMs = this.#timing.nowMs();
    const endMs = startMs + call.budget.deadlineMs;
    for (let attempts = 1; ; attempts++) {
      try {
        return await this.#inTurn(call, signal, endMs);
      } catch (error) {
        if (signal.aborted) throw signal.reason;
        this.#closed.signal.throwIfAborted();
        if (!mayPass(error)) throw error;
        const restMs = pauseMs(this.#policy, attempts, this.#timing.random());
        const nowMs = this.#timing.nowMs();
        if (attempts >= this.#policy.maxAttempts || nowMs + restMs >= endMs) {
          throw givenUp(call, attempts, nowMs - startMs, error);
        }
        this.counters.retries++;
        using rest = new Scope(this.#timing, signal, this.#closed.signal);
        await pause(restMs, rest.signal, this.#timing);
      }
    }
  }

  /** Waits for a turn, then for the store: there not longer than one request may take. */
  async #inTurn<T>(call: Call<T>, signal: AbortSignal, endMs: number): Promise<T> {
    using scope = new Scope(this.#timing, signal, this.#closed.signal);
    scope.signal.throwIfAborted();
    if (!this.queue.tryEnter()) {
      scope.setDeadline(endMs - this.#timing.nowMs(), () => late(call, "no turn came in time"));
      await this.queue.enter(call.name, call.urgency, scope.signal);
    }
    try {
      const timeoutMs = Math.min(call.budget.requestTimeoutMs, endMs - this.#timing.nowMs());
      scope.setDeadline(timeoutMs, () => {
        this.counters.timeouts++;
        return late(call, `no answer within ${Math.ceil(timeoutMs)} ms`);
      });
      return await (call.isRead ? this.#read(call, scope) : this.#ask(call, scope.signal));
    } finally {
      this.queue.leave();
    }
  }

  async #read<T>(call: Call<T>, scope: Scope): Promise<T> {
    const startMs = this.#timing.nowMs();
    const result = await this.#readHedged(call, scope);
    this.#latency.record(this.#timing.nowMs() - startMs);
    return result;
  }

  async #readHedged<T>(call: Call<T>, scope: Scope): Promise<T> {
    const usualMs = this.#latency.p95Ms;
    this.#hedges.earn();
    if (usualMs === null || this.#policy.hedgeShare === 0) {
      return await this.#ask(call, scope.signal);
    }
    let isHedged = false;
    const first = (): Promise<T> => this.#ask(call, scope.signal);
    const second = (): Promise<T> | null => {
      // A store whose turns are all taken is not helped by more requests.
      if (!this.#hedges.hasOne || !this.queue.tryEnter()) return null;
      this.#hedges.spend();
      this.counters.hedges++;
      isHedged = true;
      return this.#hedge(call, scope.signal);
    };
    try {
      const delayMs = Math.max(LEAST_HEDGE_DELAY_MS, usualMs);
      return await hedged(first, second, delayMs, this.#timing);
    } finally {
      // Nothing but the slower one of both can still hear it.
      if (isHedged) scope.abort(LOST);
    }
  }

  async #hedge<T>(call: Call<T>, signal: AbortSignal): Promise<T> {
    try {
      const result = await this.#ask(call, signal);
      this.counters.hedgesWon++;
      return result;
    } finally {
      this.queue.leave();
    }
  }

  /** One request. It ends with the signal, even if the store below does not heed that. */
  async #ask<T>(call: Call<T>, signal: AbortSignal): Promise<T> {
    signal.throwIfAborted();
    this.counters.attempts++;
    return await abortable(call.attempt(signal), signal);
  }
}

/** Refusals, and bugs of our own, stay what they are. */
function mayPass(error: unknown): boolean {
  return error instanceof FaultlineError && error.code === "store-failed";
}

function late({ subject }: Call<unknown>, what: string): FaultlineError {
  return new FaultlineError("store-failed", `${subject}: ${what}.`);
}

function givenUp<T>(
  { subject }: Call<T>,
  attempts: number,
  durationMs: number,
  cause: unknown,
): FaultlineError {
  if (attempts === 1 && cause instanceof FaultlineError) return cause;
  const text = `${subject}, after ${attempts} attempts in ${Math.ceil(durationMs)} ms`;
  return new FaultlineError("store-failed", text, { cause });
}
