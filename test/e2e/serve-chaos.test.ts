/**
 * VMs restored through a network that fails in every way at once: errors, answers cut short,
 * flipped bits, requests that hang. By a seed; another one with FAULTLINE_STORE_SEEDS=7,8.
 */
import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { Random } from "../../src/sim/random.ts";
import { FaultyProxy, type ProxyOptions } from "../support/faulty-proxy.ts";
import { ImageStage, writeMemory } from "../support/image-stage.ts";
import { Nginx } from "../support/nginx.ts";
import { requires } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { runVmm, Vmm } from "../support/vmm-process.ts";

const SEEDS = (process.env.FAULTLINE_STORE_SEEDS ?? "1").split(",").map(Number);
const PAGE_COUNT = 8192;
const VMS = 4;
const ROUNDS = 6;
const shares: ProxyOptions["shares"] = {
  error: 0.1,
  slowDown: 0.1,
  cut: 0.05,
  flip: 0.05,
  hang: 0.02,
};
/** Of the index and its companion no request hangs: theirs may take a minute. */
const opening = ["flip", "none", "flip", "cut", "none", "none"] as const;

describe("a network with all faults at once", requires("userfaultfd", "cc", "nginx"), () => {
  for (const seed of SEEDS) {
    for (const cacheFlags of [[], ["--cache-dir"]]) {
      const kept = cacheFlags.length > 0 ? ", chunks kept on disk" : "";
      test(`every page of every VM is right (seed ${seed}${kept})`, async (t) => {
        using stage = new ImageStage();
        await using nginx = await Nginx.start();
        const memory = stage.path("memory");
        writeMemory(memory, PAGE_COUNT, seed);
        stage.json("pack", memory, "--name", "web", "--chunk-size", "64K");
        cpSync(stage.store, `${nginx.path}/images`, { recursive: true });
        await using proxy = await FaultyProxy.start(nginx.port, { seed, shares });
        proxy.script.push(...opening);
        const image = `http://127.0.0.1:${proxy.port}/images/web`;
        const socket = stage.path("socket");
        await using handler = await ServeProcess.start([
          ...["--memory", image, "--socket", socket, "--cache-size", "4"],
          ...cacheFlags.flatMap((flag) => [flag, stage.path("near")]),
        ]);
        const touched = ["--threads", 3, "--balloon"];
        const vms = Array.from({ length: VMS }, () => runVmm(socket, memory, ...touched));
        await Promise.all(vms);
        await handler.logged("Detached a VM", VMS);
        const { none, ...met } = proxy.counts;
        t.diagnostic(`${none} requests went well; ${JSON.stringify(met)}`);
        for (const fault of ["error", "slowDown", "cut", "flip"] as const) {
          assert.ok(met[fault] > 0, `no ${fault} happened`);
        }
        assert.ok(handler.lines("A chunk is damaged").length > 0);
        assert.equal(handler.lines("A VM could not be served on").length, 0);
      });
    }
  }
});

describe("a cache folder", requires("userfaultfd", "cc", "nginx"), () => {
  test("holds whole chunks only, whenever its servers were killed, one or two", async () => {
    using stage = new ImageStage();
    await using nginx = await Nginx.start();
    const memory = stage.path("memory");
    writeMemory(memory, PAGE_COUNT, 3);
    stage.json("pack", memory, "--name", "web", "--chunk-size", "64K");
    cpSync(stage.store, `${nginx.path}/images`, { recursive: true });
    const start = async (socket: string) =>
      await ServeProcess.start([
        ...["--memory", `${nginx.location}/web`, "--socket", stage.path(socket)],
        ...["--cache-dir", stage.path("near")],
      ]);
    const random = new Random(3);
    for (let round = 0; round < ROUNDS; round++) {
      await using one = await start("one");
      await using two = await start("two");
      await using vm = new Vmm(stage.path("one"), memory, ["--threads", 3]);
      await using other = new Vmm(stage.path("two"), memory, ["--threads", 3]);
      await Promise.race([delay(random.below(150)), vm.exited, other.exited]);
      for (const handler of [one, two]) handler.kill("SIGKILL");
    }
    await using last = await start("one");
    await runVmm(stage.path("one"), memory);
    assert.equal(last.lines("A chunk is damaged").length, 0);
  });
});
