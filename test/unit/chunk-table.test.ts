/** Chunks in columns: found by every one of their ids' bits, however many there are. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { chunkId } from "../../src/snapshot/chunk-id.ts";
import { ChunkTable, ID_WORDS, idWords } from "../../src/source/chunk-table.ts";

test("gives every id its number, through all growth, and nothing for others", () => {
  const count = 10_000;
  const bytes = randomBytes(count * 32);
  const ids = idWords(bytes);
  const table = new ChunkTable();
  for (let number = 0; number < count; number++) {
    assert.equal(table.find(ids, number * ID_WORDS), -1);
    const digest = number % 3 === 0 ? "sha256" : "sha512-256";
    assert.equal(table.add(ids, number * ID_WORDS, digest, number + 1), number);
    table.setOrigins(number, number % 7);
  }
  for (let number = 0; number < count; number++) {
    assert.equal(table.find(ids, number * ID_WORDS), number);
    assert.equal(table.origins(number), number % 7);
    assert.deepEqual(table.describe(number), {
      id: chunkId(bytes.toString("hex", number * 32, number * 32 + 32)),
      digest: number % 3 === 0 ? "sha256" : "sha512-256",
      sizeBytes: number + 1,
    });
  }
  assert.equal(table.count, count);
});

test("tells ids apart that differ in one bit", () => {
  const bytes = randomBytes(32);
  const table = new ChunkTable();
  table.add(idWords(bytes), 0, "sha256", 1);
  for (let bit = 0; bit < 256; bit++) {
    const other = Buffer.from(bytes);
    other[bit >>> 3]! ^= 1 << (bit & 7);
    assert.equal(table.find(idWords(other), 0), -1, `bit ${bit}`);
  }
});
