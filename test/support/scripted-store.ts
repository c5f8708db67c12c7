/** A store whose every request waits for the test to answer it. */
import type { ObjectStore, StoredObject, Urgency } from "../../src/source/object-store.ts";
import type { VirtualTiming } from "./virtual-timing.ts";

export interface Request {
  readonly name: string;
  readonly urgency: Urgency | undefined;
  readonly signal: AbortSignal;
  /** What was to be written. */
  readonly bytes: Uint8Array | null;
  readonly answer: (bytes: Uint8Array | null) => void;
  readonly fail: (error: unknown) => void;
}

export class ScriptedStore implements ObjectStore {
  readonly location = "test:store";
  /** All requests so far, in their order. */
  readonly requests: Request[] = [];
  readonly hurried: string[] = [];
  isClosed = false;
  /** Answers each request after so long, if set. */
  latencyMs: (() => number) | null = null;
  readonly #timing: VirtualTiming | null;

  constructor(timing: VirtualTiming | null = null) {
    this.#timing = timing;
  }

  read(name: string, signal: AbortSignal, urgency?: Urgency): Promise<Uint8Array | null> {
    return this.#ask(name, signal, null, urgency);
  }

  async exists(name: string, signal: AbortSignal): Promise<boolean> {
    return (await this.read(name, signal)) !== null;
  }

  async write(name: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    await this.#ask(name, signal, bytes);
  }

  async *list(): AsyncGenerator<StoredObject> {
    yield* [];
  }

  async remove(name: string, signal: AbortSignal): Promise<void> {
    await this.read(name, signal);
  }

  async close(): Promise<void> {
    this.isClosed = true;
  }

  hurry(name: string): void {
    this.hurried.push(name);
  }

  #ask(
    name: string,
    signal: AbortSignal,
    bytes: Uint8Array | null,
    urgency?: Urgency,
  ): Promise<Uint8Array | null> {
    return new Promise((answer, fail) => {
      this.requests.push({ name, urgency, signal, bytes, answer, fail });
      if (this.latencyMs === null) return;
      this.#timing!.after(this.latencyMs(), () => answer(Buffer.from(name)));
    });
  }
}
