/** The real casync reads what we pack, and we read what it makes. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { digests } from "../../src/snapshot/chunk-id.ts";
import { ImageStage, writeDiff, writeMemory } from "../support/image-stage.ts";
import { requires } from "../support/requires.ts";

const CASYNC_TIMEOUT_MS = 60_000;

function casync(stage: ImageStage, ...args: readonly string[]): void {
  execFileSync("casync", args, { cwd: stage.store, timeout: CASYNC_TIMEOUT_MS, stdio: "pipe" });
}

for (const digest of digests) {
  describe(`with ${digest}`, requires("casync"), () => {
    test("casync extracts what we packed, zero chunks and a short last one included", () => {
      using stage = new ImageStage();
      const memory = writeMemory(stage.path("memory"), 3001, 1);
      stage.json("pack", stage.path("memory"), "--name", "web", "--digest", digest);
      casync(stage, "extract", "web.caibx", stage.path("out"));
      assert.ok(readFileSync(stage.path("out")).equals(memory));
    });

    for (const sizes of ["65536", "65536:65536:65536"]) {
      test(`we verify and extract what casync made, with chunks of ${sizes}`, () => {
        using stage = new ImageStage();
        const memory = writeMemory(stage.path("memory"), 3001, 2);
        mkdirSync(stage.store);
        const options = [`--digest=${digest}`, `--chunk-size=${sizes}`];
        casync(stage, "make", ...options, "made.caibx", stage.path("memory"));
        const report = stage.json<{ chunks: number; damaged: [] }>("verify", "made");
        assert.ok(report.chunks > 10);
        assert.deepEqual(report.damaged, []);
        stage.json("extract", "made", stage.path("out"));
        assert.ok(readFileSync(stage.path("out")).equals(memory));
        assert.equal(stage.json<{ digest: string }>("inspect", "made").digest, digest);

        // A diff over it: our chunks straddle casync's boundaries.
        writeDiff(stage.path("diff"), memory, 3);
        stage.json("pack", "--diff", stage.path("diff"), "--parent", "made", "--name", "next");
        casync(stage, "extract", "next.caibx", stage.path("next"));
        assert.ok(readFileSync(stage.path("next")).equals(memory));
      });
    }
  });
}

describe("chunks that casync did not compress by zstd", requires("casync"), () => {
  test("are told by name", () => {
    using stage = new ImageStage();
    writeMemory(stage.path("memory"), 1000, 4);
    mkdirSync(stage.store);
    casync(stage, "make", "--compression=xz", "made.caibx", stage.path("memory"));
    const message = stage.fails(3, "extract", "made", stage.path("out"));
    assert.match(message, /is compressed by xz, and Faultline reads zstd only/);
  });
});
