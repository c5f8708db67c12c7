/** A chunk with one bit that is another one: found out, or the same bytes all the same. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Random } from "../../src/sim/random.ts";
import { ChunkDecoder, ChunkEncoder, digestOf } from "../../src/source/chunk-codec.ts";

const SEED = Number(process.env.FAULTLINE_SEED ?? 1);
const CHUNKS = 1000;
const SIZE = 4096;
/** Of each chunk; every bit of some. */
const FLIPS = 20;
const CHUNKS_IN_FULL = 10;

/** As pages of guests are: few different bytes, many, or mostly zero. */
function randomChunk(random: Random): Uint8Array {
  const variety = random.pick([2, 8, 64, 256]);
  const density = random.pick([0.05, 0.5, 1]);
  return Uint8Array.from({ length: SIZE }, () =>
    random.chance(density) ? random.below(variety) : 0,
  );
}

describe("a stored chunk with one flipped bit", () => {
  const random = new Random(SEED);
  test(`never passes for whole with other bytes, in ${CHUNKS} chunks (seed ${SEED})`, (t) => {
    using encoder = new ChunkEncoder(3);
    using decoder = new ChunkDecoder();
    const target = new Uint8Array(SIZE);
    let caught = 0;
    let harmless = 0;
    for (let index = 0; index < CHUNKS; index++) {
      const bytes = randomChunk(random);
      const id = digestOf(bytes, "sha256");
      const stored = Uint8Array.from(encoder.encode(bytes));
      const bits = stored.length * 8;
      const isInFull = index < CHUNKS_IN_FULL;
      for (let flip = 0; flip < (isInFull ? bits : FLIPS); flip++) {
        const bit = isInFull ? flip : random.below(bits);
        stored[bit >> 3]! ^= 1 << (bit & 7);
        const failure = decoder.decode(stored, target, id, "sha256");
        stored[bit >> 3]! ^= 1 << (bit & 7);
        if (failure !== null) caught += 1;
        else {
          assert.deepEqual(target, bytes, `bit ${bit} of chunk ${index}`);
          harmless += 1;
        }
      }
      assert.equal(decoder.decode(stored, target, id, "sha256"), null, "whole again");
    }
    t.diagnostic(`${caught} flips caught, ${harmless} that zstd ignores`);
    assert.ok(caught > CHUNKS * FLIPS);
  });
});
