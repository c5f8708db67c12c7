/** The control API over a real socket: every route, every kind of refusal, every bound. */
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { describe, test } from "node:test";
import * as v from "valibot";
import { FaultlineError } from "../../src/base/errors.ts";
import { ControlClient } from "../../src/daemon/control/client.ts";
import { schemas } from "../../src/daemon/control/schemas.ts";
import { ControlServer } from "../../src/daemon/control/server.ts";
import { createLogger } from "../../src/daemon/log.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { duplicateFd } from "../../src/linux/fd.ts";
import { listenUnix } from "../../src/linux/socket.ts";
import { ControlStage, type RawAnswer, untilClosed } from "../support/control-stage.ts";
import { TableHost } from "../support/table-host.ts";

const MEMORY = "/srv/vm.mem";

function assertProblem(answer: RawAnswer, status: number, code: string, detail: RegExp): void {
  assert.equal(answer.status, status, answer.text);
  assert.equal(answer.headers["content-type"], "application/problem+json");
  const problem = v.parse(schemas.Problem, answer.json);
  assert.deepEqual([problem.status, problem.code], [status, code], answer.text);
  assert.match(problem.detail, detail);
  assert.doesNotMatch(answer.text, /\bat .*\.[jt]s:\d/, "a stack");
}

describe("routes", () => {
  test("a session's life, by the client", async () => {
    const host = new TableHost();
    await using stage = await ControlStage.start({ service: host });
    const { client } = stage;
    const spec = {
      id: "web-1",
      memory: MEMORY,
      labels: { tenant: "7" },
      owner: { uid: 1, gid: 2 },
    };
    const created = await client.createSession(spec);
    assert.equal(created.state, "waiting");
    assert.deepEqual(created.firecracker, {
      backend_type: "Uffd",
      backend_path: created.socketPath,
    });
    host.attach("web-1", 1234);
    assert.equal((await client.session("web-1")).vm?.pid, 1234);
    assert.equal((await client.completeSession("web-1")).vm?.prefaultState, "running");
    await assert.rejects(client.detachSession("web-1"), { code: "conflict", status: 409 });
    assert.equal((await client.detachSession("web-1", true)).end?.reason, "detached");
    assert.deepEqual(await client.sessions(), []);
    assert.equal((await client.sessions({ withEnded: true })).length, 1);
  });

  test("labels filter, all of them", async () => {
    const host = new TableHost();
    await using stage = await ControlStage.start({ service: host });
    const { client } = stage;
    await client.createSession({ id: "a", memory: MEMORY, labels: { x: "1", y: "a=b&c" } });
    await client.createSession({ id: "b", memory: MEMORY, labels: { x: "1" } });
    const ids = async (labels: Record<string, string>): Promise<string[]> =>
      (await client.sessions({ labels })).map(({ id }) => id);
    assert.deepEqual(await ids({ x: "1" }), ["a", "b"]);
    assert.deepEqual(await ids({ x: "1", y: "a=b&c" }), ["a"]);
    assert.deepEqual(await ids({ toString: "1" }), []);
  });

  test("the rest: images, host, health, readiness, version, drain, reload", async () => {
    const host = new TableHost();
    let isTakingOver = false;
    await using stage = await ControlStage.start({
      service: host,
      isTakingOver: () => isTakingOver,
    });
    const { client } = stage;
    await client.createSession({ memory: MEMORY });
    assert.equal((await client.images())[0]?.memory, MEMORY);
    assert.equal((await client.prefetchImage("web-1")).fetched.parts, 3);
    assert.deepEqual((await client.host()).sessions, { waiting: 1, attached: 0 });
    assert.equal((await client.version()).api, "v1");
    await client.health();
    await client.ready();
    isTakingOver = true;
    await assert.rejects(client.ready(), { status: 503, message: /taken over/ });
    isTakingOver = false;
    assert.equal((await client.drain(true)).isDraining, true);
    const answer = await stage.ask("GET", "/v1/ready");
    assertProblem(answer, 503, "conflict", /draining/);
    assert.equal(answer.headers["retry-after"], "1");
    await assert.rejects(client.createSession({ memory: MEMORY }), { code: "conflict" });
    assert.equal((await client.drain(false)).isDraining, false);
    host.aliveWorkers = 1;
    await assert.rejects(client.health(), { status: 503, message: /1 of 2 fault workers/ });
    assert.equal((await client.reload()).takeovers, 1);
  });

  test("DELETE is kill, and metrics are text, or not there", async () => {
    await using stage = await ControlStage.start({ service: new TableHost() });
    await stage.client.createSession({ id: "a", memory: MEMORY });
    const ended = await stage.ask("DELETE", "/v1/sessions/a");
    assert.deepEqual([ended.status, ended.json.state], [200, "ended"]);
    await assert.rejects(stage.client.metrics(), { status: 404 });
    const metrics = (): string => "faultline_vms 0\n";
    await using other = await ControlStage.start({ service: new TableHost(), metrics });
    assert.equal(await other.client.metrics(), metrics());
    const answer = await other.ask("GET", "/metrics");
    assert.equal(answer.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
  });
});

describe("refusals", () => {
  const deep = "[".repeat(30_000);
  const wrong: [name: string, body: unknown, detail: RegExp, field?: string][] = [
    ["no JSON", "{", /no JSON/],
    ["too deep", `{"memory":${deep}`, /no JSON/],
    [
      "deep, but JSON",
      `{"memory":${deep}${"]".repeat(30_000)}}`,
      /memory cannot be a list/,
      "memory",
    ],
    ["not an object", "7", /The request cannot be 7/],
    ["a list", "[]", /memory is missing/],
    ["a list for an object", { memory: MEMORY, labels: [] }, /labels cannot be a list/, "labels"],
    ["nothing", "null", /cannot be null/],
    ["no memory", {}, /^memory is missing\.$/, "memory"],
    ["memory of another type", { memory: 7 }, /memory cannot be 7: expected string/, "memory"],
    ["an unknown field", { memory: MEMORY, memroy: 1 }, /memroy is no field/, "memroy"],
    ["a bad id", { memory: MEMORY, id: "../x" }, /id cannot be "\.\.\/x": lower case/, "id"],
    ["a long value", { memory: "x".repeat(5000) }, /memory cannot be "x{100}…"/, "memory"],
    ["control characters", { memory: "a\nb" }, /memory cannot be "a\\nb": no control/, "memory"],
    ["a relative socket", { memory: MEMORY, socketPath: "x" }, /an absolute path/, "socketPath"],
    ["a policy", { memory: MEMORY, onError: "x" }, /onError cannot be "x".*kill/, "onError"],
    [
      "a number out of range",
      `{"memory":"a","connectWithinS":1e999}`,
      /connectWithinS cannot be Infinity/,
      "connectWithinS",
    ],
    [
      "an owner that is nobody",
      { memory: MEMORY, owner: { uid: -1, gid: 0 } },
      /owner\.uid cannot be -1/,
      "owner.uid",
    ],
    ["a label's name", { memory: MEMORY, labels: { "a b": "" } }, /letters, digits/],
    ["a label's value", { memory: MEMORY, labels: { a: 1 } }, /labels\.a cannot be 1/, "labels.a"],
  ];
  for (const [name, body, detail, field] of wrong) {
    test(`400: ${name}`, async () => {
      await using stage = await ControlStage.start({ service: new TableHost() });
      const answer = await stage.ask("POST", "/v1/sessions", body);
      assertProblem(answer, 400, "bad-request", detail);
      if (field !== undefined) assert.equal(answer.json.field, field);
      assert.ok(answer.text.length < 600, "the answer does not grow with the request");
    });
  }

  test("404, 405, 413, 414, 415, and a query or body that nobody takes", async () => {
    await using stage = await ControlStage.start({ service: new TableHost() });
    await stage.client.createSession({ id: "a", memory: MEMORY });
    assertProblem(await stage.ask("GET", "/v1/sessions/b"), 404, "no-session", /no session b/);
    for (const path of ["/v1", "/v1/sessions/", "//v1/sessions", "/v1/sessions/a/x"]) {
      assertProblem(await stage.ask("GET", path), 404, "bad-request", /There is no/);
    }
    for (const id of ["%61", "..", "%2e%2e", "A", "x".repeat(65), "a%00"]) {
      const answer = await stage.ask("GET", `/v1/sessions/${id}`);
      assertProblem(answer, 404, "no-session", /it is no name of one/);
    }
    const put = await stage.ask("PUT", "/v1/sessions", {});
    assertProblem(put, 405, "bad-request", /use POST, GET, HEAD/);
    assert.equal(put.headers.allow, "POST, GET, HEAD");
    const kill = await stage.ask("GET", "/v1/sessions/a/kill");
    assert.equal(kill.headers.allow, "POST");
    const large = await stage.ask("POST", "/v1/sessions", "x".repeat(70_000));
    assertProblem(large, 413, "bad-request", /65536 bytes/);
    const chunked = { "transfer-encoding": "chunked" };
    const endless = await stage.ask("POST", "/v1/sessions", "x".repeat(70_000), chunked);
    assertProblem(endless, 413, "bad-request", /65536 bytes/);
    const long = await stage.ask("GET", `/v1/health?${"x".repeat(5000)}`);
    assertProblem(long, 414, "bad-request", /4096/);
    const asForm = { "content-type": "application/x-www-form-urlencoded" };
    const form = await stage.ask("POST", "/v1/sessions", "memory=x", asForm);
    assertProblem(form, 415, "bad-request", /application\/json/);
    const zip = await stage.ask("POST", "/v1/sessions", "{}", { "content-encoding": "gzip" });
    assertProblem(zip, 415, "bad-request", /compressed/);
    assertProblem(await stage.ask("GET", "/v1/health?x=1"), 400, "bad-request", /no parameter/);
    const twice = await stage.ask("GET", "/v1/sessions?ended=true&ended=true");
    assertProblem(twice, 400, "bad-request", /more than once/);
    const body = await stage.ask("POST", "/v1/sessions/a/kill", {});
    assertProblem(body, 400, "bad-request", /takes no body/);
    const list = await stage.ask("POST", "/v1/sessions/a/detach", []);
    assertProblem(list, 400, "bad-request", /cannot be a list/);
    assert.equal((await stage.client.session("a")).state, "waiting", "nothing was carried out");
  });

  const codes: [code: ConstructorParameters<typeof FaultlineError>[0], status: number][] = [
    ["limit", 429],
    ["not-allowed", 403],
    ["image-missing", 422],
    ["store-failed", 502],
    ["system", 500],
  ];
  for (const [code, status] of codes) {
    test(`${status}: ${code} of the host comes back as it is`, async () => {
      const host = new TableHost();
      await using stage = await ControlStage.start({ service: host });
      host.nextError = new FaultlineError(code, "A sentence.");
      const answer = await stage.ask("POST", "/v1/sessions", { memory: MEMORY });
      assertProblem(answer, status, code, /^A sentence\.$/);
      assert.equal(answer.headers["retry-after"], status === 429 ? "1" : undefined);
      host.nextError = new FaultlineError(code, "A sentence.");
      const asked = stage.client.createSession({ memory: MEMORY });
      await assert.rejects(asked, { code, status, message: "A sentence." });
    });
  }

  test("500: a bug is not told to whoever asked", async () => {
    const host = new TableHost();
    await using stage = await ControlStage.start({ service: host });
    host.nextError = new TypeError("x is not a function");
    const answer = await stage.ask("GET", "/v1/sessions");
    assertProblem(answer, 500, "internal", /bug in Faultline/);
    assert.doesNotMatch(answer.text, /x is not/);
  });
});

describe("bounds", () => {
  test("requests at once that wait: the next is told to come again, looking goes on", async () => {
    const host = new TableHost();
    await using stage = await ControlStage.start({ service: host }, { requests: 2 });
    let open = (): void => {};
    host.gate = new Promise((resolve) => {
      open = resolve;
    });
    const waiting = ["a", "b"].map((id) => stage.client.createSession({ id, memory: MEMORY }));
    await waitFor("something was refused", async () => {
      const answer = await stage.ask("POST", "/v1/drain", { draining: false });
      if (answer.status === 200) return false;
      assertProblem(answer, 429, "limit", /2 requests/);
      return true;
    });
    await stage.client.health();
    assert.deepEqual(stage.refused, { connections: 0, requests: 1 });
    open();
    await Promise.all(waiting);
    await stage.client.drain(false);
  });

  test("a client that does not read its answer is cut off", async () => {
    const host = new TableHost();
    const value = "x".repeat(256);
    const labels = Object.fromEntries(Array.from({ length: 32 }, (_, n) => [`l${n}`, value]));
    for (let n = 0; n < 100; n++) await host.createSession({ memory: MEMORY, labels });
    await using stage = await ControlStage.start({ service: host }, { answerTimeoutMs: 100 });
    const socket = stage.connect().pause();
    let isBroken = false;
    socket.on("error", () => {
      isBroken = true;
    });
    socket.write("GET /v1/sessions HTTP/1.1\r\nHost: x\r\n\r\n");
    await waitFor("the server had closed its end", () => {
      // Means nothing in front of a request, and fails when nobody is there to read it.
      socket.write("\r\n");
      return isBroken;
    });
  });

  test("connections: those above the bound are closed, and there is room again", async () => {
    await using stage = await ControlStage.start({ service: new TableHost() }, { connections: 3 });
    const open = [stage.connect(), stage.connect(), stage.connect()];
    await Promise.all(
      open.map((socket) => new Promise((resolve) => socket.once("connect", resolve))),
    );
    assert.equal(await untilClosed(stage.connect()), "");
    assert.deepEqual(stage.refused, { connections: 1, requests: 0 });
    for (const socket of open) socket.destroy();
    await waitFor("there was room", async () => {
      const isHealthy = stage.client.health().then(
        () => true,
        () => false,
      );
      return await isHealthy;
    });
  });

  test("slow headers and bodies are cut off with 408, silence without a word", async () => {
    const limits = { headersTimeoutMs: 100, requestTimeoutMs: 200, checkEveryMs: 20 };
    await using stage = await ControlStage.start({ service: new TableHost() }, limits);
    const slow = [
      "GET /v1/health HTTP/1.1\r\nHost: x\r\n",
      "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" +
        "Content-Length: 10\r\n\r\n{",
      "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    ];
    for (const bytes of slow) {
      const socket = stage.connect();
      socket.write(bytes);
      const answer = await untilClosed(socket);
      assert.match(answer, /^HTTP\/1\.1 408 /, bytes);
      assert.match(answer, /"code":"bad-request"/);
    }
    await untilClosed(stage.connect());
  });

  test("what is no HTTP, and headers that are too long", async () => {
    await using stage = await ControlStage.start({ service: new TableHost() });
    const wrong: [bytes: string, status: number][] = [
      ["nonsense\r\n\r\n", 400],
      ["GET /v1/health HTTP/1.1\r\n\r\n", 400],
      [`GET /v1/health HTTP/1.1\r\nHost: x\r\nX: ${"a".repeat(20_000)}\r\n\r\n`, 431],
      [
        "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n" +
          "Transfer-Encoding: chunked\r\n\r\n",
        400,
      ],
    ];
    for (const [bytes, status] of wrong) {
      const socket = stage.connect();
      socket.write(bytes);
      assert.match(await untilClosed(socket), new RegExp(`^HTTP/1\\.1 ${status} `), bytes);
    }
    await stage.client.health();
  });

  test("what is no HTTP behind a request is not answered in that one's place", async () => {
    const host = new TableHost();
    await using stage = await ControlStage.start({ service: host });
    host.gate = new Promise(() => {});
    const body = JSON.stringify({ memory: MEMORY });
    const socket = stage.connect();
    socket.write(
      "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" +
        `Content-Length: ${body.length}\r\n\r\n${body}nonsense\r\n\r\n`,
    );
    assert.equal(await untilClosed(socket), "");
  });

  test("closing ends what waits, and removes the socket", async () => {
    const host = new TableHost();
    await using stage = await ControlStage.start({ service: host }, { closeTimeoutMs: 50 });
    host.gate = new Promise(() => {});
    const lost = assert.rejects(stage.client.createSession({ id: "a", memory: MEMORY }), {
      code: "no-daemon",
      message: /ended the connection without an answer/,
    });
    await waitFor("the request waited", async () => (await stage.client.host()).version !== "");
    await stage.close();
    await lost;
    await assert.rejects(stage.client.health(), { code: "no-daemon", message: /Nobody listens/ });
  });
});

describe("the socket", () => {
  const log = createLogger("silent", "json");

  test("is for its user only when the server makes it", async () => {
    await using stage = await ControlStage.start({ service: new TableHost() });
    assert.equal(statSync(stage.socketPath).mode & 0o777, 0o600);
  });

  test("may be a descriptor that somebody else keeps: none connects in vain", async () => {
    await using stage = await ControlStage.start({ service: new TableHost() });
    const path = `${stage.folder}/kept.sock`;
    using listener = listenUnix(path, 16);
    const client = new ControlClient({ socketPath: path });
    for (let pager = 0; pager < 3; pager++) {
      // Asked while nobody accepts: the answer comes from whoever does next.
      const asked = client.host();
      const server = await ControlServer.start({
        service: new TableHost(pager + 1),
        fd: duplicateFd(listener.fd).intoRawFd(),
        log,
      });
      assert.equal((await asked).maxSessions, pager + 1);
      await server.close();
    }
  });
});
