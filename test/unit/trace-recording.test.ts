/** The file of a recording: its bytes, what is left of it when it is cut or damaged. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { crc32 as zlibCrc32 } from "node:zlib";
import fc from "fast-check";
import { FaultlineError } from "../../src/base/errors.ts";
import { encodeBlock, encodeHeader } from "../../src/trace/blocks.ts";
import { crc32 } from "../../src/trace/crc32.ts";
import { readRecording } from "../../src/trace/read-recording.ts";
import { RecordingScanner } from "../../src/trace/scanner.ts";
import { blocksOf, header, type Row, recordingOf, rowsOf } from "../support/recordings.ts";

const rows: readonly Row[] = [
  [10, "demand", "guest", 7, 1, 0],
  [35, "copy", "install", 7, 1, 250],
  [30, "demand", "guest", 900, 1, 0],
  [99, "park", "fetching", 900, 1, 0],
  [5000, "copy", "store", 896, 8, 49_700],
  [6000, "removed", "guest", 0, 65, 0],
  [2 ** 41, "zero", "decode", 1023, 1, 0xffff_ffff],
];

/** Written by hand, from docs/FORMAT.md: three records; eight kinds. */
const goldenBlock = Buffer.from(
  [
    "01000000", // records
    "03000000", // 3 of them
    "14000000", // 20 bytes
    "05", // five were lost before
    "000a", // the first at 10 µs
    "00000e0100", // guest (0) × 8 + demand (0), 0 µs later, page 7, one page, no cost
    "21320101fa01", // install (4) × 8 + copy (1), 25 µs later, one page back, one page, 25.0 µs
    "0009f80d0100", // 5 µs earlier, 892 pages further
  ].join(""),
  "hex",
);

function corrupt(reason: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof FaultlineError && error.code === "trace-corrupt", String(error));
    assert.match(error.message, reason);
    assert.match(error.message, /^bad\.fltrace holds no recording .*Record it anew/);
    return true;
  };
}

describe("a recording", () => {
  test("has exactly these bytes", () => {
    const [front, block] = blocksOf(rows.slice(0, 3), { lost: 5 });
    const json = `${JSON.stringify(header)}\n`;
    assert.equal(Buffer.from(front!).toString("latin1", 0, 8), "FLTLOG\r\n");
    assert.equal(Buffer.from(front!).readUInt32LE(8), 1);
    assert.equal(Buffer.from(front!).readUInt32LE(12), Buffer.byteLength(json));
    assert.equal(Buffer.from(front!).toString("utf8", 16, front!.length - 4), json);
    assert.equal(Buffer.from(block!).subarray(0, -4).toString("hex"), goldenBlock.toString("hex"));
  });

  test("has the checksum that all the world has", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        assert.equal(crc32(bytes), zlibCrc32(bytes));
      }),
    );
  });

  test("comes back as it was", () => {
    const recording = recordingOf(rows, { lost: 5 });
    assert.deepEqual(rowsOf(recording), rows);
    assert.deepEqual(recording.header, header);
    const { lost, lostInFront, ending, damage } = recording;
    assert.deepEqual(
      { lost, lostInFront, ending, damage },
      {
        ...{ lost: 5, lostInFront: 5, ending: "asked", damage: null },
      },
    );
  });

  test("comes back as it was, whatever is in it, in pieces of any size", () => {
    const row = fc.tuple(
      fc.nat(2 ** 45),
      fc.constantFrom(...header.kinds),
      fc.constantFrom(...header.causes),
      fc.nat(2 ** 31),
      fc.nat(0xffff),
      fc.nat(0xffff_ffff),
    );
    const of = { ...header, pageCount: 2 ** 32 };
    const sizes = fc.integer({ min: 1, max: 500 });
    fc.assert(
      fc.property(fc.array(row), sizes, fc.nat(9), sizes, (drawn, perBlock, lost, pieceBytes) => {
        const bytes = Buffer.concat(blocksOf(drawn, { of, perBlock, lost }));
        assert.deepEqual(rowsOf(readRecording(bytes, "drawn")), drawn);
        const scanner = new RecordingScanner("drawn");
        for (let at = 0; at < bytes.length; at += pieceBytes) {
          scanner.push(bytes.subarray(at, at + pieceBytes));
        }
        const { records, wholeBytes, ending, restBytes } = scanner;
        assert.deepEqual(
          { records, wholeBytes, ending, restBytes },
          { records: drawn.length, wholeBytes: bytes.length, ending: "asked", restBytes: 0 },
        );
      }),
    );
  });

  test("cut anywhere is what was whole until then", () => {
    const blocks = blocksOf(rows);
    const bytes = Buffer.concat(blocks);
    const front = blocks[0]!.length;
    for (let length = 0; length < bytes.length; length++) {
      const cut = bytes.subarray(0, length);
      if (length < front) {
        assert.throws(() => readRecording(cut, "bad.fltrace"), corrupt(/header/));
        continue;
      }
      const recording = readRecording(cut, "cut");
      let whole = 0;
      let at = front;
      for (const block of blocks.slice(1, -1)) {
        at += block.length;
        if (at <= length) whole += 1;
      }
      assert.deepEqual(rowsOf(recording), rows.slice(0, whole * 3));
      assert.equal(recording.ending, null);
    }
  });

  test("with any bit flipped is refused, or ends before it", () => {
    const blocks = blocksOf(rows);
    const bytes = Buffer.concat(blocks);
    const front = blocks[0]!.length;
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const flipped = Uint8Array.from(bytes);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      if (bit >> 3 < front) {
        assert.throws(() => readRecording(flipped, "bad.fltrace"), corrupt(/begin|version|header/));
        continue;
      }
      const recording = readRecording(flipped, "flipped");
      const read = rowsOf(recording);
      assert.deepEqual(read, rows.slice(0, read.length));
      assert.ok(recording.damage !== null && recording.ending === null, `bit ${bit}`);
    }
  });

  test("of bytes that are none is refused, and nothing else happens", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        assert.throws(() => readRecording(bytes, "bad.fltrace"), corrupt(/begin|header/));
      }),
    );
  });

  test("with a good checksum over nonsense is refused, or is within its bounds", () => {
    const front = encodeHeader(header);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), fc.nat(20), (content, count) => {
        const bytes = Buffer.concat([front, encodeBlock(1, count, content)]);
        try {
          const { records } = readRecording(bytes, "bad.fltrace");
          for (let index = 0; index < records.count; index++) {
            assert.ok(records.pages[index]! + records.pageCounts[index]! <= header.pageCount);
            assert.ok(records.causes[index]! < header.causes.length);
          }
        } catch (error) {
          corrupt(/\(/)(error);
        }
      }),
      { numRuns: 2000 },
    );
  });

  test("of another version is refused", () => {
    const bytes = Buffer.concat(blocksOf(rows));
    bytes.writeUInt32LE(2, 8);
    assert.throws(() => readRecording(bytes, "bad.fltrace"), corrupt(/version 2, not 1/));
  });

  test("may have kinds and causes that this version does not know", () => {
    const of = { ...header, kinds: ["demand", "teleport"], causes: ["guest", "mood"] };
    const strange: Row[] = [[1, "teleport", "mood", 3, 1, 9]];
    assert.deepEqual(rowsOf(recordingOf(strange, { of })), strange);
  });
});
