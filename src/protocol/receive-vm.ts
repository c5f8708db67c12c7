/**
 * Receives all that a VMM has to say before its VM can be served: the handshake, and of a VM with
 * KVM Userfault the message about its rings as well. What comes behind that stays in the socket:
 * frames, which belong to the fault worker.
 */
import { FaultlineError } from "../base/errors.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { peekFromStart, peekWithFds, peekWithoutOffset } from "../linux/socket.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import type { GuestAddressRange } from "./guest-addresses.ts";
import { MAX_HANDSHAKE_BYTES } from "./handshake.ts";
import {
  consumeBytes,
  type ReceiveOptions,
  type Receiving,
  readUntilWhole,
  receiveHandshake,
} from "./receive.ts";
import { MAX_RING_VCPUS, parseRingSetup, type RingSetup, ringSetupText } from "./ring-setup.ts";
import { parseAnyHandshake } from "./userfault-handshake.ts";

/** A character for each byte, whatever it is. */
const TEXT = new TextDecoder("latin1");
/** Pieces that are looked at; a handshake comes in one, or in a few. */
const MAX_LOOKS = 1024;
/** Of a frame's bytes the first that is always zero. */
const FRAME_ZERO_BYTE = 2;

/** One vCPU's share in `exitless_apf`. */
export interface RingFds {
  readonly notify: OwnedFd;
  readonly complete: OwnedFd;
  readonly vcpu: OwnedFd;
}

/** What a VM with a guest_memfd has besides its userfaultfd. */
export interface ReceivedUserfault {
  readonly guestMemfd: OwnedFd;
  readonly bitmap: OwnedFd;
  readonly rings: readonly RingFds[];
  readonly guestAddresses: readonly GuestAddressRange[];
}

export interface ReceivedVm {
  readonly regions: RegionMap;
  /** What came in the userfaultfd's place; not yet known to be one. */
  readonly descriptor: OwnedFd;
  /** Null: faults are events of the userfaultfd, and nothing else. */
  readonly userfault: ReceivedUserfault | null;
  /** Of both messages; if they were peeked at, so much is to be consumed (`consumeBytes`). */
  readonly byteCount: number;
}

export interface ReceiveVmOptions extends ReceiveOptions {
  readonly hostPageBytes: number;
}

/**
 * On failure every descriptor that came along is closed; the connection stays the caller's.
 * @throws FaultlineError `handshake`; the reason of `signal` if that aborts first
 */
export async function receiveVm(
  connection: OwnedFd,
  options: ReceiveVmOptions,
): Promise<ReceivedVm> {
  const { body, descriptors } = await receiveHandshake(connection, options);
  const [descriptor, guestMemfd, bitmap] = descriptors;
  try {
    const handshake = parseAnyHandshake(body, descriptors.length, options.hostPageBytes);
    const { regions } = handshake;
    // Of a VM with ordinary memory the second message says nothing: it stays where it is.
    if (guestMemfd === undefined || bitmap === undefined || handshake.protocol !== "userfault") {
      return { regions, descriptor, userfault: null, byteCount: body.length };
    }
    const { rings, byteCount } = await receiveRings(connection, options);
    const { ranges: guestAddresses } = handshake.guestAddresses;
    return {
      ...{ regions, descriptor, byteCount: body.length + byteCount },
      userfault: { guestMemfd, bitmap, rings, guestAddresses },
    };
  } catch (error) {
    for (const fd of descriptors) fd.close();
    throw error;
  }
}

/**
 * Takes out what is left of both messages of a VM with so many rings, and nothing behind them: an
 * earlier process had begun to, or had not, or was done with it.
 *
 * A message is text, and a frame is not: its length is below 4096, so its third byte is zero.
 */
export function consumeRest(connection: OwnedFd, ringCount: number): void {
  peekWithoutOffset(connection.fd);
  const setup = ringSetupText(ringCount);
  const bytes = new Uint8Array(MAX_HANDSHAKE_BYTES + setup.length);
  // A look ends where descriptors are: between the two messages, too.
  for (let looks = 0; looks < MAX_LOOKS; looks++) {
    const seen = peekWithFds(connection.fd, bytes);
    for (const fd of seen?.fds ?? []) fd.close();
    const { restBytes, isLast } = restOfMessages(bytes.subarray(0, seen?.byteCount ?? 0), setup);
    consumeBytes(connection, restBytes);
    if (isLast) return;
  }
}

/** How many of these bytes, at the beginning of a socket, belong to the messages. PURE. */
export function restOfMessages(
  bytes: Uint8Array,
  setup: string,
): { restBytes: number; isLast: boolean } {
  const zeroAt = bytes.indexOf(0);
  const text = TEXT.decode(bytes.subarray(0, zeroAt < 0 ? bytes.length : zeroAt));
  const setupAt = text.indexOf(setup);
  if (setupAt >= 0) return { restBytes: setupAt + setup.length, isLast: true };
  if (text.length < FRAME_ZERO_BYTE + 1) return { restBytes: 0, isLast: true };
  // The second message comes with descriptors of its own, or it is cut: its end is here.
  const cut = suffixLength(text, setup);
  if (cut > 0) return { restBytes: cut, isLast: true };
  return { restBytes: text.length, isLast: false };
}

/** Of a VM that is not served after all. */
export function closeReceived({ descriptor, userfault }: ReceivedVm): void {
  descriptor.close();
  if (userfault === null) return;
  userfault.guestMemfd.close();
  userfault.bitmap.close();
  for (const { notify, complete, vcpu } of userfault.rings) {
    for (const fd of [notify, complete, vcpu]) fd.close();
  }
}

async function receiveRings(
  connection: OwnedFd,
  options: ReceiveVmOptions,
): Promise<{ rings: readonly RingFds[]; byteCount: number }> {
  const reception = new RingReception();
  try {
    // Where the handshake was peeked at, the next look begins behind it.
    if (options.isPeeked !== true) peekFromStart(connection.fd);
    await readUntilWhole(connection, reception, options);
    peekWithoutOffset(connection.fd);
    const { byteCount } = reception;
    if (options.isPeeked !== true) consumeBytes(connection, byteCount);
    return { rings: reception.rings, byteCount };
  } catch (error) {
    for (const fd of reception.fds) fd.close();
    throw error;
  }
}

/** How much of the end of `setup` the text begins with; so much that it is no frame. */
function suffixLength(text: string, setup: string): number {
  for (let length = setup.length - 1; length > FRAME_ZERO_BYTE; length--) {
    if (text.startsWith(setup.slice(-length))) return length;
  }
  return 0;
}

/** What has come so far of the second message, and of what follows it. */
class RingReception implements Receiving {
  readonly isPeeked = true;
  readonly fds: OwnedFd[] = [];
  readonly #bytes = new Uint8Array(ringSetupText(MAX_RING_VCPUS).length);
  #length = 0;
  #setup: RingSetup = { kind: "incomplete" };

  get missing(): string {
    return "the message about its rings did not come";
  }

  get byteCount(): number {
    return this.#setup.kind === "done" ? this.#setup.lengthBytes : 0;
  }

  get rings(): readonly RingFds[] {
    const { fds } = this;
    return Array.from({ length: fds.length / 3 }, (_, vcpu) => {
      const [notify, complete, own] = [fds[3 * vcpu]!, fds[3 * vcpu + 1]!, fds[3 * vcpu + 2]!];
      return { notify, complete, vcpu: own };
    });
  }

  readAvailable(socket: number): boolean {
    while (this.#setup.kind === "incomplete") {
      const received = peekWithFds(socket, this.#bytes.subarray(this.#length));
      if (received === null) return false;
      this.fds.push(...received.fds);
      if (received.byteCount === 0) throw this.refusal("the peer closed the connection before it");
      this.#length += received.byteCount;
      this.#setup = parseRingSetup(this.#bytes.subarray(0, this.#length), this.fds.length);
    }
    if (this.#setup.kind === "bad") throw this.refusal(this.#setup.reason);
    return true;
  }

  refusal(what: string): FaultlineError {
    return new FaultlineError(
      "handshake",
      `The second message of a VM with a guest_memfd cannot be served: ${what}.`,
    );
  }
}
