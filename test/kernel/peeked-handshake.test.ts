/** A handshake that stays in its socket, for whoever comes next. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { fstatSync, readdirSync } from "node:fs";
import { performance } from "node:perf_hooks";
import { describe, test } from "node:test";
import { waitFor } from "../../src/kit/wait.ts";
import type { OwnedFd } from "../../src/linux/fd.ts";
import { createMemfd } from "../../src/linux/memory.ts";
import { receiveWithFds, sendWithFds, socketPair } from "../../src/linux/socket.ts";
import { MAX_HANDSHAKE_BYTES } from "../../src/protocol/handshake.ts";
import { consumeHandshake, receiveHandshake } from "../../src/protocol/receive.ts";

const MESSAGE = Buffer.from(
  '[{"base_host_virt_addr":139637976727552,"size":4096,"offset":0,"page_size":4096}]',
);
const isPeeked = true;

/** A VMM's end and ours, and something that stands for the userfaultfd. */
function connection(): { vmm: OwnedFd; ours: OwnedFd; memfd: OwnedFd; inode: number } & Disposable {
  const [vmm, ours] = socketPair();
  const memfd = createMemfd("stand-in");
  const close = (): void => {
    for (const fd of [vmm, ours, memfd]) fd.close();
  };
  return { vmm, ours, memfd, inode: fstatSync(memfd.fd).ino, [Symbol.dispose]: close };
}

/** Peeks, compares, and closes what came. */
async function expectHandshake(ours: OwnedFd, inode: number, message = MESSAGE): Promise<void> {
  const {
    body,
    descriptors: [descriptor],
  } = await receiveHandshake(ours, { isPeeked });
  const found = fstatSync(descriptor.fd).ino;
  descriptor.close();
  assert.deepEqual([Buffer.from(body).toString(), found], [message.toString(), inode]);
}

const openFds = (): number => readdirSync("/proc/self/fd").length;

describe("a peeked handshake", () => {
  test("is found again, split at any byte, its descriptor with either piece", async () => {
    const before = openFds();
    for (let split = 1; split < MESSAGE.length; split++) {
      for (const bearer of [0, 1]) {
        using pair = connection();
        const pieces = [MESSAGE.subarray(0, split), MESSAGE.subarray(split)];
        for (const [index, piece] of pieces.entries()) {
          sendWithFds(pair.vmm.fd, piece, index === bearer ? [pair.memfd.fd] : []);
        }
        await expectHandshake(pair.ours, pair.inode);
        await expectHandshake(pair.ours, pair.inode);
        consumeHandshake(pair.ours);
        assert.equal(receiveWithFds(pair.ours.fd, Buffer.alloc(1)), null);
      }
    }
    assert.equal(openFds(), before);
  });

  test("comes piece by piece while it is waited for", async () => {
    for (const bearer of [0, 7, MESSAGE.length - 1]) {
      using pair = connection();
      const done = expectHandshake(pair.ours, pair.inode);
      for (const [index, byte] of MESSAGE.entries()) {
        sendWithFds(pair.vmm.fd, Buffer.of(byte), index === bearer ? [pair.memfd.fd] : []);
        await new Promise(setImmediate);
      }
      await done;
      await expectHandshake(pair.ours, pair.inode);
    }
  });

  test("that one process has begun to read is whole for the next", async () => {
    using pair = connection();
    const half = MESSAGE.length >>> 1;
    sendWithFds(pair.vmm.fd, MESSAGE.subarray(0, half), [pair.memfd.fd]);
    const stopped = new AbortController();
    const { signal } = stopped;
    const first = receiveHandshake(pair.ours, { isPeeked, signal });
    stopped.abort(new Error("killed"));
    await assert.rejects(first, /killed/);
    sendWithFds(pair.vmm.fd, MESSAGE.subarray(half), []);
    const program = new URL("../support/peek-program.js", import.meta.url).pathname;
    // Another process, which sees where the first one has stopped.
    const { stdout, stderr } = spawnSync(process.execPath, [program], {
      stdio: ["ignore", "pipe", "pipe", pair.ours.fd],
      encoding: "utf8",
      timeout: 60_000,
    });
    assert.equal(stdout, JSON.stringify([MESSAGE.toString(), pair.inode]), stderr);
    await expectHandshake(pair.ours, pair.inode);
  });

  test("costs nothing while its sender rests", async () => {
    using pair = connection();
    sendWithFds(pair.vmm.fd, MESSAGE.subarray(0, 5), [pair.memfd.fd]);
    const before = loops();
    await assert.rejects(receiveHandshake(pair.ours, { isPeeked, timeoutMs: 300 }), /did not end/);
    // A watch on the socket itself turns tens of thousands of times.
    assert.ok(loops() - before < 100, `${loops() - before} turns of the event loop`);
  });

  test("as long as it may be comes whole, with its descriptor; a byte more is not", async () => {
    const before = openFds();
    for (const tooMany of [0, 1]) {
      using pair = connection();
      const blanks = Buffer.alloc(MAX_HANDSHAKE_BYTES - MESSAGE.length + tooMany, " ");
      const long = Buffer.concat([blanks, MESSAGE]);
      sendWithFds(pair.vmm.fd, long, [pair.memfd.fd]);
      if (tooMany === 0) await expectHandshake(pair.ours, pair.inode, long);
      else await assert.rejects(receiveHandshake(pair.ours, { isPeeked }), /is longer than 65536/);
    }
    assert.equal(openFds(), before);
  });

  test("with two descriptors is refused, however they come", async () => {
    for (const together of [true, false]) {
      using pair = connection();
      const { memfd, vmm } = pair;
      sendWithFds(vmm.fd, MESSAGE.subarray(0, 9), together ? [memfd.fd, memfd.fd] : [memfd.fd]);
      sendWithFds(vmm.fd, MESSAGE.subarray(9), together ? [] : [memfd.fd]);
      await assert.rejects(receiveHandshake(pair.ours, { isPeeked }), /carries 2 descriptors/);
    }
  });

  test("whose sender goes away is refused at once", async () => {
    using pair = connection();
    sendWithFds(pair.vmm.fd, MESSAGE.subarray(0, 9), [pair.memfd.fd]);
    const refused = assert.rejects(receiveHandshake(pair.ours, { isPeeked }), /peer closed/);
    await new Promise(setImmediate);
    pair.vmm.close();
    await refused;
  });

  test("when consumed, keeps its descriptor alive no longer", async () => {
    using pair = connection();
    const [far, near] = socketPair();
    sendWithFds(pair.vmm.fd, MESSAGE, [far.fd]);
    far.close();
    (await receiveHandshake(pair.ours, { isPeeked })).descriptors[0].close();
    assert.equal(receiveWithFds(near.fd, Buffer.alloc(1)), null, "still in the queue");
    consumeHandshake(pair.ours);
    await waitFor("the end was closed", () => {
      return receiveWithFds(near.fd, Buffer.alloc(1))?.byteCount === 0;
    });
    near.close();
  });
});

function loops(): number {
  const { uvMetricsInfo } = performance.nodeTiming as typeof performance.nodeTiming & {
    readonly uvMetricsInfo?: { readonly loopCount: number };
  };
  assert.ok(uvMetricsInfo !== undefined);
  return uvMetricsInfo.loopCount;
}
