/**
 * What the CPU executes for `Atomics` on mapped memory: the assumption of decision 21, looked up in
 * the machine code of the Node that runs this. JavaScript promises it for shared buffers only.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";

const SYMBOLS = ["Load", "Store", "Exchange", "And", "Or"].map((name) => `Builtins_Atomics${name}`);

/** The instructions of V8's builtins, by symbol; null where they cannot be had. */
function disassemble(): Map<string, string> | null {
  const found = new Map<string, string>();
  for (const symbol of SYMBOLS) {
    const options = ["-d", "--no-show-raw-insn", `--disassemble=${symbol}`, process.execPath];
    const { stdout, status } = spawnSync("objdump", options, { encoding: "utf8" });
    if (status !== 0 || !stdout.includes(`<${symbol}>`)) return null;
    found.set(symbol, stdout);
  }
  return found;
}

const code = process.arch === "x64" ? disassemble() : null;
const needsCode =
  code !== null ? {} : { skip: "needs x86-64, objdump, and a Node that has its symbols" };

describe("V8's atomic operations", () => {
  const expected = {
    Builtins_AtomicsAnd: /lock cmpxchg %\w+d,/,
    Builtins_AtomicsOr: /lock cmpxchg %\w+d,/,
    // With a memory operand xchg is always locked, and a full fence.
    Builtins_AtomicsExchange: /xchg +%(?:e\w+|r\d+d),\(/,
    Builtins_AtomicsStore: /xchg +%(?:e\w+|r\d+d),\(/,
  } as const;
  for (const [symbol, instruction] of Object.entries(expected)) {
    test(`${symbol} has a locked instruction for words of 32 bits`, needsCode, () => {
      const text = code!.get(symbol)!.replace(/%e([a-d]x|si|di)/g, "%e$1d");
      assert.match(text, instruction);
    });
  }
});

/** The shape of ApfRing.arm, hot, so that every compiler gets its turn. */
const PROGRAM = `
const words = new Uint32Array(new ArrayBuffer(128));
function arm(words) { Atomics.or(words, 3, 1); return Atomics.load(words, 16); }
function clear(words) { Atomics.and(words, 5, ~1); Atomics.store(words, 7, 0); }
function run() { for (let i = 0; i < 50000; i++) { arm(words); clear(words); } }
for (let i = 0; i < 30; i++) run();
`;

test("compiled code calls them, as the interpreter does: there is no second version", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "faultline-atomics-"));
  try {
    const file = join(folder, "program.cjs");
    writeFileSync(file, PROGRAM);
    const flags = ["--print-opt-code", "--code-comments", file];
    const printed = execFileSync(process.execPath, flags, { encoding: "utf8", maxBuffer: 2 ** 26 });
    if (!printed.includes("compiler = turbofan")) {
      t.skip("this Node cannot print the code that it compiles");
      return;
    }
    for (const name of ["AtomicsOr", "AtomicsLoad", "AtomicsAnd", "AtomicsStore"]) {
      assert.match(printed, new RegExp(`call.*\\(${name}\\)`), `no call of ${name}`);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
