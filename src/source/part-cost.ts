/** What it took to bring a part of an image into memory, for the account of those who waited. */
import { monotonicUs } from "../linux/clock.ts";

/** Microseconds; moments are of the monotonic clock. */
export interface PartCost {
  /** From when on somebody worked on it, and until when. */
  readonly fromUs: number;
  readonly untilUs: number;
  /** Reading from a store, its queue and repeated requests included. */
  readonly storeUs: number;
  /** Reading a copy on this host. */
  readonly nearUs: number;
  /** Reading a memory file from its disk. */
  readonly diskUs: number;
  readonly decodeUs: number;
  /** Until the cache had a place for it. */
  readonly roomUs: number;
  /** It had been in the cache before, and was dropped. */
  readonly isAgain: boolean;
}

/** Where a read found its bytes; the store that answers writes it down. */
export interface ReadTrail {
  isNear: boolean;
}

/** A cost that is still growing. */
export class PartBill implements PartCost {
  readonly fromUs = monotonicUs();
  untilUs = this.fromUs;
  storeUs = 0;
  nearUs = 0;
  diskUs = 0;
  decodeUs = 0;
  roomUs = 0;
  readonly isAgain: boolean;

  constructor(isAgain = false) {
    this.isAgain = isAgain;
  }

  /** Nothing more is to be done. A copy: messages carry plain objects. */
  close(): PartCost {
    this.untilUs = monotonicUs();
    return { ...this };
  }
}
