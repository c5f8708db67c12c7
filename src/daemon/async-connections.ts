/**
 * Which connection to a session's `apf.socket` is its VM's. A VMM connects there before it does to
 * the session's socket, and says nothing; who it is, only its process tells.
 *
 * The supervisor accepts, and keeps what it has accepted: so no connection is lost with a pager.
 * It is asked to when the VMM has introduced itself, and only if one waits: none will come later.
 */
import { FaultlineError } from "../base/errors.ts";
import { Epoll } from "../linux/epoll.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { peerCredentials } from "../linux/socket.ts";
import { entryOf, type Keeper } from "./keeper.ts";

export interface TakeOptions {
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

export class AsyncConnections {
  readonly #id: string;
  readonly #listener: OwnedFd;
  readonly #keeper: Keeper;
  /** Accepted, and nobody's yet. */
  #offered: OwnedFd | null = null;
  #onOffer: () => void = () => {};

  constructor(id: string, listener: OwnedFd, keeper: Keeper) {
    this.#id = id;
    this.#listener = listener;
    this.#keeper = keeper;
  }

  /** The supervisor has accepted this one. */
  offer(connection: OwnedFd): void {
    this.#offered?.close();
    this.#offered = connection;
    this.#onOffer();
  }

  /**
   * The connection of a VMM that has introduced itself; null: it has none.
   * @throws FaultlineError `handshake`: one waits, and was not accepted in time; `signal`'s reason
   */
  async take(pid: number, options: TakeOptions): Promise<OwnedFd | null> {
    const late = AbortSignal.timeout(options.timeoutMs);
    for (;;) {
      const connection = this.#offered;
      this.#offered = null;
      if (connection !== null) {
        if (peerCredentials(connection.fd).pid === pid) return connection;
        // Of a VMM that was refused, or has no guest_memfd.
        connection.close();
        this.#keeper.drop(entryOf(this.#id, "async"));
      }
      if (!hasBacklog(this.#listener)) return null;
      await this.#accepted(late, options);
    }
  }

  close(): void {
    this.#offered?.close();
    this.#offered = null;
  }

  async #accepted(late: AbortSignal, { timeoutMs, signal }: TakeOptions): Promise<void> {
    this.#keeper.accept(entryOf(this.#id, "apf"), entryOf(this.#id, "async"));
    const either = AbortSignal.any([late, signal]);
    await new Promise<void>((resolve, reject) => {
      const onAbort = (): void =>
        reject(
          signal.aborted
            ? signal.reason
            : new FaultlineError(
                "handshake",
                `The VMM's connection to apf.socket was not accepted within ${timeoutMs} ms.`,
              ),
        );
      this.#onOffer = () => {
        either.removeEventListener("abort", onAbort);
        resolve();
      };
      if (either.aborted) onAbort();
      else either.addEventListener("abort", onAbort);
    });
  }
}

/** Whether somebody has connected whom nobody has accepted. */
function hasBacklog(listener: OwnedFd): boolean {
  const epoll = Epoll.create(1);
  try {
    epoll.add(listener.fd, 0, 0);
    return epoll.wait(0) > 0;
  } finally {
    epoll.close();
  }
}
