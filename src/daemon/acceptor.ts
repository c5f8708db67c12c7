/**
 * Accepts connections on Node's event loop, a bounded number of handshakes at a time. What waits
 * beyond that waits in the kernel's backlog.
 */
import { describeError, SysError } from "../base/errors.ts";
import { EMFILE, ENFILE } from "../linux/abi-posix.ts";
import { assertFreeFds, type OwnedFd } from "../linux/fd.ts";
import { acceptUnix } from "../linux/socket.ts";
import { type ReadWatch, watchReadable } from "../linux/sys.ts";
import type { Logger } from "./log.ts";

/** Handshakes at the same time: each may wait for a slow or silent peer until its deadline. */
const MAX_HANDSHAKES = 64;
/** VMs that may be connecting at the same moment; the kernel caps it at net.core.somaxconn. */
export const BACKLOG = 1024;
/**
 * Connections taken in one turn of the event loop. Whoever connects faster than that must not keep
 * signals, deadlines and the ends of VMs waiting.
 */
const MAX_ACCEPTS_PER_TURN = 16;
/**
 * Descriptors that a handshake takes: connection, pidfd, userfaultfd, and for a moment /proc's word
 * about that. A VM waits well in the backlog, but freezes if it is taken and then refused for want
 * of one.
 */
const FDS_PER_HANDSHAKE = 4;
/**
 * Connections that follow each other closer than this are taken together: each handshake by itself
 * would take the CPU from a fault worker (decision 9).
 */
const GATHER_MS = 10;
/** Accepting fails while this process has no descriptor left: try again after this long. */
const RETRY_AFTER_MS = 200;

export class Acceptor {
  readonly #listener: OwnedFd;
  readonly #log: Logger;
  readonly #serve: (connection: OwnedFd) => Promise<void>;
  #watch: ReadWatch | null = null;
  #retry: NodeJS.Timeout | null = null;
  #nextTurn: NodeJS.Immediate | null = null;
  /** When there was last nothing more to accept. */
  #emptyMs = Number.NEGATIVE_INFINITY;
  #isFailing = false;
  #handshakes = 0;

  /** `serve` owns the connection; its promise settles when the handshake is over, never rejects. */
  constructor(listener: OwnedFd, log: Logger, serve: (connection: OwnedFd) => Promise<void>) {
    this.#listener = listener;
    this.#log = log;
    this.#serve = serve;
  }

  start(): void {
    this.#watch = watchReadable(this.#listener.fd, () => this.#acceptSome());
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
    if (this.#nextTurn !== null) clearImmediate(this.#nextTurn);
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

  /**
   * Goes on when there is something to accept (at once, or after others were gathered), in the next
   * turn, when a handshake is over, or after a pause: always exactly one of these.
   */
  #acceptSome(): void {
    if (this.#watch === null) return;
    try {
      for (let taken = 0; taken < MAX_ACCEPTS_PER_TURN; taken++) {
        if (this.#handshakes === MAX_HANDSHAKES) return;
        assertFreeFds(this.#listener.fd, FDS_PER_HANDSHAKE);
        const connection = acceptUnix(this.#listener.fd);
        if (connection === null) {
          this.#isFailing = false;
          this.#awaitNext();
          return;
        }
        void this.#begin(connection);
      }
    } catch (error) {
      this.#pause(error);
      return;
    }
    if (this.#handshakes < MAX_HANDSHAKES) this.#acceptNextTurn();
  }

  /** At once when it is the first for a while; in a storm they are taken together. */
  #awaitNext(): void {
    const nowMs = performance.now();
    const restMs = this.#emptyMs + GATHER_MS - nowMs;
    this.#emptyMs = nowMs;
    if (restMs <= 0) this.#watch?.arm();
    else this.#retry = setTimeout(() => this.#watch?.arm(), restMs);
  }

  #acceptNextTurn(): void {
    this.#nextTurn = setImmediate(() => this.#acceptSome());
  }

  async #begin(connection: OwnedFd): Promise<void> {
    this.#handshakes += 1;
    await this.#serve(connection);
    this.#handshakes -= 1;
    if (this.#handshakes === MAX_HANDSHAKES - 1) this.#acceptNextTurn();
  }

  /**
   * The listener stays readable while accept fails: without a pause the loop would spin. Told once,
   * however long it lasts: until nobody waits any more, as the descriptors of a VM that leaves come
   * free one by one, and one VM taken is not the end of the shortage.
   */
  #pause(error: unknown): void {
    this.#retry = setTimeout(() => this.#acceptSome(), RETRY_AFTER_MS);
    if (this.#isFailing) return;
    this.#isFailing = true;
    const isOutOfFds =
      error instanceof SysError && (error.errno === EMFILE || error.errno === ENFILE);
    const cure = isOutOfFds ? "Raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=)." : "";
    this.#log.error({ reason: describeError(error) }, `Cannot accept VMs for now. ${cure}`.trim());
  }
}
