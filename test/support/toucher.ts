/**
 * A thread that touches memory and may block on it: the thread that answers faults must never touch
 * registered memory itself.
 */
import { Worker } from "node:worker_threads";
import { within } from "../../src/kit/wait.ts";

/** One thing to do. `read` gives the byte; `writeFrom` gives 1 or a negative errno. */
export type Touch =
  | { readonly what: "read"; readonly address: number }
  | { readonly what: "write"; readonly address: number; readonly value: number }
  | {
      readonly what: "madvise";
      readonly address: number;
      readonly lengthBytes: number;
      readonly advice: number;
    }
  | { readonly what: "munmap"; readonly address: number; readonly lengthBytes: number }
  | {
      readonly what: "mremap";
      readonly address: number;
      readonly lengthBytes: number;
      readonly newLengthBytes: number;
    }
  | { readonly what: "writeFrom"; readonly fd: number; readonly address: number };

/** A touch under way. */
export class Pending {
  readonly #result: Promise<number>;
  #isDone = false;

  constructor(result: Promise<number>) {
    this.#result = result.finally(() => {
      this.#isDone = true;
    });
    // A touch that nobody waits for any more must not end the process.
    this.#result.catch(() => undefined);
  }

  get isDone(): boolean {
    return this.#isDone;
  }

  /** The result; fails if the thread is still blocked after the budget. */
  async done(): Promise<number> {
    return await within("the touching thread went on", this.#result);
  }
}

export class Toucher {
  readonly #worker = new Worker(new URL("./toucher-worker.js", import.meta.url));

  /** Starts the touch; one at a time per toucher. */
  start(touch: Touch): Pending {
    return new Pending(
      new Promise<number>((resolve, reject) => {
        this.#worker.once("message", (reply: { value: number } | { error: string }) => {
          if ("error" in reply) reject(new Error(reply.error));
          else resolve(reply.value);
        });
        this.#worker.postMessage(touch);
      }),
    );
  }

  read(address: number): Pending {
    return this.start({ what: "read", address });
  }

  write(address: number, value: number): Pending {
    return this.start({ what: "write", address, value });
  }

  /** Never ends while the thread is blocked in a fault: close the userfaultfd first. */
  async close(): Promise<void> {
    await this.#worker.terminate();
  }
}
