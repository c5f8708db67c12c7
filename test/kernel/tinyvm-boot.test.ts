/** tinyvm boots and takes snapshots: both kinds of guest agree, and the files are right. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { MIB, SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { lowMemoryImage } from "../../src/tinyvm/low-memory.ts";
import { requires } from "../support/requires.ts";
import { bootTinyvm, runTinyvm, temporaryFolder } from "../support/tinyvm.ts";

const size = { memoryMib: 16, fill: 25, workingSet: 30 };

function readState(folder: string): { vcpu: unknown; expected: unknown } {
  return JSON.parse(readFileSync(join(folder, "state.json"), "utf8"));
}

describe("tinyvm boot", () => {
  test(
    "a KVM guest and a process guest leave the same bytes and the same sums",
    requires("kvm"),
    async () => {
      using folder = temporaryFolder();
      const byKvm = await bootTinyvm(join(folder.path, "kvm"), "kvm", size);
      const byProcess = await bootTinyvm(join(folder.path, "process"), "process", size);
      assert.equal(byKvm.guest, "kvm");
      assert.match(String(byKvm.checksum), /^0x[0-9a-f]{16}$/);
      assert.equal(byKvm.checksum, byProcess.checksum);
      assert.equal(byKvm.afterWrite, byProcess.afterWrite);
      assert.notEqual(byKvm.afterWrite, byKvm.checksum);
      const kvmMemory = readFileSync(String(byKvm.memoryFile));
      assert.ok(
        kvmMemory.equals(readFileSync(String(byProcess.memoryFile))),
        "memory files differ",
      );
      assert.notEqual(readState(join(folder.path, "kvm")).vcpu, null);
      assert.equal(readState(join(folder.path, "process")).vcpu, null);
    },
  );

  test("the memory file is low memory, then RAM: filled pages are data, others holes", async () => {
    using folder = temporaryFolder();
    const snapshot = await bootTinyvm(folder.path, "process", size);
    assert.deepEqual(readdirSync(folder.path).sort(), ["memory", "state.json"]);
    const memory = readFileSync(String(snapshot.memoryFile));
    assert.equal(memory.length, snapshot.memoryBytes);
    assert.equal(memory.length, 2 * MIB + size.memoryMib * MIB);
    const low = lowMemoryImage();
    assert.ok(memory.subarray(0, low.length).equals(low), "low memory is not the image");
    const filled = countDataPages(memory.subarray(low.length));
    assert.equal(filled, (size.memoryMib * MIB * size.fill) / 100 / SMALL_PAGE_BYTES);
    assert.equal(filled, snapshot.filledPages);
    const allocatedBytes = statSync(String(snapshot.memoryFile)).blocks * 512;
    const dataBytes = (filled + countDataPages(low)) * SMALL_PAGE_BYTES;
    // A file system may spend a little on its own account.
    assert.ok(allocatedBytes < dataBytes + MIB / 4, `${allocatedBytes} B for ${dataBytes} B`);
  });

  const refusals: readonly (readonly [string, readonly string[], RegExp])[] = [
    ["a missing option", ["boot", "--memory-mib", "16"], /--fill is missing/],
    ["an odd size", boot("15", "50", "30"), /--memory-mib 15 is odd/],
    ["more memory than is mapped", boot("8192", "50", "30"), /--memory-mib 8192/],
    ["a percentage beyond 100", boot("16", "101", "30"), /--fill 101/],
    ["an empty working set", boot("16", "50", "0"), /--working-set 0/],
    ["words for numbers", boot("much", "50", "30"), /--memory-mib much is not a whole number/],
    ["a guest that does not exist", [...boot("16", "50", "30"), "--guest", "vax"], /--guest vax/],
    ["an unknown option", ["boot", "--colour"], /--colour/],
    ["no command", [], /Usage/],
  ];
  for (const [what, args, message] of refusals) {
    test(`${what} is refused`, async () => {
      const { code, events, errors } = await runTinyvm(args);
      assert.equal(code, ExitCode.usage);
      assert.match(errors, /^tinyvm: bad-option: /);
      assert.match(errors, message);
      assert.deepEqual(events, []);
      assert.ok(!existsSync("/nonexistent"));
    });
  }
});

function boot(memoryMib: string, fill: string, workingSet: string): string[] {
  const sizes = ["--memory-mib", memoryMib, "--fill", fill, "--working-set", workingSet];
  return ["boot", ...sizes, "--out", "/nonexistent/tinyvm"];
}

function countDataPages(memory: Uint8Array): number {
  const zeroes = new Uint8Array(SMALL_PAGE_BYTES);
  let count = 0;
  for (let position = 0; position < memory.length; position += SMALL_PAGE_BYTES) {
    const page = memory.subarray(position, position + SMALL_PAGE_BYTES);
    if (Buffer.compare(page, zeroes) !== 0) count += 1;
  }
  return count;
}
