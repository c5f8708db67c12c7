/**
 * The plainest page-fault handler, a process of its own: one VM, page by page from the memory file.
 * It shares no code with `protocol/` and `engine/`, so that tinyvm is not tested against itself.
 *
 *     node dist/test/support/plain-handler.js SOCKET MEMORY-FILE [--mute]
 *
 * Prints `listening`, and ends with the VM. `--mute`: takes the handshake and answers no fault.
 */
import { fstatSync, openSync } from "node:fs";
import { MappedRegion } from "../../src/linux/memory.ts";
import { acceptUnix, listenUnix, receiveWithFds } from "../../src/linux/socket.ts";
import { watchReadable } from "../../src/linux/sys.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";

interface Region {
  readonly base_host_virt_addr: number;
  readonly size: number;
  readonly offset: number;
  readonly page_size: number;
}

const [socketPath = "", memoryPath = "", flag] = process.argv.slice(2);
const file = openSync(memoryPath, "r");
const memory = MappedRegion.readOnlyFile(file, fstatSync(file).size);
const listener = listenUnix(socketPath, 1);
process.stdout.write("listening\n");

await readable(listener.fd);
const connection = acceptUnix(listener.fd)!;
await readable(connection.fd);
const body = new Uint8Array(4096);
const received = receiveWithFds(connection.fd, body)!;
const regions = JSON.parse(Buffer.from(body).toString("utf8", 0, received.byteCount)) as Region[];
using uffd = Userfaultfd.fromFd(received.fds[0]!);
const vmEnded = new AbortController();
void readable(connection.fd).then(() => vmEnded.abort());

if (flag !== "--mute") {
  for await (const event of uffd.events(vmEnded.signal, regions[0]!.page_size)) {
    if (event.type === "pagefault") serve(event.address);
  }
}

function serve(address: number): void {
  const region = regions.find(
    (each) => address >= each.base_host_virt_addr && address < each.base_host_virt_addr + each.size,
  );
  if (region === undefined) throw new Error(`Fault at 0x${address.toString(16)}: in no region.`);
  const source = memory.address + region.offset + (address - region.base_host_virt_addr);
  const outcome = uffd.copy(address, source, region.page_size);
  if (outcome === "alreadyPresent") uffd.wake(address, region.page_size);
  else if (outcome !== "installed" && outcome !== "gone")
    throw new Error(`UFFDIO_COPY: ${outcome}`);
}

async function readable(fd: number): Promise<void> {
  await new Promise<void>((resolve) => {
    const watch = watchReadable(fd, () => {
      watch.close();
      resolve();
    });
    watch.arm();
  });
}
