/** The service manager's end of sd_notify(3): a datagram socket that remembers what it was told. */

import { waitFor } from "../../src/kit/wait.ts";
import { AF_UNIX, SOCK_DGRAM, SOCK_NONBLOCK, sockaddr_un } from "../../src/linux/abi-posix.ts";
import { OwnedFd } from "../../src/linux/fd.ts";
import { receiveWithFds } from "../../src/linux/socket.ts";
import * as sys from "../../src/linux/sys.ts";

export class NotifySocket {
  readonly #fd: OwnedFd;

  constructor(path: string) {
    this.#fd = new OwnedFd(sys.check(sys.socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0), "socket"));
    const address = new sys.Scratch(sockaddr_un.size);
    new DataView(address.bytes.buffer).setUint16(0, AF_UNIX, true);
    address.bytes.set(Buffer.from(path), sockaddr_un.offset.sun_path);
    const length = sockaddr_un.offset.sun_path + path.length + 1;
    sys.check(sys.bind(this.#fd.fd, address.address, length), "bind", path);
  }

  /** The next message, or null if there is none yet. */
  take(): string | null {
    const target = new Uint8Array(256);
    const received = receiveWithFds(this.#fd.fd, target);
    return received && Buffer.from(target.subarray(0, received.byteCount)).toString();
  }

  async next(): Promise<string> {
    return await waitFor("the service manager was told something", () => this.take(), 5000);
  }

  [Symbol.dispose](): void {
    this.#fd.close();
  }
}
