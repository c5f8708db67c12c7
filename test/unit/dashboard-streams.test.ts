/** How the dashboard's page reads streams: pieces cut anywhere, and streams that break. */
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { describe, test } from "node:test";
import fc from "fast-check";
import { EventStreamParser, type StreamEvent } from "../../dashboard/event-stream.ts";
import {
  delayBefore,
  LiveStream,
  type StreamSource,
  type StreamState,
} from "../../dashboard/live-stream.ts";
import { waitFor } from "../../src/kit/wait.ts";

const BUDGET_MS = 10_000;

function parse(pieces: readonly Uint8Array[]): StreamEvent[] {
  const parser = new EventStreamParser();
  return pieces.flatMap((piece) => parser.push(piece));
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

describe("events", () => {
  const text =
    ': alive\n\nevent: snapshot\ndata: {"a":"ä€🙂"}\n\n' +
    "data:first\r\ndata: second\r\n\r\nevent: empty\n\nid: 7\nevent:update\rdata: 3\r\r";
  const events: StreamEvent[] = [
    { name: "snapshot", data: '{"a":"ä€🙂"}' },
    { name: "message", data: "first\nsecond" },
    { name: "update", data: "3" },
  ];

  test("have names and data; comments and empty ones are none", () => {
    assert.deepEqual(parse([bytes(text)]), events);
  });

  test("are the same wherever the bytes are cut", () => {
    const all = bytes(text);
    for (let cut = 0; cut <= all.length; cut++) {
      assert.deepEqual(parse([all.subarray(0, cut), all.subarray(cut)]), events, `cut at ${cut}`);
    }
    fc.assert(
      fc.property(fc.array(fc.nat(all.length), { maxLength: 12 }), (cuts) => {
        const places = [0, ...cuts.sort((a, b) => a - b), all.length];
        const pieces = places.slice(1).map((end, index) => all.subarray(places[index]!, end));
        assert.deepEqual(parse(pieces), events);
      }),
    );
  });

  test("have a bound", () => {
    const parser = new EventStreamParser();
    const piece = bytes(`data: ${"x".repeat(1024 * 1024)}`);
    const push = (): void => {
      for (let pieces = 0; pieces < 20; pieces++) parser.push(piece);
    };
    assert.throws(push, /too large/);
  });
});

/** Answers by turns, each once, to somebody who always looks. */
function answering(...answers: (() => Response)[]): StreamSource {
  return {
    fetch: async () => {
      const answer = answers.shift();
      if (answer === undefined) throw new Error("nobody is there");
      return answer();
    },
    awake: async () => {},
    whenResting: () => () => {},
  };
}

describe("a live stream", () => {
  test("begins again when it breaks, and tells what state it is in", async () => {
    const states: StreamState["kind"][] = [];
    const taken: string[] = [];
    const once = (data: string) => () => new Response(`event: snapshot\ndata: ${data}\n\n`);
    const fetch = answering(once("1"), once("2"));
    const stream = new LiveStream(fetch, "/v1/watch", {
      take: ({ data }) => taken.push(data),
      changed: ({ kind }) => states.push(kind),
    });
    await waitFor("both were read", () => taken.length === 2, BUDGET_MS);
    stream.close();
    const once2 = ["connecting", "live", "waiting"];
    assert.deepEqual(states.slice(0, 6), [...once2, ...once2].slice(0, states.length));
    assert.deepEqual(taken, ["1", "2"]);
  });

  test("that is refused is not asked for again", async () => {
    for (const status of [401, 404]) {
      const states: StreamState[] = [];
      const fetch = answering(() => new Response("", { status }));
      new LiveStream(fetch, "/v1/watch", {
        take: () => assert.fail("there is no event"),
        changed: (state) => states.push(state),
      });
      const isRefused = (): boolean => states.at(-1)?.kind === "refused";
      await waitFor(`${status} is final`, isRefused, BUDGET_MS);
      assert.deepEqual(states, [{ kind: "connecting" }, { kind: "refused", status }]);
    }
  });

  test("is let go of when nobody looks, and asked for again when somebody does", async () => {
    const taken: string[] = [];
    let rest = (): void => assert.fail("it was not asked when nobody looks");
    let look = (): void => assert.fail("it does not wait for somebody");
    const asleep = new Promise<void>((resolve) => {
      look = resolve;
    });
    let asked = 0;
    const open = (signal: AbortSignal): Response => {
      const event = new TextEncoder().encode(`data: ${++asked}\n\n`);
      const start = (controller: ReadableStreamDefaultController): void => {
        controller.enqueue(event);
        signal.addEventListener("abort", () => controller.error(new Error("aborted")));
      };
      return new Response(new ReadableStream({ start }));
    };
    const source: StreamSource = {
      fetch: async (_, signal) => open(signal),
      awake: async () => {
        if (asked > 0) await asleep;
      },
      whenResting: (callback) => {
        rest = callback;
        return () => {};
      },
    };
    const states: StreamState["kind"][] = [];
    const stream = new LiveStream(source, "/", {
      take: ({ data }) => taken.push(data),
      changed: ({ kind }) => states.push(kind),
    });
    await waitFor("the first is read", () => taken.length === 1, BUDGET_MS);
    rest();
    const waits = (): boolean => states.join() === "connecting,live,waiting,connecting";
    await waitFor("it waits for somebody", waits, BUDGET_MS);
    assert.equal(asked, 1);
    look();
    await waitFor("the second is read", () => taken.length === 2, BUDGET_MS);
    stream.close();
  });

  test("whose event cannot be used begins again", async () => {
    let count = 0;
    const fetch = answering(
      () => new Response("event: map\ndata: {\n\n"),
      () => new Response("event: map\ndata: {}\n\n"),
    );
    const stream = new LiveStream(fetch, "/", {
      take: ({ data }) => {
        JSON.parse(data);
        count++;
      },
      changed: () => {},
    });
    await waitFor("the second is read", () => count === 1, BUDGET_MS);
    stream.close();
  });

  test("leaves nothing behind at its attempts", async () => {
    const listeners: number[] = [];
    const source: StreamSource = {
      ...answering(),
      awake: async (signal) => {
        listeners.push(getEventListeners(signal, "abort").length);
      },
    };
    const stream = new LiveStream(source, "/v1/watch", { take: () => {}, changed: () => {} });
    try {
      await waitFor("it tried three times", () => listeners.length >= 3, BUDGET_MS);
      assert.deepEqual(listeners.slice(0, 3), [0, 0, 0]);
    } finally {
      stream.close();
    }
  });

  test("waits longer each time, up to 5 s", () => {
    assert.deepEqual([0, 1, 2, 3, 4, 50].map(delayBefore), [500, 1000, 2000, 4000, 5000, 5000]);
  });
});
