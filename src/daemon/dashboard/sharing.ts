/**
 * Which chunks the images that are open share: these lie in the cache once for all of them.
 * Counted anew only when another set of images is open, and in small steps: the main thread has
 * VMs to serve.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { hasBit, setBit } from "../../base/bitmap.ts";
import { ZERO_OWNER } from "../../base/owner-runs.ts";
import type { MappedChunks } from "../../source/mapped-image.ts";
import type { ImageRow } from "./protocol.ts";

/** Of more images than this, the first ones are compared. */
export const MAX_COMPARED = 64;
const MAX_SHARED_WITH = 8;
/** Chunks, or words of sets, between two looks at the clock, and how long a step may take. */
const STEP = 16_384;
const STEP_MS = 4;

/** An image that is open. */
export interface OpenImage {
  readonly memory: string;
  readonly mapped: MappedChunks;
}

export type ImageSharing = Pick<ImageRow, "chunks" | "sharedChunks" | "sharedWith">;

export const notCounted: ImageSharing = { chunks: null, sharedChunks: null, sharedWith: [] };

interface Counted {
  readonly image: OpenImage;
  readonly chunks: Uint8Array;
  readonly count: number;
  readonly with: { memory: string; chunks: number }[];
  sharedChunks: number;
}

export class ChunkSharing {
  readonly #images: () => readonly OpenImage[];
  #counting: Promise<void> | null = null;
  #compared: readonly MappedChunks[] = [];
  #found = new Map<MappedChunks, ImageSharing>();
  /** Numbers of chunks that more than one image has. */
  #shared: Uint8Array = new Uint8Array(0);

  constructor(images: () => readonly OpenImage[]) {
    this.#images = images;
  }

  /** Resolves when what is open now, or a moment ago, is counted. */
  async update(): Promise<void> {
    if (this.#counting !== null) return await this.#counting;
    const images = this.#images().slice(0, MAX_COMPARED);
    if (isSame(images, this.#compared)) return;
    this.#counting = this.#count(images).finally(() => {
      this.#counting = null;
    });
    await this.#counting;
  }

  of(mapped: MappedChunks): ImageSharing {
    return this.#found.get(mapped) ?? notCounted;
  }

  /** Whether another image has the chunk of this number too. */
  isShared(chunk: number): boolean {
    return chunk < this.#shared.length * 8 && hasBit(this.#shared, chunk);
  }

  async #count(images: readonly OpenImage[]): Promise<void> {
    const turns = new Turns();
    const all: Counted[] = [];
    for (const image of images) all.push(await countChunks(image, turns));
    const shared = new Uint8Array(Math.max(0, ...all.map(({ chunks }) => chunks.length)));
    for (const [index, one] of all.entries()) {
      for (const other of all.slice(index + 1)) await compare(one, other, shared, turns);
    }
    for (const one of all) one.sharedChunks = await countCommon(one.chunks, shared, turns);
    this.#compared = images.map(({ mapped }) => mapped);
    this.#shared = shared;
    this.#found = new Map(all.map((one) => [one.image.mapped, sharingOf(one)]));
  }
}

/** Lets the event loop go on when a step has taken long enough. */
class Turns {
  #sinceMs = performance.now();
  #done = 0;

  async spent(items: number): Promise<void> {
    this.#done += items;
    if (this.#done < STEP) return;
    this.#done = 0;
    if (performance.now() - this.#sinceMs < STEP_MS) return;
    await nextTurn();
    this.#sinceMs = performance.now();
  }
}

async function countChunks(image: OpenImage, turns: Turns): Promise<Counted> {
  const { runs, chunkNumbers } = image.mapped;
  let chunks: Uint8Array = new Uint8Array(1024);
  let count = 0;
  for (let run = 0; run < chunkNumbers.length; run++) {
    if (run % 1024 === 1023) await turns.spent(1024);
    if (runs.owners[run] === ZERO_OWNER) continue;
    const number = chunkNumbers[run]!;
    if (number >= chunks.length * 8) chunks = widened(chunks, number);
    if (hasBit(chunks, number)) continue;
    setBit(chunks, number);
    count += 1;
  }
  return { image, chunks, count, with: [], sharedChunks: 0 };
}

async function compare(
  one: Counted,
  other: Counted,
  shared: Uint8Array,
  turns: Turns,
): Promise<void> {
  const chunks = await countCommon(one.chunks, other.chunks, turns, shared);
  if (chunks === 0) return;
  one.with.push({ memory: other.image.memory, chunks });
  other.with.push({ memory: one.image.memory, chunks });
}

/** How many are in both; `into`: they are added there. */
async function countCommon(
  a: Uint8Array,
  b: Uint8Array,
  turns: Turns,
  into: Uint8Array | null = null,
): Promise<number> {
  let count = 0;
  const length = Math.min(a.length, b.length);
  for (let at = 0; at < length; at++) {
    if (at % 1024 === 1023) await turns.spent(1024);
    const both = a[at]! & b[at]!;
    if (both === 0) continue;
    if (into !== null) into[at]! |= both;
    for (let bits = both; bits !== 0; bits &= bits - 1) count += 1;
  }
  return count;
}

function sharingOf({ count, sharedChunks, with: others }: Counted): ImageSharing {
  const sharedWith = others.sort((a, b) => b.chunks - a.chunks).slice(0, MAX_SHARED_WITH);
  return { chunks: count, sharedChunks, sharedWith };
}

function widened(bits: Uint8Array, number: number): Uint8Array {
  const wide = new Uint8Array(2 ** Math.ceil(Math.log2(Math.floor(number / 8) + 1)));
  wide.set(bits);
  return wide;
}

function isSame(images: readonly OpenImage[], mapped: readonly MappedChunks[]): boolean {
  return images.length === mapped.length && images.every((each, i) => each.mapped === mapped[i]);
}
