/**
 * Knows what every page of a virtual VM with KVM Userfault must read as, and who may be answered,
 * without knowing how the handler works. Throws at the first that is wrong. PURE.
 *
 * - Pages: the snapshot's bytes, brought once; what the guest wrote to them; zeroes once the VMM
 *   has given the memory back; what KVM wrote where it came first. A bit is clear only when the
 *   bytes are there, unless the VMM itself has cleared it.
 * - Answers: one for each time that somebody asked, and not before the page is there. A handler
 *   that has died may have given the last ones already.
 */
import { HandlerFailure, WrongPage } from "../failures.ts";
import type { Tally } from "../tally.ts";
import { ZERO_BODY } from "../virtual-memory.ts";

export interface UserfaultOracleOptions {
  /** The body of each page in the snapshot. */
  readonly snapshot: readonly number[];
  readonly precleared: ReadonlySet<number>;
  readonly tally: Tally;
}

interface PageTruth {
  body: number;
  note: number;
  /** It has had bytes, whoever brought them. */
  wasBrought: boolean;
  /** Which handler wrote its bytes: the how manyth. */
  writer: number;
  /** It was given back when its writer had not noted yet that it was there. */
  wasLostEarly: boolean;
  /** It was given back, and no handler that lives knows that it had ever been there. */
  mayComeBack: boolean;
}

/** Ways to ask and vCPUs, in one number with the page. */
const KINDS = 4;
const MAX_VCPUS = 64;
const NOBODY = -1;

export class UserfaultOracle {
  readonly #options: UserfaultOracleOptions;
  readonly #pages: PageTruth[];
  /** How often each was asked for and not answered. */
  readonly #asked = new Map<number, number>();
  /** How many there were before this one. */
  #handlers = 0;
  /** How many answers may come twice, as a handler has died. */
  #repeats = 0;

  constructor(options: UserfaultOracleOptions) {
    this.#options = options;
    this.#pages = options.snapshot.map((body) => {
      const flags = { wasBrought: false, wasLostEarly: false, mayComeBack: false };
      return { body, note: 0, writer: NOBODY, ...flags };
    });
  }

  // Pages.

  /** The handler writes a body to the file; `isVisible`: somebody may have seen the page before. */
  filled(page: number, body: number, isVisible: boolean): void {
    const truth = this.#pages[page]!;
    if (isVisible && !truth.mayComeBack)
      throw new WrongPage(page, "was written over when it had been let through");
    if (truth.mayComeBack && body === this.#options.snapshot[page]) {
      // What the guest has written to the zeroes since then is lost with them.
      this.#options.tally.add("hole that nobody knew of");
      truth.body = body;
      truth.note = 0;
    }
    if (body !== truth.body) {
      throw new WrongPage(page, `was filled with ${body} instead of ${truth.body}`);
    }
    truth.wasBrought = true;
    truth.writer = this.#handlers;
    truth.mayComeBack = false;
  }

  /** The handler installs zeroes by the userfaultfd. */
  zeroed(page: number): void {
    if (this.#pages[page]!.body === ZERO_BODY) return;
    throw new WrongPage(page, `got zeroes instead of ${this.#pages[page]!.body}`);
  }

  /** A vCPU has touched a page that is not there, and nothing stopped it. */
  allocated(page: number): void {
    const truth = this.#pages[page]!;
    if (!truth.wasBrought && this.#options.precleared.has(page)) {
      truth.body = ZERO_BODY;
      truth.wasBrought = true;
    }
    if (truth.body === ZERO_BODY) return;
    throw new WrongPage(page, `reads as zero instead of ${truth.body}: its bit is clear too early`);
  }

  filledByKvm(page: number, body: number): void {
    const truth = this.#pages[page]!;
    truth.writer = NOBODY;
    truth.body = body;
    truth.note = 0;
    truth.wasBrought = true;
  }

  /** `isNoted`: the handler has noted that the page was there. */
  givenBack(page: number, isNoted: boolean): void {
    const truth = this.#pages[page]!;
    truth.body = ZERO_BODY;
    truth.note = 0;
    truth.wasLostEarly = !isNoted && truth.writer === this.#handlers;
    truth.mayComeBack = !isNoted && truth.writer !== this.#handlers;
  }

  read(page: number, body: number, note: number): void {
    const truth = this.#pages[page]!;
    if (body !== truth.body) throw new WrongPage(page, `reads as ${body} instead of ${truth.body}`);
    if (note === truth.note) return;
    throw new WrongPage(page, `has note ${note}, not the guest's ${truth.note}`);
  }

  written(page: number, note: number): void {
    this.#pages[page]!.note = note;
  }

  bitCleared(page: number, isThere: boolean): void {
    if (isThere) return;
    throw new WrongPage(page, "has a clear bit, and its bytes are not there");
  }

  /** At the end: have the pages had their bytes? */
  checkBrought(pages: Iterable<number>): void {
    for (const page of pages) {
      if (!this.#pages[page]!.wasBrought) throw new WrongPage(page, "was never brought");
    }
  }

  // Answers.

  asked(kind: number, vcpu: number, page: number): void {
    const key = keyOf(kind, vcpu, page);
    this.#asked.set(key, (this.#asked.get(key) ?? 0) + 1);
  }

  /** `isLetThrough`: the bit of the page is clear. */
  answered(kind: number, vcpu: number, page: number, isLetThrough: boolean): void {
    const truth = this.#pages[page];
    if (truth === undefined) throw new HandlerFailure(`vCPU ${vcpu} got an answer for no page`);
    if (!isLetThrough || !truth.wasBrought) {
      throw new HandlerFailure(`vCPU ${vcpu} got its answer before page ${page} was there`);
    }
    const key = keyOf(kind, vcpu, page);
    const asked = this.#asked.get(key) ?? 0;
    if (asked > 0) {
      this.#asked.set(key, asked - 1);
      return;
    }
    if (this.#repeats === 0) {
      throw new HandlerFailure(`vCPU ${vcpu} got an answer for page ${page} without a question`);
    }
    this.#repeats -= 1;
    this.#options.tally.add("answer given twice");
  }

  /** The handler has died, and may have answered all whom it had not struck out yet. */
  handlerDied(waiterCount: number, isNoted: (page: number) => boolean): void {
    for (const [page, truth] of this.#pages.entries()) {
      if (truth.wasLostEarly && !isNoted(page)) truth.mayComeBack = true;
      truth.wasLostEarly = false;
    }
    this.#handlers += 1;
    this.#repeats += waiterCount;
  }
}

function keyOf(kind: number, vcpu: number, page: number): number {
  return (page * KINDS + kind) * MAX_VCPUS + vcpu;
}
