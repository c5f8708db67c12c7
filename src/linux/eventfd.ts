/** See eventfd(2): a counter that wakes whoever waits for it. */
import { EAGAIN, EFD_CLOEXEC, EFD_NONBLOCK } from "./abi-posix.ts";
import { OwnedFd } from "./fd.ts";
import * as sys from "./sys.ts";

export class EventFd {
  readonly #owned: OwnedFd;

  private constructor(owned: OwnedFd) {
    this.#owned = owned;
  }

  static create(): EventFd {
    return new EventFd(
      new OwnedFd(sys.check(sys.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")),
    );
  }

  get fd(): number {
    return this.#owned.fd;
  }

  /** Wakes the waiter. A full counter (EAGAIN) means that it is awake already. */
  signal(): void {
    signalEventFd(this.fd);
  }

  /** Takes the counter back to zero, so that the next wait blocks again. */
  reset(): void {
    drainEventFd(this.fd);
  }

  close(): void {
    this.#owned.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

class Scratch8 extends sys.Scratch {
  constructor() {
    super(8);
  }

  set(value: number): void {
    this.words[0] = value;
    this.words[1] = 0;
  }
}

const drained = new Scratch8();
const one = new Scratch8();
one.set(1);

/** Wakes whoever waits for an eventfd. */
export function signalEventFd(fd: number): void {
  if (sys.write(fd, one.address, 8) === -1 && sys.errno() !== EAGAIN) {
    throw sys.sysError("write(eventfd)");
  }
}

/** Resets an eventfd that another thread owns. */
export function drainEventFd(fd: number): void {
  if (sys.read(fd, drained.address, 8) === -1 && sys.errno() !== EAGAIN) {
    throw sys.sysError("read(eventfd)");
  }
}
