/**
 * Accepts connections on Node's event loop, a bounded number of handshakes at a time. What waits
 * beyond that waits in the kernel's backlog.
 */
import { describeError, SysError } from "../base/errors.ts";
import { EMFILE, ENFILE } from "../linux/abi-posix.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { acceptUnix } from "../linux/socket.ts";
import { type ReadWatch, watchReadable } from "../linux/sys.ts";
import type { Logger } from "./log.ts";

/** Handshakes at the same time: each may wait for a slow or silent peer until its deadline. */
const MAX_HANDSHAKES = 64;
/** VMs that may be connecting at the same moment; the kernel caps it at net.core.somaxconn. */
export const BACKLOG = 1024;
/** Accepting fails while this process has no descriptor left: try again after this long. */
const RETRY_AFTER_MS = 200;

export class Acceptor {
  readonly #listener: OwnedFd;
  readonly #log: Logger;
  readonly #serve: (connection: OwnedFd) => Promise<void>;
  #watch: ReadWatch | null = null;
  #retry: NodeJS.Timeout | null = null;
  #handshakes = 0;

  /** `serve` owns the connection; its promise settles when the handshake is over, never rejects. */
  constructor(listener: OwnedFd, log: Logger, serve: (connection: OwnedFd) => Promise<void>) {
    this.#listener = listener;
    this.#log = log;
    this.#serve = serve;
  }

  start(): void {
    this.#watch = watchReadable(this.#listener.fd, () => this.#acceptAll());
    this.#watch.arm();
  }

  /**
   * Takes what has connected so far, so that it is refused with a reason instead of being dropped
   * with the listener. False if it was stopped before.
   */
  stop(): boolean {
    if (this.#watch === null) return false;
    this.#watch.close();
    this.#watch = null;
    if (this.#retry !== null) clearTimeout(this.#retry);
    try {
      for (let taken = 0; taken < BACKLOG; taken++) {
        const connection = acceptUnix(this.#listener.fd);
        if (connection === null) break;
        void this.#serve(connection);
      }
    } catch (error) {
      this.#log.error({ reason: describeError(error) }, "Cannot tell waiting VMs that this ends");
    }
    return true;
  }

  #acceptAll(): void {
    try {
      while (this.#watch !== null && this.#handshakes < MAX_HANDSHAKES) {
        const connection = acceptUnix(this.#listener.fd);
        if (connection === null) {
          this.#watch.arm();
          return;
        }
        void this.#begin(connection);
      }
    } catch (error) {
      this.#pause(error);
    }
  }

  async #begin(connection: OwnedFd): Promise<void> {
    this.#handshakes += 1;
    await this.#serve(connection);
    this.#handshakes -= 1;
    if (this.#handshakes === MAX_HANDSHAKES - 1) this.#acceptAll();
  }

  /** The listener stays readable while accept fails: without a pause the loop would spin. */
  #pause(error: unknown): void {
    const isOutOfFds =
      error instanceof SysError && (error.errno === EMFILE || error.errno === ENFILE);
    const cure = isOutOfFds ? "Raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=)." : "";
    this.#log.error({ reason: describeError(error) }, `Cannot accept VMs for now. ${cure}`.trim());
    this.#retry = setTimeout(() => this.#acceptAll(), RETRY_AFTER_MS);
  }
}
