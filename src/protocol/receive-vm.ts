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
import {
  consumeBytes,
  type ReceiveOptions,
  type Receiving,
  readUntilWhole,
  receiveHandshake,
} from "./receive.ts";
import { MAX_RING_VCPUS, parseRingSetup, type RingSetup, ringSetupText } from "./ring-setup.ts";
import { parseAnyHandshake } from "./userfault-handshake.ts";

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
