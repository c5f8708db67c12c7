/**
 * Page faults as an async stream: `for await (const event of uffd.events())`.
 *
 * The event loop stays free while nothing happens: this program also counts the ticks of a timer.
 *
 * Run: node dist/examples/userfaultfd-events.js     (needs access to /dev/userfaultfd)
 */
import { isMainThread, Worker, workerData } from "node:worker_threads";
import { MappedRegion, Userfaultfd, viewOf } from "../src/index.ts";

const PAGE_BYTES = 4096;
const PAGE_COUNT = 64;

async function main(): Promise<void> {
  const memory = MappedRegion.anonymous(PAGE_COUNT * PAGE_BYTES);
  const uffd = Userfaultfd.create();
  console.log("offered:", ...uffd.register(memory.address, memory.sizeBytes, ["missing"]));
  let tickCount = 0;
  const timer = setInterval(() => tickCount++, 1);

  const finished = new AbortController();
  const reader = new Worker(new URL(import.meta.url), { workerData: memory.address });
  reader.on("message", (sum) => console.log(`the thread read a sum of ${sum}`));
  reader.on("exit", () => finished.abort());

  // Page n comes from here: bytes of value n.
  const source = MappedRegion.anonymous(PAGE_BYTES);
  const sourceBytes = new Uint8Array(source.view());
  let faultCount = 0;
  for await (const event of uffd.events(finished.signal)) {
    if (event.type !== "pagefault") continue;
    faultCount++;
    sourceBytes.fill((event.address - memory.address) / PAGE_BYTES);
    const outcome = uffd.copy(event.address, source.address, PAGE_BYTES);
    // Somebody else was faster: the kernel wakes nobody in that case.
    if (outcome === "alreadyPresent") uffd.wake(event.address, PAGE_BYTES);
  }
  clearInterval(timer);
  console.log(`${faultCount} faults served; the event loop was free: ${tickCount > 0}`);
  uffd.close();
}

async function readEveryPage(address: number): Promise<void> {
  const { parentPort } = await import("node:worker_threads");
  const bytes = new Uint8Array(viewOf(address, PAGE_COUNT * PAGE_BYTES));
  let sum = 0;
  for (let page = 0; page < PAGE_COUNT; page++) sum += bytes[page * PAGE_BYTES]!;
  parentPort?.postMessage(sum);
}

await (isMainThread ? main() : readEveryPage(workerData as number));
