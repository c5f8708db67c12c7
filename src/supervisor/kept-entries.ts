/** The supervisor's whole memory: descriptors under names, and which connections to take next. */
import { describeError } from "../base/errors.ts";
import { type OwnedFd, setNonblocking } from "../linux/fd.ts";
import { acceptUnix } from "../linux/socket.ts";
import { type ReadWatch, watchReadable } from "../linux/sys.ts";
import { EntryBudget } from "./entry-budget.ts";
import type { EntryHead } from "./messages.ts";

/** Between two tries to accept a connection where descriptors are short. */
const ACCEPT_RETRY_MS = 1000;

export class KeptEntries {
  /** Somebody connected to `listener`, and is kept as `connection`. */
  onAccepted: (connection: string) => void = () => undefined;
  /** A connection waits, and could not be accepted. */
  onAcceptFailed: (listener: string, reason: string) => void = () => undefined;

  readonly #entries = new Map<string, readonly OwnedFd[]>();
  readonly #budget: EntryBudget;
  /** By listener. */
  readonly #asks = new Map<string, Disposable>();

  constructor(maxFds: number) {
    this.#budget = new EntryBudget(maxFds);
  }

  get size(): number {
    return this.#entries.size;
  }

  get fdCount(): number {
    return this.#budget.fdCount;
  }

  /** In the order in which they were first kept. */
  heads(): EntryHead[] {
    return [...this.#entries].map(([name, fds]) => ({ name, fdCount: fds.length }));
  }

  fdsOf(name: string): readonly number[] | null {
    return this.#entries.get(name)?.map(({ fd }) => fd) ?? null;
  }

  /** Owns the descriptors from now on, also if it throws. @throws FaultlineError `limit` */
  keep(name: string, fds: readonly OwnedFd[]): void {
    try {
      this.#budget.take(name, fds.length);
    } catch (error) {
      for (const fd of fds) fd.close();
      throw error;
    }
    this.#close(name);
    this.#entries.set(name, fds);
  }

  drop(name: string): void {
    this.#budget.release(name);
    this.#close(name);
    this.#entries.delete(name);
  }

  /** Takes the next connection of a listener, as soon as there is one. */
  accept(listener: string, connection: string): void {
    const fd = this.#entries.get(listener)?.[0]?.fd;
    if (fd === undefined) throw new Error(`There is no listener ${listener}.`);
    this.#cancel(listener);
    setNonblocking(fd);
    let retry: NodeJS.Timeout | undefined;
    const watch: ReadWatch = watchReadable(fd, () => {
      try {
        const accepted = acceptUnix(fd);
        if (accepted === null) return watch.arm(); // It is gone again.
        this.#cancel(listener);
        this.keep(connection, [accepted]);
        this.onAccepted(connection);
      } catch (error) {
        this.onAcceptFailed(listener, describeError(error));
        retry = setTimeout(() => watch.arm(), ACCEPT_RETRY_MS);
      }
    });
    watch.arm();
    const cancel = (): void => {
      clearTimeout(retry);
      watch.close();
    };
    this.#asks.set(listener, { [Symbol.dispose]: cancel });
  }

  /** Connections wait in the backlogs of their listeners until asked for again. */
  acceptNoMore(): void {
    for (const listener of [...this.#asks.keys()]) this.#cancel(listener);
  }

  [Symbol.dispose](): void {
    for (const name of [...this.#entries.keys()]) this.drop(name);
  }

  #close(name: string): void {
    this.#cancel(name);
    for (const fd of this.#entries.get(name) ?? []) fd.close();
  }

  #cancel(listener: string): void {
    this.#asks.get(listener)?.[Symbol.dispose]();
    this.#asks.delete(listener);
  }
}
