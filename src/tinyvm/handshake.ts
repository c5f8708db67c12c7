/**
 * What a Firecracker VMM tells its page-fault handler, written by hand: one message with the
 * regions as JSON and the userfaultfd beside it (SCM_RIGHTS). Then the socket only stays open, as a
 * sign of life. Nothing of `protocol/` is used: tinyvm is the other side.
 */
import { FaultlineError } from "../base/errors.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { connectUnix, sendWithFds } from "../linux/socket.ts";
import type { GuestMemory } from "./guest-memory.ts";

/** The body of the handshake. `page_size_kib` has been in bytes ever since, whatever its name. */
export function handshakeBody(memory: GuestMemory): string {
  return JSON.stringify(
    memory.regions.map((region) => ({
      base_host_virt_addr: region.mapping.address,
      size: region.sizeBytes,
      offset: region.fileOffset,
      page_size: memory.pageSizeBytes,
      page_size_kib: memory.pageSizeBytes,
    })),
  );
}

/** Connects, sends, and returns the socket, which must stay open as long as the VM lives. */
export function sendHandshake(socketPath: string, memory: GuestMemory, uffd: number): OwnedFd {
  const socket = connectToHandler(socketPath);
  try {
    sendWithFds(socket.fd, Buffer.from(handshakeBody(memory)), [uffd]);
    return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
}

function connectToHandler(socketPath: string): OwnedFd {
  try {
    return connectUnix(socketPath);
  } catch (cause) {
    if (cause instanceof FaultlineError && cause.code !== "system") throw cause;
    throw new FaultlineError(
      "socket-failed",
      `No page-fault handler listens on ${socketPath}. Start it before the restore.`,
      { cause },
    );
  }
}
