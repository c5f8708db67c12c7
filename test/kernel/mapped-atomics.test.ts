/**
 * Atomics on mapped memory, against C's in another process: no update is lost, and whoever raises
 * a flag and then looks is seen or sees. In each of V8's tiers, as each emits code of its own.
 * `FAULTLINE_LITMUS_ROUNDS=N` plays more rounds.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { ftruncateSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { describe, test } from "node:test";
import { Worker } from "node:worker_threads";
import { compile } from "../../src/kit/compile.ts";
import { builtRoot, repositoryRoot } from "../../src/kit/paths.ts";
import { within } from "../../src/kit/wait.ts";
import { createMemfd, MappedRegion } from "../../src/linux/memory.ts";
import type { ClearerData } from "../support/bitmap-clearer.ts";
import { requires } from "../support/requires.ts";

const ROUNDS = Number(process.env.FAULTLINE_LITMUS_ROUNDS ?? 25_000);
const DEADLINE_MS = 120_000;
const STOP = 128;

const tiers = {
  interpreter: ["--no-opt", "--no-sparkplug", "--max-lazy"],
  baseline: ["--no-opt", "--always-sparkplug"],
  optimized: [],
} as const;
type Tier = keyof typeof tiers;

/** Plays both parties; how often one of them was contradicted. */
async function play(
  what: "owners" | "dekker",
  how: "atomic" | "plain",
  tier: Tier,
  rounds: number,
): Promise<number> {
  using memory = createMemfd("litmus");
  ftruncateSync(memory.fd, 4096);
  using region = MappedRegion.shared(memory.fd, 4096);
  const program = join(builtRoot, "test/support/litmus-program.js");
  const binary = compile(join(repositoryRoot, "test/peer/litmus.c"));
  const parties = [
    [binary, what, String(rounds)],
    [process.execPath, ...tiers[tier], program, what, how, String(rounds)],
  ].map(([file, ...args]) =>
    spawn(file!, args, { stdio: ["ignore", "pipe", "inherit", memory.fd] }),
  );
  try {
    const outputs = parties.map((party) => text(party.stdout!));
    const [ofC, ofOurs] = await within("both had played", Promise.all(outputs), DEADLINE_MS);
    return Number(ofC) + (JSON.parse(ofOurs!) as { contradicted: number }).contradicted;
  } finally {
    // Whoever still waits for the other ends.
    Atomics.store(new Uint32Array(region.view()), STOP, 1);
    for (const party of parties) party.kill("SIGKILL");
  }
}

describe("atomics on mapped memory", requires("cc"), () => {
  for (const tier of Object.keys(tiers) as Tier[]) {
    test(`no bit of another's is lost: ${tier}`, async () => {
      assert.equal(await play("owners", "atomic", tier, ROUNDS), 0);
    });
    test(`a flag is seen, or a fault is: ${tier}`, async () => {
      assert.equal(await play("dekker", "atomic", tier, ROUNDS), 0);
    });
  }

  // Without these the tests above could pass because nothing ever happens at the same time.
  for (const what of ["owners", "dekker"] as const) {
    test(`plain operations in their place are found out: ${what}`, async (t) => {
      let contradicted = 0;
      let rounds = 0;
      for (let attempt = 0; attempt < 6 && contradicted === 0; attempt++) {
        rounds += ROUNDS * 2 ** attempt;
        contradicted = await play(what, "plain", "optimized", ROUNDS * 2 ** attempt);
      }
      t.diagnostic(`${what}: ${contradicted} of ${rounds} rounds`);
      assert.ok(contradicted > 0, "two CPUs are needed to see anything");
    });
  }
});

test("threads that clear neighbouring bits of one bitmap lose none", async () => {
  const bitmapBytes = 2 ** 18;
  const threadCount = 2;
  using region = MappedRegion.anonymous(bitmapBytes + 4096);
  const bytes = new Uint8Array(region.view(), 0, bitmapBytes).fill(0xff);
  const program = new URL("../support/bitmap-clearer.js", import.meta.url);
  const cleared = Array.from({ length: threadCount }, async (_, turn) => {
    const { address } = region;
    const workerData: ClearerData = { address, bitmapBytes, turn, threadCount };
    const [count] = await once(new Worker(program, { workerData }), "message");
    return count as number;
  });
  const counts = await within("all threads were done", Promise.all(cleared), DEADLINE_MS);
  assert.deepEqual(counts, [bitmapBytes * 4, bitmapBytes * 4]);
  assert.ok(bytes.every((byte) => byte === 0));
});
