/** The overview: who was told of one look is told what has changed since, and nothing else. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { OverviewFeed } from "../../src/daemon/dashboard/overview-feed.ts";
import { ChunkSharing } from "../../src/daemon/dashboard/sharing.ts";
import { isToken, newToken, tokenIn } from "../../src/daemon/dashboard/token.ts";
import { loadSettings } from "../../src/daemon/settings.ts";
import type { MappedChunks } from "../../src/source/mapped-image.ts";
import { TableSource, TableVm } from "../support/table-dashboard.ts";

describe("the overview", () => {
  test("tells what has changed since a look, as whole rows", () => {
    const source = new TableSource();
    source.add("a");
    source.add("b");
    const feed = new OverviewFeed(source);
    feed.look();
    const first = feed.at;
    assert.deepEqual(
      feed.all().sessions.map(({ id }) => id),
      ["a", "b"],
    );
    assert.equal(feed.since(first), null);
    source.rows.set("b", { ...source.rows.get("b")!, faults: 5 });
    source.isDraining = true;
    feed.look();
    const second = feed.at;
    const update = feed.since(first);
    assert.ok(update !== null && update !== "all");
    assert.deepEqual(Object.keys(update).sort(), ["host", "sessions"]);
    assert.deepEqual(
      update.sessions?.map(({ id, faults }) => [id, faults]),
      [["b", 5]],
    );
    const vm = new TableVm(16);
    source.vms.set("b", vm);
    vm.stats.addFault();
    vm.stats.addLatency(3);
    feed.look();
    const last = feed.since(second);
    assert.ok(last !== null && last !== "all");
    assert.deepEqual(Object.keys(last), ["numbers"]);
    assert.deepEqual([last.numbers?.faults, last.numbers?.latencyBuckets.length], [1, 1]);
  });

  test("keeps the last that have ended for a while, then tells that they are gone", () => {
    const source = new TableSource();
    const ids = Array.from({ length: 40 }, (_, index) => `s${index}`);
    for (const id of ids) source.add(id);
    const feed = new OverviewFeed(source);
    feed.look();
    const first = feed.at;
    source.rows.clear();
    source.add("s39");
    feed.look();
    const update = feed.since(first);
    assert.ok(update !== null && update !== "all");
    assert.deepEqual(update.gone, ids.slice(0, 7));
    assert.equal(update.sessions?.length, 32);
    assert.ok(update.sessions?.every((row) => row.state === "ended" && row.endReason === "exited"));
    assert.equal(feed.all().sessions.length, 33);
  });

  test("of very many that change at once, tells each in its turn", () => {
    const source = new TableSource();
    const ids = Array.from({ length: 600 }, (_, index) => `s${index}`);
    for (const id of ids) source.add(id);
    const feed = new OverviewFeed(source);
    feed.look();
    const heard = new Map<string, number>();
    for (let faults = 1; faults <= 3; faults++) {
      const told = feed.at;
      for (const id of ids) source.rows.set(id, { ...source.rows.get(id)!, faults });
      feed.look();
      const update = feed.since(told);
      assert.ok(update !== null && update !== "all");
      assert.equal(update.sessions?.length, 250);
      for (const row of update.sessions) heard.set(row.id, row.faults);
    }
    assert.deepEqual(new Set(heard.keys()), new Set(ids));
    assert.equal(heard.get("s599"), 3);
  });

  test("begins anew for those that are too far behind", () => {
    const source = new TableSource();
    const feed = new OverviewFeed(source);
    feed.look();
    const first = feed.at;
    for (let round = 0; round < 1100; round++) {
      source.rows.clear();
      source.add(`s${round}`);
      feed.look();
    }
    assert.equal(feed.since(first), "all");
    assert.notEqual(feed.since(feed.at - 1), "all");
  });
});

describe("sharing", () => {
  const image = (numbers: readonly number[], zeroes: readonly number[] = []): MappedChunks =>
    ({
      runs: {
        sizeBytes: numbers.length,
        starts: Float64Array.from(numbers.keys()),
        owners: Int32Array.from(numbers.keys(), (run) => (zeroes.includes(run) ? -1 : run + 1)),
      },
      chunkNumbers: Uint32Array.from(numbers),
    }) as unknown as MappedChunks;

  test("counts distinct chunks, and those of others, most first", async () => {
    const a = image([1, 2, 2, 3, 0], [4]);
    const b = image([3, 9000, 1]);
    const c = image([3, 70_000]);
    let open = [a, b, c].map((mapped, index) => ({ memory: "abc"[index]!, mapped }));
    const sharing = new ChunkSharing(() => open);
    assert.equal(sharing.of(a).chunks, null);
    await sharing.update();
    assert.deepEqual(sharing.of(a), {
      chunks: 3,
      sharedChunks: 2,
      sharedWith: [
        { memory: "b", chunks: 2 },
        { memory: "c", chunks: 1 },
      ],
    });
    assert.deepEqual([sharing.of(c).chunks, sharing.of(c).sharedChunks], [2, 1]);
    assert.deepEqual(
      [0, 1, 2, 3, 9000, 1e6].filter((each) => sharing.isShared(each)),
      [1, 3],
    );
    open = open.slice(0, 1);
    await sharing.update();
    assert.deepEqual([sharing.of(a).sharedChunks, sharing.isShared(3)], [0, false]);
  });
});

describe("the token", () => {
  test("is kept, for this user only, and made anew if it is none", () => {
    const folder = mkdtempSync(join(tmpdir(), "faultline-token-"));
    try {
      const path = join(folder, "dashboard.token");
      const token = tokenIn(folder);
      assert.match(token, /^[A-Za-z0-9_-]{43}$/);
      assert.equal(statSync(path).mode & 0o777, 0o600);
      assert.equal(tokenIn(folder), token);
      writeFileSync(path, "");
      const other = tokenIn(folder);
      assert.notEqual(other, token);
      assert.equal(readFileSync(path, "utf8"), `${other}\n`);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test("is compared as a whole", () => {
    const token = newToken();
    assert.ok(isToken(token, token));
    for (const wrong of ["", token.slice(1), `${token}x`, newToken()]) {
      assert.ok(!isToken(wrong, token), wrong);
    }
  });
});

describe("the address", () => {
  const withAddress = (dashboardAddress: string): unknown =>
    loadSettings({
      file: null,
      overrides: { runFolder: "/r", memoryFolders: ["/m"], dashboardAddress },
    }).dashboardAddress;

  test("is one of this host's loopback", () => {
    for (const address of ["127.0.0.1:7433", "127.9.9.9:0", "[::1]:7433", "localhost:1"]) {
      assert.equal(withAddress(address), address);
    }
    for (const address of [
      "0.0.0.0:7433",
      "[::]:7433",
      "10.0.0.1:7433",
      "127.0.0.1",
      "127.0.0.1.example.com:80",
      "host:x",
    ]) {
      assert.throws(() => withAddress(address), {
        code: "bad-request",
        message: /dashboardAddress is .*no encryption.*ssh -L/,
      });
    }
  });
});
