/** Reads all bytes of a memory as fault workers do: parts by demand, chunks through the arena. */
import assert from "node:assert/strict";
import { runEnd } from "../../src/base/owner-runs.ts";
import type { ServedMemory } from "../../src/daemon/served-memory.ts";
import { viewOf } from "../../src/linux/memory.ts";
import { ArenaReader } from "../../src/source/arena-reader.ts";
import { isInChunks } from "../../src/source/mapped-image.ts";

export async function wholeMemory({ mapped, sizeBytes, supply }: ServedMemory): Promise<Buffer> {
  const bytes = Buffer.alloc(sizeBytes);
  const { runs } = mapped;
  for (const [run, owner] of runs.owners.entries()) {
    if (owner < 0) continue;
    const [start, end] = [runs.starts[run]!, runEnd(runs, run)];
    if (!isInChunks(mapped)) {
      bytes.set(new Uint8Array(viewOf(mapped.addresses[owner]! + start, end - start)), start);
      continue;
    }
    const part = mapped.chunkNumbers[run]!;
    await supply.demand(part, true);
    const reader = new ArenaReader(mapped.arena);
    const address = reader.acquire(part);
    assert.notEqual(address, 0);
    bytes.set(new Uint8Array(viewOf(address, end - start)), start);
    reader.releaseAll();
    supply.release(part);
  }
  return bytes;
}
