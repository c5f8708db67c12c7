/**
 * Memory under a userfaultfd, and threads that touch it: what most kernel tests begin with.
 *
 * Disposal closes the userfaultfd first, which wakes whoever is still blocked, so that a failing
 * test ends at once instead of wedging its file.
 */
import { ftruncateSync, readFileSync } from "node:fs";
import { SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { Epoll } from "../../src/linux/epoll.ts";
import type { OwnedFd } from "../../src/linux/fd.ts";
import { createMemfd, MappedRegion } from "../../src/linux/memory.ts";
import { viewOf } from "../../src/linux/sys.ts";
import { EventBatch } from "../../src/uffd/events.ts";
import {
  type RegisterMode,
  Userfaultfd,
  type UserfaultfdOptions,
} from "../../src/uffd/userfaultfd.ts";
import { Toucher } from "./toucher.ts";

export const PAGE = SMALL_PAGE_BYTES;

export interface StageOptions extends UserfaultfdOptions {
  readonly modes?: readonly RegisterMode[];
  readonly sizeBytes?: number;
  /** Back the memory by a memfd, mapped shared. */
  readonly memfd?: OwnedFd;
  readonly hugePages?: boolean;
}

export class Stage {
  readonly uffd: Userfaultfd;
  readonly memory: MappedRegion;
  readonly batch = new EventBatch();
  readonly #touchers: Toucher[] = [];
  readonly #owned: { [Symbol.dispose](): void }[] = [];

  constructor(options: StageOptions = {}) {
    const sizeBytes = options.sizeBytes ?? 16 * PAGE;
    this.uffd = Userfaultfd.create(options);
    this.memory =
      options.memfd === undefined
        ? MappedRegion.anonymous(sizeBytes, { hugePages: options.hugePages ?? false })
        : MappedRegion.shared(options.memfd.fd, sizeBytes);
    this.uffd.register(this.memory.address, sizeBytes, options.modes ?? ["missing"]);
  }

  /** The address of page `index`. */
  page(index: number): number {
    return this.memory.address + index * PAGE;
  }

  toucher(): Toucher {
    const toucher = new Toucher();
    this.#touchers.push(toucher);
    return toucher;
  }

  /** Present pages to copy from, page `index` filled with byte `index + 1`. Returns the address. */
  source(pageCount = 16): number {
    const region = MappedRegion.anonymous(pageCount * PAGE);
    const bytes = new Uint8Array(region.view());
    for (let index = 0; index < pageCount; index++) {
      bytes.fill(index + 1, index * PAGE, (index + 1) * PAGE);
    }
    this.own(region);
    return region.address;
  }

  /** Disposes of `resource` together with the stage. */
  own<T extends { [Symbol.dispose](): void }>(resource: T): T {
    this.#owned.push(resource);
    return resource;
  }

  /** Waits until an event is pending, and leaves it unread. */
  async readable(): Promise<void> {
    using epoll = Epoll.create(1);
    epoll.add(this.uffd.fd, 0, 0);
    await waitFor("the userfaultfd was readable", () => epoll.wait(0) > 0);
  }

  /** Waits until `count` faults are pending, all unread. */
  async pendingFaults(count: number): Promise<void> {
    const path = `/proc/self/fdinfo/${this.uffd.fd}`;
    const pending = new RegExp(`^pending:\\t${count}$`, "m");
    const what = `${count} faults were pending`;
    await waitFor(what, () => pending.test(readFileSync(path, "utf8")));
  }

  /** Waits until something is readable, and drains it into `batch`. */
  async drained(): Promise<EventBatch> {
    await waitFor("the userfaultfd had an event", () => this.uffd.drain(this.batch) > 0);
    return this.batch;
  }

  /** The byte at an address whose page is known to be present. */
  presentByte(address: number): number {
    return new Uint8Array(viewOf(address, 1))[0]!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.uffd.close();
    await Promise.all(this.#touchers.map((toucher) => toucher.close()));
    for (const resource of this.#owned) resource[Symbol.dispose]();
    this.memory.unmap();
  }
}

/** A memfd of `sizeBytes`, all holes. */
export function createSizedMemfd(name: string, sizeBytes: number): OwnedFd {
  const memfd = createMemfd(name);
  ftruncateSync(memfd.fd, sizeBytes);
  return memfd;
}
