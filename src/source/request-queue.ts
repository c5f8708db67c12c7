/**
 * How many requests a store has at once. The others wait in the order in which they came, demand
 * before prefetch, and no more of them than a bound. Where the queue is full, demand takes the
 * place of the prefetch that came last.
 */
import { FaultlineError } from "../base/errors.ts";
import type { Urgency } from "./object-store.ts";
import { onAbort } from "./scope.ts";

interface Waiting {
  readonly name: string;
  readonly start: () => void;
  readonly refuse: (error: unknown) => void;
}

export class RequestQueue {
  readonly #limit: number;
  readonly #maxWaiting: number;
  /** Sets keep the order in which entries came. */
  readonly #waiting: Readonly<Record<Urgency, Set<Waiting>>> = {
    demand: new Set(),
    prefetch: new Set(),
  };
  #running = 0;
  #displaced = 0;

  constructor(limit: number, maxWaiting: number) {
    this.#limit = limit;
    this.#maxWaiting = maxWaiting;
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#waiting.demand.size + this.#waiting.prefetch.size;
  }

  /** Requests that were refused because the queue was full. */
  get displaced(): number {
    return this.#displaced;
  }

  /**
   * Waits for a turn. Whoever got one calls `leave` when done.
   * @throws FaultlineError `store-failed` if too many wait; the signal's reason
   */
  async enter(name: string, urgency: Urgency, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.tryEnter()) return;
    if (this.waiting >= this.#maxWaiting) this.#makeRoom(name, urgency);
    await new Promise<void>((resolve, reject) => {
      const end = (): void => {
        this.#waiting.demand.delete(entry);
        this.#waiting.prefetch.delete(entry);
        forget();
      };
      const refuse = (error: unknown): void => {
        end();
        reject(error);
      };
      const start = (): void => {
        end();
        resolve();
      };
      const entry: Waiting = { name, start, refuse };
      const forget = onAbort(signal, () => refuse(signal.reason));
      this.#waiting[urgency].add(entry);
    });
  }

  /** Takes a turn if one is free and nobody waits for it. */
  tryEnter(): boolean {
    if (this.#running >= this.#limit || this.waiting > 0) return false;
    this.#running++;
    return true;
  }

  leave(): void {
    const { demand, prefetch } = this.#waiting;
    const [next] = demand.size > 0 ? demand : prefetch;
    // The turn goes over to the next one: nobody can come between.
    if (next === undefined) this.#running--;
    else next.start();
  }

  /** Moves what waits for this object as prefetch to the end of the demand queue. */
  hurry(name: string): void {
    for (const entry of this.#waiting.prefetch) {
      if (entry.name !== name) continue;
      this.#waiting.prefetch.delete(entry);
      this.#waiting.demand.add(entry);
    }
  }

  #makeRoom(name: string, urgency: Urgency): void {
    this.#displaced++;
    const last = urgency === "demand" ? [...this.#waiting.prefetch].at(-1) : undefined;
    if (last === undefined) throw this.#full(name);
    last.refuse(this.#full(last.name));
  }

  #full(name: string): FaultlineError {
    const text = `Cannot ask for ${name}: ${this.#maxWaiting} requests wait for the store already.`;
    return new FaultlineError("store-failed", text);
  }
}
