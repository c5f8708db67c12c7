/**
 * Which pages did it write? Write protection tells, at the first write to each page.
 *
 * The same way a snapshot can be taken of memory in use: protect it, copy each page before its
 * first write goes on, and the rest at leisure.
 *
 * Run: node dist/examples/write-protect.js     (needs access to /dev/userfaultfd)
 */
import { isMainThread, Worker, workerData } from "node:worker_threads";
import { MappedRegion, Userfaultfd, viewOf } from "../src/index.ts";

const PAGE_BYTES = 4096;
const PAGE_COUNT = 16;

async function main(): Promise<void> {
  const memory = MappedRegion.anonymous(PAGE_COUNT * PAGE_BYTES);
  const bytes = new Uint8Array(memory.view());
  bytes.fill(1); // Present and writable, as the memory of a running program is.

  const uffd = Userfaultfd.create({ features: ["pagefaultFlagWp"] });
  uffd.register(memory.address, memory.sizeBytes, ["writeProtect"]);
  uffd.writeProtect(memory.address, memory.sizeBytes, true);

  const finished = new AbortController();
  const writer = new Worker(new URL(import.meta.url), { workerData: memory.address });
  writer.on("exit", () => finished.abort());

  const before = new Map<number, number>();
  for await (const event of uffd.events(finished.signal)) {
    if (event.type !== "pagefault" || event.kind !== "write-protect") continue;
    const page = (event.address - memory.address) / PAGE_BYTES;
    before.set(page, bytes[page * PAGE_BYTES]!); // Reading is free; the write still waits.
    uffd.writeProtect(event.address, PAGE_BYTES, false);
  }
  for (const [page, value] of before) {
    console.log(`page ${page} was written: ${value} before, ${bytes[page * PAGE_BYTES]} now`);
  }
  console.log(`${PAGE_COUNT - before.size} pages were only read, or not touched`);
  uffd.close();
}

/** Writes some pages, one of them twice, and reads others. */
function write(address: number): void {
  const bytes = new Uint8Array(viewOf(address, PAGE_COUNT * PAGE_BYTES));
  for (const page of [3, 7, 3, 11]) bytes[page * PAGE_BYTES] = bytes[page * PAGE_BYTES]! + 10;
}

if (isMainThread) await main();
else write(workerData as number);
