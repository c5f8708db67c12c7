/**
 * What hostile or broken clients send: each is refused with a 4xx or loses its connection, none
 * is answered with a 5xx, none waits for ever; and afterwards all is as before.
 * `FAULTLINE_CONTROL_FUZZ_SEED=N FAULTLINE_CONTROL_FUZZ_ROUNDS=N` repeat a run and make it longer.
 */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { connect } from "node:net";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { waitFor } from "../../src/kit/wait.ts";
import { type FuzzCase, fuzzCase, fuzzKinds } from "../support/control-fuzz.ts";
import { ControlStage, untilClosed } from "../support/control-stage.ts";
import { Random } from "../support/fixtures.ts";
import { TableHost } from "../support/table-host.ts";

const ROUNDS = Number(process.env.FAULTLINE_CONTROL_FUZZ_ROUNDS ?? 1600);
const SEED = Number(process.env.FAULTLINE_CONTROL_FUZZ_SEED ?? 20_261_123);
/** Clients at once: below the bounds of connections and requests, which have tests of their own. */
const LANES = 24;
/** Short, so that many can run into them; far longer than an honest client needs here. */
const limits = { headersTimeoutMs: 300, requestTimeoutMs: 400, checkEveryMs: 50 };
const HEAP_SLACK_BYTES = 8 * 2 ** 20;
/** Sessions that are made by chance: the host has room for these, and says `limit` after. */
const SESSIONS = 40;

test(`seed ${SEED}, ${ROUNDS} requests`, async () => {
  const host = new TableHost(SESSIONS);
  await using stage = await ControlStage.start({ service: host }, limits);
  const seen = new Map<string, number>();
  const run = async (first: number, end: number): Promise<void> => {
    let next = first;
    const lane = async (): Promise<void> => {
      for (let index = next++; index < end; index = next++) {
        const one = fuzzCase(new Random(SEED + index), index);
        const statuses = await play(stage.socketPath, one, index);
        for (const status of statuses) seen.set(status, (seen.get(status) ?? 0) + 1);
      }
    };
    await Promise.all(Array.from({ length: LANES }, lane));
  };

  // Whatever is loaded and cached once is there after a tenth of them.
  const warm = Math.max(fuzzKinds, Math.floor(ROUNDS / 10));
  await run(0, warm);
  const fdsBefore = fdCount();
  const heapBefore = heapBytes();
  await run(warm, ROUNDS);

  await stage.client.health();
  for (const { id } of host.sessions()) await stage.client.killSession(id);
  assert.deepEqual(await stage.client.sessions(), []);
  await waitFor("descriptors were as before", () => fdCount() <= fdsBefore);
  const grownBytes = heapBytes() - heapBefore;
  assert.ok(grownBytes < HEAP_SLACK_BYTES, `the heap has grown by ${grownBytes} bytes`);
  for (const status of ["200", "201", "400", "404", "405", "408", "413", "431"]) {
    assert.ok(seen.has(status), `no ${status} among ${JSON.stringify([...seen])}`);
  }
});

/** Returns the statuses of the answers. */
async function play(socketPath: string, one: FuzzCase, index: number): Promise<string[]> {
  const what = `request ${index} (${one.kind})`;
  const socket = connect(socketPath);
  const closed = untilClosed(socket);
  for (const [number, piece] of one.pieces.entries()) {
    if (socket.destroyed) break;
    if (number > 0) await delay(one.pauseMs);
    socket.write(piece);
  }
  if (one.ending === "end") socket.end();
  if (one.ending === "destroy") socket.destroy();
  const answer = await closed.catch((error: Error) => {
    throw new Error(`${what}: ${error.message}`);
  });
  const statuses = [...answer.matchAll(/^HTTP\/1\.1 (\d{3}) /gm)].map(([, status]) => status!);
  for (const status of statuses) {
    const isRefusal = status.startsWith("4");
    const isGood = isRefusal || (!one.isWrong && /^(?:100|200|201)$/.test(status));
    assert.ok(isGood, `${what} was answered ${status}: ${answer.slice(0, 500)}`);
  }
  if (one.answers !== undefined) assert.equal(statuses.length, one.answers, what);
  return statuses;
}

function fdCount(): number {
  return readdirSync("/proc/self/fd").length;
}

function heapBytes(): number {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
  return process.memoryUsage().heapUsed;
}
