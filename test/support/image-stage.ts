/** A folder with memory files and a store, and the command line run on them. */
import assert from "node:assert/strict";
import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MIB } from "../../src/base/units.ts";
import { verifyImage } from "../../src/image/verify.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import { ZstdDecompressor } from "../../src/linux/zstd.ts";
import { CHUNK_TREE, chunkOfObjectName } from "../../src/snapshot/chunk-id.ts";
import { digestOf } from "../../src/source/chunk-codec.ts";
import { DirectoryStore } from "../../src/source/directory-store.ts";
import { imageNames, openImage } from "../../src/source/stored-image.ts";
import { atExit } from "./end-cleanly.ts";
import { PAGE_BYTES, Random, randomRuns } from "./fixtures.ts";

export const cliPath = join(builtRoot, "src", "cli", "main.js");
/** What takes a second takes many on a machine that has other work. */
const CLI_TIMEOUT_MS = 60_000;
const never = new AbortController().signal;

export class ImageStage {
  readonly folder: string;
  readonly store: string;
  readonly #forget = atExit(() => this[Symbol.dispose]());

  constructor(parentFolder: string = tmpdir()) {
    this.folder = mkdtempSync(join(parentFolder, "faultline-image-"));
    this.store = join(this.folder, "store");
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  /** `faultline image …` on this stage's store. */
  run(...args: readonly string[]): SpawnSyncReturns<string> {
    return spawnSync(process.execPath, [cliPath, "image", ...args], {
      encoding: "utf8",
      timeout: CLI_TIMEOUT_MS,
      env: { ...process.env, FAULTLINE_STORE: this.store },
    });
  }

  /** The same, where it must succeed: its JSON. */
  json<Result>(...args: readonly string[]): Result {
    const { status, stdout, stderr } = this.run(...args, "--json");
    assert.equal(status, 0, stderr);
    assert.equal(stderr, "");
    return JSON.parse(stdout) as Result;
  }

  /** The same, where it must fail: its message. */
  fails(status: number, ...args: readonly string[]): string {
    const result = this.run(...args);
    assert.equal(result.status, status, result.stderr + result.stdout);
    return result.stderr;
  }

  [Symbol.dispose](): void {
    this.#forget();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/**
 * Writes a memory file as guests leave them: holes, zeroes that were written, pages that occur more
 * than once, pages that compress well, and noise. Returns its content.
 */
export function writeMemory(path: string, pageCount: number, seed: number): Buffer {
  const random = new Random(seed);
  const memory = Buffer.alloc(pageCount * PAGE_BYTES);
  const fd = openSync(path, "w");
  ftruncateSync(fd, memory.length);
  for (const { first, end } of randomRuns(random, pageCount, 200)) {
    const kind = random.below(4);
    for (let page = first; page < end; page++) {
      const bytes = memory.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
      if (kind === 1) bytes.fill(1 + random.below(3));
      if (kind === 2) bytes.fill(`page ${random.below(1000)} `);
      if (kind === 3) fillRandom(bytes, random);
    }
    const start = first * PAGE_BYTES;
    writeSync(fd, memory, start, end * PAGE_BYTES - start, start);
  }
  closeSync(fd);
  return memory;
}

/** Writes a diff over `memory` as Firecracker does: changed pages, and holes. Changes `memory`. */
export function writeDiff(path: string, memory: Buffer, seed: number): void {
  const random = new Random(seed);
  const fd = openSync(path, "w");
  ftruncateSync(fd, memory.length);
  for (const { first, end } of randomRuns(random, memory.length / PAGE_BYTES, 60)) {
    if (random.below(2) === 0) continue;
    const bytes = memory.subarray(first * PAGE_BYTES, end * PAGE_BYTES);
    if (random.below(4) === 0) bytes.fill(0);
    else fillRandom(bytes, random);
    writeSync(fd, bytes, 0, bytes.length, first * PAGE_BYTES);
  }
  closeSync(fd);
}

/**
 * Every image that is there verifies; every chunk that has a name is what its name says. Returns
 * the images' names.
 */
export async function assertAllWhole(storePath: string): Promise<string[]> {
  if (!existsSync(storePath)) return [];
  const store = DirectoryStore.open(storePath);
  const names = await imageNames(store, never);
  for (const name of names) {
    const image = await openImage(store, name, never);
    assert.deepEqual((await verifyImage(image, { jobs: 1, signal: never })).damaged, [], name);
  }
  using decompressor = new ZstdDecompressor();
  const target = Buffer.alloc(MIB);
  for await (const { name } of store.list(`${CHUNK_TREE}/`, never)) {
    const outcome = decompressor.decompress(readFileSync(store.pathOf(name)), target);
    assert.ok("sizeBytes" in outcome, name);
    assert.equal(
      digestOf(target.subarray(0, outcome.sizeBytes), "sha256"),
      chunkOfObjectName(name),
    );
  }
  return names;
}

function fillRandom(bytes: Buffer, random: Random): void {
  for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE(random.next(), at);
}
