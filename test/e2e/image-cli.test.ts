/** `faultline image …` as users type it: results, refusals, help. */
import assert from "node:assert/strict";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { describe, test } from "node:test";
import type { InspectReport } from "../../src/image/inspect.ts";
import type { PackReport } from "../../src/image/pack.ts";
import { ImageStage, writeDiff, writeMemory } from "../support/image-stage.ts";

const KIB = 1024;

describe("the command line", () => {
  test("packs, lists, inspects, compares, verifies and extracts", () => {
    using stage = new ImageStage();
    const memory = writeMemory(stage.path("memory"), 2000, 10);
    stage.json("pack", stage.path("memory"), "--name", "one", "--chunk-size", "64K");
    writeDiff(stage.path("diff"), memory, 11);
    const report = stage.json<PackReport>(
      ...["pack", "--diff", stage.path("diff"), "--name", "two", "--parent", "one", "--jobs", "1"],
    );
    assert.equal(report.chunkSizeBytes, 64 * KIB, "the parent's");
    const { images } = stage.json<{ images: { name: string; parent: string | null }[] }>("ls");
    const found = images.map(({ name, parent }) => [name, parent]);
    assert.deepEqual(found, [
      ["one", null],
      ["two", "one"],
    ]);
    const two = stage.json<InspectReport>("inspect", "two");
    assert.equal(two.memorySizeBytes, memory.length);
    assert.ok("missingChunks" in two.inStore && two.inStore.missingChunks === 0);
    assert.ok(two.inStore.sharedChunks > 0);
    assert.deepEqual(stage.json<{ damaged: unknown[] }>("verify", "two").damaged, []);
    stage.json("extract", "two", stage.path("out"));
    assert.ok(readFileSync(stage.path("out")).equals(memory));
    assert.match(stage.run("ls").stdout, /^NAME +MEMORY +CHUNKS.*\none +7\.8 MiB/);
    assert.match(stage.run("inspect", `dir:${stage.store}/two`).stdout, /\ndigest +sha256\n/);
    assert.match(stage.run("diff", "one", "two").stdout, /^one and two differ in \d+ pages/);
    assert.match(stage.run("diff", "one", "one").stdout, /^one and one are equal in 7\.8 MiB\n$/);
  });

  test("says what cannot be used", () => {
    using stage = new ImageStage();
    writeMemory(stage.path("memory"), 100, 12);
    const file = stage.path("memory");
    stage.json("pack", file, "--name", "one");
    const wrong: [status: number, args: readonly string[], message: RegExp][] = [
      [2, ["pack", file], /required option '--name <name>'/],
      [2, ["pack", "--name", "x"], /Give either a memory file, or --diff/],
      [2, ["pack", file, "--name", "x", "--diff", file], /Give either a memory file, or --diff/],
      [2, ["pack", "--name", "x", "--diff", file], /--diff needs --parent/],
      [2, ["pack", file, "--name", "../x"], /names no image/],
      [2, ["pack", file, "--name", "dir:/tmp/x"], /--name dir:\/tmp\/x cannot be used/],
      [2, ["pack", file, "--name", "one"], /There is an image one in dir:.* already/],
      [
        2,
        ["pack", file, "--name", "x", "--chunk-size", "5K"],
        /a power of two from 4 KiB to 4 MiB/,
      ],
      [
        2,
        ["pack", file, "--name", "x", "--chunk-size", "8M"],
        /a power of two from 4 KiB to 4 MiB/,
      ],
      [2, ["pack", file, "--name", "x", "--digest", "md5"], /--digest md5 .* sha256 or sha512-256/],
      [2, ["pack", file, "--name", "x", "--level", "20"], /--level 20 .* from -7 to 19/],
      [2, ["pack", file, "--name", "x", "--jobs", "0"], /--jobs 0 .* from 1 to 64/],
      [3, ["pack", stage.path("none"), "--name", "x"], /none cannot be opened/],
      [3, ["pack", file, "--name", "x", "--parent", "none"], /There is no image none/],
      [
        2,
        ["pack", file, "--name", "x", "--parent", "one", "--digest", "sha512-256"],
        /--digest sha512-256 does not fit/,
      ],
      [
        2,
        ["pack", file, "--name", "x", "--store", "ftp://x"],
        /The store ftp:\/\/x cannot be used/,
      ],
      [3, ["verify", "none"], /There is no image none in dir:.*`faultline image ls` lists/],
      [2, ["extract", "one", file], /memory exists\. Give another path, or --force/],
      [1, ["extract", "one", "/nonexistent/out"], /cannot be written: check its disk: ENOENT/],
      [2, ["gc", "--min-age", "x"], /--min-age x .* a whole number/],
      [1, ["ls", "--store", stage.path("none")], /create the folder first/],
    ];
    for (const [status, args, message] of wrong) {
      assert.match(stage.fails(status, ...args), message, args.join(" "));
    }
  });

  test("has help with an example for every subcommand", () => {
    using stage = new ImageStage();
    for (const name of [
      "pack",
      "ls",
      "inspect",
      "verify",
      "extract",
      "diff",
      "push",
      "pull",
      "gc",
    ]) {
      const { status, stdout } = stage.run(name, "--help");
      assert.equal(status, 0);
      assert.match(stdout, new RegExp(`Examples?:\\n  faultline image ${name} `));
    }
  });

  test("extract replaces a file only if it is told to", () => {
    using stage = new ImageStage();
    const memory = writeMemory(stage.path("memory"), 100, 13);
    stage.json("pack", stage.path("memory"), "--name", "one");
    copyFileSync(stage.path("memory"), stage.path("out"));
    writeFileSync(stage.path("out"), "mine");
    stage.fails(2, "extract", "one", stage.path("out"));
    assert.equal(readFileSync(stage.path("out"), "utf8"), "mine");
    stage.json("extract", "one", stage.path("out"), "--force");
    assert.ok(readFileSync(stage.path("out")).equals(memory));
  });
});
