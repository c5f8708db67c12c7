/** The keeper of a working set, and the places it keeps it in: on good days and on bad ones. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { describe, test } from "node:test";
import { describeError, FaultlineError } from "../../src/base/errors.ts";
import type { WorkingSet } from "../../src/base/working-set.ts";
import type { Logger } from "../../src/daemon/log.ts";
import { WorkingSetKeeper } from "../../src/daemon/working-set-keeper.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { encodeWorkingSet } from "../../src/snapshot/working-set-file.ts";
import { DirectoryStore } from "../../src/source/directory-store.ts";
import {
  fileWorkingSet,
  imageWorkingSet,
  readWorkingSet,
  type WorkingSetPlace,
} from "../../src/source/working-set-place.ts";
import { TestFolder } from "../support/fixtures.ts";
import { MemoryStore } from "../support/memory-store.ts";
import { recordingOf, setOf } from "../support/working-sets.ts";

const never = new AbortController().signal;
const indexSha256 = "ab".repeat(32);
const sizeBytes = 1000 * 4096;

interface Warning {
  readonly message: string;
  readonly reason: string;
}

function listener(): { readonly log: Logger; readonly warnings: Warning[] } {
  const warnings: Warning[] = [];
  const warn = ({ reason }: { reason: string }, message: string): void => {
    warnings.push({ message, reason });
  };
  return { log: { warn } as unknown as Logger, warnings };
}

/** A place in memory that fails, or does not answer, as long as a test says so. */
class ScriptedPlace implements WorkingSetPlace {
  readonly name = "test:place";
  readonly sizeBytes = sizeBytes;
  stored: WorkingSet | null = null;
  readonly writes: number[] = [];
  failure: Error | null = null;
  isSilent = false;
  atOnce = 0;
  mostAtOnce = 0;
  /** Lets the writes that wait go on. */
  release: (() => void) | null = null;
  isHeld = false;

  async read(signal: AbortSignal): Promise<Awaited<ReturnType<WorkingSetPlace["read"]>>> {
    signal.throwIfAborted();
    if (this.isSilent) await new Promise(() => {});
    if (this.stored === null) return { kind: "none" };
    return { kind: "found", set: this.stored, bytes: new Uint8Array(0) };
  }

  async write(set: WorkingSet, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    this.mostAtOnce = Math.max(this.mostAtOnce, ++this.atOnce);
    this.writes.push(set.restores);
    if (this.isHeld) await new Promise<void>((resolve) => (this.release = resolve));
    await new Promise(setImmediate);
    this.atOnce--;
    if (this.failure !== null) throw this.failure;
    this.stored = set;
  }
}

describe("the keeper", () => {
  test("learns from each VM, and has written it when it is closed", async () => {
    using folder = new TestFolder();
    const store = DirectoryStore.open(folder.path);
    const image = { store, name: "web", indexSha256, index: { sizeBytes } };
    const { log, warnings } = listener();
    const keeper = await WorkingSetKeeper.open({ place: imageWorkingSet(image), log });
    assert.equal(keeper.current, null);
    keeper.add(recordingOf({ pages: [5, 6] }));
    keeper.add(recordingOf({ pages: [6, 7] }));
    await keeper.close();
    assert.deepEqual([...keeper.current!.pages], [5, 6, 7]);
    const found = await readWorkingSet(image, never);
    assert.ok(found.kind === "found");
    assert.deepEqual(found.set, keeper.current);
    const next = await WorkingSetKeeper.open({ place: imageWorkingSet(image), log });
    assert.deepEqual(next.current, keeper.current);
    await next.close();
    await store.close();
    assert.deepEqual(warnings, []);
  });

  test("writes once at a time, and together what came meanwhile", async () => {
    const place = new ScriptedPlace();
    place.isHeld = true;
    const { log } = listener();
    const keeper = await WorkingSetKeeper.open({ place, log, restMs: 0 });
    keeper.add(recordingOf({ pages: [1] }));
    await waitFor("the first write ran", () => place.release !== null);
    for (let vm = 0; vm < 5; vm++) keeper.add(recordingOf({ pages: [2] }));
    place.isHeld = false;
    place.release!();
    await waitFor("all was written", () => place.stored?.restores === 6);
    await keeper.close();
    assert.deepEqual(place.writes, [1, 6]);
    assert.equal(place.mostAtOnce, 1);
  });

  test("leaves out what comes faster than it can be merged", async () => {
    const place = new ScriptedPlace();
    const { log } = listener();
    const keeper = await WorkingSetKeeper.open({ place, log });
    for (let vm = 0; vm < 20; vm++) keeper.add(recordingOf({ pages: [1] }));
    await keeper.close();
    assert.equal(place.stored!.restores + keeper.leftOut, 20);
    assert.equal(place.stored!.restores, 8);
    keeper.add(recordingOf({ pages: [1] }));
    assert.equal(keeper.leftOut, 13, "after its end it takes nothing");
  });

  test("rests between writes, but not at its end", async () => {
    const place = new ScriptedPlace();
    const { log } = listener();
    const keeper = await WorkingSetKeeper.open({ place, log, restMs: 3_600_000 });
    keeper.add(recordingOf({ pages: [1] }));
    await waitFor("it was written", () => place.stored !== null);
    keeper.add(recordingOf({ pages: [2] }));
    assert.deepEqual(place.writes, [1]);
    await keeper.close();
    assert.deepEqual(place.writes, [1, 2]);
  });

  test("tells of a write that fails once, and writes all with the next", async () => {
    const place = new ScriptedPlace();
    const { log, warnings } = listener();
    const keeper = await WorkingSetKeeper.open({ place, log, restMs: 0 });
    place.failure = new FaultlineError("store-refused", "It can only be read.");
    for (const count of [1, 2]) {
      keeper.add(recordingOf({ pages: [count] }));
      await waitFor("it was tried", () => place.writes.length === count && place.atOnce === 0);
    }
    assert.deepEqual(warnings, [
      { message: "The working set could not be written", reason: "It can only be read." },
    ]);
    assert.equal(keeper.current!.restores, 2, "this server uses it all the same");
    place.failure = null;
    keeper.add(recordingOf({ pages: [3] }));
    await keeper.close();
    assert.deepEqual(place.writes, [1, 2, 3]);
    assert.deepEqual([...place.stored!.pages], [1, 2, 3]);
  });

  test("merges into what another server wrote; begins anew if somebody removed it", async () => {
    const place = new ScriptedPlace();
    const { log, warnings } = listener();
    const keeper = await WorkingSetKeeper.open({ place, log, restMs: 0 });
    keeper.add(recordingOf({ pages: [1] }));
    await waitFor("it was written", () => place.stored !== null);
    place.stored = setOf([[9, 255, 10]], 1000, 41);
    keeper.add(recordingOf({ pages: [9] }));
    await waitFor("it was merged", () => place.stored!.restores === 42);
    assert.deepEqual([...keeper.current!.pages], [9]);
    place.stored = null;
    keeper.add(recordingOf({ pages: [3] }));
    await keeper.close();
    assert.deepEqual([keeper.current!.restores, ...keeper.current!.pages], [1, 3]);
    assert.deepEqual(warnings, []);
  });

  test("writes nothing for VMs that touched nothing", async () => {
    const place = new ScriptedPlace();
    const { log } = listener();
    const keeper = await WorkingSetKeeper.open({ place, log });
    keeper.add(recordingOf({}));
    await keeper.close();
    assert.deepEqual(place.writes, []);
  });

  test("goes on after a recording that cannot be", async () => {
    const place = new ScriptedPlace();
    const { log, warnings } = listener();
    const keeper = await WorkingSetKeeper.open({ place, log });
    keeper.add(recordingOf({ pages: [5000] }));
    keeper.add(recordingOf({ pages: [5] }));
    await keeper.close();
    assert.deepEqual([...place.stored!.pages], [5]);
    assert.match(warnings[0]!.reason, /page 5000 lies outside/);
  });

  test("ends in time although nobody answers", async () => {
    const place = new ScriptedPlace();
    const { log, warnings } = listener();
    const keeper = await WorkingSetKeeper.open({ place, log });
    place.isSilent = true;
    keeper.add(recordingOf({ pages: [5] }));
    await keeper.close(20);
    assert.match(warnings[0]!.reason, /It was not done within 20 ms/);
  });

  test("uses no set that is damaged, says why, and replaces it", async () => {
    const store = new MemoryStore("test:store");
    const image = { store, name: "web", indexSha256, index: { sizeBytes } };
    store.objects.set("web.workingset", Buffer.from("FLWSET\r\nand nothing more"));
    const { log, warnings } = listener();
    const keeper = await WorkingSetKeeper.open({ place: imageWorkingSet(image), log });
    assert.equal(keeper.current, null);
    assert.match(warnings[0]!.reason, /^web\.workingset in test:store holds no working set/);
    assert.ok(store.diary.includes("refetch web.workingset"), "it was read again");
    keeper.add(recordingOf({ pages: [5] }));
    await keeper.close();
    assert.equal((await readWorkingSet(image, never)).kind, "found");
    assert.equal(warnings.length, 1);
  });

  test("of a store that can only be read uses what is there", async () => {
    const store = new MemoryStore("test:store");
    const image = { store, name: "web", indexSha256, index: { sizeBytes } };
    const set = setOf([[1, 255, 5]]);
    store.objects.set("web.workingset", encodeWorkingSet({ set, indexSha256 }));
    store.beforeWrite = () => {
      throw new FaultlineError("store-refused", "It can only be read.");
    };
    const { log, warnings } = listener();
    const keeper = await WorkingSetKeeper.open({ place: imageWorkingSet(image), log });
    keeper.add(recordingOf({ pages: [1, 2] }));
    await keeper.close();
    assert.equal(keeper.current!.restores, 2);
    assert.deepEqual(
      warnings.map(({ message }) => message),
      ["The working set could not be written"],
    );
  });
});

describe("the working set of an image", () => {
  const set = setOf([[1, 255, 5]]);
  const imageIn = (store: MemoryStore, digest = indexSha256, bytes = sizeBytes) => ({
    store,
    name: "web",
    indexSha256: digest,
    index: { sizeBytes: bytes },
  });

  test("is not used for another image of its name, nor for another size", async () => {
    const store = new MemoryStore("test:store");
    await imageWorkingSet(imageIn(store)).write(set, never);
    assert.equal((await readWorkingSet(imageIn(store), never)).kind, "found");
    const other = await readWorkingSet(imageIn(store, "cd".repeat(32)), never);
    assert.ok(other.kind === "foreign");
    assert.match(other.reason, /it was learnt from another image of this name\.$/);
    const smaller = await readWorkingSet(imageIn(store, indexSha256, 4096), never);
    assert.ok(smaller.kind === "foreign");
    assert.match(smaller.reason, /for a memory of 3\.9 MiB \(4096000 bytes\), .* has 4 KiB\.$/);
  });

  test("that nobody may see may be none; a store that fails is told", async () => {
    const store = new MemoryStore("test:store");
    store.lie = () => {
      throw new FaultlineError("store-refused", "403");
    };
    const found = await readWorkingSet(imageIn(store), never);
    assert.deepEqual(found, { kind: "unreadable", reason: "403" });
    store.lie = () => {
      throw new FaultlineError("store-failed", "500");
    };
    await assert.rejects(readWorkingSet(imageIn(store), never), { code: "store-failed" });
  });

  test("that was damaged on its way is read again", async () => {
    const store = new MemoryStore("test:store");
    await imageWorkingSet(imageIn(store)).write(set, never);
    let lies = 1;
    store.lie = (_, bytes) => (lies-- > 0 ? bytes!.subarray(1) : bytes);
    assert.equal((await readWorkingSet(imageIn(store), never)).kind, "found");
  });
});

describe("a working set in a file", () => {
  const set = setOf([[1, 255, 5]]);

  test("is replaced whole, and leaves nothing beside it", async () => {
    using folder = new TestFolder();
    const place = fileWorkingSet(folder.at("vm.workingset"), sizeBytes);
    assert.deepEqual(await place.read(never), { kind: "none" });
    await place.write(set, never);
    await place.write({ ...set, restores: 2 }, never);
    const found = await place.read(never);
    assert.ok(found.kind === "found");
    assert.deepEqual(found.set, { ...set, restores: 2 });
    assert.deepEqual(readdirSync(folder.path), ["vm.workingset"]);
    assert.equal((await fileWorkingSet(place.name, 4096).read(never)).kind, "foreign");
  });

  test("never replaces a file that is something else", async () => {
    using folder = new TestFolder();
    const path = folder.at("vm.mem");
    writeFileSync(path, "the memory of a VM");
    const place = fileWorkingSet(path, sizeBytes);
    assert.equal((await place.read(never)).kind, "damaged");
    const isRefused = { code: "store-refused", message: /vm\.mem holds something else/ };
    await assert.rejects(place.write(set, never), isRefused);
    assert.equal(readFileSync(path, "utf8"), "the memory of a VM");
    writeFileSync(path, "");
    await place.write(set, never);
    assert.equal((await place.read(never)).kind, "found");
  });

  test("in a folder that is not there is told as what it is", async () => {
    using folder = new TestFolder();
    const place = fileWorkingSet(folder.at("none/vm.workingset"), sizeBytes);
    assert.deepEqual(await place.read(never), { kind: "none" });
    await assert.rejects(place.write(set, never), (error) => {
      assert.ok(error instanceof FaultlineError && error.code === "store-failed");
      assert.match(describeError(error), /vm\.workingset cannot be written: check its .*: ENOENT/);
      return true;
    });
    assert.ok(!existsSync(folder.at("none")));
    rmSync(folder.path, { recursive: true });
  });
});
