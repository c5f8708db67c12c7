/** Reads a whole `.fltrace` file into columns. PURE. */
import { unzigzag, VarintReader } from "../base/varints.ts";
import { type Block, corrupt } from "./blocks.ts";
import {
  MAX_RECORDS,
  type Recording,
  type RecordingHeader,
  type TraceRecords,
} from "./recording.ts";
import { RecordingScanner } from "./scanner.ts";

const MAX_PAGES = 0xffff;
const MAX_COST = 0xffff_ffff;

/**
 * What was cut off, or is damaged, ends it there: `ending` and `damage` tell.
 * @param name what messages call the file
 * @throws FaultlineError `trace-corrupt`: not even its header can be read, or it contradicts itself
 */
export function readRecording(bytes: Uint8Array, name: string): Recording {
  // Twice: first how many, then what.
  const counter = new RecordingScanner(name);
  counter.push(bytes);
  const { header, records: count, lost, lostInFront, ending } = counter;
  if (header === null) throw corrupt(name, "it ends in the middle of its header");
  if (count > MAX_RECORDS) throw corrupt(name, `it has more than ${MAX_RECORDS} records`);
  const records = emptyRecords(count);
  let read = 0;
  const scanner = new RecordingScanner(name, (block) => {
    readBlock(block, header, records, read, name);
    read += block.count;
  });
  scanner.push(bytes);
  const isCut = ending === null && counter.restBytes > 0;
  const damage = counter.damage ?? (isCut ? "its last block is not whole" : null);
  return { header, records, lost, lostInFront, ending, damage };
}

function emptyRecords(count: number): TraceRecords {
  return {
    count,
    timesUs: new Float64Array(count),
    kinds: new Uint8Array(count),
    causes: new Uint8Array(count),
    pages: new Float64Array(count),
    pageCounts: new Uint16Array(count),
    costs: new Uint32Array(count),
  };
}

function readBlock(
  { content, count }: Block,
  { kinds, causes, pageCount }: RecordingHeader,
  records: TraceRecords,
  first: number,
  name: string,
): void {
  const reader = new VarintReader(content, 0, (what) => corrupt(name, what));
  reader.varint(); // lost: counted already
  let timeUs = reader.varint() * 2 ** 32 + reader.varint();
  let page = 0;
  for (let index = first; index < first + count; index++) {
    const tag = reader.varint();
    const cause = Math.floor(tag / kinds.length);
    reader.expect(cause < causes.length, "a record has a cause that it does not name");
    timeUs += unzigzag(reader.varint());
    reader.expect(timeUs >= 0 && timeUs <= Number.MAX_SAFE_INTEGER, "a record has no moment");
    page += unzigzag(reader.varint());
    const pages = reader.varint();
    reader.expect(pages <= MAX_PAGES, "a record has too many pages");
    const isInside = page >= 0 && page + pages <= pageCount;
    reader.expect(isInside, "a page in it lies outside of the memory");
    const cost = reader.varint();
    reader.expect(cost <= MAX_COST, "a record has cost too much");
    records.timesUs[index] = timeUs;
    records.kinds[index] = tag % kinds.length;
    records.causes[index] = cause;
    records.pages[index] = page;
    records.pageCounts[index] = pages;
    records.costs[index] = cost;
    page += pages;
  }
  reader.expect(reader.isAtEnd, "something is behind the last record of a block");
}
