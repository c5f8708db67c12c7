/**
 * Whether a kernel has KVM Userfault is told by what it does: on this kernel as it is, and on one
 * that is played with all of it, with parts, and with mistakes.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { MIB, SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { kvm_regs } from "../../src/linux/abi-kvm.ts";
import {
  GUEST_MEMFD_FLAG_INIT_SHARED,
  GUEST_MEMFD_FLAG_MMAP,
} from "../../src/linux/abi-kvm-userfault.ts";
import { Kvm } from "../../src/linux/kvm.ts";
import { writeU64 } from "../../src/linux/layout.ts";
import { longModeSystemRegisters } from "../../src/linux/long-mode.ts";
import { MappedRegion } from "../../src/linux/memory.ts";
import { probeUserfault, type UserfaultSupport } from "../../src/linux/userfault-probe.ts";
import { requires, UNPRIVILEGED_UID } from "../support/requires.ts";
import {
  type KernelMistake,
  requiresUserfaultKernel,
  userfaultEnvironment,
} from "../support/userfault-kernel.ts";

const TIMEOUT_MS = 20_000;
const probeUrl = new URL("../../src/linux/userfault-probe.js", import.meta.url).href;
const program = `
  const { probeUserfault } = await import(${JSON.stringify(probeUrl)});
  process.stdout.write(JSON.stringify(probeUserfault()));
`;

/** What a process of its own finds. */
function probeIn(options: { env?: NodeJS.ProcessEnv; uid?: number }): UserfaultSupport {
  const child = spawnSync(process.execPath, ["--input-type=module", "--eval", program], {
    encoding: "utf8",
    timeout: TIMEOUT_MS,
    cwd: "/",
    ...options,
  });
  assert.equal(child.status, 0, `${child.signal ?? child.status}: ${child.stderr}`);
  return JSON.parse(child.stdout) as UserfaultSupport;
}

describe("the probe for KVM Userfault on this kernel", () => {
  test("finds all of it, or says what is not there", requires("kvm"), () => {
    const support = probeUserfault();
    if (support.kind === "userfault") return;
    assert.match(support.reason, /KVM_MEM_USERFAULT|needs Linux 6\.18/);
  });

  test("leaves no descriptor and no mapping behind", requires("kvm"), () => {
    probeUserfault(); // What is loaded at the first time stays.
    const count = (): number => readdirSync("/proc/self/fd").length;
    const before = count();
    for (let round = 0; round < 10; round++) probeUserfault();
    assert.equal(count(), before);
    assert.doesNotMatch(readFileSync("/proc/self/maps", "utf8"), /kvm|guest_memfd/);
  });

  test("says why it may not look", requires("unprivileged-user", "kvm"), (t) => {
    const support = probeIn({ uid: UNPRIVILEGED_UID });
    if (support.kind === "none" && support.reason.includes("KVM_MEM_USERFAULT")) {
      return t.skip("everybody may open /dev/kvm here");
    }
    assert.ok(support.kind === "none");
    assert.match(support.reason, /^This user may not open \/dev\/kvm\./);
  });
});

describe("the probe for KVM Userfault on a kernel that has it", () => {
  const needs = requiresUserfaultKernel();
  const all = { kind: "userfault", hasMemfdWrite: true, hasAsyncFaults: true, hasRings: true };

  test("finds all of it", needs, () => {
    assert.deepEqual(probeIn({ env: userfaultEnvironment() }), all);
  });

  const parts: readonly (readonly [KernelMistake, Partial<typeof all>])[] = [
    ["no-async", { hasAsyncFaults: false, hasRings: false }],
    ["no-rings", { hasRings: false }],
    ["no-write", { hasMemfdWrite: false }],
  ];
  for (const [mistake, without] of parts) {
    test(`finds what is left: ${mistake}`, needs, () => {
      assert.deepEqual(probeIn({ env: userfaultEnvironment(mistake) }), { ...all, ...without });
    });
  }

  const lies: readonly (readonly [KernelMistake, RegExp])[] = [
    ["ignores-bits", /^A vCPU went past a set bit \(exited, exit reason 8\)\.$/],
    ["never-clear", /^A vCPU did not go past a clear bit \(memoryFault, exit reason 39\)\.$/],
    ["no-flag", /^A vCPU stopped at a set bit, but KVM gives another reason or address\.$/],
  ];
  for (const [mistake, reason] of lies) {
    test(`is not taken in by a flag that is accepted only: ${mistake}`, needs, () => {
      const support = probeIn({ env: userfaultEnvironment(mistake) });
      assert.ok(support.kind === "none", JSON.stringify(support));
      assert.match(support.reason, reason);
    });
  }
});

describe("KVM_EXIT_MEMORY_FAULT", () => {
  const ADDRESS = MIB;

  test("is decoded as this kernel writes it", requires("kvm"), (t) => {
    if (requiresUserfaultKernel().skip?.includes("6.18") === true) return t.skip("no guest_memfd");
    using kvm = Kvm.open();
    using vm = kvm.createVm();
    using tables = MappedRegion.anonymous(16 * SMALL_PAGE_BYTES);
    new Uint32Array(tables.view()).set([0x2027], 0x1000 / 4);
    new Uint32Array(tables.view()).set([0x3027], 0x2000 / 4);
    new Uint32Array(tables.view()).set([0xe7], 0x3000 / 4);
    vm.setMemory(0, 0, tables);
    // The one way on a stock kernel: a slot whose guest_memfd is gone.
    const flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
    const memfd = vm.createGuestMemfd(SMALL_PAGE_BYTES, flags);
    const memory = MappedRegion.shared(memfd.fd, SMALL_PAGE_BYTES);
    vm.setGuestMemfd({
      slot: 1,
      guestAddress: ADDRESS,
      sizeBytes: SMALL_PAGE_BYTES,
      hostAddress: memory.address,
      guestMemfd: memfd.fd,
      offsetBytes: 0,
      bitmapAddress: null,
    });
    memory.unmap();
    memfd.close();

    using vcpu = vm.createVcpu(0);
    vcpu.setCpuid(kvm.supportedCpuid());
    vcpu.setSystemRegisters(longModeSystemRegisters(vcpu.systemRegisters(), 0x1000));
    const registers = new Uint8Array(kvm_regs.size);
    writeU64(new Uint32Array(registers.buffer), kvm_regs.offset.rip, ADDRESS);
    writeU64(new Uint32Array(registers.buffer), kvm_regs.offset.rflags, 2);
    vcpu.setRegisters(registers);
    assert.equal(vcpu.run(), "memoryFault");
    assert.deepEqual(vcpu.memoryFault, {
      guestAddress: ADDRESS,
      sizeBytes: SMALL_PAGE_BYTES,
      isUserfault: false,
      isAsync: false,
    });
  });
});
