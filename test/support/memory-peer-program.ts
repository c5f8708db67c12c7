/**
 * A process that has its memory served by another: maps it, registers it, sends the userfaultfd
 * and the address over a socket, then does what it is told, line by line on stdin.
 *
 * `keep`: it also keeps its own copy of the descriptor, as Firecracker does.
 */
import { execFileSync } from "node:child_process";
import { createInterface } from "node:readline";
import { MADV_DONTNEED } from "../../src/linux/abi-posix.ts";
import { MappedRegion } from "../../src/linux/memory.ts";
import { connectUnix, sendWithFds } from "../../src/linux/socket.ts";
import { viewOf } from "../../src/linux/sys.ts";
import type { UffdFeature } from "../../src/uffd/features.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";

export interface PeerOptions {
  readonly socket: string;
  readonly sizeBytes: number;
  readonly features: readonly UffdFeature[];
  readonly keep: boolean;
}

export interface PeerGreeting {
  readonly address: number;
  readonly sizeBytes: number;
}

/** What `write` writes. */
const WRITTEN = 0x57;
const options = JSON.parse(process.argv[2]!) as PeerOptions;
const uffd = Userfaultfd.create({ features: options.features });
const memory = MappedRegion.anonymous(options.sizeBytes);
uffd.register(memory.address, memory.sizeBytes, ["missing"]);
const greeting: PeerGreeting = { address: memory.address, sizeBytes: memory.sizeBytes };
const socket = connectUnix(options.socket);
sendWithFds(socket.fd, Buffer.from(JSON.stringify(greeting)), [uffd.fd]);
if (!options.keep) uffd.close();

// The main thread itself touches the memory, and so blocks: nothing here is served by it.
createInterface({ input: process.stdin }).on("line", (line) => {
  const [what, argument] = line.split(" ");
  if (what === "read") {
    const byte = new Uint8Array(viewOf(memory.address + Number(argument), 1))[0];
    process.stdout.write(`${byte}\n`);
  } else if (what === "write") {
    new Uint8Array(viewOf(memory.address + Number(argument), 1))[0] = WRITTEN;
    process.stdout.write("written\n");
  } else if (what === "drop") {
    memory.advise(Number(argument), 4096, MADV_DONTNEED);
    process.stdout.write("dropped\n");
  } else if (what === "fork") {
    execFileSync("/bin/true");
    process.stdout.write("forked\n");
  }
});
