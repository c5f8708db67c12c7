/**
 * Installs pages of one VM: those that faults wait for, and those ahead of them. Finds the bytes,
 * and protects from writes where writes are recorded.
 */
import type { Outcome } from "../base/outcome.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import * as abi from "../linux/abi-userfaultfd.ts";
import { ActionKind } from "../pager/actions.ts";
import type { WakeOption } from "../uffd/userfaultfd.ts";
import type { DirtyTracker } from "./dirty-tracker.ts";
import type { GuestPages } from "./guest-pages.ts";
import { ABSENT, type ImageBytes, UNREADABLE } from "./image-bytes.ts";
import type { PageBuffers } from "./page-buffers.ts";

const DONT_WAKE: WakeOption = { dontWake: true };

export interface InstallerParts {
  readonly pages: GuestPages;
  readonly bytes: ImageBytes;
  readonly buffers: PageBuffers;
  /** Null: nobody wants to know what the VM writes. */
  readonly tracker: DirtyTracker | null;
  readonly pageSizeBytes: number;
}

export class Installer {
  readonly #parts: InstallerParts;
  readonly #pageSizeBytes: number;

  constructor(parts: InstallerParts) {
    this.#parts = parts;
    this.#pageSizeBytes = parts.pageSizeBytes;
  }

  /**
   * Pages from `firstPage` on at the host address `target`. Without `wakes` their threads sleep on.
   * `absent`: the bytes have been asked for.
   */
  install(
    kind: ActionKind,
    owner: number,
    firstPage: number,
    pageCount: number,
    target: number,
    wakes: boolean,
  ): Outcome | "absent" {
    const { bytes } = this.#parts;
    const offset = firstPage * this.#pageSizeBytes;
    const lengthBytes = pageCount * this.#pageSizeBytes;
    switch (kind) {
      case ActionKind.copy: {
        const source = bytes.locate(owner, offset, lengthBytes);
        return this.#copy(target, source, firstPage, pageCount, wakes);
      }
      case ActionKind.zero:
        return this.#zero(target, firstPage, pageCount, wakes);
      default: {
        const source = bytes.assemble(offset, lengthBytes);
        return this.#copy(target, source, firstPage, pageCount, wakes);
      }
    }
  }

  #copy(
    target: number,
    source: number,
    firstPage: number,
    pageCount: number,
    wakes: boolean,
  ): Outcome | "absent" {
    if (source === UNREADABLE) return "badSource";
    if (source === ABSENT) return "absent";
    const { pages, bytes } = this.#parts;
    const mode = this.#protection(firstPage, pageCount) | wakeMode(wakes);
    const outcome = pages.copy(target, source, pageCount * this.#pageSizeBytes, mode);
    bytes.release();
    return outcome;
  }

  #zero(target: number, firstPage: number, pageCount: number, wakes: boolean): Outcome {
    const { pages, buffers, tracker } = this.#parts;
    const lengthBytes = pageCount * this.#pageSizeBytes;
    const protection = this.#protection(firstPage, pageCount);
    let outcome: Outcome;
    // UFFDIO_ZEROPAGE knows no protection, and hugetlb does not know UFFDIO_ZEROPAGE.
    if (this.#pageSizeBytes === SMALL_PAGE_BYTES && protection === 0) {
      outcome = pages.zeropage(target, lengthBytes, wakes ? undefined : DONT_WAKE);
    } else {
      outcome = pages.copy(target, buffers.zeroAddress, lengthBytes, protection | wakeMode(wakes));
    }
    if (tracker !== null && (outcome === "installed" || outcome === "partial")) {
      tracker.zeroesInstalled(firstPage, pages.doneBytes / this.#pageSizeBytes);
    }
    return outcome;
  }

  /** As bits of UFFDIO_COPY. Asked right before the pages are installed: it sets their bits. */
  #protection(firstPage: number, pageCount: number): number {
    const { tracker } = this.#parts;
    return tracker === null ? 0 : tracker.installMode(firstPage, pageCount);
  }
}

function wakeMode(wakes: boolean): number {
  return wakes ? 0 : abi.UFFDIO_COPY_MODE_DONTWAKE;
}
