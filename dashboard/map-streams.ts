/**
 * The streams behind a map: one of the whole VM, always, and one of the part that somebody looks at
 * more closely. Until the daemon has sent the closer one, the best that is there is shown.
 */
import type { VmNumbers } from "../src/daemon/dashboard/protocol.ts";
import type { CellMap } from "./cells.ts";
import type { StreamSource, StreamState } from "./live-stream.ts";
import { VmStream } from "./vm-stream.ts";
import { type CellWindow, scaleFor, serves, type View, windowFor } from "./zoom.ts";

/** While one turns the wheel, no stream is opened. */
const OPEN_AFTER_MS = 120;

export interface MapStreamsUser {
  /** There is a new map, or a better one. */
  mapped(): void;
  changed(map: CellMap, first: number, count: number): void;
  numbers(numbers: VmNumbers): void;
  gone(reason: string): void;
  state(state: StreamState): void;
}

export class MapStreams {
  readonly #source: StreamSource;
  readonly #id: string;
  readonly #user: MapStreamsUser;
  readonly #whole: VmStream;
  #close: { readonly window: CellWindow; readonly stream: VmStream } | null = null;
  /** The one before, until the new one has something to show. */
  #closeBefore: CellMap | null = null;
  #timer = 0;

  /** `scale`: pages of one cell in the map of the whole VM. */
  constructor(source: StreamSource, id: string, scale: number, user: MapStreamsUser) {
    this.#source = source;
    this.#id = id;
    this.#user = user;
    this.#whole = new VmStream(
      source,
      id,
      { scale },
      {
        mapped: () => user.mapped(),
        changed: (first, count) => user.changed(this.#whole.map!, first, count),
        numbers: (numbers) => user.numbers(numbers),
        gone: (reason) => {
          this.close();
          user.gone(reason);
        },
        state: (state) => user.state(state),
      },
    );
  }

  get whole(): CellMap | null {
    return this.#whole.map;
  }

  /** The best map of a view that is there; opens a better stream if there can be one. */
  mapFor(view: View): CellMap | null {
    const whole = this.#whole.map;
    if (whole === null) return null;
    const { pageCount, scale } = whole.snapshot;
    const wanted = windowFor(view, pageCount, scale);
    if (wanted === null) {
      this.#leave();
      return whole;
    }
    const wantedScale = scaleFor(view, scale);
    const current = this.#close?.window ?? null;
    if (current === null || !serves(current, view, pageCount, wantedScale)) this.#openSoon(view);
    else window.clearTimeout(this.#timer);
    const maps = [this.#close?.stream.map ?? null, this.#closeBefore];
    return maps.find((map) => map !== null && covers(map, view)) ?? whole;
  }

  close(): void {
    this.#leave();
    this.#whole.close();
  }

  #openSoon(view: View): void {
    window.clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => this.#open(view), OPEN_AFTER_MS);
  }

  #open(view: View): void {
    const { pageCount, scale } = this.#whole.map!.snapshot;
    const wanted = windowFor(view, pageCount, scale);
    if (wanted === null) return;
    this.#closeBefore = this.#close?.stream.map ?? this.#closeBefore;
    this.#close?.stream.close();
    const stream: VmStream = new VmStream(this.#source, this.#id, wanted, {
      mapped: () => {
        this.#closeBefore = null;
        this.#user.mapped();
      },
      changed: (first, count) => this.#user.changed(stream.map!, first, count),
      numbers: () => {},
      gone: () => {},
      state: () => {},
    });
    this.#close = { window: wanted, stream };
  }

  #leave(): void {
    window.clearTimeout(this.#timer);
    this.#close?.stream.close();
    this.#close = null;
    this.#closeBefore = null;
  }
}

function covers({ snapshot }: CellMap, view: View): boolean {
  const end = Math.min(snapshot.pageCount, view.first + view.pages);
  return snapshot.first <= view.first && snapshot.first + snapshot.cells * snapshot.scale >= end;
}
