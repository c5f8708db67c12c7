/**
 * The example of the man page userfaultfd(2), in TypeScript: demand paging in user space.
 *
 * A thread walks over memory that has no pages. Each page it touches is a fault that the main
 * thread answers: it copies a page into place, filled with a letter of its own, and the thread goes
 * on.
 *
 * Run: node dist/examples/userfaultfd-manpage.js [PAGES]     (needs access to /dev/userfaultfd)
 */
import { isMainThread, Worker, workerData } from "node:worker_threads";
import { decodeEvent, EventBatch, MappedRegion, Userfaultfd, viewOf } from "../src/index.ts";

const PAGE_BYTES = 4096;
const STEP_BYTES = 1024;

interface Walk {
  readonly address: number;
  readonly lengthBytes: number;
}

function serve(pageCount: number): void {
  const memory = MappedRegion.anonymous(pageCount * PAGE_BYTES);
  const uffd = Userfaultfd.create();
  uffd.register(memory.address, memory.sizeBytes, ["missing"]);
  const source = MappedRegion.anonymous(PAGE_BYTES);
  const sourceBytes = new Uint8Array(source.view());
  const batch = new EventBatch();
  let faultCount = 0;

  const walk: Walk = { address: memory.address, lengthBytes: memory.sizeBytes };
  const walker = new Worker(new URL(import.meta.url), { workerData: walk });
  const timer = setInterval(() => {
    uffd.drain(batch);
    for (let index = 0; index < batch.length; index++) {
      const event = decodeEvent(batch, index, PAGE_BYTES);
      if (event.type !== "pagefault") continue;
      console.log(`fault at page ${(event.address - memory.address) / PAGE_BYTES}`);
      sourceBytes.fill("A".charCodeAt(0) + (faultCount++ % 26));
      uffd.copy(event.address, source.address, PAGE_BYTES);
    }
  }, 1);
  walker.on("exit", () => clearInterval(timer));
}

/** Another thread: the one that answers faults must never wait for one. */
function walk({ address, lengthBytes }: Walk): void {
  const bytes = new Uint8Array(viewOf(address, lengthBytes));
  for (let offset = 15; offset < lengthBytes; offset += STEP_BYTES) {
    process.stdout.write(`read ${String.fromCharCode(bytes[offset]!)} at offset ${offset}\n`);
  }
}

if (isMainThread) serve(Number(process.argv[2] ?? 3));
else walk(workerData as Walk);
