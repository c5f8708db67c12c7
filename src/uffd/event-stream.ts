/** Userfaultfd events on Node's event loop: readiness by uv_poll, reads that never block. */
import { watchReadable } from "../linux/sys.ts";
import { decodeEvent, EventBatch, type UffdEvent } from "./events.ts";

/** The part of a `Userfaultfd` that a stream needs. */
interface EventSource {
  readonly fd: number;
  readonly isOpen: boolean;
  drain(batch: EventBatch): number;
}

/**
 * See `Userfaultfd.events`. `beforeClose`: what the source calls before it lets go of its
 * descriptor, which may not be watched any more then.
 */
export async function* eventStream(
  source: EventSource,
  signal: AbortSignal | undefined,
  pageSizeBytes: number,
  beforeClose: Set<() => void>,
): AsyncGenerator<UffdEvent, void> {
  const batch = new EventBatch();
  const waiter = new Waiter();
  const onAbort = (): void => waiter.wake();
  const watch = watchReadable(source.fd, () => waiter.wake());
  const onClose = (): void => {
    watch.close();
    waiter.wake();
  };
  beforeClose.add(onClose);
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    while (signal?.aborted !== true && source.isOpen) {
      if (source.drain(batch) === 0) {
        // One-shot: while the consumer is busy, unread events must not spin the event loop.
        watch.arm();
        await waiter.sleep();
        continue;
      }
      for (let index = 0; index < batch.length; index++) {
        yield decodeEvent(batch, index, pageSizeBytes);
      }
    }
  } finally {
    signal?.removeEventListener("abort", onAbort);
    beforeClose.delete(onClose);
    watch.close();
  }
}

/** One sleeper, any number of wakers; a wake before the sleep is not lost. */
class Waiter {
  #isAwake = false;
  #resume: (() => void) | null = null;

  wake(): void {
    this.#isAwake = true;
    this.#resume?.();
  }

  async sleep(): Promise<void> {
    if (!this.#isAwake) {
      await new Promise<void>((resolve) => {
        this.#resume = resolve;
      });
    }
    this.#resume = null;
    this.#isAwake = false;
  }
}
