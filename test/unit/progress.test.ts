/** What progress and tables look like. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { describeProgress, Progress } from "../../src/cli/progress.ts";
import { formatTable } from "../../src/cli/table.ts";

const MIB = 1024 * 1024;

describe("progress", () => {
  test("shows share, bytes, rate and time left", () => {
    assert.equal(
      describeProgress("packing", 128 * MIB, 512 * MIB, 1000),
      "packing ██████·················· 25 %  128 MiB of 512 MiB  128 MiB/s  0:03 left",
    );
  });

  test("tells no rate before there is one", () => {
    assert.match(describeProgress("packing", MIB, 4 * MIB, 100), /25 % {2}1 MiB of 4 MiB$/);
    assert.match(describeProgress("packing", 0, 0, 9000), /█ 100 % {2}0 B of 0 B$/);
  });

  test("is for terminals only, and clears its line at the end", () => {
    const draw = (isTTY: boolean): string => {
      let written = "";
      const stream = { isTTY, columns: 20, write: (text: string) => (written += text) };
      using progress = new Progress("packing", stream as unknown as NodeJS.WriteStream);
      progress.update(1, 2);
      progress.update(2, 2); // too soon after the first
      progress[Symbol.dispose]();
      return written;
    };
    assert.equal(draw(false), "");
    assert.equal(draw(true), "\r\u001b[Kpacking ████████████\r\u001b[K");
  });
});

describe("a table", () => {
  test("has its columns below each other", () => {
    const rows = [
      ["NAME", "SIZE"],
      ["a", "12 MiB", "x"],
      ["long-name", "1"],
    ];
    assert.equal(formatTable(rows), "NAME       SIZE\na          12 MiB  x\nlong-name  1\n");
    assert.equal(formatTable([]), "");
  });
});
