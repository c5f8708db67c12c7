/**
 * The least of a VMM with KVM Userfault: it connects, introduces its VM, then asks for a page, and
 * waits for ever. A process of its own, as a handler may kill it; its parts are also for tests that
 * want to be refused.
 *
 *     node dist/test/support/userfault-vm-program.js SOCKET PAGES GPA
 */
import { pathToFileURL } from "node:url";
import type { OwnedFd } from "../../src/linux/fd.ts";
import { createSealedMemfd, MappedRegion } from "../../src/linux/memory.ts";
import { connectUnix, sendWithFds } from "../../src/linux/socket.ts";
import { FrameWriter } from "../../src/protocol/fault-messages.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";

const PAGE = 4096;

export interface VmParts {
  readonly guestMemfd: OwnedFd;
  readonly bitmap: OwnedFd;
}

/** Connects and sends the first message. What it returns is open for as long as the process. */
export function introduceVm(socketPath: string, pageCount: number, parts: VmParts): OwnedFd {
  const sizeBytes = pageCount * PAGE;
  const mapping = MappedRegion.shared(parts.guestMemfd.fd, sizeBytes);
  const uffd = Userfaultfd.create({ features: ["eventRemove"] });
  uffd.register(mapping.address, sizeBytes, ["missing", "minor"]);
  const region = {
    ...{ base_host_virt_addr: mapping.address, size: sizeBytes, offset: 0, gpa_start: 0 },
    ...{ page_size: PAGE, is_guest_memfd: true, page_size_kib: PAGE },
  };
  const connection = connectUnix(socketPath);
  const fds = [uffd.intoRawFd(), parts.guestMemfd.fd, parts.bitmap.fd];
  sendWithFds(connection.fd, Buffer.from(JSON.stringify([region])), fds);
  return connection;
}

export function goodParts(pageCount: number): VmParts {
  const bitmap = createSealedMemfd("bitmap", pageCount / 8);
  const bits = MappedRegion.shared(bitmap.fd, pageCount / 8);
  new Uint8Array(bits.view()).fill(0xff);
  return { guestMemfd: createSealedMemfd("guest", pageCount * PAGE), bitmap };
}

function play(socketPath: string, pageCount: number, gpa: number): void {
  const connection = introduceVm(socketPath, pageCount, goodParts(pageCount));
  const frames = new FrameWriter(new Uint8Array(256));
  frames.request({ vcpu: 3, offset: 0, flags: 0x10, gpa });
  const setup = Buffer.from("no_exitless_apf");
  sendWithFds(connection.fd, Buffer.concat([setup, frames.frames]), []);
  setInterval(() => {}, 60_000);
}

if (import.meta.url === pathToFileURL(process.argv[1]!).href) {
  const [socketPath = "", pages = "", gpa = ""] = process.argv.slice(2);
  play(socketPath, Number(pages), Number(gpa));
}
