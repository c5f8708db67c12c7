/**
 * `faultline rescue`: VMs whose handler was killed by SIGKILL in the middle of its work go on, and
 * find every byte right.
 */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { ExitCode } from "../../src/base/errors.ts";
import { HUGE_PAGE_BYTES } from "../../src/base/units.ts";
import { Dirtier } from "../support/dirtier.ts";
import { PAGE_BYTES, Random, TestFolder, writeFull } from "../support/fixtures.ts";
import { HandshakePeer } from "../support/handshake-peer.ts";
import { ImageStage } from "../support/image-stage.ts";
import {
  frozen,
  type HandlerKind,
  killWhen,
  startHandler,
  startRescue,
} from "../support/orphans.ts";
import { requires } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { differentPages } from "../support/tracked-vm.ts";
import { Vmm } from "../support/vmm-process.ts";

const SEED = Number(process.env.FAULTLINE_KILLS_SEED ?? 20_261_123);
const ROUNDS = Number(process.env.FAULTLINE_KILLS_COUNT ?? 20);
/** 64 MiB: a handler needs most of a second for it, page by page in random order. */
const PAGE_COUNT = 16_384;
const RANDOM = ["--touch", "random:16000"];
const END_BUDGET_MS = 30_000;
const CLEAN_EXIT = { code: ExitCode.ok, signal: null };

const folder = new TestFolder();
const memory = folder.at("memory");
const socket = folder.at("socket");
const needs = requires("userfaultfd", "cc");

before(() => {
  writeFull(memory, PAGE_COUNT);
});

after(() => folder[Symbol.dispose]());

interface Shape {
  readonly what: string;
  readonly vm: readonly (string | number)[];
  readonly flags: readonly string[];
  /** Memory that the VM has when its handler is killed. */
  readonly kib: number;
}

const shapes: readonly Shape[] = [
  { what: "four threads", vm: ["--threads", 4, ...RANDOM], flags: ["--no-balloon"], kib: 1024 },
  {
    what: "three regions",
    vm: ["--threads", 4, "--regions", 3, ...RANDOM],
    flags: ["--no-balloon"],
    kib: 4096,
  },
  {
    what: "a VMM without EVENT_REMOVE",
    vm: ["--version", "v1.1", ...RANDOM],
    flags: [],
    kib: 1024,
  },
];
describe("a VM whose handler was killed is found right to the last byte", () => {
  for (const kind of ["reference", "serve"] as const) {
    for (const shape of shapes) {
      test(`${shape.what}, ${kind}`, needs, async () => await killAndRescue(kind, shape));
    }
  }

  const hugeNeeds = requires("userfaultfd", "cc", "hugepages");
  test("huge pages, reference", hugeNeeds, async () => await rescueHuge("reference"));
  test("huge pages, serve", hugeNeeds, async () => await rescueHuge("serve"));
});

async function killAndRescue(kind: HandlerKind, { vm, flags, kib }: Shape): Promise<void> {
  await using handler = await startHandler(kind, socket, memory);
  await using vmm = new Vmm(socket, memory, vm);
  await killWhen(handler, vmm.pid, kib);
  await frozen(vmm.pid);
  await using rescue = await startRescue(vmm.pid, memory, ...flags);
  const { code, signal } = await vmm.ended();
  assert.deepEqual({ code, signal }, CLEAN_EXIT, `${vmm.errors}\n${rescue.describeLog()}`);
  assert.equal((await vmm.result()).mismatches, 0);
  assert.deepEqual(await rescue.ended(END_BUDGET_MS), CLEAN_EXIT, rescue.describeLog());
  const [attached] = rescue.lines("Attached a VM", vmm.pid);
  assert.ok(Number(attached?.waitingThreads) > 0, "a thread of it had waited");
  assert.equal(rescue.lines("Detached a VM", vmm.pid)[0]?.reason, "exited");
}

/** A VM of eight huge pages: of two that it has, one is read again, and so is one that it lacks. */
async function rescueHuge(kind: HandlerKind): Promise<void> {
  const small = folder.at("eight-huge-pages");
  const expected = readFileSync(memory).subarray(0, 8 * HUGE_PAGE_BYTES);
  writeFileSync(small, expected);
  await using handler = await startHandler(kind, socket, small);
  const shape = { pageCount: 8, pageSizeBytes: HUGE_PAGE_BYTES };
  await using peer = await HandshakePeer.start(socket, shape);
  await peer.introduce();
  for (const page of [3, 2000]) await peer.read(page);
  handler.kill();
  await handler.ended(END_BUDGET_MS);
  const waited = peer.read(4000);
  await frozen(peer.pid);
  await using rescue = await startRescue(peer.pid, small, "--no-balloon");
  const bytesOf = (page: number): Buffer =>
    expected.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
  assert.deepEqual(await waited, bytesOf(4000), rescue.describeLog());
  assert.deepEqual(await peer.read(2001), bytesOf(2001));
  assert.deepEqual(await peer.read(1200), bytesOf(1200));
  const [attached] = rescue.lines("Attached a VM", peer.pid);
  assert.deepEqual([attached?.pageSize, attached?.present], ["2 MiB", "4 MiB"]);
}

test(`${ROUNDS} handlers in a row killed at random moments (seed ${SEED})`, needs, async (t) => {
  const random = new Random(SEED);
  await using first = await startHandler("reference", socket, memory);
  const options = ["--threads", 4, ...RANDOM];
  await using vmm = new Vmm(socket, memory, options);
  await killWhen(first, vmm.pid, random.below(1024));
  const tookMs: number[] = [];
  while (tookMs.length < ROUNDS) {
    await frozen(vmm.pid);
    const beganMs = performance.now();
    await using rescue = await startRescue(vmm.pid, memory, "--no-balloon");
    tookMs.push(Math.round(performance.now() - beganMs));
    if (tookMs.length === ROUNDS) break;
    await delay(random.below(12));
    rescue.kill("SIGKILL");
    await rescue.exited;
  }
  await using _last = await startRescue(vmm.pid, memory, "--no-balloon");
  const { code, signal } = await vmm.ended();
  assert.deepEqual({ code, signal }, CLEAN_EXIT, vmm.errors);
  assert.equal((await vmm.result()).mismatches, 0);
  const [least, most] = [Math.min(...tookMs), Math.max(...tookMs)];
  t.diagnostic(`from the command to a VM that goes on: ${least} to ${most} ms`);
});

describe("what the guest has written", needs, () => {
  /** A VM that has read pages 0 to 1023 and written every second one of them. */
  async function writtenVm(serveFlags: readonly string[] = []): Promise<Dirtier> {
    const flags = ["--memory", memory, "--socket", socket, ...serveFlags];
    await using _serve = await ServeProcess.start(flags);
    const vm = await Dirtier.start(socket, memory);
    await vm.order("read 0 1024");
    for (let page = 0; page < 1024; page += 2) await vm.order(`write ${page} 1`);
    return vm;
  }

  /** Every byte but the words that were written is the memory file's. */
  async function assertKept(vm: Dirtier, written: (page: number) => boolean): Promise<void> {
    const dump = folder.at("dump");
    await vm.order(`dump ${dump}`);
    const [actual, expected] = [readFileSync(dump), readFileSync(memory)];
    for (let page = 0; page < PAGE_COUNT; page++) {
      if (!written(page)) continue;
      const at = page * PAGE_BYTES + (page % 512) * 8;
      const word = actual.readBigUInt64LE(at);
      assert.equal(word >> 32n, 0x44495254n, `page ${page} has lost what was written to it`);
      expected.writeBigUInt64LE(word, at);
    }
    assert.deepEqual(differentPages(actual, expected), []);
  }

  const isEven = (page: number): boolean => page < 1024 && page % 2 === 0;

  test("stays, and all the rest comes from the memory file", async () => {
    await using vm = await writtenVm();
    const waited = vm.order("read 5000 1");
    await frozen(vm.pid);
    await using rescue = await startRescue(vm.pid, memory, "--no-balloon", "--json");
    await waited;
    const ready = JSON.parse(await rescue.ready()) as Record<string, unknown>;
    assert.equal(ready.event, "ready");
    assert.equal(ready.pid, vm.pid);
    assert.equal(ready.waitingThreads, 1);
    assert.ok(Number(ready.presentBytes) >= 1024 * PAGE_BYTES);
    await vm.order("remove 0 2");
    await vm.order("write 0 1");
    await vm.order("write 1 1");
    const zeroed = (page: number): boolean => isEven(page) || page === 1;
    const dump = folder.at("after-remove");
    await vm.order(`dump ${dump}`);
    const [actual, expected] = [readFileSync(dump), readFileSync(memory)];
    for (let page = 0; page < 1024; page++) {
      if (page < 2) expected.fill(0, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
      if (!zeroed(page)) continue;
      const at = page * PAGE_BYTES + (page % 512) * 8;
      expected.writeBigUInt64LE(actual.readBigUInt64LE(at), at);
    }
    assert.deepEqual(differentPages(actual, expected), [], "given back later: zeroes");
  });

  test("of a tracked VM stays, and protected pages can be written", async () => {
    const sessions = folder.path;
    await using vm = await writtenVm(["--track-dirty", sessions]);
    const waited = vm.order("read 6000 1");
    await frozen(vm.pid);
    await using _rescue = await startRescue(vm.pid, memory, "--no-balloon");
    await waited;
    await vm.order("write 1 1");
    await vm.order("write 9000 1");
    await assertKept(vm, (page) => isEven(page) || page === 1 || page === 9000);
  });

  test("stays with --prefault all, after which the VM needs no handler", async () => {
    await using vm = await writtenVm();
    await using rescue = await startRescue(vm.pid, memory, "--no-balloon", "--prefault", "all");
    assert.deepEqual(await rescue.ended(END_BUDGET_MS), CLEAN_EXIT, rescue.describeLog());
    assert.equal(rescue.lines("Detached a VM", vm.pid)[0]?.reason, "complete");
    await assertKept(vm, isEven);
  });

  test("stays when the rest comes from an image of a store", async () => {
    using stage = new ImageStage();
    stage.json("pack", memory, "--name", "web");
    await using vm = await writtenVm();
    const waited = vm.order("read 7000 1");
    await frozen(vm.pid);
    const flags = ["--no-balloon", "--store", stage.store];
    await using _rescue = await startRescue(vm.pid, "web", ...flags);
    await waited;
    await assertKept(vm, isEven);
  });
});

test(
  "SIGTERM drains: it ends when time is up, and the VM can be rescued again",
  needs,
  async () => {
    await using handler = await startHandler("reference", socket, memory);
    await using vmm = new Vmm(socket, memory, ["--threads", 2, ...RANDOM, "--linger", 60_000]);
    await killWhen(handler, vmm.pid, 1024);
    await using rescue = await startRescue(vmm.pid, memory, "--no-balloon", "--drain-timeout", "0");
    rescue.kill("SIGTERM");
    assert.deepEqual(await rescue.ended(END_BUDGET_MS), CLEAN_EXIT);
    await using _again = await startRescue(vmm.pid, memory, "--no-balloon");
    assert.equal((await vmm.result()).mismatches, 0);
  },
);
