/** Bytes that hostile or broken clients send to the control socket, from a seed. */
import type { Random } from "./fixtures.ts";

export interface FuzzCase {
  readonly kind: string;
  /** What is sent, a piece at a time. */
  readonly pieces: readonly Buffer[];
  /** Between two pieces. */
  readonly pauseMs: number;
  /** Then the client waits for the end, ends its side, or is gone. */
  readonly ending: "wait" | "end" | "destroy";
  /** Nothing of it may succeed; or some of it may, by chance or rightly. */
  readonly isWrong: boolean;
  /** Answers that have to come, if it is known. */
  readonly answers?: number;
}

const HOST = "Host: localhost\r\nConnection: close\r\n";
const JSON_TYPE = "Content-Type: application/json\r\n";
const CHUNKED = "Transfer-Encoding: chunked\r\n";

/** Of no use for any field of any request. */
const wrongValues = [
  "null",
  "true",
  "-1.5",
  "1e308",
  "1e999",
  "-99999999999999999999999999",
  '"\\u0001"',
  '{"x y":1}',
  "[{}]",
  "[[[[[[]]]]]]",
  '"\\ud800\\u0000"',
];
const fields = [
  "id",
  "memory",
  "layers",
  "onError",
  "prefault",
  "socketPath",
  "owner",
  "allowedUids",
  "connectWithinS",
  "recordForS",
  "asyncFaults",
  "trace",
  "labels",
];
const tokens = ["[", "]", "{", "}", ",", ":", '"', "\\", "0", "-", "e", "null", "\0", "é", "\xff"];
const paths = [
  "/v1/sessions/%2e%2e",
  "/v1/sessions/..",
  "/v1/../v1/health",
  "//v1/health",
  "/v1//health",
  "/v1/health/",
  "/v1/sessions/%00",
  "/v1/sessions/a%2fkill",
  "/v1/sessions/a/../b",
  "/V1/HEALTH",
  "/v1/health;x=1",
  "/v1/health#x",
  "/v1/health?%zz",
  "/v1/health?__proto__=1",
  "/v1/sessions?ended=maybe",
  "/v1/sessions?label=x",
  "/v1/sessions?label==x",
  "/v1/sessions?ended=true&ended=true",
  "http://localhost/v1/health",
  "localhost:80",
  "*",
  "/v1/sessions/constructor/__proto__",
  "/v1/sessions/a\tb",
  "/v1/watch/",
  "/v1/watch?first=0",
  "/v1/sessions/a/watch?scale=-1",
  "/v1/sessions/a/watch?cells=1e9",
  "/v1/sessions/a/pages/-1",
  "/v1/sessions/a/pages/99999999999",
  "/v1/sessions/a/pages/0x10",
];
const methods = [
  "PUT",
  "PATCH",
  "TRACE",
  "BREW",
  "get",
  "OPTIONS",
  "CONNECT",
  "PRI",
  "G\0T",
  "SEARCH",
];
const headers = [
  "Content-Length: -1",
  "Content-Length: 1e3",
  "Content-Length: 99999999999999999999",
  "Content-Length: 5\r\nContent-Length: 6",
  "Content-Length: 5\r\nTransfer-Encoding: chunked",
  "Transfer-Encoding: gzip, chunked, chunked",
  "Transfer-Encoding: nonsense",
  "no colon",
  ": no name",
  "a\0b: c",
  "a: b\0c",
  "a b: c",
  "Content-Length : 0",
  "a: b\n\rc: d",
  "Expect: a-miracle",
];
const chunks = [
  "zz\r\nhello\r\n0\r\n\r\n",
  "ffffffffffffffffff\r\nhello\r\n",
  "-1\r\nhello\r\n0\r\n\r\n",
  `5;${"x".repeat(20_000)}\r\nhello\r\n0\r\n\r\n`,
  "5\r\nhelloworld\r\n0\r\n\r\n",
  "5\nhello\n0\n\n",
  "5\r\nhello",
];

const text = (value: string): Buffer => Buffer.from(value, "latin1");

function wrong(kind: string, sent: string | Buffer, more: Partial<FuzzCase> = {}): FuzzCase {
  const bytes = typeof sent === "string" ? text(sent) : sent;
  return { kind, pieces: [bytes], pauseMs: 0, ending: "wait", isWrong: true, ...more };
}

function post(body: string | Buffer, path = "/v1/sessions"): Buffer {
  const bytes = typeof body === "string" ? text(body) : body;
  const length = `Content-Length: ${bytes.length}\r\n`;
  const head = `POST ${path} HTTP/1.1\r\n${HOST}${JSON_TYPE}${length}\r\n`;
  return Buffer.concat([text(head), bytes]);
}

function validSpec(random: Random): string {
  return JSON.stringify({
    memory: "/srv/vm.mem",
    layers: ["/srv/a"],
    labels: { tenant: String(random.below(10)) },
    connectWithinS: 5,
  });
}

/** Cuts, flips, doubles, inserts. What comes of it may still be valid. */
function damage(bytes: Buffer, random: Random): Buffer {
  const at = random.below(bytes.length);
  switch (random.below(4)) {
    case 0:
      return bytes.subarray(0, at);
    case 1: {
      const copy = Buffer.from(bytes);
      copy[at]! ^= 1 << random.below(8);
      return copy;
    }
    case 2:
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(random.below(bytes.length))]);
    default:
      return Buffer.concat([bytes.subarray(0, at), text(random.pick(tokens)), bytes.subarray(at)]);
  }
}

/** In pieces, so that any border between reads is somewhere. */
function inPieces(bytes: Buffer, random: Random): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = at + 1 + random.below(40);
    pieces.push(bytes.subarray(at, end));
    at = end;
  }
  return pieces;
}

const makers: readonly ((random: Random) => FuzzCase)[] = [
  (random) =>
    wrong("damaged JSON", post(damage(text(validSpec(random)), random)), { isWrong: false }),
  (random) => {
    const field = random.pick(fields);
    const memory = field === "memory" ? "" : '"memory":"/a",';
    const picked = random.pick(wrongValues);
    // Of the fields that may be true.
    const value = ["asyncFaults", "trace"].includes(field) && picked === "true" ? '"true"' : picked;
    return wrong(`wrong ${field}`, post(`{${memory}"${field}":${value}}`));
  },
  (random) => {
    const open = random.pick(["[", '{"memory":', '{"labels":{"a":']);
    const depth = Math.floor((1 + random.below(60_000)) / open.length);
    return wrong("deep nesting", post(open.repeat(depth) + "]".repeat(random.below(2) * depth)));
  },
  (random) => {
    const body = "x".repeat(65_537 + random.below(200_000));
    const isChunked = random.below(2) === 0;
    if (!isChunked) return wrong("huge body", post(body));
    const head = `POST /v1/sessions HTTP/1.1\r\n${HOST}${JSON_TYPE}${CHUNKED}\r\n`;
    return wrong("huge chunk", `${head}${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`);
  },
  (random) => wrong("path", `GET ${random.pick(paths)} HTTP/1.1\r\n${HOST}\r\n`),
  (random) => {
    const id = "x".repeat(65 + random.below(30_000));
    return wrong("long id", `GET /v1/sessions/${id} HTTP/1.1\r\n${HOST}\r\n`);
  },
  (random) => wrong("method", `${random.pick(methods)} /v1/sessions HTTP/1.1\r\n${HOST}\r\n`),
  (random) => {
    const header = random.pick(headers);
    return wrong("header", `POST /v1/drain HTTP/1.1\r\n${HOST}${JSON_TYPE}${header}\r\n\r\n{}`);
  },
  (random) => {
    const one = `X-${random.next()}: ${"x".repeat(random.below(2000))}\r\n`;
    // What is between names and values does not count for Node.
    const many = one.repeat(Math.ceil(40_000 / one.length));
    return wrong("too many headers", `GET /v1/health HTTP/1.1\r\n${HOST}${many}\r\n`);
  },
  (random) => {
    const head = `POST /v1/drain HTTP/1.1\r\n${HOST}${JSON_TYPE}${CHUNKED}\r\n`;
    return wrong("chunks", head + random.pick(chunks), { ending: random.pick(["wait", "end"]) });
  },
  (random) => {
    const count = 2 + random.below(20);
    const one = "GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n";
    const last = `GET /v1/sessions HTTP/1.1\r\n${HOST}\r\n`;
    const sent = text(one.repeat(count - 1) + last);
    return wrong("pipelining", sent, { isWrong: false, answers: count });
  },
  (random) => {
    const sent = `GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n${random.pick(tokens)}\r\n\r\n`;
    return wrong("pipelined nonsense", sent, { isWrong: false });
  },
  (random) => {
    const bytes = post(validSpec(random));
    const cut = bytes.subarray(0, random.below(bytes.length));
    return wrong("half-open", cut, { ending: random.pick(["wait", "end"]) });
  },
  (random) => wrong("early close", post(validSpec(random)), { ending: "destroy", isWrong: false }),
  (random) => {
    const pieces = inPieces(post(validSpec(random)), random);
    return wrong("slow", "", { pieces, pauseMs: random.below(30), isWrong: false });
  },
  (random) => {
    const bytes = Buffer.from(
      Array.from({ length: 1 + random.below(200) }, () => random.below(256)),
    );
    return wrong("noise", bytes, { ending: random.pick(["wait", "end", "destroy"]) });
  },
];

export const fuzzKinds = makers.length;

/** Each kind in turn, so that a short run has them all. */
export function fuzzCase(random: Random, index: number): FuzzCase {
  return makers[index % makers.length]!(random);
}
