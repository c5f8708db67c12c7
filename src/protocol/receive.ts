/**
 * Receives one handshake on Node's event loop: JSON in any number of pieces, the descriptor with
 * whichever of them, under a deadline.
 *
 * A process that may be replaced at any moment peeks: the handshake stays in the socket, for the
 * next process to find it there, until what came of it is kept elsewhere. Then it is consumed.
 */
import { FaultlineError } from "../base/errors.ts";
import { Epoll } from "../linux/epoll.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { peekFromStart, peekWithFds, type Received, receiveWithFds } from "../linux/socket.ts";
import { type ReadWatch, watchReadable } from "../linux/sys.ts";
import { isCompleteHandshake, MAX_HANDSHAKE_BYTES } from "./handshake.ts";
import { GUEST_MEMFD_FDS } from "./userfault-handshake.ts";

/** Firecracker sends right after connect(); whoever needs longer is not one. */
export const HANDSHAKE_TIMEOUT_MS = 5000;

export interface RawHandshake {
  readonly body: Uint8Array;
  /**
   * One, or the three of a VM with KVM Userfault. The first came in the userfaultfd's place; it is
   * not yet known to be one.
   */
  readonly descriptors: readonly [OwnedFd, ...OwnedFd[]];
}

export interface ReceiveOptions {
  /** Default: `HANDSHAKE_TIMEOUT_MS`. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
  /**
   * Leave all in the socket, until `consumeHandshake`. The peer must be able to send the whole of
   * it ahead: the kernel takes some 170 KiB, or 270 pieces, until somebody receives.
   */
  readonly isPeeked?: boolean;
}

/**
 * Reads until the message is whole. On failure every descriptor that came along is closed; the
 * connection stays the caller's.
 * @throws FaultlineError `handshake`; the reason of `signal` if that aborts first
 */
export async function receiveHandshake(
  connection: OwnedFd,
  options: ReceiveOptions = {},
): Promise<RawHandshake> {
  const isPeeked = options.isPeeked ?? false;
  const reception = new Reception(isPeeked);
  try {
    if (isPeeked) peekFromStart(connection.fd);
    await readUntilWhole(connection, reception, options);
    return reception.finish();
  } catch (error) {
    for (const fd of reception.fds) fd.close();
    throw error;
  }
}

/** Of a socket's queue; a peer that goes on sending has to stop at some time. */
const MAX_CONSUMED_MESSAGES = 1024;

/**
 * Takes so many bytes out of a socket that has them; what comes behind stays. Returns how many were
 * there: the peer may have gone.
 */
export function consumeBytes(connection: OwnedFd, byteCount: number): number {
  const dropped = new Uint8Array(FIRST_BUFFER_BYTES);
  let left = byteCount;
  while (left > 0) {
    const received = receiveWithFds(connection.fd, dropped.subarray(0, left));
    for (const fd of received?.fds ?? []) fd.close();
    if (received === null || received.byteCount === 0) break;
    left -= received.byteCount;
  }
  return byteCount - left;
}

/** Drops what was peeked: nobody finds it any more, and its descriptors are closed. */
export function consumeHandshake(connection: OwnedFd): void {
  const dropped = new Uint8Array(FIRST_BUFFER_BYTES);
  for (let count = 0; count < MAX_CONSUMED_MESSAGES; count++) {
    const received = receiveWithFds(connection.fd, dropped);
    for (const fd of received?.fds ?? []) fd.close();
    if (received === null || received.byteCount === 0) return;
  }
}

/** Something that comes in pieces. */
export interface Receiving {
  /** What has come stays in the socket. */
  readonly isPeeked: boolean;
  /** What a peer that ran out of time has not sent. */
  readonly missing: string;
  /** Takes all that is there; true when it is whole. */
  readAvailable(socket: number): boolean;
  refusal(what: string): FaultlineError;
}

/**
 * @throws FaultlineError `handshake`: not in time. What `readAvailable` throws, and the reason of
 *   `signal`.
 */
export async function readUntilWhole(
  connection: OwnedFd,
  reception: Receiving,
  { timeoutMs = HANDSHAKE_TIMEOUT_MS, signal }: ReceiveOptions,
): Promise<void> {
  signal?.throwIfAborted();
  // Most often all of it is there before the connection was even accepted.
  if (reception.readAvailable(connection.fd)) return;
  await new Promise<void>((resolve, reject) => {
    const watchMore = reception.isPeeked ? watchForMore : watchReadable;
    const watch = watchMore(connection.fd, () => {
      try {
        if (reception.readAvailable(connection.fd)) settle(resolve);
        else watch.arm();
      } catch (error) {
        settle(() => reject(error));
      }
    });
    const timer = setTimeout(() => {
      settle(() => reject(reception.refusal(`${reception.missing} within ${timeoutMs} ms`)));
    }, timeoutMs);
    const onAbort = (): void => settle(() => reject(signal?.reason));
    const settle = (then: () => void): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      watch.close();
      then();
    };
    signal?.addEventListener("abort", onAbort);
    watch.arm();
  });
}

/**
 * A socket with peeked bytes in it stays readable, and a watch on it would never rest. An epoll of
 * its own, edge-triggered, becomes readable when something comes, and is not once that was taken.
 */
function watchForMore(socket: number, onMore: () => void): ReadWatch {
  const epoll = Epoll.create(1);
  try {
    epoll.addEdge(socket);
    const watch = watchReadable(epoll.fd, () => {
      // First: what comes from here on is another edge.
      epoll.wait(0);
      onMore();
    });
    const close = (): void => {
      watch.close();
      epoll.close();
    };
    return { arm: () => watch.arm(), close };
  } catch (error) {
    epoll.close();
    throw error;
  }
}

/** Enough for every handshake of a real VMM; whoever sends more gets more, up to the bound. */
const FIRST_BUFFER_BYTES = 4096;

/** What has come so far. */
class Reception implements Receiving {
  readonly fds: OwnedFd[] = [];
  readonly isPeeked: boolean;
  #bytes: Uint8Array<ArrayBuffer>;
  #length = 0;

  constructor(isPeeked: boolean) {
    this.isPeeked = isPeeked;
    // A message that is peeked in two parts brings its descriptors twice: there is room for all.
    this.#bytes = new Uint8Array(isPeeked ? MAX_HANDSHAKE_BYTES + 1 : FIRST_BUFFER_BYTES);
  }

  /** Whole: with a descriptor. */
  readAvailable(socket: number): boolean {
    while (!this.#isWhole()) {
      this.#makeRoom();
      const receive = this.isPeeked ? peekWithFds : receiveWithFds;
      const received = receive(socket, this.#bytes.subarray(this.#length));
      if (received === null) return false;
      this.#take(received);
    }
    return true;
  }

  get missing(): string {
    if (this.#length === 0) return "nothing came";
    return this.fds.length === 0 ? "it came without a descriptor" : "its JSON did not end";
  }

  finish(): RawHandshake {
    const [first, ...others] = this.fds;
    if (first === undefined || (others.length > 0 && this.fds.length !== GUEST_MEMFD_FDS)) {
      throw this.refusal(
        `it carries ${this.fds.length} descriptors instead of one, or of the three that a VM ` +
          "with a guest_memfd sends",
      );
    }
    return { body: this.#bytes.slice(0, this.#length), descriptors: [first, ...others] };
  }

  refusal(what: string): FaultlineError {
    const soFar = `after ${this.#length} bytes and ${this.fds.length} descriptors`;
    return new FaultlineError("handshake", `The handshake cannot be served: ${what} (${soFar}).`);
  }

  #makeRoom(): void {
    if (this.#length < this.#bytes.length) return;
    if (this.#length >= MAX_HANDSHAKE_BYTES) {
      throw this.refusal(`it is longer than ${MAX_HANDSHAKE_BYTES} bytes`);
    }
    const larger = new Uint8Array(Math.min(this.#length * 4, MAX_HANDSHAKE_BYTES));
    larger.set(this.#bytes);
    this.#bytes = larger;
  }

  #take(received: Received): void {
    this.fds.push(...received.fds);
    if (received.isTruncated) {
      throw this.refusal(
        "the kernel dropped descriptors that came with it. Raise RLIMIT_NOFILE of this process",
      );
    }
    if (received.byteCount === 0) {
      throw this.refusal(
        this.#length > 0 && this.fds.length === 0
          ? "it came without a descriptor"
          : "the peer closed the connection in the middle of it",
      );
    }
    this.#length += received.byteCount;
  }

  #isWhole(): boolean {
    if (this.fds.length === 0 || this.#length > MAX_HANDSHAKE_BYTES) return false;
    return isCompleteHandshake(this.#bytes.subarray(0, this.#length));
  }
}
