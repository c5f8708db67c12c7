/** Recordings made of rows, and files of them. */

import { restoreCauses } from "../../src/base/restore-causes.ts";
import { traceKinds } from "../../src/engine/trace-ring.ts";
import { BlockWriter, encodeEnd } from "../../src/trace/block-writer.ts";
import { encodeHeader } from "../../src/trace/blocks.ts";
import { readRecording } from "../../src/trace/read-recording.ts";
import type { Ending, Recording, RecordingHeader } from "../../src/trace/recording.ts";

/** Time in µs, kind, cause, page, pages, cost in tenths of µs. */
export type Row = readonly [
  timeUs: number,
  kind: string,
  cause: string,
  page: number,
  pages: number,
  cost: number,
];

export const header: RecordingHeader = {
  session: "web-1",
  memory: "/srv/web.mem",
  pid: 4321,
  sizeBytes: 4096 * 1024,
  pageSizeBytes: 4096,
  pageCount: 1024,
  regions: [{ hostAddress: 0x7f00_0000_0000, sizeBytes: 4096 * 1024, imageOffset: 0 }],
  attachedAt: "2026-01-02T03:04:05.678Z",
  kinds: [...traceKinds],
  causes: [...restoreCauses],
};

/** A file, in its blocks: header, `perBlock` records each, end. `lost`: before the first. */
export function blocksOf(
  rows: readonly Row[],
  {
    lost = 0,
    perBlock = 3,
    ending = "asked" as Ending | null,
    of = header as RecordingHeader,
  } = {},
): Uint8Array[] {
  const blocks = [encodeHeader(of)];
  const writer = new BlockWriter(of.kinds.length);
  let before = lost;
  const take = (): void => {
    blocks.push(writer.take(before));
    before = 0;
  };
  for (const [timeUs, kind, cause, page, pages, cost] of rows) {
    if (writer.count === perBlock || !writer.fits(timeUs)) take();
    writer.add(timeUs, of.kinds.indexOf(kind), of.causes.indexOf(cause), page, pages, cost);
  }
  if (writer.count > 0) take();
  if (ending !== null) blocks.push(encodeEnd(ending));
  return blocks;
}

export function recordingOf(
  rows: readonly Row[],
  options: Parameters<typeof blocksOf>[1] = {},
): Recording {
  return readRecording(Buffer.concat(blocksOf(rows, options)), "rows");
}

export function rowsOf({ header: { kinds, causes }, records }: Recording): Row[] {
  return Array.from({ length: records.count }, (_, index) => [
    records.timesUs[index]!,
    kinds[records.kinds[index]!]!,
    causes[records.causes[index]!]!,
    records.pages[index]!,
    records.pageCounts[index]!,
    records.costs[index]!,
  ]);
}
