/**
 * How many entries and descriptors are kept: the pager counts too, so that it is told at once when
 * a bound is reached, and not by its death. PURE.
 */
import { assert } from "../base/assert.ts";
import { FaultlineError } from "../base/errors.ts";
import { isEntryName, MAX_FDS_PER_ENTRY } from "./messages.ts";

/** A session has at most six; this is for 1024 of them, and some for everything else. */
export const MAX_ENTRIES = 8192;

export class EntryBudget {
  readonly #fdCounts = new Map<string, number>();
  readonly #maxFds: number;
  #fdCount = 0;

  constructor(maxFds: number) {
    this.#maxFds = maxFds;
  }

  get entryCount(): number {
    return this.#fdCounts.size;
  }

  get fdCount(): number {
    return this.#fdCount;
  }

  /** Counts an entry, instead of one of the same name. @throws FaultlineError `limit` */
  take(name: string, fdCount: number): void {
    assert(isEntryName(name), `not a name of an entry: ${name}`);
    assert(fdCount >= 1 && fdCount <= MAX_FDS_PER_ENTRY, `entry ${name} of ${fdCount} descriptors`);
    const before = this.#fdCounts.get(name);
    if (before === undefined && this.#fdCounts.size >= MAX_ENTRIES) {
      throw new FaultlineError(
        "limit",
        `Entry ${name} cannot be kept: the daemon keeps ${MAX_ENTRIES} already, which is all it ` +
          "can. End some sessions.",
      );
    }
    const after = this.#fdCount - (before ?? 0) + fdCount;
    if (after > this.#maxFds) {
      throw new FaultlineError(
        "limit",
        `Entry ${name} cannot be kept: it would be descriptor ${after} of at most ` +
          `${this.#maxFds}. Raise RLIMIT_NOFILE of the daemon (LimitNOFILE= and ` +
          "FileDescriptorStoreMax= of its service).",
      );
    }
    this.#fdCounts.set(name, fdCount);
    this.#fdCount = after;
  }

  release(name: string): void {
    this.#fdCount -= this.#fdCounts.get(name) ?? 0;
    this.#fdCounts.delete(name);
  }
}
