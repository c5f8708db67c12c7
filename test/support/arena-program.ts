/** Adopts the arena on descriptor 3 and uses chunks in an order of chance until it is killed. */
import assert from "node:assert/strict";
import { OwnedFd } from "../../src/linux/fd.ts";
import { Random } from "../../src/sim/random.ts";
import { ArenaDirectory } from "../../src/source/arena-directory.ts";
import { arenaShape } from "../../src/source/chunk-arena.ts";
import { ArenaProcess, makeChunks } from "./arena-chunks.ts";

const [sizeBytes, count, seed] = process.argv.slice(2).map(Number);
const directory = ArenaDirectory.adopt(new OwnedFd(3), arenaShape(sizeBytes!));
assert.ok(directory !== null, "no arena");
const user = new ArenaProcess(makeChunks(count!), sizeBytes!, directory);
const random = new Random(seed!);
// Nobody kills it: it must end all the same.
setTimeout(() => process.exit(5), 30_000).unref();
const useSome = async (): Promise<void> => {
  await Promise.all(Array.from({ length: 4 }, () => user.use(random.below(count!))));
};
await useSome();
process.stdout.write("ready\n");
for (;;) await useSome();
