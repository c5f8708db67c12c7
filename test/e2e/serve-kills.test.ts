/**
 * VMMs killed at random moments: before the handshake, in it, between faults, in the middle of a
 * madvise or of a copy. Nothing of them stays, and nobody else notices.
 * `FAULTLINE_KILLS_SEED=N FAULTLINE_KILLS_COUNT=N` repeat a run and make it longer.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { ExitCode } from "../../src/base/errors.ts";
import { CPeer } from "../support/c-peer.ts";
import { Random, TestFolder, writeFull } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { runVmm } from "../support/vmm-process.ts";

const SEED = Number(process.env.FAULTLINE_KILLS_SEED ?? 20_261_123);
const COUNT = Number(process.env.FAULTLINE_KILLS_COUNT ?? 60);
/** At the same time. */
const BATCH = 6;
/** 16 MiB: reading all of it takes longer than most of these VMs live. */
const PAGE_COUNT = 4096;
const LONGEST_LIFE_MS = 60;
const END_BUDGET_MS = 10_000;

/** What a VM is doing when it is killed: program and arguments after socket and memory file. */
type Victim = readonly [program: string, ...args: (string | number)[]];

const victims: readonly ((random: Random) => Victim)[] = [
  /** Faults on neighbouring pages, so that copies merge and are long. */
  (random) => ["vmm", "--threads", 1 + random.below(8)],
  (random) => ["vmm", "--touch", "stride:3", "--threads", 2, "--regions", 1 + random.below(9)],
  (random) => ["vmm", "--balloon", "--touch", "random:2000", "--threads", 1 + random.below(4)],
  /** Half a handshake, and the rest 20 ms later. */
  (random) => ["vmm", "--split-json", 1 + random.below(40), "--threads", 4],
  (random) => ["flood", 0, 1 + random.below(8), random.next()],
  (random) => ["churn", 600_000, 1 + random.below(6), random.next()],
];

test(
  `${COUNT} VMMs killed at random moments (seed ${SEED})`,
  requires("userfaultfd", "cc"),
  async () => {
    const random = new Random(SEED);
    using folder = new TestFolder();
    const memory = folder.at("memory");
    const socket = folder.at("socket");
    writeFull(memory, PAGE_COUNT);
    await using serve = await ServeProcess.start(["--memory", memory, "--socket", socket]);
    await runVmm(socket, memory);
    const fds = serve.fdCount;
    const run = async ([program, ...args]: Victim, lifeMs: number): Promise<void> => {
      await using vm = new CPeer(program, [socket, memory, ...args]);
      await delay(lifeMs);
      vm.kill();
      const { code, signal } = await vm.exited;
      // One that was through before is right as well, but a wrong page or a failed call is not.
      assert.ok(signal === "SIGKILL" || code === 0, `${program} ${args.join(" ")}: ${vm.errors}`);
    };
    for (let done = 0; done < COUNT; done += BATCH) {
      const batch = Array.from({ length: Math.min(BATCH, COUNT - done) }, () =>
        run(random.pick(victims)(random), random.below(LONGEST_LIFE_MS)),
      );
      await Promise.all(batch);
    }
    await serve.fdsBackTo(fds);
    await runVmm(socket, memory, "--threads", 4);
    serve.kill("SIGTERM");
    const clean = { code: ExitCode.ok, signal: null };
    assert.deepEqual(await serve.ended(END_BUDGET_MS), clean);
    const attached = serve.lines("Attached a VM").length;
    assert.equal(serve.lines("Detached a VM").length, attached);
    assert.ok(attached > COUNT / 4, "hardly any came as far as that");
    assert.ok(attached + serve.refusals <= COUNT + 2);
    const errors = serve.log.filter(({ level }) => level === "error");
    assert.deepEqual(errors, [], "nobody who was killed by others is a failure of ours");
    assert.equal(serve.errors, "");
  },
);
