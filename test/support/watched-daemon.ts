/** VMs of a daemon that do what a test tells them, and the daemon's dashboard over TCP. */
import { request } from "node:http";
import { MemoryImage } from "../../src/conformance/image.ts";
import { Vm } from "../../src/conformance/vm.ts";
import { VmPool } from "../../src/conformance/vm-process.ts";
import { decodeBase64, decodeRuns, type MapSnapshot } from "../../src/daemon/dashboard/protocol.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import type { DaemonProcess } from "./daemon-process.ts";
import { EventReader, type StreamPlace } from "./event-reader.ts";

const BUDGET_MS = 20_000;

export class ScriptedVms {
  readonly image: MemoryImage;
  readonly #pool = new VmPool();
  readonly #vms: Vm[] = [];

  constructor(imagePath: string) {
    this.image = MemoryImage.create(imagePath);
  }

  /** A session of the daemon with a VM that has touched nothing yet. */
  async attach(daemon: DaemonProcess, id: string): Promise<Vm> {
    const { path: memory } = this.image;
    const { socketPath } = await daemon.client.createSession({ memory, id });
    const start = { image: this.image, deadlineMs: BUDGET_MS, pool: this.#pool };
    const vm = await Vm.start({ ...start, signal: new AbortController().signal }, {});
    this.#vms.push(vm);
    await vm.introduce(socketPath);
    const isAttached = async (): Promise<boolean> =>
      (await daemon.client.session(id)).state === "attached";
    await waitFor("the VM was attached", isAttached, BUDGET_MS);
    return vm;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const vm of this.#vms) await vm[Symbol.asyncDispose]();
    await this.#pool[Symbol.asyncDispose]();
  }
}

/** A map that is kept as a page keeps it. */
export class ReadMap {
  readonly reader: EventReader;
  readonly map: MapSnapshot;
  readonly states: Uint8Array;
  #taken = 0;

  private constructor(reader: EventReader, map: MapSnapshot) {
    this.reader = reader;
    this.map = map;
    this.states = decodeBase64(map.states);
  }

  static async open(place: Omit<StreamPlace, "path">, id: string, query = ""): Promise<ReadMap> {
    const path = `/v1/sessions/${id}/watch${query}`;
    const reader = await EventReader.open({ ...place, path });
    return new ReadMap(reader, await reader.next<MapSnapshot>("map"));
  }

  /** Returns when the cells, changes that have come included, are as wanted. */
  async until(what: string, isWanted: (states: Uint8Array) => boolean): Promise<void> {
    const look = (): boolean => {
      const { events } = this.reader;
      for (; this.#taken < events.length; this.#taken++) {
        const { name, data } = events[this.#taken]!;
        if (name !== "cells") continue;
        const runs = decodeBase64((data as { runs: string }).runs);
        decodeRuns(runs, (first, states) => this.states.set(states, first));
      }
      return isWanted(this.states);
    };
    await waitFor(what, look, BUDGET_MS);
  }

  [Symbol.dispose](): void {
    this.reader.close();
  }
}

export interface TcpAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
}

/** One request over TCP, with any headers. */
export async function askTcp(
  port: number,
  path: string,
  headers: Readonly<Record<string, string>> = {},
  method = "GET",
): Promise<TcpAnswer> {
  const answered = new Promise<TcpAnswer>((resolve, reject) => {
    const options = { host: "127.0.0.1", port, path, method, agent: false, headers };
    const sent = request(options, (response) => {
      let text = "";
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => {
        text += chunk;
      });
      response.on("end", () =>
        resolve({ status: response.statusCode!, headers: response.headers, text }),
      );
    });
    sent.on("error", reject);
    sent.end();
  });
  return await within(`${method} ${path} was answered`, answered, BUDGET_MS);
}
