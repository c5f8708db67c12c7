/** Where the bytes of a page come from: a file's, a chunk's, or nobody's. */
import { type OwnerRuns, runAt, runEnd, ZERO_OWNER } from "../../base/owner-runs.ts";
import { cachedBytes } from "../../linux/file.ts";
import { isInChunks, type MappedChunks, runOfOwner } from "../../source/mapped-image.ts";
import type { MappedLayers } from "../../source/memory-files.ts";
import type { ServedMemory } from "../served-memory.ts";
import type { SourceOfPage } from "./source.ts";

const zeroes: SourceOfPage = {
  source: { kind: "zero", name: "", offset: null, store: null, sizeBytes: 0 },
  inCache: null,
};

export function sourceOfPage(
  served: ServedMemory,
  page: number,
  pageSizeBytes: number,
): SourceOfPage {
  const { mapped } = served;
  const from = page * pageSizeBytes;
  const run = firstWithBytes(mapped.runs, from, from + pageSizeBytes);
  if (run < 0) return zeroes;
  const offset = Math.max(from, mapped.runs.starts[run]!);
  if (isInChunks(mapped)) return inChunk(served, mapped, run, offset);
  const lengthBytes = Math.min(runEnd(mapped.runs, run), from + pageSizeBytes) - offset;
  return inFile(served, mapped, run, { offset, lengthBytes });
}

/** Of a page that several hold, the first that holds any of its bytes; -1: it is all zeroes. */
function firstWithBytes(runs: OwnerRuns, from: number, limit: number): number {
  for (let run = runAt(runs, from); run < runs.starts.length && runs.starts[run]! < limit; run++) {
    if (runs.owners[run] !== ZERO_OWNER) return run;
  }
  return -1;
}

function inChunk(
  { identity, chunkId }: ServedMemory,
  { runs, chunkNumbers, arena }: MappedChunks,
  run: number,
  offset: number,
): SourceOfPage {
  const ordinal = runOfOwner(runs.owners[run]!);
  const start = runs.starts[ordinal]!;
  return {
    source: {
      kind: "chunk",
      name: chunkId?.(ordinal) ?? "",
      offset: offset - start,
      store: identity.kind === "image" ? identity.store : null,
      sizeBytes: runEnd(runs, ordinal) - start,
    },
    inCache: Atomics.load(arena.places, chunkNumbers[ordinal]!) !== 0,
  };
}

function inFile(
  { identity, sizeBytes }: ServedMemory,
  { runs, fds }: MappedLayers,
  run: number,
  { offset, lengthBytes }: { readonly offset: number; readonly lengthBytes: number },
): SourceOfPage {
  const layer = runs.owners[run]!;
  const name = identity.kind === "files" ? (identity.files[layer]?.path ?? "") : "";
  const cached = cachedBytes(fds[layer]!, offset, lengthBytes);
  return {
    source: { kind: "file", name, offset, store: null, sizeBytes },
    inCache: cached < 0 ? null : cached >= lengthBytes,
  };
}
