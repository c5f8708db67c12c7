/** An engine in this process, and a peer in another whose memory it serves. */
import { Engine } from "../../src/engine/engine.ts";
import type { Session } from "../../src/engine/session.ts";
import { SessionMemory } from "../../src/engine/session-memory.ts";
import type { TraceRing } from "../../src/engine/trace-ring.ts";
import type { PrefaultSetup } from "../../src/engine/wire.ts";
import { duplicateFd } from "../../src/linux/fd.ts";
import { openPidfd } from "../../src/linux/process.ts";
import { RegionMap } from "../../src/snapshot/regions.ts";
import { MemoryFiles } from "../../src/source/memory-files.ts";
import type { PartCost } from "../../src/source/part-cost.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";
import { TestFolder, writeFull } from "./fixtures.ts";
import { MemoryPeer } from "./memory-peer.ts";
import { PAGE } from "./stage.ts";

/** Of the peer's memory. */
export const PAGES = 16;

export interface StageOptions {
  /** Where to copy from instead of from the file. */
  readonly sourceAddress?: number;
  /** Brings a block of the file that is not in the page cache. */
  readonly bring?: (part: number) => Promise<PartCost | null>;
  readonly connectedUs?: number;
  readonly trace?: TraceRing;
  readonly prefault?: PrefaultSetup;
}

/** An engine that serves a peer's memory from a file, in session memory of a memfd. */
export class EngineStage {
  readonly bytes: Buffer;
  readonly peer: MemoryPeer;
  readonly engine: Engine;
  readonly session: Session;
  readonly #folder: TestFolder;
  readonly files: MemoryFiles;

  private constructor(
    folder: TestFolder,
    bytes: Buffer,
    peer: MemoryPeer,
    engine: Engine,
    { sourceAddress, connectedUs, trace, prefault }: StageOptions,
  ) {
    this.#folder = folder;
    this.bytes = bytes;
    this.peer = peer;
    this.engine = engine;
    this.files = MemoryFiles.open(folder.at("memory"));
    const region = { baseHostAddress: peer.address, sizeBytes: peer.sizeBytes, imageOffset: 0 };
    const { layers } = this.files;
    const { memory, fd } = SessionMemory.inMemfd(PAGES, new Uint8Array());
    fd.close();
    this.session = engine.attach({
      pid: peer.process.pid!,
      userfaultfd: Userfaultfd.fromFd(duplicateFd(peer.uffd.fd)),
      pidfd: openPidfd(peer.process.pid!),
      socket: null,
      regions: new RegionMap([region as never], PAGE),
      image: { ...layers, addresses: [sourceAddress ?? layers.addresses[0]!] },
      onError: "kill",
      memory,
      ...(connectedUs === undefined ? {} : { connectedUs }),
      ...(trace === undefined ? {} : { trace }),
      ...(prefault === undefined ? {} : { prefault }),
    });
  }

  static async start(options: StageOptions = {}): Promise<EngineStage> {
    const folder = new TestFolder();
    const bytes = writeFull(folder.at("memory"), PAGES);
    const demand = async (part: number): Promise<PartCost | null> =>
      (await options.bring?.(part)) ?? null;
    const supply = { demand, hurry: () => {}, release: () => {} };
    const engine = await Engine.start({ workers: 2, spin: "off", supply });
    const peer = await MemoryPeer.start({ features: ["eventRemove"] });
    return new EngineStage(folder, bytes, peer, engine, options);
  }

  /** The first byte of a page, as the peer reads it. */
  async read(page: number): Promise<number> {
    this.peer.say(`read ${page * PAGE}`);
    return Number(await this.peer.answer());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.peer[Symbol.asyncDispose]();
    await this.engine.close();
    this.files.close();
    this.#folder[Symbol.dispose]();
  }
}
