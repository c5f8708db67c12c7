/** A session takes its VM: what fails before is a refusal, what fails after that is not. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { unknownTrips } from "../../src/daemon/fault-trips.ts";
import { HostMemory } from "../../src/daemon/host-memories.ts";
import { HostSession } from "../../src/daemon/host-session.ts";
import { HostTally } from "../../src/daemon/host-tally.ts";
import type { Keeper } from "../../src/daemon/keeper.ts";
import { createLogger } from "../../src/daemon/log.ts";
import { MemoryHost } from "../../src/daemon/memory-host.ts";
import { ReportDesk } from "../../src/daemon/reports/report-desk.ts";
import { ReportFiles } from "../../src/daemon/reports/report-files.ts";
import type { SessionRecord } from "../../src/daemon/session-record.ts";
import { SessionTraces } from "../../src/daemon/session-traces.ts";
import { Engine } from "../../src/engine/engine.ts";
import { waitFor } from "../../src/kit/wait.ts";
import type { OwnedFd } from "../../src/linux/fd.ts";
import { acceptUnix, listenUnix } from "../../src/linux/socket.ts";
import { PAGE_BYTES, TestFolder, writeFull } from "../support/fixtures.ts";
import { HandshakePeer } from "../support/handshake-peer.ts";
import { requires } from "../support/requires.ts";

const needs = requires("userfaultfd");
const PAGES = 16;
const log = createLogger("silent", "json");

/** Notes the names that are kept. */
class NotedEntries implements Keeper {
  readonly names = new Set<string>();
  /** What `keep` fails with. */
  failure: Error | null = null;

  keep(name: string): void {
    if (this.failure !== null) throw this.failure;
    this.names.add(name);
  }

  drop(name: string): void {
    this.names.delete(name);
  }

  accept(): void {}
}

/** A session over a memory file, and a VM that says its handshake when told. */
class SessionStage implements AsyncDisposable {
  readonly keeper = new NotedEntries();
  readonly refusals: string[] = [];
  readonly session: HostSession;
  readonly bytes: Buffer;
  readonly peer: HandshakePeer;
  readonly #folder: TestFolder;
  readonly #engine: Engine;
  readonly #memoryHost: MemoryHost;
  readonly #listener: OwnedFd;

  private constructor(
    folder: TestFolder,
    bytes: Buffer,
    parts: { engine: Engine; memoryHost: MemoryHost; memory: HostMemory; peer: HandshakePeer },
    listener: OwnedFd,
  ) {
    const { engine, memory } = parts;
    this.#folder = folder;
    this.#engine = engine;
    this.#memoryHost = parts.memoryHost;
    this.#listener = listener;
    this.bytes = bytes;
    this.peer = parts.peer;
    const tally = HostTally.open(this.keeper, null);
    const reports = new ReportDesk({
      files: new ReportFiles(folder.at("reports"), log),
      ...{ memoryHost: parts.memoryHost, faultWorkers: 1, trips: unknownTrips, sessions: () => [] },
    });
    this.session = new HostSession(recordOf(memory), memory, null, {
      ...{ engine, keeper: this.keeper, log, tally, reports, generation: 1 },
      traces: new SessionTraces(engine),
      ...{ handshakeTimeoutMs: 5000, allowedUids: [] },
      onEnded: () => {},
      onRefused: (_, reason) => void this.refusals.push(reason),
    });
  }

  static async start(): Promise<SessionStage> {
    const folder = new TestFolder();
    const bytes = writeFull(folder.at("memory"), PAGES);
    const memoryHost = await MemoryHost.start({ logger: log });
    const { supply } = memoryHost;
    const engine = await Engine.start({ workers: 1, spin: "off", supply });
    const served = await memoryHost.open({ memory: folder.at("memory") });
    const place = { key: "memory", memory: folder.at("memory"), layers: [], entry: "image.1" };
    const keeper = new NotedEntries();
    const options = { host: memoryHost, engine, keeper, collapse: false, log };
    const memory = new HostMemory(options, place, served, null);
    const socket = folder.at("socket");
    const listener = listenUnix(socket, 1);
    const peer = await HandshakePeer.start(socket, { pageCount: PAGES });
    return new SessionStage(folder, bytes, { engine, memoryHost, memory, peer }, listener);
  }

  /** The VM connects, and the session takes what it says. */
  async connect(): Promise<void> {
    await this.peer.introduce();
    await this.session.connected(acceptUnix(this.#listener.fd)!);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.peer[Symbol.asyncDispose]();
    await this.#engine.close();
    await this.#memoryHost.close();
    this.#listener.close();
    this.#folder[Symbol.dispose]();
  }
}

function recordOf({ memory, entry }: HostMemory): SessionRecord {
  return {
    ...{ id: "one", survivalId: 1, memoryEntry: entry, memory, layers: [], onError: "kill" },
    ...{ prefault: "off", socketPath: "", owner: null, allowedUids: [], connectWithinS: 0 },
    ...{ recordForS: 0, asyncFaults: false, trace: false, labels: {}, createdMs: 0 },
  };
}

describe("a session whose VM connects", needs, () => {
  test("refuses it if it cannot be kept, and takes it the next time", async () => {
    await using stage = await SessionStage.start();
    stage.keeper.failure = new Error("no room");
    await stage.connect();
    assert.deepEqual(stage.refusals, ["no room"]);
    assert.equal(stage.session.vm, null);
    stage.keeper.failure = null;
    await stage.connect();
    assert.deepEqual(await stage.peer.read(3), page(stage.bytes, 3));
  });

  test("does not undo that a fault worker has it, whatever fails then", async () => {
    await using stage = await SessionStage.start();
    const { session, keeper, peer, bytes } = stage;
    session.memory.restores.follow = () => {
      throw new Error("planted");
    };
    await assert.rejects(stage.connect(), /planted/);
    assert.deepEqual(stage.refusals, []);
    assert.ok(keeper.names.has("s.one.vm"), "the next process finds it");
    // Its numbers lie in memory that the worker writes to: they go on.
    assert.deepEqual(await peer.read(5), page(bytes, 5));
    const { stats } = session.vm!.engineSession;
    await waitFor("the fault is counted", () => stats.counters().installedPages > 0);
  });
});

function page(bytes: Buffer, index: number): Buffer {
  return bytes.subarray(index * PAGE_BYTES, (index + 1) * PAGE_BYTES);
}
