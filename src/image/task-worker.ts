/** The other end of a TaskPool: a thread that answers one task after the other. */
import { parentPort, type Transferable } from "node:worker_threads";
import { assert } from "../base/assert.ts";
import type { Answer, Order, PlainError } from "./task-pool.ts";

export interface Reply<Result> {
  readonly result: Result;
  /** Memory that goes along without being copied. */
  readonly transfer?: readonly Transferable[];
}

export function answerTasks<Task, Result>(answer: (task: Task) => Reply<Result>): void {
  const port = parentPort;
  assert(port !== null, "this file is a worker's entry");
  port.on("message", (order: Order<Task>) => {
    // Without its port the thread has nothing to wait for, and ends.
    if (order === null) return port.close();
    const { id, task } = order;
    let message: Answer<Result>;
    let transfer: readonly Transferable[] = [];
    try {
      const reply = answer(task);
      transfer = reply.transfer ?? [];
      message = { id, result: reply.result };
    } catch (error) {
      message = { id, error: plain(error) };
    }
    port.postMessage(message, [...transfer]);
  });
}

function plain(error: unknown): PlainError {
  const { message, code, cause } = error as NodeJS.ErrnoException & { readonly cause?: Error };
  return { message: cause === undefined ? message : `${message}: ${cause.message}`, code };
}
