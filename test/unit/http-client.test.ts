/** What a web server may do to its client, byte by byte. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { within } from "../../src/kit/wait.ts";
import { HttpStore } from "../../src/source/http-store.ts";
import { chunkName } from "../support/object-store-suite.ts";

const never = new AbortController().signal;
const BUDGET_MS = 10_000;

/** A server that sends these bytes to each request; null: nothing. */
class RawServer {
  requests = 0;
  connections = 0;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  constructor(answer: (socket: Socket, request: string, number: number) => void) {
    this.#server = createServer((socket) => {
      this.connections++;
      this.#sockets.add(socket);
      socket.on("error", () => undefined);
      socket.on("data", (request) => answer(socket, String(request), ++this.requests));
    });
  }

  async listen(): Promise<string> {
    this.#server.listen(0, "127.0.0.1");
    await once(this.#server, "listening");
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await once(this.#server.close(), "close");
  }
}

async function read(
  answer: (socket: Socket, request: string, number: number) => void,
  name = chunkName(1),
): Promise<Uint8Array | null | FaultlineError> {
  await using server = new RawServer(answer);
  const store = new HttpStore(await server.listen(), { idleTimeoutMs: 300 });
  try {
    return await within("the read ended", store.read(name, never), BUDGET_MS);
  } catch (error) {
    assert.ok(error instanceof FaultlineError, String(error));
    return error;
  } finally {
    await store.close();
  }
}

const head = (...lines: string[]): string => ["HTTP/1.1 200 OK", ...lines, "", ""].join("\r\n");

describe("an answer of a web server", () => {
  const failing: [what: string, answer: (socket: Socket) => void, code: string, says: RegExp][] = [
    [
      "that is shorter than announced",
      (socket) => socket.end(`${head("Content-Length: 10")}short`),
      "store-failed",
      /ended after 5 of 10 bytes/,
    ],
    [
      "without a length",
      (socket) => socket.end(`${head("Connection: close")}who knows if that is all`),
      "store-refused",
      /does not say how long/,
    ],
    [
      "in chunks, that ends too early",
      (socket) => socket.end(`${head("Transfer-Encoding: chunked")}5\r\nshort\r\n`),
      "store-failed",
      /ended after 5/,
    ],
    [
      "that announces more than any object has",
      (socket) => socket.write(head("Content-Length: 99999999999999")),
      "store-refused",
      /sends 99999999999999 bytes, 4259840 are allowed/,
    ],
    [
      "in chunks without an end",
      (socket) => {
        socket.write(head("Transfer-Encoding: chunked"));
        const more = (): void => {
          while (socket.writable && socket.write(`10000\r\n${"x".repeat(0x10000)}\r\n`));
        };
        socket.on("drain", more);
        more();
      },
      "store-refused",
      /sends more, 4259840 are allowed/,
    ],
    ["that never comes", () => undefined, "store-failed", /nothing came for 0.3 s/],
    [
      "that stops in the middle",
      (socket) => socket.write(`${head("Content-Length: 10")}five!`),
      "store-failed",
      /nothing came for 0.3 s/,
    ],
    [
      "that is no HTTP",
      (socket) => socket.end("220 mail.example.com ESMTP\r\n"),
      "store-failed",
      /no answer from 127/,
    ],
    [
      "with more headers than anybody needs",
      (socket) => socket.write(head(`X: ${"x".repeat(100_000)}`)),
      "store-failed",
      /no answer from 127/,
    ],
    ["that is a reset", (socket) => socket.resetAndDestroy(), "store-failed", /no answer from 127/],
    [
      "with two lengths",
      (socket) => socket.end(`${head("Content-Length: 3", "Content-Length: 5")}abcde`),
      "store-failed",
      /no answer from 127/,
    ],
    [
      "that sends to another kind of place",
      (socket) => socket.end("HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n"),
      "store-refused",
      /redirects from https? to file:/,
    ],
    [
      "that sends nowhere",
      (socket) => socket.end("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"),
      "store-refused",
      /redirects to no usable place/,
    ],
    [
      "of a part",
      (socket) => socket.end("HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\n\r\nx"),
      "store-refused",
      /answers 206/,
    ],
    [
      "that asks for patience",
      (socket) => socket.end("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"),
      "store-failed",
      /answers 429/,
    ],
  ];
  for (const [what, answer, code, says] of failing) {
    test(what, async () => {
      const error = await read(answer);
      assert.ok(error instanceof FaultlineError, "it was taken for an object");
      assert.match(error.message, says);
      assert.equal(error.code, code);
    });
  }

  test("that comes byte by byte is taken, while bytes come", async () => {
    const bytes = await read((socket) => {
      const text = `${head("Content-Length: 5")}bytes`;
      for (const [index, byte] of [...text].entries()) setTimeout(() => socket.write(byte), index);
    });
    assert.equal(String(bytes), "bytes");
  });

  test("that is gone is no object", async () => {
    assert.equal(await read((socket) => socket.end("HTTP/1.1 410 Gone\r\n\r\n")), null);
  });
});

describe("connections", () => {
  test("are kept, and one that was closed meanwhile is replaced", async () => {
    // Every second request finds the connection closed, after it was sent.
    await using server = new RawServer((socket, _request, number) => {
      if (number % 2 === 0) socket.destroy();
      else socket.write(`${head("Content-Length: 2")}ok`);
    });
    const store = new HttpStore(await server.listen());
    for (let round = 0; round < 4; round++) {
      assert.equal(String(await store.read("a", never)), "ok");
    }
    assert.deepEqual([server.requests, server.connections], [7, 4]);
    await store.close();
  });
});

describe("a location", () => {
  const bad: [location: string, says: RegExp][] = [
    ["https://user:secret@example.com/images", /on example.com holds a user name or password/],
    ["https://example.com/images?token=secret", /on example.com has a part after \?/],
    ["https://example.com/#secret", /on example.com has a part after/],
    ["ftp://example.com/images", /ftp: is not spoken/],
    ["example.com:secret", /is not spoken|no URL/],
  ];
  for (const [location, says] of bad) {
    test(`${location} is refused, and nothing in it told`, () => {
      assert.throws(
        () => new HttpStore(location),
        (error) => {
          assert.ok(error instanceof FaultlineError);
          assert.equal(error.code, "bad-option");
          assert.match(error.message, says);
          assert.doesNotMatch(error.message, /secret/);
          return true;
        },
      );
    });
  }

  test("ends without a slash, however it was written", () => {
    assert.equal(new HttpStore("https://a.example/x/").location, "https://a.example/x");
    assert.equal(new HttpStore("https://a.example").location, "https://a.example");
  });
});
