/** Chunks whose bytes follow from their ordinal, and a store of them that counts. */
import assert from "node:assert/strict";
import { viewOf } from "../../src/linux/memory.ts";
import { Random } from "../../src/sim/random.ts";
import type { ArenaDirectory } from "../../src/source/arena-directory.ts";
import { ArenaReader } from "../../src/source/arena-reader.ts";
import { ChunkArena } from "../../src/source/chunk-arena.ts";
import {
  ChunkCache,
  type ChunkDescription,
  type ChunkOrigin,
} from "../../src/source/chunk-cache.ts";
import { ChunkEncoder, digestOf } from "../../src/source/chunk-codec.ts";
import { DecodePool } from "../../src/source/decode-pool.ts";

export interface NumberedChunk extends ChunkDescription {
  readonly bytes: Uint8Array;
  readonly stored: Uint8Array;
}

const SIZES = [4096, 10_000, 65_536, 65_535, 262_144] as const;

export function makeChunks(count: number): NumberedChunk[] {
  const encoder = new ChunkEncoder(1);
  return Array.from({ length: count }, (_, ordinal) => {
    const random = new Random(ordinal);
    const bytes = new Uint8Array(SIZES[ordinal % SIZES.length]!);
    for (let at = 0; at < bytes.length; at += 64) bytes[at] = random.below(256);
    const digest = ordinal % 2 === 0 ? "sha256" : "sha512-256";
    const id = digestOf(bytes, digest);
    return { id, digest, sizeBytes: bytes.length, bytes, stored: encoder.encode(bytes).slice() };
  });
}

/** What one process has: a cache over an arena, with its decoding threads. */
export class ArenaProcess {
  readonly cache: ChunkCache;
  readonly arena: ChunkArena;
  fetches = 0;
  readonly #pool: DecodePool;
  readonly #reader: ArenaReader;
  readonly #chunks: readonly NumberedChunk[];
  readonly #numbers: readonly number[];

  constructor(chunks: readonly NumberedChunk[], sizeBytes: number, directory: ArenaDirectory) {
    this.#chunks = chunks;
    this.arena = new ChunkArena(sizeBytes, directory);
    this.#pool = new DecodePool(1);
    this.#reader = new ArenaReader(this.arena.shared);
    this.cache = new ChunkCache({
      arena: this.arena,
      decode: (stored, chunk, address) =>
        this.#pool.decode(stored, chunk, address, this.arena.blockAddressOf(address)),
    });
    const stored = new Map(chunks.map((chunk) => [chunk.id, chunk.stored]));
    const origin: ChunkOrigin = {
      location: "test:chunks",
      fetch: async (id) => {
        this.fetches += 1;
        return stored.get(id) ?? null;
      },
      hurry: () => {},
    };
    this.#numbers = chunks.map(({ id, digest, sizeBytes: size }) =>
      this.cache.register({ id, digest, sizeBytes: size }, origin),
    );
  }

  /** Brings a chunk in and compares every byte. */
  async use(ordinal: number): Promise<void> {
    const number = this.#numbers[ordinal]!;
    await this.cache.demand(number);
    const address = this.#reader.acquire(number);
    this.arena.unpin(number);
    const { bytes } = this.#chunks[ordinal]!;
    const found = Buffer.from(viewOf(address, bytes.length));
    assert.ok(found.equals(bytes), `chunk ${ordinal} is wrong`);
    this.#reader.releaseAll();
  }

  async close(): Promise<void> {
    await this.#pool.close();
    this.arena.close();
  }
}
