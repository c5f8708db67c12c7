/**
 * The threads that decompress and check chunks, so that the main thread has its hands free. 256 KiB
 * take some 300 µs: two threads keep up with 10 Gbit/s of stored bytes.
 */
import { Worker } from "node:worker_threads";
import { assert } from "../base/assert.ts";
import type { ChunkDescription } from "./chunk-table.ts";

export interface DecodeTask {
  readonly id: number;
  /** Null: the bytes are there already, and are only checked. */
  readonly stored: Uint8Array | null;
  readonly chunk: ChunkDescription;
  readonly address: number;
  /** Of the arena's block that holds the address. */
  readonly blockAddress: number;
}

export interface DecodeAnswer {
  readonly id: number;
  readonly failure: string | null;
}

interface Waiting {
  readonly resolve: (failure: string | null) => void;
  readonly reject: (error: unknown) => void;
}

export class DecodePool {
  readonly #workers: readonly Worker[];
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 0;
  #failure: unknown = null;

  constructor(threads: number) {
    this.#workers = Array.from({ length: threads }, () => {
      const worker = new Worker(new URL("./decode-worker.js", import.meta.url), {
        name: "decode-worker",
      });
      worker.on("message", ({ id, failure }: DecodeAnswer) => {
        this.#waiting.get(id)?.resolve(failure);
        this.#waiting.delete(id);
      });
      worker.on("error", (error) => this.#failAll(error));
      return worker;
    });
  }

  /**
   * Decompresses to an address of the arena and checks; `stored` null: checks what is there
   * already. Null, or what is wrong with the bytes. `blockAddress` is that of the arena's block
   * around it.
   */
  decode(
    stored: Uint8Array | null,
    chunk: ChunkDescription,
    address: number,
    blockAddress: number,
  ): Promise<string | null> {
    assert(this.#failure === null, "the decoding threads have died");
    const id = this.#nextId++;
    const { id: name, digest, sizeBytes } = chunk;
    const task: DecodeTask = {
      id,
      stored,
      chunk: { id: name, digest, sizeBytes },
      address,
      blockAddress,
    };
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#workers[id % this.#workers.length]!.postMessage(task);
    });
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
    this.#failAll(new Error("The decoding threads were stopped."));
  }

  #failAll(error: unknown): void {
    this.#failure ??= error;
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
  }
}
