/** Unix sockets that carry file descriptors. See unix(7), cmsg(3): net.Socket drops the fds. */
import { FaultlineError } from "../base/errors.ts";
import {
  AF_UNIX,
  cmsghdr,
  EAGAIN,
  EINTR,
  ENOPROTOOPT,
  iovec,
  MSG_CMSG_CLOEXEC,
  MSG_CTRUNC,
  MSG_NOSIGNAL,
  MSG_PEEK,
  msghdr,
  SCM_RIGHTS,
  SIOCOUTQ,
  SO_PEEK_OFF,
  SO_PEERCRED,
  SO_PEERPIDFD,
  SO_SNDTIMEO,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  SOCK_SEQPACKET,
  SOCK_STREAM,
  SOL_SOCKET,
  SUN_PATH_MAX,
  sockaddr_un,
  timeval,
  ucred,
} from "./abi-posix.ts";
import { OwnedFd } from "./fd.ts";
import { writeU64 } from "./layout.ts";
import * as sys from "./sys.ts";

/** The kernel passes at most 253 descriptors in one message (SCM_MAX_FD). */
const CONTROL_BYTES = cmsghdr.size + 253 * 4 + 4;

/** Process, user and group of the peer, as of its connect(). pid 0: not visible from here. */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/**
 * Structures that hold addresses of others, which the collector does not see: they stay reachable
 * from here while the kernel reads them.
 */
const inKernel: unknown[] = [];

function duringCall(kept: unknown, call: () => number): number {
  inKernel.push(kept);
  try {
    return call();
  } finally {
    inKernel.pop();
  }
}

/** A struct sockaddr_un and its length. `@name` means the abstract name space. */
function socketAddress(path: string): { scratch: sys.Scratch; length: number } {
  const name = Buffer.from(path.startsWith("@") ? `\0${path.slice(1)}` : path);
  assertSocketPath(path);
  const scratch = new sys.Scratch(sockaddr_un.size);
  new DataView(scratch.bytes.buffer).setUint16(0, AF_UNIX, true);
  scratch.bytes.set(name, sockaddr_un.offset.sun_path);
  const closingNul = path.startsWith("@") ? 0 : 1;
  return { scratch, length: sockaddr_un.offset.sun_path + name.length + closingNul };
}

/** @throws FaultlineError `socket-path`: nobody could connect to it by this path */
export function assertSocketPath(path: string): void {
  const { length } = Buffer.from(path);
  if (length <= SUN_PATH_MAX) return;
  throw new FaultlineError(
    "socket-path",
    `Socket path ${path} has ${length} bytes; the kernel takes at most ${SUN_PATH_MAX}. ` +
      "Choose a shorter path.",
  );
}

function createSocket(type: number): OwnedFd {
  return new OwnedFd(sys.check(sys.socket(AF_UNIX, type | SOCK_CLOEXEC, 0), "socket"));
}

/** Binds and listens. The socket file gets its mode from the umask. Non-blocking. */
export function listenUnix(path: string, backlog: number): OwnedFd {
  const address = socketAddress(path);
  const socket = createSocket(SOCK_STREAM | SOCK_NONBLOCK);
  try {
    const bound = duringCall(address, () =>
      sys.bind(socket.fd, address.scratch.address, address.length),
    );
    sys.check(bound, "bind", path);
    sys.check(sys.listen(socket.fd, backlog), "listen", path);
    return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
}

/**
 * Connects a stream socket. A blocking one waits while the listener's backlog is full; a
 * non-blocking one fails with EAGAIN then.
 */
export function connectUnix(path: string, mode: "blocking" | "nonblocking" = "blocking"): OwnedFd {
  const address = socketAddress(path);
  const socket = createSocket(SOCK_STREAM | (mode === "nonblocking" ? SOCK_NONBLOCK : 0));
  const connected = duringCall(address, () =>
    sys.connect(socket.fd, address.scratch.address, address.length),
  );
  if (connected === -1) {
    const error = sys.sysError("connect", path);
    socket.close();
    throw error;
  }
  return socket;
}

/** Two connected stream sockets; SO_PEERCRED names this process at both ends. */
export function socketPair(): [OwnedFd, OwnedFd] {
  const pair = new sys.Scratch(8);
  const type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
  sys.check(sys.socketpair(AF_UNIX, type, 0, pair.bytes), "socketpair");
  return [new OwnedFd(pair.words[0]!), new OwnedFd(pair.words[1]!)];
}

/** Two connected sockets that keep messages apart: each is received whole. Non-blocking. */
export function packetPair(): [OwnedFd, OwnedFd] {
  const pair = new sys.Scratch(8);
  const type = SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK;
  sys.check(sys.socketpair(AF_UNIX, type, 0, pair.bytes), "socketpair");
  return [new OwnedFd(pair.words[0]!), new OwnedFd(pair.words[1]!)];
}

/** Takes one waiting connection, non-blocking; null if there is none. */
export function acceptUnix(listener: number): OwnedFd | null {
  const fd = sys.accept4(listener, null, null, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd !== -1) return new OwnedFd(fd);
  if (sys.errno() === EAGAIN) return null;
  throw sys.sysError("accept4");
}

/**
 * Sends one datagram, with descriptors, to a socket path, as systemd's notification protocol asks.
 * @throws SysError EAGAIN if there is no room for it in so much time; 0 waits for ever
 */
export function sendDatagram(
  path: string,
  payload: string,
  fds: readonly number[] = [],
  timeoutMs = 0,
): void {
  const address = socketAddress(path);
  const message = Message.of(Buffer.from(payload), fds);
  writeU64(message.header.words, msghdr.offset.msg_name, address.scratch.address);
  message.header.words[msghdr.offset.msg_namelen >>> 2] = address.length;
  using socket = createSocket(SOCK_DGRAM);
  setSendTimeout(socket.fd, timeoutMs);
  const send = (): number => sys.sendmsg(socket.fd, message.header.address, MSG_NOSIGNAL);
  let sent: number;
  do sent = duringCall([message, address], send);
  while (sent === -1 && sys.errno() === EINTR);
  sys.check(sent, "sendmsg", path);
}

/** A blocking send that takes longer fails with EAGAIN; a signal may end it with EINTR. */
function setSendTimeout(socket: number, timeoutMs: number): void {
  const value = new sys.Scratch(timeval.size);
  writeU64(value.words, timeval.offset.tv_sec, Math.floor(timeoutMs / 1000));
  writeU64(value.words, timeval.offset.tv_usec, (timeoutMs % 1000) * 1000);
  const result = sys.setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, value.bytes, timeval.size);
  sys.check(result, "setsockopt(SO_SNDTIMEO)");
}

/** Sends bytes and descriptors as one message. Blocks if the socket does. */
export function sendWithFds(socket: number, payload: Uint8Array, fds: readonly number[]): void {
  const message = Message.of(payload, fds);
  const sent = duringCall(message, () => sys.sendmsg(socket, message.header.address, MSG_NOSIGNAL));
  sys.check(sent, "sendmsg");
  if (sent !== payload.length) {
    throw new FaultlineError("system", `sendmsg took ${sent} of ${payload.length} bytes`);
  }
}

/** Kernel memory that holds what the other side has not read yet; 0 if it has read all. */
export function unreadBytes(socket: number): number {
  const count = new sys.Scratch(4);
  sys.check(sys.ioctl(socket, SIOCOUTQ, count.address), "ioctl(SIOCOUTQ)");
  return count.words[0]!;
}

export interface Received {
  /** 0 at end of stream. */
  readonly byteCount: number;
  readonly fds: OwnedFd[];
  /** The kernel dropped descriptors for want of room or of descriptors in this process. */
  readonly isTruncated: boolean;
}

/** What one call receives at most: the longest handshake, and a byte more. */
const RECEIVE_BYTES = 68 * 1024;
/** One for all calls of this thread: a flood of connections must not become a flood of garbage. */
let receiver: Receiver | null = null;

/** Receives into `target`; null if nothing is there yet. Received fds are close-on-exec. */
export function receiveWithFds(socket: number, target: Uint8Array): Received | null {
  receiver ??= new Receiver();
  return receiver.receive(socket, target);
}

/** From now on `peekWithFds` begins at the oldest byte that nobody has received. */
export function peekFromStart(socket: number): void {
  setPeekOffset(socket, 0);
}

/** From now on every look with MSG_PEEK begins at the oldest byte, as without `peekFromStart`. */
export function peekWithoutOffset(socket: number): void {
  setPeekOffset(socket, -1);
}

function setPeekOffset(socket: number, offset: number): void {
  const value = new sys.Scratch(4);
  value.words[0] = offset;
  const result = sys.setsockopt(socket, SOL_SOCKET, SO_PEEK_OFF, value.bytes, 4);
  sys.check(result, "setsockopt(SO_PEEK_OFF)");
}

/**
 * As `receiveWithFds`, but all stays in the socket; each call goes on where the last one ended. The
 * descriptors are duplicates, given again whenever a byte of their message is: `target` must have
 * room for all that the sender has written, or a message is split and they come twice.
 */
export function peekWithFds(socket: number, target: Uint8Array): Received | null {
  receiver ??= new Receiver();
  return receiver.receive(socket, target, MSG_PEEK);
}

/** See SO_PEERCRED in unix(7). */
export function peerCredentials(socket: number): PeerCredentials {
  const value = new sys.Scratch(ucred.size);
  const length = new sys.Scratch(4);
  length.words[0] = ucred.size;
  const result = sys.getsockopt(socket, SOL_SOCKET, SO_PEERCRED, value.bytes, length.bytes);
  sys.check(result, "getsockopt(SO_PEERCRED)");
  return { pid: value.words[0]!, uid: value.words[1]!, gid: value.words[2]! };
}

/**
 * A pidfd of the peer (Linux ≥ 6.5); null where the kernel does not know the option.
 * @throws SysError any other failure, such as a peer that is dead and reaped
 */
export function peerPidfd(socket: number): OwnedFd | null {
  const value = new sys.Scratch(4);
  const length = new sys.Scratch(4);
  length.words[0] = 4;
  const result = sys.getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, value.bytes, length.bytes);
  if (result === -1 && sys.errno() === ENOPROTOOPT) return null;
  sys.check(result, "getsockopt(SO_PEERPIDFD)");
  return new OwnedFd(value.words[0]!);
}

/** A msghdr with its iovec and control buffer, all at fixed addresses. */
class Message {
  readonly header = new sys.Scratch(msghdr.size);
  readonly control: sys.Scratch;
  readonly #vector = new sys.Scratch(iovec.size);
  readonly #payload: sys.Scratch;

  constructor(payload: sys.Scratch, controlBytes: number) {
    this.#payload = payload;
    this.control = new sys.Scratch(controlBytes);
    writeU64(this.header.words, msghdr.offset.msg_iov, this.#vector.address);
    writeU64(this.header.words, msghdr.offset.msg_iovlen, 1);
  }

  static of(bytes: Uint8Array, fds: readonly number[]): Message {
    const payload = new sys.Scratch(Math.max(1, bytes.length));
    payload.bytes.set(bytes);
    const fdBytes = Math.ceil((fds.length * 4) / 8) * 8;
    const message = new Message(payload, cmsghdr.size + fdBytes);
    message.reset(bytes.length, fds.length === 0 ? 0 : cmsghdr.size + fdBytes);
    if (fds.length > 0) message.#putFds(fds);
    return message;
  }

  /** Before each use: the kernel overwrites lengths and flags. */
  reset(payloadBytes: number, controlBytes: number): void {
    const { words } = this.header;
    writeU64(this.#vector.words, iovec.offset.iov_base, this.#payload.address);
    writeU64(this.#vector.words, iovec.offset.iov_len, payloadBytes);
    writeU64(words, msghdr.offset.msg_control, controlBytes === 0 ? 0 : this.control.address);
    writeU64(words, msghdr.offset.msg_controllen, controlBytes);
    words[msghdr.offset.msg_flags >>> 2] = 0;
  }

  #putFds(fds: readonly number[]): void {
    const { words } = this.control;
    writeU64(words, cmsghdr.offset.cmsg_len, cmsghdr.size + fds.length * 4);
    words[cmsghdr.offset.cmsg_level >>> 2] = SOL_SOCKET;
    words[cmsghdr.offset.cmsg_type >>> 2] = SCM_RIGHTS;
    for (const [index, fd] of fds.entries()) words[(cmsghdr.size >>> 2) + index] = fd;
  }
}

/** A message to receive into, again and again. */
class Receiver {
  readonly #payload = new sys.Scratch(RECEIVE_BYTES);
  readonly #message = new Message(this.#payload, CONTROL_BYTES);

  receive(socket: number, target: Uint8Array, flags = 0): Received | null {
    const { header } = this.#message;
    this.#message.reset(Math.min(target.length, RECEIVE_BYTES), CONTROL_BYTES);
    // Reachable from here all the time: `duringCall` is not needed.
    const count = sys.recvmsg(socket, header.address, MSG_CMSG_CLOEXEC | flags);
    if (count === -1) {
      if (sys.errno() === EAGAIN) return null;
      throw sys.sysError("recvmsg");
    }
    target.set(this.#payload.bytes.subarray(0, count));
    const isTruncated = (header.words[msghdr.offset.msg_flags >>> 2]! & MSG_CTRUNC) !== 0;
    return { byteCount: count, fds: this.#takeFds(), isTruncated };
  }

  #takeFds(): OwnedFd[] {
    const { header, control } = this.#message;
    const { words } = control;
    const controlLength = header.words[msghdr.offset.msg_controllen >>> 2]!;
    const fds: OwnedFd[] = [];
    let position = 0;
    while (position + cmsghdr.size <= controlLength) {
      const length = words[(position + cmsghdr.offset.cmsg_len) >>> 2]!;
      if (length < cmsghdr.size) break;
      const level = words[(position + cmsghdr.offset.cmsg_level) >>> 2];
      const type = words[(position + cmsghdr.offset.cmsg_type) >>> 2];
      if (level === SOL_SOCKET && type === SCM_RIGHTS) {
        const count = Math.floor((length - cmsghdr.size) / 4);
        const first = (position + cmsghdr.size) >>> 2;
        for (let index = 0; index < count; index++) fds.push(new OwnedFd(words[first + index]!));
      }
      position += Math.ceil(length / 8) * 8;
    }
    return fds;
  }
}
