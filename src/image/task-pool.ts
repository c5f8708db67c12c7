/**
 * Threads that answer tasks, each in the order in which it got them. The main thread keeps them
 * busy by having more than one task under way for each.
 */
import { type Transferable, Worker } from "node:worker_threads";
import { assert } from "../base/assert.ts";
import { type ErrorCode, errorCodes, FaultlineError } from "../base/errors.ts";

/** An error on its way between threads, where classes do not survive. */
export interface PlainError {
  readonly message: string;
  /** Ours, or an errno's name. */
  readonly code: string | undefined;
}

/** What a thread gets: a task, or null when there will be none any more. */
export type Order<Task> = { readonly id: number; readonly task: Task } | null;

export type Answer<Result> =
  | { readonly id: number; readonly result: Result }
  | { readonly id: number; readonly error: PlainError };

interface Waiting<Result> {
  readonly resolve: (result: Result) => void;
  readonly reject: (error: unknown) => void;
}

export class TaskPool<Task, Result> {
  readonly #workers: readonly Worker[];
  readonly #exited: readonly Promise<unknown>[];
  readonly #waiting = new Map<number, Waiting<Result>>();
  #nextId = 1;
  #isClosing = false;

  /** @param setup what every thread gets as its workerData */
  constructor(file: URL, workerCount: number, setup: unknown) {
    assert(workerCount >= 1, "a pool has threads");
    this.#workers = Array.from({ length: workerCount }, () => {
      const worker = new Worker(file, { name: "image-worker", workerData: setup });
      worker.on("message", (answer: Answer<Result>) => this.#settle(answer));
      worker.on("error", (error) => this.#fail(error));
      worker.on("exit", () => {
        if (!this.#isClosing) this.#fail(new Error("A worker thread has ended by itself."));
      });
      return worker;
    });
    // Not events.once(): that rejects at an error, which has been told to all who wait by then.
    this.#exited = this.#workers.map(
      (worker) => new Promise((resolve) => worker.once("exit", resolve)),
    );
  }

  get workerCount(): number {
    return this.#workers.length;
  }

  /** Has a certain thread do something. */
  run(worker: number, task: Task, transfer: readonly Transferable[] = []): Promise<Result> {
    assert(!this.#isClosing, "a task for a closed pool");
    const id = this.#nextId++;
    return new Promise<Result>((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#send(worker, { id, task }, transfer);
    });
  }

  /**
   * Ends the threads, each after the tasks that it has. They are asked, not terminated: a thread
   * that is terminated while it loads koffi, or is in a call, aborts the whole process.
   */
  async close(): Promise<void> {
    if (!this.#isClosing) for (const worker of this.#workers.keys()) this.#send(worker, null);
    this.#isClosing = true;
    await Promise.all(this.#exited);
    this.#fail(new Error("The pool was closed."));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #send(worker: number, order: Order<Task>, transfer: readonly Transferable[] = []): void {
    this.#workers[worker]!.postMessage(order, [...transfer]);
  }

  #settle(answer: Answer<Result>): void {
    const waiting = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    if ("result" in answer) waiting?.resolve(answer.result);
    else waiting?.reject(revive(answer.error));
  }

  #fail(error: unknown): void {
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
  }
}

/**
 * Repeats `step` in `workerCount * slotsPerWorker` lanes, each bound to one thread and one of its
 * slots, until it says that there is no more. The first failure stops all lanes, and is thrown when
 * they have stopped.
 */
export async function inLanes(
  workerCount: number,
  slotsPerWorker: number,
  signal: AbortSignal,
  step: (worker: number, slot: number) => Promise<boolean>,
): Promise<void> {
  let hasFailed = false;
  const lane = async (worker: number, slot: number): Promise<void> => {
    try {
      do signal.throwIfAborted();
      while (!hasFailed && (await step(worker, slot)));
    } catch (error) {
      hasFailed = true;
      throw error;
    }
  };
  const lanes: Promise<void>[] = [];
  for (let slot = 0; slot < slotsPerWorker; slot++) {
    for (let worker = 0; worker < workerCount; worker++) lanes.push(lane(worker, slot));
  }
  const failed = (await Promise.allSettled(lanes)).find(({ status }) => status === "rejected");
  if (failed !== undefined) throw (failed as PromiseRejectedResult).reason;
}

function revive({ message, code }: PlainError): Error {
  if (code !== undefined && code in errorCodes) {
    return new FaultlineError(code as ErrorCode, message);
  }
  return Object.assign(new Error(message), code === undefined ? {} : { code });
}
