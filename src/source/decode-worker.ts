/** A thread that decompresses chunks straight into the arena, and checks them there. */
import { parentPort } from "node:worker_threads";
import { assert } from "../base/assert.ts";
import { viewOf } from "../linux/memory.ts";
import { MAX_CHUNK_BYTES } from "./chunk-arena.ts";
import { ChunkDecoder, checkDigest } from "./chunk-codec.ts";
import type { DecodeAnswer, DecodeTask } from "./decode-pool.ts";

const decoder = new ChunkDecoder();
/** One view for each block of the arena: creating a view costs more than a small chunk. */
const blocks = new Map<number, Uint8Array>();

function targetOf(blockAddress: number, address: number, sizeBytes: number): Uint8Array {
  let block = blocks.get(blockAddress);
  if (block === undefined) {
    // SAFETY: the arena outlives this thread; chunks never cross a block.
    block = new Uint8Array(viewOf(blockAddress, MAX_CHUNK_BYTES));
    blocks.set(blockAddress, block);
  }
  const start = address - blockAddress;
  return block.subarray(start, start + sizeBytes);
}

const port = parentPort;
assert(port !== null, "this file is a worker's entry");
port.on("message", ({ id, stored, chunk, address, blockAddress }: DecodeTask) => {
  const target = targetOf(blockAddress, address, chunk.sizeBytes);
  const { id: name, digest } = chunk;
  const failure =
    stored === null
      ? checkDigest(target, name, digest)
      : decoder.decode(stored, target, name, digest);
  port.postMessage({ id, failure } satisfies DecodeAnswer);
});
