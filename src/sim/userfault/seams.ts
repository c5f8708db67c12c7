/**
 * What the handler does in memory that it shares: with KVM, or with whoever takes over from it.
 * Others run before and after each of these, and the handler may die there; where one of them is
 * several writes, also in between. PURE.
 */

import { UserfaultBitmap } from "../../base/userfault-bitmap.ts";
import { ApfRing } from "../../pager/apf-ring.ts";
import { PageTable } from "../../pager/page-table.ts";
import { Waiters } from "../../pager/waiters.ts";

export interface Seams {
  /** Others run, and the handler may die. */
  enter(): void;
  /** Whether the handler dies in the middle of what it is about to do. */
  diesInside(): boolean;
  dieInside(): never;
  sawFullRing(): void;
  /** A whole number from 0 to `limit`, exclusive. */
  below(limit: number): number;
}

export class SeamBitmap extends UserfaultBitmap {
  readonly #seams: Seams;

  constructor(memory: ArrayBuffer, seams: Seams) {
    super(memory);
    this.#seams = seams;
  }

  override clear(first: number, end: number): number {
    this.#seams.enter();
    if (this.#seams.diesInside()) {
      super.clear(first, first + this.#seams.below(end - first));
      this.#seams.dieInside();
    }
    const count = super.clear(first, end);
    this.#seams.enter();
    return count;
  }
}

export class SeamRing extends ApfRing {
  readonly #seams: Seams;

  constructor(page: ArrayBuffer, seams: Seams) {
    super(page);
    this.#seams = seams;
  }

  override drain(onFault: (gpa: number, flags: number) => void): number {
    this.#seams.enter();
    return super.drain(onFault);
  }

  override arm(): boolean {
    this.#seams.enter();
    const isEmpty = super.arm();
    this.#seams.enter();
    return isEmpty;
  }

  override complete(gpa: number): boolean {
    this.#seams.enter();
    const hasRoom = super.complete(gpa);
    if (!hasRoom) this.#seams.sawFullRing();
    this.#seams.enter();
    return hasRoom;
  }
}

const columns = ["kinds", "vcpus", "pages", "flags", "gpas", "offsets"] as const;

export class SeamWaiters extends Waiters {
  readonly #seams: Seams;

  constructor(memory: ArrayBufferLike, seams: Seams) {
    super(memory);
    this.#seams = seams;
  }

  override add(...args: Parameters<Waiters["add"]>): boolean {
    this.#seams.enter();
    const isAdded = super.add(...args);
    this.#seams.enter();
    return isAdded;
  }

  override remove(index: number): void {
    this.#seams.enter();
    const dies = this.#seams.diesInside();
    if (dies) this.#dieAtColumn();
    super.remove(index);
    if (dies) this.#seams.dieInside();
    this.#seams.enter();
  }

  /** The next looks at one of the columns are the last that this handler takes. */
  #dieAtColumn(): void {
    const name = columns[this.#seams.below(columns.length)]!;
    const column = this[name];
    let looks = this.#seams.below(3);
    const get = (): typeof column => {
      if (looks-- === 0) this.#seams.dieInside();
      return column;
    };
    Object.defineProperty(this, name, { get });
  }
}

export class SeamTable extends PageTable {
  readonly #seams: Seams;

  constructor(pageCount: number, states: Uint8Array, seams: Seams) {
    super(pageCount, states);
    this.#seams = seams;
  }

  override set(...args: Parameters<PageTable["set"]>): void {
    super.set(...args);
    if (this.#seams.diesInside()) this.#seams.dieInside();
  }
}
