/**
 * What every store has to do, run over each of them. A place is planted behind the store's back
 * where the store itself cannot write.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { within } from "../../src/kit/wait.ts";
import type { ObjectStore, StoredObject } from "../../src/source/object-store.ts";
import { Random } from "./fixtures.ts";

const BUDGET_MS = 60_000;
/** A name as chunks have it: `default.castr/ab12/ab12….cacnk`. */
export function chunkName(number: number): string {
  const id = number.toString(16).padStart(64, "0").replace(/^..../, "ab12");
  return `default.castr/ab12/${id}.cacnk`;
}

/** Random bytes, the same for the same seed. */
export function randomBytes(sizeBytes: number, seed: number): Buffer {
  const random = new Random(seed);
  const words = new Uint32Array(Math.ceil(sizeBytes / 4));
  for (let index = 0; index < words.length; index++) words[index] = random.next();
  return Buffer.from(words.buffer, 0, sizeBytes);
}

export interface Place {
  readonly store: ObjectStore;
  /** Puts an object there; by the store itself if this is not given. */
  readonly plant?: (name: string, bytes: Uint8Array) => void;
}

export interface SuiteOptions {
  readonly isReadOnly?: boolean;
  /** More than one page of a listing; 0 where a store has none. */
  readonly manyObjects?: number;
}

const never = new AbortController().signal;

/** `open` gives a store over a place of its own, which is empty. */
export function objectStoreSuite(
  what: string,
  open: () => Promise<Place>,
  options: SuiteOptions = {},
): void {
  describe(what, () => {
    readSuite(open);
    nameSuite(open);
    abortSuite(open);
    if (options.isReadOnly === true) readOnlySuite(open);
    else {
      writeSuite(open);
      listSuite(open, options.manyObjects ?? 0);
    }
    test("closes twice", async () => {
      const { store } = await open();
      await store.close();
      await store.close();
    });
  });
}

async function planted(place: Place, name: string, bytes: Uint8Array): Promise<void> {
  if (place.plant === undefined) await place.store.write(name, bytes, never);
  else place.plant(name, bytes);
}

/** The bytes are compared by Buffer: assert's own comparison takes seconds for megabytes. */
export function assertBytes(actual: Uint8Array | null, expected: Uint8Array, what = ""): void {
  assert.notEqual(actual, null, `${what} is missing`);
  assert.equal(actual!.length, expected.length, `${what} has another size`);
  assert.equal(Buffer.compare(actual!, expected), 0, `${what} has other bytes`);
}

function readSuite(open: () => Promise<Place>): void {
  test("what does not exist is null, also in a folder that does not exist", async () => {
    const { store } = await open();
    for (const name of ["missing", "no/such/folder/missing", chunkName(1)]) {
      assert.equal(await store.read(name, never), null, name);
      assert.equal(await store.exists(name, never), false, name);
    }
    await store.close();
  });

  test("gives exactly what is there: no byte, one byte, a chunk, the largest chunk", async () => {
    const place = await open();
    for (const [index, sizeBytes] of [0, 1, 65_537, 262_144, 4 * 2 ** 20].entries()) {
      const name = chunkName(index);
      const bytes = randomBytes(sizeBytes, index);
      await planted(place, name, bytes);
      assertBytes(await place.store.read(name, never), bytes, `${sizeBytes} bytes`);
      assert.equal(await place.store.exists(name, never), true, `${sizeBytes} bytes`);
    }
    await place.store.close();
  });

  test("gives an index of 40 MB", async () => {
    const place = await open();
    const bytes = randomBytes(40_000_003, 7);
    await planted(place, "big.caibx", bytes);
    assertBytes(await place.store.read("big.caibx", never), bytes, "the index");
    await place.store.close();
  });

  test("many reads at once, with one signal", async () => {
    const place = await open();
    const warnings: string[] = [];
    const onWarning = (warning: Error): void => void warnings.push(warning.name);
    process.on("warning", onWarning);
    const bytes = Array.from({ length: 8 }, (_, index) => randomBytes(10_000, index));
    for (const [index, each] of bytes.entries()) await planted(place, chunkName(index), each);
    const reads = Array.from({ length: 200 }, async (_, index) => {
      assertBytes(await place.store.read(chunkName(index % 8), never), bytes[index % 8]!);
    });
    await within("200 reads ended", Promise.all(reads), BUDGET_MS);
    process.off("warning", onWarning);
    assert.deepEqual(warnings, []);
    await place.store.close();
  });
}

const oddNames = [
  "with space/and more",
  "ünïcødé/日本語/🙂",
  "100%/%2e%2e/%41",
  "a+b&c=d?e#f;g",
  "'quoted' \"twice\" (and) [so] {on}!*~$,:@|^`<>",
  "back\\slash",
  "-dash_and.dots..",
  "a".repeat(255),
  `deep/${"d/".repeat(40)}leaf`,
];

const badNames = [
  "",
  "/root",
  "end/",
  "a//b",
  "../up",
  "a/../../up",
  ".",
  ".hid/den",
  "nul\0",
  "\ud800",
];

function nameSuite(open: () => Promise<Place>): void {
  test("odd names are told apart", async () => {
    const place = await open();
    for (const name of oddNames) await planted(place, name, Buffer.from(name));
    for (const name of oddNames) {
      assertBytes(await place.store.read(name, never), Buffer.from(name), name);
      assert.equal(await place.store.exists(name, never), true, name);
    }
    assert.equal(await place.store.read("100%/../A", never).catch(() => null), null);
    await place.store.close();
  });

  test("names that could leave the store are refused", async () => {
    const { store } = await open();
    for (const name of badNames) {
      await assert.rejects(store.read(name, never), `reads ${JSON.stringify(name)}`);
      await assert.rejects(store.exists(name, never), `looks for ${JSON.stringify(name)}`);
      await assert.rejects(store.write(name, Buffer.alloc(1), never), `writes ${name}`);
    }
    await store.close();
  });
}

function abortSuite(open: () => Promise<Place>): void {
  test("what is aborted before it begins does nothing", async () => {
    const { store } = await open();
    const reason = new Error("too late");
    const signal = AbortSignal.abort(reason);
    await assert.rejects(store.read("a", signal), reason);
    await assert.rejects(store.exists("a", signal), reason);
    await store.close();
  });

  test("an abort in the middle ends a read with its reason, and harms no other", async () => {
    const place = await open();
    const bytes = randomBytes(2_000_000, 3);
    await planted(place, chunkName(1), bytes);
    const stopped = new AbortController();
    const reason = new Error("changed my mind");
    const reads = Array.from({ length: 20 }, (_, index) =>
      place.store.read(chunkName(1), index % 2 === 0 ? stopped.signal : never),
    );
    setImmediate(() => stopped.abort(reason));
    const results = await within("the reads ended", Promise.allSettled(reads), BUDGET_MS);
    for (const [index, result] of results.entries()) {
      if (index % 2 === 1) assert.equal(result.status, "fulfilled", `read ${index}`);
      if (result.status === "fulfilled") assertBytes(result.value, bytes, `read ${index}`);
      else assert.equal(result.reason, reason);
    }
    await place.store.close();
  });
}

function readOnlySuite(open: () => Promise<Place>): void {
  test("refuses to write, list and remove, and says where to do that", async () => {
    const { store } = await open();
    const refusal = (error: unknown): boolean => {
      assert.ok(error instanceof FaultlineError);
      assert.equal(error.code, "store-refused");
      assert.match(error.message, /dir:.*s3:/);
      return true;
    };
    await assert.rejects(store.write("a", Buffer.alloc(1), never), refusal);
    await assert.rejects(names(store, ""), refusal);
    await assert.rejects(store.remove("a", never), refusal);
    await store.close();
  });
}

export async function names(store: ObjectStore, prefix: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { name } of store.list(prefix, never)) found.push(name);
  return found.sort();
}

function writeSuite(open: () => Promise<Place>): void {
  test("a write replaces what was there", async () => {
    const { store } = await open();
    for (const text of ["first", "second, longer", "3"]) {
      await store.write("image.caibx", Buffer.from(text), never);
      assertBytes(await store.read("image.caibx", never), Buffer.from(text));
    }
    await store.close();
  });

  test("writers of one object at once: every reader gets one of them, whole", async () => {
    const { store } = await open();
    const versions = Array.from({ length: 6 }, (_, index) => Buffer.alloc(300_000, 65 + index));
    await store.write("shared.caibx", versions[0]!, never);
    const writes = versions.map((bytes) => store.write("shared.caibx", bytes, never));
    const reads = Array.from({ length: 12 }, async () => {
      const bytes = await store.read("shared.caibx", never);
      assertBytes(bytes, Buffer.alloc(300_000, bytes![0]), "a reader's object");
    });
    await within("all ended", Promise.all([...writes, ...reads]), BUDGET_MS);
    await store.close();
  });

  test("removes, and is content if there is nothing to remove", async () => {
    const { store } = await open();
    await store.write("a", Buffer.from("a"), never);
    await store.remove("a", never);
    assert.equal(await store.read("a", never), null);
    assert.equal(await store.exists("a", never), false);
    await store.remove("a", never);
    await store.remove("never/was", never);
    await store.close();
  });

  test("a write that is aborted leaves the old object or the new one", async () => {
    const { store } = await open();
    const old = Buffer.alloc(3_000_000, 1);
    const young = Buffer.alloc(3_000_000, 2);
    await store.write("a", old, never);
    const stopped = new AbortController();
    const reason = new Error("changed my mind");
    const write = store.write("a", young, stopped.signal);
    setImmediate(() => stopped.abort(reason));
    await write.catch((error) => assert.equal(error, reason));
    stopped.abort(reason); // the write may have been quicker
    await assert.rejects(store.write("a", young, stopped.signal), reason);
    const bytes = await store.read("a", never);
    assertBytes(bytes, bytes?.[0] === 1 ? old : young, "the object");
    await store.close();
  });
}

function listSuite(open: () => Promise<Place>, manyObjects: number): void {
  test("lists what begins with a prefix, with sizes and times", async () => {
    const { store } = await open();
    assert.deepEqual(await names(store, ""), []);
    const all = ["a.caibx", "a.json", "b.caibx", chunkName(1), chunkName(2), ...oddNames];
    for (const name of all) await store.write(name, Buffer.from(name), never);
    assert.deepEqual(await names(store, ""), [...all].sort());
    assert.deepEqual(await names(store, "a."), ["a.caibx", "a.json"]);
    assert.deepEqual(await names(store, "default.castr/"), [chunkName(1), chunkName(2)]);
    assert.deepEqual(await names(store, "nothing"), []);
    const found: StoredObject[] = [];
    for await (const object of store.list("b.", never)) found.push(object);
    assert.deepEqual(
      found.map(({ name, sizeBytes }) => [name, sizeBytes]),
      [["b.caibx", 7]],
    );
    assert.ok(Math.abs(found[0]!.modifiedMs - Date.now()) < 600_000, "the time is of now");
    await store.close();
  });

  test("a list of a folder has what lies in it", async () => {
    const { store } = await open();
    for (const name of ["a.caibx", "b.json", chunkName(1)]) {
      await store.write(name, Buffer.from(name), never);
    }
    const found: string[] = [];
    for await (const { name } of store.list("", never, "folder")) found.push(name);
    assert.deepEqual(found.filter((name) => !name.includes("/")).sort(), ["a.caibx", "b.json"]);
    await store.close();
  });

  if (manyObjects > 0)
    test("lists everything, however much it is", async () => {
      const { store } = await open();
      const all = Array.from({ length: manyObjects }, (_, index) => chunkName(index));
      for (let first = 0; first < all.length; first += 32) {
        const some = all.slice(first, first + 32);
        await Promise.all(some.map((name) => store.write(name, Buffer.alloc(1), never)));
      }
      assert.deepEqual(await names(store, "default.castr/"), all.sort());
      await store.close();
    });
}
