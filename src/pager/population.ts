/**
 * Puts pages into the memory of a VM with KVM Userfault: first the bytes, then the bits that let
 * vCPUs at them. Whoever waits is answered after that (`answers.ts`).
 *
 * A page may be there already: KVM fills some by itself (kvm-clock), and a guest_memfd is written
 * only once. Then the write says so, or ends short before that page; its bytes are left alone, and
 * its bit is cleared all the same.
 *
 * PURE: bytes are named by their address, and somebody else writes them.
 */
import type { Outcome } from "../base/outcome.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import type { UserfaultBitmap } from "../base/userfault-bitmap.ts";

/**
 * What a write can say instead of how much it wrote: the page at its beginning is there already,
 * memory is short, the bytes cannot be read.
 */
export type WriteRefusal = "present" | "outOfMemory" | "badSource";

/** The memory of a VM as a file: a guest_memfd. */
export interface GuestFile {
  /** Both lengths and offsets are of whole pages; returns bytes, at least one. */
  write(sourceAddress: number, lengthBytes: number, offset: number): number | WriteRefusal;
}

export class Population {
  readonly #file: GuestFile;
  readonly #bitmap: UserfaultBitmap;
  /** Of the last `install`: how much of it is done. */
  doneBytes = 0;
  /** Of the last `install`: pages that were there already. */
  presentPages = 0;

  constructor(file: GuestFile, bitmap: UserfaultBitmap) {
    this.#file = file;
    this.#bitmap = bitmap;
  }

  /** Pages from `firstPage` on get the bytes at `sourceAddress`, and their bits are cleared. */
  install(firstPage: number, sourceAddress: number, lengthBytes: number): Outcome {
    this.presentPages = 0;
    const refusal = this.#write(firstPage * SMALL_PAGE_BYTES, sourceAddress, lengthBytes);
    if (this.doneBytes > 0) {
      this.#bitmap.clear(firstPage, firstPage + this.doneBytes / SMALL_PAGE_BYTES);
    }
    if (refusal === null) return "installed";
    return this.doneBytes > 0 ? "partial" : refusal;
  }

  #write(offset: number, sourceAddress: number, lengthBytes: number): Outcome | null {
    this.doneBytes = 0;
    while (this.doneBytes < lengthBytes) {
      const done = this.doneBytes;
      const result = this.#file.write(sourceAddress + done, lengthBytes - done, offset + done);
      if (result === "present") {
        this.presentPages += 1;
        this.doneBytes += SMALL_PAGE_BYTES;
      } else if (typeof result === "string") {
        return result;
      } else {
        const wholePages = result - (result % SMALL_PAGE_BYTES);
        // The source has ended in the middle of a page: half of it is there, and its bit is set.
        if (wholePages === 0) return "badSource";
        this.doneBytes += wholePages;
      }
    }
    return null;
  }
}
