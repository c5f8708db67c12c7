/**
 * The guest and the VMM around a virtual kernel: threads that walk through memory, balloons that
 * take it back, signals, mappings that change, shortages, death. All of it by chance from a seed.
 */
import type { Others, VirtualKernel } from "../support/virtual-kernel.ts";
import type { Random } from "./random.ts";

/** How likely a step is to be each of these; the rest are guest threads that go on. */
export interface Climate {
  readonly remove: number;
  readonly signal: number;
  readonly layout: number;
  readonly shortage: number;
  readonly death: number;
  /** Per operation of the handler. */
  readonly race: number;
  /** Whether EVENT_REMOVE was asked for. Without it the VMM drops pages without a word. */
  readonly hasRemoveEvents: boolean;
}

/** Steps that other threads make before a call of the handler takes effect, at most. */
const STEPS_PER_CALL = 3;
/** VMM threads that take memory back at the same time. */
const MAX_REMOVALS = 3;

export class VirtualGuest implements Others {
  readonly #kernel: VirtualKernel;
  readonly #random: Random;
  readonly #climate: Climate;
  #isCalm = false;

  constructor(kernel: VirtualKernel, random: Random, climate: Climate) {
    this.#kernel = kernel;
    this.#random = random;
    this.#climate = climate;
    kernel.others = this;
  }

  beforeCall(): void {
    if (this.#isCalm) return;
    for (let steps = this.#random.below(STEPS_PER_CALL + 1); steps > 0; steps--) this.step();
  }

  betweenPages(): void {
    if (!this.#isCalm && this.#random.chance(this.#climate.remove / 2)) this.#remove();
  }

  isRacing(): boolean {
    return !this.#isCalm && this.#random.chance(this.#climate.race);
  }

  /** Something happens: mostly a guest thread goes on. */
  step(): void {
    const kernel = this.#kernel;
    if (kernel.isDead) return;
    const { remove, signal, layout, shortage, death } = this.#climate;
    let dice = this.#random.next();
    const falls = (share: number): boolean => {
      dice -= share;
      return dice < 0;
    };
    if (falls(remove)) this.#remove();
    else if (falls(signal)) kernel.interrupt(this.#random.pick(kernel.threads));
    else if (falls(layout)) this.#changeLayout();
    else if (falls(shortage)) kernel.isShort = !kernel.isShort;
    else if (falls(death)) kernel.die();
    else if (kernel.removals.length > 0 && this.#random.chance(0.3)) {
      kernel.advance(this.#random.pick(kernel.removals));
    } else this.#goOn();
  }

  /** Every thread touches a page before the handler runs at all, `stride` pages apart. */
  stampede(stride: number): void {
    for (const thread of this.#kernel.threads) {
      thread.page = (thread.id * stride) % this.#kernel.pageCount;
      this.#kernel.access(thread);
    }
  }

  /** From now on nothing new begins: what is under way comes to its end. */
  calmDown(): void {
    this.#isCalm = true;
    this.#kernel.isShort = false;
  }

  /** Every thread that can go on does. */
  settle(): void {
    const { removals, threads } = this.#kernel;
    for (const removal of removals) this.#kernel.advance(removal);
    for (const thread of threads) if (thread.state === "runnable") this.#kernel.access(thread);
  }

  /** Nothing can happen any more unless the handler does something. */
  get isQuiet(): boolean {
    const { isDead, isReadable, removals, threads } = this.#kernel;
    if (isDead) return true;
    const isSleeping = threads.every(({ state }) => state !== "runnable");
    return isSleeping && removals.length === 0 && !isReadable;
  }

  #goOn(): void {
    const thread = this.#random.pick(this.#kernel.threads);
    if (thread.state === "waiting") return;
    if (thread.state === "idle") {
      // Guests walk through memory, jump elsewhere, and walk on.
      const next = this.#random.chance(0.7)
        ? thread.page + 1
        : this.#random.below(this.#kernel.pageCount);
      thread.page = next % this.#kernel.pageCount;
      thread.isWrite = this.#random.chance(0.3);
    }
    this.#kernel.access(thread);
  }

  #remove(): void {
    const kernel = this.#kernel;
    const first = this.#random.below(kernel.pageCount);
    const pages = this.#random.chance(0.1) ? kernel.pageCount : this.#random.between(1, 6);
    const end = kernel.removableEnd(first, Math.min(first + pages, kernel.pageCount));
    if (end === first) return;
    if (!this.#climate.hasRemoveEvents) kernel.removeSilently(first, end);
    else if (kernel.removals.length < MAX_REMOVALS) {
      const isUnmap = this.#climate.layout > 0 && this.#random.chance(0.03);
      kernel.startRemoval(first, end, isUnmap);
    }
  }

  #changeLayout(): void {
    const kernel = this.#kernel;
    const page = this.#random.below(kernel.pageCount);
    const dice = this.#random.next();
    if (dice < 0.6) kernel.setBorder(page, true);
    else if (dice < 0.9) kernel.setBorder(page, false);
    else kernel.unregister(page, Math.min(page + this.#random.between(1, 3), kernel.pageCount));
  }
}
