/**
 * Sessions that come and go leave nothing behind: no descriptor, no entry, no mapping, no memory,
 * in the supervisor and in the pager. More of them: FAULTLINE_GROWTH_SESSIONS=1000.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { waitFor } from "../../src/kit/wait.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { runVmm } from "../support/vmm-process.ts";

const SESSIONS = Number(process.env.FAULTLINE_GROWTH_SESSIONS ?? 100);
/** So that what is made once, for the first, is there. */
const BEFORE = 20;
const AT_ONCE = 4;
const PARTS = 4;
/** Garbage is collected soon, and what is left of a session is found out by the end of the heap. */
const HEAP = "--max-old-space-size=32 --max-semi-space-size=1";
const PAGE_COUNT = 512;
/** Garbage that nobody has collected yet, and the last 256 sessions, which are kept to be shown. */
const SPARE_KIB = 24 * 1024;
const BUDGET_MS = 20_000;

const folder = new TestFolder();
const memory = folder.at("memory");

before(() => {
  writeFull(memory, PAGE_COUNT);
});

after(() => folder[Symbol.dispose]());

interface Holdings {
  readonly fds: number;
  readonly memfdMappings: number;
  readonly privateKib: number;
}

function holdingsOf(pid: number): Holdings {
  const read = (name: string): string => readFileSync(`/proc/${pid}/${name}`, "utf8");
  return {
    fds: readdirSync(`/proc/${pid}/fd`).length,
    memfdMappings: read("maps").split("/memfd:").length - 1,
    privateKib: Number(/^RssAnon:\s*(\d+)/m.exec(read("status"))?.[1]),
  };
}

/** Each for a VM that takes some pages, gives some back, and ends. */
async function comeAndGo({ client }: DaemonProcess, count: number): Promise<void> {
  let left = count;
  const some = async (): Promise<void> => {
    while (left-- > 0) {
      const { id, socketPath } = await client.createSession({ memory });
      await runVmm(socketPath, memory, "--touch", "random:40", "--balloon");
      const look = async () => (await client.session(id)).end;
      assert.equal((await waitFor("the session has ended", look, BUDGET_MS)).reason, "exited");
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, some));
}

describe("sessions that come and go", requires("userfaultfd", "cc"), () => {
  test(`leave nothing behind (${SESSIONS})`, async (t) => {
    await using daemon = await DaemonProcess.start(folder, ["--no-standby", "--log", "info"], {
      environment: { NODE_OPTIONS: HEAP },
    });
    const processes = { supervisor: daemon.pid, pager: daemon.pager };
    await comeAndGo(daemon, BEFORE);
    const before = Object.values(processes).map(holdingsOf);
    for (let part = 0; part < PARTS; part++) {
      await comeAndGo(daemon, Math.ceil(SESSIONS / PARTS));
      t.diagnostic(`the pager: ${JSON.stringify(holdingsOf(processes.pager))}`);
    }
    for (const [index, [name, pid]] of Object.entries(processes).entries()) {
      const then = before[index]!;
      // Requests to the daemon have connections that close a moment later.
      await waitFor(
        `the ${name} holds no more than ${then.fds} descriptors`,
        () => holdingsOf(pid).fds <= then.fds,
        BUDGET_MS,
      );
      const now = holdingsOf(pid);
      t.diagnostic(`${name}: ${JSON.stringify(then)}, then ${JSON.stringify(now)}`);
      assert.ok(now.memfdMappings <= then.memfdMappings, `the ${name} has more memfds mapped`);
      assert.ok(now.privateKib < then.privateKib + SPARE_KIB, `the ${name} has grown`);
    }
    assert.deepEqual(readdirSync(`${daemon.runFolder}/sessions`), []);
    // What the next pager is handed: itself and what it keeps, and nothing of sessions.
    const { descriptors, entries } = await daemon.logged("The pager serves");
    await daemon.killPager();
    const next = await daemon.logged("Another pager serves");
    assert.ok(Number(next.entries) <= Number(entries) + 2, `${next.entries} entries are kept`);
    assert.ok(Number(next.descriptors) <= Number(descriptors) + 3);
  });
});
