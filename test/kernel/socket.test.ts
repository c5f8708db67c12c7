/** Unix sockets that carry descriptors. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { fstatSync, readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { FaultlineError, SysError } from "../../src/base/errors.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { AF_UNIX, SOCK_DGRAM, sockaddr_un } from "../../src/linux/abi-posix.ts";
import { isNonblocking, OwnedFd } from "../../src/linux/fd.ts";
import { createMemfd } from "../../src/linux/memory.ts";
import { notifyServiceManager } from "../../src/linux/notify.ts";
import {
  acceptUnix,
  connectUnix,
  listenUnix,
  peerCredentials,
  peerPidfd,
  receiveWithFds,
  sendDatagram,
  sendWithFds,
  unreadBytes,
} from "../../src/linux/socket.ts";
import * as sys from "../../src/linux/sys.ts";

const abstractName = (): string => `@faultline-test-${randomUUID()}`;

/** A connection with ourselves: `client` blocks, `server` does not. */
function connectedPair(): { client: OwnedFd; server: OwnedFd } & Disposable {
  const path = abstractName();
  using listener = listenUnix(path, 1);
  const client = connectUnix(path);
  const server = acceptUnix(listener.fd);
  assert.ok(server !== null);
  return {
    client,
    server,
    [Symbol.dispose]: () => {
      client.close();
      server.close();
    },
  };
}

const bytesOf = (text: string): Uint8Array => Buffer.from(text);

describe("a message", () => {
  test("brings its bytes and its descriptors, which are close-on-exec", () => {
    using pair = connectedPair();
    using first = createMemfd("first");
    using second = createMemfd("second");
    sendWithFds(pair.client.fd, bytesOf("hello"), [first.fd, second.fd]);
    const buffer = Buffer.alloc(64);
    const received = receiveWithFds(pair.server.fd, buffer)!;
    assert.equal(buffer.toString("utf8", 0, received.byteCount), "hello");
    assert.equal(received.isTruncated, false);
    const inodes = received.fds.map((fd) => fstatSync(fd.fd).ino);
    assert.deepEqual(inodes, [fstatSync(first.fd).ino, fstatSync(second.fd).ino]);
    for (const fd of received.fds) {
      const flags = readFileSync(`/proc/self/fdinfo/${fd.fd}`, "utf8").match(/^flags:\t(\d+)$/m);
      assert.equal(Number.parseInt(flags![1]!, 8) & 0o2000000, 0o2000000);
      fd.close();
    }
  });

  test("read in parts has its descriptors with the first part", () => {
    using pair = connectedPair();
    using memfd = createMemfd("split");
    sendWithFds(pair.client.fd, bytesOf("abcdefgh"), [memfd.fd]);
    const part = Buffer.alloc(3);
    const first = receiveWithFds(pair.server.fd, part)!;
    assert.deepEqual([part.toString(), first.byteCount, first.fds.length], ["abc", 3, 1]);
    const second = receiveWithFds(pair.server.fd, part)!;
    assert.deepEqual([part.toString(), second.byteCount, second.fds.length], ["def", 3, 0]);
    const third = receiveWithFds(pair.server.fd, part)!;
    assert.equal(third.byteCount, 2);
    assert.equal(part.toString("utf8", 0, 2), "gh");
    first.fds[0]!.close();
  });

  test("after bytes without descriptors is merged with them; the next one is not", () => {
    using pair = connectedPair();
    using memfd = createMemfd("merge");
    sendWithFds(pair.client.fd, bytesOf("AAAA"), []);
    sendWithFds(pair.client.fd, bytesOf("BBBB"), [memfd.fd]);
    sendWithFds(pair.client.fd, bytesOf("CCCC"), [memfd.fd]);
    const buffer = Buffer.alloc(64);
    const counts: [number, number][] = [];
    for (let index = 0; index < 2; index++) {
      const received = receiveWithFds(pair.server.fd, buffer)!;
      counts.push([received.byteCount, received.fds.length]);
      for (const fd of received.fds) fd.close();
    }
    assert.deepEqual(counts, [
      [8, 1],
      [4, 1],
    ]);
  });

  test("may carry 253 descriptors; more are refused by the kernel", () => {
    using pair = connectedPair();
    using memfd = createMemfd("many");
    const many = new Array<number>(253).fill(memfd.fd);
    sendWithFds(pair.client.fd, bytesOf("x"), many);
    const received = receiveWithFds(pair.server.fd, Buffer.alloc(1))!;
    for (const fd of received.fds) fd.close();
    assert.deepEqual([received.fds.length, received.isTruncated], [253, false]);
    assert.throws(
      () => sendWithFds(pair.client.fd, bytesOf("x"), [...many, memfd.fd]),
      (error) => error instanceof SysError && error.errnoName === "EINVAL",
    );
  });

  test("is marked truncated where the receiver has no descriptors left", async () => {
    const path = abstractName();
    using listener = listenUnix(path, 1);
    const program = new URL("../support/receive-program.js", import.meta.url).pathname;
    // Node itself needs some 25; the limit leaves no room for the 200 that come.
    const command = `ulimit -n 100; exec "$0" "$1" "$2"`;
    const child = spawn("/bin/sh", ["-c", command, process.execPath, program, path]);
    child.stderr.pipe(process.stderr);
    const printed: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => printed.push(chunk));
    using server = await waitFor("the child connected", () => acceptUnix(listener.fd), 10_000);
    using memfd = createMemfd("many");
    sendWithFds(server.fd, bytesOf("hello"), new Array<number>(200).fill(memfd.fd));
    await once(child, "close");
    const report = JSON.parse(Buffer.concat(printed).toString()) as Record<string, unknown>;
    assert.equal(report.isTruncated, true);
    assert.equal(report.byteCount, 5, "the bytes come all the same");
    assert.ok((report.fdCount as number) < 100);
  });
});

describe("receiveWithFds", () => {
  test("gives null where nothing has come yet, and 0 bytes at the end", () => {
    using pair = connectedPair();
    const buffer = Buffer.alloc(8);
    assert.equal(receiveWithFds(pair.server.fd, buffer), null);
    pair.client.close();
    const end = receiveWithFds(pair.server.fd, buffer)!;
    assert.deepEqual([end.byteCount, end.fds.length], [0, 0]);
  });

  test("leaves the rest of the buffer alone", () => {
    using pair = connectedPair();
    sendWithFds(pair.client.fd, bytesOf("ab"), []);
    const buffer = Buffer.from("zzzz");
    receiveWithFds(pair.server.fd, buffer);
    assert.equal(buffer.toString(), "abzz");
  });
});

describe("sendWithFds", () => {
  test("to a peer that is gone throws EPIPE, and raises no signal", () => {
    using pair = connectedPair();
    pair.server.close();
    assert.throws(
      () => sendWithFds(pair.client.fd, bytesOf("x"), []),
      (error) => error instanceof SysError && error.errnoName === "EPIPE",
    );
  });
});

describe("a listener", () => {
  test("gives null where nobody waits; a connection does not block", () => {
    const path = abstractName();
    using listener = listenUnix(path, 1);
    assert.equal(acceptUnix(listener.fd), null);
    using client = connectUnix(path);
    using server = acceptUnix(listener.fd)!;
    assert.deepEqual([isNonblocking(client.fd), isNonblocking(server.fd)], [false, true]);
  });

  test("on a path in use fails with EADDRINUSE, and leaves no descriptor", () => {
    const path = abstractName();
    using first = listenUnix(path, 1);
    assert.throws(
      () => listenUnix(path, 1),
      (error) => error instanceof SysError && error.errnoName === "EADDRINUSE",
    );
    using next = createMemfd("next");
    assert.equal(next.fd, first.fd + 1);
  });

  test("that is not there refuses the connection, by name", () => {
    const path = abstractName();
    assert.throws(
      () => connectUnix(path),
      (error) => error instanceof SysError && error.message.includes(path),
    );
  });

  test("with a path beyond 107 bytes is refused, with what to do", () => {
    assert.throws(
      () => listenUnix(`/tmp/${"x".repeat(200)}`, 1),
      (error) =>
        error instanceof FaultlineError &&
        error.code === "socket-path" &&
        error.message.endsWith("Choose a shorter path."),
    );
  });
});

test("what the other side has not read yet can be told", () => {
  using pair = connectedPair();
  sendWithFds(pair.client.fd, Buffer.alloc(100), []);
  assert.ok(unreadBytes(pair.client.fd) >= 100);
  receiveWithFds(pair.server.fd, Buffer.alloc(200));
  assert.equal(unreadBytes(pair.client.fd), 0);
});

describe("the peer", () => {
  test("is known by process, user and group", () => {
    using pair = connectedPair();
    assert.deepEqual(peerCredentials(pair.server.fd), {
      pid: process.pid,
      uid: process.getuid!(),
      gid: process.getgid!(),
    });
  });

  test("has a pidfd, on a kernel that gives one", (t) => {
    using pair = connectedPair();
    const pidfd = peerPidfd(pair.server.fd);
    if (pidfd === null) return t.skip("this kernel has no SO_PEERPIDFD (Linux 6.5)");
    const info = readFileSync(`/proc/self/fdinfo/${pidfd.fd}`, "utf8");
    assert.match(info, new RegExp(`^Pid:\\t${process.pid}$`, "m"));
    pidfd.close();
  });
});

describe("a datagram", () => {
  /** A receiving socket, which the library itself has no use for. */
  function receiver(path: string): OwnedFd {
    const name = Buffer.from(path.replace("@", "\0"));
    const address = new sys.Scratch(sockaddr_un.size);
    address.bytes[0] = AF_UNIX;
    address.bytes.set(name, sockaddr_un.offset.sun_path);
    const socket = new OwnedFd(sys.check(sys.socket(AF_UNIX, SOCK_DGRAM, 0), "socket"));
    const lengthBytes = sockaddr_un.offset.sun_path + name.length;
    sys.check(sys.bind(socket.fd, address.address, lengthBytes), "bind");
    return socket;
  }

  test("arrives whole", () => {
    const path = abstractName();
    using socket = receiver(path);
    sendDatagram(path, "READY=1\nSTATUS=serving");
    const buffer = Buffer.alloc(64);
    const { byteCount } = receiveWithFds(socket.fd, buffer)!;
    assert.equal(buffer.toString("utf8", 0, byteCount), "READY=1\nSTATUS=serving");
  });

  test("is what a service manager gets, if there is one", (t) => {
    const before = process.env.NOTIFY_SOCKET;
    t.after(() => {
      if (before === undefined) delete process.env.NOTIFY_SOCKET;
      else process.env.NOTIFY_SOCKET = before;
    });
    delete process.env.NOTIFY_SOCKET;
    assert.equal(notifyServiceManager("READY=1"), false);
    const path = abstractName();
    process.env.NOTIFY_SOCKET = path;
    using socket = receiver(path);
    assert.equal(notifyServiceManager("READY=1"), true);
    assert.equal(receiveWithFds(socket.fd, Buffer.alloc(64))!.byteCount, 7);
  });
});
