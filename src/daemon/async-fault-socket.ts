/**
 * The second socket of VMs with KVM Userfault. A VMM connects to `apf.socket` in the folder of its
 * handler's socket before it introduces itself there, and says nothing: whose connection it is,
 * only its process tells. What it sends later is for the fault worker.
 */
import { dirname, join } from "node:path";
import { describeError } from "../base/errors.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { acceptUnix, peerCredentials } from "../linux/socket.ts";
import { type ReadWatch, watchReadable } from "../linux/sys.ts";
import type { Logger } from "./log.ts";
import { SocketFile, type SocketOwner } from "./socket-file.ts";

/** A VMM looks for it by this name. */
export const ASYNC_FAULT_SOCKET = "apf.socket";
/**
 * Connections whose VMs have not introduced themselves: VMMs of that branch connect whether they
 * have a guest_memfd or not. The oldest goes first.
 */
const MAX_WAITING = 1024;

export class AsyncFaultSocket {
  readonly #socket: SocketFile;
  readonly #log: Logger;
  readonly #watch: ReadWatch;
  readonly #waiting = new Map<number, OwnedFd>();

  private constructor(socket: SocketFile, log: Logger) {
    this.#socket = socket;
    this.#log = log;
    this.#watch = watchReadable(socket.listener.fd, () => {
      this.#acceptAll();
      this.#watch.arm();
    });
    this.#watch.arm();
  }

  /**
   * Beside the handler's own socket.
   * @throws FaultlineError `socket-path`, `socket-in-use`, `socket-failed`
   */
  static listen(
    socketPath: string,
    backlog: number,
    owner: SocketOwner | null,
    log: Logger,
  ): AsyncFaultSocket {
    const path = join(dirname(socketPath), ASYNC_FAULT_SOCKET);
    return new AsyncFaultSocket(SocketFile.listen(path, backlog, { owner }), log);
  }

  /** The connection of a VMM that has introduced itself; null: it has none. */
  take(pid: number): OwnedFd | null {
    // It came before the introduction, but nobody may have looked yet.
    this.#acceptAll();
    const connection = this.#waiting.get(pid) ?? null;
    this.#waiting.delete(pid);
    return connection;
  }

  close(): void {
    this.#watch.close();
    for (const connection of this.#waiting.values()) connection.close();
    this.#waiting.clear();
    this.#socket.close();
  }

  #acceptAll(): void {
    try {
      for (let taken = 0; taken < MAX_WAITING; taken++) {
        const connection = acceptUnix(this.#socket.listener.fd);
        if (connection === null) return;
        this.#add(connection);
      }
    } catch (error) {
      const reason = describeError(error);
      this.#log.warn({ reason }, "Cannot accept a VM's second socket");
    }
  }

  #add(connection: OwnedFd): void {
    const { pid } = peerCredentials(connection.fd);
    this.#waiting.get(pid)?.close();
    this.#waiting.delete(pid);
    const [oldest] = this.#waiting.keys();
    if (this.#waiting.size === MAX_WAITING && oldest !== undefined) {
      this.#waiting.get(oldest)?.close();
      this.#waiting.delete(oldest);
    }
    this.#waiting.set(pid, connection);
  }
}
