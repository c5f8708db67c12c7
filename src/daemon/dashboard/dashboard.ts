/**
 * The dashboard's part of the daemon, whoever carries its requests: the overview and the maps as
 * streams of events, the stories of pages, the page itself. What it knows comes from a
 * `DashboardSource`; it changes nothing.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { type ControlLimits, defaultLimits } from "../control/limits.ts";
import { HttpError } from "../control/problem.ts";
import type { RawRouteName } from "../control/routes.ts";
import type { Logger } from "../log.ts";
import { EventStream } from "./event-stream.ts";
import { streamMap } from "./map-stream.ts";
import { OverviewFeed } from "./overview-feed.ts";
import { storyOf } from "./page-story.ts";
import type { PageStory } from "./protocol.ts";
import type { DashboardSource } from "./source.ts";
import { StaticPage } from "./static-page.ts";
import type { WindowQuery } from "./vm-map.ts";

/** Each holds a few MiB of a large VM's map, and costs a look at it 20 times a second. */
export const MAX_STREAMS = 16;
const OVERVIEW_EVERY_MS = 500;

export interface DashboardOptions {
  readonly limits?: ControlLimits;
  /** For a viewer to read anything of what waits for him. Default: 30 s. */
  readonly stallTimeoutMs?: number;
  /** The page's file, if it is not the package's. */
  readonly pagePath?: string;
}

/** What came with a request that is answered by a stream or the page. */
export interface RawInput {
  readonly id: string | undefined;
  readonly query: unknown;
}

interface OverviewViewer {
  readonly stream: EventStream;
  told: number;
}

export class Dashboard {
  readonly #source: DashboardSource;
  readonly #log: Logger;
  readonly #options: DashboardOptions;
  readonly #page: StaticPage;
  /** Of the streams that are open, and of those that are being prepared. */
  readonly #places = new Set<ServerResponse>();
  readonly #streams = new Set<EventStream>();
  readonly #viewers = new Set<OverviewViewer>();
  #feed: OverviewFeed | null = null;
  #timer: NodeJS.Timeout | null = null;
  #isClosed = false;
  #hasFailed = false;

  constructor(source: DashboardSource, log: Logger, options: DashboardOptions = {}) {
    this.#source = source;
    this.#log = log;
    this.#options = options;
    this.#page = new StaticPage(options.pagePath);
  }

  /** Of those that are open now. */
  get streams(): number {
    return this.#streams.size;
  }

  /**
   * Answers, or begins to.
   * @throws HttpError, FaultlineError: nothing was sent, and this is to be told
   */
  async serve(
    name: RawRouteName,
    { id, query }: RawInput,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    if (name === "dashboardPage") {
      this.#page.serve(request, response, this.#options.limits ?? defaultLimits);
      return;
    }
    if (request.method === "HEAD") {
      response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8" }).end();
      return;
    }
    // Before anything that costs something.
    this.#takePlace(response);
    await this.#source.prepare();
    if (response.destroyed) return;
    if (name === "watch") {
      this.#openOverview(response);
      return;
    }
    await streamMap(this.#source.vm(id!), windowQuery(query), {
      isGone: () => response.destroyed,
      open: () => this.#open(response),
      failed: (error) => this.#tellFailure(error),
    });
  }

  /** @throws FaultlineError `no-session`, `conflict`; HttpError 404: no such page */
  story(id: string, page: number): PageStory {
    return storyOf(this.#source.vm(id), page);
  }

  /** Ends all streams: viewers come back to whoever is there then. */
  close(): void {
    this.#isClosed = true;
    for (const stream of this.#streams) stream.end();
  }

  #openOverview(response: ServerResponse): void {
    const feed = this.#feed ?? new OverviewFeed(this.#source);
    if (this.#feed === null) feed.look();
    this.#feed = feed;
    const stream = this.#open(response);
    const viewer = { stream, told: feed.at };
    stream.send("snapshot", feed.all());
    this.#viewers.add(viewer);
    this.#timer ??= setInterval(() => this.#lookForAll(feed), OVERVIEW_EVERY_MS);
    void stream.closed.then(() => {
      this.#viewers.delete(viewer);
      if (this.#viewers.size === 0) this.#stopLooking();
    });
  }

  #lookForAll(feed: OverviewFeed): void {
    try {
      this.#tellAll(feed);
    } catch (error) {
      // What viewers want to see costs no VM its pager.
      this.#stopLooking();
      for (const { stream } of this.#viewers) stream.end();
      this.#viewers.clear();
      this.#tellFailure(error);
    }
  }

  #stopLooking(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
    this.#feed = null;
  }

  #tellAll(feed: OverviewFeed): void {
    feed.look();
    for (const viewer of this.#viewers) {
      if (!viewer.stream.isReady) continue;
      const update = feed.since(viewer.told);
      if (update === "all") viewer.stream.send("snapshot", feed.all());
      else if (update !== null) viewer.stream.send("update", update);
      viewer.told = feed.at;
    }
  }

  /** Once: viewers come back, and it may well fail again. */
  #tellFailure(error: unknown): void {
    if (!this.#hasFailed) this.#log.error({ err: error }, "A stream of the dashboard failed");
    this.#hasFailed = true;
  }

  /** Until it is answered, in whatever way. */
  #takePlace(response: ServerResponse): void {
    if (this.#places.size >= MAX_STREAMS) {
      throw new HttpError(
        429,
        `${MAX_STREAMS} streams are open, and no more may be. Close a window of the dashboard.`,
        { code: "limit" },
      );
    }
    if (response.destroyed) return;
    this.#places.add(response);
    response.once("close", () => this.#places.delete(response));
  }

  #open(response: ServerResponse): EventStream {
    if (this.#isClosed) throw new HttpError(503, "The dashboard is about to end: ask again.");
    const stream = new EventStream(response, this.#options);
    this.#streams.add(stream);
    void stream.closed.then(() => this.#streams.delete(stream));
    return stream;
  }
}

/** Its numbers came as text. */
function windowQuery(query: unknown): WindowQuery {
  const texts = Object.entries((query ?? {}) as Readonly<Record<keyof WindowQuery, string>>);
  return Object.fromEntries(texts.map(([name, text]) => [name, Number(text)]));
}
