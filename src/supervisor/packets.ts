/** Packets over a SOCK_SEQPACKET pair: one JSON object each, with descriptors. See unix(7). */
import { SysError } from "../base/errors.ts";
import { ECONNRESET } from "../linux/abi-posix.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { type Received, receiveWithFds, sendWithFds } from "../linux/socket.ts";
import type { PagerMessage, SupervisorMessage } from "./messages.ts";

/** A batch of entries with the longest names is a quarter of this. */
const MAX_PACKET_BYTES = 64 * 1024;
const buffer = Buffer.alloc(MAX_PACKET_BYTES);

export interface Packet {
  readonly text: string;
  readonly fds: OwnedFd[];
}

/** @throws SysError EAGAIN, EPIPE, ETOOMANYREFS, … Nothing was sent then. */
export function sendPacket(
  socket: number,
  message: PagerMessage | SupervisorMessage,
  fds: readonly number[],
): void {
  sendWithFds(socket, Buffer.from(JSON.stringify(message)), fds);
}

/**
 * The next packet. `cut`: this process may have no more descriptors, so the kernel dropped some of
 * the packet's; the rest is closed.
 */
export function receivePacket(socket: number): Packet | "empty" | "closed" | "cut" {
  const received = receive(socket);
  if (received === null) return "empty";
  if (received.byteCount === 0) return "closed";
  if (!received.isTruncated) {
    return { text: buffer.toString("utf8", 0, received.byteCount), fds: received.fds };
  }
  for (const fd of received.fds) fd.close();
  return "cut";
}

/** A peer that died with unread packets is told once, before what it had sent itself. */
function receive(socket: number): Received | null {
  try {
    return receiveWithFds(socket, buffer);
  } catch (error) {
    if (error instanceof SysError && error.errno === ECONNRESET) {
      return receiveWithFds(socket, buffer);
    }
    throw error;
  }
}
