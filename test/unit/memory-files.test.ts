/** Snapshots as files: what is where in them, and every way in which they cannot be served. */
import assert from "node:assert/strict";
import {
  appendFileSync,
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { type ErrorCode, FaultlineError } from "../../src/base/errors.ts";
import { ownerOf, ZERO_OWNER } from "../../src/base/owner-runs.ts";
import { SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { viewOf } from "../../src/linux/sys.ts";
import { MemoryFiles } from "../../src/source/memory-files.ts";

const PAGE = SMALL_PAGE_BYTES;
const folder = mkdtempSync(join(tmpdir(), "faultline-memory-files-"));
after(() => rmSync(folder, { recursive: true }));

let fileCount = 0;

/** A sparse file with one page per character: a letter fills its page, `.` is a hole. */
function sparseFile(pages: string): string {
  const path = join(folder, `file-${fileCount++}`);
  const fd = openSync(path, "wx");
  ftruncateSync(fd, pages.length * PAGE);
  for (const [page, letter] of [...pages].entries()) {
    if (letter !== ".") writeSync(fd, Buffer.alloc(PAGE, letter), 0, PAGE, page * PAGE);
  }
  closeSync(fd);
  return path;
}

/** What the guest would read: one character per page, `.` for zeroes. */
function image(files: MemoryFiles): string {
  const { runs, addresses } = files.layers;
  let text = "";
  for (let offset = 0; offset < files.sizeBytes; offset += PAGE) {
    const owner = ownerOf(runs, offset, PAGE);
    if (owner === ZERO_OWNER) text += ".";
    else {
      const bytes = new Uint8Array(viewOf(addresses[owner]! + offset, PAGE).slice(0));
      assert.equal(new Set(bytes).size, 1, `one letter at ${offset}`);
      text += bytes[0] === 0 ? "." : String.fromCharCode(bytes[0]!);
    }
  }
  return text;
}

function expectError(code: ErrorCode, message: RegExp, attempt: () => unknown): void {
  const before = openDescriptors();
  assert.throws(attempt, (error: unknown) => {
    assert.ok(error instanceof FaultlineError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  });
  assert.deepEqual(openDescriptors(), before, "a refusal leaves no descriptor open");
}

const openDescriptors = (): string[] => readdirSync("/proc/self/fd").sort();
const mappingsOf = (path: string): number =>
  readFileSync("/proc/self/maps", "utf8").split(`${path}\n`).length - 1;

describe("a memory file alone", () => {
  test("is read where it has data, and zero in its holes", () => {
    using files = MemoryFiles.open(sparseFile("ab..c."));
    assert.equal(image(files), "ab..c.");
    assert.equal(files.sizeBytes, 6 * PAGE);
    assert.equal(files.dataBytes, 3 * PAGE);
    assert.equal(ownerOf(files.layers.runs, 2 * PAGE, PAGE), ZERO_OWNER);
  });

  test("may have no data at all, or no hole", () => {
    using empty = MemoryFiles.open(sparseFile("...."));
    assert.deepEqual([image(empty), empty.dataBytes], ["....", 0]);
    using full = MemoryFiles.open(sparseFile("abcd"));
    assert.deepEqual([image(full), full.dataBytes], ["abcd", 4 * PAGE]);
  });

  test("written zeroes are data, and read as zero all the same", () => {
    using files = MemoryFiles.open(sparseFile("a\0."));
    assert.equal(image(files), "a..");
    assert.equal(files.dataBytes, 2 * PAGE);
  });
});

describe("layers", () => {
  test("each hides what is below where it has data", () => {
    const paths = ["aaaa..aa", ".bb...b.", "..c...c."].map(sparseFile);
    using files = MemoryFiles.open(paths[0]!, paths.slice(1));
    assert.equal(image(files), "abca..ca");
    assert.equal(files.dataBytes, 6 * PAGE);
    assert.equal(files.layers.addresses.length, 3);
    assert.equal(files.layers.fds.length, 3);
  });

  test("zeroes that a layer holds hide data below", () => {
    using files = MemoryFiles.open(sparseFile("aaaa"), [sparseFile(".\0..")]);
    assert.equal(image(files), "a.aa");
  });

  test("an empty diff changes nothing, a full one everything", () => {
    const base = sparseFile("a.a.");
    using same = MemoryFiles.open(base, [sparseFile("....")]);
    assert.equal(image(same), "a.a.");
    using other = MemoryFiles.open(base, [sparseFile("bbbb")]);
    assert.equal(image(other), "bbbb");
  });

  test("the same file may be opened twice, for two VMs", () => {
    const path = sparseFile("ab");
    using first = MemoryFiles.open(path);
    using second = MemoryFiles.open(path);
    assert.equal(image(first), image(second));
  });
});

describe("what cannot be served", () => {
  test("memory-missing: no such file, for base and layer, with the cause", () => {
    const path = join(folder, "nowhere");
    expectError("memory-missing", /^The memory file .*nowhere cannot be opened/, () =>
      MemoryFiles.open(path),
    );
    const base = sparseFile("a");
    expectError("memory-missing", /^The layer .*nowhere cannot/, () =>
      MemoryFiles.open(base, [path]),
    );
    const hasCause = ({ cause }: Error): boolean => /ENOENT/.test(String(cause));
    assert.throws(() => MemoryFiles.open(path), hasCause);
  });

  test("memory-missing: a folder or a device is no memory file", () => {
    const path = join(folder, "folder");
    mkdirSync(path);
    for (const other of [path, "/dev/null"]) {
      expectError("memory-missing", /is not a regular file\./, () => MemoryFiles.open(other));
    }
  });

  test("memory-empty: a file without bytes", () => {
    expectError("memory-empty", /is empty\. Was the snapshot written to the end\?$/, () =>
      MemoryFiles.open(sparseFile("")),
    );
  });

  test("memory-misaligned: half a page more or less", () => {
    for (const size of [1, PAGE - 1, PAGE + 512, 3 * PAGE + 1]) {
      const path = sparseFile("abc");
      truncateSync(path, size);
      const message = new RegExp(`has ${size} bytes, no multiple of 4096`);
      expectError("memory-misaligned", message, () => MemoryFiles.open(path));
    }
  });

  test("layer-size: a diff of another VM, whichever is longer", () => {
    const base = sparseFile("abc");
    for (const other of ["ab", "abcd"]) {
      const message = new RegExp(`has ${other.length * PAGE} bytes, but .* has ${3 * PAGE}`);
      expectError("layer-size", message, () =>
        MemoryFiles.open(base, [sparseFile("..."), sparseFile(other)]),
      );
    }
  });
});

describe("assertUnchanged", () => {
  test("holds while nobody writes, however often it is asked", () => {
    using files = MemoryFiles.open(sparseFile("ab"), [sparseFile("..")]);
    for (let round = 0; round < 3; round++) files.assertUnchanged();
  });

  test("memory-changed: written to, in base or layer", () => {
    for (const index of [0, 1]) {
      const paths = [sparseFile("ab"), sparseFile(".c")];
      using files = MemoryFiles.open(paths[0]!, [paths[1]!]);
      // Far enough away for any file system's time stamps.
      utimesSync(paths[index]!, new Date(), new Date(Date.now() + 5000));
      expectError("memory-changed", /file-\d+ was written to at 2.*must not change/, () =>
        files.assertUnchanged(),
      );
    }
  });

  test("memory-changed: longer or shorter than it was", () => {
    const path = sparseFile("ab");
    using files = MemoryFiles.open(path);
    appendFileSync(path, "x");
    expectError("memory-changed", /changed its size from 8192 to 8193 bytes/, () =>
      files.assertUnchanged(),
    );
    truncateSync(path, PAGE);
    expectError("memory-changed", /from 8192 to 4096 bytes/, () => files.assertUnchanged());
  });

  test("a new file of the same name is none of our business: ours is still whole", () => {
    const path = sparseFile("ab");
    using files = MemoryFiles.open(path);
    rmSync(path);
    writeFileSync(path, "something else");
    files.assertUnchanged();
    assert.equal(image(files), "ab");
  });
});

test("close gives every descriptor and every mapping back", () => {
  const [base, layer] = [sparseFile("abc"), sparseFile(".b.")] as const;
  const before = openDescriptors();
  const files = MemoryFiles.open(base, [layer]);
  assert.deepEqual([mappingsOf(base), mappingsOf(layer)], [1, 1]);
  files.close();
  assert.deepEqual(openDescriptors(), before);
  assert.deepEqual([mappingsOf(base), mappingsOf(layer)], [0, 0]);
});
