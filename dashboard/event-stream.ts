/**
 * Reads server-sent events from bytes that come in pieces cut anywhere. The browser's EventSource
 * cannot send the header with the token, so the page reads them by itself. PURE.
 */

export interface StreamEvent {
  readonly name: string;
  readonly data: string;
}

/** A map of 262,144 cells has some 2.2 million characters. */
const MAX_EVENT_CHARACTERS = 16 * 1024 * 1024;

export class EventStreamParser {
  readonly #decoder = new TextDecoder();
  #line = "";
  #name = "";
  #data: string[] = [];
  #characters = 0;
  /** The last piece ended with a carriage return: a line feed that follows belongs to it. */
  #isAfterReturn = false;

  /**
   * The events that end in these bytes.
   * @throws Error if an event is larger than any that the daemon sends
   */
  push(bytes: Uint8Array): StreamEvent[] {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === "") return [];
    if (this.#isAfterReturn && text.startsWith("\n")) text = text.slice(1);
    this.#isAfterReturn = text.endsWith("\r");
    const events: StreamEvent[] = [];
    const pieces = text.split(/\r\n|\r|\n/);
    for (const [index, piece] of pieces.entries()) {
      this.#line += piece;
      this.#characters += piece.length;
      if (this.#characters > MAX_EVENT_CHARACTERS) throw new Error("An event is too large.");
      if (index === pieces.length - 1) break;
      const event = this.#endLine();
      if (event !== null) events.push(event);
    }
    return events;
  }

  /** The event that this line ends, if it does. */
  #endLine(): StreamEvent | null {
    const line = this.#line;
    this.#line = "";
    if (line === "") return this.#endEvent();
    const colon = line.indexOf(":");
    // A comment: a sign of life.
    if (colon === 0) return null;
    const field = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "event") this.#name = value;
    if (field === "data") this.#data.push(value);
    return null;
  }

  #endEvent(): StreamEvent | null {
    const data = this.#data;
    const name = this.#name === "" ? "message" : this.#name;
    this.#data = [];
    this.#name = "";
    this.#characters = 0;
    return data.length === 0 ? null : { name, data: data.join("\n") };
  }
}
