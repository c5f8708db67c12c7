/**
 * A VMM that does as it is told, in a process of its own: whoever fails a VM kills its process. It
 * owns one region of guest memory, and sends whatever bytes and descriptors it is asked to send.
 *
 *     fork("handshake-peer-program.js", [PAGE-COUNT, "small" | "huge"]), then messages: see
 * PeerOrder
 */
import { openSync } from "node:fs";
import { SysError } from "../../src/base/errors.ts";
import { MADV_DONTNEED } from "../../src/linux/abi-posix.ts";
import { EventFd } from "../../src/linux/eventfd.ts";
import type { OwnedFd } from "../../src/linux/fd.ts";
import { createMemfd, MappedRegion } from "../../src/linux/memory.ts";
import { connectUnix, sendWithFds } from "../../src/linux/socket.ts";
import * as sys from "../../src/linux/sys.ts";
import { createUserfaultfd } from "../../src/uffd/create.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";

/** What can be sent along: the guest's own userfaultfd, or something that will not do. */
export type FdKind = keyof typeof makers;

export type PeerOrder =
  | { readonly what: "connect"; readonly socket: string }
  | {
      readonly what: "send";
      readonly connection: number;
      readonly bytes: Uint8Array;
      readonly fds: readonly FdKind[];
    }
  | { readonly what: "close"; readonly connection: number }
  /** Has the kernel read a page: its bytes come back, or the errno as a negative number. */
  | { readonly what: "read"; readonly address: number; readonly lengthBytes: number }
  /** Reads a byte itself: a poisoned page ends this process with SIGBUS. */
  | { readonly what: "touch"; readonly address: number }
  | { readonly what: "remove" | "unmap"; readonly address: number; readonly lengthBytes: number };

export type PeerAnswer =
  | { readonly value: number | Uint8Array }
  /** The errno's name if a system call failed. */
  | { readonly error: string };

const makers = {
  guest: () => uffd.fd,
  /** Set up, but with no memory registered. */
  unused: () => Userfaultfd.create().intoRawFd(),
  /** Before its UFFDIO_API. */
  raw: () => createUserfaultfd().intoRawFd(),
  eventFork: () => Userfaultfd.create({ features: ["eventFork"] }).intoRawFd(),
  eventRemap: () => Userfaultfd.create({ features: ["eventRemap"] }).intoRawFd(),
  eventfd: () => EventFd.create().fd,
  null: () => openSync("/dev/null", "r+"),
  memfd: () => createMemfd("no-userfaultfd").intoRawFd(),
  pipe: () => makePipe()[0],
} as const satisfies Record<string, () => number>;

const [pageCount = "1", kind = "small"] = process.argv.slice(2);
const isHuge = kind === "huge";
const sizeBytes = Number(pageCount) * (isHuge ? 2 * 1024 * 1024 : 4096);
const memory = MappedRegion.anonymous(sizeBytes, { hugePages: isHuge });
const userModeOnly = process.getuid?.() !== 0;
const uffd = Userfaultfd.create({ features: ["eventRemove"], userModeOnly });
uffd.register(memory.address, sizeBytes, ["missing"]);
const connections = new Map<number, OwnedFd>();
const pipe = makePipe();

function makePipe(): readonly [number, number] {
  const SYS_pipe2 = process.arch === "arm64" ? 59 : 293;
  const ends = new sys.Scratch(8);
  sys.check(sys.syscall(SYS_pipe2, ends.address, 0, 0, 0), "pipe2");
  return [ends.words[0]!, ends.words[1]!];
}

function send(connection: number, bytes: Uint8Array, kinds: readonly FdKind[]): void {
  const fds = kinds.map((each) => makers[each]());
  try {
    sendWithFds(connection, bytes, fds);
  } finally {
    for (const fd of fds) if (fd !== uffd.fd) sys.close(fd);
  }
}

function readByKernel(address: number, lengthBytes: number): number | Uint8Array {
  if (sys.write(pipe[1], address, lengthBytes) === -1) return -sys.errno();
  const bytes = new Uint8Array(lengthBytes);
  sys.check(sys.read(pipe[0], bytes, lengthBytes), "read(pipe)");
  return bytes;
}

function obey(order: PeerOrder): number | Uint8Array {
  switch (order.what) {
    case "connect": {
      const connection = connectUnix(order.socket);
      connections.set(connection.fd, connection);
      return connection.fd;
    }
    case "send":
      send(order.connection, order.bytes, order.fds);
      return 0;
    case "close":
      connections.get(order.connection)?.close();
      connections.delete(order.connection);
      return 0;
    case "read":
      return readByKernel(order.address, order.lengthBytes);
    case "touch":
      return new Uint8Array(sys.viewOf(order.address, 1))[0]!;
    case "remove":
      memory.advise(order.address - memory.address, order.lengthBytes, MADV_DONTNEED);
      return 0;
    case "unmap":
      return sys.munmap(order.address, order.lengthBytes);
  }
}

function answer(order: PeerOrder): PeerAnswer {
  try {
    return { value: obey(order) };
  } catch (error) {
    return { error: error instanceof SysError ? error.errnoName : String(error) };
  }
}

process.on("message", (order: PeerOrder) => process.send?.(answer(order)));
process.on("disconnect", () => process.exit());
process.send?.({ value: memory.address } satisfies PeerAnswer);
