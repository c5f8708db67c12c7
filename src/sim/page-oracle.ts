/**
 * Knows what every page of a virtual VM must read as, without knowing how the planner works: the
 * snapshot's bytes until the page is removed or lost, zeroes from then on, what the VMM filled in
 * itself, and what the guest wrote for as long as the page is present. Throws at the first page
 * that is wrong. PURE.
 */
import { WrongPage } from "./failures.ts";
import type { MemoryWatcher } from "./virtual-kernel.ts";
import { ZERO_BODY } from "./virtual-memory.ts";

export interface OracleOptions {
  /** The body of each page in the snapshot. */
  readonly snapshot: readonly number[];
  /** Whether a page may be poisoned: policy says so, and its bytes or memory cannot be had. */
  mayBePoisoned(page: number): boolean;
}

interface PageTruth {
  body: number;
  note: number;
  /** The handler knows that the VMM took the page back. */
  isRemoveKnown: boolean;
  isPoisoned: boolean;
  /** The handler gave the page its snapshot bytes: its one time is over. */
  hadSnapshotBytes: boolean;
}

export class PageOracle implements MemoryWatcher {
  readonly #options: OracleOptions;
  readonly #pages: PageTruth[];

  constructor(options: OracleOptions) {
    this.#options = options;
    this.#pages = options.snapshot.map((body) => ({
      body,
      note: 0,
      isRemoveKnown: false,
      isPoisoned: false,
      hadSnapshotBytes: false,
    }));
  }

  filled(page: number, body: number): void {
    const truth = this.#pages[page]!;
    if (truth.isPoisoned) {
      throw new WrongPage(page, `was filled with ${body} although it is poisoned`);
    }
    // Between the event and the loss of the page the guest may see either; we promise zeroes.
    if (truth.isRemoveKnown) truth.body = ZERO_BODY;
    if (body !== truth.body) {
      const when = truth.isRemoveKnown
        ? " after its REMOVE was read"
        : truth.hadSnapshotBytes
          ? " although it had its snapshot bytes before"
          : "";
      throw new WrongPage(page, `was filled with ${body} instead of ${truth.body}${when}`);
    }
    if (body === ZERO_BODY) return;
    if (truth.hadSnapshotBytes) throw new WrongPage(page, "got its snapshot bytes twice");
    truth.hadSnapshotBytes = true;
  }

  filledByVmm(page: number, body: number): void {
    this.#pages[page]!.body = body;
    this.#pages[page]!.note = 0;
  }

  poisoned(page: number): void {
    if (!this.#options.mayBePoisoned(page)) {
      throw new WrongPage(page, "was poisoned although it can be had, or policy forbids it");
    }
    this.#pages[page]!.isPoisoned = true;
  }

  removeRead(page: number): void {
    this.#pages[page]!.isRemoveKnown = true;
  }

  dropped(page: number): void {
    const truth = this.#pages[page]!;
    truth.body = ZERO_BODY;
    truth.note = 0;
    truth.isPoisoned = false;
  }

  leftOut(page: number): void {
    const truth = this.#pages[page]!;
    if (truth.isRemoveKnown) truth.body = ZERO_BODY;
    if (truth.body === ZERO_BODY && !truth.isPoisoned) return;
    throw new WrongPage(page, `was left out, and is ${truth.body}, when the VM was let go`);
  }

  read(page: number, body: number, note: number): void {
    this.#check(page, body);
    const truth = this.#pages[page]!;
    if (note === truth.note) return;
    throw new WrongPage(page, `has note ${note}, not the guest's ${truth.note}`);
  }

  written(page: number, body: number, note: number): void {
    this.#check(page, body);
    this.#pages[page]!.note = note;
  }

  killed(page: number): void {
    if (this.#pages[page]!.isPoisoned) return;
    throw new WrongPage(page, "killed its reader without being poisoned");
  }

  #check(page: number, body: number): void {
    const truth = this.#pages[page]!;
    if (truth.isPoisoned) throw new WrongPage(page, `reads as ${body} although it is poisoned`);
    if (body !== truth.body) throw new WrongPage(page, `reads as ${body} instead of ${truth.body}`);
  }
}
