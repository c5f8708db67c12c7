/** The desk that watches restores: what it keeps, lists and writes, of VMs that never were. */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { unknownTrips } from "../../src/daemon/fault-trips.ts";
import { createLogger } from "../../src/daemon/log.ts";
import { MemoryHost } from "../../src/daemon/memory-host.ts";
import { ReportDesk } from "../../src/daemon/reports/report-desk.ts";
import { ReportFiles } from "../../src/daemon/reports/report-files.ts";
import type { RestoreWatch } from "../../src/daemon/restore-watch.ts";
import { Session } from "../../src/engine/session.ts";
import { SessionMemory } from "../../src/engine/session-memory.ts";
import { flattenLayers } from "../../src/snapshot/layers.ts";
import { RegionMap } from "../../src/snapshot/regions.ts";
import type { ServedIdentity } from "../../src/snapshot/session-file.ts";
import { TestFolder } from "../support/fixtures.ts";

const PAGE_BYTES = 4096;
const PAGES = 16;
const log = createLogger("silent", "json");

class DeskStage {
  readonly files: ReportFiles;
  readonly desk: ReportDesk;
  readonly memoryHost: MemoryHost;
  readonly #sessions: Session[] = [];

  private constructor(folder: string, memoryHost: MemoryHost) {
    this.memoryHost = memoryHost;
    this.files = new ReportFiles(folder, log);
    this.desk = new ReportDesk({
      ...{ files: this.files, memoryHost, faultWorkers: 1, trips: unknownTrips },
      sessions: () => this.#sessions,
    });
  }

  static async start(folder: string): Promise<DeskStage> {
    return new DeskStage(folder, await MemoryHost.start({ logger: log }));
  }

  /** Returns what ends its VM. */
  attach(id: string, memory = "web-1"): (reason: string) => void {
    const sizeBytes = PAGES * PAGE_BYTES;
    const region = { baseHostAddress: 0x7000_0000, sizeBytes, imageOffset: 0 };
    const session = new Session({
      ...{ id: this.#sessions.length + 1, pid: process.pid, demandLog: null, workerThreadId: 0 },
      regions: new RegionMap([region as never], PAGE_BYTES),
      memory: SessionMemory.create(PAGES, false),
      retire: () => {},
    });
    this.#sessions.push(session);
    const runs = flattenLayers(sizeBytes, []);
    const identity: ServedIdentity = { kind: "files", files: [] };
    const mapped = { runs, fds: [], addresses: [], residency: [], firstParts: [] };
    let end: (reason: string) => void = () => {};
    this.desk.begin({
      subject: {
        ...{ id, memory, layers: [], labels: {}, session, takeovers: 0 },
        ...{ attachedMs: Date.now(), served: { sizeBytes, mapped, identity } },
        restores: { planOf: () => null } as unknown as RestoreWatch,
        ...{ prefaultState: () => "off", isLost: () => false },
      },
      windowMs: 60_000,
      ended: new Promise((resolve) => {
        end = resolve;
      }),
    });
    return end;
  }
}

describe("the desk of restore reports", () => {
  const folder = new TestFolder();
  const stages: DeskStage[] = [];
  after(async () => {
    for (const { memoryHost } of stages) await memoryHost.close();
    folder[Symbol.dispose]();
  });

  test("lists many VMs, and others have their turn in between", async () => {
    const { desk, attach } = await open("many");
    const vms = 40;
    for (let each = 0; each < vms; each++) attach(`vm-${each}`, each === 0 ? "web-2" : "web-1");
    const listing = { isOver: false, turns: 0 };
    const listed = desk.list("web-1").finally(() => {
      listing.isOver = true;
    });
    while (!listing.isOver) {
      await nextTurn();
      listing.turns += 1;
    }
    assert.equal((await listed).length, vms - 1);
    assert.ok(listing.turns >= vms - 1, `${listing.turns} turns`);
  });

  test("lists what ends meanwhile once", async () => {
    const { desk, attach } = await open("ends");
    const [endFirst, endSecond] = [attach("first"), attach("second")];
    const listed = desk.list(null);
    endFirst("killed");
    endSecond("killed");
    const states = (await listed).map(({ session, state }) => [session, state]).sort();
    assert.deepEqual(
      states.map(([session]) => session),
      ["first", "second"],
    );
    await desk.settled();
    const kept = await desk.list(null);
    assert.deepEqual(new Set(kept.map(({ state }) => state)), new Set(["ended"]));
    assert.equal(kept.length, 2);
  });

  test("writes at its end what goes on, as it is, and what is over, once", async () => {
    const { desk, attach, files } = await open("closed");
    const written: string[] = [];
    desk.onWritten = ({ session, state }) => void written.push(`${session} ${state}`);
    const end = attach("over");
    attach("on");
    end("exited");
    await desk.close();
    assert.deepEqual(written.sort(), ["on restoring", "over ended"]);
    assert.equal((await files.find("over"))?.endReason, "exited");
  });

  async function open(name: string) {
    const stage = await DeskStage.start(folder.at(name));
    stages.push(stage);
    const { desk, files } = stage;
    return { desk, files, attach: stage.attach.bind(stage) };
  }
});
