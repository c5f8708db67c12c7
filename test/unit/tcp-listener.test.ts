/** TCP addresses: which are taken, and one that somebody else has for a while. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer as createHttpServer } from "node:http";
import { type AddressInfo, createServer, type Server } from "node:net";
import { describe, test } from "node:test";
import { createLogger } from "../../src/daemon/log.ts";
import { isAddress, isLoopbackAddress, TcpListener } from "../../src/daemon/tcp-listener.ts";
import { waitFor, within } from "../../src/kit/wait.ts";

const BUDGET_MS = 20_000;

describe("an address", () => {
  for (const [address, isOne, isOurs] of [
    ["127.0.0.1:7433", true, true],
    ["127.9.8.7:0", true, true],
    ["localhost:65535", true, true],
    ["[::1]:80", true, true],
    ["0.0.0.0:80", true, false],
    ["127.0.0.1.example:80", true, false],
    ["127.999.1.1:80", true, false],
    ["127.0.0.1:65536", false, false],
    ["127.0.0.1:99999", false, false],
    ["127.0.0.1", false, false],
    [":80", false, false],
  ] as const) {
    const what = isOurs ? "of this host alone" : isOne ? "of any host" : "none";
    test(`${address} is ${what}`, () => {
      assert.deepEqual([isAddress(address), isLoopbackAddress(address)], [isOne, isOurs]);
    });
  }
});

describe("a listener", () => {
  test("waits for its port as long as it takes, and nothing piles up", async () => {
    const other = createServer();
    const { port } = await listen(other);
    const server = createHttpServer();
    const words = { serves: "", cannot: "", failed: "" };
    const log = createLogger("silent", "json");
    const listener = new TcpListener(server, `127.0.0.1:${port}`, log, words);
    try {
      let failures = 0;
      server.on("error", () => {
        failures += 1;
      });
      const counts = () => [server.listenerCount("error"), server.listenerCount("listening")];
      const before = counts();
      await waitFor("it tried twice", () => failures >= 2, BUDGET_MS);
      assert.deepEqual(counts(), before);
      assert.equal(listener.address, null);
      await close(other);
      assert.equal(await within("it listens", listener.listening, BUDGET_MS), port);
      assert.equal(listener.address, `127.0.0.1:${port}`);
    } finally {
      await listener.close();
      await close(other);
    }
  });
});

async function listen(server: Server): Promise<AddressInfo> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return server.address() as AddressInfo;
}

async function close(server: Server): Promise<void> {
  if (!server.listening) return;
  server.close();
  await once(server, "close");
}
