/**
 * Memory files for tests: sparse, random, and the same for the same seed. What a handler must serve
 * is put together here, by the obvious means, so that it can be compared with what it does serve.
 */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { atExit } from "./end-cleanly.ts";

export const PAGE_BYTES = 4096;

/** Pages `first` to `end`, exclusive. */
export interface PageRun {
  readonly first: number;
  readonly end: number;
}

/** Numbers from a seed: splitmix32, good enough to tell pages apart. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** 32 random bits. */
  next(): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let value = this.#state;
    value = Math.imul(value ^ (value >>> 16), 0x21f0aaad);
    value = Math.imul(value ^ (value >>> 15), 0x735a2d97);
    return (value ^ (value >>> 15)) >>> 0;
  }

  /** A whole number from 0 to `limit`, exclusive. */
  below(limit: number): number {
    return this.next() % limit;
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)]!;
  }
}

/** Ascending runs with gaps between them, of 1 to `longest` pages each. */
export function randomRuns(random: Random, pageCount: number, longest: number): PageRun[] {
  const runs: PageRun[] = [];
  let first = random.below(longest);
  while (first < pageCount) {
    const end = Math.min(pageCount, first + 1 + random.below(longest));
    runs.push({ first, end });
    first = end + 1 + random.below(longest);
  }
  return runs;
}

/** Writes a sparse file: random bytes in the runs, holes elsewhere. Returns its content. */
export function writeSparse(
  path: string,
  pageCount: number,
  runs: readonly PageRun[],
  seed: number,
): Buffer {
  const random = new Random(seed);
  const content = Buffer.alloc(pageCount * PAGE_BYTES);
  const words = new Uint32Array(content.buffer, content.byteOffset, content.length / 4);
  const fd = openSync(path, "wx", 0o644);
  try {
    ftruncateSync(fd, content.length);
    for (const { first, end } of runs) {
      const from = first * PAGE_BYTES;
      const to = end * PAGE_BYTES;
      for (let index = from / 4; index < to / 4; index++) words[index] = random.next();
      writeSync(fd, content, from, to - from, from);
    }
  } finally {
    closeSync(fd);
  }
  return content;
}

/** A memory file without holes. */
export function writeFull(path: string, pageCount: number, seed = 1): Buffer {
  return writeSparse(path, pageCount, [{ first: 0, end: pageCount }], seed);
}

/** Lays the runs of a diff over what is below it. */
export function overlay(below: Buffer, diff: Buffer, runs: readonly PageRun[]): void {
  for (const { first, end } of runs) {
    diff.copy(below, first * PAGE_BYTES, first * PAGE_BYTES, end * PAGE_BYTES);
  }
}

/** A folder for one test, open to every user; disposal removes it. */
export class TestFolder {
  readonly path = mkdtempSync(join(tmpdir(), "faultline-test-"));
  readonly #forget = atExit(() => this[Symbol.dispose]());

  at(name: string): string {
    return join(this.path, name);
  }

  [Symbol.dispose](): void {
    this.#forget();
    rmSync(this.path, { recursive: true, force: true });
  }
}
