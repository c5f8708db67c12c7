/**
 * A stream of events that is opened again whenever it breaks, after 0.5 s, then 1, 2, 4 and 5 s.
 * The first event of each opening replaces all that was known, so nothing is missed for good.
 */
import { EventStreamParser, type StreamEvent } from "./event-stream.ts";

export type StreamState =
  | { readonly kind: "connecting" }
  | { readonly kind: "live" }
  /** Broken: the next attempt is at this time of `Date.now()`. `status`: 0 if nobody answered. */
  | { readonly kind: "waiting"; readonly untilMs: number; readonly status: number }
  /** It wants another token (401), or knows no such thing (404): there is no next attempt. */
  | { readonly kind: "refused"; readonly status: number };

export interface StreamUser {
  /** May throw: the stream is opened again then. */
  take(event: StreamEvent): void;
  changed(state: StreamState): void;
}

/** Where streams come from, and when nobody needs them. */
export interface StreamSource {
  fetch(path: string, signal: AbortSignal): Promise<Response>;
  /** Resolves when somebody looks, or the signal is aborted. */
  awake(signal: AbortSignal): Promise<void>;
  /** Calls back when nobody has looked for a while; returns what takes that back. */
  whenResting(rest: () => void): () => void;
}

const FIRST_DELAY_MS = 500;
const MAX_DELAY_MS = 5000;
/** The daemon gives a sign of life each 10 s. */
const SILENCE_MS = 25_000;
const FINAL_STATUSES = [400, 401, 403, 404];

/** How long to wait before attempt number `attempt`, from 0 on. */
export function delayBefore(attempt: number): number {
  return Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** attempt);
}

export class LiveStream {
  readonly #source: StreamSource;
  readonly #path: string;
  readonly #user: StreamUser;
  readonly #closed = new AbortController();
  #failures = 0;

  constructor(source: StreamSource, path: string, user: StreamUser) {
    this.#source = source;
    this.#path = path;
    this.#user = user;
    void this.#run();
  }

  close(): void {
    this.#closed.abort();
  }

  async #run(): Promise<void> {
    const { signal } = this.#closed;
    while (!signal.aborted) {
      this.#user.changed({ kind: "connecting" });
      await this.#source.awake(signal);
      if (signal.aborted) return;
      const status = await this.#readOnce(signal);
      if (signal.aborted) return;
      if (FINAL_STATUSES.includes(status)) {
        this.#user.changed({ kind: "refused", status });
        return;
      }
      const delayMs = delayBefore(this.#failures++);
      this.#user.changed({ kind: "waiting", untilMs: Date.now() + delayMs, status });
      await elapsed(delayMs, signal);
    }
  }

  /** Reads until the stream breaks; the status that it was answered with, 0 for none. */
  async #readOnce(closed: AbortSignal): Promise<number> {
    const broken = new AbortController();
    const abort = (): void => broken.abort();
    closed.addEventListener("abort", abort, { once: true });
    const stayAwake = this.#source.whenResting(abort);
    let silence = setTimeout(abort, SILENCE_MS);
    try {
      const response = await this.#source.fetch(this.#path, broken.signal);
      if (!response.ok || response.body === null) return response.status;
      const parser = new EventStreamParser();
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return 0;
        clearTimeout(silence);
        silence = setTimeout(abort, SILENCE_MS);
        for (const event of parser.push(value)) this.#take(event, closed);
      }
    } catch {
      // Whatever it was, a network that fails or an event that is damaged: begin anew.
      return 0;
    } finally {
      clearTimeout(silence);
      stayAwake();
      closed.removeEventListener("abort", abort);
      broken.abort();
    }
  }

  #take(event: StreamEvent, closed: AbortSignal): void {
    if (closed.aborted) return;
    this.#user.changed({ kind: "live" });
    this.#failures = 0;
    this.#user.take(event);
  }
}

function elapsed(delayMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      // The signal lives as long as the page: one is added at each attempt.
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, delayMs);
    signal.addEventListener("abort", end);
  });
}
