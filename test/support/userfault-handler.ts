/**
 * A handler of VMs with KVM Userfault, made of what `protocol/` and `linux/` have for them and of
 * as little else as will do: one thread, one page at a time. A process of its own.
 *
 *     node dist/test/support/userfault-handler.js SOCKET MEMORY-FILE
 */
import { fstatSync, openSync, rmSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { UserfaultBitmap } from "../../src/base/userfault-bitmap.ts";
import { mapApfPage } from "../../src/linux/apf-page.ts";
import { Epoll } from "../../src/linux/epoll.ts";
import { drainEventFd, signalEventFd } from "../../src/linux/eventfd.ts";
import type { OwnedFd } from "../../src/linux/fd.ts";
import { MappedRegion } from "../../src/linux/memory.ts";
import { acceptUnix, listenUnix, type Received, receiveWithFds } from "../../src/linux/socket.ts";
import { ApfRing } from "../../src/pager/apf-ring.ts";
import {
  type FaultRequest,
  FrameWriter,
  MAX_REPLY_FRAME_BYTES,
  newFaultReply,
} from "../../src/protocol/fault-messages.ts";
import { isCompleteHandshake } from "../../src/protocol/handshake.ts";
import { RequestStream } from "../../src/protocol/request-stream.ts";
import { parseRingSetup } from "../../src/protocol/ring-setup.ts";
import { parseAnyHandshake } from "../../src/protocol/userfault-handshake.ts";
import { EventBatch } from "../../src/uffd/events.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";

const PAGE = 4096;
const UFFD_EVENT_PAGEFAULT = 0x12;
const FOREVER = -1;

const [socketPath = "", memoryPath = ""] = process.argv.slice(2);
const file = openSync(memoryPath, "r");
const memory = MappedRegion.readOnlyFile(file, fstatSync(file).size);
const memoryBytes = new Uint8Array(memory.view());
const epoll = Epoll.create(16);
const apfListener = listen(join(dirname(socketPath), "apf.socket"));
const listener = listen(socketPath);
waitFor(listener.fd);
const connection = acceptUnix(listener.fd)!;
const buffer = new Uint8Array(64 * 1024);

const [body, [uffdFd, guestMemory, bitmapFd]] = receiveUntil(isCompleteHandshake);
const handshake = parseAnyHandshake(body, 3, PAGE);
if (handshake.protocol !== "userfault") throw new Error("This VM has no guest_memfd.");
const { regions, guestAddresses } = handshake;
const uffd = Userfaultfd.fromFd(uffdFd!);
const bitmapBytes = fstatSync(bitmapFd!.fd).size;
const bitmap = new UserfaultBitmap(MappedRegion.shared(bitmapFd!.fd, bitmapBytes).view());

const [setupBytes, ringFds] = receiveUntil(
  (bytes, fdCount) => parseRingSetup(bytes, fdCount).kind !== "incomplete",
);
const setup = parseRingSetup(setupBytes, ringFds.length);
if (setup.kind !== "done") throw new Error(`The second message cannot be read: ${setup.kind}.`);
const rings = Array.from({ length: setup.vcpuCount }, (_, index) => ({
  notify: ringFds[3 * index]!.fd,
  complete: ringFds[3 * index + 1]!.fd,
  ring: new ApfRing(mapApfPage(ringFds[3 * index + 2]!.fd).view()),
}));

const batch = new EventBatch();
const reply = newFaultReply();
const frames = new FrameWriter(new Uint8Array(MAX_REPLY_FRAME_BYTES));
const handlers = new Map<number, () => void>();

const syncRequests = requestsOf(connection);
syncRequests.push(setupBytes.subarray(setup.lengthBytes));
for (const vcpu of rings) {
  serveRing(vcpu);
  watch(vcpu.notify, () => {
    drainEventFd(vcpu.notify);
    serveRing(vcpu);
  });
}
watch(uffd.fd, serveEvents);
watch(connection.fd, () => serveStream(connection, syncRequests));
watch(apfListener.fd, () => {
  const apf = acceptUnix(apfListener.fd)!;
  const requests = requestsOf(apf);
  watch(apf.fd, () => serveStream(apf, requests));
});

for (;;) {
  const count = epoll.wait(FOREVER);
  for (let index = 0; index < count; index++) handlers.get(epoll.tagLow(index))?.();
}

/** Puts a page's bytes into the guest's memory, and lets vCPUs at it: in this order. */
function populate(page: number): void {
  if (!bitmap.isSet(page)) return;
  writeSync(guestMemory!.fd, memoryBytes, page * PAGE, PAGE, page * PAGE);
  bitmap.clear(page, page + 1);
}

function requestsOf(socket: OwnedFd): RequestStream {
  return new RequestStream((request) => serveRequest(socket.fd, request));
}

function serveRequest(socket: number, { vcpu, offset, flags, gpa }: FaultRequest): void {
  populate(gpa === null ? offset / PAGE : guestAddresses.pageAt(gpa));
  Object.assign(reply, { vcpu, flags, gpa, sizeBytes: PAGE });
  frames.clear();
  frames.reply(reply);
  writeSync(socket, frames.frames);
}

function serveRing({ ring, complete }: (typeof rings)[number]): void {
  do {
    const drained = ring.drain((gpa) => {
      populate(guestAddresses.pageAt(gpa));
      while (!ring.complete(gpa)) signalEventFd(complete);
    });
    if (drained === -1) throw new Error("A ring's indices make no sense.");
    if (drained > 0) signalEventFd(complete);
  } while (!ring.arm());
}

function serveEvents(): void {
  const count = uffd.drain(batch);
  for (let index = 0; index < count; index++) {
    if (batch.eventCode(index) !== UFFD_EVENT_PAGEFAULT) continue;
    const address = batch.faultAddress(index) - (batch.faultAddress(index) % PAGE);
    const page = regions.pageAt(regions.regionAt(address), address);
    // By the bit and not by the event: a vCPU's fault may have brought the page since.
    if (
      bitmap.isSet(page) &&
      uffd.copy(address, memory.address + page * PAGE, PAGE) === "installed"
    ) {
      bitmap.clear(page, page + 1);
    } else if (uffd.continue(address, PAGE) !== "installed") {
      uffd.wake(address, PAGE);
    }
  }
}

function serveStream(socket: OwnedFd, requests: RequestStream): void {
  for (;;) {
    const received = receiveWithFds(socket.fd, buffer);
    if (received === null) return;
    if (received.byteCount === 0) process.exit(0);
    requests.push(buffer.subarray(0, received.byteCount));
    if (requests.badFrameCount > 0) throw new Error("A frame is no request.");
  }
}

function listen(path: string): OwnedFd {
  rmSync(path, { force: true });
  return listenUnix(path, 1);
}

function watch(fd: number, onReadable: () => void): void {
  handlers.set(fd, onReadable);
  epoll.add(fd, fd, 0);
}

function waitFor(fd: number): void {
  epoll.add(fd, fd, 0);
  epoll.wait(FOREVER);
  epoll.remove(fd);
}

function receiveUntil(
  isWhole: (bytes: Uint8Array, fdCount: number) => boolean,
): [bytes: Uint8Array, fds: OwnedFd[]] {
  const fds: OwnedFd[] = [];
  let bytes = new Uint8Array(0);
  do {
    waitFor(connection.fd);
    const received: Received | null = receiveWithFds(connection.fd, buffer);
    if (received === null) continue;
    if (received.byteCount === 0) throw new Error("The VMM has gone.");
    fds.push(...received.fds);
    bytes = Buffer.concat([bytes, buffer.subarray(0, received.byteCount)]);
  } while (!isWhole(bytes, fds.length));
  return [bytes, fds];
}
