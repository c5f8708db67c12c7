/**
 * Knows what every page of a virtual VM must read as, without knowing how the planner works: the
 * snapshot's bytes until the page is removed or lost, zeroes from then on, and what the guest wrote
 * for as long as the page is present. Throws at the first page that is wrong.
 */
import { type MemoryWatcher, ZERO_BODY } from "../support/virtual-kernel.ts";

export class WrongPage extends Error {
  override readonly name = "WrongPage";
}

export interface OracleOptions {
  /** The body of each page in the snapshot. */
  readonly snapshot: readonly number[];
  /** Whether a page may be poisoned: its bytes cannot be read, or memory was short for long. */
  mayBePoisoned(page: number): boolean;
}

interface PageTruth {
  body: number;
  note: number;
  /** The handler knows that the VMM took the page back. */
  isRemoveKnown: boolean;
  isPoisoned: boolean;
}

export class PageOracle implements MemoryWatcher {
  /** How often the guest looked at a page. */
  checks = 0;
  readonly #options: OracleOptions;
  readonly #pages: PageTruth[];

  constructor(options: OracleOptions) {
    this.#options = options;
    this.#pages = options.snapshot.map((body) => ({
      body,
      note: 0,
      isRemoveKnown: false,
      isPoisoned: false,
    }));
  }

  filled(page: number, body: number): void {
    const truth = this.#pages[page]!;
    if (truth.isPoisoned) throw wrong(page, `filled with ${body} although it is poisoned`);
    // Between the event and the loss of the page the guest may see either; we promise zeroes.
    if (truth.isRemoveKnown) truth.body = ZERO_BODY;
    if (body !== truth.body) {
      const when = truth.isRemoveKnown ? " after its REMOVE was read" : "";
      throw wrong(page, `filled with ${body} instead of ${truth.body}${when}`);
    }
    truth.note = 0;
  }

  poisoned(page: number): void {
    if (!this.#options.mayBePoisoned(page)) throw wrong(page, "poisoned although it can be had");
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

  read(page: number, body: number, note: number): void {
    this.#check(page, body);
    const truth = this.#pages[page]!;
    if (note !== truth.note) throw wrong(page, `has note ${note}, not the guest's ${truth.note}`);
  }

  written(page: number, body: number, note: number): void {
    this.#check(page, body);
    this.#pages[page]!.note = note;
  }

  killed(page: number): void {
    this.checks += 1;
    if (!this.#pages[page]!.isPoisoned)
      throw wrong(page, "killed its reader without being poisoned");
  }

  #check(page: number, body: number): void {
    this.checks += 1;
    const truth = this.#pages[page]!;
    if (truth.isPoisoned) throw wrong(page, `reads as ${body} although it is poisoned`);
    if (body !== truth.body) throw wrong(page, `reads as ${body} instead of ${truth.body}`);
  }
}

function wrong(page: number, what: string): WrongPage {
  return new WrongPage(`page ${page} ${what}`);
}
