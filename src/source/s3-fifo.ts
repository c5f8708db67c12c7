/**
 * Which objects a full cache keeps: S3-FIFO (Yang and others, SOSP 2023). New objects pass through
 * a small queue; what is read again there, or comes back soon after it fell out, goes to the main
 * queue. A scan, which reads everything once, only ever turns over the small one.
 *
 * ```
 *   add ──► small (a tenth) ── read again ──► main ── read since ──► main again
 *                │ not read                     │ not read
 *                ▼                              ▼
 *              ghosts (names only)            gone
 * ```
 *
 * PURE.
 */
import { assert } from "../base/assert.ts";

/** More says nothing more: an object must not live on its past for ever. */
const MOST_READS = 3;
const SMALL_SHARE = 0.1;

interface Entry {
  readonly sizeBytes: number;
  reads: number;
}

export class S3Fifo {
  // Maps keep the order in which entries came: the first one is the oldest.
  readonly #small = new Map<string, Entry>();
  readonly #main = new Map<string, Entry>();
  readonly #ghosts = new Set<string>();
  #smallBytes = 0;
  #mainBytes = 0;

  get sizeBytes(): number {
    return this.#smallBytes + this.#mainBytes;
  }

  get count(): number {
    return this.#small.size + this.#main.size;
  }

  has(name: string): boolean {
    return this.#small.has(name) || this.#main.has(name);
  }

  /** A new object. */
  add(name: string, sizeBytes: number): void {
    assert(!this.has(name), `${name} is kept already`);
    if (this.#ghosts.delete(name)) this.#addMain(name, { sizeBytes, reads: 0 });
    else {
      this.#small.set(name, { sizeBytes, reads: 0 });
      this.#smallBytes += sizeBytes;
    }
  }

  /** One that had been kept before this process began: it has passed the small queue. */
  addOld(name: string, sizeBytes: number): void {
    if (!this.has(name)) this.#addMain(name, { sizeBytes, reads: 0 });
  }

  /** It was read. */
  touch(name: string): void {
    const entry = this.#small.get(name) ?? this.#main.get(name);
    if (entry !== undefined) entry.reads = Math.min(MOST_READS, entry.reads + 1);
  }

  delete(name: string): void {
    this.#takeSmall(name) ?? this.#takeMain(name);
  }

  /** Forgets the object that is worth least, and names it; null if there is none. */
  evict(): string | null {
    // Each turn takes one from small for good, or takes one read from main: it ends.
    while (this.count > 0) {
      const isSmallFull = this.#smallBytes > this.sizeBytes * SMALL_SHARE;
      const evicted = isSmallFull || this.#main.size === 0 ? this.#turnSmall() : this.#turnMain();
      if (evicted !== null) return evicted;
    }
    return null;
  }

  #turnSmall(): string | null {
    const [name] = this.#small.keys();
    const entry = this.#takeSmall(name!)!;
    if (entry.reads > 0) {
      this.#addMain(name!, { ...entry, reads: 0 });
      return null;
    }
    this.#ghosts.add(name!);
    // As many names of the dead as there are living ones in main.
    for (const oldest of this.#ghosts) {
      if (this.#ghosts.size <= Math.max(1, this.#main.size)) break;
      this.#ghosts.delete(oldest);
    }
    return name!;
  }

  #turnMain(): string | null {
    const [name] = this.#main.keys();
    const entry = this.#takeMain(name!)!;
    if (entry.reads === 0) return name!;
    this.#addMain(name!, { ...entry, reads: entry.reads - 1 });
    return null;
  }

  #addMain(name: string, entry: Entry): void {
    this.#main.set(name, entry);
    this.#mainBytes += entry.sizeBytes;
  }

  #takeSmall(name: string): Entry | null {
    const entry = this.#small.get(name);
    if (entry === undefined) return null;
    this.#small.delete(name);
    this.#smallBytes -= entry.sizeBytes;
    return entry;
  }

  #takeMain(name: string): Entry | null {
    const entry = this.#main.get(name);
    if (entry === undefined) return null;
    this.#main.delete(name);
    this.#mainBytes -= entry.sizeBytes;
    return entry;
  }
}
