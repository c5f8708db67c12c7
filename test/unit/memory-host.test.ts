/** All memory of one process: opened once, served by one supply, and there after its death. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  copyFileSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
} from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { describe, mock, test } from "node:test";
import { MIB } from "../../src/base/units.ts";
import { createLogger } from "../../src/daemon/log.ts";
import { MemoryHost, type MemoryHostOptions, prepareImages } from "../../src/daemon/memory-host.ts";
import type { ServedMemory } from "../../src/daemon/served-memory.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { duplicateFd, type OwnedFd } from "../../src/linux/fd.ts";
import { createMemfd } from "../../src/linux/memory.ts";
import { type Received, receiveWithFds, socketPair } from "../../src/linux/socket.ts";
import { isInChunks } from "../../src/source/mapped-image.ts";
import { BLOCK_BYTES } from "../../src/source/warm-blocks.ts";
import { ImageStage, writeDiff, writeMemory } from "../support/image-stage.ts";
import { wholeMemory } from "../support/whole-memory.ts";

const PAGES = 2048;
const CACHE_BYTES = 64 * MIB;

async function withHost(
  options: Partial<MemoryHostOptions>,
  work: (host: MemoryHost) => Promise<void>,
): Promise<void> {
  const logger = createLogger("silent", "json");
  const host = await MemoryHost.start({ cacheBytes: CACHE_BYTES, logger, ...options });
  try {
    await work(host);
  } finally {
    await host.close();
  }
}

/** Two images, the second a diff over the first, and their bytes. */
function packTwo(stage: ImageStage): { one: Buffer; two: Buffer; names: [string, string] } {
  const one = writeMemory(stage.path("one.mem"), PAGES, 1);
  const two = Buffer.from(one);
  writeDiff(stage.path("two.diff"), two, 2);
  stage.json("pack", stage.path("one.mem"), "--name", "one");
  stage.json("pack", "--diff", stage.path("two.diff"), "--parent", "one", "--name", "two");
  return { one, two, names: [`dir:${stage.store}/one`, `dir:${stage.store}/two`] };
}

/** A folder of images behind HTTP, under two names. */
class FarStore implements AsyncDisposable {
  chunkRequests = 0;
  readonly #server: Server;

  private constructor(folder: string) {
    this.#server = createServer((request, response) => {
      const path = join(folder, request.url!.replace(/^\/[ab]\//, ""));
      this.chunkRequests += Number(path.endsWith(".cacnk"));
      try {
        response.end(readFileSync(path));
      } catch {
        response.writeHead(404).end();
      }
    }).listen(0, "127.0.0.1");
  }

  static async start(folder: string): Promise<FarStore> {
    const store = new FarStore(folder);
    await once(store.#server, "listening");
    return store;
  }

  at(path: string): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/${path}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

const openFds = (): number => readdirSync("/proc/self/fd").length;
const kept = (host: MemoryHost, memory: ServedMemory) => ({
  fds: host.keep(memory).fds.map((fd) => duplicateFd(fd)),
});

describe("memory files", () => {
  test("are opened once, by whatever name, until the last use is closed", async () => {
    using stage = new ImageStage();
    const content = writeMemory(stage.path("memory"), PAGES, 3);
    linkSync(stage.path("memory"), stage.path("other-name"));
    await withHost({}, async (host) => {
      const before = openFds();
      const first = await host.open({ memory: stage.path("memory") });
      const second = await host.open({ memory: stage.path("other-name") });
      assert.equal(first.mapped, second.mapped);
      assert.equal(openFds(), before + 1);
      await first.close();
      await first.close();
      assert.deepEqual(await wholeMemory(second), content);
      await second.close();
      assert.equal(openFds(), before);
      assert.equal(host.arenaFd, null, "nobody needed a cache");
    });
  });

  test("that were written to, or have layers, are another memory", async () => {
    using stage = new ImageStage();
    const memory = stage.path("memory");
    const content = writeMemory(memory, PAGES, 4);
    const merged = Buffer.from(content);
    writeDiff(stage.path("diff"), merged, 5);
    await withHost({}, async (host) => {
      const plain = await host.open({ memory });
      const layered = await host.open({ memory, layers: [stage.path("diff")] });
      assert.notEqual(layered.mapped, plain.mapped);
      assert.deepEqual(await wholeMemory(layered), merged);
      utimesSync(memory, new Date(), new Date(Date.now() + 5000));
      assert.throws(() => plain.assertUnchanged(), { code: "memory-changed" });
      const again = await host.open({ memory });
      assert.notEqual(again.mapped, plain.mapped);
      again.assertUnchanged();
    });
  });

  test("bring their parts through the supply that was there before them", async () => {
    using stage = new ImageStage();
    for (const name of ["a", "b"]) writeMemory(stage.path(name), PAGES, 6);
    await withHost({}, async (host) => {
      const { supply } = host;
      const [a, b] = [
        await host.open({ memory: stage.path("a") }),
        await host.open({ memory: stage.path("b") }),
      ];
      for (const { mapped } of [b, a]) {
        assert.ok(!isInChunks(mapped));
        const last = mapped.firstParts[0]! + Math.ceil((PAGES * 4096) / BLOCK_BYTES) - 1;
        for (const part of [mapped.firstParts[0]!, last]) await supply.demand(part, true);
      }
      const { mapped } = b;
      assert.ok(!isInChunks(mapped));
      await b.close();
      assert.throws(() => supply.demand(mapped.firstParts[0]!, true), {
        code: "unresolvable-page",
      });
    });
  });

  test("are reopened from descriptors, though nobody finds them by name any more", async () => {
    using stage = new ImageStage();
    const content = writeMemory(stage.path("memory"), PAGES, 7);
    writeDiff(stage.path("diff"), content, 8);
    const options = { memory: stage.path("memory"), layers: [stage.path("diff")] };
    const before = openFds();
    await withHost({}, async (host) => {
      const memory = await host.open(options);
      const first = kept(host, memory);
      const second = kept(host, memory);
      await withHost({}, async (next) => {
        // Before: it is the same memory still.
        const found = await next.reopen(first);
        assert.equal((await next.open(options)).mapped, found.mapped);
        assert.equal((await next.reopen(kept(next, found))).mapped, found.mapped);
        found.assertUnchanged();
      });
      for (const name of ["memory", "diff"]) rmSync(stage.path(name));
      await withHost({}, async (next) => {
        const found = await next.reopen(second);
        assert.deepEqual(await wholeMemory(found), content);
        assert.deepEqual(found.identity, memory.identity);
        found.assertUnchanged();
      });
    });
    assert.equal(openFds(), before);
  });

  test("that changed while nobody had them open are told when they are used", async () => {
    using stage = new ImageStage();
    const memory = stage.path("memory");
    writeMemory(memory, PAGES, 9);
    await withHost({}, async (host) => {
      const left = kept(host, await host.open({ memory }));
      utimesSync(memory, new Date(), new Date(Date.now() + 5000));
      await withHost({}, async (next) => {
        const found = await next.reopen(left);
        assert.throws(() => found.assertUnchanged(), { code: "memory-changed" });
      });
    });
  });
});

describe("images", () => {
  test("are served on without copies on this host if their folder cannot be opened", async () => {
    using stage = new ImageStage();
    const { one, two } = packTwo(stage);
    await using server = await FarStore.start(stage.store);
    await withHost({ cacheFolder: stage.path("near") }, async (host) => {
      const left = kept(host, await host.open({ memory: server.at("a/one") }));
      const logger = createLogger("silent", "json");
      const told = mock.method(logger, "error");
      // A file is no folder.
      await withHost({ cacheFolder: stage.path("one.mem"), logger }, async (next) => {
        // Nobody waits for this one.
        const memory = server.at("b/two");
        await assert.rejects(next.open({ memory }), { code: "store-failed" });
        assert.equal(told.mock.callCount(), 0);
        assert.deepEqual(await wholeMemory(await next.reopen(left)), one);
        assert.equal(next.nearStatistics(), null);
        const [fields, message] = told.mock.calls[0]?.arguments ?? [];
        assert.match(String(message), /^Copies of chunks cannot be kept/);
        assert.equal((fields as { cacheFolder: string }).cacheFolder, stage.path("one.mem"));
      });
      // With a folder that can be used, it is used.
      const second = await host.open({ memory: server.at("b/two") });
      assert.deepEqual(await wholeMemory(second), two);
      assert.notEqual(host.nearStatistics(), null);
    });
  });

  test("share one cache: what two of them have is fetched once", async () => {
    using stage = new ImageStage();
    const { one, two, names } = packTwo(stage);
    await withHost({}, async (host) => {
      const [first, second] = [
        await host.open({ memory: names[0] }),
        await host.open({ memory: names[1] }),
      ];
      assert.equal((await host.open({ memory: names[0] })).mapped, first.mapped);
      assert.deepEqual(await wholeMemory(first), one);
      const { loads } = host.cacheStatistics();
      assert.deepEqual(await wholeMemory(second), two);
      const { loads: all, chunks, sizeBytes, usedBytes } = host.cacheStatistics();
      assert.ok(all > loads && all < 2 * loads, `${all} loads after ${loads}`);
      assert.deepEqual([chunks, sizeBytes], [all, CACHE_BYTES]);
      assert.ok(usedBytes > 0 && usedBytes <= CACHE_BYTES);
    });
  });

  test("published anew under their name are others; what was open is served on", async () => {
    using stage = new ImageStage();
    const { one, two, names } = packTwo(stage);
    await withHost({}, async (host) => {
      const old = await host.open({ memory: names[0] });
      for (const end of [".caibx", ".json"]) {
        copyFileSync(join(stage.store, `two${end}`), join(stage.store, `one${end}`));
      }
      const anew = await host.open({ memory: names[0] });
      assert.notEqual(anew.mapped, old.mapped);
      assert.deepEqual(await wholeMemory(anew), two);
      await anew.close();
      assert.deepEqual(await wholeMemory(old), one);
    });
  });

  test("of several far stores share the copies on this host", async () => {
    using stage = new ImageStage();
    const { one, names: _ } = packTwo(stage);
    await using server = await FarStore.start(stage.store);
    mkdirSync(stage.path("near"));
    await withHost({ cacheFolder: stage.path("near") }, async (host) => {
      const first = await host.open({ memory: server.at("a/one") });
      assert.deepEqual(await wholeMemory(first), one);
      const stats = host.storeStatistics();
      assert.deepEqual([...stats.keys()], [server.at("a")]);
      assert.ok(stats.get(server.at("a"))!.reads >= server.chunkRequests);
      assert.ok(host.cacheStatistics().prefetches > 0, "neighbours came ahead");
      const copies = (): number =>
        readdirSync(stage.path("near"), { recursive: true }).filter((name) =>
          String(name).endsWith(".cacnk"),
        ).length;
      await waitFor("all copies were written", () => copies() === server.chunkRequests);
    });
    const before = server.chunkRequests;
    // Another store, and another cache in memory: the copies serve it.
    await withHost({ cacheFolder: stage.path("near") }, async (host) => {
      assert.deepEqual(await wholeMemory(await host.open({ memory: server.at("b/one") })), one);
    });
    assert.equal(server.chunkRequests, before);
  });

  test("cannot have layers, and a folder that is no store is told again and again", async () => {
    using stage = new ImageStage();
    await withHost({}, async (host) => {
      const memory = `dir:${stage.path("none")}/one`;
      await assert.rejects(host.open({ memory, layers: ["x"] }), { code: "bad-option" });
      for (let round = 0; round < 2; round++) {
        await assert.rejects(host.open({ memory }), { code: "store-failed" });
      }
    });
  });
});

describe("after kill -9", () => {
  /** What a process that served them has left: descriptors for each memory, then the arena. */
  async function leftBy(memories: readonly string[]): Promise<OwnedFd[][]> {
    const program = new URL("../support/memory-host-program.js", import.meta.url).pathname;
    const [ours, theirs] = socketPair();
    const stdio = ["ignore", "inherit", "inherit", theirs.fd] as const;
    const child = spawn(process.execPath, [program, ...memories], { stdio: [...stdio] });
    theirs.close();
    const exited = once(child, "exit");
    const messages: OwnedFd[][] = [];
    try {
      await waitFor("all was sent", () => {
        assert.equal(child.exitCode, null);
        const received: Received | null = receiveWithFds(ours.fd, Buffer.alloc(1));
        if (received !== null) messages.push([...received.fds]);
        return messages.length === memories.length + 1;
      });
    } finally {
      child.kill("SIGKILL");
      ours.close();
    }
    await exited;
    return messages;
  }

  test("all memory is served on, though its store and its files are gone", async () => {
    using stage = new ImageStage();
    const { one, two, names } = packTwo(stage);
    const content = writeMemory(stage.path("memory"), PAGES, 10);
    const left = await leftBy([...names, stage.path("memory")]);
    const [arena] = left.pop()!;
    rmSync(stage.store, { recursive: true });
    rmSync(stage.path("memory"));
    await withHost({ arena: arena!, decoders: await prepareImages() }, async (host) => {
      const { candidates } = host.cacheStatistics();
      const memories = [];
      for (const fds of left) memories.push(await host.reopen({ fds }));
      for (const [index, bytes] of [one, two, content].entries()) {
        assert.deepEqual(await wholeMemory(memories[index]!), bytes);
      }
      const { loads, adopted, fetchedBytes, chunks, candidates: unasked } = host.cacheStatistics();
      assert.deepEqual([fetchedBytes, adopted, unasked], [0, loads, 0]);
      assert.deepEqual([chunks, candidates], [loads, loads]);
      assert.notEqual(host.arenaFd, null);
    });
  });

  test("a cache of another size begins empty, and is kept again", async () => {
    using stage = new ImageStage();
    const { one, names } = packTwo(stage);
    const [[memfd], [arena]] = (await leftBy([names[0]])) as [[OwnedFd], [OwnedFd]];
    await withHost({ arena, cacheBytes: CACHE_BYTES / 2 }, async (host) => {
      assert.ok(!arena.isOpen);
      const memory = await host.reopen({ fds: [memfd] });
      assert.deepEqual(await wholeMemory(memory), one);
      const { adopted, fetchedBytes, sizeBytes } = host.cacheStatistics();
      assert.deepEqual([adopted, sizeBytes], [0, CACHE_BYTES / 2]);
      assert.ok(fetchedBytes > 0);
      assert.ok(statSync(`/proc/self/fd/${host.arenaFd!.fd}`).size > sizeBytes);
    });
  });

  test("what is no kept memory is refused, and closed", async () => {
    await withHost({}, async (host) => {
      const before = openFds();
      await assert.rejects(host.reopen({ fds: [createMemfd("empty"), createMemfd("more")] }), {
        code: "image-corrupt",
        message: /does not say what it is/,
      });
      assert.equal(openFds(), before);
    });
  });
});
