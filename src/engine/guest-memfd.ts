/**
 * The pages of a VM with KVM Userfault: written to its guest_memfd, let through by its bitmap, and
 * told to everybody who asked for them.
 *
 * Threads of the VMM that wait for a page are answered with UFFDIO_CONTINUE after the write, and
 * not with UFFDIO_COPY instead of it: so there is one way in which bytes come into the memory, and
 * nobody has seen a page whose bit is set (docs/decisions/0022-userfault-population.md).
 */
import type { Outcome } from "../base/outcome.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import * as abi from "../linux/abi-userfaultfd.ts";
import { signalEventFd } from "../linux/eventfd.ts";
import { type Answers, MAX_REPLIES, type Wires } from "../pager/answers.ts";
import type { Population } from "../pager/population.ts";
import { NO_GPA, WaiterKind } from "../pager/waiters.ts";
import { FrameWriter, MAX_REPLY_FRAME_BYTES, newFaultReply } from "../protocol/fault-messages.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import type { Userfaultfd, WakeOption } from "../uffd/userfaultfd.ts";
import type { GuestPages } from "./guest-pages.ts";
import type { PageBuffers } from "./page-buffers.ts";
import type { RequestSocket } from "./request-socket.ts";

export interface GuestMemfdParts {
  readonly population: Population;
  readonly answers: Answers;
  readonly regions: RegionMap;
  readonly buffers: PageBuffers;
}

export class GuestMemfd implements GuestPages {
  readonly #parts: GuestMemfdParts;

  constructor(parts: GuestMemfdParts) {
    this.#parts = parts;
  }

  get doneBytes(): number {
    return this.#parts.population.doneBytes;
  }

  copy(target: number, source: number, lengthBytes: number, mode = 0): Outcome {
    const { population, answers } = this.#parts;
    const page = this.#pageAt(target);
    const outcome = population.install(page, source, lengthBytes);
    const wakes = (mode & abi.UFFDIO_COPY_MODE_DONTWAKE) === 0;
    if (wakes) answers.announce(page, page + population.doneBytes / SMALL_PAGE_BYTES);
    return outcome;
  }

  zeropage(start: number, lengthBytes: number, options?: WakeOption): Outcome {
    const mode = options?.dontWake === true ? abi.UFFDIO_COPY_MODE_DONTWAKE : 0;
    return this.copy(start, this.#parts.buffers.zeroAddress, lengthBytes, mode);
  }

  /** vCPUs would not notice: their way to the memory is not the one that can be poisoned. */
  poison(): Outcome {
    return "unregistered";
  }

  /** Those whose pages are there; the others wait on. The range may hold what is no region. */
  wake(start: number, lengthBytes: number): void {
    const { regions, answers } = this.#parts;
    const end = start + lengthBytes;
    for (let region = 0; region < regions.regions.length; region++) {
      const from = Math.max(start, regions.baseOf(region));
      const to = Math.min(end, regions.endOf(region));
      if (from >= to) continue;
      const page = regions.pageAt(region, from);
      answers.announceInstalled(page, page + (to - from) / SMALL_PAGE_BYTES);
    }
  }

  #pageAt(address: number): number {
    const { regions } = this.#parts;
    return regions.pageAt(regions.regionAt(address), address);
  }
}

export interface WireParts {
  readonly uffd: Userfaultfd;
  readonly regions: RegionMap;
  readonly buffers: PageBuffers;
  readonly requests: RequestSocket;
  /** Null: the VMM has none. */
  readonly asyncRequests: RequestSocket | null;
  /** The eventfd of each vCPU's completions. */
  readonly completeFds: readonly number[];
}

/** The real ways to those who wait. */
export class GuestWires implements Wires {
  readonly #parts: WireParts;
  readonly #bytes = new Uint8Array(MAX_REPLIES * MAX_REPLY_FRAME_BYTES);
  readonly #frames = new FrameWriter(this.#bytes);
  readonly #reply = { ...newFaultReply(), sizeBytes: SMALL_PAGE_BYTES };

  constructor(parts: WireParts) {
    this.#parts = parts;
  }

  continuePage(page: number): Outcome {
    return this.#parts.uffd.continue(this.#addressOf(page), SMALL_PAGE_BYTES);
  }

  zeroPage(page: number): Outcome {
    const { uffd, buffers } = this.#parts;
    return uffd.copy(this.#addressOf(page), buffers.zeroAddress, SMALL_PAGE_BYTES);
  }

  wakePage(page: number): void {
    this.#parts.uffd.wake(this.#addressOf(page), SMALL_PAGE_BYTES);
  }

  addReply(vcpu: number, flags: number, gpa: number, offset: number): void {
    const reply = this.#reply;
    reply.vcpu = vcpu;
    reply.flags = flags;
    reply.gpa = gpa === NO_GPA ? null : gpa;
    reply.offset = offset;
    this.#frames.reply(reply);
  }

  sendReplies(kind: typeof WaiterKind.request | typeof WaiterKind.asyncRequest): boolean {
    const { requests, asyncRequests } = this.#parts;
    const socket = kind === WaiterKind.request ? requests : asyncRequests;
    const isSent = socket === null || socket.send(this.#frames.frames);
    this.#frames.clear();
    return isSent;
  }

  signalCompletions(vcpu: number): void {
    signalEventFd(this.#parts.completeFds[vcpu]!);
  }

  #addressOf(page: number): number {
    const { regions } = this.#parts;
    return regions.addressOf(regions.regionOfPage(page), page);
  }
}
