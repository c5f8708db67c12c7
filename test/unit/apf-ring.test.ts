/** Rings of a vCPU, against a model of KVM: order, wrap-around, fullness, going to sleep. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { APF_PAGE_BYTES, APF_RING_ENTRIES, ApfRing } from "../../src/pager/apf-ring.ts";

const ARMED = 1;

/** KVM's half, written down from the layout once more: byte offsets, a private producer index. */
class Kernel {
  readonly page = new ArrayBuffer(APF_PAGE_BYTES);
  readonly #view = new DataView(this.page);
  #head: number;
  #seenCompletions: number;

  /** All indices begin at `start`, so that they wrap around soon. */
  constructor(start = 0) {
    for (const [offset, value] of [
      [0, 1],
      [4, 64],
      [8, 16],
    ] as const) {
      this.set(offset, value);
    }
    for (const offset of [64, 128, 1216, 1280]) this.set(offset, start);
    this.#head = start;
    this.#seenCompletions = start;
  }

  get(offset: number): number {
    return this.#view.getUint32(offset, true);
  }

  set(offset: number, value: number): void {
    this.#view.setUint32(offset, value, true);
  }

  get isArmed(): boolean {
    return (this.get(12) & ARMED) !== 0;
  }

  /** False: the ring is full, and the fault goes the way over the socket. */
  fault(gpa: number): boolean {
    if ((this.#head - this.get(128)) >>> 0 >= 64) return false;
    const entry = 192 + (this.#head % 64) * 16;
    this.#view.setBigUint64(entry, BigInt(gpa), true);
    this.#view.setBigUint64(entry + 8, 0x30n, true);
    this.#head = (this.#head + 1) >>> 0;
    this.set(64, this.#head);
    return true;
  }

  /** The completions that are there. */
  takeCompletions(): number[] {
    const taken: number[] = [];
    const count = (this.get(1216) - this.#seenCompletions) >>> 0;
    assert.ok(count <= 64, `${count} completions in a ring of 64`);
    for (let index = 0; index < count; index++) {
      const entry = 1344 + (((this.#seenCompletions + index) >>> 0) % 64) * 16;
      assert.equal(this.#view.getBigUint64(entry + 8, true), 0n);
      taken.push(Number(this.#view.getBigUint64(entry, true)));
    }
    this.#seenCompletions = this.get(1216);
    this.set(1280, this.#seenCompletions);
    return taken;
  }
}

function drained(ring: ApfRing): number[] {
  const gpas: number[] = [];
  const count = ring.drain((gpa, flags) => {
    assert.equal(flags, 0x30);
    gpas.push(gpa);
  });
  assert.equal(count, gpas.length);
  return gpas;
}

describe("any order of events", () => {
  const event = fc.oneof(
    fc.record({ kind: fc.constant("faults" as const), count: fc.integer({ min: 1, max: 70 }) }),
    fc.record({ kind: fc.constant("drain" as const) }),
    fc.record({ kind: fc.constant("complete" as const), count: fc.integer({ min: 1, max: 70 }) }),
    fc.record({ kind: fc.constant("kernel" as const) }),
  );
  const start = fc.constantFrom(0, 1, 63, 2 ** 31 - 30, 2 ** 32 - 1, 2 ** 32 - 100);

  test("loses and invents nothing, and keeps the order", () => {
    fc.assert(
      fc.property(start, fc.array(event, { maxLength: 60 }), (first, events) => {
        const kernel = new Kernel(first);
        const ring = new ApfRing(kernel.page);
        const told: number[] = [];
        const known: number[] = [];
        const answered: number[] = [];
        const completed: number[] = [];
        let next = 2 ** 33;
        for (const happened of events) {
          if (happened.kind === "faults") {
            for (let index = 0; index < happened.count; index++, next += 4096) {
              if (kernel.fault(next)) told.push(next);
              else assert.equal(told.length - known.length, APF_RING_ENTRIES);
            }
          } else if (happened.kind === "drain") {
            known.push(...drained(ring));
            assert.deepEqual(known, told);
          } else if (happened.kind === "kernel") {
            completed.push(...kernel.takeCompletions());
            assert.deepEqual(completed, answered);
          } else {
            for (let index = 0; index < happened.count; index++) {
              const gpa = (answered.length + 1) * 4096;
              if (ring.complete(gpa)) answered.push(gpa);
              else assert.equal(answered.length - completed.length, APF_RING_ENTRIES);
            }
          }
        }
      }),
    );
  });
});

describe("going to sleep", () => {
  test("with nothing there: armed, and the flag stays for KVM to take", () => {
    const kernel = new Kernel();
    const ring = new ApfRing(kernel.page);
    assert.ok(!kernel.isArmed);
    assert.ok(ring.arm());
    assert.ok(kernel.isArmed);
  });

  test("with a fault that came after the last look: refused, and disarmed", () => {
    const kernel = new Kernel(2 ** 32 - 1);
    const ring = new ApfRing(kernel.page);
    assert.deepEqual(drained(ring), []);
    kernel.fault(0x5000);
    assert.ok(!ring.arm());
    assert.ok(!kernel.isArmed);
    assert.deepEqual(drained(ring), [0x5000]);
    assert.ok(ring.arm());
  });

  test("leaves all other flags alone", () => {
    const kernel = new Kernel();
    kernel.set(12, 0xfffffffe);
    const ring = new ApfRing(kernel.page);
    ring.arm();
    kernel.fault(0x1000);
    ring.arm();
    assert.equal(kernel.get(12), 0xfffffffe);
  });
});

describe("a page that is not as it should be", () => {
  test("indices that are too far apart give no entry at all", () => {
    const kernel = new Kernel();
    const ring = new ApfRing(kernel.page);
    for (const head of [65, 2 ** 31, 2 ** 32 - 1]) {
      kernel.set(64, head);
      assert.equal(
        ring.drain(() => assert.fail("no entry")),
        -1,
      );
    }
  });

  test("our indices in it are not believed", () => {
    const kernel = new Kernel();
    const ring = new ApfRing(kernel.page);
    kernel.fault(0x1000);
    kernel.set(128, 77);
    kernel.set(1216, 77);
    assert.deepEqual(drained(ring), [0x1000]);
    assert.ok(ring.complete(0x1000));
    assert.equal(kernel.get(1216), 1);
  });

  for (const [name, offset] of [
    ["version", 0],
    ["number of entries", 4],
    ["size of an entry", 8],
  ] as const) {
    test(`another ${name} is refused`, () => {
      const kernel = new Kernel();
      kernel.set(offset, 2);
      assert.throws(() => new ApfRing(kernel.page), { code: "handshake" });
    });
  }
});
