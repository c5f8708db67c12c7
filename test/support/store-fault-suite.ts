/**
 * What a store under the request policy makes of a bad network: the right bytes, or an error before
 * its deadline. Bits that flip on the way cannot be seen down here: they reach whoever verifies.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { within } from "../../src/kit/wait.ts";
import type { ObjectStore } from "../../src/source/object-store.ts";
import type { RequestPolicy } from "../../src/source/request-policy.ts";
import { PolicyStore } from "../../src/source/store-policy.ts";
import { TierStore } from "../../src/source/tier-store.ts";
import { type Fault, FaultyProxy, faults, type ProxyOptions } from "./faulty-proxy.ts";
import { TestFolder } from "./fixtures.ts";
import { assertBytes, chunkName, names, randomBytes } from "./object-store-suite.ts";
import { PlainDirectoryStore } from "./plain-directory-store.ts";

const BUDGET_MS = 90_000;
const OBJECTS = 40;
const READS = 200;
const SEEDS = (process.env.FAULTLINE_STORE_SEEDS ?? "1,2").split(",").map(Number);
const shares: Partial<Record<Fault, number>> = {
  error: 0.1,
  slowDown: 0.1,
  cut: 0.05,
  flip: 0.05,
  hang: 0.02,
  reset: 0.05,
  lost: 0.02,
  trickle: 0.02,
};
const policy: Partial<RequestPolicy> = {
  small: { requestTimeoutMs: 500, deadlineMs: 30_000 },
  bulk: { requestTimeoutMs: 500, deadlineMs: 30_000 },
  pauseBaseMs: 2,
  pauseMaxMs: 50,
  concurrency: 16,
};
const never = new AbortController().signal;

export interface FaultStage {
  /** The server that the proxy stands before. */
  readonly port: () => number;
  /** The store of its objects, through a port; always of the same place. */
  readonly open: (port: number) => Promise<ObjectStore>;
  readonly plant: (name: string, bytes: Uint8Array) => Promise<void>;
}

const contents = Array.from({ length: OBJECTS }, (_, index) => randomBytes(20_000 + index, index));
const digestOf = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
const digests = contents.map(digestOf);

/** Runs `body` with a proxy and a store behind it, and ends both. */
async function staged(
  stage: FaultStage,
  options: ProxyOptions,
  body: (proxy: FaultyProxy, bare: ObjectStore) => Promise<void>,
): Promise<void> {
  await using proxy = await FaultyProxy.start(stage.port(), options);
  // Each fault that may happen does happen.
  proxy.script.push(...faults.filter((fault) => (options.shares?.[fault] ?? 0) > 0));
  const bare = await stage.open(proxy.port);
  try {
    await within("the test came to its end", body(proxy, bare), BUDGET_MS);
  } finally {
    await bare.close();
  }
}

async function plantAll(stage: FaultStage): Promise<void> {
  for (const [index, bytes] of contents.entries()) await stage.plant(chunkName(index), bytes);
}

export function readFaultSuite(stage: FaultStage): void {
  for (const seed of SEEDS) {
    test(`all faults at once: the right bytes, or flips digests tell (seed ${seed})`, async () => {
      await plantAll(stage);
      await staged(stage, { seed, shares }, async (proxy, bare) => {
        const store = new PolicyStore(bare, policy);
        let damagedReads = 0;
        const read = async (index: number): Promise<void> => {
          let bytes = await store.read(chunkName(index), never);
          for (let tries = 0; digestOf(bytes!) !== digests[index] && tries < 20; tries++) {
            damagedReads++;
            assert.equal(bitsApart(bytes!, contents[index]!), 1, "only a flip may come through");
            bytes = await store.refetch(chunkName(index), never);
          }
          assertBytes(bytes, contents[index]!);
        };
        await Promise.all(Array.from({ length: READS }, (_, turn) => read(turn % OBJECTS)));
        const { counts } = proxy;
        assert.ok(damagedReads > 0 && damagedReads <= counts.flip, `${damagedReads} damaged`);
        const met = [counts.error, counts.slowDown, counts.cut, counts.reset, counts.hang];
        assert.ok(
          met.every((count) => count > 0),
          `met too few faults: ${JSON.stringify(counts)}`,
        );
        const { running, waiting, failures, retries } = store.stats();
        assert.deepEqual([running, waiting, failures], [0, 0, 0]);
        assert.ok(retries > 0);
      });
    });
  }

  const hopeless: Fault[] = ["hang", "cut", "reset", "slowDown", "trickle"];
  for (const fault of hopeless) {
    test(`nothing but one fault, ${fault}: an error, and no hang`, async () => {
      await plantAll(stage);
      await staged(stage, { shares: { [fault]: 1 } }, async (_proxy, bare) => {
        const budget = { requestTimeoutMs: 100, deadlineMs: 500 };
        const store = new PolicyStore(bare, { ...policy, small: budget });
        const reads = Array.from({ length: 40 }, (_, index) => store.read(chunkName(index), never));
        for (const result of await Promise.allSettled(reads)) {
          assert.equal(result.status, "rejected");
          assert.ok(result.reason instanceof FaultlineError, String(result.reason));
          assert.equal(result.reason.code, "store-failed", result.reason.message);
        }
      });
    });
  }
}

/** A near store before a far one on a bad network. */
export function tierFaultSuite(stage: FaultStage): void {
  test("a tier never keeps damage that a reader has told of", async () => {
    await plantAll(stage);
    using folder = new TestFolder();
    await staged(stage, { seed: 9, shares: { ...shares, flip: 0.3 } }, async (proxy, bare) => {
      const near = new PlainDirectoryStore(folder.path);
      const tier = new TierStore(near, new PolicyStore(bare, policy), { maxBytes: 1e9 });
      for (let round = 0; round < 2; round++) {
        for (const [index, expected] of contents.entries()) {
          let bytes = await tier.read(chunkName(index), never);
          for (let tries = 0; digestOf(bytes!) !== digests[index] && tries < 50; tries++) {
            bytes = await tier.refetch(chunkName(index), never);
          }
          assertBytes(bytes, expected);
        }
        await tier.flush();
      }
      assert.ok(proxy.counts.flip > 0 && tier.counters.forgotten > 0);
      for (const [index, expected] of contents.entries()) {
        assertBytes(await near.read(chunkName(index), never), expected, "the near copy");
      }
    });
  });
}

export function writeFaultSuite(stage: FaultStage): void {
  for (const seed of SEEDS) {
    test(`all faults at once: what was written is there, and listed (seed ${seed})`, async () => {
      await staged(stage, { seed, shares }, async (proxy, bare) => {
        const store = new PolicyStore(bare, policy);
        const writes = contents.map((bytes, index) =>
          store.write(`seed-${seed}/${index}`, bytes, never),
        );
        await Promise.all(writes);
        const direct = await stage.open(stage.port());
        for (const [index, bytes] of contents.entries()) {
          assertBytes(await direct.read(`seed-${seed}/${index}`, never), bytes, `object ${index}`);
        }
        await direct.close();
        const expected = contents.map((_, index) => `seed-${seed}/${index}`).sort();
        // A listing has no digest: a flipped bit may change it.
        proxy.script.push("error", "cut", "reset", "hang", "trickle", "lost", "none");
        assert.deepEqual(await names(store, `seed-${seed}/`), expected);
        const removals = expected.map((name) => store.remove(name, never));
        await Promise.all(removals);
        proxy.script.push("none");
        assert.deepEqual(await names(store, `seed-${seed}/`), []);
      });
    });
  }
}

function bitsApart(left: Uint8Array, right: Uint8Array): number {
  assert.equal(left.length, right.length, "a short object came through");
  let count = 0;
  for (const [index, byte] of left.entries()) {
    for (let rest = byte ^ right[index]!; rest !== 0; rest &= rest - 1) count++;
  }
  return count;
}
