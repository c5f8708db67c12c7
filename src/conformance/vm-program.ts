/**
 * A VMM without a guest, in a process of its own, because handlers kill a VM by its process. It
 * maps memory, registers it, says what it is told to say to the handler, and touches pages with
 * threads of the libuv pool. Those may block for ever; the event loop goes on and answers.
 *
 * Like Firecracker it keeps its own copy of the userfaultfd: when the handler dies, its threads
 * stay blocked instead of reading zeroes.
 *
 *     fork("vm-program.js"), then messages: see vm-protocol.ts
 */
import { setTimeout as delay } from "node:timers/promises";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import { MADV_DONTNEED, PROT_NONE, PROT_READ, PROT_WRITE } from "../linux/abi-posix.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { createMemfd } from "../linux/memory.ts";
import { connectUnix, sendWithFds, unreadBytes } from "../linux/socket.ts";
import * as sys from "../linux/sys.ts";
import { Userfaultfd } from "../uffd/userfaultfd.ts";
import { GuestPages } from "./guest-pages.ts";
import { runLanes } from "./lanes.ts";
import type {
  Attachment,
  Reading,
  Run,
  VmAnswer,
  VmHello,
  VmOrder,
  VmSetup,
  VmValue,
} from "./vm-protocol.ts";

type OrderOf<What extends VmOrder["what"]> = Extract<VmOrder, { readonly what: What }>;

/** Set up before anything else is asked. */
let guest: GuestPages;
let uffd: Userfaultfd;
const connections = new Map<number, OwnedFd>();

async function obey(order: VmOrder): Promise<VmValue> {
  switch (order.what) {
    case "greet":
      return true;
    case "setup":
      return setUp(order.setup);
    case "reset":
      reset();
      return true;
    case "connect":
      return connect(order.socketPath);
    case "send":
      send(order.connection, order.text, order.attachments);
      return true;
    case "flush":
      return await until(() => unreadBytes(order.connection) === 0, order.deadlineMs);
    case "close":
      connections.get(order.connection)?.close();
      connections.delete(order.connection);
      return true;
    case "read":
      return await readPages(order);
    case "writeOut":
      return await writeOut(order);
    case "readIn":
      return await readIn(order);
    case "write":
      return await writePages(order);
    case "remove":
      return await removeRuns(order);
    case "protect":
      protect(order.run, order.isAccessible);
      return true;
    case "wake":
      for (const { address, pageCount } of guest.regions) {
        uffd.wake(address, pageCount * SMALL_PAGE_BYTES);
      }
      return true;
    case "untilUnread":
      return await untilUnread(order.deadlineMs);
    case "exit":
      // No thread may be blocked now: Node waits for its pool when it ends.
      process.exit(0);
  }
}

function setUp(setup: VmSetup): VmHello {
  guest = new GuestPages(setup);
  uffd = Userfaultfd.create({ features: setup.hasRemove ? ["eventRemove"] : [] });
  for (const { address, pageCount } of guest.regions) {
    uffd.register(address, pageCount * SMALL_PAGE_BYTES, ["missing"]);
  }
  return { addresses: guest.regions.map(({ address }) => address) };
}

function reset(): void {
  for (const connection of connections.values()) connection.close();
  connections.clear();
  uffd.close();
  guest[Symbol.dispose]();
}

function connect(socketPath: string): number {
  const connection = connectUnix(socketPath);
  connections.set(connection.fd, connection);
  return connection.fd;
}

function send(connection: number, text: string, attachments: readonly Attachment[]): void {
  using memfd = createMemfd("no-userfaultfd");
  const fds = attachments.map((kind) => (kind === "userfaultfd" ? uffd.fd : memfd.fd));
  sendWithFds(connection, Buffer.from(text), fds);
}

async function readPages({ pages, threads, deadlineMs }: OrderOf<"read">): Promise<Reading> {
  const found = new Array<string>(pages.length).fill("?");
  const oddities: Record<number, string> = {};
  const buffers = Array.from({ length: threads }, () => new sys.Scratch(SMALL_PAGE_BYTES));
  await runLanes(pages.length, threads, deadlineMs, async (index, lane) => {
    const page = pages[index]!;
    const buffer = buffers[lane]!;
    await sys.background.memcpy(buffer.bytes, guest.addressOf(page), SMALL_PAGE_BYTES);
    const bytes = Buffer.from(buffer.bytes.buffer);
    found[index] = guest.classify(page, bytes);
    if (found[index] === "X") oddities[page] = guest.describe(page, bytes);
  });
  return { found: found.join(""), oddities };
}

/** One system call for the whole run, as Firecracker writes snapshots. */
async function writeOut({ run, deadlineMs }: OrderOf<"writeOut">): Promise<Reading> {
  const { first, count } = run;
  using target = createMemfd("snapshot");
  const oddities: Record<number, string> = {};
  const found = new Array<string>(count).fill("?");
  await runLanes(1, 1, deadlineMs, async () => {
    const sizeBytes = count * SMALL_PAGE_BYTES;
    const written = await sys.background.write(target.fd, guest.addressOf(first), sizeBytes);
    const content = new sys.Scratch(sizeBytes);
    sys.check(sys.lseek(target.fd, 0, 0), "lseek");
    sys.check(sys.read(target.fd, content.address, sizeBytes), "read");
    for (let index = 0; index < count; index++) {
      const start = index * SMALL_PAGE_BYTES;
      const bytes = Buffer.from(content.bytes.buffer, start, SMALL_PAGE_BYTES);
      const isThere = start + SMALL_PAGE_BYTES <= written;
      found[index] = isThere ? guest.classify(first + index, bytes) : "X";
      if (found[index] !== "X") continue;
      const what = isThere ? guest.describe(first + index, bytes) : "EFAULT";
      oddities[first + index] = what;
    }
  });
  return { found: found.join(""), oddities };
}

/** Answers with how many pages the kernel has written to. */
async function readIn({ pages, deadlineMs }: OrderOf<"readIn">): Promise<number> {
  return await runLanes(pages.length, 1, deadlineMs, async (index) => {
    const page = pages[index]!;
    const { offset, bytes } = guest.mark(page, "file");
    using source = createMemfd("disk");
    sys.check(sys.write(source.fd, bytes, bytes.length), "write");
    sys.check(sys.lseek(source.fd, 0, 0), "lseek");
    const target = guest.addressOf(page) + offset;
    const count = await sys.background.read(source.fd, target, bytes.length);
    if (count !== bytes.length) throw new Error(`read(2) into page ${page} failed.`);
  });
}

/** Answers with how many pages are written. */
async function writePages(order: OrderOf<"write">): Promise<number> {
  const { pages, over, threads, deadlineMs } = order;
  return await runLanes(pages.length, threads, deadlineMs, async (index) => {
    const { offset, bytes } = guest.mark(pages[index]!, over);
    const source = new sys.Scratch(bytes.length);
    source.bytes.set(bytes);
    const target = guest.addressOf(pages[index]!) + offset;
    await sys.background.memcpy(target, source.bytes, bytes.length);
  });
}

async function removeRuns({ runs, threads, deadlineMs }: OrderOf<"remove">): Promise<number> {
  return await runLanes(runs.length, threads, deadlineMs, async (index) => {
    const { first, count } = runs[index]!;
    guest.forget(first, count);
    const sizeBytes = count * SMALL_PAGE_BYTES;
    const result = await sys.background.madvise(guest.addressOf(first), sizeBytes, MADV_DONTNEED);
    if (result !== 0) throw new Error(`madvise of ${count} pages at page ${first} failed.`);
  });
}

function protect({ first, count }: Run, isAccessible: boolean): void {
  const prot = isAccessible ? PROT_READ | PROT_WRITE : PROT_NONE;
  sys.check(sys.mprotect(guest.addressOf(first), count * SMALL_PAGE_BYTES, prot), "mprotect");
}

/** The handler is stopped now, or it would read what we wait for. */
async function untilUnread(deadlineMs: number): Promise<boolean> {
  let isUnread = false;
  const watch = sys.watchReadable(uffd.fd, () => {
    isUnread = true;
  });
  watch.arm();
  try {
    return await until(() => isUnread, deadlineMs);
  } finally {
    watch.close();
  }
}

async function until(condition: () => boolean, deadlineMs: number): Promise<boolean> {
  const endMs = performance.now() + deadlineMs;
  while (!condition()) {
    if (performance.now() > endMs) return false;
    await delay(1);
  }
  return true;
}

async function answer(id: number, order: VmOrder): Promise<VmAnswer> {
  try {
    return { id, value: await obey(order) };
  } catch (error) {
    return { id, error: (error as Error).message };
  }
}

process.on("message", ({ id, order }: { id: number; order: VmOrder }) => {
  void answer(id, order).then((message) => process.send?.(message));
});
// A blocked thread would keep an orderly exit waiting.
process.on("disconnect", () => process.kill(process.pid, "SIGKILL"));
