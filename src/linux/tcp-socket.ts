/** TCP sockets that outlive their process, as others hold them too. See ip(7), ipv6(7). */
import { isIPv6 } from "node:net";
import {
  AF_INET,
  AF_INET6,
  SO_REUSEADDR,
  SOCK_CLOEXEC,
  SOCK_NONBLOCK,
  SOCK_STREAM,
  SOL_SOCKET,
  sockaddr_in,
  sockaddr_in6,
} from "./abi-posix.ts";
import { OwnedFd } from "./fd.ts";
import * as sys from "./sys.ts";

/**
 * Binds and listens, non-blocking. `host`: `::1`, or an IPv4 address in four numbers; port 0: any.
 * @throws SysError EADDRINUSE, EADDRNOTAVAIL, EACCES, …
 */
export function listenTcp(host: string, port: number, backlog: number): OwnedFd {
  const isSix = isIPv6(host);
  const type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
  const made = sys.socket(isSix ? AF_INET6 : AF_INET, type, 0);
  const socket = new OwnedFd(sys.check(made, "socket"));
  try {
    const yes = new sys.Scratch(4);
    yes.words[0] = 1;
    // Connections of an earlier process may be closing still.
    const set = sys.setsockopt(socket.fd, SOL_SOCKET, SO_REUSEADDR, yes.bytes, 4);
    sys.check(set, "setsockopt(SO_REUSEADDR)");
    const address = isSix ? loopback6(port) : address4(host, port);
    const { size } = isSix ? sockaddr_in6 : sockaddr_in;
    const bound = sys.bind(socket.fd, address.address, size);
    sys.check(bound, "bind", `${host}:${port}`);
    sys.check(sys.listen(socket.fd, backlog), "listen", `${host}:${port}`);
    return socket;
  } catch (error) {
    socket.close();
    throw error;
  }
}

/** A struct sockaddr_in: port and address in network order. */
function address4(host: string, port: number): sys.Scratch {
  const scratch = new sys.Scratch(sockaddr_in.size);
  const view = new DataView(scratch.bytes.buffer, scratch.bytes.byteOffset);
  view.setUint16(sockaddr_in.offset.sin_family, AF_INET, true);
  view.setUint16(sockaddr_in.offset.sin_port, port);
  scratch.bytes.set(host.split(".").map(Number), sockaddr_in.offset.sin_addr);
  return scratch;
}

/** A struct sockaddr_in6 of `::1`. */
function loopback6(port: number): sys.Scratch {
  const scratch = new sys.Scratch(sockaddr_in6.size);
  const view = new DataView(scratch.bytes.buffer, scratch.bytes.byteOffset);
  view.setUint16(sockaddr_in6.offset.sin6_family, AF_INET6, true);
  view.setUint16(sockaddr_in6.offset.sin6_port, port);
  scratch.bytes[sockaddr_in6.offset.sin6_addr + 15] = 1;
  return scratch;
}
