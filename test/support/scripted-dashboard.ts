/**
 * A daemon's dashboard as a test scripts it: the built page, and streams that say exactly what the
 * test wants. For what has to be exact; what has to be real runs against a daemon.
 */
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { restoreCauses } from "../../src/base/restore-causes.ts";
import { VarintWriter } from "../../src/base/varints.ts";
import type {
  CellChanges,
  MapSnapshot,
  Overview,
  PageStory,
  SessionRow,
  VmNumbers,
} from "../../src/daemon/dashboard/protocol.ts";
import { builtRoot } from "../../src/kit/paths.ts";

const PAGE = join(builtRoot, "dashboard", "index.html");
/** As the daemon sends it. */
const POLICY =
  "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; " +
  "connect-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none'; " +
  "frame-ancestors 'none'";

/** What the page asked for of one VM. */
export interface AskedWindow {
  readonly id: string;
  readonly first: number | null;
  readonly scale: number | null;
  readonly cells: number | null;
}

export interface Script {
  overview(): Overview;
  /** The map of such a window; null: there is none (404). */
  map(asked: AskedWindow): MapSnapshot | null;
  numbers?(id: string): VmNumbers;
  story?(id: string, page: number): PageStory | null;
}

export class ScriptedDashboard {
  readonly url: string;
  /** In the order in which they were asked for. */
  readonly asked: AskedWindow[] = [];
  readonly #server: Server;
  readonly #script: Script;
  readonly #overviews = new Set<ServerResponse>();
  readonly #maps = new Map<ServerResponse, AskedWindow>();

  private constructor(server: Server, script: Script) {
    this.#server = server;
    this.#script = script;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
    server.on("request", (request, response) => this.#answer(request, response));
  }

  static async start(script: Script): Promise<ScriptedDashboard> {
    const server = createServer();
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return new ScriptedDashboard(server, script);
  }

  /** An event on all streams of the overview. */
  tell(name: string, data: unknown): void {
    for (const response of this.#overviews) response.write(eventText(name, data));
  }

  /** An event on the streams of maps that `of` says yes to. */
  tellMaps(name: string, data: unknown, of: (asked: AskedWindow) => boolean = () => true): void {
    const text = eventText(name, data);
    for (const [response, asked] of this.#maps) if (of(asked)) response.write(text);
  }

  get openMaps(): readonly AskedWindow[] {
    return [...this.#maps.values()];
  }

  /** Breaks every connection. */
  drop(): void {
    this.#server.closeAllConnections();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.drop();
    await closed;
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const { pathname, searchParams } = new URL(request.url!, this.url);
    const watch = /^\/v1\/sessions\/([^/]+)\/watch$/.exec(pathname);
    const story = /^\/v1\/sessions\/([^/]+)\/pages\/(\d+)$/.exec(pathname);
    if (pathname === "/") {
      response.setHeader("content-security-policy", POLICY);
      response.setHeader("content-type", "text/html; charset=utf-8");
      response.end(readFileSync(PAGE));
    } else if (pathname === "/v1/watch") {
      this.#stream(response, this.#overviews, "snapshot", this.#script.overview());
    } else if (watch !== null) {
      const number = (name: string): number | null =>
        searchParams.has(name) ? Number(searchParams.get(name)) : null;
      const [first, scale, cells] = [number("first"), number("scale"), number("cells")];
      this.#answerMap(response, { id: watch[1]!, first, scale, cells });
    } else if (story !== null) {
      answerJson(response, this.#script.story?.(story[1]!, Number(story[2])) ?? null);
    } else answerJson(response, null);
  }

  #answerMap(response: ServerResponse, asked: AskedWindow): void {
    this.asked.push(asked);
    const map = this.#script.map(asked);
    if (map === null) {
      answerJson(response, null);
      return;
    }
    this.#maps.set(response, asked);
    response.on("close", () => this.#maps.delete(response));
    this.#stream(response, null, "map", map);
    const numbers = this.#script.numbers?.(asked.id);
    if (numbers !== undefined) response.write(eventText("numbers", numbers));
  }

  #stream(
    response: ServerResponse,
    streams: Set<ServerResponse> | null,
    name: string,
    data: unknown,
  ): void {
    streams?.add(response);
    response.on("close", () => streams?.delete(response));
    response.setHeader("content-type", "text/event-stream");
    response.write(eventText(name, data));
  }
}

function answerJson(response: ServerResponse, data: unknown): void {
  response.statusCode = data === null ? 404 : 200;
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify(data));
}

function eventText(name: string, data: unknown): string {
  return `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
}

/** A host with these sessions, and nothing else of interest. */
export function overviewOf(sessions: readonly SessionRow[]): Overview {
  return {
    host: {
      isDaemon: true,
      version: "0.1.0",
      pid: 4711,
      startedAt: new Date(Date.now() - 3_600_000).toISOString(),
      isDraining: false,
      sessions: { waiting: 0, attached: sessions.length },
      maxSessions: 4096,
      takeovers: 0,
      workers: { alive: 2, started: 2 },
    },
    sessions,
    numbers: {
      atMs: Date.now(),
      faults: 0,
      installedPages: 0,
      zeroPages: 0,
      prefaultedPages: 0,
      removedPages: 0,
      latencyBuckets: [],
      refusedHandshakes: 0,
    },
    images: [],
    stores: [],
    cache: {
      sizeBytes: 0,
      usedBytes: 0,
      chunks: 0,
      loads: 0,
      failed: 0,
      evictions: 0,
      again: 0,
      prefetches: 0,
    },
  };
}

/** An attached VM of `pages` pages of 4 KiB. */
export function sessionRow(
  id: string,
  pages: number,
  others: Partial<SessionRow> = {},
): SessionRow {
  return {
    id,
    state: "attached",
    memory: "/srv/snapshots/web.mem",
    sizeBytes: pages * 4096,
    pageSizeBytes: 4096,
    pid: 1234,
    labels: {},
    attachedAt: new Date(Date.now() - 60_000).toISOString(),
    pages: { total: pages, present: 0, removed: 0 },
    faults: 0,
    p50Us: 0,
    p99Us: 0,
    waitedUs: 0,
    waitsFor: null,
    prefaultState: "off",
    endReason: null,
    ...others,
  };
}

export interface MapParts {
  readonly pageCount: number;
  readonly first?: number;
  readonly scale: number;
  readonly states: Uint8Array;
  readonly layers?: Uint8Array;
  readonly ages?: Uint32Array;
}

export function mapOf(parts: MapParts): MapSnapshot {
  const { states, pageCount, scale, first = 0 } = parts;
  const layers = parts.layers ?? new Uint8Array(states.length);
  const ages = parts.ages ?? new Uint32Array(states.length).fill(0xffffffff);
  const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
  return {
    pageSizeBytes: 4096,
    pageCount,
    first,
    scale,
    cells: states.length,
    states: base64(states),
    layers: base64(layers),
    layerNames: ["web.mem", "web.diff"],
    ages: Buffer.from(ages.buffer, ages.byteOffset, ages.byteLength).toString("base64"),
    attachedAt: new Date(Date.now() - 60_000).toISOString(),
    tracksDirty: true,
    regions: [{ firstPage: 0, pages: pageCount, hostAddress: "0x7f0000000000" }],
  };
}

/** Runs of changed cells, each with the states of its cells. */
export function changesOf(
  afterMs: number,
  runs: readonly (readonly [first: number, states: readonly number[]])[],
): CellChanges {
  const total = runs.reduce((sum, [, states]) => sum + states.length + 10, 0);
  const bytes = new Uint8Array(total);
  const writer = new VarintWriter(bytes, 0);
  let end = 0;
  let count = 0;
  for (const [first, states] of runs) {
    writer.varint(first - end);
    writer.varint(states.length);
    writer.bytes(Uint8Array.from(states));
    end = first + states.length;
    count += states.length;
  }
  const text = Buffer.from(bytes.subarray(0, writer.at)).toString("base64");
  return { afterMs, count, runs: text };
}

export function numbersOf(others: Partial<VmNumbers> = {}): VmNumbers {
  const causes = Object.fromEntries(restoreCauses.map((cause) => [cause, 0]));
  return {
    atMs: Date.now(),
    state: "attached",
    faults: 0,
    installedPages: 0,
    zeroPages: 0,
    removedPages: 0,
    prefaultedPages: 0,
    deferred: 0,
    awaitedPages: 0,
    demandedPages: null,
    latencyBuckets: [],
    causes: causes as VmNumbers["causes"],
    ...others,
  };
}
