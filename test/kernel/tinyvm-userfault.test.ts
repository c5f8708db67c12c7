/**
 * tinyvm restores a guest by KVM Userfault: on a kernel that is played, as no other is at hand, but
 * with a real vCPU that stops at each page and goes on.
 */
import assert from "node:assert/strict";
import { closeSync, openSync, writeSync } from "node:fs";
import { describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { MIB, SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { requires } from "../support/requires.ts";
import { bootTinyvm, runTinyvm, type TinyvmResult, temporaryFolder } from "../support/tinyvm.ts";
import {
  type KernelMistake,
  requiresUserfaultKernel,
  userfaultEnvironment,
} from "../support/userfault-kernel.ts";

const size = { memoryMib: 16, fill: 50, workingSet: 30 };

const restore = (folder: string, mistake?: KernelMistake): Promise<TinyvmResult> =>
  runTinyvm(["restore", "--dir", folder, "--userfault"], undefined, userfaultEnvironment(mistake));

describe("tinyvm restore --userfault", () => {
  const needs = requiresUserfaultKernel();

  test("the guest goes on, and each page comes when it is touched", needs, async () => {
    using folder = temporaryFolder();
    const snapshot = await bootTinyvm(folder.path, "kvm", size);
    const { code, events, errors } = await restore(folder.path);
    assert.equal(code, 0, errors);
    const said = (name: string): unknown => events.find(({ event }) => event === name)?.value;
    assert.equal(said("checksum"), snapshot.checksum);
    assert.equal(said("after-write"), snapshot.afterWrite);
    const pages = Number(events.find(({ event }) => event === "populated")?.pages);
    assert.ok(pages >= Number(snapshot.workingSetPages), `${pages} pages were asked for`);
    const touched = Number(snapshot.workingSetPages) + Number(snapshot.dirtiedPages);
    assert.ok(pages <= touched, `${pages} pages were asked for, ${touched} were touched`);
  });

  test(
    "a wrong byte in the memory file is a wrong sum: pages do come from there",
    needs,
    async () => {
      using folder = temporaryFolder();
      const snapshot = await bootTinyvm(folder.path, "kvm", size);
      // The first page of RAM is the first of every walk.
      const file = openSync(String(snapshot.memoryFile), "r+");
      writeSync(file, Buffer.from([1, 2, 3, 4]), 0, 4, 2 * MIB + SMALL_PAGE_BYTES / 2);
      closeSync(file);
      const { code, errors } = await restore(folder.path);
      assert.equal(code, ExitCode.failed);
      assert.match(errors, /^tinyvm: session-failed: The restored guest read other bytes/);
    },
  );

  test("a kernel without it is refused with what it lacks", needs, async () => {
    using folder = temporaryFolder();
    await bootTinyvm(folder.path, "kvm", size);
    const { code, errors } = await runTinyvm(["restore", "--dir", folder.path, "--userfault"]);
    assert.equal(code, ExitCode.noAccess);
    assert.match(errors, /^tinyvm: unsupported: .* does not know KVM_MEM_USERFAULT\. .*--socket/);
    const lying = await restore(folder.path, "ignores-bits");
    assert.match(lying.errors, /^tinyvm: unsupported: .* went past a set bit/);
  });

  test("what does not go together is refused", requires("kvm"), async () => {
    using folder = temporaryFolder();
    const args = ["restore", "--dir", folder.path, "--userfault"];
    const both = await runTinyvm([...args, "--socket", "/nonexistent"]);
    assert.equal(both.code, ExitCode.usage);
    assert.match(
      both.errors,
      /^tinyvm: bad-option: --userfault goes with --dir alone, not --socket/,
    );
    await bootTinyvm(folder.path, "process", size);
    const without = await runTinyvm(args);
    assert.equal(without.code, ExitCode.usage);
    assert.match(without.errors, /has no vCPU/);
  });
});
