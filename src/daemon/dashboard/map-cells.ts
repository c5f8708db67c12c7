/**
 * The cells of a VM's map that one viewer looks at, as they were last told to him. Looking again
 * compares the page table, a word of 16 pages at a time, with a copy of what it was then, and
 * classifies only cells in which something has changed. So whatever happened in between, what was
 * told and the changes together are what the table says. PURE.
 */
import { VarintWriter } from "../../base/varints.ts";
import { classify, type PageFacts, type PageWords } from "./cell-kinds.ts";
import { addPage, hasPage, PAGES_PER_WORD, type PageBits } from "./page-bits.ts";

/** Which part of guest memory, and how large its cells are, in pages. */
export interface MapWindow {
  readonly first: number;
  readonly scale: number;
  readonly cells: number;
}

/** What is looked at; valid during one call only, as memory may be unmapped afterwards. */
export interface PageSight {
  /** The page table's bytes: four pages each. */
  readonly states: Uint8Array;
  /** Pages in the order of their first demand, from the first on. Asked after the states. */
  readonly demanded: () => Uint32Array;
  /** A bit for each page; null: writes are not tracked. */
  readonly dirty: Uint8Array | null;
}

export interface ChangedCells {
  readonly count: number;
  /** As `decodeRuns` of the protocol reads them. */
  readonly runs: Uint8Array;
}

/** A gap, a length, and a state: what a changed cell takes at most. */
const MAX_CELL_BYTES = 7;

export class MapCells {
  readonly window: MapWindow;
  /** A byte for each cell, as it was told last. */
  readonly states: Uint8Array;
  #facts: PageFacts;
  readonly #end: number;
  readonly #words: PageWords;
  /** Of the pages that were demanded, so many are known. */
  #demandedCount = 0;
  /** A byte for each cell: whether something in it may have changed. */
  readonly #touched: Uint8Array;
  #touchedCount = 0;
  #filled = 0;

  /** To be filled before anything is told. `facts.demanded`: ours to write. */
  constructor(pageCount: number, window: MapWindow, facts: PageFacts, sight: PageSight) {
    const { first, scale, cells } = window;
    this.window = window;
    this.#facts = facts;
    this.#end = Math.min(pageCount, first + scale * cells);
    const firstWord = Math.floor(first / PAGES_PER_WORD);
    const wordCount = Math.ceil(this.#end / PAGES_PER_WORD) - firstWord;
    this.#words = {
      firstWord,
      states: new Int32Array(wordCount),
      dirty: sight.dirty === null ? null : new Uint16Array(wordCount),
    };
    this.states = new Uint8Array(cells);
    this.#touched = new Uint8Array(cells);
    this.#look(sight);
    this.#touched.fill(0);
    this.#touchedCount = 0;
  }

  /**
   * The first look: `states` are right when this has returned false. Some thousand cells at a time
   * leave the event loop to others; whatever happens meanwhile is a change.
   */
  fill(count: number): boolean {
    const end = Math.min(this.window.cells, this.#filled + count);
    for (; this.#filled < end; this.#filled++) {
      this.states[this.#filled] = this.#classify(this.#filled);
    }
    return this.#filled < this.window.cells;
  }

  /** Something else is to be installed ahead from now on: any cell may be another. */
  replan(planned: PageBits | null): void {
    this.#facts = { ...this.#facts, planned };
    this.#touched.fill(1);
    this.#touchedCount = this.window.cells;
  }

  /** What has changed since the last call; null: nothing has. */
  update(sight: PageSight): ChangedCells | null {
    this.#look(sight);
    if (this.#touchedCount === 0) return null;
    const bytes = new Uint8Array(this.#touchedCount * MAX_CELL_BYTES);
    const changed: number[] = [];
    for (
      let cell = this.#touched.indexOf(1);
      this.#touchedCount > 0;
      cell = this.#touched.indexOf(1, cell + 1)
    ) {
      this.#touched[cell] = 0;
      this.#touchedCount -= 1;
      const state = this.#classify(cell);
      if (state === this.states[cell]) continue;
      this.states[cell] = state;
      changed.push(cell);
    }
    if (changed.length === 0) return null;
    return { count: changed.length, runs: encodeRuns(changed, this.states, bytes) };
  }

  #classify(cell: number): number {
    const first = this.window.first + cell * this.window.scale;
    const end = Math.min(first + this.window.scale, this.#end);
    return classify(this.#words, this.#facts, first, end);
  }

  /** The table first: who installs a page has noted its demand before. */
  #look({ states, demanded, dirty }: PageSight): void {
    this.#lookAtStates(states);
    const pages = demanded();
    for (; this.#demandedCount < pages.length; this.#demandedCount++) {
      const page = pages[this.#demandedCount]!;
      if (hasPage(this.#facts.demanded, page)) continue;
      addPage(this.#facts.demanded, page);
      this.#touchPages(page, page + 1);
    }
    if (dirty !== null) this.#lookAtDirty(dirty);
  }

  #lookAtStates(bytes: Uint8Array): void {
    const { firstWord, states: copy } = this.#words;
    const now = wordsOf(bytes);
    const count = Math.min(copy.length, now.length - firstWord);
    for (let index = firstDifference(now, firstWord, copy, 0, count); index < count; ) {
      copy[index] = now[firstWord + index]!;
      this.#touchWord(firstWord + index);
      index = firstDifference(now, firstWord, copy, index + 1, count);
    }
    if (count === copy.length) return;
    // The table's last bytes are no whole word.
    let word = 0;
    for (let at = bytes.length - 1; at >= now.length * 4; at--) word = (word << 8) | bytes[at]!;
    if (copy[count] === word) return;
    copy[count] = word;
    this.#touchWord(firstWord + count);
  }

  #lookAtDirty(bytes: Uint8Array): void {
    const { firstWord, dirty: copy } = this.#words;
    for (let index = 0; index < copy!.length; index++) {
      const at = (firstWord + index) * 2;
      const word = bytes[at]! | ((bytes[at + 1] ?? 0) << 8);
      if (word === copy![index]) continue;
      copy![index] = word;
      this.#touchWord(firstWord + index);
    }
  }

  #touchWord(word: number): void {
    this.#touchPages(word * PAGES_PER_WORD, (word + 1) * PAGES_PER_WORD);
  }

  /** Pages from `from` to `to` (exclusive), of which some may lie outside of the window. */
  #touchPages(from: number, to: number): void {
    const { first, scale } = this.window;
    if (to <= first) return;
    const limit = Math.min(to, this.#end);
    for (
      let cell = Math.floor((Math.max(from, first) - first) / scale);
      first + cell * scale < limit;
      cell++
    ) {
      if (this.#touched[cell] === 1) continue;
      this.#touched[cell] = 1;
      this.#touchedCount += 1;
    }
  }
}

/**
 * The first index from `from` on at which the copy differs, or `count`. Most of a large VM is as it
 * was: four words at a time take half as long.
 */
function firstDifference(
  now: Int32Array,
  firstWord: number,
  copy: Int32Array,
  from: number,
  count: number,
): number {
  let index = from;
  for (; index + 4 <= count; index += 4) {
    const at = firstWord + index;
    const changed =
      (now[at]! ^ copy[index]!) |
      (now[at + 1]! ^ copy[index + 1]!) |
      (now[at + 2]! ^ copy[index + 2]!) |
      (now[at + 3]! ^ copy[index + 3]!);
    if (changed !== 0) break;
  }
  while (index < count && now[firstWord + index] === copy[index]) index += 1;
  return index;
}

/** Whole words only. */
function wordsOf(bytes: Uint8Array): Int32Array {
  const isAligned = bytes.byteOffset % 4 === 0;
  const { buffer, byteOffset } = isAligned ? bytes : bytes.slice();
  return new Int32Array(buffer, byteOffset, Math.floor(bytes.length / 4));
}

/** `cells`: ascending. */
function encodeRuns(cells: readonly number[], states: Uint8Array, bytes: Uint8Array): Uint8Array {
  const writer = new VarintWriter(bytes, 0);
  let end = 0;
  for (let index = 0; index < cells.length; ) {
    const first = cells[index]!;
    let length = 1;
    while (cells[index + length] === first + length) length += 1;
    writer.varint(first - end);
    writer.varint(length);
    writer.bytes(states.subarray(first, first + length));
    end = first + length;
    index += length;
  }
  return bytes.subarray(0, writer.at);
}
