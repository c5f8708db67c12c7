/**
 * KVM_READ_USERFAULT, the first proposal of KVM Userfault, plays the faults of a small VM; then the
 * design of today plays the one that it could not. docs/READ-USERFAULT.md tells why it changed.
 *
 * Run: node dist/examples/read-userfault.js     (a model: needs nothing of the kernel)
 */
import assert from "node:assert/strict";
import { UserfaultBitmap } from "../src/index.ts";
import { KvmNow } from "./read-userfault/now.ts";
import { KVM_MEMORY_ATTRIBUTE_USERFAULT, KvmThen, PAGE_BYTES } from "./read-userfault/then.ts";

const [VMM, HANDLER, PAGES] = [1000, 2000, 8]; // Two processes; the VMM has made the VM.
const bytesOf = (page: number): number => 100 + page;

async function playThen(): Promise<void> {
  const kvm = new KvmThen(VMM, 2, PAGES);
  assert.equal(kvm.enable(VMM), "ok");
  assert.equal(kvm.setAttributes(VMM, 0, PAGES, KVM_MEMORY_ATTRIBUTE_USERFAULT), "ok");
  const serve = (page: number): void => {
    kvm.memory[page] = bytesOf(page); // Bytes first: who waits looks at the attribute all the time.
    assert.equal(kvm.setAttributes(VMM, page, 1, 0), "ok");
  };
  const exit = kvm.run(3);
  assert.ok(exit.kind === "EFAULT" && exit.gpa === 3 * PAGE_BYTES && exit.flags === 16);
  console.log(`then: a vCPU reads page 3: ${exit.kind}, exit reason ${exit.exitReason}`);
  serve(3);
  assert.deepEqual(kvm.run(3), { kind: "value", value: bytesOf(3) });

  const reads = Promise.all([kvm.kernelRead(5), kvm.kernelRead(6)]);
  const entries = [kvm.readUserfault(VMM), kvm.readUserfault(VMM), kvm.readUserfault(VMM)];
  assert.deepEqual([kvm.eventCount, ...entries], [2, { address: 6 }, { address: 5 }, "ENOENT"]);
  console.log("then: KVM reads pages 5 and 6: queue says 6, 5, ENOENT");
  for (const page of [6, 5]) serve(page);
  assert.deepEqual(await reads, [bytesOf(5), bytesOf(6)]);
  assert.equal(kvm.kernelReadAtomic(1), "KVM_HVA_ERR_USERFAULT");
  console.log(`then: the VMM reads page 2 itself: ${kvm.memory[2]}, and nobody was asked`);

  kvm.memory[7] = bytesOf(7); // Memory can be shared; the way to the waiting vCPU cannot.
  const answers = [kvm.readUserfault(HANDLER), kvm.setAttributes(HANDLER, 7, 1, 0)];
  assert.deepEqual([...answers, kvm.run(7).kind], ["EIO", "EIO", "EFAULT"]);
  console.log(`then: another process serves page 7: ${answers.join(", ")}`);
  console.log(`then: ${kvm.ioctlCount} ioctls of the VM for 3 pages`);
}

function playNow(): void {
  const bitmap = new UserfaultBitmap(new Uint32Array([2 ** PAGES - 1]).buffer);
  const kvm = new KvmNow(PAGES, bitmap);
  assert.deepEqual([kvm.run(7).kind, kvm.runAsync(4)], ["EFAULT", "guest goes on"]);
  assert.deepEqual([kvm.hostRead(2), kvm.userfaultfd], ["waits", [2]]);
  for (const page of [7, kvm.ring.shift()! / PAGE_BYTES, ...kvm.userfaultfd]) {
    kvm.memory[page] = bytesOf(page);
    assert.equal(bitmap.clear(page, page + 1), 1); // In shared memory: any process may.
  }
  const values = [kvm.run(7), kvm.run(4)].map((run) => run.kind === "value" && run.value);
  assert.deepEqual([...values, kvm.hostRead(2)], [7, 4, 2].map(bytesOf));
  console.log("now: another process serves pages 7, 4 and 2: 0 ioctls of the VM for 3 pages");
}

await playThen();
playNow();
