/** The stream of one VM's map: events become cells. */
import type { CellChanges, MapSnapshot, VmNumbers } from "../src/daemon/dashboard/protocol.ts";
import { CellMap } from "./cells.ts";
import { LiveStream, type StreamSource, type StreamState } from "./live-stream.ts";
import type { CellWindow } from "./zoom.ts";

export interface VmStreamUser {
  /** All is new, also after a reconnection. */
  mapped(map: CellMap): void;
  changed(first: number, count: number): void;
  numbers(numbers: VmNumbers): void;
  gone(reason: string): void;
  state(state: StreamState): void;
}

export class VmStream {
  map: CellMap | null = null;
  readonly #stream: LiveStream;

  /** `wanted`: without `first` and `cells` the whole VM. */
  constructor(source: StreamSource, id: string, wanted: Partial<CellWindow>, user: VmStreamUser) {
    const query = Object.entries(wanted).map(([name, value]) => `${name}=${value}`);
    this.#stream = new LiveStream(source, `/v1/sessions/${id}/watch?${query.join("&")}`, {
      take: ({ name, data }) => this.#take(name, data, user),
      changed: (state) => user.state(state),
    });
  }

  close(): void {
    this.#stream.close();
  }

  #take(name: string, data: string, user: VmStreamUser): void {
    if (name === "map") {
      this.map = new CellMap(JSON.parse(data) as MapSnapshot);
      user.mapped(this.map);
    } else if (name === "cells") {
      this.map?.apply(JSON.parse(data) as CellChanges, (first, count) =>
        user.changed(first, count),
      );
    } else if (name === "numbers") {
      user.numbers(JSON.parse(data) as VmNumbers);
    } else if (name === "gone") {
      this.#stream.close();
      user.gone((JSON.parse(data) as { reason: string }).reason);
    }
  }
}
