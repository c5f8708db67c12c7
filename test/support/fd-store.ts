/**
 * systemd's side of sd_pid_notify_with_fds(3): stores descriptors under names. As systemd does, it
 * takes no second descriptor of an open file that it has, whatever the name.
 */
import { isDeepStrictEqual } from "node:util";
import { waitFor } from "../../src/kit/wait.ts";
import {
  AF_UNIX,
  KCMP_FILE,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_NONBLOCK,
  sockaddr_un,
} from "../../src/linux/abi-posix.ts";
import { OwnedFd } from "../../src/linux/fd.ts";
import { receiveWithFds } from "../../src/linux/socket.ts";
import * as sys from "../../src/linux/sys.ts";

const BUDGET_MS = 20_000;
const INTERVAL_MS = 5;

export class FdStore {
  readonly path: string;
  /** All that it was told, without descriptors. */
  readonly messages: string[] = [];
  readonly #socket: OwnedFd;
  #stored: { readonly name: string; readonly fd: OwnedFd }[] = [];
  readonly #timer = setInterval(() => this.#receive(), INTERVAL_MS);

  constructor(path: string) {
    this.path = path;
    const type = SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
    this.#socket = new OwnedFd(sys.check(sys.socket(AF_UNIX, type, 0), "socket"));
    const address = new sys.Scratch(sockaddr_un.size);
    new DataView(address.bytes.buffer).setUint16(0, AF_UNIX, true);
    address.bytes.set(Buffer.from(path), sockaddr_un.offset.sun_path);
    const length = sockaddr_un.offset.sun_path + path.length + 1;
    sys.check(sys.bind(this.#socket.fd, address.address, length), "bind", path);
  }

  get stored(): { readonly name: string; readonly fd: number }[] {
    return this.#stored.map(({ name, fd }) => ({ name, fd: fd.fd }));
  }

  /** Waits until it was told this `count` times, and returns the last of them. */
  async told(start: string, count = 1): Promise<string | undefined> {
    const those = (): string[] => this.messages.filter((message) => message.startsWith(start));
    await waitFor(`it was told ${start} (${count})`, () => those().length >= count, BUDGET_MS);
    return those()[count - 1];
  }

  async holds(names: readonly string[]): Promise<void> {
    const isRight = (): boolean =>
      isDeepStrictEqual(this.#stored.map(({ name }) => name).sort(), [...names].sort());
    try {
      await waitFor("it stores what it should", isRight, BUDGET_MS);
    } catch (cause) {
      throw new Error(`It stores ${JSON.stringify(this.stored)}`, { cause });
    }
  }

  #receive(): void {
    const buffer = Buffer.alloc(4096);
    for (;;) {
      const received = receiveWithFds(this.#socket.fd, buffer);
      if (received === null) return;
      this.#take(buffer.toString("utf8", 0, received.byteCount), received.fds);
    }
  }

  #take(message: string, fds: readonly OwnedFd[]): void {
    const name = /^FDNAME=(.*)$/m.exec(message)?.[1] ?? "";
    if (message.startsWith("FDSTORE=1\nFDPOLL=0\n")) {
      for (const fd of fds) {
        if (this.#stored.some((other) => isSameFile(other.fd, fd))) fd.close();
        else this.#stored.push({ name, fd });
      }
    } else if (message.startsWith("FDSTOREREMOVE=1\n")) {
      for (const entry of this.#stored) if (entry.name === name) entry.fd.close();
      this.#stored = this.#stored.filter((entry) => entry.name !== name);
    } else {
      this.messages.push(message);
    }
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#socket.close();
    for (const { fd } of this.#stored) fd.close();
  }
}

function isSameFile(one: OwnedFd, other: OwnedFd): boolean {
  const { SYS_kcmp } = sys.abi.syscalls;
  return sys.syscall5(SYS_kcmp, process.pid, process.pid, KCMP_FILE, one.fd, other.fd) === 0;
}
