/** Single-flight: readers of one object at the same time share one read. */
import type { Urgency } from "./object-store.ts";
import { abortable } from "./scope.ts";

interface Flight {
  readonly result: Promise<Uint8Array | null>;
  readonly controller: AbortController;
  readers: number;
  urgency: Urgency;
}

export class SharedReads {
  readonly #flights = new Map<string, Flight>();

  /**
   * Joins the read of `name` that is under way, or starts one. It is aborted when its last reader
   * is. `hurry` is called when a guest joins a read that began as prefetch.
   */
  async read(
    name: string,
    signal: AbortSignal,
    urgency: Urgency,
    start: (signal: AbortSignal) => Promise<Uint8Array | null>,
    hurry: () => void,
  ): Promise<Uint8Array | null> {
    signal.throwIfAborted();
    const flight = this.#flights.get(name) ?? this.#start(name, urgency, start);
    if (urgency === "demand" && flight.urgency === "prefetch") {
      flight.urgency = "demand";
      hurry();
    }
    flight.readers++;
    try {
      return await abortable(flight.result, signal);
    } finally {
      if (--flight.readers === 0) {
        // Nobody may join it any more: it ends in an error.
        this.#end(name, flight);
        flight.controller.abort(signal.reason);
      }
    }
  }

  /** Later readers do not join what is under way. */
  leaveBehind(name: string): void {
    this.#flights.delete(name);
  }

  #start(
    name: string,
    urgency: Urgency,
    start: (signal: AbortSignal) => Promise<Uint8Array | null>,
  ): Flight {
    const controller = new AbortController();
    const result = start(controller.signal);
    const flight: Flight = { result, controller, readers: 0, urgency };
    this.#flights.set(name, flight);
    const end = (): void => this.#end(name, flight);
    result.then(end, end);
    return flight;
  }

  #end(name: string, flight: Flight): void {
    if (this.#flights.get(name) === flight) this.#flights.delete(name);
  }
}
