/**
 * How long a fault worker busy-waits for the next fault before it sleeps.
 *
 * Sleeping costs the next fault a wake-up of this thread, some 15 to 40 µs on a virtual machine;
 * spinning costs a CPU. So spin while faults come faster than a wake-up takes, and stop as soon as
 * they do not: an idle VM must cost nothing. PURE: time comes in as an argument.
 */

/** `"auto"`, `"off"`, or always spin for this many microseconds. */
export type SpinMode = "auto" | "off" | number;

/**
 * Spin only while the mean gap is below this: three times the dearest wake-up seen. Where it is
 * wrong, `spins that paid` in the statistics falls behind `spins that expired`.
 */
const WORTHWHILE_GAP_US = 100;
/** Waiting longer than this for a fault that was expected sooner is a lost bet. */
const SPIN_BUDGET_US = 200;
/** A pause counts as this much at most, so that two quick faults after it start the spin again. */
const GAP_CAP_US = 800;
/** Weight of the newest gap in the mean. */
const NEWEST = 1 / 8;

export class SpinPacer {
  readonly #mode: SpinMode;
  #meanGapUs = GAP_CAP_US;

  constructor(mode: SpinMode) {
    this.#mode = mode;
  }

  /** How long to spin from now on before sleeping; 0: sleep at once. */
  get budgetUs(): number {
    if (this.#mode === "off") return 0;
    if (this.#mode === "auto") return this.#meanGapUs < WORTHWHILE_GAP_US ? SPIN_BUDGET_US : 0;
    return this.#mode;
  }

  /** A fault came `gapUs` after the last one was answered. */
  observeGap(gapUs: number): void {
    const gap = gapUs < GAP_CAP_US ? gapUs : GAP_CAP_US;
    this.#meanGapUs += (gap - this.#meanGapUs) * NEWEST;
  }
}

/**
 * After a fault on a page that nobody expected, nothing is installed ahead for so long: the next
 * such fault, of a thread that goes on at once, would wait for the end of a step.
 */
const HOLD_US = 50;
/** But one step is taken in so long at least, however many such faults there are. */
const MAX_HOLD_US = 1000;

/** When the next pages may be installed ahead of all VMs. Faults on expected pages hold nothing. */
export class StepPacer {
  #unexpectedUs = Number.NEGATIVE_INFINITY;
  #steppedUs = 0;

  observeUnexpected(nowUs: number): void {
    this.#unexpectedUs = nowUs;
  }

  observeStep(nowUs: number): void {
    this.#steppedUs = nowUs;
  }

  /** No step before this moment. */
  get heldUntilUs(): number {
    return Math.min(this.#unexpectedUs + HOLD_US, this.#steppedUs + MAX_HOLD_US);
  }
}
