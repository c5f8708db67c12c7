/** The guest's program: its bytes are what an assembler makes of the assembly beside them. */
import assert from "node:assert/strict";
import { readFileSync, rmSync } from "node:fs";
import { test } from "node:test";
import { SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { runCompiler, writeSource } from "../../src/kit/compile.ts";
import { program, programAssembly } from "../../src/tinyvm/programs.ts";
import { requires } from "../support/requires.ts";

test("the bytes of the listing are what `as` makes of its assembly", requires("cc"), () => {
  const source = writeSource("tinyvm-program.s", `.intel_syntax noprefix\n${programAssembly}\n`);
  const binary = `${source}.${process.pid}.bin`;
  const flat = ["-nostdlib", "-static", "-Wl,--oformat=binary,--build-id=none,-e0,-Ttext=0x1000"];
  try {
    const { isGood, messages } = runCompiler([source, "-o", binary, ...flat]);
    assert.ok(isGood, messages);
    assert.equal(Buffer.from(program).toString("hex"), readFileSync(binary).toString("hex"));
  } finally {
    rmSync(binary, { force: true });
  }
});

test("the program fits the one page between its address and the next", () => {
  assert.ok(program.length > 0 && program.length <= SMALL_PAGE_BYTES);
});
