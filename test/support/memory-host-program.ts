/**
 * Opens the memories of argv, reads all of them, and gives what is kept of each, and the cache's
 * memory, to the socket on descriptor 3. Then it waits to be killed.
 */
import { createLogger } from "../../src/daemon/log.ts";
import { MemoryHost } from "../../src/daemon/memory-host.ts";
import { sendWithFds } from "../../src/linux/socket.ts";
import { wholeMemory } from "./whole-memory.ts";

const logger = createLogger("warn", "json");
const host = await MemoryHost.start({ cacheBytes: 64 * 2 ** 20, keepsArena: true, logger });
for (const memory of process.argv.slice(2)) {
  const served = await host.open({ memory });
  await wholeMemory(served);
  sendWithFds(3, Buffer.from("m"), host.keep(served).fds);
}
sendWithFds(3, Buffer.from("a"), [host.arenaFd!.fd]);
// Nobody kills it: it must end all the same.
setTimeout(() => process.exit(5), 60_000);
