/** What the daemon's supervisor keeps while its pagers die, hang, lie and are replaced. */
import assert from "node:assert/strict";
import { readFileSync, statSync } from "node:fs";
import { createConnection } from "node:net";
import { describe, test } from "node:test";
import { waitFor } from "../../src/kit/wait.ts";
import { processTimes } from "../../src/linux/process.ts";
import { Random } from "../../src/sim/random.ts";
import type { SeenEntry } from "../support/scripted-pager.ts";
import { RunFolder, SupervisorProcess } from "../support/supervisor-process.ts";

const SEED = Number(process.env.FAULTLINE_SUPERVISOR_SEED ?? 1);
const KILLS = Number(process.env.FAULTLINE_SUPERVISOR_KILLS ?? 50);

/** What a journal of `churn` says must be kept: by name, one thing or the other. */
function expectedEntries(
  journal: string,
  before: ReadonlyMap<string, readonly string[]>,
): Map<string, (readonly string[] | null)[]> {
  const expected = new Map<string, (readonly string[] | null)[]>();
  for (const [name, contents] of before) expected.set(name, [contents]);
  const lines = journal.split("\n").slice(0, -1);
  for (const [index, line] of lines.entries()) {
    const step = JSON.parse(line) as { name: string; contents: string[] | null } | "done";
    if (step === "done") continue;
    const isDone = lines[index + 1] === '"done"';
    const earlier = isDone ? [] : (expected.get(step.name) ?? [null]);
    expected.set(step.name, [...earlier, step.contents]);
  }
  return expected;
}

function assertKept(
  inherited: ReadonlyMap<string, readonly string[]>,
  expected: ReadonlyMap<string, (readonly string[] | null)[]>,
): void {
  for (const [name, allowed] of expected) {
    const there = JSON.stringify(inherited.get(name) ?? null);
    const isRight = allowed.some((contents) => JSON.stringify(contents) === there);
    assert.ok(isRight, `${name} is ${there}, and must be one of ${JSON.stringify(allowed)}`);
  }
  for (const name of inherited.keys()) assert.ok(expected.has(name), `${name} came from nowhere`);
}

async function greet(path: string, text: string): Promise<void> {
  const socket = createConnection(path);
  await new Promise((resolve, reject) => {
    // For good: when all is told, the end of who has not read it may still reset the connection.
    socket.on("error", reject);
    socket.end(text, () => resolve(null));
  });
}

describe("entries", () => {
  test(`outlive ${KILLS} pagers killed at random moments, seed ${SEED}`, async (t) => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder);
    const random = new Random(SEED);
    let inherited: ReadonlyMap<string, readonly string[]> = new Map();
    for (let round = 0; round < KILLS; round++) {
      const pid = await supervisor.serving(round + 1);
      assertKept(
        await supervisor.inherited(pid),
        new Map([...inherited].map(([n, c]) => [n, [c]])),
      );
      const journal = folder.file(`journal-${round}`);
      await supervisor.tell(pid, { do: "churn", seed: random.below(2 ** 30), journal });
      const bytes = random.between(1, 60_000);
      await waitFor("it has churned", () => statSync(journal).size >= bytes, 20_000);
      // One that stands still learns of the death and of what was said before it at once.
      const isStill = random.chance(0.3);
      if (isStill) supervisor.kill("SIGSTOP");
      process.kill(pid, "SIGKILL");
      if (isStill) await waitFor("it is dead", () => processTimes(pid) === null, 20_000);
      supervisor.kill("SIGCONT");
      const next = await supervisor.serving(round + 2);
      const after = await supervisor.inherited(next);
      assertKept(after, expectedEntries(readFileSync(journal, "utf8"), inherited));
      inherited = after;
    }
    const stalls = supervisor.lines("Another pager serves").map(({ stallMs }) => Number(stallMs));
    stalls.sort((a, b) => a - b);
    const at = (share: number) => stalls[Math.floor((stalls.length - 1) * share)];
    t.diagnostic(`takeover: p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, longest ${at(1)} ms`);
  });

  test("come in batches, all of them", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder);
    const first = await supervisor.serving(1);
    const contents = ["1", "2", "3", "4", "5", "6", "7"];
    for (let index = 0; index < 60; index++) {
      await supervisor.tell(first, { do: "keep", name: `many.${index}`, contents });
    }
    process.kill(first, "SIGKILL");
    const inherited = await supervisor.inherited(await supervisor.serving(2));
    assert.equal(inherited.size, 60);
    for (const seen of inherited.values()) assert.deepEqual(seen, contents);
  });

  test("leave no descriptor behind", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder);
    const pid = await supervisor.serving(1);
    await supervisor.tell(pid, { do: "cycle", count: 10 });
    await waitFor("a standby is there", () => supervisor.pagers.length === 2, 20_000);
    const before = supervisor.fdCount;
    await supervisor.tell(pid, { do: "cycle", count: 1000 });
    await waitFor("all are closed", () => supervisor.fdCount <= before, 10_000);
    process.kill(pid, "SIGKILL");
    await supervisor.serving(2);
    await waitFor("a standby is there", () => supervisor.pagers.length === 2, 20_000);
    await waitFor("all are closed", () => supervisor.fdCount <= before, 10_000);
  });

  test("have bounds, which a pager is told of, and survives", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder, { maxFds: 200, hasStandby: false });
    const pid = await supervisor.serving(1);
    const fill = { do: "fill", fdsEach: 8 } as const;
    const filled = await supervisor.tell<{ count: number; reason: string }>(pid, fill);
    assert.equal(filled.count, (200 - 64) / 8);
    assert.match(filled.reason, /^limit: .*RLIMIT_NOFILE/);
    process.kill(pid, "SIGKILL");
    const inherited = await supervisor.inherited(await supervisor.serving(2));
    assert.equal(inherited.size, filled.count);
  });
});

describe("connections", () => {
  test("are kept before the pager hears of them, one until it asks again", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder);
    const path = folder.file("vm.sock");
    const first = await supervisor.serving(1);
    await supervisor.tell(first, { do: "listen", name: "s.listener", path });
    const accept = { do: "accept", listener: "s.listener" } as const;
    await supervisor.tell(first, { ...accept, connection: "s.1" });
    await greet(path, "one");
    await greet(path, "two");
    const accepted = (pid: number) => supervisor.tell<SeenEntry[]>(pid, { do: "accepted" });
    const one = { name: "s.1", contents: ["one"] };
    await waitFor("it heard of it", async () => (await accepted(first)).length > 0, 10_000);
    assert.deepEqual(await accepted(first), [one]);
    await supervisor.tell(first, { ...accept, connection: "s.2" });
    await waitFor("it heard of it", async () => (await accepted(first)).length > 1, 10_000);
    assert.deepEqual(await accepted(first), [one, { name: "s.2", contents: ["two"] }]);
    process.kill(first, "SIGKILL");
    const inherited = await supervisor.inherited(await supervisor.serving(2));
    assert.deepEqual([...inherited.keys()], ["s.listener", "s.1", "s.2"]);
  });

  test("that come while no pager lives are there for the next", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder, { hasStandby: false });
    const path = folder.file("vm.sock");
    const first = await supervisor.serving(1);
    await supervisor.tell(first, { do: "listen", name: "s.listener", path });
    await supervisor.tell(first, { do: "accept", listener: "s.listener", connection: "s.asked" });
    folder.script({ exitAtStart: 9 });
    process.kill(first, "SIGKILL");
    await supervisor.logged("Pagers do not come up");
    await greet(path, "asked for");
    await greet(path, "in the backlog");
    folder.script({});
    const second = await supervisor.serving(2);
    const inherited = await supervisor.inherited(second);
    assert.deepEqual(inherited.get("s.asked"), ["asked for"]);
    await supervisor.tell(second, { do: "accept", listener: "s.listener", connection: "s.next" });
    const accepted = () => supervisor.tell<SeenEntry[]>(second, { do: "accepted" });
    await waitFor("it heard of it", async () => (await accepted()).length > 0, 10_000);
    assert.deepEqual(await accepted(), [{ name: "s.next", contents: ["in the backlog"] }]);
  });

  test("more than fit into the channel are told when there is room", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder);
    const pid = await supervisor.serving(1);
    const paths = Array.from({ length: 400 }, (_, index) => folder.file(`${index}.sock`));
    for (const [index, path] of paths.entries()) {
      await supervisor.tell(pid, { do: "listen", name: `${index}.listener`, path });
      const [listener, connection] = [`${index}.listener`, `${index}.connection`];
      await supervisor.tell(pid, { do: "accept", listener, connection });
    }
    process.kill(pid, "SIGSTOP");
    try {
      const before = supervisor.fdCount;
      for (const path of paths) await greet(path, path);
      await waitFor("all are kept", () => supervisor.fdCount >= before + paths.length, 20_000);
    } finally {
      process.kill(pid, "SIGCONT");
    }
    const accepted = () => supervisor.tell<SeenEntry[]>(pid, { do: "accepted" });
    const isTold = async () => (await accepted()).length === paths.length;
    await waitFor("it heard of all", isTold, 20_000);
    assert.deepEqual((await accepted()).flatMap(({ contents }) => contents).sort(), paths.sort());
  });

  test("of which a pager has not read when it dies are not lost", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder);
    const path = folder.file("vm.sock");
    const pid = await supervisor.serving(1);
    await supervisor.tell(pid, { do: "listen", name: "s.listener", path });
    await supervisor.tell(pid, { do: "accept", listener: "s.listener", connection: "s.1" });
    await supervisor.logged("A pager stands by", 2);
    const before = supervisor.fdCount;
    process.kill(pid, "SIGSTOP");
    await greet(path, "one");
    await waitFor("it is kept", () => supervisor.fdCount > before, 10_000);
    // The kernel tells the supervisor that what it said was not read: ECONNRESET.
    process.kill(pid, "SIGKILL");
    const inherited = await supervisor.inherited(await supervisor.serving(2));
    assert.deepEqual(inherited.get("s.1"), ["one"]);
    assert.deepEqual(supervisor.lines("A pager said something wrong"), []);
  });

  test("of a listener that was dropped are nobody's", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder);
    const path = folder.file("vm.sock");
    const pid = await supervisor.serving(1);
    await supervisor.tell(pid, { do: "listen", name: "s.listener", path });
    await supervisor.tell(pid, { do: "accept", listener: "s.listener", connection: "s.1" });
    await supervisor.tell(pid, { do: "drop", name: "s.listener" });
    process.kill(pid, "SIGKILL");
    assert.deepEqual([...(await supervisor.inherited(await supervisor.serving(2)))], []);
  });
});

describe("a pager", () => {
  test("that is silent is killed, and another serves", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder, { watchdogMs: 5000 });
    const pid = await supervisor.serving(1);
    await supervisor.tell(pid, { do: "keep", name: "one", contents: ["1"] });
    void supervisor.tell(pid, { do: "hang" }).catch(() => undefined);
    const next = await supervisor.serving(2);
    assert.match(String((await supervisor.logged("A pager ended")).killedFor), /^silent for/);
    assert.deepEqual([...(await supervisor.inherited(next))], [["one", ["1"]]]);
  });

  for (const packet of [
    "{",
    "[]",
    '{"type":"keep","name":"a/b"}',
    '{"type":"keep","name":"a"}',
    '{"type":"next"}',
    '{"type":"standingBy"}',
    '{"type":"finished"}',
    '{"type":"accept","listener":"none","connection":"c"}',
  ]) {
    test(`that says ${packet} is killed, and another serves`, async () => {
      using folder = new RunFolder();
      await using supervisor = new SupervisorProcess(folder, { hasStandby: false });
      const pid = await supervisor.serving(1);
      await supervisor.tell(pid, { do: "keep", name: "one", contents: ["1"] });
      await supervisor.tell(pid, { do: "lie", packet });
      assert.equal((await supervisor.logged("A pager said something wrong")).pid, pid);
      assert.equal((await supervisor.inherited(await supervisor.serving(2))).size, 1);
    });
  }

  test("that exits, with whatever code, is replaced", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder);
    const pid = await supervisor.serving(1);
    await supervisor.tell(pid, { do: "exit", code: 0 });
    await supervisor.serving(2);
    assert.equal((await supervisor.logged("A pager ended")).code, 0);
  });

  test("that never serves is tried again, after growing pauses", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder, { hasStandby: false });
    const first = await supervisor.serving(1);
    await supervisor.tell(first, { do: "keep", name: "one", contents: ["1"] });
    folder.script({ killedBeforeServing: true });
    process.kill(first, "SIGKILL");
    await supervisor.logged("Pagers do not come up", 3);
    const pauses = supervisor.lines("Pagers do not come up").map(({ pauseMs }) => pauseMs);
    assert.deepEqual(pauses.slice(0, 3), [100, 200, 400]);
    folder.script({});
    assert.equal((await supervisor.inherited(await supervisor.serving(2))).size, 1);
  });

  test("that does not come up in time is killed", async () => {
    using folder = new RunFolder();
    folder.script({ hangsAtStart: true });
    await using supervisor = new SupervisorProcess(folder, {
      startTimeoutMs: 500,
    });
    assert.match(String((await supervisor.logged("A pager ended")).killedFor), /^silent for/);
    folder.script({});
    await supervisor.serving(1);
  });

  for (const [moment, script] of [
    ["stands by", { exitAtStart: 3 }],
    ["serves", { exitBeforeServing: 3 }],
  ] as const) {
    test(`that is the first, and exits before it ${moment}, ends the daemon`, async () => {
      using folder = new RunFolder();
      folder.script(script);
      await using supervisor = new SupervisorProcess(folder);
      assert.equal(await supervisor.ended(), 3);
    });
  }
});

describe("a standby", () => {
  test("that dies is replaced, and the pager serves on", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder);
    const pid = await supervisor.serving(1);
    const standby = () => supervisor.pagers.find((other) => other !== pid);
    const first = await waitFor("a standby is there", standby, 20_000);
    process.kill(first, "SIGKILL");
    assert.equal((await supervisor.logged("A pager ended")).pid, first);
    await waitFor("another is there", standby, 20_000);
    assert.deepEqual(supervisor.served, [pid]);
  });
});

describe("a standby, when it hangs,", () => {
  test("is killed before it is needed", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder, { watchdogMs: 5000 });
    const pid = await supervisor.serving(1);
    const standby = Number((await supervisor.logged("A pager stands by", 2)).pid);
    process.kill(standby, "SIGSTOP");
    const ended = await supervisor.logged("A pager ended");
    assert.equal(ended.pid, standby);
    assert.match(String(ended.killedFor), /^silent for/);
    await supervisor.logged("A pager stands by", 3);
    assert.deepEqual(supervisor.served, [pid]);
  });
});

describe("a reload", () => {
  test("replaces the pager, asked for by itself or by SIGHUP", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder);
    const first = await supervisor.serving(1);
    await supervisor.tell(first, { do: "keep", name: "one", contents: ["1"] });
    assert.equal(await supervisor.tell(first, { do: "reload" }), null);
    const second = await supervisor.serving(2);
    assert.equal((await supervisor.inherited(second)).size, 1);
    supervisor.kill("SIGHUP");
    const third = await supervisor.serving(3);
    assert.equal((await supervisor.inherited(third)).size, 1);
    assert.equal(new Set([first, second, third]).size, 3);
    await waitFor("only two are left", () => supervisor.pagers.length === 2, 20_000);
  });

  test("with a new pager that fails changes nothing, and says why", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder);
    const first = await supervisor.serving(1);
    await supervisor.logged("A pager stands by", 2);
    const pagers = supervisor.pagers;
    folder.script({ exitAtStart: 7 });
    const reason = await supervisor.tell<string>(first, { do: "reload" });
    assert.match(reason, /^conflict: .*exit code 7/);
    assert.deepEqual(supervisor.pagers, pagers);
    assert.deepEqual(supervisor.served, [first]);
  });
});
