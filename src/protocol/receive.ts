/**
 * Receives one handshake on Node's event loop: JSON in any number of pieces, the descriptor with
 * whichever of them, under a deadline.
 */
import { FaultlineError } from "../base/errors.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { type Received, receiveWithFds } from "../linux/socket.ts";
import { watchReadable } from "../linux/sys.ts";
import { isCompleteHandshake, MAX_HANDSHAKE_BYTES } from "./handshake.ts";

/** Firecracker sends right after connect(); whoever needs longer is not one. */
export const HANDSHAKE_TIMEOUT_MS = 5000;

export interface RawHandshake {
  readonly body: Uint8Array;
  /** What came in the userfaultfd's place; not yet known to be one. */
  readonly descriptor: OwnedFd;
}

/**
 * Reads until the message is whole. On failure every descriptor that came along is closed; the
 * connection stays the caller's.
 * @throws FaultlineError `handshake`; the reason of `signal` if that aborts first
 */
export async function receiveHandshake(
  connection: OwnedFd,
  timeoutMs = HANDSHAKE_TIMEOUT_MS,
  signal?: AbortSignal,
): Promise<RawHandshake> {
  const reception = new Reception();
  try {
    await readUntilWhole(connection, reception, timeoutMs, signal);
    return reception.finish();
  } catch (error) {
    for (const fd of reception.fds) fd.close();
    throw error;
  }
}

async function readUntilWhole(
  connection: OwnedFd,
  reception: Reception,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  signal?.throwIfAborted();
  // Most often all of it is there before the connection was even accepted.
  if (reception.readAvailable(connection.fd)) return;
  await new Promise<void>((resolve, reject) => {
    const watch = watchReadable(connection.fd, () => {
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

/** Enough for every handshake of a real VMM; whoever sends more gets more, up to the bound. */
const FIRST_BUFFER_BYTES = 4096;

/** What has come so far. */
class Reception {
  readonly fds: OwnedFd[] = [];
  #bytes = new Uint8Array(FIRST_BUFFER_BYTES);
  #length = 0;

  /** Takes all that is there; true when the message is whole and a descriptor has come. */
  readAvailable(socket: number): boolean {
    while (!this.#isWhole()) {
      this.#makeRoom();
      const received = receiveWithFds(socket, this.#bytes.subarray(this.#length));
      if (received === null) return false;
      this.#take(received);
    }
    return true;
  }

  /** What a peer that ran out of time has not sent. */
  get missing(): string {
    if (this.#length === 0) return "nothing came";
    return this.fds.length === 0 ? "it came without a descriptor" : "its JSON did not end";
  }

  finish(): RawHandshake {
    const [descriptor, ...others] = this.fds;
    if (descriptor === undefined || others.length > 0) {
      throw this.refusal(
        `it carries ${this.fds.length} descriptors instead of one. Three of them, with ` +
          "is_guest_memfd, is Firecracker's secret-hiding protocol, which is not served yet",
      );
    }
    return { body: this.#bytes.slice(0, this.#length), descriptor };
  }

  refusal(what: string): FaultlineError {
    const soFar = `after ${this.#length} bytes and ${this.fds.length} descriptors`;
    return new FaultlineError("handshake", `The handshake cannot be served: ${what} (${soFar}).`);
  }

  #makeRoom(): void {
    if (this.#length < this.#bytes.length) return;
    if (this.#length === MAX_HANDSHAKE_BYTES) {
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
    return this.fds.length > 0 && isCompleteHandshake(this.#bytes.subarray(0, this.#length));
  }
}
