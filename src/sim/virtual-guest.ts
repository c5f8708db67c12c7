/**
 * The guest and the VMM around a virtual kernel: threads that walk through memory, balloons that
 * take it back, signals, mappings that change, shortages, death. All of it by chance from a seed.
 * PURE.
 */
import type { Climate } from "./climate.ts";
import type { Passage } from "./passage.ts";
import type { Random } from "./random.ts";
import type { Tally } from "./tally.ts";
import type { VirtualKernel } from "./virtual-kernel.ts";

/** VMM threads that take memory back at the same time, in a flood and otherwise. */
const MAX_REMOVALS = 3;
const FLOOD_REMOVALS = 12;

export class VirtualGuest {
  readonly #kernel: VirtualKernel;
  readonly #random: Random;
  readonly #climate: Climate;
  readonly #tally: Tally;
  /** What it touches first; null: it does as chance will have it. */
  readonly #passage: Passage | null;
  #isCalm = false;
  #mayExit = true;

  constructor(
    kernel: VirtualKernel,
    random: Random,
    climate: Climate,
    tally: Tally,
    passage: Passage | null = null,
  ) {
    this.#kernel = kernel;
    this.#random = random;
    this.#climate = climate;
    this.#tally = tally;
    this.#passage = passage;
  }

  get isCalm(): boolean {
    return this.#isCalm;
  }

  /** Between two pages of one operation, and only there is a run caught half done. */
  betweenPages(): void {
    if (this.#isCalm) return;
    if (this.#random.chance(this.#climate.remove / 2)) this.#remove();
    if (this.#random.chance(this.#climate.refill)) this.#refill();
    if (this.#random.chance(this.#climate.shortage)) this.#toggleShortage();
  }

  isRacing(): boolean {
    return !this.#isCalm && this.#random.chance(this.#climate.race);
  }

  /** Something happens: mostly a guest thread goes on. */
  step(nowUs: number): void {
    const kernel = this.#kernel;
    if (this.#isCalm) return;
    if (kernel.isDead) {
      if (this.#random.chance(0.1)) this.#exit();
      return;
    }
    if (this.#climate.flood) this.#flood();
    const { remove, signal, layout, shortage, refill, death } = this.#climate;
    let dice = this.#random.next();
    const falls = (share: number): boolean => {
      dice -= share;
      return dice < 0;
    };
    if (falls(remove)) this.#remove();
    else if (falls(signal)) kernel.interrupt(this.#random.pick(kernel.threads));
    else if (falls(layout)) this.#changeLayout();
    else if (falls(shortage)) this.#toggleShortage();
    else if (falls(refill)) this.#refill();
    else if (falls(death)) this.#die();
    else if (kernel.removals.length > 0 && this.#random.chance(0.3)) {
      kernel.advance(this.#random.pick(kernel.removals));
    } else this.#goOn(nowUs);
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
    const kernel = this.#kernel;
    if (kernel.isDead) this.#exit();
    for (const removal of [...kernel.removals]) kernel.advance(removal);
    for (const thread of kernel.threads) if (thread.state === "runnable") kernel.access(thread);
  }

  /** Nothing can happen any more unless the handler does something. */
  get isQuiet(): boolean {
    const { isDead, hasExited, isFrozen, isReadable, removals, threads } = this.#kernel;
    if (isDead) return hasExited || !this.#mayExit;
    const isSleeping = threads.every(({ state }) => state !== "runnable");
    if (isFrozen) return isSleeping;
    return isSleeping && removals.length === 0 && !isReadable;
  }

  #goOn(nowUs: number): void {
    const thread = this.#random.pick(this.#kernel.threads);
    if (thread.state === "waiting") return;
    if (thread.state === "idle" && this.#passage?.isOver === false) {
      const busy = this.#kernel.threads.filter(({ state }) => state !== "idle").length;
      const page = this.#passage.touch(busy, nowUs);
      if (page === null) return;
      this.#tally.add("touch of a recording");
      thread.page = page;
      thread.isWrite = this.#random.chance(0.3);
    } else if (thread.state === "idle") {
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

  /** As soon as an event was read, its thread is back with the next. */
  #flood(): void {
    const kernel = this.#kernel;
    for (const removal of [...kernel.removals]) {
      if (removal.phase !== "posted") kernel.advance(removal);
    }
    while (kernel.removals.length < FLOOD_REMOVALS) {
      const first = this.#random.below(kernel.pageCount);
      const end = kernel.removableEnd(first, Math.min(first + 2, kernel.pageCount));
      if (end === first) return;
      kernel.startRemoval(first, end, false);
    }
  }

  /** Some page, or one that a thread waits for: where it hurts. */
  #refill(): void {
    const { pageCount, threads } = this.#kernel;
    const waiting = threads.filter(({ state }) => state === "waiting");
    const page =
      waiting.length === 0 || this.#random.chance(0.3)
        ? this.#random.below(pageCount)
        : this.#random.pick(waiting).page;
    this.#kernel.fillByVmm(page, this.#random.chance(0.5));
  }

  #changeLayout(): void {
    const kernel = this.#kernel;
    const page = this.#random.below(kernel.pageCount);
    const dice = this.#random.next();
    if (dice < 0.6) kernel.setBorder(page, true);
    else if (dice < 0.9) kernel.setBorder(page, false);
    else kernel.unregister(page, Math.min(page + this.#random.between(1, 3), kernel.pageCount));
  }

  #toggleShortage(): void {
    this.#kernel.isShort = !this.#kernel.isShort;
    if (this.#kernel.isShort) this.#tally.add("shortage");
  }

  #die(): void {
    const isExec = this.#random.chance(0.2);
    this.#mayExit = !isExec;
    this.#tally.add(isExec ? "exec" : "exit");
    this.#kernel.die(isExec ? "it called exec" : "it exits");
  }

  #exit(): void {
    if (!this.#kernel.hasExited && this.#mayExit) this.#kernel.exit();
  }
}
