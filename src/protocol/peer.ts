/**
 * Who is at the other end of a connection: the VMM process, pinned so that it cannot be confused.
 */
import { FaultlineError } from "../base/errors.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { openPidfd } from "../linux/process.ts";
import { peerCredentials, peerPidfd } from "../linux/socket.ts";

export interface Peer {
  readonly pid: number;
  readonly uid: number;
  readonly pidfd: OwnedFd;
}

/**
 * Pins the peer of a connected socket. SO_PEERPIDFD (Linux ≥ 6.5) cannot miss; before it, the
 * process that SO_PEERCRED names is opened by number.
 * @throws FaultlineError `handshake`: the uid is not allowed, or the process cannot be pinned
 */
export function pinPeer(socket: number, allowedUids: ReadonlySet<number>): Peer {
  const { pid, uid } = peerCredentials(socket);
  if (!allowedUids.has(uid)) {
    throw new FaultlineError(
      "handshake",
      `Process ${pid} runs as uid ${uid}; this socket serves only uid ` +
        `${[...allowedUids].join(", ")}. Name its user where the socket is made: --owner of ` +
        "serve, owner or allowedUids of a session.",
    );
  }
  try {
    // By number only where there is no other way: a dead peer's may have gone to a stranger.
    return { pid, uid, pidfd: peerPidfd(socket) ?? openByNumber(pid) };
  } catch (cause) {
    if (cause instanceof FaultlineError && cause.code === "handshake") throw cause;
    throw new FaultlineError("handshake", `Process ${pid} is gone or cannot be pinned`, { cause });
  }
}

function openByNumber(pid: number): OwnedFd {
  if (pid !== 0) return openPidfd(pid);
  throw new FaultlineError(
    "handshake",
    "The peer's process is not visible in this pid name space: run Faultline in the host's.",
  );
}
