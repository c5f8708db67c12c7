/** Reads server-sent events, over a socket file or TCP, as the dashboard's page does. */
import { type ClientRequest, type IncomingMessage, request } from "node:http";
import { waitFor } from "../../src/kit/wait.ts";

export interface StreamPlace {
  readonly socketPath?: string;
  readonly port?: number;
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface ReadEvent {
  readonly name: string;
  readonly data: unknown;
}

const BUDGET_MS = 20_000;

export class EventReader {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly events: ReadEvent[] = [];
  /** Lines that are no events: they say that somebody is there. */
  comments = 0;
  isEnded = false;
  readonly #request: ClientRequest;
  readonly #response: IncomingMessage;
  #rest = "";
  #taken = 0;

  private constructor(sent: ClientRequest, response: IncomingMessage) {
    this.#request = sent;
    this.#response = response;
    this.status = response.statusCode!;
    this.headers = response.headers;
    response.setEncoding("utf8");
    response.on("data", (text: string) => this.#read(text));
    response.on("error", () => undefined);
    response.on("close", () => {
      this.isEnded = true;
    });
  }

  /** Returns when there are headers, whatever the status. */
  static async open(place: StreamPlace): Promise<EventReader> {
    return await new Promise((resolve, reject) => {
      const { socketPath, port, path, headers = {} } = place;
      const where = socketPath === undefined ? { host: "127.0.0.1", port } : { socketPath };
      const sent = request({ ...where, path, agent: false, headers }, (response) =>
        resolve(new EventReader(sent, response)),
      );
      sent.on("error", reject);
      sent.end();
    });
  }

  /** The next event of this name that nobody has taken; those before it are passed over. */
  async next<Data>(name: string, isWanted: (data: Data) => boolean = () => true): Promise<Data> {
    return await waitFor(
      `the event ${name} came`,
      () => {
        while (this.#taken < this.events.length) {
          const event = this.events[this.#taken++]!;
          if (event.name === name && isWanted(event.data as Data)) return event.data as Data;
        }
        return null;
      },
      BUDGET_MS,
    );
  }

  async ended(): Promise<void> {
    await waitFor("the stream ended", () => this.isEnded || null, BUDGET_MS);
  }

  /** Reads nothing more, but stays. */
  pause(): void {
    this.#response.pause();
  }

  resume(): void {
    this.#response.resume();
  }

  close(): void {
    this.#request.destroy();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #read(text: string): void {
    this.#rest += text;
    for (let end = this.#rest.indexOf("\n\n"); end >= 0; end = this.#rest.indexOf("\n\n")) {
      const lines = this.#rest.slice(0, end).split("\n");
      this.#rest = this.#rest.slice(end + 2);
      const field = (name: string): string | undefined =>
        lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      if (lines.every((line) => line.startsWith(":"))) this.comments += 1;
      else this.events.push({ name: field("event")!, data: JSON.parse(field("data")!) });
    }
  }
}
