/**
 * The vCPUs and the VMM's threads of a virtual VM with KVM Userfault: they touch pages by chance,
 * ask in all the ways there are when they may not, and take answers. PURE.
 */
import { SMALL_PAGE_BYTES } from "../../base/units.ts";
import { WaiterKind } from "../../pager/waiters.ts";
import type { Random } from "../random.ts";
import type { UserfaultClimate } from "./climate.ts";
import { HALF_A_PAGE, type SocketKind, type UserfaultKernel } from "./kernel.ts";
import { ASYNC_FLAGS } from "./kernel-ring.ts";
import type { VirtualReply, VirtualRequest, VirtualStream } from "./stream.ts";

const STOPPED_FLAGS = 0x10;
const NO_PAGE = -1;

interface Vcpu {
  readonly id: number;
  /** The page that it is stopped for. */
  stoppedFor: number;
  /** The page that it touches next. */
  next: number;
  /** A reply came when it was not stopped: the next stop ends at once. */
  isReleasedEarly: boolean;
  /** Its ring holds a fault, and KVM has not looked yet whether to signal it. */
  hasUnsignalled: boolean;
  /** Pages that tasks of its guest wait for, and how it asked. */
  readonly pending: Map<number, typeof WaiterKind.asyncRequest | typeof WaiterKind.ring>;
}

export interface GuestHabits {
  /** How often a fault does not stop the vCPU. */
  readonly asyncShare: number;
  readonly writeShare: number;
  /** How often a step is one of the VMM's threads. */
  readonly vmmShare: number;
  /** Faults walk through the memory. */
  readonly scanShare: number;
  readonly tellsGpa: boolean;
  /** Faults of one vCPU that its guest does not wait for: 64 in KVM, where no ring is ever full. */
  readonly maxPending: number;
}

export class UserfaultGuest {
  readonly #kernel: UserfaultKernel;
  readonly #random: Random;
  readonly #habits: GuestHabits;
  readonly #isNoted: (page: number) => boolean;
  readonly #vcpus: readonly Vcpu[];
  readonly #clockPages: readonly number[];
  #climate: UserfaultClimate;
  #isCalm = false;

  /** `isNoted`: whether the handler has noted that a page is there. */
  constructor(
    kernel: UserfaultKernel,
    random: Random,
    climate: UserfaultClimate,
    habits: GuestHabits,
    isNoted: (page: number) => boolean,
  ) {
    this.#kernel = kernel;
    this.#random = random;
    this.#climate = climate;
    this.#habits = habits;
    this.#isNoted = isNoted;
    this.#clockPages = [...kernel.options.precleared].slice(0, 2);
    this.#vcpus = Array.from({ length: kernel.options.vcpuCount }, (_, id) => ({
      ...{ id, stoppedFor: NO_PAGE, next: NO_PAGE },
      ...{ isReleasedEarly: false, hasUnsignalled: false },
      pending: new Map(),
    }));
  }

  /** Somebody does something. */
  step(): void {
    const random = this.#random;
    if (random.chance(this.#habits.vmmShare)) this.#stepVmm();
    else if (random.chance(0.4)) this.takeAnswers();
    else this.#stepVcpu(random.pick(this.#vcpus));
    this.#trouble();
  }

  /** No more trouble from here on; faults that are under way go on. */
  calmDown(climate: UserfaultClimate): void {
    this.#climate = climate;
    this.#isCalm = true;
    this.#streams().forEach((stream) => {
      stream.isStuck = false;
    });
  }

  /** All that can go on goes on, and nothing new begins. */
  settle(): void {
    for (const vcpu of this.#vcpus) {
      if (vcpu.hasUnsignalled) this.#signal(vcpu);
      this.#takeCompletions(vcpu);
    }
    for (const [index, stream] of this.#streams().entries()) {
      while (stream.inbox.length > 0) this.#takeReply(index as SocketKind, stream.inbox.shift()!);
    }
    for (const vcpu of this.#vcpus) {
      if (vcpu.next !== NO_PAGE && vcpu.stoppedFor === NO_PAGE) this.#stepVcpu(vcpu);
    }
    for (const thread of this.#kernel.threads) {
      if (thread.isRunnable) this.#kernel.accessAsVmm(thread, false);
    }
  }

  /** Each page once more, by a vCPU and by a thread of the VMM. */
  touchAll(first: number): void {
    for (const [index, vcpu] of this.#vcpus.entries()) {
      if (first + index < this.#kernel.options.pageCount) vcpu.next = first + index;
    }
    for (const [index, thread] of this.#kernel.threads.entries()) {
      if (first + index >= this.#kernel.options.pageCount) continue;
      thread.page = first + index;
      thread.isRunnable = true;
    }
  }

  /** How many pages `touchAll` touches in each way. */
  get width(): number {
    const threads = this.#kernel.threads.length;
    return threads === 0 ? this.#vcpus.length : Math.min(threads, this.#vcpus.length);
  }

  /** Who still waits for something, in words; null: nobody. */
  get whoWaits(): string | null {
    for (const vcpu of this.#vcpus) {
      if (vcpu.stoppedFor !== NO_PAGE) return `vCPU ${vcpu.id} for page ${vcpu.stoppedFor}`;
      for (const [page, kind] of vcpu.pending) {
        const way = kind === WaiterKind.ring ? "its ring" : "the second socket";
        return `a task of vCPU ${vcpu.id} for page ${page}, by ${way}`;
      }
    }
    const thread = this.#kernel.threads.find(({ isWaiting }) => isWaiting);
    return thread === undefined ? null : `VMM thread ${thread.id} for page ${thread.page}`;
  }

  get isQuiet(): boolean {
    return (
      this.#streams().every(({ inbox }) => inbox.length === 0) &&
      this.#vcpus.every(({ next, hasUnsignalled }) => next === NO_PAGE && !hasUnsignalled) &&
      this.#kernel.threads.every(({ isRunnable }) => !isRunnable) &&
      this.#kernel.rings.every(({ isSignalled }) => !isSignalled)
    );
  }

  #streams(): VirtualStream[] {
    const { requests, asyncRequests } = this.#kernel;
    return asyncRequests === null ? [requests] : [requests, asyncRequests];
  }

  // vCPUs.

  #stepVcpu(vcpu: Vcpu): void {
    if (vcpu.hasUnsignalled) {
      this.#signal(vcpu);
      return;
    }
    if (vcpu.stoppedFor !== NO_PAGE) {
      if (!this.#random.chance(this.#climate.duplicate)) return;
      this.#kernel.options.tally.add("request sent again");
      this.#ask(vcpu, vcpu.stoppedFor);
      return;
    }
    const page = vcpu.next === NO_PAGE ? this.#pickPage() : vcpu.next;
    vcpu.next = NO_PAGE;
    if (vcpu.pending.has(page)) return;
    if (!this.#kernel.isBitSet(page)) this.#access(page);
    else if (this.#isCalm || !this.#goOnWithout(vcpu, page)) this.#stop(vcpu, page);
    if (vcpu.stoppedFor !== NO_PAGE || vcpu.next !== NO_PAGE || this.#isCalm) return;
    if (this.#random.chance(this.#habits.scanShare)) {
      vcpu.next = (page + 1) % this.#kernel.options.pageCount;
    }
  }

  #access(page: number): void {
    const { isGuestMemfd, precleared } = this.#kernel.options;
    // Let through by the VMM, and not there yet: zeroes, which only a guest_memfd keeps.
    const isAwaited = precleared.has(page) && !this.#kernel.isThere(page) && !this.#isNoted(page);
    if (isAwaited && !isGuestMemfd) return;
    this.#kernel.accessAsVcpu(page, this.#random.chance(this.#habits.writeShare));
  }

  /** Whether the guest can do something else until the page is there. */
  #goOnWithout(vcpu: Vcpu, page: number): boolean {
    const { rings, asyncRequests, options } = this.#kernel;
    const { pending } = vcpu;
    const { asyncShare, maxPending } = this.#habits;
    if (pending.size === maxPending || !this.#random.chance(asyncShare)) return false;
    const ring = rings[vcpu.id];
    if (ring?.hasRoom === true) {
      options.oracle.asked(WaiterKind.ring, vcpu.id, page);
      options.tally.add("fault by ring");
      pending.set(page, WaiterKind.ring);
      ring.publish(this.#kernel.gpaOf(page));
      this.#trace(() => `vCPU ${vcpu.id} tells of page ${page} by its ring`);
      vcpu.hasUnsignalled = true;
      return true;
    }
    if (asyncRequests === null) return false;
    if (ring !== undefined) options.tally.add("ring of faults is full");
    options.oracle.asked(WaiterKind.asyncRequest, vcpu.id, page);
    options.tally.add("fault by the second socket");
    pending.set(page, WaiterKind.asyncRequest);
    asyncRequests.push(this.#request(vcpu, page, ASYNC_FLAGS));
    this.#trace(() => `vCPU ${vcpu.id} asks for page ${page} on the second socket`);
    return true;
  }

  /** The vCPU goes on, and KVM looks whether the handler wants to be told. */
  #signal(vcpu: Vcpu): void {
    vcpu.hasUnsignalled = false;
    if (!this.#kernel.rings[vcpu.id]!.takeArmed()) return;
    this.#kernel.hasRingEdge = true;
    this.#kernel.options.tally.add("ring signalled");
    this.#trace(() => `KVM signals the ring of vCPU ${vcpu.id}`);
  }

  #stop(vcpu: Vcpu, page: number): void {
    this.#kernel.options.tally.add("fault that stops the vCPU");
    this.#ask(vcpu, page);
    if (vcpu.isReleasedEarly) {
      vcpu.isReleasedEarly = false;
      vcpu.next = page;
    } else vcpu.stoppedFor = page;
  }

  #ask(vcpu: Vcpu, page: number): void {
    this.#trace(() => `vCPU ${vcpu.id} stops for page ${page}`);
    this.#kernel.options.oracle.asked(WaiterKind.request, vcpu.id, page);
    this.#kernel.requests.push(this.#request(vcpu, page, STOPPED_FLAGS));
  }

  #request(vcpu: Vcpu, page: number, flags: number): VirtualRequest {
    const isAsync = flags === ASYNC_FLAGS;
    const gpa = isAsync || this.#habits.tellsGpa ? this.#kernel.gpaOf(page) : null;
    return { vcpu: vcpu.id, page, flags, gpa, offset: gpa === null ? page * SMALL_PAGE_BYTES : 0 };
  }

  // Answers.

  /** Some of what the handler has said arrives. */
  takeAnswers(): void {
    for (const [index, stream] of this.#streams().entries()) {
      if (stream.isStuck || stream.inbox.length === 0) continue;
      this.#takeReply(index as SocketKind, stream.inbox.shift()!);
    }
    if (this.#vcpus.length > 0) this.#takeCompletions(this.#random.pick(this.#vcpus));
  }

  #takeReply(kind: SocketKind, reply: VirtualReply): void {
    const vcpu = this.#vcpus[reply.vcpu]!;
    if (kind === WaiterKind.asyncRequest) {
      this.#ready(vcpu, this.#kernel.pageAt(reply.gpa));
      return;
    }
    if (vcpu.stoppedFor === NO_PAGE) {
      this.#kernel.options.tally.add("reply to a vCPU that runs");
      vcpu.isReleasedEarly = true;
      return;
    }
    vcpu.next = vcpu.stoppedFor;
    vcpu.stoppedFor = NO_PAGE;
  }

  #takeCompletions(vcpu: Vcpu): void {
    this.#kernel.rings[vcpu.id]?.takeCompletions((gpa) => {
      const page = this.#kernel.pageAt(gpa);
      const isLetThrough = !this.#kernel.isBitSet(page);
      this.#kernel.options.oracle.answered(WaiterKind.ring, vcpu.id, page, isLetThrough);
      this.#ready(vcpu, page);
    });
  }

  /** The task goes on, and touches what it waited for. */
  #ready(vcpu: Vcpu, page: number): void {
    if (!vcpu.pending.delete(page)) return;
    if (!this.#kernel.isBitSet(page)) this.#access(page);
  }

  // The VMM.

  #stepVmm(): void {
    const { threads } = this.#kernel;
    if (threads.length === 0) return;
    const thread = this.#random.pick(threads);
    if (thread.isWaiting) return;
    if (!thread.isRunnable) thread.page = this.#pickPage();
    this.#kernel.accessAsVmm(thread, this.#random.chance(this.#habits.writeShare));
  }

  #trouble(): void {
    const { hole, stuck, sleeper, clock } = this.#climate;
    const random = this.#random;
    if (random.chance(hole)) this.#giveBack(this.#pickPage());
    if (random.chance(clock) && this.#clockPages.length > 0) {
      const page = random.pick(this.#clockPages);
      if (this.#kernel.options.isGuestMemfd) this.#kernel.fillByKvm(page);
    }
    for (const thread of this.#kernel.threads) {
      if (thread.isWaiting && random.chance(sleeper)) this.#kernel.mapWithoutWake(thread.page);
    }
    for (const stream of this.#streams()) {
      // Stuck for as long on average as it is not.
      if (random.chance(stream.isStuck ? 0.02 : stuck)) stream.isStuck = !stream.isStuck;
    }
  }

  /** Only what the guest can have used, and no longer uses. */
  #giveBack(page: number): void {
    const kernel = this.#kernel;
    const { bodies } = kernel;
    if (kernel.isBitSet(page) || bodies[page] === HALF_A_PAGE || !kernel.isThere(page)) return;
    kernel.giveBack(page, this.#isNoted(page));
  }

  #pickPage(): number {
    return this.#random.below(this.#kernel.options.pageCount);
  }

  #trace(line: () => string): void {
    const { trace } = this.#kernel.options;
    if (trace !== null) trace(line());
  }
}
