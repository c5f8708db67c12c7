/**
 * What a map tells of its cells besides their states: whose bytes they hold, and when they came.
 * PURE.
 */
import { type OwnerRuns, runAt, runEnd, ZERO_OWNER } from "../../base/owner-runs.ts";
import type { MapWindow } from "./map-cells.ts";
import { NO_AGE, NO_LAYER } from "./protocol.ts";
import type { LayerNames } from "./source.ts";

/** The layer of each cell: that which holds most of its bytes, zeroes aside. */
export function layersOf(
  runs: OwnerRuns,
  layers: LayerNames,
  pageSizeBytes: number,
  { first, scale, cells }: MapWindow,
): Uint8Array {
  const found = new Uint8Array(cells).fill(NO_LAYER);
  const held = new Float64Array(layers.names.length);
  const cellBytes = scale * pageSizeBytes;
  const limit = Math.min(runs.sizeBytes, first * pageSizeBytes + cells * cellBytes);
  let at = first * pageSizeBytes;
  for (let run = at < limit ? runAt(runs, at) : 0, cell = 0; at < limit; ) {
    const end = Math.min(runEnd(runs, run), (cell * scale + scale + first) * pageSizeBytes, limit);
    const owner = runs.owners[run]!;
    if (owner !== ZERO_OWNER) held[layers.indexOf(owner)]! += end - at;
    at = end;
    if (at === runEnd(runs, run)) run += 1;
    if (at < (cell * scale + scale + first) * pageSizeBytes && at < limit) continue;
    found[cell] = mostOf(held);
    held.fill(0);
    cell += 1;
  }
  return found;
}

/** When the newest page of each cell was demanded, in ms: little-endian, four bytes a cell. */
export function agesOf(
  pages: Uint32Array,
  timesUs: Uint32Array,
  { first, scale, cells }: MapWindow,
): Uint8Array {
  const bytes = new Uint8Array(cells * 4);
  const ages = new DataView(bytes.buffer);
  bytes.fill(NO_AGE & 0xff);
  // Times only grow: the last of a cell is its newest.
  for (let index = 0; index < pages.length; index++) {
    const cell = Math.floor((pages[index]! - first) / scale);
    if (cell < 0 || cell >= cells) continue;
    ages.setUint32(cell * 4, Math.floor(timesUs[index]! / 1000), true);
  }
  return bytes;
}

function mostOf(held: Float64Array): number {
  let most = NO_LAYER;
  let mostBytes = 0;
  for (let layer = 0; layer < held.length; layer++) {
    if (held[layer]! <= mostBytes) continue;
    mostBytes = held[layer]!;
    most = layer;
  }
  return most;
}
