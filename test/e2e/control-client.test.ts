/** `ControlClient`, when the daemon behind the socket ends, is replaced, or is none. */
import assert from "node:assert/strict";
import { createServer } from "node:net";
import { describe, test } from "node:test";
import { ControlClient } from "../../src/daemon/control/client.ts";
import { listenUnix } from "../../src/linux/socket.ts";
import { ControlStage } from "../support/control-stage.ts";
import { TableHost } from "../support/table-host.ts";

const MEMORY = "/srv/vm.mem";

describe("the client", () => {
  test("asks again when a connection ends without an answer, if that changes nothing", async () => {
    await using stage = await ControlStage.start({ service: new TableHost() });
    const path = `${stage.folder}/flaky.sock`;
    const asked: string[] = [];
    const flaky = createServer((socket) => {
      socket.once("data", (data) => {
        asked.push(data.toString().split(" ", 2).join(" "));
        socket.destroy();
      });
      socket.on("error", () => undefined);
    });
    await new Promise<void>((resolve) => flaky.listen(path, resolve));
    try {
      const client = new ControlClient({ socketPath: path });
      await assert.rejects(client.host(), { code: "no-daemon" });
      assert.deepEqual(asked, ["GET /v1/host", "GET /v1/host", "GET /v1/host"]);
      asked.length = 0;
      await assert.rejects(client.killSession("a"), { code: "no-daemon" });
      assert.deepEqual(asked, ["POST /v1/sessions/a/kill"]);
    } finally {
      flaky.close();
    }
  });

  test("creates a session once, though daemons end before they have told", async () => {
    const host = new TableHost();
    await using stage = await ControlStage.start({ service: host });
    const path = `${stage.folder}/proxy.sock`;
    // That of the creation, and as often as the client asks again by itself.
    let losses = 4;
    const proxy = createServer((socket) => {
      const onward = stage.connect();
      socket.on("error", () => undefined);
      socket.pipe(onward);
      if (losses > 0) onward.once("data", () => socket.destroy());
      else onward.pipe(socket);
      losses -= 1;
    });
    await new Promise<void>((resolve) => proxy.listen(path, resolve));
    try {
      const client = new ControlClient({ socketPath: path });
      const created = await client.createSession({ memory: MEMORY });
      assert.deepEqual(
        host.sessions().map(({ id }) => id),
        [created.id],
      );
      assert.equal(created.firecracker.backend_path, created.socketPath);
    } finally {
      proxy.close();
    }
  });

  test("gives up in time where nobody answers, and says what else is wrong", async () => {
    await using stage = await ControlStage.start({ service: new TableHost() });
    const path = `${stage.folder}/silent.sock`;
    using _listener = listenUnix(path, 16);
    const silent = new ControlClient({ socketPath: path, deadlineMs: 100 });
    await assert.rejects(silent.host(), { code: "no-daemon", message: /within 0\.1 s/ });
    const file = new ControlClient({ socketPath: "/proc/self/status" });
    await assert.rejects(file.host(), { code: "no-daemon" });
  });
});
