/** A store in memory that keeps a diary, and lies where a test tells it to. */
import type { ObjectStore, StoredObject } from "../../src/source/object-store.ts";

export class MemoryStore implements ObjectStore {
  readonly location: string;
  readonly objects = new Map<string, Uint8Array>();
  /** `read NAME`, `refetch NAME`, `exists NAME`, `write NAME`, in their order. */
  readonly diary: string[] = [];
  /** Most requests that ran at once. */
  mostAtOnce = 0;
  /** What a read gives instead. */
  lie: ((name: string, bytes: Uint8Array | null) => Uint8Array | null) | null = null;
  /** Called before each write; may throw. */
  beforeWrite: ((name: string) => void) | null = null;
  #atOnce = 0;

  constructor(location: string) {
    this.location = location;
  }

  async read(name: string, signal: AbortSignal): Promise<Uint8Array | null> {
    return await this.#ask(`read ${name}`, signal, () => {
      const bytes = this.objects.get(name) ?? null;
      return this.lie === null ? bytes : this.lie(name, bytes);
    });
  }

  async refetch(name: string, signal: AbortSignal): Promise<Uint8Array | null> {
    this.diary.push(`refetch ${name}`);
    return await this.read(name, signal);
  }

  async exists(name: string, signal: AbortSignal): Promise<boolean> {
    return await this.#ask(`exists ${name}`, signal, () => this.objects.has(name));
  }

  async write(name: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    await this.#ask(`write ${name}`, signal, () => {
      this.beforeWrite?.(name);
      this.objects.set(name, new Uint8Array(bytes));
    });
  }

  async *list(prefix: string): AsyncGenerator<StoredObject> {
    for (const [name, { length }] of this.objects) {
      if (name.startsWith(prefix)) yield { name, sizeBytes: length, modifiedMs: 0 };
    }
  }

  async remove(name: string): Promise<void> {
    this.objects.delete(name);
  }

  async close(): Promise<void> {}

  async #ask<Result>(what: string, signal: AbortSignal, answer: () => Result): Promise<Result> {
    signal.throwIfAborted();
    this.diary.push(what);
    this.mostAtOnce = Math.max(this.mostAtOnce, ++this.#atOnce);
    await new Promise(setImmediate);
    this.#atOnce--;
    signal.throwIfAborted();
    return answer();
  }
}
