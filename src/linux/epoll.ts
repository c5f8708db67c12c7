/** See epoll(7). Each watched descriptor carries two 32-bit tags that come back with its events. */
import {
  EINTR,
  EPOLL_CLOEXEC,
  EPOLL_CTL_ADD,
  EPOLL_CTL_DEL,
  EPOLLET,
  EPOLLIN,
} from "./abi-posix.ts";
import { OwnedFd } from "./fd.ts";
import * as sys from "./sys.ts";

const { size, offset } = sys.abi.epoll_event;

export class Epoll {
  readonly #owned: OwnedFd;
  readonly #events: sys.Scratch;
  readonly #capacity: number;
  readonly #change = new sys.Scratch(size);

  private constructor(owned: OwnedFd, capacity: number) {
    this.#owned = owned;
    this.#capacity = capacity;
    this.#events = new sys.Scratch(size * capacity);
  }

  /** `capacity`: how many events one wait() can return. */
  static create(capacity: number): Epoll {
    const fd = sys.check(sys.epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    return new Epoll(new OwnedFd(fd), capacity);
  }

  /** Watches for readability, level-triggered. */
  add(fd: number, tagLow: number, tagHigh: number): void {
    this.#add(fd, EPOLLIN, tagLow, tagHigh);
  }

  /** Tells once of what is there, and then each time that something comes, however much is left. */
  addEdge(fd: number, tagLow = 0, tagHigh = 0): void {
    this.#add(fd, EPOLLIN | EPOLLET, tagLow, tagHigh);
  }

  get fd(): number {
    return this.#owned.fd;
  }

  #add(fd: number, events: number, tagLow: number, tagHigh: number): void {
    const words = this.#change.words;
    words[offset.events >>> 2] = events;
    words[offset.data >>> 2] = tagLow;
    words[(offset.data >>> 2) + 1] = tagHigh;
    const result = sys.epoll_ctl(this.#owned.fd, EPOLL_CTL_ADD, fd, this.#change.address);
    sys.check(result, "epoll_ctl(ADD)", `fd ${fd}`);
  }

  remove(fd: number): void {
    const result = sys.epoll_ctl(this.#owned.fd, EPOLL_CTL_DEL, fd, this.#change.address);
    sys.check(result, "epoll_ctl(DEL)", `fd ${fd}`);
  }

  /** Returns how many events are ready. `timeoutMs` -1 waits for ever, 0 not at all. */
  wait(timeoutMs: number): number {
    const count = sys.epoll_wait(this.#owned.fd, this.#events.address, this.#capacity, timeoutMs);
    if (count === -1) {
      if (sys.errno() === EINTR) return 0;
      throw sys.sysError("epoll_wait");
    }
    return count;
  }

  tagLow(index: number): number {
    return this.#events.words[(index * size + offset.data) >>> 2]!;
  }

  tagHigh(index: number): number {
    return this.#events.words[((index * size + offset.data) >>> 2) + 1]!;
  }

  close(): void {
    this.#owned.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
