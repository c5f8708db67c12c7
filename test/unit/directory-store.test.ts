/** A store in a folder: objects whole or absent, locks that die with their writers, errors. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { DirectoryStore } from "../../src/source/directory-store.ts";
import { Staging, withStoreLock } from "../../src/source/staging.ts";
import { objectStoreSuite } from "../support/object-store-suite.ts";
import { requires } from "../support/requires.ts";

const never = new AbortController().signal;
const bytes = (text: string): Uint8Array => Buffer.from(text);
const HOUR_MS = 3_600_000;

let root: string;
let store: DirectoryStore;

beforeEach(() => {
  root = join(mkdtempSync(join(tmpdir(), "faultline-store-")), "images");
  store = DirectoryStore.open(root, { create: true });
});

afterEach(async () => {
  await store.close();
  rmSync(join(root, ".."), { recursive: true });
});

async function names(prefix = ""): Promise<string[]> {
  const found: string[] = [];
  for await (const { name } of store.list(prefix, never)) found.push(name);
  return found.sort();
}

function makeOld(name: string): void {
  const then = new Date(Date.now() - 2 * HOUR_MS);
  utimesSync(join(root, name), then, then);
}

describe("a directory store", () => {
  test("gives back what was written, and replaces it", async () => {
    await store.write("a/b.txt", bytes("one"), never);
    await store.write("a/b.txt", bytes("two"), never);
    assert.deepEqual(await store.read("a/b.txt", never), Buffer.from("two"));
    assert.equal(readFileSync(join(root, "a/b.txt"), "utf8"), "two");
  });

  test("tells what exists", async () => {
    assert.equal(await store.read("a", never), null);
    assert.equal(await store.exists("a", never), false);
    assert.equal(await store.exists("a/b", never), false);
    await store.write("a", bytes("one"), never);
    assert.equal(await store.exists("a", never), true);
    assert.equal(await store.exists("a/b", never), false, "a file has nothing below it");
    mkdirSync(join(root, "folder"));
    assert.equal(await store.exists("folder", never), false, "a folder is no object");
  });

  test("lists by prefix, with size and age, and nothing that begins with a dot", async () => {
    const before = Date.now() - 1000;
    for (const name of ["x", "tree/ab/1", "tree/ac/2", "trees"]) {
      await store.write(name, bytes(name), never);
    }
    writeFileSync(join(root, ".hidden"), "");
    assert.deepEqual(await names(), ["tree/ab/1", "tree/ac/2", "trees", "x"]);
    assert.deepEqual(await names("tree"), ["tree/ab/1", "tree/ac/2", "trees"]);
    assert.deepEqual(await names("tree/a"), ["tree/ab/1", "tree/ac/2"]);
    assert.deepEqual(await names("tree/ab/"), ["tree/ab/1"]);
    assert.deepEqual(await names("none/"), []);
    for await (const { sizeBytes, modifiedMs } of store.list("x", never)) {
      assert.equal(sizeBytes, 1);
      assert.ok(modifiedMs >= before && modifiedMs <= Date.now() + 1000);
    }
  });

  test("removes an object, and does not mind if there is none", async () => {
    await store.write("a", bytes("one"), never);
    await store.remove("a", never);
    await store.remove("a", never);
    assert.deepEqual(await names(), []);
  });

  test("refuses to work for whom nobody waits any more", async () => {
    const aborted = AbortSignal.abort(new Error("enough"));
    await assert.rejects(store.read("a", aborted), /enough/);
    await assert.rejects(store.write("a", bytes("one"), aborted), /enough/);
    assert.deepEqual(await names(), []);
  });

  test("looks at nothing outside of its folder", async () => {
    writeFileSync(join(root, "..", "outside"), "secret");
    for (const name of ["../outside", "a/../../outside", join(root, "..", "outside")]) {
      const refusal = { code: "store-refused", message: /cannot be used for an object in dir:/ };
      await assert.rejects(store.read(name, never), refusal, name);
      await assert.rejects(store.exists(name, never), refusal, name);
      await assert.rejects(store.remove(name, never), refusal, name);
      await assert.rejects(store.refresh([name], never), refusal, name);
      await assert.rejects(store.removeOlder([name], Date.now(), never), refusal, name);
      assert.throws(() => store.pathOf(name), refusal, name);
    }
    for (const prefix of ["../", "../out", "a/../../", ".staging/"]) {
      assert.deepEqual(await names(prefix), [], prefix);
    }
    assert.equal(readFileSync(join(root, "..", "outside"), "utf8"), "secret");
  });

  test("an aborted writer does not spoil the next", async () => {
    const stopped = new AbortController();
    const reason = new Error("enough");
    let first: Promise<void> | undefined;
    await withStoreLock(root, never, () => {
      first = store.write("a", bytes("one"), stopped.signal);
      stopped.abort(reason);
    });
    await assert.rejects(first!, reason);
    await store.write("a", bytes("two"), never);
    assert.deepEqual(await names(), ["a"]);
  });

  test("leaves nothing behind but its objects", async () => {
    await store.write("a", bytes("one"), never);
    await store.close();
    assert.deepEqual(readdirSync(root).sort(), [".staging", "a"]);
    assert.deepEqual(readdirSync(join(root, ".staging")), ["lock"]);
  });
});

objectStoreSuite("a directory store, as any store", async () => ({ store }), { manyObjects: 300 });

describe("a directory store refuses", () => {
  test("a folder that does not exist, unless it shall be made", () => {
    assert.throws(() => DirectoryStore.open(join(root, "none")), {
      code: "store-failed",
      message: /none cannot be read or written: create the folder first/,
    });
  });

  test("a file", () => {
    writeFileSync(join(root, "file"), "");
    assert.throws(() => DirectoryStore.open(join(root, "file")), {
      code: "store-failed",
      message: /a part of the path is no folder/,
    });
  });

  test("a folder without rights", requires("unprivileged-user"), () => {
    chmodSync(root, 0o500);
    process.seteuid!(65534);
    try {
      assert.throws(() => DirectoryStore.open(root), { code: "store-refused" });
    } finally {
      process.seteuid!(0);
      chmodSync(root, 0o700);
    }
  });

  test("names the object and the cure where an operation fails", () => {
    const error = store.errorFor("web-1.caibx", Object.assign(new Error("x"), { code: "ENOSPC" }));
    assert.match((error as Error).message, /^web-1\.caibx in dir:.* make room on its disk$/);
  });
});

describe("age", () => {
  test("only what is old enough is removed", async () => {
    for (const name of ["old", "young"]) await store.write(name, bytes(name), never);
    makeOld("old");
    const removed = await store.removeOlder(["old", "young", "none"], Date.now() - HOUR_MS, never);
    assert.deepEqual(removed, ["old"]);
    assert.deepEqual(await names(), ["young"]);
  });

  test("a refresh makes old objects young, and tells which are gone", async () => {
    await store.write("old", bytes("old"), never);
    makeOld("old");
    assert.deepEqual(await store.refresh(["old", "none"], never), ["none"]);
    assert.deepEqual(await store.removeOlder(["old"], Date.now() - HOUR_MS, never), []);
    assert.deepEqual(await names(), ["old"]);
  });

  test("refreshing waits while somebody removes", async () => {
    await store.write("old", bytes("old"), never);
    let refreshed: Promise<string[]> | undefined;
    let isOver = false;
    await withStoreLock(root, never, () => {
      refreshed = store.refresh(["old"], never).finally(() => {
        isOver = true;
      });
    });
    assert.equal(isOver, false);
    assert.deepEqual(await refreshed, []);
  });
});

describe("staging", () => {
  test("many objects get their names together", async () => {
    using staging = await Staging.open(root, never);
    const objects = ["t/aa/1", "t/bb/2"].map((name) => ({ path: staging.newPath(), name }));
    for (const { path, name } of objects) writeFileSync(path, name);
    assert.deepEqual(await names(), []);
    await staging.commitMany(objects);
    assert.deepEqual(await names(), ["t/aa/1", "t/bb/2"]);
    assert.equal(readFileSync(join(root, "t/bb/2"), "utf8"), "t/bb/2");
  });

  test("the folder of a living writer stays, that of a dead one goes", async () => {
    using living = await Staging.open(root, never);
    writeFileSync(living.newPath(), "mine");
    await using writer = new DeadWriter(root);
    const theirs = await writer.folder();
    assert.ok(existsSync(theirs));
    {
      using _other = await Staging.open(root, never);
      assert.ok(existsSync(theirs), "it lives");
    }
    await writer.kill();
    using _next = await Staging.open(root, never);
    assert.ok(!existsSync(theirs), "it is dead");
    assert.equal(readdirSync(living.folder).length, 2, "the lock and a file");
  });

  test("a folder whose writer died before it could lock goes too", async () => {
    mkdirSync(join(root, ".staging", "1-dead"), { recursive: true });
    await store.removeLeftovers(never);
    assert.ok(!existsSync(join(root, ".staging", "1-dead")));
  });
});

/** A process that opens a staging folder, writes to it, and waits for its end. */
class DeadWriter {
  readonly #child: ChildProcess;

  constructor(storePath: string) {
    const module = JSON.stringify(new URL("../../src/source/staging.js", import.meta.url).href);
    const program =
      `const { Staging } = await import(${module});` +
      `const s = await Staging.open(${JSON.stringify(storePath)}, new AbortController().signal);` +
      'require("node:fs").writeFileSync(s.newPath(), "half");' +
      "console.log(s.folder); setInterval(() => {}, 1000);";
    const code = `(async () => { ${program} })()`;
    this.#child = spawn(process.execPath, ["-e", code], { stdio: ["ignore", "pipe", "inherit"] });
  }

  async folder(): Promise<string> {
    const [line] = (await once(this.#child.stdout!, "data")) as [Buffer];
    return line.toString().trim();
  }

  async kill(): Promise<void> {
    if (this.#child.signalCode !== null) return;
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}
