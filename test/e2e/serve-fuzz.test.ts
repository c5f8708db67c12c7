/**
 * Random damage to valid handshakes: `faultline serve` takes each or refuses it, and neither ends
 * nor leaks. `FAULTLINE_FUZZ_SEED=N FAULTLINE_FUZZ_ROUNDS=N` repeat a run and make it longer.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Random, TestFolder, writeFull } from "../support/fixtures.ts";
import { type FdKind, HandshakePeer, type Mapping } from "../support/handshake-peer.ts";
import { requires } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { runVmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc");
const PAGE_COUNT = 64;
const ROUNDS = Number(process.env.FAULTLINE_FUZZ_ROUNDS ?? 300);
const SEED = Number(process.env.FAULTLINE_FUZZ_SEED ?? 20_261_123);
/** Handshakes under way at the same time; below the 64 that serve looks at together. */
const BATCH = 30;
const HANDSHAKE_TIMEOUT_MS = "100";

/** One message, and what comes with it. */
interface Piece {
  readonly bytes: Buffer;
  readonly fds: readonly FdKind[];
}

interface Handshake {
  readonly pieces: readonly Piece[];
  readonly closes: boolean;
}

const wrongFds: readonly FdKind[] = ["unused", "raw", "eventFork", "eventfd", "null", "memfd"];
const numbers = [0, 1, 4, 4095, 4096, 2 ** 21, 2 ** 31, 2 ** 32, 2 ** 47, 2 ** 53, -1, 0.5, 1e308];
const tokens = ["[", "]", "{", "}", ",", ":", '"', "\\", "0", "-", "e", "null", "\u0000", "é", " "];

const mutations: readonly ((text: Buffer, random: Random) => Buffer)[] = [
  (text) => text,
  /** Another bit. */
  (text, random) => {
    const copy = Buffer.from(text);
    copy[random.below(copy.length)]! ^= 1 << random.below(8);
    return copy;
  },
  /** A part missing, a part twice. */
  (text, random) => {
    const [from, to] = [random.below(text.length), random.below(text.length)];
    return Buffer.concat([text.subarray(0, from), text.subarray(to)]);
  },
  /** Another token in between. */
  (text, random) => {
    const at = random.below(text.length);
    const token = Buffer.from(random.pick(tokens));
    return Buffer.concat([text.subarray(0, at), token, text.subarray(at)]);
  },
  /** Another number. */
  (text, random) => {
    const found = [...text.toString().matchAll(/\d+/g)];
    const { 0: digits, index } = random.pick(found);
    const rest = text.subarray(index + digits.length);
    return Buffer.concat([text.subarray(0, index), Buffer.from(`${random.pick(numbers)}`), rest]);
  },
  (text, random) => Buffer.concat(Array.from({ length: random.below(4) + 1 }, () => text)),
  (_, random) => Buffer.from(Array.from({ length: random.below(500) + 1 }, () => random.next())),
];

/** Valid regions that cover the file, in a random number of parts. */
function randomRegions(whole: Mapping, random: Random): Mapping[] {
  const count = 1 + random.below(4);
  const size = (PAGE_COUNT / 4) * 4096;
  const base = Number(whole.base_host_virt_addr);
  return Array.from({ length: count }, (_, index) => ({
    ...whole,
    base_host_virt_addr: base + index * size,
    size: index === count - 1 ? (4 - index) * size : size,
    offset: index * size,
  }));
}

function randomFds(random: Random): FdKind[] {
  if (random.below(4) > 0) return ["guest"];
  return Array.from({ length: random.below(4) }, () => random.pick([...wrongFds, "guest"]));
}

function randomHandshake(whole: Mapping, random: Random): Handshake {
  let text = Buffer.from(JSON.stringify(randomRegions(whole, random)));
  const times = random.below(3);
  for (let time = 0; time < times; time++) {
    const mutated = random.pick(mutations)(text, random);
    if (/\d/.test(mutated.toString())) text = Buffer.from(mutated);
  }
  const cut = random.below(3) === 0 ? random.below(text.length) : 0;
  const parts = cut === 0 ? [text] : [text.subarray(0, cut), text.subarray(cut)];
  const withFds = random.below(parts.length);
  const pieces = parts.map((bytes, index) => ({
    bytes,
    fds: index === withFds || random.below(20) === 0 ? randomFds(random) : [],
  }));
  return { pieces, closes: random.below(3) === 0 };
}

async function send(peer: HandshakePeer, handshake: Handshake): Promise<number> {
  const connection = await peer.connect();
  for (const { bytes, fds } of handshake.pieces) {
    if (!(await peer.send(connection, bytes, fds))) break;
  }
  if (handshake.closes) await peer.close(connection);
  return connection;
}

test(`${ROUNDS} damaged handshakes (seed ${SEED})`, needs, async () => {
  const random = new Random(SEED);
  using folder = new TestFolder();
  const memory = folder.at("memory");
  const socket = folder.at("socket");
  writeFull(memory, PAGE_COUNT);
  // At the level debug every refusal has a line.
  const flags = ["--memory", memory, "--socket", socket, "--max-vms", "100000", "--log", "debug"];
  await using serve = await ServeProcess.start([
    ...flags,
    ...["--handshake-timeout", HANDSHAKE_TIMEOUT_MS],
  ]);
  const fds = serve.fdCount;
  const verdicts = () => serve.lines("Refused a VM").length + serve.lines("Attached a VM").length;
  for (let done = 0; done < ROUNDS; done += BATCH) {
    // Whatever was taken by chance is attached until the peer dies: a new one for each batch.
    await using peer = await HandshakePeer.start(socket, { pageCount: PAGE_COUNT });
    const before = verdicts();
    const count = Math.min(BATCH, ROUNDS - done);
    for (let each = 0; each < count; each++) {
      await send(peer, randomHandshake(peer.mapping(), random));
    }
    await serve.until(`${count} verdicts after ${done}`, () => verdicts() >= before + count);
    assert.equal(verdicts(), before + count, serve.describeLog());
    await peer[Symbol.asyncDispose]();
    await serve.fdsBackTo(fds);
  }
  await runVmm(socket, memory);
  await serve.fdsBackTo(fds);
  const errors = serve.log.filter(({ level }) => level === "error");
  assert.deepEqual(errors, []);
  assert.equal(serve.errors, "");
  // Damage that is always fatal, or never, would test little.
  assert.ok(serve.lines("Attached a VM").length > ROUNDS / 20, "hardly any was taken");
  assert.ok(serve.lines("Refused a VM").length > ROUNDS / 4, "hardly any was refused");
});
