/**
 * KVM Userfault as it was first proposed (July 2024), as a model: what each call answers, without a
 * kernel. One process has the VM; who is not that process gets EIO from every ioctl of the VM.
 *
 *     page has the attribute
 *       ├ a vCPU in guest mode ──────► KVM_RUN: EFAULT, KVM_EXIT_MEMORY_FAULT
 *       ├ KVM itself, may sleep ─────► queued; the eventfd is signalled; waits, and keeps looking
 *       ├ KVM itself, may not sleep ─► KVM_HVA_ERR_USERFAULT
 *       └ the VMM, by its mapping ───► nothing: not seen
 */
import assert from "node:assert/strict";

export const PAGE_BYTES = 4096;
export const KVM_EXIT_MEMORY_FAULT = 39;
export const KVM_MEMORY_EXIT_FLAG_USERFAULT = 1 << 4;
export const KVM_MEMORY_ATTRIBUTE_USERFAULT = 1 << 4;

/** KVM_RUN went on, or came back with EFAULT and says of what. */
export type Run =
  | { readonly kind: "value"; readonly value: number }
  | { readonly kind: "EFAULT"; exitReason: number; flags: number; gpa: number; sizeBytes: number };

/** A kernel thread that waits: its queue entry is on its own stack. */
interface Waiter {
  readonly gfn: number;
  readonly goOn: () => void;
}

export class KvmThen {
  /** One number a page is content enough. Shared: other processes map it too. */
  readonly memory: number[];
  readonly #owner: number;
  readonly #vcpuCount: number;
  readonly #attributes: number[];
  /** Newest first. As long as there are waiters, and each vCPU waits in one place at most. */
  readonly #queue: Waiter[] = [];
  #waiters: Waiter[] = [];
  #isEnabled = false;
  /** The counter of the eventfd that KVM_ENABLE_CAP brought along. */
  eventCount = 0;
  ioctlCount = 0;

  constructor(owner: number, vcpuCount: number, pageCount: number) {
    this.#owner = owner;
    this.#vcpuCount = vcpuCount;
    this.memory = new Array<number>(pageCount).fill(0);
    this.#attributes = new Array<number>(pageCount).fill(0);
  }

  /** KVM_ENABLE_CAP(KVM_CAP_USERFAULT) with KVM_USERFAULT_ENABLE and an eventfd. */
  enable(caller: number): "ok" | "EIO" | "EEXIST" {
    if (!this.#enter(caller)) return "EIO";
    if (this.#isEnabled) return "EEXIST";
    this.#isEnabled = true;
    return "ok";
  }

  /**
   * KVM_SET_MEMORY_ATTRIBUTES: what a range shall have from now on. Setting one unmaps its pages
   * from the vCPUs, so the attribute alone decides what `run` does.
   */
  setAttributes(caller: number, gfn: number, count: number, attributes: number): "ok" | "EIO" {
    if (!this.#enter(caller)) return "EIO";
    this.#attributes.fill(attributes, gfn, gfn + count);
    // Nobody is woken by name: who waits looks at the attribute again and again.
    const done = this.#waiters.filter((waiter) => !this.#isWatched(waiter.gfn));
    this.#waiters = this.#waiters.filter((waiter) => this.#isWatched(waiter.gfn));
    for (const waiter of done) waiter.goOn();
    return "ok";
  }

  /** KVM_READ_USERFAULT: one entry, the newest. Its field `address` holds a gfn. */
  readUserfault(caller: number): { readonly address: number } | "EIO" | "ENOENT" {
    if (!this.#enter(caller)) return "EIO";
    const entry = this.#queue.shift();
    return entry === undefined ? "ENOENT" : { address: entry.gfn };
  }

  /** KVM_RUN up to a read of this page, in guest mode. */
  run(gfn: number): Run {
    if (!this.#isWatched(gfn)) return { kind: "value", value: this.memory[gfn]! };
    const [exitReason, flags] = [KVM_EXIT_MEMORY_FAULT, KVM_MEMORY_EXIT_FLAG_USERFAULT];
    return { kind: "EFAULT", exitReason, flags, gpa: gfn * PAGE_BYTES, sizeBytes: PAGE_BYTES };
  }

  /** KVM's own read on behalf of a vCPU, where it may sleep: the emulator, steal time. */
  async kernelRead(gfn: number): Promise<number> {
    if (this.#isWatched(gfn)) await this.#wait(gfn);
    return this.memory[gfn]!;
  }

  /** The same where it may not sleep. */
  kernelReadAtomic(gfn: number): number | "KVM_HVA_ERR_USERFAULT" {
    return this.#isWatched(gfn) ? "KVM_HVA_ERR_USERFAULT" : this.memory[gfn]!;
  }

  #wait(gfn: number): Promise<void> {
    return new Promise((goOn) => {
      const waiter = { gfn, goOn };
      this.#queue.unshift(waiter);
      this.#waiters.push(waiter);
      assert.ok(this.#waiters.length <= this.#vcpuCount, "a vCPU waits in two places");
      this.eventCount++;
    });
  }

  #isWatched(gfn: number): boolean {
    return this.#isEnabled && (this.#attributes[gfn]! & KVM_MEMORY_ATTRIBUTE_USERFAULT) !== 0;
  }

  /** Every ioctl of a VM begins so: `kvm->mm != current->mm` is EIO. */
  #enter(caller: number): boolean {
    if (caller !== this.#owner) return false;
    this.ioctlCount++;
    return true;
  }
}
